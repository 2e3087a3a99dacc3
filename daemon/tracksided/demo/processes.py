"""The demo's child processes: two training ranks, and the evaluation of checkpoints."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tracksided.errors import TracksidedError

NUM_RANKS = 2
LOOPBACK = "127.0.0.1"
KEPT_LINES = 40  # of a trainer that fails: the tracebacks of both ranks
END_TIMEOUT_S = 10.0  # from asking a child to end to killing it

_PROGRESS = re.compile(r"^step (\d+)/\d+ loss (\S+)$")
# What the launcher says of a rank that failed. A traceback of its own follows, which says less
# than that of the rank before.
_LAUNCHER_VERDICT = re.compile(r"^E\d{4} .*failed \(exitcode: ")


class DemoFailed(TracksidedError):
    """A child process of the demo failed; the message holds what it said last."""


def train_command(steps: int, out: Path) -> list[str]:
    """Return the command that trains on two ranks; the launcher picks a free port.

    As ``--standalone``, but by address: where no ``/etc/hosts`` names localhost, as in a bare
    chroot, torch would look for it for eight minutes.
    """
    launcher = bound_command(
        "torch.distributed.run",
        *(f"--nproc-per-node={NUM_RANKS}", f"--rdzv-id={uuid.uuid4()}", "--rdzv-backend=c10d"),
        *(f"--rdzv-endpoint={LOOPBACK}:0", f"--local-addr={LOOPBACK}"),
    )
    return [*launcher, "-m", "tracksided.demo.train", "--steps", str(steps), "--out", str(out)]


def bound_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a child that ends when this process does."""
    return [sys.executable, "-m", "tracksided.demo.bound", str(os.getpid()), module, *arguments]


def train_environment(environ: Mapping[str, str], shm: Path, run: str) -> dict[str, str]:
    """Return the trainers' environment: the user's ``environ`` without settings of trackside's.

    A setting that the user made for other runs (TRACKSIDE=0) would change the tour.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith("TRACKSIDE")}
    return {
        **kept,
        "TRACKSIDE_SHM_DIR": str(shm),
        "TRACKSIDE_RUN": run,
        "TRACKSIDE_AUTOSTART": "0",  # the demo has its own daemon
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def run_training(
    command: Sequence[str], env: Mapping[str, str], report: Callable[[int, float], None]
) -> None:
    """Run the training to its end.

    Args:
        command: as `train_command` returns it.
        env: as `train_environment` returns it.
        report: called with step and loss as they are reached.

    Raises:
        DemoFailed: the training failed.
    """
    last_lines: deque[str] = deque(maxlen=KEPT_LINES)
    is_told = False
    with _child(command, env) as child:
        for line in child.stdout or ():
            found = _PROGRESS.match(line.strip())
            if found:
                report(int(found[1]), float(found[2]))
            elif not is_told:
                last_lines.append(line.rstrip())
                is_told = _LAUNCHER_VERDICT.match(line) is not None
        code = child.wait()
    if code != 0:
        said = "\n".join(f"    {line}" for line in last_lines)
        raise DemoFailed(f"the training failed with exit code {code}; it said last:\n{said}")


def evaluate(checkpoints: Sequence[Path]) -> dict[Path, float]:
    """Return the held-out loss of each checkpoint in nats per byte.

    Raises:
        DemoFailed: the evaluation failed.
    """
    command = bound_command("tracksided.demo.evaluate", *map(str, checkpoints))
    with _child(command, os.environ) as child:
        said, _ = child.communicate()
    if child.returncode != 0:
        raise DemoFailed(
            f"the evaluation failed with exit code {child.returncode}:\n{said.rstrip()}"
        )
    losses = json.loads(said.splitlines()[-1])
    return {path: float(losses[str(path)]) for path in checkpoints}


@contextlib.contextmanager
def _child(command: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start a child in a session of its own and end it, whatever happens.

    A Ctrl-C of the terminal then reaches only this process, which ends its children in order.
    """
    child = subprocess.Popen(
        command,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with child:
        try:
            yield child
        finally:
            if child.poll() is None:
                _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """Ask a child to end, with its own children; kill it where it does not."""
    child.send_signal(signal.SIGTERM)
    try:
        # Also empties the pipe: a child that waits for room in it would never end.
        child.communicate(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # The launcher puts each rank into a session of its own: no group holds them all.
        launcher = psutil.Process(child.pid)
        for process in (*launcher.children(recursive=True), launcher):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        child.communicate()
