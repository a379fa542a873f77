"""Snakemake's resources of one job -> what submitit is asked for.

The names are those of Snakemake's own Slurm executor, so that a profile serves both:

=====================  ==================================================================
``threads``            CPUs of one task
``mem_mb``             memory of a node, MiB
``mem_mb_per_cpu``     memory of a CPU, MiB; wins over ``mem_mb``, which Snakemake presets
``runtime``            time limit, minutes (Snakemake converts "2h")
``gpu``, ``gpu_model`` GPUs of a node, and their type as the cluster calls it
``gres``               other generic resources of a node, instead of ``gpu``
``nodes``              number of nodes (default 1)
``tasks_per_node``     tasks on each node (default 1)
``slurm_partition``, ``slurm_account``, ``qos``, ``constraint``
                       as sbatch's options of these names
``slurm_extra``        further sbatch options, "--exclusive --mail-type=END"
=====================  ==================================================================

All functions are pure.  A wrong value raises ``WorkflowError`` with the rule, the resource, the
value, and what was expected.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

# Resources that nobody reads here but that look as if they were: the name to use instead.
_MISNAMED = {
    "gpus": "gpu",
    "cpus_per_task": "threads",
    "partition": "slurm_partition",
    "account": "slurm_account",
    "slurm_qos": "qos",
    "slurm_constraint": "constraint",
    "slurm_gres": "gres",
    "ntasks_per_node": "tasks_per_node",
}

# sbatch options that the plugin or submitit sets; `slurm_extra` must not contradict them.
_RESERVED_OPTIONS = {
    "account": "slurm_account",
    "constraint": "constraint",
    "cpus-per-task": "threads",
    "gpus": "gpu",
    "gpus-per-node": "gpu",
    "gres": "gres",
    "mem": "mem_mb",
    "mem-per-cpu": "mem_mb_per_cpu",
    "nodes": "nodes",
    "ntasks-per-node": "tasks_per_node",
    "partition": "slurm_partition",
    "qos": "qos",
    "time": "runtime",
    "array": None,
    "error": None,
    "job-name": None,
    "open-mode": None,
    "output": None,
    "signal": None,
    "wrap": None,
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
    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    extra: Mapping[str, str | bool]

    @property
    def cpus_per_node(self) -> int:
        return self.cpus_per_task * self.tasks_per_node

    @property
    def gpus_per_node(self) -> int:
        """GPUs, whether asked for by ``gpu`` or by ``gres``."""
        parts = [part.split(":") for part in (self.gres or "").split(",")]
        in_gres = [int(p[-1]) if p[-1].isdigit() else 1 for p in parts if p[0] == "gpu"]
        return self.gpus + sum(in_gres)

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
    cpus = reader.whole("threads", 1, "CPUs")
    assert cpus is not None
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
    return Request(
        rule=rule,
        cpus_per_task=cpus,
        mem_mb=reader.whole("mem_mb", 1, "MiB"),
        mem_mb_per_cpu=reader.whole("mem_mb_per_cpu", 1, "MiB"),
        runtime_min=reader.whole("runtime", 1, "minutes"),
        gpus=gpus,
        gpu_model=gpu_model,
        gres=gres,
        nodes=reader.whole("nodes", 1, "nodes") or 1,
        tasks_per_node=reader.whole("tasks_per_node", 1, "tasks") or 1,
        partition=reader.text("slurm_partition"),
        account=reader.text("slurm_account"),
        qos=reader.text("qos"),
        constraint=reader.text("constraint"),
        extra=_read_extra(reader, resources.get("slurm_extra")),
    )


def _read_extra(reader: _Reader, value: Any) -> dict[str, str | bool]:
    """``--flag``, ``--key=value`` and ``--key value`` as {key: value or True}."""
    if value is None:
        return {}
    expected = 'sbatch options in their long form, such as "--exclusive --mail-type=END"'
    if not isinstance(value, str):
        raise reader.error("slurm_extra", expected)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise reader.error("slurm_extra", f"{expected} ({error})") from error
    options: dict[str, str | bool] = {}
    for position, word in enumerate(words):
        if not word.startswith("-"):
            if position == 0 or options.get(words[position - 1][2:]) is not True:
                raise reader.error("slurm_extra", f"{expected}; {word!r} belongs to no option")
            options[words[position - 1][2:]] = word
            continue
        match = re.fullmatch(r"--([a-z][a-z0-9-]+)(?:=(.+))?", word, flags=re.DOTALL)
        if match is None:
            raise reader.error("slurm_extra", f"{expected}; {word!r} is not one")
        key, assigned = match.groups()
        if key in _RESERVED_OPTIONS:
            instead = _RESERVED_OPTIONS[key]
            advice = f"the resource `{instead}` instead" if instead else "it left to the plugin"
            raise reader.error("slurm_extra", f"no --{key}, but {advice}")
        options[key] = True if assigned is None else assigned
    return options


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
    Raises ``WorkflowError`` if there is no time limit: submitit would ask for 5 minutes, and
    without a limit no job could be told to save before it.
    """
    if request.runtime_min is None:
        raise WorkflowError(
            f"Rule {request.rule}: resource runtime is missing; expected the time limit in minutes "
            "or such as '2h'. Set it in the rule or for all rules in the profile: "
            "`default-resources: [runtime=60]`."
        )
    # srun does not inherit sbatch's --cpus-per-task since Slurm 22.05.
    srun_args = [f"--cpus-per-task={request.cpus_per_task}"]
    if request.nodes * request.tasks_per_node > 1:
        # The command is run once, not once a task: it starts the other tasks itself.
        srun_args += ["--nodes=1", "--ntasks=1"]
    gres = request.gres
    if request.gpu_model is not None:
        gres = f"gpu:{request.gpu_model}:{request.gpus}"
    extra = dict(request.extra)
    if "no-requeue" not in extra:
        extra["requeue"] = True
    if excluded_nodes and "nodelist" not in extra:
        asked = [str(extra["exclude"])] if "exclude" in extra else []
        extra["exclude"] = ",".join([*asked, *excluded_nodes])
    per_cpu = request.mem_mb_per_cpu
    return _without_none(
        {
            "time": request.runtime_min,
            "cpus_per_task": request.cpus_per_task,
            "mem": f"{request.mem_mb}M" if request.mem_mb and per_cpu is None else None,
            "mem_per_cpu": None if per_cpu is None else f"{per_cpu}M",
            "gpus_per_node": request.gpus if request.gpus and gres is None else None,
            "gres": gres,
            "nodes": request.nodes,
            "ntasks_per_node": request.tasks_per_node,
            "partition": request.partition,
            "account": request.account,
            "qos": request.qos,
            "constraint": request.constraint,
            "signal_delay_s": signal_delay_s(wanted_signal_delay_s, request.runtime_min),
            "srun_args": srun_args,
            "additional_parameters": extra,
            "stderr_to_stdout": True,
        }
    )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
