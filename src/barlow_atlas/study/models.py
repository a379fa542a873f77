"""A study: the parameters of one map, and the runs they expand to.

A study file (`params/<name>.yaml`) is a `Study`. Everything that can change a run's weights is
copied into its `Run`, which is stored with every result and compared by Snakemake; what cannot
(milestones, seeds of other runs, probes, resources) stays out of it.

Planning imports this module, so it loads neither torch nor numpy.
"""

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from barlow_atlas.data.catalog import DataSet
from barlow_atlas.data.choice import Data, Protocol
from barlow_atlas.errors import not_allowed
from barlow_atlas.objectives import METHODS
from barlow_atlas.objectives.base import Method
from barlow_atlas.probes import PROBES
from barlow_atlas.probes.base import Probe
from barlow_atlas.probes.subject import Subject
from barlow_atlas.settings.augmentation import RECIPES, Recipe
from barlow_atlas.settings.frozen import NAME, Frozen
from barlow_atlas.settings.training import (
    Architecture,
    Backbone,
    OnlineClassifier,
    Optimizer,
    Positive,
    Precision,
    Projector,
    Schedule,
    Trunk,
)
from barlow_atlas.study.errors import StudyError

Layout = Literal[
    "mix-bt",
    "barlowtwins",
    "solo-learn",
    "lightly",
    "moco",
    "dino",
    "swav",
    "vicreg",
    "timm",
    "torchvision",
]


Seed = Annotated[int, Field(ge=0)]


class AskedProbes(Frozen):
    """What every milestone is asked: for each probe of `PROBES` that is, all its settings."""

    @model_validator(mode="after")
    def _something_is_asked_once(self) -> "AskedProbes":
        named = Counter(self.variants())
        if not named:
            raise ValueError(f"nothing is asked: give at least one of {', '.join(PROBES)}")
        (probe, variant), times = named.most_common(1)[0]
        if times > 1:
            raise ValueError(f"{probe}: two have the short name {variant!r} in tables; ask one")
        return self

    @model_serializer(mode="wrap")
    def _what_is_asked(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not asked leaves no trace, so that another probe in `PROBES` changes no study's
        # text, by which Snakemake tells what to probe again. Texts on record do name transfer.
        told = whole(self)
        return {name: told[name] for name in told if told[name] or name == "transfer"}

    def by_kind(self) -> Iterator[tuple[type[Probe], tuple[Probe, ...]]]:
        """The probes that are asked, each with its settings."""
        for name, kind in PROBES.items():
            if asked := getattr(self, name):
                yield kind, asked

    def kinds(self) -> tuple[type[Probe], ...]:
        """The classes of the probes that are asked."""
        return tuple(kind for kind, _ in self.by_kind())

    def asked(self) -> tuple[Probe, ...]:
        """All settings of all probes."""
        return tuple(probe for _, asked in self.by_kind() for probe in asked)

    def variants(self) -> list[tuple[str, str]]:
        """Probe and variant of all numbers that the test images did not choose."""
        return [(probe.name, variant) for probe in self.asked() for variant in probe.variants]

    def data_sets(self, image_size: int) -> list[DataSet]:
        """What the probes look at beside the study's images, each once."""
        targets = {
            each.name: each for probe in self.asked() for each in probe.data_sets(image_size)
        }
        return list(targets.values())

    def faults(self, protocol: Protocol) -> list[str]:
        """Which of these probes cannot be asked in a protocol, and why."""
        return [fault for probe in self.asked() if (fault := probe.fault(protocol))]

    def faults_of_runs(self, runs: Iterable[Subject]) -> list[str]:
        """Which of these probes cannot be asked of a run, and why."""
        return [
            f"{run.method}: {fault}"
            for run, probe in itertools.product(runs, self.asked())
            if (fault := probe.fault_of_run(run))
        ]


class Resources(Frozen):
    """What one job of a kind asks of the cluster; never part of a run's identity."""

    gpu: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of a node")
    mem_mb: Positive = Field(description="memory, MiB")
    runtime: Positive = Field(description="time limit, minutes")
    nodes: Positive = Field(1, description="machines of a job, by Slurm")
    tasks_per_node: Positive | None = Field(
        None, description="processes on each node; left out: one for each GPU"
    )

    @property
    def processes_per_node(self) -> int:
        """As many as a node gets that has what is asked for."""
        return self.tasks_per_node or max(1, self.gpu)

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return self.nodes * self.processes_per_node


class PretrainResources(Resources):
    """What a job that trains asks of the cluster, and over how many processes it spreads a batch.

    All of them together train as one process would, but for rounding.
    """

    accumulate: bool = Field(
        False,
        description="whether a process' parts of `local_statistics` pass one after another, for "
        "the memory of one of them and the time of another forward pass",
    )


class ProbeResources(Resources):
    """What a job that asks a milestone asks of the cluster.

    Several processes train its detectors, as one would, but for rounding; all else is done by one.
    """

    def fault_of_probes(self, probes: AskedProbes) -> str | None:
        """Why its processes cannot ask these probes; None if they can."""
        if self.processes == 1:
            return None
        if not any(each.of_processes for each in probes.asked()):
            return (
                f"resources.probe asks for {self.processes} processes, and what is asked of a "
                "milestone is done by one, but for detectors: give `gpu: 1`, and the time that it "
                "takes"
            )
        faults = (each.fault_of_processes(self.processes) for each in probes.asked())
        return next(filter(None, faults), None)


class JobResources(Frozen):
    """Resources of the two kinds of jobs that a study multiplies."""

    pretrain: PretrainResources
    probe: ProbeResources


def _is_one(value: int) -> bool:
    return value == 1


def _is_none(value: object) -> bool:
    return value is None


def _recipe_by_name(value: Any) -> Any:
    if isinstance(value, str):
        if value not in RECIPES:
            raise not_allowed("recipe", value, list(RECIPES))
        return RECIPES[value]
    return value


def _tag(model: type[Frozen]) -> str:
    """The name by which a study file chooses this optimizer or schedule."""
    (tag,) = get_args(model.model_fields["name"].annotation)
    return str(tag)


# Every model that a study file chooses by its `objective` or `name`.
TAGGED: dict[str, type[Frozen]] = {
    **METHODS,
    **{_tag(model): model for model in (*get_args(Optimizer), *get_args(Schedule))},
}


def _one_or_several(value: Any) -> Any:
    return [value] if isinstance(value, dict | Probe) else value


def _field(kind: type[Probe]) -> tuple[Any, Any]:
    """How a study asks a probe: by one set of settings, or a list of them."""
    several = tuple[kind, ...]  # type: ignore[valid-type]
    given = Annotated[
        several,
        BeforeValidator(_one_or_several, json_schema_input_type=kind | several),
        Field(min_length=1, strict=False),
    ]
    return given | None, None


if TYPE_CHECKING:
    MethodSettings = Method
    NamedRecipe = Recipe

    class Probes(AskedProbes):
        """What every milestone is asked; its fields are the names of `PROBES`."""

else:  # types that follow from the registries, for pydantic and the JSON schema
    MethodSettings = Annotated[
        functools.reduce(operator.or_, METHODS.values()), Field(discriminator="objective")
    ]
    NamedRecipe = Annotated[
        Recipe,
        BeforeValidator(_recipe_by_name, json_schema_input_type=Literal[tuple(RECIPES)] | Recipe),
    ]
    Probes = create_model(
        "Probes",
        __base__=AskedProbes,
        __module__=__name__,
        __doc__="What every milestone is asked: each probe once, or several times as a list.",
        **{name: _field(kind) for name, kind in PROBES.items()},
    )


class Run(Subject):
    """One pre-training: everything that decides its weights, and nothing else."""

    projector: Projector
    settings: MethodSettings
    embedding_dim: int
    batch_size: int
    optimizer: Optimizer = Field(discriminator="name")
    schedule: Schedule = Field(discriminator="name")
    epochs: int | None
    precision: Precision
    compiled: bool
    local_statistics: Positive = Field(1, exclude_if=_is_one)
    online_linear: OnlineClassifier | None = Field(None, exclude_if=_is_none)

    @property
    def name(self) -> str:
        """Readable identity within the study, e.g. `mix-d1024-e2000-clean-s1`."""
        length = "trunk" if self.epochs is None else f"e{self.epochs}"
        return f"{self.method}-d{self.embedding_dim}-{length}-{self.protocol}-s{self.seed}"

    def fault_of_processes(self, count: int) -> str | None:
        """Why `count` processes cannot train it together; None if they can."""
        shared = {
            "ranks": self.settings.virtual_ranks or count,
            "local_statistics": self.local_statistics if self.local_statistics > 1 else count,
            "batch_size": self.batch_size,
        }
        for what, number in shared.items():
            if number % count:
                return (
                    f"{count} processes cannot share {what} {number} evenly: let "
                    "resources.pretrain ask for a number that divides it"
                )
        return None

    @property
    def architecture(self) -> Architecture:
        """The network that is trained."""
        return Architecture(
            self.backbone,
            self.projector,
            self.embedding_dim,
            self.precision,
            self.online_linear.classes if self.online_linear else None,
        )

    @property
    def cooldown_epochs(self) -> int:
        """Epochs of the branch that anneals a milestone; 0 where the schedule anneals the run."""
        return self.schedule.cooldown_epochs if isinstance(self.schedule, Trunk) else 0


class ForeignRun(Subject):
    """Weights that were trained elsewhere: probed like a run's, trained never."""

    layout: Layout
    weights: str | None = None

    @model_serializer(mode="wrap")
    def _which_set_if_said(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not said leaves no trace, so that the key changes no text of a run without it.
        told: dict[str, Any] = whole(self)
        return {key: value for key, value in told.items() if key != "weights" or value is not None}

    @property
    def name(self) -> str:
        """Readable identity within the study, e.g. `mix-published-imported-clean`."""
        return f"{self.method}-imported-{self.protocol}"

    @property
    def architecture(self) -> Architecture:
        """The network that is probed: a backbone alone."""
        return Architecture(self.backbone, None, 0, "float32")


class Foreign(Frozen):
    """Existing weights that a study puts on its map."""

    layout: Layout = Field(description="how the file names its tensors; see docs/foreign.md")
    files: dict[Annotated[int, Field(ge=0)], str] = Field(
        min_length=1, description="epoch at which the weights were taken -> file"
    )
    backbone: Backbone | None = Field(None, description="if it is not the study's")
    weights: str | None = Field(
        None, description="which set of weights, where a file holds several, as state_dict_ema"
    )

    @field_validator("files", mode="before")
    @classmethod
    def _epochs_are_numbers(cls, value: Any) -> Any:
        # JSON, unlike YAML, has text for keys.
        if isinstance(value, dict):
            return {
                int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in value.items()
            }
        return value


class Every(Frozen):
    """Milestones at equal distances."""

    every: Positive = Field(description="epochs between two milestones")
    to: Positive = Field(description="the last one at most")

    def epochs(self) -> tuple[int, ...]:
        """From 0 on."""
        return tuple(range(0, self.to + 1, self.every))


def _spelled_out(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return Every.model_validate(value).epochs()
    except ValidationError as error:
        raise ValueError("expected a list of epochs, or such as {every: 5, to: 100}") from error


Epochs = tuple[Annotated[int, Field(ge=0)], ...]


class Overrides(Frozen):
    """What one method of a study has otherwise than the study says."""

    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="data.fraction")
    recipe: NamedRecipe | None = None
    backbone: Backbone | None = None
    projector: Projector | None = None
    embedding_dims: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)] | None = None
    batch_size: Annotated[int, Field(ge=2)] | None = None
    optimizer: Optimizer | None = Field(None, discriminator="name")
    schedule: Schedule | None = Field(None, discriminator="name")
    epochs: Positive | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="the first of the study's: a line beside the telling ones needs fewer"
    )
    online_linear: OnlineClassifier | None = None


class Study(Frozen):
    """The parameters of one map; see `params/` for examples and docs/studies.md for the words."""

    title: str = Field(min_length=1, description="one line for the report")
    data: Data
    image_size: Positive = Field(description="pixels a side of what the network sees")
    recipe: NamedRecipe = Field(
        description="augmentation and normalisation: a name of docs/recipes.md, or spelled out"
    )
    backbone: Backbone
    projector: Projector
    methods: dict[str, MethodSettings] = Field(
        default_factory=dict,
        description="name in runs and figures -> objective and its settings",
    )
    overrides: dict[str, Overrides] = Field(
        default_factory=dict,
        description="name of a method -> what it has otherwise than the study says",
    )
    foreign: dict[str, Foreign] = Field(
        default_factory=dict, description="name in figures -> existing weights to probe"
    )
    embedding_dims: Annotated[tuple[Positive, ...], Field(min_length=1, strict=False)] = Field(
        description="widths d of the embedding, each once"
    )
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = Field(
        min_length=1, description="seeds of the runs, each once"
    )
    epochs: Positive | None = Field(
        None, description="total; fixes the schedule. Left out where the schedule is trunk"
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(description="images a step")
    optimizer: Optimizer = Field(
        discriminator="name", description="what a step does with gradients"
    )
    schedule: Schedule = Field(discriminator="name", description="learning rate along training")
    milestones: Annotated[
        Epochs,
        BeforeValidator(_spelled_out, json_schema_input_type=Epochs | Every),
        Field(strict=False),
    ] = Field(
        min_length=2,
        description="epochs that are kept and probed, rising from 0: a list, or `every` so many "
        "`to` the last",
    )
    protocol: Protocol = Field(
        "clean", description="what is held out, and how probes are trained; see docs/fidelity.md"
    )
    probes: Probes
    threads: Positive = Field(
        description="CPU threads of a job; part of the run's identity, since sums depend on it"
    )
    precision: Precision = Field(
        "float32",
        description="what the network computes in during training; objectives, batch-norm "
        "statistics, weights and probes are float32 in any case",
    )
    compiled: bool = Field(
        False,
        description="whether views and, on a GPU, the network are compiled for training "
        "(torch.compile)",
    )
    local_statistics: Positive = Field(
        1,
        exclude_if=_is_one,
        description="equal parts of a batch that have batch-norm statistics of their own, as on so "
        "many GPUs without synchronised batch norm; 1: the whole batch has them in common",
    )
    online_linear: OnlineClassifier | None = Field(
        None,
        exclude_if=_is_none,
        description="a linear classifier that is trained along with each network, on the labels of "
        "its images, for the probe of that name; the network does not notice it",
    )
    seeds_together: Positive = Field(
        1,
        description="seeds that one job trains in turn, a step each, and one job probes: for runs "
        "that cannot fill a GPU, or that take less time than a job's start",
    )
    milestones_together: Positive = Field(
        1,
        description="milestones of a run that one job trains, one after another, and one job "
        "probes: for segments that take less time than a job's start",
    )
    resources: JobResources
    milestones_from: str | None = Field(
        None,
        exclude_if=_is_none,
        description="another study that trains these very runs: its milestones are taken, and "
        "nothing is trained",
    )
    data_mirrors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="folders or URLs that hold the data set's official files"
    )

    @field_validator("methods", "foreign")
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
        if not self.methods and not self.foreign:
            raise ValueError("nothing to map: give `methods` to train, or `foreign` weights")
        twice = sorted(set(self.methods) & set(self.foreign))
        if twice:
            raise ValueError(f"{twice[0]!r} names a method and foreign weights: rename one")
        if self.milestones_from and any(run.cooldown_epochs for run in self.trained()):
            raise ValueError(
                "milestones_from: under the schedule trunk milestones are annealed in branches, "
                "which cannot be taken; ask the other study's probes there"
            )
        for name in self.overrides:
            if name not in self.methods:
                raise not_allowed("method in overrides", name, list(self.methods))
        for name, seeds in ((name, own.seeds) for name, own in self.overrides.items()):
            # Of different seeds nothing could be paired, and the first are those that figures show.
            if seeds is not None and seeds != self.seeds[: len(seeds)]:
                raise ValueError(
                    f"overrides.{name}.seeds = {list(seeds)}: expected the first of the study's "
                    f"seeds, {list(self.seeds)}"
                )
        for foreign in self.imported():
            if foreign.backbone.name == "small":
                raise ValueError(
                    f"foreign.{foreign.method}: the backbone small exists in this project only; "
                    "give `backbone`, the one that the weights were trained in"
                )
            if foreign.backbone.timm is not None:
                raise ValueError(
                    f"foreign.{foreign.method}: files are read into torchvision's ResNets, "
                    f"not into {foreign.backbone.name}: give one of these as `backbone`"
                )
        for fault in self.probes.faults(self.protocol):
            raise ValueError(fault)
        for fault in self.probes.faults_of_runs(self.runs()):
            raise ValueError(fault)
        runs = self.trained()
        for run in runs:
            _check_run(run, self.milestones)
            if unfit := run.fault_of_processes(self.resources.pretrain.processes):
                raise ValueError(f"{run.method}: {unfit}")
        if spread := self.resources.probe.fault_of_probes(self.probes):
            raise ValueError(spread)
        if self.resources.pretrain.accumulate and self.local_statistics == 1:
            raise ValueError(
                "resources.pretrain.accumulate: the whole batch has its batch-norm statistics in "
                "common, which parts that pass one after another cannot have. Give "
                "`local_statistics`, the number of parts with statistics of their own, such as the "
                "GPUs of the recipe; this changes what is trained. Or leave `accumulate` out"
            )
        ends = [run.epochs for run in runs if run.epochs is not None]
        if len(ends) == len(runs) and ends and self.milestones[-1] > max(ends):
            raise ValueError(
                f"milestone {self.milestones[-1]} lies past the {max(ends)} epochs of training"
            )
        return self

    def trained(self) -> list[Run]:
        """The runs to train: the grid methods x embedding dims x seeds, in this order."""
        return [
            run
            for method, settings in self.methods.items()
            for run in self._runs_of(method, settings)
        ]

    def _runs_of(self, method: str, settings: Method) -> list[Run]:
        overrides = self.overrides.get(method, Overrides())
        given = {
            key: value
            for key in Overrides.model_fields
            if (value := getattr(overrides, key)) is not None
        }
        dims = given.pop("embedding_dims", self.embedding_dims)
        seeds = given.pop("seeds", self.seeds)
        fraction = given.pop("fraction", self.data.fraction)
        shared = {
            key: getattr(self, key)
            for key in Run.model_fields
            if key not in {"data", "method", "settings", "embedding_dim", "seed"}
        }
        shared |= given
        if isinstance(shared["schedule"], Trunk) and "epochs" not in given:
            shared["epochs"] = None
        data = self.data.model_copy(update={"fraction": fraction})
        return [
            Run(data=data, method=method, settings=settings, embedding_dim=dim, seed=seed, **shared)
            for dim, seed in itertools.product(dims, seeds)
        ]

    def groups(self) -> list[tuple[Run, ...]]:
        """The trained runs as jobs train and probe them: a group differs in its seeds only."""
        together = self.seeds_together
        lines = itertools.groupby(self.trained(), lambda run: (run.method, run.embedding_dim))
        return [
            seeds[first : first + together]
            for seeds in (tuple(runs) for _, runs in lines)
            for first in range(0, len(seeds), together)
        ]

    def stretches(self, run: Run) -> list[tuple[int, ...]]:
        """The milestones of a trained run as jobs make and probe them."""
        together, milestones = self.milestones_together, self.milestones_of(run)
        return [
            milestones[first : first + together] for first in range(0, len(milestones), together)
        ]

    @property
    def grouped(self) -> bool:
        """Whether some of its jobs work on several runs or milestones."""
        return any(len(group) > 1 or self.milestones_together > 1 for group in self.groups())

    def imported(self) -> list[ForeignRun]:
        """The chains of foreign weights."""
        return [
            ForeignRun(
                data=self.data,
                image_size=self.image_size,
                recipe=self.recipe,
                backbone=foreign.backbone or self.backbone,
                method=name,
                embedding_dim=None,
                protocol=self.protocol,
                threads=self.threads,
                seed=self.seeds[0],
                layout=foreign.layout,
                weights=foreign.weights,
            )
            for name, foreign in self.foreign.items()
        ]

    def runs(self) -> list[Run | ForeignRun]:
        """Everything on the map: what is trained, then what is imported."""
        return [*self.trained(), *self.imported()]

    def run(self, name: str) -> Run | ForeignRun:
        """The run of that name; raises StudyError with the nearest one."""
        runs = {run.name: run for run in self.runs()}
        if name not in runs:
            raise StudyError(str(not_allowed("run", name, list(runs))))
        return runs[name]

    def data_sets(self) -> list[DataSet]:
        """The study's images, then what its probes look at beside them."""
        return [self.data.data_set, *self.probes.data_sets(self.image_size)]

    def milestones_of(self, run: Run | ForeignRun) -> tuple[int, ...]:
        """The epochs at which a run is probed."""
        if isinstance(run, ForeignRun):
            return tuple(sorted(self.foreign[run.method].files))
        return tuple(m for m in self.milestones if run.epochs is None or m <= run.epochs)

    def trainer_of(self, name: str, run: Run | ForeignRun) -> str:
        """Which study makes a run's milestones: this one, called `name`, or whose it takes."""
        return self.milestones_from or name if isinstance(run, Run) else name

    def parent(self, epoch: int) -> int | None:
        """The milestone before `epoch`, None for the first; raises StudyError if it is none."""
        if epoch not in self.milestones:
            raise StudyError(f"{epoch} is no milestone; milestones: {list(self.milestones)}")
        place = self.milestones.index(epoch)
        return self.milestones[place - 1] if place else None


def _check_run(run: Run, milestones: tuple[int, ...]) -> None:
    """Raises ValueError if a run's parts do not go together."""
    if run.data.stored and (run.recipe.view_a.crop_last or run.recipe.view_b.crop_last):
        raise ValueError(
            f"{run.method}: a recipe with `crop_last` changes the colours of whole images, which "
            "with data.stored are cropped when they are decoded: take `stored_size`, or a recipe "
            "that crops first"
        )
    trunk = isinstance(run.schedule, Trunk)
    if trunk == (run.epochs is not None):
        raise ValueError(
            f"{run.method}: leave `epochs` out, the schedule trunk has no end"
            if trunk
            else f"{run.method}: `epochs` is missing; only the schedule trunk does without"
        )
    if run.epochs is None:
        if run.settings.needs_an_end:
            raise ValueError(
                f"{run.method}: {run.settings.objective} follows the share of training done, "
                "which the schedule trunk does not know; take another schedule"
            )
    else:
        if milestones[1] > run.epochs:
            raise ValueError(
                f"{run.method}: no milestone but 0 lies within its {run.epochs} epochs"
            )
        warmup = getattr(run.schedule, "warmup_epochs", 0)
        if warmup >= run.epochs:
            raise ValueError(
                f"{run.method}: schedule.warmup_epochs ({warmup}) must be below epochs "
                f"({run.epochs})"
            )
    if run.batch_size % run.local_statistics or run.batch_size < 2 * run.local_statistics:
        raise ValueError(
            f"{run.method}: batch_size {run.batch_size} has no {run.local_statistics} equal parts "
            "of two images or more; give another local_statistics"
        )
    if run.online_linear:
        _check_classifier(run, run.online_linear)
    try:
        run.settings.check(run.batch_size, run.embedding_dim)
    except ValueError as error:
        raise ValueError(f"{run.method}: {error}") from error


def _check_classifier(run: Run, asked: OnlineClassifier) -> None:
    """Raises ValueError if a linear classifier cannot be trained along with a run."""
    known = run.data.data_set.classes
    if known is not None and asked.classes != known:
        raise ValueError(
            f"{run.method}: online_linear.classes is {asked.classes}, but {run.data.name} has "
            f"{known}"
        )
    if run.local_statistics > 1:
        raise ValueError(
            f"{run.method}: online_linear takes features with the statistics of the whole batch: "
            "leave `local_statistics` out, or `online_linear`"
        )
