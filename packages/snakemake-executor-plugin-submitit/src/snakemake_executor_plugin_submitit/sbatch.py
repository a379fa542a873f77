"""One call of sbatch: a single job, or an array of jobs that ask for the same.

Imports submitit, so this module is imported when the first job is submitted.  What submitit knows
is used as it is: the text of the script, the names of the files, and all that happens inside the
job.  The call itself is made here, so that a job is written down before it can start, and because
submitit would make an array through an executor of its own that forgets settings.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import DelayedSubmission

from snakemake_executor_plugin_submitit.call import call
from snakemake_executor_plugin_submitit.private import script_text
from snakemake_executor_plugin_submitit.submission import for_submitit, shell_job

# Seconds that one call may take; a busy controller needs tens of them.
_SBATCH_WITHIN_S = 300.0
# Seconds that a job waits for its pickle when whoever submitted it has shown no life for as long.
# A shared file system may show it late.
_ORPHAN_AFTER_S = 10
_SIGN_OF_LIFE_EVERY_S = 3.0

# The first lines of the batch script.  Looking into the folder makes NFS forget what it remembers.
_WAIT_FOR_PICKLE = """
job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
began=$SECONDS
while [ ! -e %(folder)s/"$job"_submitted.pkl ]; do
    ls %(folder)s > /dev/null 2>&1
    if [ $((SECONDS - began)) -ge %(seconds)d ] &&
        [ -z "$(find %(script)s -newermt "-%(seconds)d seconds" 2> /dev/null)" ]; then
        echo "nobody told this job what to do: the Snakemake that submitted it has ended"
        exit 1
    fi
    sleep 1
done"""


class SbatchFailed(Exception):
    """sbatch did not take the jobs.  ``passing``: a later call may well succeed."""

    def __init__(self, complaint: str, passing: bool) -> None:
        super().__init__(complaint)
        self.passing = passing


def submit(
    commands: Sequence[str],
    folder: Path,
    parameters: Mapping[str, Any],
    continuations: int,
    grace_s: float,
    unique: str,
    without: Collection[str],
    record: Callable[[int, str], None],
) -> list[str]:
    """Submits ``commands`` as one job or as one array, and returns the job ids in their order.

    sbatch does not get the variables ``without``, nor do the jobs.

    A job finds what it has to do in a pickle that appears only after ``record(position, job_id)``
    has returned; without it the job ends within 15 s, having done nothing.  So whoever dies in here
    leaves no job that nobody knows of, and a call that failed may be repeated although Slurm may
    have taken the jobs.  Its files begin with ``unique``.  Raises :class:`SbatchFailed`.
    """
    executor = SlurmExecutor(for_submitit(folder), max_num_timeout=continuations)
    script = folder / f"{unique}.sh"
    wait = _WAIT_FOR_PICKLE % {
        "folder": shlex.quote(str(folder)),
        "script": shlex.quote(str(script)),
        "seconds": _ORPHAN_AFTER_S,
    }
    output = _output(folder, "%A_%a" if len(commands) > 1 else "%j")
    executor.update_parameters(
        **{
            **parameters,
            "setup": [*parameters.get("setup", ()), wait],
            "additional_parameters": parameters["additional_parameters"] | {"output": output},
        }
    )
    if "srun_args" in parameters:
        executor.parameters["srun_args"] = [*parameters["srun_args"], f"--output={output}"]
    if len(commands) > 1:
        # As submitit's own array does, but with no limit of tasks at a time.
        executor.parameters |= {"map_count": len(commands), "array_parallelism": len(commands)}
    folder.mkdir(parents=True, exist_ok=True)
    script.write_text(script_text(executor, unique))
    pickles = [folder / f"{unique}_{position}.pkl" for position in range(len(commands))]
    try:
        for pickle, command in zip(pickles, commands, strict=True):
            delayed = DelayedSubmission(shell_job(command, grace_s))
            delayed.set_timeout(parameters["time"], continuations)
            delayed.dump(pickle)
        with _signs_of_life(script):
            answer = call(["sbatch", str(script)], _SBATCH_WITHIN_S, without)
        found = re.search(r"job (\d+)", answer.stdout or "")
        if found is None:
            raise SbatchFailed(answer.complaint or f"it said {answer.stdout!r}", answer.passing)
        base = found.group(1)
        ids = [f"{base}_{i}" for i in range(len(commands))] if len(commands) > 1 else [base]
        try:
            for position, (job_id, pickle) in enumerate(zip(ids, pickles, strict=True)):
                record(position, job_id)
                pickle.replace(folder / f"{job_id}_submitted.pkl")
                os.utime(script)  # a sign of life for the jobs whose turn has not come
            if len(ids) == 1:  # kept for people, until the job has succeeded
                script.replace(folder / f"{base}_submission.sh")
        except OSError as error:
            call(["scancel", base], _SBATCH_WITHIN_S)
            complaint = f"Slurm job {base} was cancelled, as it could not be noted: {error}"
            raise SbatchFailed(complaint, passing=False) from error
    finally:
        for left in (script, *pickles):
            left.unlink(missing_ok=True)
    return ids


@contextlib.contextmanager
def _signs_of_life(script: Path) -> Iterator[None]:
    """Touches ``script`` again and again, for a job that starts before sbatch has returned."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(_SIGN_OF_LIFE_EVERY_S):
            with contextlib.suppress(OSError):
                os.utime(script)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _output(folder: Path, job: str) -> str:
    """The log as sbatch and srun take it, to whom a percent sign is special."""
    return str(folder).replace("%", "%%") + f"/{job}_0_log.out"
