"""Bytes that a run's weights and training state take, and what a step keeps on the way."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from barlow_atlas.study.models import Run
from barlow_atlas.training.loop import State, initial_state

META = torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """What a run keeps, in bytes."""

    weights: int
    """The published weights of a milestone."""
    state: int
    """What training goes on from: weights, parts and optimizer."""


def footprint(run: Run) -> Footprint:
    """Of a run after its first step; runs that differ in their seeds have the same."""
    return _footprint(run.model_copy(update={"seed": 0}).model_dump_json())


@functools.cache
def _footprint(run_json: str) -> Footprint:
    """On torch's `meta` device, which computes no numbers."""
    state = initial_state(Run.model_validate_json(run_json), META)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # makes its averages
    return Footprint(nbytes(state.network.state_dict()), nbytes(state.to_dict()))


def nbytes(content: Any) -> int:
    """Of the tensors in nested dicts."""
    if isinstance(content, dict):
        return sum(map(nbytes, content.values()))
    return content.nbytes if isinstance(content, Tensor) else 0


def kept_for_backward(state: State, step: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that a training step's forward pass keeps for its backward pass.

    Parameters are left out; tensors that share memory count once.
    """
    held = {
        parameter.untyped_storage().data_ptr()
        for module in (state.network, state.parts)
        for parameter in module.parameters()
    }
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            kept[storage.data_ptr()] = storage  # held, so that its address stays its own
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return [storage.nbytes() for storage in kept.values()]
