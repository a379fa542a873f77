"""As test_other_values.py, for the losses of the comparison methods."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import Json, assert_verified, draw_views, facts, input_check, leaves
from torch import Tensor


def gradients(loss: Tensor, raw: list[Tensor], name: str = "view") -> Json:
    loss.backward()
    reached = [torch.zeros_like(each) if each.grad is None else each.grad for each in raw]
    return {f"grad_{name}_{place}": facts(each) for place, each in enumerate(reached)}


def case(recipe: str, seed: int, views: list[np.ndarray], params: Json, outputs: Json) -> Json:
    n, d = views[0].shape
    return {
        "name": f"other {recipe}",
        "recipe": recipe,
        "seed": seed,
        "N": n,
        "d": d,
        "params": params,
        "input_check": input_check(**{f"view_{v}": view for v, view in enumerate(views)}),
        "outputs": outputs,
    }


def unit(z: Tensor) -> Tensor:
    return z / (z * z).sum(1, keepdim=True).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (unit(a) * unit(b)).sum(1).mean()


@pytest.mark.parametrize(("n", "d"), [(5, 2), (30, 40)])
def test_simsiam(n: int, d: int, tmp_path: Path) -> None:
    views = draw_views(np.random.default_rng(8001), n, d, 4)
    p1, p2, z1, z2 = leaves(*views)
    loss = -(cosine(p1, z2.detach()) + cosine(p2, z1.detach())) / 2
    found = {"loss": loss.item(), **gradients(loss, [p1, p2])}
    assert_verified("simsiam", [case("views", 8001, views, {}, found)], tmp_path)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("count", [2, 4])
def test_byol(count: int, norm: bool, tmp_path: Path) -> None:
    views = draw_views(np.random.default_rng(8100), 9, 4, 2 * count)
    raw = leaves(*views)
    predictions, targets = raw[:count], [each.detach() for each in raw[count:]]

    def error(p: Tensor, t: Tensor) -> Tensor:
        return 2 - 2 * cosine(p, t) if norm else ((p - t) ** 2).mean()

    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    loss = sum(
        error(predictions[i], targets[j]) + error(predictions[j], targets[i]) for i, j in pairs
    ) / len(pairs)
    found = {"loss": loss.item(), **gradients(loss, predictions, "prediction")}
    params = {"norm": norm, "views": count}
    assert_verified("byol", [case("byol", 8100, views, params, found)], tmp_path)


def test_byol_target(tmp_path: Path) -> None:
    draws = np.random.default_rng(8200)
    online = [draws.standard_normal((2, 5)) for _ in range(4)]
    target = draws.standard_normal((2, 5))
    check = input_check(target0=target, last_online=online[-1])
    progress = [0.9, 0.1, 0.1, 1.0]
    tau = [1 - (1 - 0.8) * (math.cos(math.pi * share) + 1) / 2 for share in progress]
    after = []
    for share, value in zip(tau, online, strict=True):
        target = share * target + (1 - share) * value
        after.append(facts(target))
    written = {
        "name": "other target",
        "recipe": "byol_target",
        "seed": 8200,
        "N": 2,
        "d": 5,
        "params": {"byol_tau": 0.8, "steps": 4, "progress": progress},
        "input_check": check,
        "outputs": {"tau": tau, "target_after_each_step": after},
    }
    assert_verified("byol", [written], tmp_path)


@pytest.mark.parametrize(("n", "d", "scale"), [(7, 3, 2.5), (20, 33, 0.1)])
def test_vicreg(n: int, d: int, scale: float, tmp_path: Path) -> None:
    views = [scale * view for view in draw_views(np.random.default_rng(8300), n, d, 2)]
    a, b = raw = leaves(*views)
    invariance = ((a - b) ** 2).mean()
    variance, covariance = torch.zeros(()), torch.zeros(())
    for z in raw:
        centred = z - z.mean(0)
        matrix = centred.T @ centred / (n - 1)
        deviations = (matrix.diagonal() + 1e-4).sqrt()
        variance = variance + torch.relu(1 - deviations).mean() / 2
        covariance = covariance + ((matrix * (1 - torch.eye(d))) ** 2).sum() / d
    params = {"sim_coeff": 3.0, "std_coeff": 7.0, "cov_coeff": 2.0, "scale": scale}
    loss = 3 * invariance + 7 * variance + 2 * covariance
    found = {
        "loss": loss.item(),
        "invariance": invariance.item(),
        "variance": variance.item(),
        "covariance": covariance.item(),
        **gradients(loss, raw),
    }
    assert_verified("vicreg", [case("views", 8300, views, params, found)], tmp_path)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("n", "size", "rounds", "count"), [(24, 8, 3, 2), (12, 12, 2, 3)])
def test_wmse(n: int, size: int, rounds: int, count: int, norm: bool, tmp_path: Path) -> None:
    d, eps = 4, 0.03
    draws = np.random.default_rng(8400)
    views = draw_views(draws, n, d, count)
    orders = [draws.permutation(n) for _ in range(rounds)]
    raw = leaves(*views)

    def whitened(z: Tensor, order: np.ndarray) -> Tensor:
        found = torch.zeros_like(z)
        for start in range(0, n, size):
            rows = order[start : start + size]
            centred = z[rows] - z[rows].mean(0)
            shrunk = (1 - eps) * centred.T @ centred / (size - 1) + eps * torch.eye(
                d, dtype=z.dtype
            )
            found[rows] = centred @ torch.linalg.inv(torch.linalg.cholesky(shrunk)).T
        return found

    losses = []
    for order in orders:
        white = [whitened(z, order) for z in raw]
        for i in range(count):
            for j in range(i + 1, count):
                error = ((white[i] - white[j]) ** 2).mean()
                losses.append(2 - 2 * cosine(white[i], white[j]) if norm else error)
    loss = torch.stack(losses).mean()
    found = {
        f"whitened_view_{v}_first_iteration": facts(whitened(z, orders[0]))
        for v, z in enumerate(raw)
    }
    found |= {"loss": loss.item(), **gradients(loss, raw)}
    params = {"w_size": size, "w_eps": eps, "w_iter": rounds, "norm": norm, "views": count}
    written = case("wmse", 8400, views, params, found)
    written["input_check"] |= input_check(perm=np.concatenate(orders))
    assert_verified("wmse", [written], tmp_path)


@pytest.mark.parametrize(("n", "queued", "steps"), [(4, 12, 5), (6, 6, 3)])
def test_moco(n: int, queued: int, steps: int, tmp_path: Path) -> None:
    d, dim, temperature, momentum = 5, 3, 0.3, 0.6
    draws = np.random.default_rng(8500)
    views = draw_views(draws, n, d, 2 * steps)
    query, key = (draws.standard_normal((dim, d)) for _ in "qk")
    raw_queue = draws.standard_normal((dim, queued))
    check = input_check(Wq=query, Wk=key, queue_raw=raw_queue)
    queue = raw_queue / np.sqrt((raw_queue**2).sum(0))
    pointer, found = 0, []
    for step in range(steps):
        key = momentum * key + (1 - momentum) * query
        (weight,) = leaves(query)
        q = unit(torch.tensor(views[2 * step]) @ weight.T)
        k = unit(torch.tensor(views[2 * step + 1]) @ torch.tensor(key).T)
        positive = (q * k).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ torch.tensor(queue)], dim=1) / temperature
        loss = (logits.exp().sum(1).log() - logits[:, 0]).mean()
        loss.backward()
        for row in range(n):
            queue[:, (pointer + row) % queued] = k[row].numpy()
        pointer = (pointer + n) % queued
        found.append(
            {
                "loss": loss.item(),
                "logits": facts(logits),
                "first_row_logits_first8": logits[0, :8].tolist(),
                "queue_pointer_after": pointer,
                "queue_after": facts(queue),
                "key_weight_after": facts(key),
                "grad_query_weight": facts(weight.grad),
            }
        )
    params = {"dim": dim, "K": queued, "T": temperature, "m": momentum, "steps": steps}
    written = case("moco", 8500, views, params, {"steps": found})
    written["input_check"] |= check
    assert_verified("moco", [written], tmp_path)


@pytest.mark.parametrize(
    ("crops", "assigned", "queued"),
    [([2, 1], [0, 1], 0), ([3], [0, 1, 2], 0), ([2], [1], 0), ([2], [0, 1], 15), ([2, 2], [0], 5)],
)
def test_swav(crops: list[int], assigned: list[int], queued: int, tmp_path: Path) -> None:
    n, d, count, temperature, epsilon, rounds = 5, 6, 7, 0.2, 0.08, 4
    draws = np.random.default_rng(8600)
    views = draw_views(draws, n, d, sum(crops))
    drawn = draws.standard_normal((count, d))
    check = input_check(prototypes=drawn)
    queue = np.zeros((len(assigned), 0, d))
    if queued:
        raw_queue = draws.standard_normal((2, queued, d))
        check |= input_check(queue_raw=raw_queue)
        queue = raw_queue / np.sqrt((raw_queue**2).sum(2, keepdims=True))
    raw = leaves(*views)
    (prototypes,) = leaves(drawn / np.sqrt((drawn**2).sum(1, keepdims=True)))
    scores = [unit(view) @ prototypes.T for view in raw]
    found: Json = {"prototypes_after_normalisation": facts(prototypes)}
    losses = []
    for place, crop in enumerate(assigned):
        before = torch.tensor(queue[place]) @ prototypes.detach().T
        whole = torch.cat([before, scores[crop].detach()])
        share = (whole / epsilon).exp()
        share = share / share.sum()
        for _ in range(rounds):
            share = share / share.sum(0, keepdim=True) / count
            share = share / share.sum(1, keepdim=True) / len(whole)
        assignment = (share * len(whole))[-n:]
        found[f"scores_{crop}"] = facts(whole)
        found[f"assignment_{crop}"] = facts(assignment)
        for other in range(sum(crops)):
            if other != crop:
                logits = scores[other] / temperature
                likelihood = logits - logits.exp().sum(1, keepdim=True).log()
                losses.append(-(assignment * likelihood).sum(1).mean())
        if queued:
            newest = [unit(raw[crop]).detach().numpy(), queue[place]]
            queue[place] = np.concatenate(newest)[:queued]
    loss = torch.stack(losses).mean()
    found |= {"loss": loss.item(), **gradients(loss, raw)}
    found["grad_prototypes"] = facts(prototypes.grad)
    if queued:
        found["queue_after"] = facts(queue)
    params = {
        "prototypes": count,
        "temperature": temperature,
        "epsilon": epsilon,
        "sinkhorn_iterations": rounds,
        "nmb_crops": crops,
        "crops_for_assign": assigned,
        "queue_length": queued,
    }
    written = case("swav", 8600, views, params, found)
    written["input_check"] |= check
    assert_verified("swav", [written], tmp_path)


@pytest.mark.parametrize(
    ("variant", "extra"),
    [
        ("baseline", {}),
        ("only_invariance", {}),
        ("only_redundancy", {}),
        ("feature_normalisation", {"divide_by_N": False}),
        ("feature_normalisation", {"divide_by_N": True}),
        ("no_normalisation", {}),
        ("cross_entropy_temperature", {"tau": 0.4}),
    ],
)
def test_bt_variants(variant: str, extra: Json, tmp_path: Path) -> None:
    n, d, weight = 11, 6, 0.3
    views = draw_views(np.random.default_rng(8700), n, d, 2)

    def prepared(view: np.ndarray) -> Any:
        centred = view - view.mean(0)
        if variant == "feature_normalisation":
            scaled = centred / np.sqrt((centred**2).mean(0))
            scaled = scaled / np.sqrt((scaled**2).sum(1, keepdims=True))
            return scaled / math.sqrt(n) if extra["divide_by_N"] else scaled
        if variant == "no_normalisation":
            return centred / math.sqrt(n)
        return centred / np.sqrt((centred**2).sum(0))

    c = prepared(views[0]).T @ prepared(views[1])
    off = c[~np.eye(d, dtype=bool)]
    on_sum, off_sum = float(((np.diag(c) - 1) ** 2).sum()), float((off**2).sum())
    losses = {"only_invariance": on_sum, "only_redundancy": weight * off_sum}
    if variant == "cross_entropy_temperature":
        tau = extra["tau"]
        attraction = math.log(np.exp(np.diag(c) / tau).sum())
        losses[variant] = weight * math.log(np.exp(off.clip(0) / tau).sum()) - attraction
    found = {
        "matrix_sum": float(c.sum()),
        "matrix_00": float(c[0, 0]),
        "matrix_01": float(c[0, 1]),
        "on_diagonal_sum": on_sum,
        "off_diagonal_sum": off_sum,
        "loss": losses.get(variant, on_sum + weight * off_sum),
    }
    params = {"variant": variant, "lambda": weight, **extra}
    assert_verified("bt_variants", [case("views", 8700, views, params, found)], tmp_path)
