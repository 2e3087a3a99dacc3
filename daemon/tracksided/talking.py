"""A child process that one talks to: objects both ways over a socket, and no wait for it."""

import contextlib
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection

END_GRACE_S = 1.0


class TalkingChild:
    """One child, its socket, and the thread that waits for its answers.

    The child is ``command FD PARENT *arguments`` and speaks through
    ``multiprocessing.connection.Connection(FD)``. It gets few and small objects, so that sending
    does not wait either. One thread calls it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *arguments: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            command: that runs the child.
            arguments: after the descriptor and the parent's process id.
            environ: variables besides our own.

        Raises:
            OSError: it cannot be started.
            RuntimeError: no thread can be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid()), *arguments],
                    pass_fds=(theirs.fileno(),),
                    env=os.environ | (environ or {}),
                    stdin=subprocess.DEVNULL,
                )
        except OSError:
            ours.close()
            raise
        self._connection = Connection(ours.detach())
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        # A stopped child may leave half an answer in the socket: only this thread waits for it.
        self._thread = threading.Thread(target=self._receive, name="answers", daemon=True)
        self._thread.start()

    def send(self, message: object) -> None:
        """Send an object; a child that is gone already shows in `answer`."""
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> object | None:
        """Return what the child sent, `EOFError` where it ended, None where it is silent."""
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def end(self, *, gently: bool) -> str:
        """End the process, wait until it is gone, and say how it ended.

        Args:
            gently: let it end by itself for a moment, since it has nothing to do.
        """
        if gently and self.process.poll() is None:
            self._shutdown()
            try:
                self.process.wait(END_GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        else:
            self.process.kill()
        code = self.process.wait()
        self._hang_up()
        return f"was killed by signal {-code}" if code < 0 else f"exited {code}"

    def abandon(self) -> None:
        """Kill the process without waiting until it is gone.

        A process that waits for a driver or a file server cannot be killed before that answers.
        """
        self.process.kill()
        self._hang_up()

    def part(self) -> None:
        """End the process, gently at first, but wait no longer than twice `END_GRACE_S`."""
        self._hang_up()
        try:
            self.process.wait(END_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_GRACE_S)

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def _hang_up(self) -> None:
        self._shutdown()
        self._thread.join()
        self._connection.close()

    def _shutdown(self) -> None:
        """Close both directions without giving the descriptor's number away under the thread."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as duplicate:
            try:
                duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side is gone

    def _receive(self) -> None:
        while True:
            try:
                self._answers.put(self._connection.recv())
            except (EOFError, OSError) as error:
                self._answers.put(EOFError(str(error)))
                return
