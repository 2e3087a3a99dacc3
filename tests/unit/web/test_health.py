from pathlib import Path

from web_site import make_run

from tracksided.web.health import health
from tracksided.web.served import read_served

STATUS = {"pid": 7, "version": "1.0", "updated_at": 100.0, "runs": []}


def test_a_daemon_that_moves_is_well():
    is_well, answer = health(read_served(STATUS), 9.96)

    assert is_well
    assert answer["status"] == "ok"
    assert (answer["pid"], answer["seconds_since_update"]) == (7, 10.0)


def test_a_daemon_that_stands_still_is_not_well_and_the_reason_is_told():
    is_well, answer = health(read_served(STATUS), 31.0)

    assert not is_well
    assert answer["status"] == "failing"
    assert "pid 7" in answer["reason"]
    assert "31 s ago" in answer["reason"]


def test_a_daemon_that_says_nothing_is_not_well():
    is_well, answer = health(None, None)

    assert not is_well
    assert "no status" in answer["reason"]


def test_a_run_that_cannot_write_is_named():
    run = make_run("a", Path("/data/a"), problem="disk full")

    _, answer = health(read_served({**STATUS, "runs": [run]}), 0.0)

    assert answer["problems"] == ["run a: disk full"]
