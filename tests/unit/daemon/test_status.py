"""What the exit code of `trackside status` says to scripts."""

from typing import Any

import pytest

from tracksided.cli.status import exit_code

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
