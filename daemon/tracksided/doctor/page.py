"""Checks of the settings, and of the page and the metrics."""

from collections.abc import Iterator

from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding, fail, ok, warn


def check_settings(facts: Facts) -> Iterator[Finding]:
    """Can the settings be used?"""
    if facts.settings_error is None:
        yield ok("settings", "can be used")
    else:
        yield fail("settings", facts.settings_error, "correct that line")


def check_http(facts: Facts) -> Iterator[Finding]:
    """Does the page answer, or could it?"""
    check, http = "http", facts.http
    if http is None:
        yield ok(check, "off; `trackside daemon --http` or [http] listen switches it on")
    elif http.is_ours and facts.daemon is not None and http.problem is None:
        yield ok(check, f"{http.url} answers")
    elif facts.daemon is not None:
        found = http.problem or f"nothing answers at {http.url}"
        if http.is_taken:
            mend = "choose another port in [http] listen"
        elif http.problem is None:
            mend = (
                "on a busy machine it starts slowly: ask again in a minute, then look into its log"
            )
        else:
            mend = "look into its log; a service is opened by `trackside service install --http`"
        yield fail(check, found, mend)
    elif http.is_taken:
        yield warn(
            check,
            f"no daemon runs, and something else answers at {http.url}",
            "choose another port in [http] listen",
        )
    else:
        yield ok(check, f"{http.url} is free for the daemon")
