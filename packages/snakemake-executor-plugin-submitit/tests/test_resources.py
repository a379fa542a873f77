"""The mapping from Snakemake's resources to submitit's parameters, case by case."""

from __future__ import annotations

from typing import Any

import pytest
from snakemake_executor_plugin_submitit.private import script_text
from snakemake_executor_plugin_submitit.resources import (
    overriding_variables,
    read_request,
    save_grace_s,
    signal_delay_s,
    slurm_parameters,
)
from snakemake_interface_common.exceptions import WorkflowError

# What every job has: one thread, an hour.
BASE: dict[str, Any] = {
    "time": 60,
    "cpus_per_task": 1,
    "nodes": 1,
    "ntasks_per_node": 1,
    "signal_delay_s": 120,
    "srun_args": ["--cpus-per-task=1"],
    "additional_parameters": {"requeue": True},
    "stderr_to_stdout": True,
    "wckey": None,
}


ABSENT = object()


def several(cpus: int = 1, gpus: int = 0, **extra: str) -> dict[str, Any]:
    """What differs for a command that starts its tasks itself."""
    setup = [
        "trap '' USR2",
        f"export SRUN_CPUS_PER_TASK={cpus}",
        "export SLURM_KILL_BAD_EXIT=1",
        *([] if "distribution" in extra else ["export SLURM_DISTRIBUTION=block"]),
        *([f"export SLURM_GPUS_PER_TASK={gpus}"] if gpus else []),
    ]
    return {
        "srun_args": ABSENT,
        "use_srun": False,
        "setup": setup,
        "additional_parameters": {"requeue": True, "signal": "B:USR2@120"} | extra,
    }


def parameters(threads: int = 1, **resources: Any) -> dict[str, Any]:
    request = read_request("train", threads, {"runtime": 60, **resources})
    return slurm_parameters(request, wanted_signal_delay_s=120)


@pytest.mark.parametrize(
    ("resources", "changed"),
    [
        ({}, {}),
        ({"tmpdir": "/tmp", "disk_mb": 5, "own": 3}, {}),
        ({"runtime": 3}, {"time": 3, "signal_delay_s": 90}),
        ({"mem_mb": 2048}, {"mem": "2048M"}),
        ({"mem_mb_per_cpu": 700, "mem_mb": 1000}, {"mem_per_cpu": "700M"}),
        ({"gpu": 2}, {"gpus_per_node": 2}),
        ({"gpu": 0}, {}),
        ({"gpu": 1, "gpu_model": "a100"}, {"gres": "gpu:a100:1"}),
        ({"gres": "gpu:a100:2,shard:4"}, {"gres": "gpu:a100:2,shard:4"}),
        ({"slurm_partition": "low"}, {"partition": "low"}),
        ({"slurm_account": 4711}, {"account": "4711"}),
        ({"qos": "long", "constraint": "v100&nvlink"}, None),
        (
            {"nodes": 2, "tasks_per_node": 4},
            {"nodes": 2, "ntasks_per_node": 4} | several(),
        ),
        (
            {"tasks_per_node": 4, "slurm_extra": "-m cyclic"},
            {"ntasks_per_node": 4} | several(distribution="cyclic"),
        ),
        (
            {"tasks": 3, "mpi": "mpiexec"},
            {"ntasks_per_node": ABSENT} | several(ntasks="3"),
        ),
        (
            {"gpu": 2, "tasks_per_gpu": 2, "cpus_per_gpu": 6},
            {"gpus_per_node": 2, "ntasks_per_node": 4, "cpus_per_task": 3} | several(cpus=3),
        ),
        (
            {"gpu": 2, "tasks": 1},  # of each GPU, as the other executor has it
            {"gpus_per_node": 2, "ntasks_per_node": 2} | several(gpus=1),
        ),
        ({"cpus_per_task": 5}, {"cpus_per_task": 5, "srun_args": ["--cpus-per-task=5"]}),
        ({"cluster": "here"}, {}),
        (
            {"reservation": "mine"},
            {"additional_parameters": {"requeue": True, "reservation": "mine"}},
        ),
        (
            {"slurm_extra": "-x n1 -wn2 -H --exclusive"},
            {
                "additional_parameters": {
                    **{"requeue": True, "exclude": "n1", "nodelist": "n2"},
                    **{"hold": True, "exclusive": True},
                }
            },
        ),
        (
            {"slurm_extra": "--exclusive --mail-type=END --comment 'two words'"},
            {
                "additional_parameters": {
                    "requeue": True,
                    "exclusive": True,
                    "mail-type": "END",
                    "comment": "two words",
                }
            },
        ),
        (
            {"slurm_extra": "--no-requeue"},
            {"additional_parameters": {"no-requeue": True}},
        ),
    ],
)
def test_slurm_parameters(resources: dict[str, Any], changed: dict[str, Any] | None) -> None:
    if changed is None:
        changed = {"qos": "long", "constraint": "v100&nvlink"}
    expected = {name: value for name, value in (BASE | changed).items() if value is not ABSENT}
    assert parameters(**resources) == expected


def test_threads_become_cpus_of_the_task_and_of_the_step() -> None:
    changed = {"cpus_per_task": 6, "srun_args": ["--cpus-per-task=6"]}
    assert parameters(threads=6) == BASE | changed


def test_submitit_accepts_all_parameters(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit itself checks names and types, without any Slurm."""
    import submitit
    from submitit.slurm.slurm import SlurmExecutor

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    everything = parameters(
        threads=2,
        mem_mb=1500,
        gpu=1,
        gpu_model="a100",
        nodes=2,
        tasks_per_node=2,
        slurm_partition="p",
        slurm_account="a",
        qos="q",
        constraint="c",
        slurm_extra="--exclusive",
    )
    executor = submitit.SlurmExecutor(tmp_path)
    executor.update_parameters(**everything)
    script = script_text(executor, "")
    for line in (
        "#SBATCH --mem=1500M",
        "#SBATCH --time=60",
        "#SBATCH --signal=B:USR2@120",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --exclusive",
        "#SBATCH --requeue",
    ):
        assert line in script.splitlines()
    assert "wckey" not in script


@pytest.mark.parametrize(
    ("resources", "overriding"),
    [
        ({}, {"SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"}),
        ({"slurm_partition": "low"}, {"SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"}),
        ({"mem_mb": 5}, {"SBATCH_MEM_PER_CPU", "SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"}),
        ({"gpu": 1}, {"SBATCH_GRES", "SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"}),
        ({"slurm_extra": "--no-requeue"}, {"SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"}),
        (
            {"slurm_extra": "--wckey=mine"},
            {"SBATCH_WCKEY", "SBATCH_TIMELIMIT", "SBATCH_NO_REQUEUE"},
        ),
    ],
)
def test_variables_do_not_override_what_a_rule_asks_for(
    resources: dict[str, Any], overriding: set[str]
) -> None:
    """Those of what it leaves open are the user's defaults."""
    of_rules = {
        *("SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_MEM_PER_CPU", "SBATCH_GRES"),
        *("SBATCH_NO_REQUEUE", "SBATCH_WCKEY"),
    }
    of_the_plugin = {
        *("SBATCH_ARRAY_INX", "SBATCH_EXPORT", "SBATCH_WAIT", "SBATCH_OUTPUT"),
        "SBATCH_CLUSTERS",
    }
    variables = [*of_rules, *of_the_plugin, "SLURM_CONF", "PARTITION", "SBATCH_DEBUG"]
    found = overriding_variables(parameters(**resources), variables)
    assert set(found) == overriding | of_the_plugin


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"mem_mb": 0}, "MiB, 1 or more"),
        ({"mem_mb": "much"}, "MiB, 1 or more"),
        ({"runtime": 0}, "minutes, 1 or more"),
        ({"runtime": True}, "minutes, 1 or more"),
        ({"gpu": -1}, "GPUs, 0 or more"),
        ({"gpu": 1.5}, "GPUs, 0 or more"),
        ({"nodes": 0}, "nodes, 1 or more"),
        ({"tasks_per_node": "2"}, "tasks, 1 or more"),
        ({"gres": "gpu:1", "gpu": 1}, "either `gres` or `gpu`"),
        ({"gres": "gpu=1"}, "name[:type][:count]"),
        ({"gpu_model": "a100"}, "`gpu` count"),
        ({"gpu_model": "a100:2", "gpu": 2}, "count goes into `gpu`"),
        ({"slurm_partition": "a b"}, "one word"),
        ({"qos": ""}, "a word"),
        ({"gpus": 1}, "the name `gpu`"),
        ({"partition": "low"}, "the name `slurm_partition`"),
        ({"slurm_extra": "--exclusive 'open"}, "No closing quotation"),
        ({"tasks": 2, "tasks_per_node": 2}, "tasks_per_node=2 is asked for too"),
        ({"tasks_per_gpu": 2}, "GPUs beside it"),
        ({"cpus_per_gpu": 2}, "GPUs beside it"),
        ({"mpi": "srun"}, "`tasks` or `tasks_per_node` beside it"),
        ({"slurm_requeue": True}, "nothing reads `slurm_requeue`"),
        ({"slurm_extra": "-N 2"}, "the resource `nodes` instead"),
        ({"slurm_extra": "-n2"}, "the resource `tasks` instead"),
        ({"slurm_extra": "--tasks-per-node=4"}, "the resource `tasks_per_node` instead"),
        ({"slurm_extra": "--arra=0-3"}, "no --array, but it left to the plugin"),
        ({"slurm_extra": "--ntasks-per-n 4"}, "the resource `tasks_per_node` instead"),
        ({"slurm_extra": "-Z 2"}, "'-Z' is not one"),
        ({"slurm_extra": "-H yes"}, "'yes' belongs to no option"),
        ({"slurm_extra": "--parsable"}, "left to the plugin"),
        ({"slurm_extra": "--export=NONE"}, "left to the plugin"),
        ({"slurm_extra": "-D /tmp"}, "left to the plugin"),
        ({"slurm_extra": "--ntasks=2"}, "the resource `tasks` instead"),
        ({"slurm_extra": "--exclusive yes no"}, "'no' belongs to no option"),
        ({"slurm_extra": "--mem=5G"}, "the resource `mem_mb` instead"),
        ({"slurm_extra": "--output=x"}, "left to the plugin"),
        ({"slurm_extra": 5}, "sbatch options"),
    ],
)
def test_a_wrong_value_names_rule_resource_value_and_what_was_expected(
    resources: dict[str, Any], expected: str
) -> None:
    with pytest.raises(WorkflowError) as caught:
        parameters(**resources)
    message = str(caught.value)
    name = next(iter(resources))
    assert "Rule train" in message
    assert f"{name}={resources[name]!r}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (None, {"exclude": "n1,n[3-4]"}),
        ("--exclude=n9", {"exclude": "n9,n1,n[3-4]"}),
        ("--nodelist=n1", {"nodelist": "n1"}),  # asked for by name: it is what the job wants
    ],
)
def test_failed_nodes_are_excluded(extra: str | None, expected: dict[str, str]) -> None:
    request = read_request("train", 1, {"runtime": 60, "slurm_extra": extra})
    found = slurm_parameters(request, 120, ["n1", "n[3-4]"])["additional_parameters"]
    assert found == {"requeue": True} | expected


@pytest.mark.parametrize(
    ("gres", "gpus"), [(None, 0), ("gpu", 1), ("gpu:3", 3), ("gpu:a100:2,shard:9", 2), ("fpga", 0)]
)
def test_gpus_in_gres_are_counted(gres: str | None, gpus: int) -> None:
    assert read_request("train", 1, {"gres": gres}).gpus_per_node == gpus


@pytest.mark.parametrize(
    ("wanted_s", "runtime_min", "delay_s"), [(120, 60, 120), (120, 1, 30), (600, 15, 450)]
)
def test_the_signal_comes_at_half_of_the_limit_at_the_earliest(
    wanted_s: int, runtime_min: int, delay_s: int
) -> None:
    assert signal_delay_s(wanted_s, runtime_min) == delay_s
    assert 0 < save_grace_s(delay_s) < delay_s
