"""The golden files' inputs, regenerated from seeds as their recipes say, float64 in C order.

A recipe draws all of its arrays from one `numpy.random.default_rng(seed)` in a fixed order, so the
order of the statements below is part of each recipe.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from barlow_atlas.verify.values import Mismatch

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

INPUT_TOLERANCE = 1e-12


def check(case: dict[str, Any], **arrays: npt.NDArray[Any]) -> None:
    """Compares the inputs, by their names in the file, with the case's `input_check`.

    Raises:
        Mismatch: an array that the file lists was not generated, or differs in its sum (exactly
            rounded), first or last element.
    """
    for name, expected in case.get("input_check", {}).items():
        if name not in arrays:
            raise Mismatch(f"input {name} is in the file's input_check, but not in the recipe here")
        array = arrays[name]
        facts = {"sum": math.fsum(array.ravel()), "first": array.flat[0], "last": array.flat[-1]}
        total = math.fsum(np.abs(array).ravel())
        for fact, value in expected.items():
            scale = total if fact == "sum" else total / array.size
            if fact not in facts or not abs(facts[fact] - value) <= INPUT_TOLERANCE * scale:
                raise Mismatch(f"input {name}: {fact} is {facts.get(fact)}, the file says {value}")


def constant(array: npt.NDArray[Any]) -> Tensor:
    """A float64 tensor of `array`."""
    return torch.tensor(array, dtype=torch.float64)


def leaf(array: npt.NDArray[Any]) -> Tensor:
    """A float64 tensor of `array` whose gradient is recorded."""
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def gradients(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """`grad_<name>` of each leaf: the gradient of `loss`, zeros where it does not reach."""
    leaf_gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {
        f"grad_{name}": torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), leaf_gradients, strict=True)
    }


def _base(draws: np.random.Generator, n: int, d: int) -> Array:
    """What all views of a batch share, (n, d)."""
    scaled = draws.standard_normal((n, d)) * np.linspace(0.5, 2, d)
    return scaled + draws.standard_normal((1, d))


def draw_views(draws: np.random.Generator, n: int, d: int, count: int) -> list[Array]:
    """`count` noisy views (n, d) of one batch, from a generator that the caller goes on with."""
    base = _base(draws, n, d)
    return [base + 0.5 * draws.standard_normal((n, d)) for _ in range(count)]


def views(case: dict[str, Any], count: int, scale: float = 1.0) -> list[Array]:
    """Recipe views: `count` views (N, d), checked. `scale` multiplies them (VICReg's cases)."""
    noisy_views = draw_views(np.random.default_rng(case["seed"]), case["N"], case["d"], count)
    noisy_views = [scale * view for view in noisy_views]
    check(case, **{f"view_{place}": view for place, view in enumerate(noisy_views)})
    return noisy_views


class Twin(NamedTuple):
    """Embeddings of two views and of their mixture, each (n, d)."""

    z1: Array
    z2: Array
    zm: Array
    partner: Integers
    """For each row of z1 the row of z2 that it was mixed with, (n,)."""


def _mixture(draws: np.random.Generator, z1: Array, z2: Array, alpha: float) -> Twin:
    partner = draws.permutation(len(z1))
    mixed = alpha * z1 + (1 - alpha) * z2[partner]
    return Twin(z1, z2, mixed + 0.3 * draws.standard_normal(z1.shape), partner)


def twin(case: dict[str, Any]) -> Twin:
    """Recipe twin, checked. The mixture is drawn whether or not the case uses it."""
    draws = np.random.default_rng(case["seed"])
    z1, z2 = draw_views(draws, case["N"], case["d"], 2)
    mixture = _mixture(draws, z1, z2, case["params"].get("alpha", 0.5))
    check(case, z1=z1, z2=z2, zm=mixture.zm, perm=mixture.partner)
    return mixture


def ranks(case: dict[str, Any]) -> tuple[list[tuple[Array, Array]], list[Twin]]:
    """Recipe ranks, checked: z1 and z2 of each rank, N / ranks consecutive rows of the batch.

    Where `params.mixed` is true, also the twin with its mixture of each rank, else none.
    """
    params = case["params"]
    draws = np.random.default_rng(case["seed"])
    whole = draw_views(draws, case["N"], case["d"], 2)
    z1, z2 = (np.split(view, params["ranks"]) for view in whole)
    pairs = list(zip(z1, z2, strict=True))
    if not params.get("mixed", False):
        check(case, z1=whole[0], z2=whole[1])
        return pairs, []
    twins = [
        _mixture(draws, a, b, alpha) for (a, b), alpha in zip(pairs, params["alpha"], strict=True)
    ]
    zm, partners = (np.concatenate([twin[place] for twin in twins]) for place in (2, 3))
    check(case, z1=whole[0], z2=whole[1], zm=zm, perm=partners)
    return pairs, twins


def byol(case: dict[str, Any]) -> tuple[list[Array], list[Array]]:
    """Recipe byol, checked: the predictions and the targets of each view, (N, d)."""
    count = case["params"]["views"]
    embeddings = views(case, 2 * count)
    return embeddings[:count], embeddings[count:]


def byol_target(case: dict[str, Any]) -> tuple[list[Array], Array]:
    """Recipe byol_target, checked: the online parameter of each step, and the first target."""
    draws = np.random.default_rng(case["seed"])
    shape = (case["N"], case["d"])
    online = [draws.standard_normal(shape) for _ in range(case["params"]["steps"])]
    target = draws.standard_normal(shape)
    check(case, target0=target, last_online=online[-1])
    return online, target


def wmse(case: dict[str, Any]) -> tuple[list[Array], list[Integers]]:
    """Recipe wmse, checked: the views (N, d) and one permutation (N,) for each iteration."""
    params = case["params"]
    draws = np.random.default_rng(case["seed"])
    noisy_views = draw_views(draws, case["N"], case["d"], params["views"])
    orders = [draws.permutation(case["N"]) for _ in range(params["w_iter"])]
    named = {f"view_{place}": view for place, view in enumerate(noisy_views)}
    check(case, perm=np.concatenate(orders), **named)
    return noisy_views, orders


class Moco(NamedTuple):
    """Recipe moco's inputs."""

    images: list[tuple[Array, Array]]
    """Query and key images of each step, (N, d)."""
    query_weight: Array
    """Wq, (dim, d)."""
    key_weight: Array
    """Wk at the start, (dim, d)."""
    queue: Array
    """(dim, K), columns of length 1."""
    orders: list[Integers]
    """In which each step encodes its keys, (N,); none where they are not shuffled."""


def moco(case: dict[str, Any]) -> Moco:
    """Recipe moco, checked."""
    params, d = case["params"], case["d"]
    draws = np.random.default_rng(case["seed"])
    noisy_views = draw_views(draws, case["N"], d, 2 * params["steps"])
    query_weight, key_weight = (draws.standard_normal((params["dim"], d)) for _ in "qk")
    raw = draws.standard_normal((params["dim"], params["K"]))
    shuffled = params["steps"] if "parts" in params else 0
    orders = [draws.permutation(case["N"]) for _ in range(shuffled)]
    named = {f"view_{place}": view for place, view in enumerate(noisy_views)}
    if orders:
        named["orders"] = np.concatenate(orders)
    check(case, Wq=query_weight, Wk=key_weight, queue_raw=raw, **named)
    images = list(zip(noisy_views[::2], noisy_views[1::2], strict=True))
    return Moco(images, query_weight, key_weight, raw / np.linalg.norm(raw, axis=0), orders)


class Swav(NamedTuple):
    """Recipe swav's inputs."""

    views: list[Array]
    """One for each crop, (N, d), not normalised."""
    prototypes: Array
    """(prototypes, d), not normalised."""
    queue: Array | None
    """(2, queue_length, d), rows of length 1."""


def swav(case: dict[str, Any]) -> Swav:
    """Recipe swav, checked."""
    params, d = case["params"], case["d"]
    draws = np.random.default_rng(case["seed"])
    crops = draw_views(draws, case["N"], d, sum(params["nmb_crops"]))
    arrays = {f"view_{place}": view for place, view in enumerate(crops)}
    prototypes = arrays["prototypes"] = draws.standard_normal((params["prototypes"], d))
    if not params["queue_length"]:
        check(case, **arrays)
        return Swav(crops, prototypes, None)
    raw = arrays["queue_raw"] = draws.standard_normal((2, params["queue_length"], d))
    check(case, **arrays)
    return Swav(crops, prototypes, raw / np.linalg.norm(raw, axis=2, keepdims=True))


class Clusters(NamedTuple):
    """Recipe clusters: labelled features around random centres."""

    memory: Array
    memory_labels: Integers
    queries: Array
    labels: Integers


def clusters(case: dict[str, Any]) -> Clusters:
    """Recipe clusters, checked."""
    params, d = case["params"], case["d"]
    draws = np.random.default_rng(case["seed"])
    centres = draws.standard_normal((params["classes"], d))

    def around(labels: Integers) -> Array:
        noise = draws.standard_normal((len(labels), d))
        return np.asarray(params["separation"] * centres[labels] + noise)

    memory_labels, labels = (
        np.arange(params[n]) % params["classes"] for n in ("memory", "queries")
    )
    memory = around(memory_labels)
    queries = around(labels)
    check(case, memory=memory, queries=queries)
    return Clusters(memory, memory_labels, queries, labels)


class Lars(NamedTuple):
    """Recipe lars: a weight and a bias, and the gradients of each step for both."""

    weight: Array
    bias: Array
    gradients: list[tuple[Array, Array]]


def lars(case: dict[str, Any]) -> Lars:
    """Recipe lars, checked (after the zeros have been put in)."""
    params = case["params"]
    draws = np.random.default_rng(case["seed"])
    weight = draws.standard_normal(params["weight_shape"])
    bias = draws.standard_normal(params["bias_shape"])
    gradients = []
    for step in range(params["steps"]):
        of_weight = params["grad_scale"] * draws.standard_normal(params["weight_shape"])
        of_bias = params["grad_scale"] * draws.standard_normal(params["bias_shape"])
        kept = 0 if step == params.get("zero_grad_step") else 1
        gradients.append((kept * of_weight, kept * of_bias))
    if params.get("zero_weight"):
        weight = 0 * weight
    last_of_weight, last_of_bias = gradients[-1]
    check(
        case,
        weight=weight,
        bias=bias,
        last_grad_weight=last_of_weight,
        last_grad_bias=last_of_bias,
    )
    return Lars(weight, bias, gradients)


def images(case: dict[str, Any]) -> Array:
    """Recipe images, checked: (batch, 3, size, size)."""
    params = case["params"]
    shape = (params["batch"], 3, params["size"], params["size"])
    pixels = np.random.default_rng(case["seed"]).standard_normal(shape)
    check(case, images=pixels)
    return pixels


class Step(NamedTuple):
    """Recipe steps: what one training step sees."""

    view_a: Array
    """(batch_size, 3, size, size)."""
    view_b: Array
    alpha: float
    partner: Integers


def steps(case: dict[str, Any]) -> tuple[list[Step], Array]:
    """Recipe steps, checked: what each step sees, and the probe images (4, 3, size, size)."""
    params = case["params"]
    draws = np.random.default_rng(case["seed"])
    shape = (params["batch_size"], 3, params["size"], params["size"])

    def step() -> Step:
        base = draws.standard_normal(shape)
        view_a, view_b = (base + 0.5 * draws.standard_normal(shape) for _ in "ab")
        return Step(view_a, view_b, draws.uniform(), draws.permutation(params["batch_size"]))

    training_steps = [step() for _ in range(params["steps"])]
    probe = draws.standard_normal((4, *shape[1:]))
    check(
        case,
        first_view_a=training_steps[0].view_a,
        last_view_b=training_steps[-1].view_b,
        alpha=np.array([one.alpha for one in training_steps]),
        perm=np.concatenate([one.partner for one in training_steps]),
        probe=probe,
    )
    return training_steps, probe
