"""A whole Slurm on the loopback interface, beside whatever runs on the machine.

munged, MariaDB, slurmdbd, slurmctld and a slurmd for each node run as children of the test process,
each with files in one temporary folder and a port of its own.  Nothing in /etc and no service is
touched; clients find the cluster through SLURM_CONF.

Nodes n1 to n6 with 4000 MiB and 4 CPUs each (n6: 8), whatever the machine has; n1 and n2 have 2
GPUs each (device files that stand for GPUs).  Partitions:

* `low` on n1, n2 and n6, the default: its jobs are requeued when one of `high` needs their place;
* `lost` on n3: its jobs are cancelled instead;
* `frail` on n4 and n5, for nodes that fail;
* `high` on all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

PACKAGES = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sacctmgr", "sacct", "sbatch", "srun", "squeue", "scancel", "scontrol"),
)
SEARCH_PATH = os.pathsep.join(
    (
        str(Path(sys.executable).parent),
        *(os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"),
    )
)

# CPUs by node.
NODES = {"n1": 4, "n2": 4, "n3": 4, "n4": 4, "n5": 4, "n6": 8}

# Seconds between Slurm's SIGTERM and SIGKILL.
KILL_WAIT_S = 5
# Seconds between SIGTERM and the end of a job that makes room, at least; Slurm looks every 30 s.
GRACE_S = 20
# Seconds that a requeued job waits before it starts again.  Slurm's default is 120, which is also
# the lifetime of a credential, for nodes whose clocks disagree; here all share one clock.
REQUEUE_WAIT_S = 25
# Seconds that a program or a daemon may take on a machine that has much else to do.
ANSWERS_WITHIN_S = 180
# What Slurm's programs say while a controller is being restarted or has too much to do.
SILENT = ("Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted")


def require_packages() -> None:
    """Skips the test where Slurm is not installed; fails it in continuous integration."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]
    reasons = []
    if missing:
        reasons.append(f"not installed: {', '.join(missing)}; apt-get install -y {PACKAGES}")
    if os.geteuid() != 0:
        reasons.append("Slurm's daemons must be started as root")
    if not reasons:
        return
    message = f"no Slurm for the tests of the cluster: {'; '.join(reasons)}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def reserved_ports(number: int) -> list[socket.socket]:
    """Sockets bound to free ports, which nobody else is given while they are open.

    Not even for a moment in which a daemon is being restarted. Slurm's daemons may listen there all
    the same, as they too set SO_REUSEADDR.
    """
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("", 0))
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sockets


class LoopbackSlurm:
    def __init__(self, max_array_size: int = 6) -> None:
        self.max_array_size = max_array_size
        # Short, because the path of a socket may have 107 characters only.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.environment = {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(self.folder / "db.sock"),
            "PATH": SEARCH_PATH,
        }
        # By the name of the program or of the node.
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = reserved_ports(2 + len(NODES))

    def run(self, *command: str) -> str:
        """The output of one of Slurm's programs; fails the test if that fails.

        A controller that is being restarted, by another thread, is waited for.
        """
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while (done := self._call(*command)).returncode != 0:
            silent = any(words in done.stderr for words in SILENT)
            if not silent or time.monotonic() > deadline:
                pytest.fail(f"{command}: {done.stdout}{done.stderr}")
            time.sleep(0.5)
        return done.stdout

    def start(self) -> None:
        """Returns when all nodes are idle."""
        self._write_configuration()
        folder = self.folder
        self._daemon(
            *("munged", "--foreground", "--force", f"--socket={folder}/munge.sock"),
            *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid"),
            *(f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"),
        )
        self._wait_for_success("munge", "--no-input", f"--socket={folder}/munge.sock")
        install = self._call(
            *("mariadb-install-db", "--no-defaults", f"--datadir={folder}/db", "--user=root"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
            f"--tmpdir={folder}/tmp",  # another one that starts would empty a common one
        )
        assert install.returncode == 0, install.stdout + install.stderr
        self._daemon(
            *("mariadbd", "--no-defaults", f"--datadir={folder}/db", "--user=root"),
            *(f"--socket={folder}/db.sock", "--skip-networking", f"--pid-file={folder}/db.pid"),
            *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"),
            f"--tmpdir={folder}/tmp",
        )
        self._wait_for_success("mariadb-admin", "--no-defaults", f"-S{folder}/db.sock", "ping")
        self._daemon("slurmdbd", "-D")
        self._wait_for_success("sacctmgr", "--immediate", "add", "cluster", "loopback")
        self._daemon("slurmctld", "-D", "-i")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        nodes = ("sinfo", "--Node", "--noheader", "--format=%N %T")
        idle = {f"{node} idle" for node in NODES}
        while set(self._call(*nodes).stdout.splitlines()) != idle:
            self._check_alive()
            if time.monotonic() > deadline:
                pytest.fail(
                    f"the nodes are not idle after {ANSWERS_WITHIN_S} s\n{self.diagnosis()}"
                )
            time.sleep(0.3)

    def stop_daemon(self, name: str) -> None:
        """Ends `slurmctld` or `slurmdbd`, in an orderly way."""
        daemon = self._daemons[name]
        daemon.terminate()
        daemon.wait(timeout=ANSWERS_WITHIN_S)

    def start_daemon(self, name: str) -> None:
        """Starts again what :meth:`stop_daemon` has ended."""
        self._daemon(name, *(["-D", "-i"] if name == "slurmctld" else ["-D"]))

    def lose_node(self, node: str) -> None:
        """Kills everything on the node, as a power cut would, and has Slurm notice at once."""
        slurmd = self._daemons[node]
        slurmd.kill()
        slurmd.wait()
        # Another test run on this machine has nodes of the same names.
        ours = _processes_with(f"SLURM_CONF={self.folder}/".encode())
        tasks = [pid for pid in _processes_with(f"SLURMD_NODENAME={node}".encode()) if pid in ours]
        # Those that started them go first, or they would tell Slurm of the tasks' end.
        steps = {pid for pid in map(_parent, tasks) if "slurmstepd" in _program(pid)}
        for pid in [*steps, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def bring_back_node(self, node: str) -> None:
        """The node that :meth:`lose_node` took away; returns when it takes jobs.

        Slurm 22.05 goes on calling it mixed if the controller was restarted before the loss.
        """
        self._daemon("slurmd", "-D", "-N", node)
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        states = ("sinfo", f"--nodes={node}", "--noheader", "--format=%T")
        while (now := set(self.run(*states).split())) not in ({"idle"}, {"mixed"}):
            if any(state.startswith("down") for state in now):
                # By itself Slurm may take minutes to look at the node again.
                self._call("scontrol", "update", f"NodeName={node}", "State=RESUME")
            if time.monotonic() > deadline:
                pytest.fail(f"{node} is {now}\n{self.diagnosis()}")
            time.sleep(1.0)

    def stop(self) -> None:
        """Ends all jobs, all daemons and whatever they started, and removes the folder."""
        try:
            if "slurmctld" in self._daemons:
                self._call("scancel", "--user=root")
        finally:
            daemons = list(self._daemons.values())
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                try:
                    daemon.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            for pid in _processes_with(f"SLURM_CONF={self.folder}/".encode()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for port in self._ports:
                port.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def diagnosis(self) -> str:
        """The last lines of all logs."""
        logs = sorted(self.folder.glob("*.log"))
        tails = (f"{log.name}:\n" + "\n".join(_lines(log)[-8:]) for log in logs)
        return "\n\n".join(tails)

    def _write_configuration(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        for name in ("db", "tmp", "state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir()
        for number in range(4):
            # The devices of /dev/null, in the place of GPUs.
            os.mknod(folder / f"gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        _write_private(folder / "munge.key", os.urandom(128))
        host = socket.gethostname().partition(".")[0]
        controller, dbd, *node_ports = (each.getsockname()[1] for each in self._ports)
        slurmdbd = f"""
            AuthType=auth/munge
            AuthInfo=socket={folder}/munge.sock
            DbdHost={host}
            DbdAddr=127.0.0.1
            DbdPort={dbd}
            SlurmUser=root
            StorageType=accounting_storage/mysql
            StorageHost=localhost
            StorageUser=root
            StorageLoc=slurm
            LogFile={folder}/slurmdbd.log
            PidFile={folder}/slurmdbd.pid
            """
        _write_private(folder / "slurmdbd.conf", textwrap.dedent(slurmdbd).encode())
        slurm = f"""
            ClusterName=loopback
            SlurmctldHost={host}(127.0.0.1)
            SlurmctldPort={controller}
            SlurmUser=root
            AuthType=auth/munge
            AuthInfo=socket={folder}/munge.sock,cred_expire={REQUEUE_WAIT_S}
            CryptoType=crypto/munge
            StateSaveLocation={folder}/state
            SlurmdSpoolDir={folder}/spool.%n
            SlurmctldPidFile={folder}/slurmctld.pid
            SlurmdPidFile={folder}/slurmd.%n.pid
            SlurmctldLogFile={folder}/slurmctld.log
            SlurmdLogFile={folder}/slurmd.%n.log
            ProctrackType=proctrack/linuxproc
            TaskPlugin=task/none
            SelectType=select/cons_tres
            SelectTypeParameters=CR_Core_Memory
            JobAcctGatherType=jobacct_gather/linux
            JobAcctGatherFrequency=task=5
            AccountingStorageType=accounting_storage/slurmdbd
            AccountingStorageHost=127.0.0.1
            AccountingStoragePort={dbd}
            AccountingStoragePass={folder}/munge.sock
            AccountingStorageTRES=gres/gpu
            AccountingStorageEnforce=associations,limits,qos
            MaxArraySize={self.max_array_size}
            GresTypes=gpu
            MpiDefault=none
            KillWait={KILL_WAIT_S}
            ReturnToService=2
            SlurmdParameters=config_overrides
            SchedulerParameters=sched_interval=5,bf_interval=5
            PreemptType=preempt/partition_prio
            PreemptMode=REQUEUE
            PartitionName=low Nodes=n1,n2,n6 Default=YES PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={GRACE_S} MaxTime=60 DefMemPerCPU=100
            PartitionName=lost Nodes=n3 PriorityTier=1 PreemptMode=CANCEL \
GraceTime={GRACE_S} MaxTime=60 DefMemPerCPU=100
            PartitionName=frail Nodes=n4,n5 PriorityTier=1 PreemptMode=OFF MaxTime=60 \
DefMemPerCPU=100
            PartitionName=high Nodes=n[1-6] PriorityTier=10 PreemptMode=OFF MaxTime=60 \
DefMemPerCPU=100
            """
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} "
            f"RealMemory=4000{' Gres=gpu:2' if node in ('n1', 'n2') else ''}\n"
            for (node, cpus), port in zip(NODES.items(), node_ports, strict=True)
        )
        (folder / "slurm.conf").write_text(textwrap.dedent(slurm) + nodes)
        (folder / "gres.conf").write_text(
            f"NodeName=n1 Name=gpu File={folder}/gpu[0-1]\n"
            f"NodeName=n2 Name=gpu File={folder}/gpu[2-3]\n"
        )

    def _daemon(self, *command: str) -> None:
        name = command[-1] if command[0] == "slurmd" else command[0]
        with (self.folder / f"{name}.out.log").open("ab") as log:
            program = shutil.which(command[0], path=SEARCH_PATH)
            assert program is not None
            self._daemons[name] = subprocess.Popen(
                [program, *command[1:]],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=ANSWERS_WITHIN_S,
            check=False,
        )

    def _wait_for_success(self, *command: str) -> None:
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while (done := self._call(*command)).returncode != 0:
            self._check_alive()
            if time.monotonic() > deadline:
                pytest.fail(f"{command}: {done.stdout}{done.stderr}\n{self.diagnosis()}")
            time.sleep(0.2)

    def _check_alive(self) -> None:
        for daemon in self._daemons.values():
            if daemon.poll() is not None:
                pytest.fail(f"{daemon.args!r} ended with {daemon.returncode}\n{self.diagnosis()}")


def _processes_with(marker: bytes) -> list[int]:
    """Those that have ``marker`` in their environment, but for this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def _parent(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines()
