"""A real daemon as a child process."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trackside.wire.locks import daemon_pid

DEADLINE_S = 90.0


class DaemonProcess:
    """``trackside daemon`` for one node-local directory; may be killed and started again."""

    def __init__(
        self, directory: Path, log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._environ = {"TRACKSIDE_SHM_DIR": str(directory), **(environ or {})}
        self.directory = directory
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, wait: bool = True, prefix: Sequence[str] = ()) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "tracksided", "daemon", *arguments],
                env=os.environ | self._environ,
                stdout=output,
                stderr=output,
            )
        if wait:
            wait_until(lambda: daemon_pid(self.directory) == self.pid)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    @property
    def status(self) -> dict[str, Any]:
        """What it wrote of itself last."""
        content = (self.directory / "status.json").read_text(encoding="utf-8")
        return dict(json.loads(content))

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("the condition did not come true in time")
        time.sleep(0.01)
