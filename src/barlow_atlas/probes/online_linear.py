"""The linear classifier that was trained along with the network, solo-learn's "online linear"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from barlow_atlas.probes.base import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from barlow_atlas.probes.milestone import Milestone
    from barlow_atlas.probes.subject import Subject


class OnlineLinear(Probe):
    """The accuracy of the classifier that `online_linear` of the study trains along."""

    name: ClassVar[str] = "online_linear"

    def fault_of_run(self, run: Subject) -> str | None:
        if getattr(run, "online_linear", None) is not None:
            return None
        return (
            "probes.online_linear asks a classifier that is trained along with the network, and "
            "here is none: give the study `online_linear`, such as {classes: 10, base_lr: 0.1}, or "
            "leave the probe out. Foreign weights have none"
        )

    @classmethod
    def variant(cls, settings: Mapping[str, Any]) -> str:
        return "trained along"

    @classmethod
    def setting(cls, settings: Mapping[str, Any]) -> str:
        return (
            f"{cls.variant(settings)} with the network, by its optimizer without decay and its "
            f"schedule; images {settings['training_images']}, BN {settings['batch_norm']}, "
            f"{settings['feature']}, settings fixed"
        )

    @classmethod
    def run(cls, asked: Sequence[Self], milestone: Milestone) -> Iterator[dict[str, Any]]:
        import torch

        from barlow_atlas.probes.milestone import ROWS, record

        classifier = milestone.network.classifier
        assert classifier is not None  # `fault_of_run`
        settings = {
            "protocol": milestone.subject.protocol,
            "training_images": "both views of pre-training",
            "batch_norm": "batch statistics while training",
            "feature": "backbone",
            "chosen_on": "nothing",
        }
        for split in milestone.evaluated:
            labels = milestone.labels[split]
            with torch.inference_mode():
                parts = milestone.features[split].split(ROWS)
                scores = torch.cat([classifier(part.to(labels.device)) for part in parts])
            yield record(cls.name, settings, split, scores, labels)
