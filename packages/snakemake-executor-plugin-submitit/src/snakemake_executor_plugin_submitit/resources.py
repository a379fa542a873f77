"""Snakemake's resources of one job -> what submitit is asked for.

The names are those of Snakemake's own Slurm executor, so that a profile serves both:

=====================  ==================================================================
``threads``            CPUs of one task
``cpus_per_task``      the same, wins over ``threads``
``cpus_per_gpu``       CPUs for each GPU, shared by the tasks of a node; wins over ``threads``
``mem_mb``             memory of a node, MiB
``mem_mb_per_cpu``     memory of a CPU, MiB; wins over ``mem_mb``, which Snakemake presets
``runtime``            time limit, minutes (Snakemake converts "2h")
``gpu``, ``gpu_model`` GPUs of a node, and their type as the cluster calls it
``gres``               other generic resources of a node, instead of ``gpu``
``nodes``              number of nodes (default 1)
``tasks_per_node``     tasks on each node (default 1)
``tasks``              tasks in all, or of each GPU if there are some; instead of the former
``tasks_per_gpu``      tasks of each GPU
``mpi``                the command that starts the tasks, for the rule's own use
``slurm_partition``, ``slurm_account``, ``qos``, ``constraint``, ``reservation``
                       as sbatch's options of these names
``cluster``            the cluster's own name; no other can be asked for
``slurm_extra``        further sbatch options, "--exclusive --mail-type=END -x n7"
=====================  ==================================================================

All functions are pure.  A wrong value raises ``WorkflowError`` with the rule, the resource, the
value, and what was expected.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

# Resources that nobody reads here but that look as if they were: the name to use instead.
_MISNAMED = {
    "gpus": "gpu",
    "ntasks": "tasks",
    "partition": "slurm_partition",
    "account": "slurm_account",
    "slurm_qos": "qos",
    "slurm_constraint": "constraint",
    "slurm_gres": "gres",
    "slurm_reservation": "reservation",
    "ntasks_per_node": "tasks_per_node",
    "ntasks_per_gpu": "tasks_per_gpu",
}
# All that are read and start so; another one would be ignored in silence.
_OF_SLURM = {"slurm_partition", "slurm_account", "slurm_extra", "slurm_cluster"}

# sbatch options that the plugin or submitit sets; `slurm_extra` must not contradict them.
_RESERVED_OPTIONS = {
    "account": "slurm_account",
    "constraint": "constraint",
    "clusters": "cluster",
    "cpus-per-gpu": "cpus_per_gpu",
    "cpus-per-task": "threads",
    "gpus": "gpu",
    "gpus-per-node": "gpu",
    "gres": "gres",
    "mem": "mem_mb",
    "mem-per-cpu": "mem_mb_per_cpu",
    "nodes": "nodes",
    "ntasks": "tasks",
    "ntasks-per-gpu": "tasks_per_gpu",
    "ntasks-per-node": "tasks_per_node",
    "tasks-per-node": "tasks_per_node",
    "partition": "slurm_partition",
    "qos": "qos",
    "reservation": "reservation",
    "time": "runtime",
    "array": None,
    "chdir": None,
    "error": None,
    "export": None,
    "export-file": None,
    "help": None,
    "input": None,
    "job-name": None,
    "open-mode": None,
    "output": None,
    "parsable": None,
    "quiet": None,
    "signal": None,
    "test-only": None,
    "usage": None,
    "version": None,
    "wait": None,
    "wrap": None,
}

# Of which sbatch takes one: what a rule asks for leaves no room for another from the environment.
_ALTERNATIVES = (
    {"mem", "mem-per-cpu", "mem-per-gpu"},
    {"gpus", "gpus-per-node", "gpus-per-task", "gres"},
    {"requeue", "no-requeue"},
)
# The variables that sbatch reads in place of options and whose names are not made of theirs.
_VARIABLES = {
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_WORKDIR": "chdir",
}

# sbatch's short options, those with a value and those without.
_SHORT = {
    "A": "account",
    "a": "array",
    "B": "extra-node-info",
    "b": "begin",
    "C": "constraint",
    "c": "cpus-per-task",
    "D": "chdir",
    "d": "dependency",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "i": "input",
    "J": "job-name",
    "L": "licenses",
    "M": "clusters",
    "m": "distribution",
    "N": "nodes",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "S": "core-spec",
    "t": "time",
    "w": "nodelist",
    "x": "exclude",
}
_SHORT_FLAGS = {
    "H": "hold",
    "h": "help",
    "k": "no-kill",
    "O": "overcommit",
    "Q": "quiet",
    "s": "oversubscribe",
    "V": "version",
    "v": "verbose",
    "W": "wait",
}

_GRES = re.compile(r"[\w.+-]+(:[\w.+-]+)?(:\d+)?(,[\w.+-]+(:[\w.+-]+)?(:\d+)?)*")
_GPU_MODEL = re.compile(r"[\w.+-]+")


@dataclass(frozen=True)
class Request:
    """The resources of one job, checked.  ``None`` means: not asked for."""

    rule: str
    cpus_per_task: int
    mem_mb: int | None
    mem_mb_per_cpu: int | None
    runtime_min: int | None
    gpus: int
    gpu_model: str | None
    gres: str | None
    nodes: int
    tasks_per_node: int
    tasks: int | None
    mpi: str | None
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    reservation: str | None
    cluster: str | None
    extra: Mapping[str, str | bool]

    @property
    def all_tasks(self) -> int:
        return self.tasks or self.nodes * self.tasks_per_node

    @property
    def starts_tasks(self) -> bool:
        """Whether the command, which runs once, starts others on the whole allocation."""
        return self.all_tasks > 1 or self.nodes > 1 or self.mpi is not None

    @property
    def cpus_per_node(self) -> int:
        """CPUs of a node; of several nodes without a number of tasks each, all CPUs."""
        return self.cpus_per_task * (self.tasks or self.tasks_per_node)

    @property
    def gpus_per_task(self) -> int:
        """GPUs that belong to one task alone; 0 if tasks share them or there are none."""
        gpus, rest = divmod(self.gpus_per_node, self.tasks_per_node)
        return 0 if rest or self.tasks else gpus

    @property
    def gpus_per_node(self) -> int:
        """GPUs, whether asked for by ``gpu`` or by ``gres``."""
        return self.gpus + _gpus_in(self.gres)

    @property
    def memory(self) -> str:
        """How much memory was asked for, for people."""
        if self.mem_mb_per_cpu is not None:
            return f"the {self.mem_mb_per_cpu} MiB a CPU that it asked for"
        if self.mem_mb is not None:
            return f"the {self.mem_mb} MiB that it asked for"
        return "the partition gives to a job that asks for none"


class _Reader:
    """Reads typed values out of one job's resources and words the errors."""

    def __init__(self, rule: str, values: Mapping[str, Any]) -> None:
        self._rule = rule
        self._values = values

    def error(self, name: str, expected: str) -> WorkflowError:
        return WorkflowError(
            f"Rule {self._rule}: resource {name}={self._values.get(name)!r} cannot be used; "
            f"expected {expected}. Correct it in the rule, in the profile's `set-resources:` or "
            "in `default-resources:`."
        )

    def whole(self, name: str, least: int, unit: str) -> int | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(name, f"a whole number of {unit}, {least} or more")
        return value

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None:
            return None
        # An account or a QOS may be all digits, which Snakemake hands over as a number.
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise self.error(name, "a word, as sbatch takes it")
        if re.search(r"\s", str(value)):
            raise self.error(name, "one word without spaces, as sbatch takes it")
        return str(value)


def read_request(rule: str, threads: int, resources: Mapping[str, Any]) -> Request:
    """Checks the resources of one job of ``rule``.

    Resources under other names are not looked at: they may limit Snakemake's own scheduling.
    Raises ``WorkflowError`` for a wrong, contradictory or misnamed one.
    """
    reader = _Reader(rule, {**resources, "threads": threads})
    for name, instead in _MISNAMED.items():
        if resources.get(name) is not None:
            raise reader.error(name, f"the name `{instead}`, as nothing reads `{name}`")
    for name in resources.keys():  # noqa: SIM118 (iterating Snakemake's own type gives its values)
        if name.startswith("slurm_") and name not in _OF_SLURM:
            read = ", ".join(sorted(_OF_SLURM))
            raise reader.error(name, f"one of {read}, as nothing reads `{name}`")
    gpus = reader.whole("gpu", 0, "GPUs") or 0
    gpu_model = reader.text("gpu_model")
    gres = reader.text("gres")
    if gres is not None and gpus:
        raise reader.error("gres", f"either `gres` or `gpu`, but gpu={gpus} is asked for too")
    if gres is not None and not _GRES.fullmatch(gres):
        raise reader.error("gres", "name[:type][:count], several separated by commas")
    if gpu_model is not None and not gpus:
        raise reader.error("gpu_model", "a `gpu` count of 1 or more beside it")
    if gpu_model is not None and not _GPU_MODEL.fullmatch(gpu_model):
        raise reader.error("gpu_model", "the type's name only; the count goes into `gpu`")
    gpus_per_node = gpus + _gpus_in(gres)
    tasks, tasks_per_node = _read_tasks(reader, gpus_per_node)
    nodes = reader.whole("nodes", 1, "nodes") or 1
    mpi = resources.get("mpi") or None
    if mpi is not None and (tasks or nodes * tasks_per_node) == 1:
        raise reader.error("mpi", "more than one of `tasks` or `tasks_per_node` beside it")
    return Request(
        rule=rule,
        cpus_per_task=_read_cpus(reader, gpus_per_node, tasks_per_node),
        mem_mb=reader.whole("mem_mb", 1, "MiB"),
        mem_mb_per_cpu=reader.whole("mem_mb_per_cpu", 1, "MiB"),
        runtime_min=reader.whole("runtime", 1, "minutes"),
        gpus=gpus,
        gpu_model=gpu_model,
        gres=gres,
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        tasks=tasks,
        mpi=None if mpi is None else str(mpi),
        partition=reader.text("slurm_partition"),
        account=reader.text("slurm_account"),
        qos=reader.text("qos"),
        constraint=reader.text("constraint"),
        reservation=reader.text("reservation"),
        cluster=reader.text("cluster") or reader.text("clusters") or reader.text("slurm_cluster"),
        extra=_read_extra(reader, resources.get("slurm_extra")),
    )


def _read_tasks(reader: _Reader, gpus_per_node: int) -> tuple[int | None, int]:
    """The tasks in all, if asked for so, and those of a node."""
    of_node = reader.whole("tasks_per_node", 1, "tasks")
    of_gpu = reader.whole("tasks_per_gpu", 1, "tasks")
    tasks = reader.whole("tasks", 1, "tasks")
    given = {"tasks": tasks, "tasks_per_node": of_node, "tasks_per_gpu": of_gpu}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise reader.error(names[0], f"it alone, but {names[1]}={given[names[1]]} is asked for too")
    if of_gpu is not None and not gpus_per_node:
        raise reader.error("tasks_per_gpu", "GPUs beside it, by `gpu` or by `gres`")
    if tasks is not None and gpus_per_node:
        of_gpu, tasks = tasks, None
    if of_gpu is not None:
        return None, gpus_per_node * of_gpu
    return tasks, of_node or 1


def _read_cpus(reader: _Reader, gpus_per_node: int, tasks_per_node: int) -> int:
    """The CPUs of a task."""
    of_task = reader.whole("cpus_per_task", 1, "CPUs")
    of_gpu = reader.whole("cpus_per_gpu", 1, "CPUs")
    threads = reader.whole("threads", 1, "CPUs")
    assert threads is not None
    if of_task is not None and of_gpu is not None:
        raise reader.error(
            "cpus_per_gpu", f"it alone, but cpus_per_task={of_task} is asked for too"
        )
    if of_gpu is not None and not gpus_per_node:
        raise reader.error("cpus_per_gpu", "GPUs beside it, by `gpu` or by `gres`")
    if of_gpu is not None:
        return -(-of_gpu * gpus_per_node // tasks_per_node)
    return of_task or threads


def _gpus_in(gres: str | None) -> int:
    parts = [part.split(":") for part in (gres or "").split(",")]
    return sum(int(p[-1]) if p[-1].isdigit() else 1 for p in parts if p[0] == "gpu")


def _read_extra(reader: _Reader, value: Any) -> dict[str, str | bool]:
    """``--flag``, ``--key=value``, ``--key value`` and short ones as {long key: value or True}."""
    if value is None:
        return {}
    expected = 'sbatch options, such as "--exclusive --mail-type=END -x n7"'
    if not isinstance(value, str):
        raise reader.error("slurm_extra", expected)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise reader.error("slurm_extra", f"{expected} ({error})") from error
    options: dict[str, str | bool] = {}
    open_key = ""  # of an option that may have its value in the next word
    for word in words:
        if not word.startswith("-"):
            if not open_key:
                raise reader.error("slurm_extra", f"{expected}; {word!r} belongs to no option")
            options[open_key] = word
            open_key = ""
            continue
        key, assigned = _option(word)
        if not key:
            raise reader.error("slurm_extra", f"{expected}; {word!r} is not one")
        reserved = _reserved(key)
        if reserved is not None:
            instead = _RESERVED_OPTIONS[reserved]
            advice = f"the resource `{instead}` instead" if instead else "it left to the plugin"
            raise reader.error("slurm_extra", f"no --{reserved}, but {advice}")
        options[key] = True if assigned is None else assigned
        open_key = key if assigned is None and word[1:] not in _SHORT_FLAGS else ""
    return options


def _reserved(key: str) -> str | None:
    """The reserved option that sbatch takes ``--key`` for: it completes what is cut short.

    No other option of sbatch is the beginning of a reserved one.
    """
    if key in _RESERVED_OPTIONS:
        return key
    return next((name for name in _RESERVED_OPTIONS if name.startswith(key)), None)


def _option(word: str) -> tuple[str, str | None]:
    """The long name in ``--key``, ``--key=value``, ``-k`` or ``-kvalue``, and the value."""
    match = re.fullmatch(r"--([a-z][a-z0-9-]+)(?:=(.+))?", word, flags=re.DOTALL)
    if match is not None:
        return match.group(1), match.group(2)
    if word[1:] in _SHORT_FLAGS:
        return _SHORT_FLAGS[word[1:]], None
    return _SHORT.get(word[1:2], ""), word[2:] or None


def signal_delay_s(wanted_s: int, runtime_min: int) -> int:
    """Seconds before the time limit for SIGUSR2: as wanted, but at most half of the limit."""
    return min(wanted_s, runtime_min * 60 // 2)


def save_grace_s(delay_s: int) -> float:
    """Seconds a command may take to stop after SIGUSR2.

    The last quarter of the delay is left for writing submitit's files and for the requeue.
    """
    return 0.75 * delay_s


def slurm_parameters(
    request: Request, wanted_signal_delay_s: int, excluded_nodes: Sequence[str] = ()
) -> dict[str, Any]:
    """The parameters of ``submitit.SlurmExecutor`` for one job, but for its name.

    ``excluded_nodes`` are kept away from, unless the job asks for certain nodes itself.
    ``request.runtime_min`` must be known: without a limit no job could be told to save before it.

    A job of one task runs in a step, since Slurm signals steps.  One that starts tasks by itself
    runs as the batch script, in which plain ``srun`` has the whole allocation: Slurm sends SIGUSR2
    to it alone (``B:``) and srun hands that on to the tasks, once; they get SIGTERM from Slurm.
    """
    assert request.runtime_min is not None
    delay_s = signal_delay_s(wanted_signal_delay_s, request.runtime_min)
    gres = request.gres
    if request.gpu_model is not None:
        gres = f"gpu:{request.gpu_model}:{request.gpus}"
    extra = dict(request.extra)
    if "no-requeue" not in extra:
        extra["requeue"] = True
    if excluded_nodes and "nodelist" not in extra:
        asked = [str(extra["exclude"])] if "exclude" in extra else []
        extra["exclude"] = ",".join([*asked, *excluded_nodes])
    if request.reservation is not None:
        extra["reservation"] = request.reservation
    if request.tasks is not None:
        extra["ntasks"] = str(request.tasks)
    if request.starts_tasks:
        extra["signal"] = f"B:USR2@{delay_s}"
        launch: dict[str, Any] = {"use_srun": False, "setup": _settings_of_srun(request)}
    else:
        # srun does not inherit sbatch's --cpus-per-task since Slurm 22.05.
        launch = {"srun_args": [f"--cpus-per-task={request.cpus_per_task}"]}
    per_cpu = request.mem_mb_per_cpu
    return _without_none(
        {
            **launch,
            "time": request.runtime_min,
            "cpus_per_task": request.cpus_per_task,
            "mem": f"{request.mem_mb}M" if request.mem_mb and per_cpu is None else None,
            "mem_per_cpu": None if per_cpu is None else f"{per_cpu}M",
            "gpus_per_node": request.gpus if request.gpus and gres is None else None,
            "gres": gres,
            "nodes": request.nodes,
            "ntasks_per_node": None if request.tasks else request.tasks_per_node,
            "partition": request.partition,
            "account": request.account,
            "qos": request.qos,
            "constraint": request.constraint,
            "signal_delay_s": delay_s,
            "additional_parameters": extra,
            "stderr_to_stdout": True,
        }
    ) | {"wckey": None}  # submitit's own would replace the user's, or be refused


def overriding_variables(parameters: Mapping[str, Any], variables: Iterable[str]) -> list[str]:
    """Those of sbatch's own ``variables`` that would change what ``parameters`` ask for.

    sbatch follows its environment rather than its script.  A variable for what a rule leaves open
    stays, as the user's default; one for what the plugin keeps to itself never does.
    """
    asked = {name for name, value in parameters.items() if value is not None}
    asked |= parameters["additional_parameters"].keys()
    options = {name.replace("_", "-") for name in asked}
    for alternatives in _ALTERNATIVES:
        if options & alternatives:
            options |= alternatives
    options |= {name for name, instead in _RESERVED_OPTIONS.items() if instead in (None, "cluster")}
    return [name for name in variables if name.startswith("SBATCH_") and _set_by(name) in options]


def _set_by(variable: str) -> str:
    """The option that sbatch reads the variable in place of."""
    return _VARIABLES.get(variable, variable.removeprefix("SBATCH_").lower().replace("_", "-"))


def _settings_of_srun(request: Request) -> list[str]:
    """Lines of the batch script by which plain ``srun`` starts the job's tasks as they are meant.

    Ranks in the order of the nodes, unless the job asks for another one; each task its own GPUs
    where they can be shared out; and one task that fails ends the others.
    """
    settings: dict[str, str | int] = {
        "SRUN_CPUS_PER_TASK": request.cpus_per_task,
        "SLURM_KILL_BAD_EXIT": 1,
    }
    if "distribution" not in request.extra:
        settings["SLURM_DISTRIBUTION"] = "block"
    if request.gpus_per_task:
        settings["SLURM_GPUS_PER_TASK"] = request.gpus_per_task
    # A SIGUSR2 before submitit handles it would end the shell; Slurm sends it up to 60 s early.
    return ["trap '' USR2", *(f"export {name}={value}" for name, value in settings.items())]


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
