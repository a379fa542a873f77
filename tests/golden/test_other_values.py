"""`verify` on files that it has not seen, written here from the formulas by other means.

Losses are spelled out term by term in float64 (six d x d products for the mixing term, loops over
pairs for NT-Xent, one process a rank), schedules step by step, neighbours by sorting everything.
"""

import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import Json, assert_verified, draw_views, facts, input_check, leaves
from torch import Tensor


def standardised(z: Tensor) -> Tensor:
    centred = z - z.sum(0) / len(z)
    return centred / ((centred**2).sum(0) / (len(z) - 1)).sqrt()


def frobenius2(a: Tensor) -> Tensor:
    return (a * a).sum()


def twin_loss(c: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    eye = torch.eye(len(c), dtype=c.dtype)
    on, off = frobenius2((c - 1) * eye), frobenius2(c * (1 - eye))
    return on, off, on + weight * off


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("l2_normalise", [True, False])
@pytest.mark.parametrize(("n", "d"), [(3, 3), (17, 5), (40, 130)])
def test_mix_small_loss(n: int, d: int, l2_normalise: bool, mixed: bool, tmp_path: Path) -> None:
    alpha, bt, reg = 0.913, 0.0123, 2.7
    draws = np.random.default_rng(7001 + n)
    z1, z2 = draw_views(draws, n, d, 2)
    partner = draws.permutation(n)
    zm = alpha * z1 + (1 - alpha) * z2[partner] + 0.3 * draws.standard_normal((n, d))
    raw = leaves(z1, z2, zm)
    a, b, m = (
        standardised(z / (z**2).sum(1, keepdim=True).sqrt() if l2_normalise else z) for z in raw
    )
    on, off, loss_bt = twin_loss(a.T @ b / n, bt)
    loss_reg = torch.zeros(())
    found: Json = {}
    if mixed:
        target_a = alpha * a.T @ a / n + (1 - alpha) * b[partner].T @ a / n
        target_b = alpha * a.T @ b / n + (1 - alpha) * b[partner].T @ b / n
        with_a, with_b = frobenius2(m.T @ a / n - target_a), frobenius2(m.T @ b / n - target_b)
        loss_reg = reg * bt * (with_a + with_b)
        found = {"reg_frobenius2_A": with_a.item(), "reg_frobenius2_B": with_b.item()}
    loss = loss_bt + loss_reg
    loss.backward()
    names = ("z1", "z2", "zm") if mixed else ("z1", "z2")
    found |= {f"grad_{name}": facts(z.grad) for name, z in zip(names, raw, strict=False)}
    found |= {
        "on_diagonal_sum": on.item(),
        "off_diagonal_sum": off.item(),
        "loss_bt": loss_bt.item(),
        "loss_reg": loss_reg.item(),
        "loss": loss.item(),
    }
    params = {"alpha": alpha, "lambda_bt": bt, "lambda_reg": reg}
    case = {
        "name": "other",
        "recipe": "twin",
        "seed": 7001 + n,
        "N": n,
        "d": d,
        "params": params | {"mixed": mixed, "l2_normalise": l2_normalise},
        "input_check": input_check(z1=z1, z2=z2, zm=zm, perm=partner),
        "outputs": found,
    }
    assert_verified("mix_small_loss", [case], tmp_path)


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_mix_imagenet_on_ranks(ranks: int, mixed: bool, tmp_path: Path) -> None:
    """Each rank by itself: only values cross ranks, and each has its own loss to derive."""
    n, d, bt, scale = 24, 7, 0.0042, 1.7
    alphas = [0.1, 0.95, 0.4, 0.6][:ranks]
    draws = np.random.default_rng(7100)
    z1, z2 = draw_views(draws, n, d, 2)
    size = n // ranks
    local: list[list[Tensor]] = []
    partners, mixtures = [], []
    for rank in range(ranks):
        rows = slice(rank * size, (rank + 1) * size)
        arrays = [z1[rows], z2[rows]]
        if mixed:
            partners.append(draws.permutation(size))
            mixture = alphas[rank] * arrays[0] + (1 - alphas[rank]) * arrays[1][partners[rank]]
            mixtures.append(mixture + 0.3 * draws.standard_normal((size, d)))
            arrays.append(mixtures[rank])
        local.append(leaves(*arrays))

    def matrices(rank: int) -> list[Tensor]:
        a, b, *rest = (standardised(z) for z in local[rank])
        found = [a.T @ b / n]
        if mixed:
            (m,), alpha, shuffled = rest, alphas[rank], b[partners[rank]]
            found += [m.T @ a / n, (alpha * a.T @ a + (1 - alpha) * shuffled.T @ a) / n]
            found += [m.T @ b / n, (alpha * b.T @ b + (1 - alpha) * shuffled.T @ b) / n]
        return found

    every = [matrices(rank) for rank in range(ranks)]
    for own in every:
        summed = [
            sum(part.detach() for part in parts) + mine - mine.detach()
            for mine, parts in zip(own, zip(*every, strict=True), strict=True)
        ]
        _, _, loss_bt = twin_loss(summed[0], bt)
        loss_reg = torch.zeros(())
        if mixed:
            _, m_a, t_a, m_b, t_b = summed
            loss_reg = 0.5 * bt * (frobenius2(m_a - t_a) + frobenius2(m_b - t_b))
        loss = loss_bt + scale * loss_reg
        loss.backward()
    names = ("z1", "z2", "zm") if mixed else ("z1", "z2")
    gradients: Json = {}
    for place, name in enumerate(names):
        each = [facts(rank[place].grad) for rank in local]
        gradients[f"grad_{name}"] = each if ranks > 1 else each[0]
    checked = {"z1": z1, "z2": z2}
    if mixed:
        checked |= {"zm": np.concatenate(mixtures), "perm": np.concatenate(partners)}
    case = {
        "name": "other",
        "recipe": "ranks",
        "seed": 7100,
        "N": n,
        "d": d,
        "params": {
            "variant": "mix_imagenet",
            "lambda_bt": bt,
            "mixed": mixed,
            "alpha": alphas if mixed else [],
            "ranks": ranks,
            "reg_scale": scale,
        },
        "input_check": input_check(**checked),
        "outputs": {
            "loss_bt": loss_bt.item(),
            "loss_reg_unscaled": loss_reg.item(),
            "loss": loss.item(),
            **gradients,
        },
    }
    assert_verified("imagenet_loss", [case], tmp_path)


@pytest.mark.parametrize("ranks", [1, 3])
def test_barlow_twins_imagenet_loss(ranks: int, tmp_path: Path) -> None:
    n, d, bt = 21, 6, 0.03
    draws = np.random.default_rng(7200)
    z1, z2 = draw_views(draws, n, d, 2)
    raw = leaves(z1, z2)

    def biased(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / ((centred**2).mean(0) + 1e-5).sqrt()

    *_, loss = twin_loss(biased(raw[0]).T @ biased(raw[1]) / n, bt)
    loss.backward()
    gradients: Json = {}
    for name, z in zip(("z1", "z2"), raw, strict=True):
        assert z.grad is not None
        each = [facts(part) for part in z.grad.chunk(ranks)]
        gradients[f"grad_{name}"] = each if ranks > 1 else each[0]
    mean, variance = np.zeros(d), np.ones(d)
    for z in (z1, z2):
        mean = 0.9 * mean + 0.1 * z.mean(0)
        variance = 0.9 * variance + 0.1 * z.var(0, ddof=1)
    case = {
        "name": "other",
        "recipe": "ranks",
        "seed": 7200,
        "N": n,
        "d": d,
        "params": {"variant": "bt_official", "lambda_bt": bt, "ranks": ranks},
        "input_check": input_check(z1=z1, z2=z2),
        "outputs": {
            "loss_bt": loss.item(),
            "running_mean_after": facts(mean),
            "running_var_after": facts(variance),
            **gradients,
        },
    }
    assert_verified("imagenet_loss", [case], tmp_path)


@pytest.mark.parametrize(
    "zeros", [{}, {"zero_weight": True}, {"zero_grad_step": 0}, {"zero_grad_step": 6}]
)
@pytest.mark.parametrize("shape", [(3, 7), (5, 2, 3, 1), (1, 1)])
def test_lars(shape: tuple[int, ...], zeros: Json, tmp_path: Path) -> None:
    draws = np.random.default_rng(7300)
    steps, momentum, eta, decay = 7, 0.8, 0.02, 0.0 if zeros else 0.01
    lr_weights = (0.3 * 0.7 ** np.arange(steps)).tolist()
    lr_biases = np.linspace(0.01, 0, steps).tolist()
    w, b = draws.standard_normal(shape), draws.standard_normal(shape[0])
    if zeros.get("zero_weight"):
        w = np.zeros(shape)
    first = {"weight": w, "bias": b}
    m_w, m_b = np.zeros(shape), np.zeros(shape[0])
    after = []
    for step in range(steps):
        g_w, g_b = 0.5 * draws.standard_normal(shape), 0.5 * draws.standard_normal(shape[0])
        if step == zeros.get("zero_grad_step"):
            g_w, g_b = np.zeros(shape), np.zeros(shape[0])
        update = g_w + decay * w
        lengths = np.linalg.norm(w), np.linalg.norm(update)
        if all(lengths):
            update = update * eta * lengths[0] / lengths[1]
        m_w, m_b = momentum * m_w + update, momentum * m_b + g_b
        w, b = w - lr_weights[step] * m_w, b - lr_biases[step] * m_b
        after.append({"step": step + 1, "weight": facts(w), "bias": facts(b)})
    case = {
        "name": "other",
        "recipe": "lars",
        "seed": 7300,
        "params": {
            "weight_shape": list(shape),
            "bias_shape": [shape[0]],
            "steps": steps,
            "lr_weights": lr_weights,
            "lr_biases": lr_biases,
            "weight_decay": decay,
            "momentum": momentum,
            "eta": eta,
            "grad_scale": 0.5,
            **zeros,
        },
        "input_check": input_check(**first, last_grad_weight=g_w, last_grad_bias=g_b),
        "outputs": {"after_each_step": after},
    }
    assert_verified("lars", [case], tmp_path)


@pytest.mark.parametrize("protocol", ["mix", "ssl_sota"])
@pytest.mark.parametrize(
    ("classes", "memory", "queries", "k"),
    [(3, 40, 7, 40), (30, 200, 25, 6), (6, 90, 2, 1), (50, 120, 40, 90)],
)
def test_knn(
    protocol: str, classes: int, memory: int, queries: int, k: int, tmp_path: Path
) -> None:
    d, temperature, separation = 9, 0.2, 0.4
    draws = np.random.default_rng(7400)
    centres = draws.standard_normal((classes, d))
    known, asked = np.arange(memory) % classes, np.arange(queries) % classes
    bank = separation * centres[known] + draws.standard_normal((memory, d))
    images = separation * centres[asked] + draws.standard_normal((queries, d))
    scores = np.zeros((queries, classes))
    for query in range(queries):
        if protocol == "mix":
            lengths = np.linalg.norm(bank, axis=1) * np.linalg.norm(images[query])
            cosines = bank @ images[query] / lengths
            for neighbour in np.argsort(-cosines)[:k]:
                scores[query, known[neighbour]] += math.exp(cosines[neighbour] / temperature)
        else:
            for neighbour in np.argsort(np.linalg.norm(bank - images[query], axis=1))[:k]:
                scores[query, known[neighbour]] += 1
    predicted = scores.argmax(1)
    found: Json = {"predicted": predicted.tolist(), "top1_correct": int((predicted == asked).sum())}
    ordered = -np.sort(-scores, axis=1)
    if protocol == "mix":
        rank = (scores > scores[np.arange(queries), asked][:, None]).sum(1)
        true_score = scores[np.arange(queries), asked]
        open_queries = int(((true_score == 0) & ((scores > 0).sum(1) < 5)).sum())
        sure = int((rank < 5).sum())  # an order that always favours the true class
        found |= {
            "top1_percent": 100 * found["top1_correct"] / queries,
            "top5_percent": 100 * sure / queries,
            "top5_correct": sure,
            "scores_first3": scores[:3].tolist(),
            "queries_whose_top5_depends_on_order_of_zero_scores": open_queries,
            "smallest_top1_margin": float((ordered[:, 0] - ordered[:, 1]).min()),
        }
    else:
        found["queries_with_tied_majority"] = int((ordered[:, 0] == ordered[:, 1]).sum())
    sizes = {"classes": classes, "memory": memory, "queries": queries, "k": k}
    params = {**sizes, "separation": separation}
    case = {
        "name": "other",
        "protocol": protocol,
        "recipe": "clusters",
        "seed": 7400,
        "d": d,
        "params": params | ({"T": temperature} if protocol == "mix" else {}),
        "input_check": input_check(memory=bank, queries=images),
        "outputs": found,
    }
    assert_verified("knn", [case], tmp_path)


@pytest.mark.parametrize(("views", "bn_last", "norm"), [(2, False, False), (4, True, True)])
def test_simclr(views: int, bn_last: bool, norm: bool, tmp_path: Path) -> None:
    n, d, tau = 6, 5, 0.37
    arrays = draw_views(np.random.default_rng(7500), n, d, views)
    raw = leaves(*arrays)
    z = torch.cat(raw)
    if bn_last:
        z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    if norm:
        z = z / (z**2).sum(1, keepdim=True).sqrt()
    losses = []
    for i, j in combinations(range(views), 2):
        for here, there in ((i, j), (j, i)):
            for row in range(n):
                anchor = z[here * n + row]
                others = [z[there * n + other] for other in range(n)]
                others += [z[here * n + other] for other in range(n) if other != row]
                logits = torch.stack([anchor @ other / tau for other in others])
                losses.append(logits.exp().sum().log() - logits[row])
    loss = torch.stack(losses).mean()
    loss.backward()
    case = {
        "name": "other",
        "recipe": "views",
        "seed": 7500,
        "N": n,
        "d": d,
        "params": {"tau": tau, "norm": norm, "bn_last": bn_last, "views": views},
        "input_check": input_check(**{f"view_{v}": array for v, array in enumerate(arrays)}),
        "outputs": {"loss": loss.item()}
        | {f"grad_view_{v}": facts(each.grad) for v, each in enumerate(raw)},
    }
    assert_verified("simclr", [case], tmp_path)


def schedule_case(name: str, params: Json, points: list[Json]) -> Json:
    return {"name": f"other {name}", "schedule": name, "params": params, "outputs": points}


def cosine(step: float, steps: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * step / steps)


def warmed_cosine(step: int, epochs: int, batches: int) -> float:
    warm = 10 * batches
    if step < warm:
        return step / warm
    share = cosine(step - warm, epochs * batches - warm)
    return share + 0.001 * (1 - share)


def test_schedules_over_steps(tmp_path: Path) -> None:
    epochs, batches, size, lr = 33, 7, 96, 0.31
    params = {"epochs": epochs, "batches_per_epoch": batches, "batch_size": size}
    both = {"lr_weights": lr, "lr_biases": 0.07}
    mix, twins, mixed, vicreg = [], [], [], []
    for epoch, batch in [(33, 6), (1, 0), (10, 6), (11, 0), (20, 3)]:
        step = epoch * batches + batch
        rate = lr * size / 256 * warmed_cosine(step, epochs, batches)
        mix.append({"lr": rate, "epoch": epoch, "batch_index": batch})
        step -= batches
        at = {"epoch": epoch - 1, "batch_index": batch, "schedule_step": step}
        shape = size / 256 * warmed_cosine(step, epochs, batches)
        rates = {name: base * shape for name, base in both.items()}
        twins.append(at | rates)
        scale = 3.5 * min(1, step / (10 * batches))
        mixed.append(at | rates | {"lambda_reg_scale": scale})
        vicreg.append(at | {"lr": lr * shape})
    cases = [
        schedule_case("mix_small_cosine", params | {"lr": lr}, mix),
        schedule_case("bt_imagenet", params | both, twins),
        schedule_case("mix_imagenet", params | both | {"lambda_reg": 3.5}, mixed),
        schedule_case("vicreg", params | {"base_lr": lr}, vicreg),
    ]
    assert_verified("schedules", cases, tmp_path)


@pytest.mark.parametrize("epochs", [1000, 77, 50, 30])
@pytest.mark.parametrize("batches", [130, 8])
def test_ssl_sota_schedule_is_that_of_torchs_scheduler(
    epochs: int, batches: int, tmp_path: Path
) -> None:
    """The reference's loop itself: a warm-up that overwrites, drops that multiply what is there."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.02)
    at = [epochs - 50, epochs - 25]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, at, gamma=0.2)
    points, step = [], 0
    for epoch in range(epochs):
        for batch in range(batches):
            if step < 500:
                optimizer.param_groups[0]["lr"] = 0.02 * (step + 1) / 500
            step += 1
            if batch in (0, 3, batches - 1):
                rate = optimizer.param_groups[0]["lr"]
                points.append({"epoch": epoch, "batch_index": batch, "lr": rate})
        optimizer.step()
        scheduler.step()
    params = {"epochs": epochs, "batches_per_epoch": batches, "lr": 0.02}
    assert_verified("schedules", [schedule_case("ssl_sota_pretrain", params, points)], tmp_path)


def test_schedules_over_epochs(tmp_path: Path) -> None:
    from_one, from_zero = [64, 1, 2, 10, 39, 40, 61, 62], [0, 63, 5, 39, 40]

    def rates(epochs: list[int], rate: Any) -> list[Json]:
        return [{"epoch": epoch, "lr": rate(epoch)} for epoch in epochs]

    def dropped(epoch: int, at: tuple[int, ...], factor: float) -> float:
        return math.prod(factor for place in at if epoch >= place)

    e64 = {"epochs": 64}
    exponential = rates(from_one, lambda e: 0.01 * (1e-4 ** (1 / 64)) ** (e - 1))
    eval_rates = {"lr_classifier": 0.7, "lr_backbone": 0.02}
    both = rates(from_one, lambda e: [0.7 * cosine(e - 1, 64), 0.02 * cosine(e - 1, 64)])
    simsiam = rates(from_zero, lambda e: 0.2 * cosine(e, 64))
    taus = [{"epoch": e, "tau": 1 - 0.05 * (math.cos(math.pi * e / 64) + 1) / 2} for e in from_zero]
    moco = {"lr": 0.05, "epochs": 64}
    cases = [
        schedule_case("mix_linear_probe", e64, exponential),
        schedule_case("ssl_sota_linear_probe", e64, exponential),
        schedule_case("mix_transfer", e64, rates(from_one, lambda e: 0.01 * 0.1 ** (e > 60))),
        schedule_case(
            "mix_small_step",
            e64,
            rates(from_one, lambda e: 1e-3 * dropped(e - 1, (64 - 50, 64 - 25), 0.2)),
        ),
        schedule_case(
            "bt_linear_eval",
            e64 | eval_rates,
            rates(from_one, lambda e: 0.7 * cosine(e - 1, 64)),
        ),
        schedule_case("bt_semisup_eval", e64 | eval_rates, both),
        schedule_case("byol_tau", e64 | {"byol_tau": 0.95}, taus),
        schedule_case(
            "moco", moco | {"cos": True}, rates(from_zero, lambda e: 0.05 * cosine(e, 64))
        ),
        schedule_case(
            "moco",
            moco | {"cos": False, "schedule": [5, 6, 40]},
            rates(from_zero, lambda e: 0.05 * dropped(e, (5, 6, 40), 0.1)),
        ),
        schedule_case(
            "moco", moco | {"cos": False, "schedule": []}, rates(from_zero, lambda e: 0.05)
        ),
        schedule_case(
            "simsiam",
            e64 | {"init_lr": 0.2},
            [point | {"lr_predictor_fixed": 0.2} for point in simsiam],
        ),
    ]
    assert_verified("schedules", cases, tmp_path)


def counted(weights: list[int], one_d: list[int], batch_norms: int) -> Json:
    return {
        "parameters": sum(weights) + sum(one_d),
        "parameter_tensors": len(weights) + len(one_d),
        "weights_ndim_ge_2": sum(weights),
        "weight_tensors": len(weights),
        "one_d": sum(one_d),
        "one_d_tensors": len(one_d),
        "batchnorm_layers": batch_norms,
    }


def test_networks(tmp_path: Path) -> None:
    mix = {
        "projector": counted([512 * 512, 512 * 77], [512, 512, 77], 1),
        "feature_shape": [512],
        "embedding_shape": [77],
        "stage_shapes": [
            ["Conv2d", 64, 48, 40],
            ["BatchNorm2d", 64, 48, 40],
            ["ReLU", 64, 48, 40],
            ["MaxPool2d", 64, 24, 20],
            ["Sequential", 64, 24, 20],
            ["Sequential", 128, 12, 10],
            ["Sequential", 256, 6, 5],
            ["Sequential", 512, 3, 3],
            ["AdaptiveAvgPool2d", 512, 1, 1],
        ],
    }
    head = counted([512 * 1024, 1024 * 33], [1024, 1024, 1024, 33], 1)
    predictor = counted([33 * 1024, 1024 * 33], [1024, 1024, 1024, 33], 1)
    arch = {"arch": "resnet18"}
    cases = [
        {
            "name": "small data",
            "kind": "mix",
            "params": arch | {"dataset": "stl10", "embedding_dim": 77, "input": [3, 48, 40]},
            "outputs": mix,
        },
        {
            "name": "two layers",
            "kind": "bt_official",
            "params": arch | {"projector": "300-200", "input": [3, 224, 224]},
            "outputs": {
                "projector": counted([512 * 300, 300 * 200], [300, 300], 1),
                "feature_dim": 512,
                "zero_initialised_residual_bn_weights": 8,
            },
        },
        {
            "name": "one layer",
            "kind": "bt_official",
            "params": {"arch": "resnet50", "projector": "64", "input": [3, 224, 224]},
            "outputs": {"projector": counted([2048 * 64], [], 0), "feature_dim": 2048},
        },
        {
            "name": "byol",
            "kind": "ssl_sota",
            "params": arch | {"dataset": "tiny_imagenet", "emb": 33, "method": "byol"},
            "outputs": {"head": head, "predictor": predictor},
        },
        {
            "name": "w_mse",
            "kind": "ssl_sota",
            "params": arch | {"dataset": "cifar100", "emb": 33, "method": "w_mse"},
            "outputs": {"head": head, "feature_dim": 512},
        },
    ]
    assert_verified("network", cases, tmp_path)
