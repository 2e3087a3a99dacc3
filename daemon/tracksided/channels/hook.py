"""Runs the user's command with an alert on its standard input. Never through a shell."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tracksided.channels.outcome import Outcome, command_title

MAX_ERROR_CHARACTERS = 300  # of what it wrote to stderr


def run(command: Sequence[str], alert: Mapping[str, Any], timeout_s: float) -> Outcome:
    """Run a command; after its time it is killed with all that it started.

    Args:
        command: program and arguments.
        alert: as in ``alerts.jsonl``; one line of JSON on standard input.
        timeout_s: how long it may take.
    """
    title = command_title(command)
    # A signal that unwinds us between the start and its return would leave the command behind.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, unblocked),  # noqa: PLW1509 - one thread
        )
    except BaseException as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if not isinstance(error, OSError):
            raise
        return Outcome(title, f"cannot be started: {error.strerror}")
    with process:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            _, errors = process.communicate(json.dumps(alert).encode() + b"\n", timeout_s)
        except subprocess.TimeoutExpired:
            return Outcome(title, f"killed after {timeout_s:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):  # it left nobody behind
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0:
        return Outcome(title, None)
    said = errors.decode(errors="replace").strip()[-MAX_ERROR_CHARACTERS:]
    return Outcome(title, f"exit code {process.returncode}" + (f": {said}" if said else ""))
