"""Where the chaos happens: file systems of their own, a daemon, runs, and what they said."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from daemon_process import DaemonProcess
from set_clock import WHY_NOT, SetClock

SUPPORT = Path(__file__).parent
SHM_SIZE, DISK_SIZE = "96m", "2g"
REAL_STEPS, REAL_EVERY = 60, 2
# A rule calms down at once, so that there are many alerts; no stall that is ours to see.
SETTINGS = """
max_lag_seconds = 600.0
join_grace_seconds = 60.0
[workers]
job_seconds = 60.0
[alerts]
cooldown_seconds = 0.0
clear_after = 1
[http]
listen = "127.0.0.1:{port}"
"""
LATE_S, MAX_SKEW_STEPS = 2.0, 3


@dataclass
class Rank:
    """One try of one rank: its process and the file of what it says."""

    process: subprocess.Popen[bytes]
    output: Path
    was_killed: bool = False

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        if self.is_running:
            self.was_killed = True
            self.process.kill()
            self.process.wait()

    def published(self) -> tuple[str, list[int]]:
        """Return the nonce and the sequence numbers that were published for certain."""
        whole = self.output.read_text().rpartition("\n")[0].splitlines()
        return (whole[0], [int(line.split()[0]) for line in whole[1:]]) if whole else ("", [])


@dataclass
class FakeRun:
    """A run of light trainers; tries follow each other under one name."""

    name: str
    world_size: int
    save_dir: Path
    tries: list[list[Rank]] = field(default_factory=list)
    first_step: int = 1

    @property
    def running(self) -> list[Rank]:
        return [rank for rank in self.tries[-1] if rank.is_running] if self.tries else []


@dataclass
class RealTry:
    """One life of a real training; its outputs have a directory of their own."""

    process: subprocess.Popen[bytes]
    output: Path
    errors: Path
    save_dir: Path
    was_killed: bool = False


class Site:
    """All that runs; `close` ends it and takes everything away."""

    def __init__(self, root: Path, random: Random, *, with_real: bool) -> None:
        self.root = root
        self.random = random
        self.shm = Path("/dev/shm") / f"ts-chaos-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
        self.disk = root / "disk"
        self._stack = contextlib.ExitStack()
        self.has_small_shm = self._mount(self.shm, SHM_SIZE)
        self.has_small_disk = self._mount(self.disk, DISK_SIZE)
        self.node = self.shm / "node"
        self.node.mkdir(mode=0o700)
        self.stop_file = root / "stop"
        settings = root / "daemon.toml"
        settings.write_text(SETTINGS.format(port=_free_port()))
        self._settings = settings
        self.clock = SetClock(root) if WHY_NOT is None else None
        clock_environ = {} if self.clock is None else self.clock.environ
        self._environ = {
            **os.environ,
            **clock_environ,
            "TRACKSIDE_SHM_DIR": str(self.node),
            "OMP_NUM_THREADS": "1",
        }
        self.daemon = DaemonProcess(self.node, root / "daemon.log", clock_environ)
        self.daemon_codes: list[int] = []
        self.runs = [
            FakeRun("pair", 2, self.disk / "pair"),
            FakeRun("single", 1, self.disk / "single"),
            FakeRun("eight", 8, self.disk / "eight"),
        ]
        self.real: list[RealTry] = []
        self.bare = self._bare_losses() if with_real else []

    def start_daemon(self) -> None:
        self.daemon.start("--config", str(self._settings), wait=False)

    def status(self) -> dict[str, Any]:
        """Return what the daemon wrote of itself last; nothing where there is nothing."""
        try:
            return self.daemon.status
        except (OSError, ValueError):
            return {}

    def worker_pids(self) -> list[int]:
        """Return the workers of the daemon that runs."""
        return self._own_status().get("workers", {}).get("pids", [])

    def helper_pid(self, name: str) -> int | None:
        """Return the process of the daemon that runs which serves ``http`` or ``monitors``."""
        return (self._own_status().get(name) or {}).get("pid")

    def _own_status(self) -> dict[str, Any]:
        status = self.status()
        return status if status.get("pid") == self.daemon.pid else {}

    def start_try(self, run: FakeRun) -> None:
        """Start all ranks of a run, as a launcher does after a crash.

        Some come late, and some count their steps from elsewhere.
        """
        attempt = len(run.tries)
        ranks = []
        for rank in range(run.world_size):
            output = self.root / f"{run.name}-{attempt}-{rank}.out"
            is_odd = rank > 0 and self.random.random() < 0.3
            first_step = run.first_step + (self.random.randrange(MAX_SKEW_STEPS) if is_odd else 0)
            late_s = self.random.uniform(0, LATE_S) if is_odd else 0.0
            numbers = map(str, (attempt, rank, run.world_size, first_step, late_s))
            command = [sys.executable, SUPPORT / "chaos_trainer.py", self.node, run.save_dir]
            with output.open("wb") as stream:
                process = subprocess.Popen(
                    [*command, run.name, *numbers, self.stop_file], stdout=stream, env=self._environ
                )
            ranks.append(Rank(process, output))
        run.tries.append(ranks)

    def tend(self) -> None:
        """Start again what has ended: runs whose ranks are all gone, the real training."""
        for run in self.runs:
            if not run.running:
                run.first_step = 1 + self.random.randrange(20)
                self.start_try(run)
        if self.bare and (not self.real or self.real[-1].process.poll() is not None):
            self._start_real()

    def wind_down(self) -> None:
        """Let every training end by itself."""
        self.stop_file.touch()
        for run in self.runs:
            for rank in run.running:
                rank.process.wait(60)
        for entry in self.real:
            entry.process.wait(120)

    def close(self) -> None:
        self.daemon.kill()
        for run in self.runs:
            for rank in run.running:
                rank.kill()
        for entry in self.real:
            entry.process.kill()
            entry.process.wait()
        self._stack.close()

    def _start_real(self) -> None:
        number = len(self.real)
        save_dir = self.disk / f"real{number}"
        keywords = {"save_dir": str(save_dir), "autostart": False, "every": REAL_EVERY}
        keywords |= {"ring_bytes": 8 << 20, "run": f"real{number}"}
        words = ["pause_s=0.05", *(f"{name}={value!r}" for name, value in keywords.items())]
        output, errors = self.root / f"real{number}.out", self.root / f"real{number}.err"
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, SUPPORT / "real_trainer.py", str(REAL_STEPS), *words],
                stdout=out,
                stderr=err,
                env=self._environ,
            )
        self.real.append(RealTry(process, output, errors, save_dir))

    def _bare_losses(self) -> list[str]:
        done = subprocess.run(
            [sys.executable, SUPPORT / "real_trainer.py", str(REAL_STEPS)],
            capture_output=True,
            text=True,
            check=True,
            env=self._environ,
        )
        return done.stdout.split()

    def _mount(self, path: Path, size: str) -> bool:
        """Make a directory, on a file system of its own where that is allowed."""
        path.mkdir(mode=0o700)
        self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        if os.geteuid() != 0:
            return False
        options = f"size={size},mode=700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False
        )
        if done.returncode == 0:
            self._stack.callback(subprocess.run, ["umount", "--lazy", path], check=False)
        return done.returncode == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
