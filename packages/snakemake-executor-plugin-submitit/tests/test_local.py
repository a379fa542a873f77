"""Tiny workflows on this machine as the cluster, through a real Snakemake and a real submitit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from snakemake_executor_plugin_submitit.local import Free, choose_startable
from snakemake_executor_plugin_submitit.submission import log_folder
from submitit_project import PATIENCE_S, SOURCES, Project, processes_with, read_until, wait_for

# A rule's command that records when it ran, with how many threads and which GPUs.
RECORD = (
    "echo start {threads} ${{CUDA_VISIBLE_DEVICES:-none}} $(date +%s.%N) > {output};"
    " sleep 1; echo end $(date +%s.%N) >> {output}"
)


def records(folder: Path) -> list[tuple[float, float, int, str]]:
    """(start, end, threads, GPUs) of each job that used ``RECORD``."""
    found = []
    for path in sorted(folder.glob("*.rec")):
        first, last = (line.split() for line in path.read_text().splitlines())
        found.append((float(first[3]), float(last[1]), int(first[1]), first[2]))
    return found


def most_at_once(spans: list[tuple[float, float, int]]) -> int:
    """The largest sum of weights of (start, end, weight) that overlap."""
    return max(
        sum(weight for start, end, weight in spans if start <= moment < end)
        for moment, _, _ in spans
    )


def test_success_leaves_readable_logs_and_no_pickles(project: Project) -> None:
    project.write(
        """
        rule all:
            input: "out/a/1.txt", "plain.txt"
        rule wild:
            output: "out/{name}.txt"
            wildcard_constraints: name=".+"
            threads: 2
            shell: "echo says {wildcards.name} to stdout; echo and stderr >&2;"
                   " echo {threads} > {output}"
        rule plain:
            output: "plain.txt"
            shell: "touch {output}"
        """
    )
    status, output = project.run("--jobs", "10", "--cores", "2")
    assert status == 0, output
    assert (project.folder / "out/a/1.txt").read_text() == "2\n"
    plain, wild = project.logs()
    assert plain.parent == project.folder / "logs/submitit/plain"
    assert wild.parent.parent == project.folder / "logs/submitit/wild"
    assert wild.parent.name.startswith("name=a_1-")
    text = wild.read_text()
    assert "says a/1 to stdout" in text
    assert "and stderr" in text
    left = [p.name for p in (project.folder / "logs").rglob("*") if p.is_file()]
    assert sorted(left) == sorted([plain.name, wild.name])


def test_failure_is_reported_with_reason_last_lines_and_log(project: Project) -> None:
    project.write(
        """
        rule bad:
            output: "x.txt"
            shell: "for i in $(seq 200); do echo line $i; done; echo the very reason >&2; exit 7"
        """
    )
    status, output = project.run("--jobs", "10", "--cores", "2", "bad")
    assert status != 0
    assert "failed: the command ended with status 1." in output
    assert "  | the very reason" in output
    assert "line 200" in output
    assert "line 1\n" not in output
    assert "submitit ERROR" not in output
    (log,) = project.logs()
    assert str(log.relative_to(project.folder)) in output


def test_a_job_killed_from_outside_is_reported(project: Project) -> None:
    project.write(
        """
        rule victim:
            output: "x.txt"
            shell: "touch ready; exec -a {output}-$PWD sleep 300"
        """
    )
    process = project.start("--jobs", "1", "--cores", "1", "victim")
    wait_for((project.folder / "ready").exists, "the job")
    (wrapper,) = [
        line for line in processes_with("submitit.core._submit") if str(project.folder) in line
    ]
    os.kill(int(wrapper.partition(":")[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "killed from outside" in output
    assert processes_with(f"x.txt-{project.folder}") == []


# A job that tells by files when it began, was told to stop, and ended, and that takes its time.
SLOW_TO_STOP = """
    rule slow:
        output: "x.txt"
        shell: "python3 slow.py && touch {output}"
    """
SLOW_PROGRAM = """
import os, pathlib, signal, sys, time
def note(what):
    with open("notes", "a") as file:
        file.write(f"{what} {time.time()}\\n")
def stop(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(2)
    note("end")
    sys.exit(1)
again = pathlib.Path("notes").exists()
note("begin")
signal.signal(signal.SIGTERM, stop)
time.sleep(0 if again else 300)
note("end")
"""


def notes(folder: Path) -> list[str]:
    """The words of SLOW_PROGRAM's notes in the order of time."""
    return [line.split()[0] for line in (folder / "notes").read_text().splitlines()]


def start_slow(project: Project) -> subprocess.Popen[str]:
    project.write(SLOW_TO_STOP)
    (project.folder / "slow.py").write_text(SLOW_PROGRAM)
    process = project.start("--jobs", "1", "--cores", "1", "slow")
    wait_for((project.folder / "notes").exists, "the job")
    return process


def restart(project: Project) -> str:
    status, output = project.run("--unlock")
    assert status == 0, output
    status, output = project.run("--jobs", "1", "--cores", "1", "slow")
    assert status == 0, output
    return output


def kill_all(*markers: str) -> None:
    for marker in markers:
        for line in processes_with(marker):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)


def test_jobs_do_not_outlive_a_snakemake_that_was_killed(project: Project) -> None:
    process = start_slow(project)
    process.kill()
    process.wait()
    wait_for(lambda: notes(project.folder) == ["begin", "end"], "the job's end")
    wait_for(lambda: processes_with(str(project.folder)) == [], "the end of all processes")


def test_a_second_start_waits_for_what_the_first_one_left(project: Project) -> None:
    """Snakemake and the job's wrapper are killed, and nobody is left to stop the command."""
    process = start_slow(project)
    process.kill()
    process.wait()
    kill_all(f"submitit.core._submit {project.folder}")
    assert notes(project.folder) == ["begin"]
    output = restart(project)
    assert "Stopping what is left of an earlier run of slow" in output
    assert notes(project.folder) == ["begin", "end", "begin", "end"]


def test_a_retry_waits_for_the_processes_of_a_job_whose_wrapper_was_killed(
    project: Project,
) -> None:
    project.write(SLOW_TO_STOP)
    (project.folder / "slow.py").write_text(SLOW_PROGRAM)
    process = project.start("--jobs", "1", "--cores", "1", "--retries", "1", "slow")
    wait_for((project.folder / "notes").exists, "the job")
    kill_all(f"submitit.core._submit {project.folder}")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert notes(project.folder) == ["begin", "end", "begin", "end"]


@pytest.mark.parametrize("setting", ["array-limit", "lost-after", "max-continuations"])
def test_a_setting_out_of_range_is_refused(project: Project, setting: str) -> None:
    project.write(SLOW_TO_STOP)
    status, output = project.run("--jobs", "1", "--cores", "1", f"--submitit-{setting}", "-1")
    assert status != 0
    assert f"--submitit-{setting} -1 cannot be used" in output


def test_logs_are_deleted_where_that_is_asked_for(project: Project) -> None:
    project.write(
        """
        rule all:
            input: "good", "bad"
        rule good:
            output: "good"
            shell: "touch {output}"
        rule bad:
            output: "bad"
            shell: "exit 1"
        """
    )
    old, new = (project.folder / f"logs/submitit/earlier/{i}_0_log.out" for i in range(2))
    old.parent.mkdir(parents=True)
    for log in (old, new):
        log.touch()
    os.utime(old, (0, 0))
    deleting = ("--submitit-delete-successful-logs", "--submitit-delete-logfiles-older-than", "1")
    status, output = project.run("--jobs", "2", "--cores", "2", "--keep-going", *deleting)
    assert status != 0, output
    assert [log.parent.name for log in project.logs()] == ["bad", "earlier"]
    assert new.exists()


def test_the_cores_of_the_machine_are_the_queue(project: Project) -> None:
    project.write(
        f"""
        rule all:
            input: expand("{{i}}.rec", i=range(5)), "wide.rec"
        rule narrow:
            output: "{{i,[0-9]+}}.rec"
            shell: "{RECORD}"
        rule wide:
            output: "wide.rec"
            threads: 8
            shell: "{RECORD}"
        """
    )
    status, output = project.run("--jobs", "100", "--cores", "2")
    assert status == 0, output
    found = records(project.folder)
    assert len(found) == 6
    assert sorted(threads for _, _, threads, _ in found) == [1] * 5 + [2]
    assert most_at_once([(start, end, threads) for start, end, threads, _ in found]) == 2


def test_two_jobs_never_share_a_gpu_unasked(project: Project) -> None:
    project.environment["CUDA_VISIBLE_DEVICES"] = "3,GPU-5f"
    project.write(
        f"""
        rule all:
            input: expand("{{i}}.rec", i=range(4)), "none.rec", "both.rec"
        rule one:
            output: "{{i,[0-9]+}}.rec"
            resources: gpu=1
            shell: "{RECORD}"
        rule both:
            output: "both.rec"
            resources: gres="gpu:2"
            shell: "{RECORD}"
        rule none:
            output: "none.rec"
            shell: "{RECORD}"
        """
    )
    status, output = project.run("--jobs", "100", "--cores", "6")
    assert status == 0, output
    found = records(project.folder)
    assert sorted({gpus for *_, gpus in found}) == ["3", "3,GPU-5f", "GPU-5f", "none"]
    for name in ("3", "GPU-5f"):
        assert most_at_once([(s, e, 1) for s, e, _, gpus in found if name in gpus.split(",")]) == 1


def test_without_any_gpu_jobs_run_on_the_cpu_with_one_warning(project: Project) -> None:
    project.environment["CUDA_VISIBLE_DEVICES"] = ""
    project.write(
        f"""
        rule all:
            input: "1.rec", "2.rec"
        rule one:
            output: "{{i}}.rec"
            resources: gpu=2
            shell: "{RECORD}"
        """
    )
    status, output = project.run("--jobs", "100", "--cores", "2")
    assert status == 0, output
    assert output.count("jobs that ask for a GPU run on the CPU") == 1
    assert [gpus for *_, gpus in records(project.folder)] == ["none", "none"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("gpu=3", "resource gpu=3 cannot be used; expected 2 at most"),
        ("nodes=2", "resource nodes=2 cannot be used; expected 1"),
        ("gpu=1, gres='gpu:1'", "either `gres` or `gpu`"),
    ],
)
def test_an_impossible_request_fails_its_job_only(
    project: Project, resources: str, expected: str
) -> None:
    project.environment["CUDA_VISIBLE_DEVICES"] = "0,1"
    project.write(
        f"""
        rule all:
            input: "bad.txt", "good.txt"
        rule bad:
            output: "bad.txt"
            resources: {resources}
            shell: "touch {{output}}"
        rule good:
            output: "good.txt"
            shell: "touch {{output}}"
        """
    )
    status, output = project.run("--jobs", "100", "--cores", "2", "--keep-going")
    assert status != 0
    assert "Rule bad: " in output
    assert expected in output
    assert (project.folder / "good.txt").exists()
    assert not (project.folder / "bad.txt").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_leaves_no_process_behind(project: Project, terminal: bool) -> None:
    """A terminal sends SIGINT to the whole foreground group, `kill -INT` to one process."""
    project.write(
        """
        rule all:
            input: "1.txt", "2.txt", "3.txt"
        rule slow:
            output: "{i}.txt"
            shell: "(trap 'touch saved{wildcards.i}; exit' TERM; touch started{wildcards.i};"
                   " while true; do sleep 0.1; done); exec -a slow-$PWD sleep 300"
        """
    )
    process = project.start("--jobs", "10", "--cores", "2")
    wait_for(lambda: len(list(project.folder.glob("started*"))) == 2, "two jobs")
    if terminal:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0, output
    assert processes_with(str(project.folder)) == []
    # They were told by SIGTERM and had the time to save.
    assert len(list(project.folder.glob("saved*"))) == 2, output
    assert len(list(project.folder.glob("started*"))) == 2, output


def test_ctrl_c_is_heard_though_the_kernel_gives_it_to_another_thread(project: Project) -> None:
    """The main thread waits for the job to end, and nothing wakes it."""
    project.write(
        """
        rule one:
            output: "x.txt"
            shell: "touch started; sleep 300"
        """
    )
    process = project.start("--jobs", "1", "--cores", "1", "one")
    wait_for(lambda: (project.folder / "started").exists(), "the job")
    threads = [int(folder.name) for folder in Path(f"/proc/{process.pid}/task").iterdir()]
    hearing = next(thread for thread in threads if thread != process.pid and hears(thread))
    assert ctypes.CDLL(None).tgkill(process.pid, hearing, signal.SIGINT) == 0
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "Cancelling snakemake on user request" in output
    assert "a job execution failed" not in output
    assert processes_with(str(project.folder)) == []


def hears(thread: int) -> bool:
    """Whether the thread does not block SIGINT."""
    status = Path(f"/proc/{thread}/status").read_text()
    (mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return not int(mask, 16) >> (signal.SIGINT - 1) & 1


@pytest.mark.parametrize("end", ["the job fails", "Ctrl-C"])
def test_a_snakemake_whose_output_nobody_reads_ends_with_its_jobs(
    project: Project, end: str
) -> None:
    """As behind `| head`, or behind a `tee` that got the Ctrl-C as well."""
    project.environment["PYTHONUNBUFFERED"] = "1"  # what is printed fails at once
    project.write(
        """
        rule one:
            output: "x.txt"
            shell: "while [ ! -e go ]; do sleep 0.2; done; exec -a fails-$PWD false"
        """
    )
    process = project.start("--jobs", "1", "--cores", "1", "one")
    read_until(process, "runs as")
    assert process.stdout is not None
    process.stdout.close()
    if end == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        (project.folder / "go").touch()
    assert process.wait(timeout=PATIENCE_S) != 0
    wait_for(lambda: processes_with(str(project.folder)) == [], "the end of all processes")


def test_no_job_starts_after_a_failure(project: Project) -> None:
    project.write(
        """
        rule all:
            input: "bad.txt", expand("{i}.txt", i=range(6))
        rule bad:
            output: "bad.txt"
            priority: 10
            shell: "exit 1"
        rule slow:
            output: "{i}.txt"
            shell: "sleep 1; touch {output}"
        """
    )
    status, output = project.run("--jobs", "100", "--cores", "2")
    assert status != 0
    finished = len(list(project.folder.glob("[0-9].txt")))
    assert finished < 6, output
    assert "was not started" in output
    status, output = project.run("--jobs", "100", "--cores", "2", "--keep-going")
    assert status != 0
    assert len(list(project.folder.glob("[0-9].txt"))) == 6


def test_sigterm_to_snakemake_lets_running_jobs_end_and_starts_no_other(project: Project) -> None:
    project.write(
        """
        rule all:
            input: expand("{i}.txt", i=range(6))
        rule slow:
            output: "{i}.txt"
            shell: "touch started{wildcards.i}; sleep 2; touch {output}"
        """
    )
    process = project.start("--jobs", "100", "--cores", "1")
    wait_for(lambda: list(project.folder.glob("started*")), "a job")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert len(list(project.folder.glob("started*"))) == 1, output
    assert len(list(project.folder.glob("[0-9].txt"))) == 1, output


def test_retries(project: Project) -> None:
    project.write(
        """
        rule flaky:
            output: "x.txt"
            shell: "echo run >> runs; test $(wc -l < runs) -eq 2 && touch {output}"
        """
    )
    status, output = project.run("--jobs", "1", "--cores", "1", "--retries", "1", "flaky")
    assert status == 0, output
    assert len(project.logs()) == 2


GROUP = """
    rule all:
        input: "b1.txt", "b2.txt"
    rule a:
        output: "a{{i}}.txt"
        group: "pair"
        shell: "echo first {{wildcards.i}}; touch {{output}}"
    rule b:
        input: "a{{i}}.txt"
        output: "b{{i}}.txt"
        group: "pair"
        shell: "{command}"
    """


def test_group_job(project: Project) -> None:
    project.write(GROUP.format(command="touch {output}"))
    status, output = project.run("--jobs", "10", "--cores", "2")
    assert status == 0, output
    assert (project.folder / "b2.txt").exists()
    assert len(project.logs()) == 2


def test_failing_group_job_is_reported_like_any_other(project: Project) -> None:
    project.write(GROUP.format(command="echo why it failed; exit 1"))
    status, output = project.run("--jobs", "10", "--cores", "2")
    assert status != 0
    assert "failed: the command ended with status 1." in output
    assert "  | why it failed" in output
    assert str(project.logs()[0].relative_to(project.folder)) in output


def test_a_group_gets_the_cores_that_it_asks_for(project: Project) -> None:
    project.write(
        f"""
        rule all:
            input: expand("{{i}}.rec", i=range(4))
        rule a:
            output: "{{i}}.rec"
            group: "g"
            shell: "{RECORD}"
        """
    )
    status, output = project.run(
        "--jobs", "10", "--cores", "4", "--group-components", "g=2", "--set-threads", "a=1"
    )
    assert status == 0, output
    spans = [(start, end, 1) for start, end, _, _ in records(project.folder)]
    assert most_at_once(spans) == 4, output
    assert all("Provided cores: 2" in log.read_text().splitlines() for log in project.logs())


def test_a_plan_does_not_import_submitit(project: Project) -> None:
    package = project.folder / "poison" / "submitit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('submitit was imported')\n")
    project.environment["PYTHONPATH"] = f"{package.parent}{os.pathsep}{SOURCES}"
    project.write(
        """
        rule one:
            output: "x.txt"
            shell: "touch {output}"
        """
    )
    status, output = project.run("--jobs", "1", "--cores", "1", "-n", "one")
    assert status == 0, output
    assert "submitit was imported" not in output
    status, output = project.run("--jobs", "1", "--cores", "1", "one")
    assert "submitit was imported" in output
    assert status != 0


def test_loggers_stay_open_while_jobs_run(project: Project) -> None:
    """submitit configures logging when it is imported, which closes the handlers there are."""
    project.write(
        """
        import logging
        class Told(logging.Handler):
            def close(self):
                open("closed", "w").close()
                super().close()
        handlers = []
        onstart:
            handlers.append(Told())
        rule one:
            output: "x.txt"
            shell: "test ! -e closed && touch {output}"
        """
    )
    status, output = project.run("--jobs", "1", "--cores", "1", "one")
    assert status == 0, output


def test_found_through_the_working_directory_alone(project: Project) -> None:
    """The job starts elsewhere and cannot import the package, nor does it need to."""
    project.write(
        """
        rule one:
            output: "x.txt"
            shell: "touch {output}"
        """
    )
    project.environment["PYTHONPATH"] = ""
    inside = Project(SOURCES, project.environment)
    status, output = inside.run(
        *("--jobs", "1", "--cores", "1", "--directory", str(project.folder)),
        *("--snakefile", str(project.folder / "Snakefile"), "--submitit-folder", "elsewhere"),
    )
    assert status == 0, output
    assert (project.folder / "x.txt").exists()
    assert len(project.logs("elsewhere")) == 1


def test_slurm_without_slurm_says_what_is_missing(project: Project) -> None:
    project.environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}/nonexistent"
    project.write(
        """
        rule one:
            output: "x.txt"
            shell: "touch {output}"
        """
    )
    status, output = project.run("--jobs", "1", "--submitit-cluster", "slurm", "one")
    assert status != 0
    assert "needs Slurm's program 'sbatch'" in output


@pytest.mark.parametrize(
    ("waiting", "cores", "gpus", "chosen"),
    [
        ([(1, 0), (1, 0), (1, 0)], 2, 0, [0, 1]),
        ([(2, 0), (1, 0)], 1, 0, []),  # the narrow one does not overtake
        ([(1, 0), (2, 0), (1, 0)], 2, 0, [0]),
        ([(1, 1), (1, 1), (1, 0)], 4, 1, [0, 2]),  # who waits for a GPU blocks nobody
        ([(1, 2)], 4, 1, []),
        ([], 4, 1, []),
    ],
)
def test_choose_startable(
    waiting: list[tuple[int, int]], cores: int, gpus: int, chosen: list[int]
) -> None:
    free = Free(cores, tuple(str(i) for i in range(gpus)))
    assert choose_startable(waiting, free) == chosen


@pytest.mark.parametrize(
    ("name", "wildcards", "ending"),
    [
        ("train", {}, "/logs/train"),
        ("train", {"a": "1", "b": "x-y.z"}, "/logs/train/a=1,b=x-y.z"),
        ("group_a", {}, "/logs/group_a"),
    ],
)
def test_log_folder(name: str, wildcards: dict[str, str], ending: str) -> None:
    assert str(log_folder(Path("logs"), name, wildcards)).endswith(ending)


@pytest.mark.parametrize("value", ["a/b", "../..", "..", "%j", "x" * 300, "ä b"])
def test_log_folder_of_an_odd_wildcard_is_safe_and_unique(value: str) -> None:
    base = Path("logs")
    folder = log_folder(base, "train", {"w": value})
    assert folder.parent == base.absolute() / "train"
    assert len(folder.name) <= 100
    assert "%" not in folder.name
    assert folder != log_folder(base, "train", {"w": value + "."})
