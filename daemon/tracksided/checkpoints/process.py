"""Start the averaging process, and read what it says without waiting for it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from tracksided.priority import SINGLE_THREADED

COMMAND = (sys.executable, "-P", "-m", "tracksided.checkpoints.child")

_END_GRACE_S = 5.0  # for removing the temporary file
_KILL_GRACE_S = 1.0  # a process that waits for a file server cannot be killed before that answers
_ERROR_TAIL_BYTES = 2000


class ChildProcess:
    """One averaging, or another task, in a process of its own.

    It talks through unlinked files, so that neither side ever waits for the other.
    """

    def __init__(
        self,
        request: Mapping[str, object],
        command: Sequence[str] = COMMAND,
        *,
        what: str = "averaging",
    ) -> None:
        """Start it.

        Args:
            request: what it reads from standard input, as JSON.
            command: the process.
            what: it does, for messages.
        """
        self._what = what
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `collect` and `end`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `collect` and `end`
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps({**request, "parent": os.getpid()}).encode())
            stdin.seek(0)
            self._process = subprocess.Popen(
                list(command),
                stdin=stdin,
                stdout=self._output,
                stderr=self._errors,
                env=os.environ | SINGLE_THREADED,
                close_fds=False,  # else we would wait with the child; see `TalkingChild`
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def num_bytes_said(self) -> int:
        """Return how much it has written: a number that grows while it lives."""
        return os.fstat(self._output.fileno()).st_size

    def last_message(self) -> Mapping[str, object]:
        """Return the newest whole line; empty where there is none that makes sense."""
        self._output.seek(0)
        lines = [line for line in self._output.read().split(b"\n")[:-1] if line]
        try:
            message = json.loads(lines[-1]) if lines else {}
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def failure(self) -> str:
        """Say how it ended without a result."""
        code = self._process.returncode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"exited {code}"
        size = os.fstat(self._errors.fileno()).st_size
        self._errors.seek(max(0, size - _ERROR_TAIL_BYTES))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the {self._what} process {how}" + (f": {lines[-1]}" if lines else "")

    def end(self) -> None:
        """End it if it runs, wait a moment until it is gone, and close its files."""
        if self.is_running():
            self._process.terminate()
            try:
                self._process.wait(_END_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a file server
                    self._process.wait(_KILL_GRACE_S)
        self._output.close()
        self._errors.close()
