"""The training loop: all that happens to the weights.

`segment.py` keeps it safe from interruption.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from barlow_atlas.data.batches import Images
from barlow_atlas.data.loader import Loader
from barlow_atlas.errors import AtlasError
from barlow_atlas.nn import processes, views
from barlow_atlas.nn.geometry import drawn_views
from barlow_atlas.nn.networks import Network, build, initialised_from
from barlow_atlas.nn.optim import build_optimizer, learning_rate, peak_rate, set_learning_rate
from barlow_atlas.nn.processes import SummedGradients
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.base import Moment
from barlow_atlas.study.models import Run
from barlow_atlas.training.online import Online


class PretrainError(AtlasError):
    """A segment that cannot start or cannot go on; the message says why and what to do."""


class NonFiniteLoss(PretrainError):
    """The loss became infinite or NaN; the message names the step and likely causes."""


@dataclass
class State:
    """Everything that the next step depends on, and the metrics so far."""

    network: Network
    parts: nn.Module
    optimizer: torch.optim.Optimizer
    online: Online | None = None
    epoch: int = 0
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        trained = (each for group in self.optimizer.param_groups for each in group["params"])
        self.gradients = SummedGradients(trained)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The network's, and that of what is trained along with it."""
        return [self.optimizer, *([self.online.optimizer] if self.online else [])]

    def to_dict(self) -> dict[str, Any]:
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "network": self.network.state_dict(),
            "parts": self.parts.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "history": self.history,
        }
        if self.online is not None:
            state["online"] = self.online.optimizer.state_dict()
        return state

    def load_dict(self, stored: dict[str, Any]) -> None:
        device = next(self.network.parameters()).device
        self.network.load_state_dict(stored["network"])
        self.parts.load_state_dict(stored["parts"])
        self.optimizer.load_state_dict(stored["optimizer"])
        if self.online is not None:
            self.online.optimizer.load_state_dict(stored["online"])
        self.epoch, self.step = stored["epoch"], stored["step"]
        self.sums = {name: value.to(device) for name, value in stored["sums"].items()}
        self.history = stored["history"]


def initial_state(run: Run, device: torch.device) -> State:
    """The run's untrained network, the method's own parts, and an optimizer over both.

    What is trained along with the network comes last: the optimizer does not know it.
    """
    network = build(run.architecture, generator(run.seed, "weights")).to(device)
    network.take_parts(run.local_statistics)
    with initialised_from(generator(run.seed, "parts")):
        parts = run.settings.parts(network, run.embedding_dim).to(device)
    constant = run.settings.constant_rate_parameters(parts)
    if run.compiled and device.type == "cuda":
        network.compile_parts(mode="reduce-overhead")  # recorded as CUDA graphs
    optimizer = build_optimizer(run.optimizer, network, parts, constant)
    online = Online(run, network) if run.online_linear else None
    return State(network, parts, optimizer, online)


@dataclass(frozen=True)
class Progress:
    """Where a segment is after a step. `terms` are this step's, still on the device."""

    epoch: int
    step: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    terms: dict[str, Tensor]
    waiting: float | None = None
    """The share of the time in which images were waited for; None where none are decoded."""


def train(
    run: Run,
    state: State,
    images: Images,
    until: int,
    cooldown_from: int | None = None,
    labels: Tensor | None = None,
) -> Iterator[Progress]:
    """Trains `state` to the end of epoch `until` (counted from 0 done), yielding after each step.

    Whatever is random in epoch e, step s is a function of (seed, e, s), so that it does not
    matter where a state came from, nor how many processes it came from. Each takes its own rows of
    every batch, and of what is drawn for it. The last incomplete batch of an epoch is left out. The
    host never waits for the device, but at the end of an epoch.

    Args:
        images: those of pre-training, with batches on the training device.
        cooldown_from: epoch from which the rate of the schedule `trunk` is annealed.
        labels: of the images, int64 (n,) on the CPU, where a classifier is trained along; -1: none.

    Raises:
        NonFiniteLoss: at the end of an epoch in which it occurred.
    """
    network, parts, optimizer = state.network, state.parts, state.optimizer
    steps = len(images) // run.batch_size
    gradients, online = state.gradients, state.online
    network.train()
    parts.train()
    while state.epoch < until:
        epoch = state.epoch
        order = torch.randperm(len(images), generator=generator(run.seed, "shuffle", epoch))
        batches = order.split(run.batch_size)[state.step : steps]
        both = views_of(run, images, batches, epoch, state.step)
        places = range(state.step, steps)
        for step, batch, (view_a, view_b) in zip(places, batches, both, strict=True):
            draws = generator(run.seed, "method", epoch, step)
            moment = Moment(epoch, step, steps, run.epochs, draws)
            if run.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            terms = run.settings.terms(network, parts, view_a, view_b, moment)
            rate = learning_rate(run, epoch, step, steps, cooldown_from)
            set_learning_rate(optimizer, rate, peak_rate(run))
            optimizer.zero_grad()
            processes.own_share(terms["loss"]).backward()
            gradients.wait()
            optimizer.step()
            run.settings.after_step(network, parts, moment)
            if online is not None:
                rate_of_its_own = learning_rate(online.run, epoch, step, steps, cooldown_from)
                terms["online_loss"] = online.step(labels, batch, rate_of_its_own)
            terms = {name: value.detach() for name, value in terms.items()}
            _accumulate(state.sums, terms)
            state.step = step + 1
            if state.step == steps:
                state.history.append(_epoch_row(state, rate))
                state.epoch, state.step, state.sums = epoch + 1, 0, {}
            waiting = images.waiting if isinstance(images, Loader) else None
            yield Progress(epoch, step, steps, run.batch_size, rate, terms, waiting)


def views_of(
    run: Run, images: Images, batches: Iterable[Tensor], epoch: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The two views of the own rows of each batch of an epoch, from its step `first` on; see
    `two_views`.

    Args:
        batches: places of images, int64 (N,) on the CPU, those of all processes.
    """
    share = processes.own_rows(run.batch_size)
    if not isinstance(images, Loader):
        rows = [batch[share] for batch in batches]
        for step, pixels in enumerate(images.batches(rows), start=first):
            yield two_views(run, pixels, epoch, step)
        return
    recipe = run.recipe
    requests = (
        drawn_views(
            images.images,
            places,
            (recipe.view_a, recipe.view_b),
            run.image_size,
            [generator(run.seed, name, epoch, step) for name in ("a", "b")],
            share,
        )
        for step, places in enumerate(batches, start=first)
    )
    for request, pixels in images.batches(requests):
        view_a, view_b = request.finished(pixels, recipe.mean, recipe.std, run.compiled)
        yield view_a, view_b


def two_views(run: Run, pixels: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """The views (n, 3, size, size) of own images of a step, uint8 (n, 3, H, W), on their device."""
    recipe = run.recipe
    augmentations = (recipe.view_a, recipe.view_b)
    parameters = [
        views.draw_own(pixels, augmentation, generator(run.seed, name, epoch, step))
        for name, augmentation in zip("ab", augmentations, strict=True)
    ]
    first, second = views.of_each(
        [pixels, pixels],
        parameters,
        augmentations,
        run.image_size,
        recipe.mean,
        recipe.std,
        run.compiled,
    )
    return first, second


def _accumulate(sums: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    """Adds a step's terms to the epoch's sums, and counts the steps up to which they are finite.

    All of it stays on the device: the loop never waits for a number.
    """
    if not sums:
        sums |= {name: torch.zeros_like(value) for name, value in terms.items()}
        sums["finite_steps"] = torch.zeros_like(terms["loss"], dtype=torch.int64)
    added = torch._foreach_add([sums[name] for name in terms], list(terms.values()))
    sums |= dict(zip(terms, added, strict=True))
    # Once it is not finite, a sum stays so.
    sums["finite_steps"] = sums["finite_steps"] + (sums["loss"].abs() < math.inf)


def _epoch_row(state: State, rate: float) -> dict[str, float]:
    """Mean terms of the epoch that has just ended, its number from 1 and its last rate."""
    sums = {name: value.item() for name, value in state.sums.items()}
    finite = sums.pop("finite_steps")
    if finite < state.step:
        raise NonFiniteLoss(
            f"the loss is not finite at epoch {state.epoch + 1}, step {finite + 1}. Likely "
            "causes: a learning rate that is too high (schedule.base_lr), a batch so small or "
            "images so alike that an embedding dimension has no variance over the batch, or an "
            "embedding_dim that is large for the projector."
        )
    means = {name: value / state.step for name, value in sums.items()}
    return {"epoch": state.epoch + 1, "learning_rate": rate, **means}
