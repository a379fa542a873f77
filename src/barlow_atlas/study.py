"""A study: the parameters of one map, and the runs they expand to.

A study file (`params/<name>.yaml`) is a `Study`. Everything that can change a run's weights is
copied into its `Run`, which is stored with every result and compared by Snakemake; what cannot
(milestones, seeds of other runs, probes, resources) stays out of it.

Planning imports this module, so it loads neither torch nor numpy.
"""

import difflib
import functools
import itertools
import operator
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from barlow_atlas.augmentation import RECIPES, Recipe
from barlow_atlas.data.catalog import CATALOG
from barlow_atlas.errors import AtlasError
from barlow_atlas.frozen import Frozen
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.base import Method

Protocol = Literal["clean", "reference"]
Positive = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
NAME = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")


class StudyError(AtlasError):
    """A study file that cannot be used; the message names file, key, value and what is allowed."""


def _allowed(kind: str, name: str, known: list[str], hint: str = "") -> ValueError:
    near = difflib.get_close_matches(name, known, n=1)
    nearest = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}.{nearest} Known: {', '.join(sorted(known))}.{hint}")


class Data(Frozen):
    """Which images, and how many of them."""

    name: str = Field(description="a known data set, or a name of your own together with `path`")
    path: str | None = Field(
        None, description="folder with train/<class>/ and test/<class>/ (or val/<class>/)"
    )
    stored_size: Positive | None = Field(
        None, description="pixels a side at which images of `path` are stored"
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="stratified share of the training images that is used"
    )

    @model_validator(mode="after")
    def _is_known_or_has_a_path(self) -> "Data":
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r} must be lower-case words joined by - or _")
        if self.path is None and self.stored_size is not None:
            raise ValueError("stored_size belongs to a data set given by `path`")
        if self.path is not None and self.stored_size is None:
            raise ValueError("a data set given by `path` needs `stored_size`")
        if self.path is None and self.name not in CATALOG:
            hint = " For images of your own give `path` and `stored_size`."
            raise _allowed("data set", self.name, list(CATALOG), hint)
        if self.path is not None and self.name in CATALOG:
            raise ValueError(f"{self.name!r} is a known data set: with `path` take another name")
        return self


class Backbone(Frozen):
    """The encoder whose features are probed."""

    name: Literal["resnet18", "resnet50", "small"]
    stem: Literal["3x3", "3x3-maxpool", "7x7-maxpool"] = Field(
        description="first convolution (stride 1 for 3x3, 2 for 7x7) and whether max-pool follows"
    )
    width: Positive | None = Field(None, description="channels of `small`'s first stage")

    @model_validator(mode="after")
    def _width_belongs_to_small(self) -> "Backbone":
        if (self.name == "small") != (self.width is not None):
            raise ValueError("`width` must be given for the backbone small, and for no other")
        return self


class Optimizer(Frozen):
    """How gradients become steps."""

    name: Literal["adam"]
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        description="added to the gradient (L2) of every parameter"
    )


class Schedule(Frozen):
    """Learning rate along pre-training; formulas in `optim.py`."""

    name: Literal["mix_cosine", "mix_step"]
    base_lr: PositiveNumber = Field(description="mix_cosine multiplies it by batch_size / 256")
    warmup_epochs: Annotated[int, Field(ge=0)] = 10


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


class Linear(Frozen):
    """The linear probe: Adam, a rate that falls exponentially, softmax regression.

    All pairs of rate and weight decay are trained at once; in the clean protocol the validation
    images choose the pair, the reference protocol admits one pair only.
    """

    epochs: Positive
    batch_size: Positive
    learning_rates: Annotated[tuple[PositiveNumber, ...], Field(min_length=1, strict=False)]
    final_lr_ratio: PositiveNumber = Field(1e-4, description="last epoch's rate over the first's")
    weight_decays: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1, strict=False)
    ]
    feature: Literal["backbone"] = "backbone"


class Probes(Frozen):
    """What every milestone is asked."""

    knn: Annotated[tuple[KNN, ...], Field(min_length=1, strict=False)]
    linear: Linear


class Resources(Frozen):
    """What one job of a kind asks of the cluster; never part of a run's identity."""

    gpu: Annotated[int, Field(ge=0)] = 0
    mem_mb: Positive
    runtime: Positive = Field(description="minutes")


class JobResources(Frozen):
    """Resources of the two kinds of jobs that a study multiplies."""

    pretrain: Resources
    probe: Resources


def _recipe_by_name(value: Any) -> Any:
    if isinstance(value, str):
        if value not in RECIPES:
            raise _allowed("recipe", value, list(RECIPES))
        return RECIPES[value]
    return value


if TYPE_CHECKING:
    MethodSettings = Method
    NamedRecipe = Recipe
else:  # types that follow from the registries, for pydantic and the JSON schema
    MethodSettings = Annotated[
        functools.reduce(operator.or_, METHODS.values()), Field(discriminator="objective")
    ]
    NamedRecipe = Annotated[
        Recipe,
        BeforeValidator(_recipe_by_name, json_schema_input_type=Literal[tuple(RECIPES)] | Recipe),
    ]


class Run(Frozen):
    """One pre-training: everything that decides its weights, and nothing else."""

    data: Data
    image_size: int
    recipe: Recipe
    backbone: Backbone
    projector_hidden: Annotated[tuple[int, ...], Field(strict=False)]
    method: str
    settings: MethodSettings
    embedding_dim: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule
    epochs: int
    protocol: Protocol
    threads: int
    seed: int

    @property
    def name(self) -> str:
        """Readable identity within the study, e.g. `mix-d1024-e2000-clean-s1`."""
        return f"{self.method}-d{self.embedding_dim}-e{self.epochs}-{self.protocol}-s{self.seed}"


class Study(Frozen):
    """The parameters of one map; see `params/` for examples and docs/studies.md for the words."""

    title: str = Field(min_length=1, description="one line for the report")
    data: Data
    image_size: Positive = Field(description="pixels a side of what the network sees")
    recipe: NamedRecipe = Field(
        description="name of a recipe in augmentation.py, or one spelled out"
    )
    backbone: Backbone
    projector_hidden: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        description="widths of the projector's hidden layers"
    )
    methods: dict[str, MethodSettings] = Field(
        min_length=1, description="name in runs and figures -> objective and its settings"
    )
    embedding_dims: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1, strict=False)]
    epochs: Positive = Field(description="total; fixes the schedule")
    batch_size: Annotated[int, Field(ge=2)]
    optimizer: Optimizer
    schedule: Schedule
    milestones: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = Field(
        min_length=2, description="epochs whose checkpoint is kept and probed; begins with 0"
    )
    protocol: Protocol = "clean"
    probes: Probes
    threads: Positive = Field(
        description="CPU threads of a job; part of the run's identity, since sums depend on it"
    )
    resources: JobResources
    data_mirrors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="folders or URLs that hold the data set's official files"
    )

    @field_validator("methods")
    @classmethod
    def _methods_have_plain_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not NAME.fullmatch(name):
                raise ValueError(f"method name {name!r} must be lower-case words joined by - or _")
        return value

    @field_validator("embedding_dims", "seeds")
    @classmethod
    def _no_repetition(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each value once: {list(value)}")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> "Study":
        if self.milestones[0] != 0:
            raise ValueError("milestones must begin with 0: every curve starts at random weights")
        if any(a >= b for a, b in itertools.pairwise(self.milestones)):
            raise ValueError(f"milestones must rise: {list(self.milestones)}")
        if self.milestones[-1] > self.epochs:
            raise ValueError(f"milestone {self.milestones[-1]} lies past the {self.epochs} epochs")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs ({self.schedule.warmup_epochs}) must be below epochs "
                f"({self.epochs})"
            )
        pairs = len(self.probes.linear.learning_rates) * len(self.probes.linear.weight_decays)
        if self.protocol == "reference" and pairs != 1:
            raise ValueError(
                "protocol reference has no validation images to choose by: probes.linear must "
                "give one learning rate and one weight decay"
            )
        return self

    def runs(self) -> list[Run]:
        """The grid methods x embedding dims x seeds, in this order."""
        grid = itertools.product(self.methods.items(), self.embedding_dims, self.seeds)
        shared = {
            key: getattr(self, key)
            for key in Run.model_fields
            if key not in {"method", "settings", "embedding_dim", "seed"}
        }
        return [
            Run(method=method, settings=settings, embedding_dim=dim, seed=seed, **shared)
            for (method, settings), dim, seed in grid
        ]

    def run(self, name: str) -> Run:
        """The run of that name; raises StudyError with the nearest one."""
        runs = {run.name: run for run in self.runs()}
        if name not in runs:
            raise StudyError(str(_allowed("run", name, list(runs))))
        return runs[name]

    def parent(self, epoch: int) -> int | None:
        """The milestone before `epoch`, None for the first; raises StudyError if it is none."""
        if epoch not in self.milestones:
            raise StudyError(f"{epoch} is no milestone; milestones: {list(self.milestones)}")
        place = self.milestones.index(epoch)
        return self.milestones[place - 1] if place else None


def load_study(path: Path) -> Study:
    """Reads and checks a study file.

    Raises:
        StudyError: with one line for each thing that is wrong.
    """
    name = path.stem
    if not NAME.fullmatch(name):
        raise StudyError(f"{path}: a study's name must be lower-case words joined by - or _")
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise StudyError(f"{path} does not exist. {_allowed('study', name, known)}")
    try:
        # YAML 1.2 as ruamel reads it: 1e-6 is a number and a key given twice is an error.
        content = YAML(typ="safe", pure=True).load(path)
    except YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path} must be a mapping of parameters, found: {content!r}")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {_explain(detail)}" for detail in error.errors()]
        raise StudyError("\n".join(lines)) from error


def _explain(detail: Any) -> str:
    """One pydantic error as: key, value, what is allowed, nearest name."""
    # A method's settings are reported below their objective's name, which is no key in the file.
    keys = [str(part) for part in detail["loc"] if part not in METHODS]
    key = ".".join(keys) or "study"
    if detail["type"] == "extra_forbidden":
        known = sorted(_model_at(detail["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(keys[-1], known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        return f"{key} is no parameter.{meant} Known here: {', '.join(known)}."
    if detail["type"] == "missing":
        return f"{key} is missing."
    if detail["type"] == "union_tag_not_found":
        return f"{key}.objective is missing. Known: {', '.join(sorted(METHODS))}."
    if detail["type"] == "union_tag_invalid":
        return f"{key}.objective: {_allowed('objective', detail['ctx']['tag'], list(METHODS))}"
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail["input"], dict):
        return f"{key}: {message}"
    return f"{key} = {detail['input']!r}: {message}"


def _model_at(location: tuple[int | str, ...]) -> type[Frozen]:
    """The model whose parameters stand at `location` (pydantic's `loc`) of a study."""
    model: type[Frozen] = Study
    for part in location:
        if part in METHODS:
            model = METHODS[str(part)]
        elif part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return model


def _model_in(annotation: Any) -> type[Frozen] | None:
    """The parameter model that an annotation such as `tuple[KNN, ...]` holds, if it holds one."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
