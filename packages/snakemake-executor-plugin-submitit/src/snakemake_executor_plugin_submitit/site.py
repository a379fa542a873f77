"""What a Slurm cluster says about itself, asked once: its name, its limits, its partitions."""

from __future__ import annotations

import re
from collections.abc import Callable

# Minutes that a job without `runtime` gets where its partition has neither a default nor a limit.
RUNTIME_MIN = 24 * 60


def parse_config(text: str) -> dict[str, str]:
    """By name, from ``scontrol show config``."""
    lines = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


def parse_partitions(text: str) -> dict[str, dict[str, str]]:
    """By partition and name, from ``scontrol --oneliner show partition``."""
    rows = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in text.splitlines()]
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def minutes(text: str) -> int | None:
    """Slurm's "days-hours:minutes:seconds", rounded up; None for none and for UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, whole, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + whole + (seconds > 0)


class Site:
    """The cluster.  Facts are asked for when they are first needed, by any thread.

    ``ask`` calls scontrol, and waits for a controller that does not answer; None from it means that
    scontrol tells nothing here.  What it raises, all methods do.
    """

    def __init__(self, ask: Callable[[list[str]], str | None]) -> None:
        self._ask = ask
        self._answers: dict[str, str] = {}

    @property
    def name(self) -> str | None:
        return self._config().get("ClusterName")

    @property
    def max_array_size(self) -> int | None:
        """The number of jobs in the largest array; 0 if there are no arrays."""
        found = self._config().get("MaxArraySize", "")
        return int(found) if found.isdigit() else None

    @property
    def hides_jobs(self) -> bool:
        """Whether users may not see each other's jobs."""
        return "jobs" in self._config().get("PrivateData", "")

    def runtime_min(self, partitions: str | None) -> tuple[int, str]:
        """Minutes for a job that asks for no time limit, and where they come from.

        ``partitions`` are as sbatch takes them; of several the least counts, as any may be taken.
        """
        known = parse_partitions(self._told(["scontrol", "--oneliner", "show", "partition"]))
        wanted = partitions.split(",") if partitions else []
        rows = [known[name] for name in wanted if name in known]
        if not wanted:
            rows = [row for row in known.values() if row.get("Default") == "YES"]
        found = [
            (limit, f"{name} of partition {row['PartitionName']}")
            for row in rows
            for name in ("DefaultTime", "MaxTime")
            if (limit := minutes(row.get(name, ""))) is not None
        ]
        defaults = [each for each in found if each[1].startswith("Default")]
        return min(defaults or found, default=(RUNTIME_MIN, "this executor's default"))

    def _config(self) -> dict[str, str]:
        return parse_config(self._told(["scontrol", "show", "config"]))

    def _told(self, command: list[str]) -> str:
        key = " ".join(command)
        # Without a lock: a thread that waits for Slurm must not hold up the others.
        if key not in self._answers and (said := self._ask(command)) is not None:
            self._answers[key] = said
        return self._answers.get(key, "")
