"""Several tasks on one machine."""

from __future__ import annotations

import time

from snakemake_executor_plugin_submitit.tasks import variables
from submitit_project import Project

RULE = """
    rule one:
        output: "out"
        resources: tasks={tasks}, nodes={nodes}, mpi="{python} -m {module}"
        shell: "{{resources.mpi}} bash -c '{command}'"
    """


def rule(project: Project, command: str, tasks: int = 3, nodes: int = 1) -> None:
    module = "snakemake_executor_plugin_submitit.tasks"
    project.write(
        RULE.format(tasks=tasks, nodes=nodes, python="python", module=module, command=command)
    )


def test_each_task_knows_its_number(project: Project) -> None:
    rule(project, "echo $SLURM_PROCID of $SLURM_NTASKS >> {output}")
    status, output = project.run("--jobs", "3", "--cores", "3")
    assert status == 0, output
    told = sorted((project.folder / "out").read_text().splitlines())
    assert told == ["0 of 3", "1 of 3", "2 of 3"]


def test_one_that_fails_ends_the_others(project: Project) -> None:
    rule(project, "[ $SLURM_PROCID = 1 ] && exit 3; sleep 600")
    began = time.monotonic()
    status, output = project.run("--jobs", "3", "--cores", "3")
    assert status != 0
    assert time.monotonic() - began < 30
    assert "the command ended with status 1" in output


def test_several_nodes_are_refused(project: Project) -> None:
    rule(project, "true", nodes=2)
    status, output = project.run("--jobs", "3", "--cores", "3")
    assert status != 0
    assert "resource nodes=2 cannot be used; expected 1" in output


def test_gpus_are_shared_out_where_they_can_be() -> None:
    def seen(tasks: int, gpus: str) -> list[str]:
        return [variables(i, tasks, gpus)["CUDA_VISIBLE_DEVICES"] for i in range(tasks)]

    assert seen(2, "4,5,6,7") == ["4,5", "6,7"]
    assert seen(2, "4,5,6") == ["4,5,6", "4,5,6"]
    assert seen(2, "") == ["", ""]
