"""What every probe is: settings that a study gives, and questions to a milestone's network."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from barlow_atlas.settings.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from barlow_atlas.data.catalog import DataSet
    from barlow_atlas.data.choice import Protocol
    from barlow_atlas.probes.milestone import Milestone
    from barlow_atlas.probes.subject import Subject


class Probe(Frozen):
    """A probe and one set of its settings; a study may ask it several times, with other settings.

    `name` is the probe's name in `PROBES`; a study file chooses the class by it.
    """

    name: ClassVar[str]
    of_processes: ClassVar[bool] = False
    """Whether several processes do a part of it together, before one answers."""

    def fault(self, protocol: Protocol) -> str | None:
        """Why this cannot be asked in a protocol, and what to do; None if it can."""
        return None

    def fault_of_run(self, run: Subject) -> str | None:
        """Why this cannot be asked of a run's milestones, and what to do; None if it can."""
        return None

    def fault_of_processes(self, count: int) -> str | None:
        """Why `count` processes cannot do their part of it; None if they can or have none."""
        return None

    def data_sets(self, image_size: int) -> tuple[DataSet, ...]:
        """What it looks at beside the study's images, for networks that see `image_size` pixels.

        They are prepared first; `Milestone.others` has them.
        """
        return ()

    def facts(self) -> tuple[str, ...]:
        """What decides its numbers beside its settings, its code and the images.

        If any of it changes, the probe is run again.
        """
        return ()

    @classmethod
    @abstractmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        """The answers of a milestone to all that a study asks of this probe.

        Draws come from generators keyed by the run's seed and a place of the probe's own.

        Args:
            asked: at least one, in the study's order; what they share is computed once.
            milestone: its network is left as it is.

        Yields:
            One record for each evaluated split of each answer, see `milestone.record`. Its
            `settings` are all that a reader must know to compare the number with another.

        Raises:
            ProbeError: images that give no answer.
        """

    @property
    def variants(self) -> tuple[str, ...]:
        """The short names, see `variant`, of its numbers that the test images did not choose.

        One, of its own settings, where records hold just these.
        """
        return (self.variant(self.model_dump()),)

    @classmethod
    @abstractmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        """A short name that tells a study's numbers of this probe apart, from a record's settings.

        It is the same for all runs of a study.
        """

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        """What a number must be printed with, from a record's settings; the same for all runs."""
        return cls.variant(settings)
