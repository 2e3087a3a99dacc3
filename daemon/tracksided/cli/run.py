"""`trackside run -- CMD`: run a command with a daemon beside it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType

import click

from trackside.errors import TracksideError
from trackside.wire import segment
from trackside.wire.segment import node_directory
from tracksided.doctor.finding import counted
from tracksided.errors import SettingsError, TracksidedError
from tracksided.launch import LOG_NAME, DaemonGone, Serving, running_daemon
from tracksided.status_file import read_status

QUIET_S = 5.0  # the last step of a small run; whoever waits longer is told why
DRAIN_LIMIT_S = 120.0  # the last pictures and the last averaging
SIGNAL_EXIT_BASE = 128  # as shells report a command that a signal ended


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command_line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD")
def command(*, command_line: Sequence[str]) -> None:
    """Run CMD with a daemon for as long as it lasts, and return its exit code.

    Where a daemon serves this user already, that one is used and left running. Where none can be
    started, CMD runs without.
    """
    directory = node_directory(os.environ)
    # What other trainings left behind may never be written; this command does not wait for it.
    earlier = frozenset(segment.scan(directory))
    with contextlib.ExitStack() as stack:
        daemon = _start_daemon(stack, directory)
        code = _run(command_line)
        if daemon is not None:
            _finish(daemon, earlier)
    sys.exit(code)


def _start_daemon(stack: contextlib.ExitStack, directory: Path) -> Serving | None:
    """Have a daemon until the stack is left; None, and a word, where none can be had.

    A mistyped setting of the machine must not keep anybody from training.
    """
    try:
        return stack.enter_context(running_daemon(directory, "--low-priority"))
    except (TracksidedError, TracksideError, OSError) as error:
        click.echo(
            f"trackside: the command runs without a daemon: {error}; what it publishes stays in "
            f"{directory} for the next one: mend this, then start it with `trackside daemon`",
            err=True,
        )
        return None


def _finish(daemon: Serving, earlier: Collection[Path]) -> None:
    """Wait for outputs; the exit code is the command's whatever becomes of them."""
    try:
        _wait(daemon, earlier)
    except DaemonGone as error:
        log = "" if daemon.child is None else f"; its log is {daemon.directory / LOG_NAME}"
        click.echo(
            f"trackside: {error}{log}; {counted(error.num_left, 'segment')} left in "
            f"{daemon.directory} for the next one: start it with `trackside daemon`",
            err=True,
        )


def _wait(daemon: Serving, earlier: Collection[Path]) -> None:
    """Wait until the outputs of the command are written, and say why where that takes long."""
    if daemon.wait_until_drained(None, QUIET_S, apart_from=earlier):
        return
    click.echo(
        f"trackside: waiting up to {DRAIN_LIMIT_S:g} s for outputs{_reasons(daemon.directory)}",
        err=True,
    )
    if not daemon.wait_until_drained(None, DRAIN_LIMIT_S, apart_from=earlier):
        click.echo(
            f"trackside: not all is written after {DRAIN_LIMIT_S:g} s; the rest stays in "
            f"{daemon.directory} for the next daemon{_reasons(daemon.directory)}",
            err=True,
        )


def _reasons(directory: Path) -> str:
    """Return what the daemon says of runs that it cannot write, as the end of a line."""
    runs = (read_status(directory) or {}).get("runs")
    found = [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
    return "".join(f"; {run['problem']}" for run in found if run.get("problem"))


def _run(command_line: Sequence[str]) -> int:
    """Return the command's exit code. SIGTERM is the command's from here on, also when it ended.

    A scheduler that ends a job sends it more than once, and means: end soon. That is being done.
    """
    try:
        child = subprocess.Popen(list(command_line))
    except OSError as error:
        raise SettingsError(f"cannot run {command_line[0]!r}: {error.strerror}") from error

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        child.send_signal(number)  # does nothing once it has ended

    # Ctrl-C in a terminal reaches the command by itself; SIGTERM reaches only us.
    old_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, forward)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGINT, old_interrupt)
    return code if code >= 0 else SIGNAL_EXIT_BASE - code
