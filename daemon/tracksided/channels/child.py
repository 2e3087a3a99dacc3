"""The process that sends one alert: a slow server or command holds up nobody but it.

It reads a request as JSON from standard input and writes one JSON line, its last:
``{"outcomes": [[channel, error or null], ...]}``.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from tracksided.channels import apprise_url, hook
from tracksided.channels.outcome import Outcome


def main() -> None:
    """Send to one channel after the other and say what became of it."""
    os.chdir("/")  # nobody's directory is kept in use
    signal.signal(signal.SIGTERM, _stop)
    request = json.load(sys.stdin)
    outcomes = deliver(request)
    said = [[outcome.channel, outcome.error] for outcome in outcomes]
    sys.stdout.write(json.dumps({"outcomes": said}) + "\n")


def deliver(request: Mapping[str, Any]) -> list[Outcome]:
    """Send an alert to every channel of a request.

    Args:
        request: ``alert``, ``apprise`` (URLs), ``command`` (may be empty), ``command_seconds``.
    """
    outcomes = []
    if request["command"]:
        outcomes.append(hook.run(request["command"], request["alert"], request["command_seconds"]))
    outcomes += [apprise_url.send(url, request["alert"]) for url in request["apprise"]]
    return outcomes


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind, so that a command that runs is killed."""
    del frame
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
