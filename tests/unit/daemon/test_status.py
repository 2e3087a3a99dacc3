"""What the exit code of `trackside status` says to scripts."""

from typing import Any

import pytest

from tracksided.cli.status import exit_code, page_state

RANK = {"rank": 0, "problem": None}
RUN = {"run": "r", "problem": None, "alerts": [], "ranks": [RANK]}
WARNING, CRITICAL = {"severity": "warning"}, {"severity": "critical"}


@pytest.mark.parametrize(
    ("state", "run", "code"),
    [
        (None, None, 3),
        ("serving", None, 0),
        ("serving", RUN, 0),
        ("starting", None, 0),
        ("silent", RUN, 4),
        ("serving", {**RUN, "alerts": [WARNING]}, 4),
        ("serving", {**RUN, "problem": "cannot write /data: No space left on device"}, 4),
        ("serving", {**RUN, "ranks": [RANK, {**RANK, "problem": "segment was cut"}]}, 4),
        ("silent", {**RUN, "alerts": [WARNING, CRITICAL], "problem": "cannot write"}, 5),
    ],
)
def test_only_where_all_is_well_it_is_zero(
    state: str | None, run: dict[str, Any] | None, code: int
) -> None:
    status = {
        "daemon": None if state is None else {"pid": 1, "state": state},
        "runs": [] if run is None else [run],
    }

    assert exit_code(status) == code


@pytest.mark.parametrize(
    ("pid", "problem", "said"),
    [
        (7, None, "http://127.0.0.1:9470/"),
        (None, "the address is in use", "not served: the address is in use"),
        # The next try: its process is up, and the one that has the address still answers there.
        (
            7,
            "the address is in use",
            "http://127.0.0.1:9470/ (not served a moment ago: the address is in use)",
        ),
    ],
)
def test_a_page_that_may_be_that_of_somebody_else_is_not_shown_without_a_word(
    pid: int | None, problem: str | None, said: str
) -> None:
    http = {"url": "http://127.0.0.1:9470/", "pid": pid, "problem": problem}

    assert page_state(http) == said
