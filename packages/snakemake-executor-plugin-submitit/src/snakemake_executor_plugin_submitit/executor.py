"""How a Snakemake job travels: Snakemake -> this executor -> submitit -> ``ShellJob`` -> bash.

Snakemake's main thread only hands a job over (:meth:`Executor.run_job`).  Everything that may take
time (starting processes, sbatch, looking at a shared file system, asking Slurm) happens in other
threads; Snakemake's polling thread (:meth:`Executor.check_active_jobs`) waits for one of them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import sys
import textwrap
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.utils import format_cli_arg, join_cli_args

from snakemake_executor_plugin_submitit.ledger import Identity, Ledger
from snakemake_executor_plugin_submitit.local import LocalCluster
from snakemake_executor_plugin_submitit.partitions import read_partitions
from snakemake_executor_plugin_submitit.private import (
    declared_threads,
    is_stopping,
    note_user_request,
)
from snakemake_executor_plugin_submitit.resources import read_request
from snakemake_executor_plugin_submitit.signals import Hearing
from snakemake_executor_plugin_submitit.slurm import SlurmCluster, SlurmSettings
from snakemake_executor_plugin_submitit.submission import (
    Cluster,
    Outcome,
    Submission,
    block_sigint,
    delete_logs,
    job_name,
    log_folder,
    log_tail,
)


class Executor(RemoteExecutor):  # type: ignore[misc]
    """Found and used by Snakemake as ``--executor submitit``."""

    def __post_init__(self) -> None:
        if find_spec("submitit") is None:
            raise WorkflowError(
                "The executor `submitit` needs the Python package submitit, which "
                f"{sys.executable} does not have. Install it: pip install submitit"
            )
        # It configures logging, which closes what others log to: before any job is told of.
        import submitit  # noqa: F401

        self._cluster = self._make_cluster()
        # A Snakemake whose output nobody reads fails before it has cancelled anything.
        atexit.register(self._cluster.cancel)
        self._worker = ThreadPoolExecutor(1, "submitit", initializer=block_sigint)
        self._cancelled = False
        self._capped_rules: set[str] = set()
        self._hearing: Hearing | None = None

    @property
    def next_seconds_between_status_checks(self) -> float:
        # Needed by Snakemake's polling thread, which may run before `__post_init__`.
        slurm = self.workflow.executor_settings.cluster == "slurm"
        return (SlurmCluster if slurm else LocalCluster).poll_seconds

    def _make_cluster(self) -> Cluster:
        settings = self.workflow.executor_settings
        warn = self.logger.warning
        for name in (
            *("signal_delay", "status_interval", "max_continuations"),
            *("controller_timeout", "delete_logfiles_older_than"),
        ):
            _check_least(settings, name, 0)
        for name in ("array_limit", "lost_after"):
            _check_least(settings, name, 1)
        if "%" in str(settings.folder):
            raise WorkflowError(
                f"--submitit-folder {settings.folder} cannot be used; expected a name without a "
                "percent sign, which Slurm and submitit take for the number of a job."
            )
        if settings.cluster == "slurm":
            slurm = SlurmSettings(
                signal_delay_s=settings.signal_delay,
                status_interval_s=settings.status_interval,
                array_limit=settings.array_limit,
                lost_after_s=60.0 * settings.lost_after,
                controller_timeout_s=settings.controller_timeout,
                jobname_prefix=settings.jobname_prefix,
                partitions=_partitions(settings.partition_config),
                efficiency_report=settings.efficiency_report,
            )
            ledger = Ledger(Path(self.workflow.persistence.path).absolute() / "submitit")
            return SlurmCluster(slurm, ledger, warn)
        cores = self.workflow.resource_settings.cores or len(os.sched_getaffinity(0))
        return LocalCluster(cores, settings.signal_delay, warn)

    def get_job_args(self, job: JobExecutorInterface) -> str:
        """The arguments of the inner Snakemake; of an option given twice the last one counts.

        ``--cores``: those of the job.  Without it the inner one believes to have the outer
        ``--cores``: the login node's for a Slurm job, the whole machine's for each local one.

        ``--max-jobs-per-timespan``: the rate limit's timer keeps each Snakemake alive for a whole
        timespan (1 s by default) after its last job.  A single job needs no limit; in a group the
        timer would have Snakemake look for jobs without a pause.
        """
        args = [
            super().get_job_args(job),
            format_cli_arg("--cores", self._cluster.cores_for(job.threads)),
            format_cli_arg("--max-jobs-per-timespan", "1/0s", skip=job.is_group()),
        ]
        return str(join_cli_args(args))

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Hands over jobs that are ready at the same time, so that they can be one array."""
        if self._hearing is None and threading.current_thread() is threading.main_thread():
            # Not earlier: Snakemake sets its handler after it has made its executor.
            self._hearing = Hearing({signal.SIGINT: self._on_ctrl_c, signal.SIGTERM: self._on_kill})
        submissions = []
        for job in jobs:
            self.run_job_pre(job)
            submission = self._submission(job)
            if submission is not None:
                submissions.append(submission)
        self._cluster.accept(submissions)
        for submission in submissions:
            self.report_job_submission(submission.info)

    def run_job(self, job: JobExecutorInterface) -> None:
        """Demanded by Snakemake's interface; :meth:`run_jobs` is what it calls."""
        self.run_jobs([job])

    def _submission(self, job: JobExecutorInterface) -> Submission | None:
        """The job as the clusters see it; None if it cannot be run, which has been reported then.

        That fails this job only: others may have been running for hours.
        """
        settings = self.workflow.executor_settings
        wildcards = {} if job.is_group() else dict(job.wildcards_dict)
        info = SubmittedJobInfo(job)
        try:
            submission = Submission(
                info=info,
                request=read_request(job.name, job.threads, job.resources),
                identity=identity_of(job),
                name=job_name(job.name, wildcards),
                command=self.format_job_exec(job),
                folder=log_folder(settings.folder, job.name, wildcards),
                rule_folder=log_folder(settings.folder, job.name, {}),
                continuations=settings.max_continuations,
                priority=job.priority,
                forced=any(self.dag.reason(each).forced for each in _single_jobs(job)),
            )
            self._cluster.check(submission.request)
        except WorkflowError as error:
            self._report_failure(info, f"Job {job.jobid} was not submitted. {error}", log=None)
            return None
        info.aux = {"submission": submission}
        self._warn_if_capped(job)
        return submission

    async def check_active_jobs(
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        if not active_jobs:
            return  # also when Snakemake's polling thread is ahead of `__post_init__`
        try:
            for info in await self._still_active(active_jobs):
                yield info
        except Exception as error:
            # Raised, it would be printed before it is told, and where nobody reads the output
            # any more that fails: Snakemake would wait for ever.
            self._stop(error)

    async def _still_active(self, active_jobs: list[SubmittedJobInfo]) -> list[SubmittedJobInfo]:
        """Has the cluster go on, and reports the jobs that have ended."""
        submissions = [_submission_of(info) for info in active_jobs]
        waiting = [s for s in submissions if s.info.external_jobid is None]
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(
            self._worker, self._cluster.step, submissions, self._stopping()
        )
        for submission in waiting:
            if submission.log is not None:
                note = f" ({submission.note})" if submission.note else ""
                self.logger.info(
                    f"Job {submission.info.job.jobid} runs as {submission.info.external_jobid}"
                    f"{note}, log: {os.path.relpath(submission.log)}",
                    # For loggers that do not tell of every job.
                    extra={"note": submission.note},
                )
        active = []
        for submission in submissions:
            outcome = outcomes.get(submission)
            if outcome is None or self._cancelled:
                active.append(submission.info)
            else:
                self._report(submission, outcome)
        return active

    def _on_ctrl_c(self) -> None:
        """The first has Snakemake end; another one must not leave half of the jobs behind."""
        if self._cancelled:
            self.logger.warning("The jobs are being cancelled already, please wait.")
        else:
            note_user_request(self.workflow.scheduler)
            self._stop(KeyboardInterrupt())

    def _on_kill(self) -> None:
        """Snakemake's own way, which takes its scheduler's locks."""
        self.workflow.scheduler.exit_gracefully()

    def _stop(self, error: BaseException) -> None:
        """Cancels all jobs, which Snakemake would leave running, and has it say why and end."""
        self._cancelled = True
        try:
            self._cluster.cancel()
        finally:
            self.workflow.scheduler.executor_error_callback(error)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Stops all jobs.

        ``active_jobs`` is not relied on: Snakemake passes an empty list while
        :meth:`check_active_jobs` is running.
        """
        self._cancelled = True
        self._cluster.cancel()

    def shutdown(self) -> None:
        super().shutdown()
        atexit.unregister(self._cluster.cancel)
        self._worker.shutdown()
        self._cluster.close()
        if self._hearing is not None:
            self._hearing.end()
        settings = self.workflow.executor_settings
        if settings.delete_logfiles_older_than:
            delete_logs(settings.folder, settings.delete_logfiles_older_than)

    def _stopping(self) -> bool:
        keep_going = self.workflow.execution_settings.keep_going
        return is_stopping(self.workflow.scheduler, keep_going)

    def _report(self, submission: Submission, outcome: Outcome) -> None:
        info = submission.info
        if outcome.succeeded:
            if self.workflow.executor_settings.delete_successful_logs and submission.log:
                with contextlib.suppress(OSError):  # in the folder of another user, for instance
                    submission.log.unlink(missing_ok=True)
            self.report_job_success(info)
        elif outcome.dropped:
            self.logger.info(f"Job {info.job.jobid} was not started, as the workflow is stopping.")
            self.workflow.scheduler.error_callback(info.job)
        else:
            self._report_failure(info, _failure_text(submission, outcome), submission.log)

    def _report_failure(self, info: SubmittedJobInfo, message: str, log: Any) -> None:
        if info.job.is_group():
            # Snakemake drops the message of a failed group.
            self.logger.error(message)
        # Snakemake appends a sentence of its own to the message.
        logs = [] if log is None else [os.path.relpath(log)]
        self.report_job_error(info, msg=message + "\n", aux_logs=logs)

    def _warn_if_capped(self, job: JobExecutorInterface) -> None:
        """On Slurm, says once a rule that ``--cores`` lowered its threads.

        Snakemake applies ``--cores`` (also ``cores:`` of a profile) to the threads of remote jobs.
        """
        cores = self.workflow.resource_settings.cores
        if self.workflow.executor_settings.cluster != "slurm" or cores is None or job.is_group():
            return
        wanted = declared_threads(job.rule)
        if wanted > job.threads == cores and job.name not in self._capped_rules:
            self._capped_rules.add(job.name)
            self.logger.warning(
                f"Rule {job.name} asks for {wanted} threads, but `--cores {cores}` (command line "
                f"or profile) lowers that to {job.threads}, for Slurm jobs too. Pass a larger "
                "`--cores`, or none, to give it what it asks for."
            )


def identity_of(job: JobExecutorInterface) -> Identity:
    """What the job makes, and everything in the workflow that decides on what it computes.

    A rule without outputs is named by itself and its wildcards.  What one job of a group makes for
    another is no input: it comes into being while the group runs.
    """
    jobs = _single_jobs(job)
    outputs = [str(path) for each in jobs for path in each.output]
    texts = [
        [
            each.rule.name,
            dict(each.wildcards_dict),
            each.shellcmd or each.rule.run_func_src,
            each.rule.wrapper,
            [repr(value) for value in each.params],
        ]
        for each in jobs
    ]
    names = [f"{each.rule.name} {sorted(each.wildcards_dict.items())}" for each in jobs]
    inputs = {str(path) for each in jobs for path in each.input}
    scripts = {path for each in jobs if (path := _script_of(each.rule)) is not None}
    return Identity(
        outputs=tuple(sorted(outputs or names)),
        text=json.dumps(texts, default=str),
        inputs=tuple(sorted(inputs.difference(outputs) | scripts)),
    )


def _script_of(rule: Any) -> str | None:
    script = rule.script or rule.notebook
    return None if script is None else str(rule.basedir.join(script).get_path_or_uri(True))


def _single_jobs(job: JobExecutorInterface) -> list[Any]:
    """The job itself, or those of a group in an order that is always the same."""
    if not job.is_group():
        return [job]
    return sorted(job.jobs, key=lambda each: (each.rule.name, sorted(each.wildcards_dict.items())))


def _partitions(config: Path | None) -> dict[str, dict[str, Any]]:
    """The partitions' limits, if a file names them; the variable is the other executor's."""
    named = config or os.environ.get("SNAKEMAKE_SLURM_PARTITIONS")
    return read_partitions(Path(named)) if named else {}


def _check_least(settings: Any, name: str, least: int) -> None:
    value = getattr(settings, name)
    if value < least:
        raise WorkflowError(
            f"--submitit-{name.replace('_', '-')} {value} cannot be used; expected a whole "
            f"number, {least} or more."
        )


def _submission_of(info: SubmittedJobInfo) -> Submission:
    assert info.aux is not None
    submission: Submission = info.aux["submission"]
    return submission


def _failure_text(submission: Submission, outcome: Outcome) -> str:
    info = submission.info
    text = f"Job {info.job.jobid} of rule {submission.request.rule} failed: {outcome.reason}."
    if submission.log is None:
        return text
    tail = log_tail(submission.log)
    shown = f"its last lines:\n{textwrap.indent(tail, '  | ')}" if tail else "it is empty."
    return (
        f"{text}\nIt ran as {info.external_jobid}. All of its output is in "
        f"{os.path.relpath(submission.log)}; {shown}"
    )
