"""Posts an alert to a chat: `command = ["python3", "/path/on_alert.py", "https://..."]`.

The daemon runs it for every alert, with the alert as one line of JSON on standard input, and
shows what it writes to standard error where it fails.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TIMEOUT_S = 10.0  # the daemon kills it after `command_seconds`, 30 by default


def text(alert: Mapping[str, Any]) -> str:
    """Return what the chat shows."""
    where = "" if alert["step"] is None else f" at step {alert['step']}"
    headline = f"{alert['severity']}: {alert['rule']} in run {alert['run']}{where}"
    return f"{headline}\n{alert['message']}\n{alert['advice']}"


def main(arguments: list[str]) -> str | None:
    """Post what stands on standard input; return why that failed, None where it did not."""
    if len(arguments) != 1 or not arguments[0].startswith(("https://", "http://")):
        return "give the address of one web hook"
    body = json.dumps({"text": text(json.load(sys.stdin))}).encode()
    request = urllib.request.Request(  # noqa: S310 - checked above
        arguments[0], body, {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()  # noqa: S310 - checked above
    except (urllib.error.URLError, TimeoutError) as error:
        return str(error)  # without the address, which is a secret
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
