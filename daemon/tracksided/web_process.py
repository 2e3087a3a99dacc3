"""The process that serves HTTP, as its parent sees it: started, watched, started again.

HTTP lives in a process of its own that only reads files, so that no client, however many or
hostile, can delay or end the daemon.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tracksided.config import HttpSettings
from tracksided.listen_address import parse_listen_address

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "tracksided.web.server")
EXIT_IN_USE = 69  # EX_UNAVAILABLE of sysexits.h: somebody else has the address
EXIT_NOT_ALLOWED = 77  # EX_NOPERM: the system gives it to nobody like us
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
STEADY_S = 60.0  # after so long the next failure is the first one again


class WebProcess:
    """One HTTP process under supervision. One thread calls it; no call waits for the process.

    States: off (no address) | running | waiting (for the next start, after a failure).
    """

    def __init__(
        self, settings: HttpSettings, directory: Path, command: Sequence[str] = COMMAND
    ) -> None:
        """Start nothing yet.

        Args:
            settings: where it listens, and for whom.
            directory: the node-local one, which it reads.
            command: the process; it is told the rest on its command line.
        """
        self._settings = settings
        self._directory = directory
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_after = float("-inf")
        self._backoff_s = FIRST_BACKOFF_S
        self._problem: str | None = None

    def poll(self, now: float) -> None:
        """Start the process where it should run and does not.

        Args:
            now: monotonic seconds.
        """
        if not self._settings.listen:
            return
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                if now - self._started_at >= STEADY_S:
                    self._backoff_s, self._problem = FIRST_BACKOFF_S, None
                return
            self._process = None
            self._failed(self._how_it_ended(code), now)
        if now >= self._start_after:
            self._start(now)

    def status(self) -> dict[str, object] | None:
        """Return what `trackside status` shows; None where HTTP is off."""
        if not self._settings.listen:
            return None
        return {
            "url": parse_listen_address(self._settings.listen).url,
            "pid": None if self._process is None else self._process.pid,
            "problem": self._problem,
        }

    def configure(self, settings: HttpSettings) -> None:
        """Take other settings; a process that serves by the same ones goes on."""
        if settings != self._settings:
            self.close()
            self._settings, self._problem = settings, None
            self._start_after, self._backoff_s = float("-inf"), FIRST_BACKOFF_S

    def close(self) -> None:
        """End the process; it has nothing to save."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self, now: float) -> None:
        address = parse_listen_address(self._settings.listen)
        request = {
            "directory": str(self._directory),
            "host": address.host,
            "port": address.port,
            "hosts": list(self._settings.hosts),
            "parent": os.getpid(),
        }
        try:
            self._process = subprocess.Popen(
                [*self._command, json.dumps(request)], stdin=subprocess.DEVNULL, cwd=Path("/")
            )
        except OSError as error:
            self._failed(f"the HTTP process cannot be started: {error.strerror}", now)
            return
        self._started_at = now

    def _failed(self, reason: str, now: float) -> None:
        if reason != self._problem:  # a cause that stays is logged once
            logger.warning("%s; it is tried again every now and then", reason)
        self._problem = reason
        self._start_after = now + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    def _how_it_ended(self, code: int) -> str:
        where = f"HTTP cannot be served at {self._settings.listen}"
        if code == EXIT_IN_USE:
            return f"{where}: the address is in use; choose another port in [http] listen"
        if code == EXIT_NOT_ALLOWED:
            return (
                f"{where}: the address is not of this machine, or not allowed here; a service is "
                f"opened by `trackside service install` once more"
            )
        how = f"was killed by signal {-code}" if code < 0 else f"exited {code}"
        return f"the HTTP process {how}"
