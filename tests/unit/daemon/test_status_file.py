"""How long the daemon has been silent, whatever becomes of the clock."""

import os
from pathlib import Path

import pytest

from tracksided.status_file import StatusFile, read_status, seconds_silent

DAY = 86400.0
WRITTEN = {"updated_at": 1e9, "updated_monotonic": 50.0}


@pytest.mark.parametrize("step", [0.0, DAY, -DAY])
def test_a_clock_that_is_set_changes_nothing(step: float) -> None:
    assert seconds_silent(WRITTEN, wall=1e9 + 7 + step, monotonic=57.0) == 7.0


def test_in_a_time_namespace_the_wall_clock_is_asked() -> None:
    assert seconds_silent(WRITTEN, wall=1e9 + 7, monotonic=3.0) == 7.0
    assert seconds_silent(WRITTEN, wall=1e9 - DAY, monotonic=3.0) == 0.0


def test_a_file_that_does_not_say_tells_nothing() -> None:
    assert seconds_silent({}, wall=1e9, monotonic=1.0) is None
    assert seconds_silent({"updated_at": "now"}, wall=1e9, monotonic=1.0) is None


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    StatusFile(tmp_path).write({"version": "1"}, now=7.0, wall_time=1e9)
    os.umask(umask)

    assert (tmp_path / "status.json").stat().st_mode & 0o777 == 0o600
    written = read_status(tmp_path) or {}
    assert written["version"] == "1"
    assert (written["updated_at"], written["updated_monotonic"]) == (1e9, 7.0)


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "node"
    status = StatusFile(directory)
    for now in (1.0, 2.0):
        status.write({"version": "1"}, now=now, wall_time=1e9)
    directory.mkdir()
    status.write({"version": "1"}, now=3.0, wall_time=1e9)

    (said,) = caplog.records
    assert "nobody can look" in said.getMessage()
    assert (read_status(directory) or {})["updated_monotonic"] == 3.0
