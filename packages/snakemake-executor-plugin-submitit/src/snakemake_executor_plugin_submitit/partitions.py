"""Which partition a job goes to that names none, by a YAML file of the partitions' limits.

The file is that of Snakemake's own Slurm executor (``--slurm-partition-config``)::

    partitions:
      short: {max_runtime: 120, max_threads: 32}
      gpu: {max_runtime: 1d, max_gpu: 4, available_gpu_models: [a100]}

A limit that is not named does not bind, but for ``max_gpu``, which is 0 then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import yaml
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.resources import Request

_OPTION = "--submitit-partition-config"
_CLUSTER = ("cluster", "clusters", "slurm_cluster")
_TEXT = ("available_gpu_models", "available_constraints", "supports_mpi", *_CLUSTER)
_NUMBERS = (
    *("max_runtime", "max_mem_mb", "max_mem_mb_per_cpu", "max_cpus_per_task", "max_threads"),
    *("max_nodes", "max_tasks", "max_tasks_per_node", "max_mpi_tasks", "max_gpu"),
    "max_cpus_per_gpu",
)
_UNITS = {"s": 1 / 60, "m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}


def read_partitions(file: Path) -> dict[str, dict[str, Any]]:
    """The limits by partition, times in minutes.

    Raises ``WorkflowError`` for a file that cannot be read and for a limit that nothing reads.
    """
    try:
        read = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise WorkflowError(f"{_OPTION} {file} cannot be read: {error}") from error
    partitions = read.get("partitions") if isinstance(read, dict) else None
    if not isinstance(partitions, dict) or not all(
        isinstance(limits, dict) for limits in partitions.values()
    ):
        raise WorkflowError(
            f"{_OPTION} {file} has no partitions; expected `partitions:` with "
            "one mapping of limits for each."
        )
    for name, limits in partitions.items():
        for key, value in limits.items():
            if key == "max_runtime":
                limits[key] = _minutes(value)
            if key not in (*_TEXT, *_NUMBERS) or (
                key in _NUMBERS and not isinstance(limits[key], int | float)
            ):
                raise WorkflowError(
                    f"{_OPTION} {file}: {key}={value!r} of partition {name} "
                    f"cannot be used; expected {', '.join((*_NUMBERS, *_TEXT))}, the limits as "
                    "numbers, a time also as '1d12h' or '1-12:00:00'."
                )
    return partitions


def _minutes(value: Any) -> Any:
    """Of a number, "60", "2d12h30m", "2-12", "12:30" or "2-12:30:00"; anything else as it is."""
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"(\d+(\.\d+)?[smhdw])+", text):
        parts = re.findall(r"([\d.]+)([smhdw])", text)
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    found = re.fullmatch(r"(?:(\d+)-(?=\d+)|(?=\d+:))(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60


def fitting_partition(request: Request, partitions: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The partition that the job fits into and that allows the least; None if it fits into none.

    The least: without GPUs for a job without, then the shortest limit of time, then the first one
    in the file.
    """
    fitting = [name for name, limits in partitions.items() if _fits(request, limits)]
    return min(
        fitting,
        key=lambda name: (
            partitions[name].get("max_gpu", 0),
            partitions[name].get("max_runtime", inf),
        ),
        default=None,
    )


def _fits(request: Request, limits: Mapping[str, Any]) -> bool:
    asked: dict[str, float | None] = {
        "max_runtime": request.runtime_min,
        "max_mem_mb": request.mem_mb if request.mem_mb_per_cpu is None else None,
        "max_mem_mb_per_cpu": request.mem_mb_per_cpu,
        "max_cpus_per_task": request.cpus_per_task,
        "max_threads": request.cpus_per_task,
        "max_nodes": request.nodes,
        "max_tasks": request.all_tasks,
        "max_tasks_per_node": request.tasks_per_node,
        "max_mpi_tasks": request.all_tasks if request.mpi is not None else None,
        "max_cpus_per_gpu": (
            request.cpus_per_node / request.gpus_per_node if request.gpus_per_node else None
        ),
    }
    within = all((value or 0) <= limits.get(name, inf) for name, value in asked.items())
    cluster = next((limits[key] for key in _CLUSTER if key in limits), None)
    models = limits.get("available_gpu_models")
    features = limits.get("available_constraints")
    wanted = [word.strip() for word in (request.constraint or "").split(",") if word.strip()]
    return (
        within
        and request.gpus_per_node <= limits.get("max_gpu", 0)
        and cluster == request.cluster
        and (request.mpi is None or bool(limits.get("supports_mpi", True)))
        and (request.gpu_model is None or not models or request.gpu_model in models)
        and (not features or all(word in features for word in wanted))
    )
