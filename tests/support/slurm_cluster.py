"""A cluster of a real SLURM on one machine: a login node and two that compute. Needs root.

Each has a network, a host name, processes and a /dev/shm of its own; all see one file system.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from namespaces import INTERFACE, can_make_nodes, joined_nodes

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "unshare", "nsenter")
LOGIN, *COMPUTING = NAMES = ("login", "n1", "n2")
LIMIT_S = 300.0
POLL_S = 0.1
UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

# $1: its name; $2: a file of hosts; then the program that makes it a node of SLURM.
_BE_A_NODE = """
hostname "$1"
mount --bind "$2" /etc/hosts
mount -t tmpfs -o mode=1777 shm /dev/shm
shift 2
exec "$@"
"""
# Nobody is kept out: all of it is the test's own. The machine may have fewer processors than the
# job asks for, and be so busy that writing takes longer than a job has by default (30 s).
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={login}({address})
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
KillWait=300
"""


@dataclass(frozen=True)
class Cluster:
    """One that is up."""

    place: Path
    """Its configuration and logs."""

    processes: Mapping[str, int]
    """Of each node, by its name: the process whose only child is the first one there."""

    def type(
        self, line: str, directory: Path, environ: Mapping[str, str], *, node: str = LOGIN
    ) -> "subprocess.CompletedProcess[str]":
        """Type a line of shell on a node."""
        outside = self.processes[node]
        first = Path(f"/proc/{outside}/task/{outside}/children").read_text().strip()
        enter = ["nsenter", f"--target={first}", "--mount", "--uts", "--net", "--pid"]
        configuration = {"SLURM_CONF": f"{self.place}/slurm.conf"}
        return subprocess.run(
            [*enter, f"--wd={directory}", "bash", "-c", line],
            env={**os.environ, **environ, **configuration, "GLOO_SOCKET_IFNAME": INTERFACE},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def start(self, script: Path, environ: Mapping[str, str]) -> str:
        """Submit a batch script, whose output goes beside it; return the number of the job."""
        line = f"sbatch --parsable --output={output_of(script)} {script.name}"
        done = self.type(line, script.parent, environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str) -> int:
        """Wait until a job is over; return its exit code."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            said = self.type(f"scontrol show job --oneliner {job}", self.place, {}).stdout
            found = dict(word.split("=", 1) for word in said.split() if "=" in word)
            if found.get("JobState", UNDER_WAY[0]) not in UNDER_WAY:
                return int(found["ExitCode"].partition(":")[0])
            time.sleep(POLL_S)
        raise TimeoutError(f"job {job} is not over after {LIMIT_S:g} s: {said}")

    def segments(self) -> list[str]:
        """Return the rings that lie in the shared memory of any node."""
        line = "find /dev/shm -name '*.ring'"
        found = (self.type(line, self.place, {}, node=node).stdout for node in COMPUTING)
        return [path for paths in found for path in paths.split()]


def output_of(script: Path) -> Path:
    return script.with_suffix(".out")


def why_not() -> str | None:
    """Return why there can be no cluster here; None where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"SLURM is not installed here: {', '.join(missing)}"
    return None if can_make_nodes() else "network namespaces need root and iproute2"


@contextmanager
def cluster(place: Path) -> Iterator[Cluster]:
    """Start one, and end it with all that still runs there.

    Raises:
        TimeoutError: not all nodes came up; the message has what they said.
    """
    (place / "state").mkdir()
    with joined_nodes(len(NAMES)) as machines:
        addresses = {name: node.address for name, node in zip(NAMES, machines, strict=True)}
        _configure(place, addresses)
        started = {}
        try:
            for name, node in zip(NAMES, machines, strict=True):
                program = ["slurmctld", "-D"] if name == LOGIN else ["slurmd", "-D"]
                apart = ["unshare", "--mount", "--propagation", "private", "--uts", "--pid"]
                apart += ["--fork", "--kill-child", "--mount-proc", "bash", "-ec", _BE_A_NODE]
                command = [*apart, "node", name, str(place / "hosts"), *program]
                environ = {"SLURM_CONF": str(place / "slurm.conf")}
                started[name] = node.start(command, environ, place / f"{name}.log")
            up = Cluster(place, {name: process.pid for name, process in started.items()})
            _wait_until_up(up)
            yield up
        finally:
            for process in started.values():
                process.kill()
                process.wait()


def _configure(place: Path, addresses: Mapping[str, str]) -> None:
    hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (place / "hosts").write_text("\n".join(hosts) + "\n")
    nodes = [f"NodeName={name} NodeAddr={addresses[name]} CPUs=4" for name in COMPUTING]
    nodes.append(f"PartitionName=all Nodes={','.join(COMPUTING)} Default=YES")
    whole = _CONFIGURATION.format(login=LOGIN, address=addresses[LOGIN], place=place)
    (place / "slurm.conf").write_text(whole + "\n".join(nodes) + "\n")
    # Named, it is not looked for; what runs here is told apart without it.
    (place / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def _wait_until_up(up: Cluster) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if all((up.place / f"{name}.log").exists() for name in NAMES) and _num_idle(up) == 2:
            return
        time.sleep(POLL_S)
    said = [(up.place / f"{name}.log").read_text() for name in NAMES]
    raise TimeoutError(f"no SLURM after {LIMIT_S:g} s: {said}")


def _num_idle(up: Cluster) -> int:
    said = up.type("timeout 10 sinfo --noheader --states=idle --format=%D", up.place, {}).stdout
    return sum(int(word) for word in said.split())
