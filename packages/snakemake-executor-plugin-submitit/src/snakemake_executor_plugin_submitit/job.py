"""What runs on the machine of a job: one shell command, with its signals and its processes.

The class is sent to the job *by value* (see ``submission.py``), so this module imports the
standard library only, and a job needs neither this package nor Snakemake to load it.

Signals, and who sends them:

* SIGUSR2: the time limit is near (Slurm's ``--signal``, or submitit's local controller).  submitit
  handles it by calling :meth:`ShellJob.checkpoint`.  A command that started tasks by ``srun`` hands
  it on to them through srun.
* SIGTERM: Slurm preempts or cancels, or the user stopped Snakemake, or it is gone and its jobs on
  this machine must not outlive it (:func:`_end_with`).  The tasks of an ``srun`` get it from Slurm,
  at a preemption they alone: that the command failed because of it Slurm has to tell
  (:func:`_is_preempted`).
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

# After SIGTERM outside Slurm: seconds for the command to save before its processes are killed.
TERM_GRACE_S = 20.0
# After SIGTERM under Slurm: seconds to wait for Slurm's SIGKILL.  The longest GraceTime that
# clusters give to preempted jobs is a few minutes; a bound is needed for a SIGTERM that Slurm did
# not send.
SLURM_ACTS_WITHIN_S = 1800.0
# Seconds for the rest of a process group when its leader has gone already.
STRAGGLERS_S = 10.0
_SCONTROL_WITHIN_S = 60.0

# Seconds between two looks at whether the parent lives.
PARENT_POLL_S = 1.0

# Both may arrive while the child is being started; they are held back until it is known.
_HANDLED = {signal.SIGTERM, signal.SIGUSR2}


class CommandFailed(Exception):
    """The command of a job did not succeed; the message says how it ended."""


class _CommandFinished(Exception):
    """Raised out of the signal handler when the command turns out to have succeeded."""


def _prepare_child() -> None:
    """Sets the signals of the child between fork and exec.

    SIGUSR2 is ignored until a program installs a handler for it (the trainer does), because its
    default action would kill the shells and the Snakemake process in between.  The signal mask is
    emptied: the outer process blocks SIGINT for its jobs.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def describe_status(status: int) -> str:
    """Words for an exit status as ``subprocess`` gives it: negative means killed by a signal."""
    if status >= 0:
        return f"the command ended with status {status}"
    return f"the command was killed by {signal.Signals(-status).name}"


class ShellJob:
    """A picklable callable that runs one shell command in a process group of its own.

    ``grace_s`` is the number of seconds that the command may take to stop after SIGUSR2; the
    sender of the signal must leave more than that before the time limit.  If ``parent`` is a
    process id (of this machine), the command is stopped as by SIGTERM when that process has ended.
    """

    def __init__(self, command: str, grace_s: float, parent: int | None = None) -> None:
        self.command = command
        self.grace_s = grace_s
        self.parent = parent
        self._child: subprocess.Popen[bytes] | None = None
        self._files = _OwnFiles()
        self._terminated = False
        self._signalled = False

    def __reduce__(self) -> tuple[Any, ...]:
        return ShellJob, (self.command, self.grace_s, self.parent)

    def __call__(self) -> None:
        """Runs the command to its end.

        Raises :class:`CommandFailed` if it does not end with status 0.  None of the processes that
        it started in its group is left behind.
        """
        self._files.found()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        if self.parent is not None:
            # With signals blocked, which the thread inherits: they are for the main thread.
            threading.Thread(target=_end_with, args=(self.parent,), daemon=True).start()
        self._child = subprocess.Popen(
            ["bash", "-c", self.command], start_new_session=True, preexec_fn=_prepare_child
        )
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
            ended = self._ended(os.WEXITED)
            assert ended is not None
            status = ended
            # From here on there is nothing to save or to stop any more.
            signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        except _CommandFinished:
            status = 0
        finally:
            self._stop_group()
            self._files.keep()
        if status == 0:
            return
        on_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        if on_slurm and (self._terminated or _is_preempted()):
            # To end now would count as a failure of the job.  Slurm is about to kill it, and
            # whether that is a preemption (requeued) or a cancellation only Slurm knows.
            print("stopped from outside; waiting for Slurm to requeue or end this job", flush=True)
            time.sleep(SLURM_ACTS_WITHIN_S)
        reason = " after SIGTERM" if self._terminated else ""
        raise CommandFailed(describe_status(status) + reason)

    def checkpoint(self) -> Any:
        """Called by submitit on SIGUSR2: lets the command save and stop, for a later restart.

        The signal is handed on once, as soon as a process of the command catches it: one that has
        just been started, and ignores it yet, would otherwise run on into the limit.

        Returns a ``DelayedSubmission`` of the same command, which makes submitit requeue the job.
        Raises :class:`CommandFailed` if the command does not stop within ``grace_s`` seconds: it
        does not save on SIGUSR2, so a restart would meet the same limit again.
        """
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            deadline = time.monotonic() + self.grace_s
            handed_on = False
            status = self._ended(os.WEXITED | os.WNOHANG)
            while status is None and time.monotonic() < deadline:
                if not handed_on and _group_catches(self._child.pid, signal.SIGUSR2):
                    self._signal_group(signal.SIGUSR2)
                    handed_on = True
                time.sleep(0.1)
                status = self._ended(os.WEXITED | os.WNOHANG)
            if status == 0:
                raise _CommandFinished
            if status is None and self._terminated:
                # Preempted as well: Slurm requeues whatever the command does.
                time.sleep(SLURM_ACTS_WITHIN_S)
            if status is None:
                raise CommandFailed(
                    f"the time limit is near and the command still ran {self.grace_s:.0f} s after "
                    "SIGUSR2, so it cannot be continued later; give its rule a longer `runtime`"
                )
            print(f"{describe_status(status)} after SIGUSR2; it is to be continued", flush=True)
            self._stop_group()
        self._files.keep()
        return DelayedSubmission(ShellJob(self.command, self.grace_s, self.parent))

    def _ended(self, options: int) -> int | None:
        """The exit status of the child, or None if it runs.

        Leaves the child unreaped (so its process group id cannot be given to another), and, other
        than ``Popen.wait``, takes no lock that an interrupted call may hold.
        """
        assert self._child is not None
        result = os.waitid(os.P_PID, self._child.pid, options | os.WNOWAIT)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    def _on_sigterm(self, signum: int, frame: object) -> None:
        self._terminated = True
        self._files.keep()
        self._signal_group(signal.SIGTERM)
        if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
            # Nobody else will: a command that ignores SIGTERM is killed after the grace.
            signal.signal(signal.SIGALRM, lambda *_: self._signal_group(signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, TERM_GRACE_S)

    def _signal_group(self, signum: int) -> None:
        self._signalled = True
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signum)

    def _stop_group(self) -> None:
        """Ends what is left of the group, reaps the child and forgets it.

        After a signal the shells in between may die at once while a program below them still
        saves: the rest of the group has ``STRAGGLERS_S`` then.  Otherwise it is killed directly.
        """
        if self._child is None:
            return
        group = self._child.pid
        if self._signalled and self._ended(os.WEXITED | os.WNOHANG) is not None:
            deadline = time.monotonic() + STRAGGLERS_S
            while _group_lives(group) and time.monotonic() < deadline:
                time.sleep(0.05)
        # The leader is not reaped before this, so the id cannot be that of another group by now.
        self._signal_group(signal.SIGKILL)
        os.waitpid(group, 0)
        self._child.returncode = 0  # so that Popen does not wait for this process id again
        self._child = None


def _end_with(parent: int) -> None:
    """Sends this process SIGTERM when ``parent`` has ended.

    A poll, because the kernel's own such signal (PR_SET_PDEATHSIG) comes at the end of the thread
    that started the child, and only to the child itself: another process is in between here.
    """
    while process_lives(parent):
        time.sleep(PARENT_POLL_S)
    # To the main thread, whose wait for the command must be interrupted.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def process_lives(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = f"/proc/{pid}/stat"
    return not os.path.exists("/proc/self/stat") or _group_of_living(stat) is not None


class _OwnFiles:
    """submitit's files of this job: the pickle that another start of it reads, and its result."""

    def __init__(self) -> None:
        self._pickle: Path | None = None
        self._content = b""

    def found(self) -> None:
        """Reads the pickle, and removes what an earlier run left if it was killed while writing.

        submitit refuses to write a file again of which there is such a rest.
        """
        folder = os.environ.get("SUBMITIT_FOLDER")
        if folder is None:
            return
        from submitit import JobEnvironment

        job_id = JobEnvironment().job_id
        for name in ("submitted.pkl", "0_result.pkl"):
            Path(folder, f"{job_id}_{name}.save_tmp").unlink(missing_ok=True)
        self._pickle = Path(folder, f"{job_id}_submitted.pkl")
        self._content = self._pickle.read_bytes()

    def keep(self) -> None:
        """Brings back the folder and the pickle, should somebody have deleted the logs meanwhile.

        submitit could not write the job's result otherwise, nor start it again.
        """
        if self._pickle is not None and not self._pickle.exists():
            self._pickle.parent.mkdir(parents=True, exist_ok=True)
            self._pickle.write_bytes(self._content)


def _is_preempted() -> bool:
    """Whether Slurm is about to take this job's nodes away.  False if it does not say."""
    command = ["scontrol", "--oneliner", "show", "job", os.environ.get("SLURM_JOB_ID", "")]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_SCONTROL_WITHIN_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    times = dict(re.findall(r"\b(PreemptTime|StartTime)=(\d\S+)", told))
    # That of an earlier run of the job stays.
    return bool(times.get("PreemptTime", "") > times.get("StartTime", "9"))


def _group_lives(group: int) -> bool:
    """Whether a process of the group runs.

    Zombies do not count: in a container nobody may ever reap those whose parent has died.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stats = glob.glob("/proc/[0-9]*/stat")
    return not stats or any(_group_of_living(path) == group for path in stats)


def _group_catches(group: int, signum: int) -> bool:
    """Whether a process of the group takes notice of the signal; True where nobody can tell."""
    stats = glob.glob("/proc/[0-9]*/stat")
    members = (stat for stat in stats if _group_of_living(stat) == group)
    return not stats or any(_catches(f"{stat}us", signum) for stat in members)


def _catches(status: str, signum: int) -> bool:
    """Whether the process of a /proc/PID/status file has a handler for the signal, or is srun.

    srun waits for signals, of which its status tells nothing, and hands them on to its tasks.
    """
    try:
        with open(status, encoding="utf-8", errors="replace") as file:
            told = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return False
    caught = int(told.get("SigCgt", "0"), 16)
    return told.get("Name") == "srun" or bool(caught >> (signum - 1) & 1)


def _group_of_living(stat: str) -> int | None:
    """The process group in a /proc/PID/stat file, or None for a zombie or a process gone."""
    try:
        with open(stat, encoding="utf-8", errors="replace") as file:
            # "PID (any (name)) STATE PARENT GROUP ..."
            state, _, group = file.read().rpartition(")")[2].split()[:3]
    except OSError:
        return None
    return None if state in "ZX" else int(group)
