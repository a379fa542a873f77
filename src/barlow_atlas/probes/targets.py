"""Probes of other data sets than the study's, whose images are squashed to the network's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, model_validator

from barlow_atlas.probes.base import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from barlow_atlas.data.catalog import DataSet, Squashed
    from barlow_atlas.probes.subject import Subject


def _names_what_is_known(schema: dict[str, Any], probe: type[OfTargets]) -> None:
    schema["properties"]["targets"] |= {
        "description": f"any of {', '.join(probe.known)}",
        "items": {"enum": list(probe.known), "type": "string"},
    }


class OfTargets(Probe):
    """A probe that is asked of each of some targets, which `known` has by name."""

    model_config = ConfigDict(json_schema_extra=_names_what_is_known)

    known: ClassVar[Mapping[str, Squashed]] = {}

    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _targets_are_known(self) -> Self:
        for target in self.targets:
            if target not in self.known:
                raise ValueError(f"unknown target {target!r}. Known: {', '.join(self.known)}")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"each target once: {list(self.targets)}")
        return self

    def data_sets(self, image_size: int) -> tuple[DataSet, ...]:
        return tuple(self.known[name].at(image_size) for name in self.targets)

    def named(self, subject: Subject) -> Iterator[tuple[str, DataSet]]:
        """The targets' names, and their images as the subject's networks see them."""
        return zip(self.targets, self.data_sets(subject.image_size), strict=True)
