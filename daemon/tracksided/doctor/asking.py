"""Asks the page of the daemon for its health, as a browser would."""

import http.client
import json
import socket
import urllib.parse
from collections.abc import Mapping

from tracksided.doctor.facts import HttpFacts
from tracksided.sinks.json_file import Json

TIMEOUT_S = 3.0  # at idle priority on a busy machine an answer takes a while
MAX_ANSWER_BYTES = 1 << 16


def ask_page(url: str, status: Mapping[str, Json] | None) -> HttpFacts:
    """Look at what answers at the page's address.

    Args:
        url: of the page.
        status: what the daemon says of itself; None where there is none.
    """
    said = (status or {}).get("http")
    problem = said.get("problem") if isinstance(said, dict) else None
    is_taken, is_ours = _look(url)
    return HttpFacts(
        url=url,
        is_taken=is_taken,
        is_ours=is_ours,
        problem=problem if isinstance(problem, str) else None,
    )


def _look(url: str) -> tuple[bool, bool]:
    place = urllib.parse.urlsplit(url)
    host, port = place.hostname or "", place.port or 0
    try:
        with socket.create_connection((host, port), TIMEOUT_S):
            pass
    except OSError:
        return False, False
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        answer = json.loads(connection.getresponse().read(MAX_ANSWER_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return True, False
    finally:
        connection.close()
    return True, isinstance(answer, dict) and "status" in answer
