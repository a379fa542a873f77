"""Parameters of the probes: nearest neighbours, linear probes, transfer. Loads no torch.

`Linear` and `Transfer` have the published values as defaults, so that a study names a form and
gives only what it wants otherwise.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from barlow_atlas.data.catalog import TARGETS
from barlow_atlas.settings.frozen import Frozen
from barlow_atlas.settings.training import NotNegative, Positive, PositiveNumber

LinearForm = Literal["standard", "mix-small", "imagenet", "ssl-sota"]
Rates = Annotated[tuple[PositiveNumber, ...], Field(min_length=1, strict=False)]
Decays = Annotated[tuple[NotNegative, ...], Field(min_length=1, strict=False)]


class KNN(Frozen):
    """One k-nearest-neighbour probe."""

    k: Positive
    temperature: PositiveNumber | None = Field(
        description="T in a neighbour's weight exp(cosine / T); null: each neighbour counts one"
    )
    distance: Literal["cosine", "euclidean"] = "cosine"
    feature: Literal["backbone", "projector"] = "backbone"

    @model_validator(mode="after")
    def _only_cosines_have_a_temperature(self) -> "KNN":
        if self.distance == "euclidean" and self.temperature is not None:
            raise ValueError("euclidean neighbours are not weighted: give `temperature: null`")
        return self

    @property
    def label(self) -> str:
        """All that a number of this probe must be printed with."""
        weight = "unweighted" if self.temperature is None else f"T={self.temperature:g}"
        return f"k={self.k} {weight} {self.distance} {self.feature}"


# What the published forms are trained with, where it is not the form standard's value.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "mix-small": {"epochs": 200, "learning_rates": (0.01,), "weight_decays": (5e-6,)},
    "imagenet": {
        "batch_size": 256,
        "learning_rates": (0.3,),
        "weight_decays": (1e-6,),
        "final_lr_ratio": None,
    },
    "ssl-sota": {
        "epochs": 500,
        "batch_size": 1000,
        "learning_rates": (0.01,),
        "weight_decays": (5e-6,),
    },
}


class Linear(Frozen):
    """A linear probe: softmax regression on the backbone's features.

    Forms:

    - standard: the protocol's own. Clean: features are extracted once, all pairs of rate and weight
      decay are trained at once, and the validation images choose the pair. Reference: mix-small,
      with the values of the study.
    - mix-small: Mixed Barlow Twins on small data (code linear.py).
    - imagenet: Barlow Twins on ImageNet (code evaluate.py), scaled to the study's image size.
    - ssl-sota: the baselines of Mixed Barlow Twins (code ssl-sota/, from htdt/self-supervised).

    The last three belong to the reference protocol. What a study leaves out has the form's
    published value; the defaults are those of the form standard.
    """

    form: LinearForm = "standard"
    epochs: Positive = 100
    batch_size: Positive = 512
    learning_rates: Rates = (0.1, 0.03, 0.01, 0.003, 0.001)
    final_lr_ratio: PositiveNumber | None = Field(
        1e-4,
        description="last epoch's rate over the first's; imagenet's cosine ends at 0 and has none",
    )
    weight_decays: Decays = (0.0, 5e-6, 1e-4)
    feature: Literal["backbone"] = "backbone"

    @model_validator(mode="before")
    @classmethod
    def _published_values(cls, value: Any) -> Any:
        return (
            _PUBLISHED.get(str(value.get("form")), {}) | value if isinstance(value, dict) else value
        )

    @model_validator(mode="after")
    def _only_exponential_rates_have_a_ratio(self) -> "Linear":
        if (self.form == "imagenet") != (self.final_lr_ratio is None):
            raise ValueError(
                "`final_lr_ratio` belongs to rates that fall exponentially: all forms but "
                "imagenet, whose rate falls to 0"
            )
        return self

    def fault(self, protocol: str) -> str | None:
        """Why this probe cannot be asked in a protocol; None if it can."""
        if protocol == "clean" and self.form != "standard":
            return (
                f"form {self.form} chooses nothing on validation images: the clean protocol admits "
                "the form standard only"
            )
        return _one_pair(self, "probes.linear") if protocol == "reference" else None


def _linear_as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | Linear) else value


LinearProbes = Annotated[
    tuple[Linear, ...],
    BeforeValidator(_linear_as_list, json_schema_input_type=Linear | tuple[Linear, ...]),
    Field(min_length=1, strict=False),
]
"""One linear probe, or a list of them."""


class Transfer(Frozen):
    """Linear probes on other data sets: one for each target.

    The defaults are Mixed Barlow Twins' (code evaluate_transfer.py). In the clean protocol features
    are extracted once, and the target's own validation images choose the pair of rate and decay.
    """

    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] = Field(
        description=f"any of {', '.join(TARGETS)}",
        json_schema_extra={"items": {"enum": list(TARGETS), "type": "string"}},
    )
    epochs: Positive = 100
    batch_size: Positive = 128
    learning_rates: Rates = (0.01,)
    weight_decays: Decays = (0.0,)

    @model_validator(mode="after")
    def _targets_are_known(self) -> "Transfer":
        for target in self.targets:
            if target not in TARGETS:
                raise ValueError(f"unknown target {target!r}. Known: {', '.join(TARGETS)}")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"each target once: {list(self.targets)}")
        return self

    def fault(self, protocol: str) -> str | None:
        """Why these probes cannot be asked in a protocol; None if they can."""
        return _one_pair(self, "probes.transfer") if protocol == "reference" else None


def _one_pair(settings: Linear | Transfer, where: str) -> str | None:
    if len(settings.learning_rates) * len(settings.weight_decays) == 1:
        return None
    return (
        f"protocol reference has no validation images to choose by: {where} must give one learning "
        "rate and one weight decay"
    )
