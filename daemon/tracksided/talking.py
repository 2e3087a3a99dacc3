"""A child process that one talks to: objects both ways over a socket, and no wait for it."""

import contextlib
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler

END_GRACE_S = 1.0


class TalkingChild:
    """One child, its socket, and the threads that send to it and wait for its answers.

    The child is ``command FD PARENT *arguments`` and speaks through
    ``multiprocessing.connection.Connection(FD)``. One thread calls it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *arguments: str,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        Args:
            command: that runs the child; the program as a path.
            arguments: after the descriptor and the parent's process id.
            environ: variables besides our own.

        Raises:
            OSError: it cannot be started.
            RuntimeError: no thread can be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                theirs.set_inheritable(True)
                # A child closes what it inherits, and a file on a server that is stopped does not
                # close. With `close_fds` or `pass_fds` we would wait for that; without, Python
                # takes posix_spawn, which returns before. All our other files close on exec.
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(os.getpid()), *arguments],
                    close_fds=False,
                    env=os.environ | (environ or {}),
                    stdin=subprocess.DEVNULL,
                )
        except OSError:
            ours.close()
            raise
        self._connection = Connection(ours.detach())
        self._messages: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        # The socket holds less than a job may have. A child that is stopped, or still imports,
        # takes nothing from it, and may leave half an answer in it: only these threads wait.
        self._threads = (
            threading.Thread(target=self._transmit, name="messages", daemon=True),
            threading.Thread(target=self._receive, name="answers", daemon=True),
        )
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError:
            self.abandon()
            raise

    def send(self, message: object) -> None:
        """Send an object; a child that is gone already shows in `answer`."""
        self._messages.put(ForkingPickler.dumps(message))

    def answer(self) -> object | None:
        """Return what the child sent, `EOFError` where it ended, None where it is silent."""
        try:
            return self._answers.get_nowait()
        except queue.Empty:
            return None

    def end(self, *, gently: bool) -> str:
        """End the process, wait a moment until it is gone, and say how it ended.

        Args:
            gently: let it end by itself for a moment, since it has nothing to do.
        """
        if gently and self.process.poll() is None:
            self._shutdown()
            self._wait()
        self.process.kill()
        code = self._wait()
        self._hang_up()
        if code is None:
            return "was killed, and is not gone yet"
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
        if self._wait() is None:
            self.process.kill()
            self._wait()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    def _wait(self) -> int | None:
        """Wait a moment for the end of the process; None where it has not come."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(END_GRACE_S)
        return None

    def _hang_up(self) -> None:
        self._shutdown()
        self._messages.put(None)
        for thread in self._threads:
            if thread.ident is not None:  # else none could be started
                thread.join()
        self._connection.close()

    def _shutdown(self) -> None:
        """Close both directions without giving the descriptor's number away under the threads."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as duplicate:
            try:
                duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the other side is gone

    def _transmit(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:
                return  # the child is gone, which shows in `answer`

    def _receive(self) -> None:
        while True:
            try:
                self._answers.put(self._connection.recv())
            except (EOFError, OSError) as error:
                self._answers.put(EOFError(str(error)))
                return
