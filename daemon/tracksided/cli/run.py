"""`trackside run -- CMD`: run a command with a daemon beside it."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

import click

from trackside.wire.segment import node_directory
from tracksided.errors import SettingsError
from tracksided.launch import running_daemon, wait_until_drained

DRAIN_LIMIT_S = 120.0  # the last pictures and the last averaging
SIGNAL_EXIT_BASE = 128  # as shells report a command that a signal ended


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD")
def command(*, command_line: Sequence[str]) -> None:
    """Run CMD with a daemon for as long as it lasts, and return its exit code.

    Where a daemon serves this user already, that one is used and left running.
    """
    directory = node_directory(os.environ)
    with running_daemon(directory, "--low-priority"):
        code = _run(command_line)
        if not wait_until_drained(directory, None, DRAIN_LIMIT_S):
            click.echo(
                f"trackside: not all is written after {DRAIN_LIMIT_S:g} s; the rest stays in "
                f"{directory} for the next daemon",
                err=True,
            )
    sys.exit(code)


def _run(command_line: Sequence[str]) -> int:
    try:
        child = subprocess.Popen(list(command_line))
    except OSError as error:
        raise SettingsError(f"cannot run {command_line[0]!r}: {error.strerror}") from error

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        child.send_signal(number)

    # Ctrl-C in a terminal reaches the command by itself; SIGTERM reaches only us.
    old_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    old_terminate = signal.signal(signal.SIGTERM, forward)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, old_interrupt)
        signal.signal(signal.SIGTERM, old_terminate)
    return code if code >= 0 else SIGNAL_EXIT_BASE - code
