"""How far rounding alone takes two equal trainings apart: docs/fidelity.md has the numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from barlow_atlas.nn.optim import learning_rate, peak_rate, set_learning_rate
from barlow_atlas.nn.randomness import generator
from barlow_atlas.objectives.base import Moment
from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import initial_state, two_views

STEPS = 30


def weights_along(
    run: Run, images: Tensor, layout: torch.memory_format, number: torch.dtype
) -> list[Tensor]:
    """The network's weights after each step, from the same start, views and draws."""
    state = initial_state(run, torch.device("cpu"))
    network = state.network.to(number).train()
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    along = []
    for step, pixels in enumerate(images.split(run.batch_size)):
        views = [view.to(number) for view in two_views(run, pixels, 0, step)]
        moment = Moment(0, step, STEPS, run.epochs, generator(run.seed, "method", 0, step))
        terms = run.settings.terms(network, state.parts, *views, moment)
        rate = learning_rate(run, 0, step, STEPS)
        set_learning_rate(state.optimizer, rate, peak_rate(run))
        state.optimizer.zero_grad()
        terms["loss"].backward()
        state.optimizer.step()
        along.append(torch.cat([each.detach().flatten() for each in network.parameters()]))
    return along


def test_another_memory_layout_is_told_from_rounding_only_in_float64(
    tiny_run: Run, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """The mathematics is the same, so in float64 the two agree; in float32 they soon part."""
    images = torch.from_numpy(digits[0][: STEPS * tiny_run.batch_size])
    apart = {}
    for number in (torch.float64, torch.float32):
        one, other = (
            weights_along(tiny_run, images, layout, number)
            for layout in (torch.channels_last, torch.contiguous_format)
        )
        apart[number] = [
            ((a - b).norm() / a.norm()).item() for a, b in zip(one, other, strict=True)
        ]
    assert max(apart[torch.float64]) < 1e-13
    first, *_, last = apart[torch.float32]
    assert first < 1e-6
    assert 1e-6 < last < 1e-1
    assert last > 100 * first, "nothing grows: the two may be one and the same"
