"""Snakemake executor plugin that runs every job through submitit.

Snakemake finds it by the name of this folder on ``sys.path`` and imports it on *every* call, of a
job as well, so nothing here may import submitit.  See ``executor.py`` for how a job travels.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

from snakemake_executor_plugin_submitit.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]


# Snakemake turns each field into `--submitit-<name>` and the profile key `submitit-<name>:`.
@dataclass
class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    """Settings of the plugin; the help texts give units and defaults."""

    cluster: str = field(
        default="local",
        metadata={
            "help": "Where jobs run: 'local' (this machine, whose cores and GPUs are the queue) "
            "or 'slurm' (sbatch). Default: local.",
            "choices": ["local", "slurm"],
        },
    )
    folder: Path = field(
        default=Path("logs/submitit"),
        metadata={
            "help": "Folder for the logs of jobs, one sub-folder a rule and its wildcards. On "
            "Slurm it must be on a file system that the compute nodes share. "
            "Default: logs/submitit.",
        },
    )
    signal_delay: int = field(
        default=120,
        metadata={
            "help": "Seconds before its time limit (resource 'runtime') at which a job gets "
            "SIGUSR2, so that it can save its state, exit and be started again; at most half of "
            "the limit. Default: 120.",
        },
    )
    status_interval: int = field(
        default=30,
        metadata={
            "help": "Least number of seconds between two questions to Slurm about the states of "
            "all jobs. Results are noticed within seconds without asking. Default: 30.",
        },
    )
    max_continuations: int = field(
        default=100,
        metadata={
            "help": "How often a job is started again to go on after its time limit, or, on Slurm, "
            "after a preemption or the failure of a node that Slurm did not requeue by itself. "
            "Default: 100.",
        },
    )
    array_limit: int = field(
        default=1000,
        metadata={
            "help": "Largest number of ready jobs of one rule with equal resources that are "
            "submitted to Slurm as one job array; never more than the cluster's MaxArraySize. "
            "1: no arrays. Default: 1000.",
        },
    )
    controller_timeout: int = field(
        default=600,
        metadata={
            "help": "Seconds for which a Slurm that does not answer is asked again to take a job, "
            "to tell about itself or about a job of an earlier start, before the job fails. "
            "Default: 600.",
        },
    )
    jobname_prefix: str = field(
        default="",
        metadata={"help": "What the names of Slurm jobs begin with. Default: nothing."},
    )
    # Snakemake's parser of arguments takes no `X | None`.
    partition_config: Optional[Path] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "YAML file with the limits of partitions, as the `slurm` executor has it: a "
            "job that names no partition goes to the fitting one that allows the least. Default: "
            "$SNAKEMAKE_SLURM_PARTITIONS, or the cluster's default partition.",
        },
    )
    efficiency_report: Optional[Path] = field(  # noqa: UP045
        default=None,
        metadata={
            "help": "CSV file for CPU time and memory of each Slurm job, asked for and used, as "
            "sacct tells at the end of the workflow. Default: none.",
        },
    )
    delete_successful_logs: bool = field(
        default=False,
        metadata={"help": "Delete the log of a job that succeeds. Default: keep it."},
    )
    delete_logfiles_older_than: int = field(
        default=0,
        metadata={
            "help": "Days after which logs in the folder are deleted, at the end of a workflow. "
            "0: never. Default: 0.",
        },
    )
    lost_after: int = field(
        default=5,
        metadata={
            "help": "Minutes for which Slurm must not know a job without a result, or must say "
            "that it can never start, before it counts as failed. Default: 5.",
        },
    )


common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # Jobs inherit the environment (sbatch exports it), so values need not be put into commands.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)
