"""What a long evaluation keeps of itself beside its milestone, to go on from it after an end."""

from __future__ import annotations

import hashlib
import io
import time
from typing import TYPE_CHECKING, Any

from barlow_atlas.atomic import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import device

SAVED_EVERY = 60.0
"""Seconds from one private state to the next."""


class State:
    """The private state of an evaluation that trains.

    Args:
        kept: the folder of the milestone (`Milestone.kept`); None: nothing is stored.
        where: the device of the parts.
        name: of the probe.
        told: all that the state follows from beside the milestone.
        parts: all that training changes: modules and their optimizer.
    """

    def __init__(
        self, kept: Path | None, where: device, name: str, told: str, parts: Sequence[Any]
    ) -> None:
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        self.file = None if kept is None else kept / f"{name}_{digest}.state"
        self.parts, self.device = parts, where
        self.saved = time.monotonic()

    def save(self, progress: Mapping[str, Any]) -> None:
        """Stores all parts and how far they are, if the last state is `SAVED_EVERY` seconds old.

        Raises:
            WriteError: it cannot be written.
        """
        import torch

        if self.file is None or time.monotonic() - self.saved < SAVED_EVERY:
            return
        content = io.BytesIO()
        torch.save({**progress, "parts": [part.state_dict() for part in self.parts]}, content)
        write_atomically(self.file, content.getvalue())
        self.saved = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """Brings the parts to what was stored, and returns how far they were; None: from the
        beginning."""
        import torch

        if self.file is None or not self.file.is_file():
            return None
        stored: dict[str, Any] = torch.load(self.file, map_location=self.device, weights_only=True)
        for part, state in zip(self.parts, stored["parts"], strict=True):
            part.load_state_dict(state)
        return stored
