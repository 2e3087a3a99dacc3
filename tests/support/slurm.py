"""Submits batch scripts: to a real SLURM where there is one, else to a stand-in on this machine.

The stand-in knows one node. Its `srun` starts the tasks that SLURM would start, with the variables
that SLURM would set.
"""

import functools
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from slurm_cluster import Cluster, output_of

FIRST_PORT, NUM_PORTS = 20000, 10000  # as the scripts of the guide choose one
LIMIT_S = 150.0

_SRUN = f"""#!{sys.executable}
import os, subprocess, sys
options, command = {{}}, sys.argv[1:]
while command and command[0].startswith("--"):
    name, _, value = command.pop(0).removeprefix("--").partition("=")
    options[name] = value
assert set(options) <= {{"overlap", "ntasks", "ntasks-per-node", "jobid"}}, options
count = int(options.get("ntasks", os.environ["SLURM_NTASKS"]))
counter = os.environ["STAND_IN_STEPS"]
descriptor = os.open(counter, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
os.write(descriptor, b".")
step = os.lseek(descriptor, 0, os.SEEK_CUR) - 1
tasks = []
for task in range(count):
    of_task = {{"PROCID": task, "LOCALID": task, "NODEID": 0, "NTASKS": count,
               "TASKS_PER_NODE": count, "STEP_ID": step}}
    environ = os.environ | {{f"SLURM_{{name}}": str(value) for name, value in of_task.items()}}
    tasks.append(subprocess.Popen(command, env=environ))
sys.exit(max(task.wait() for task in tasks))
"""
_SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames localhost" ] && echo 127.0.0.1
"""


@functools.cache
def is_real() -> bool:
    """Whether a SLURM controller answers here."""
    if shutil.which("sbatch") is None:
        return False
    asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False)
    return asked.returncode == 0 and "UP" in asked.stdout


def submit(script: Path, environ: Mapping[str, str], cluster: Cluster | None) -> tuple[int, str]:
    """Run a batch script until it ends; return its exit code and what it said.

    Without a cluster of the test's own, on one node.
    """
    if cluster is not None:
        code = cluster.wait(cluster.start(script, environ))
        return code, output_of(script).read_text()
    if is_real():
        return _submit_for_real(script, environ)
    programs = script.parent / "stand-in"
    programs.mkdir(exist_ok=True)
    for name, text in (("srun", _SRUN), ("scontrol", _SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    per_node = _option(script, "ntasks-per-node")
    done = subprocess.run(
        ["bash", script],
        cwd=script.parent,
        env={
            **os.environ,
            **environ,
            "PATH": f"{programs}:{environ['PATH']}",
            "STAND_IN_STEPS": str(programs / "steps"),
            "SLURM_JOB_ID": str(_free_port() - FIRST_PORT),
            "SLURM_JOB_NAME": _option(script, "job-name"),
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_NNODES": "1",
            "SLURM_NTASKS": per_node,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stdout


def _submit_for_real(script: Path, environ: Mapping[str, str]) -> tuple[int, str]:
    output = output_of(script)
    done = subprocess.run(
        ["sbatch", "--wait", "--nodes=1", f"--output={output}", script],
        cwd=script.parent,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = output.read_text() if output.exists() else ""
    return done.returncode, done.stdout + done.stderr + said


def _option(script: Path, name: str) -> str:
    found = re.search(rf"^#SBATCH --{name}=(\S+)", script.read_text(), re.MULTILINE)
    assert found is not None, name
    return found[1]


def _free_port() -> int:
    """Return a port of the range from which the scripts choose."""
    for port in range(FIRST_PORT + os.getpid() % NUM_PORTS, FIRST_PORT + NUM_PORTS):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
