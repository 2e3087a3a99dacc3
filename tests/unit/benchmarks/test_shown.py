"""What templates may ask for."""

import page
import pytest
import stored
from shown import MissingResult, Shown

MACHINE = {"cpu": "A", "cores": 2, "memory_gib": 4.0, "kernel": "6.1"}


def test_a_row_that_is_not_there_is_named() -> None:
    shown = Shown(stored.load(page.RESULTS))

    with pytest.raises(MissingResult, match="no row 'nobody' with a column 'CPU'"):
        shown.value("tap", "monitors", "nobody", "CPU")


def test_machines_that_differ_are_listed_with_what_ran_there() -> None:
    shown = Shown({"one": {"machine": MACHINE}, "two": {"machine": MACHINE | {"cpu": "B"}}})

    assert shown.machines().splitlines() == [
        "- A, 2 cores, 4.0 GiB of memory, Linux 6.1: `one`",
        "- B, 2 cores, 4.0 GiB of memory, Linux 6.1: `two`",
    ]


def test_a_limit_that_was_not_measured_is_neither_kept_nor_missed() -> None:
    limits = [{"what": "speed", "kept": True}, {"what": "peer", "kept": None}]
    shown = Shown({"one": {"limits": limits}})

    assert [shown.is_kept("one", what) for what in ("speed", "peer", "nothing")] == [
        *(True, None, None)
    ]


def test_a_load_that_nobody_noted_is_said_to_be_unknown() -> None:
    found = {"date": "today", "seconds": 3, "settings": {"kinds": ["a", "b"]}, "is_quick": False}
    loads = {"before": [0.5, 1.0, 1.0], "after": [2.0, 1.0, 1.0]}
    shown = Shown({"old": found | {"load_average": None}, "new": found | {"load_average": loads}})

    assert shown.run("old") == "`old`, today: 3 s, load average not noted; kinds a b."
    assert "load average 0.5 before and 2.0 after;" in shown.run("new")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("average_checkpoints.py, SHA-256 e245d5a553ca", "; measured here."),
        (
            "average_checkpoints.py, SHA-256 0123456789ab",
            "; measured here is another, 0123456789ab.",
        ),
        (None, "; it was not there."),
    ],
)
def test_a_peer_is_named_with_its_commit_and_whether_it_is_what_was_measured(
    version: str | None, words: str
) -> None:
    text = Shown({"averaging": {"versions": {"fairseq": version}}}).peers()

    (line,) = (line for line in text.splitlines() if line.startswith("- **fairseq**"))
    assert "commit `3d262bb25690e4eb2e7d3c1309b1e9c406ca4b99`" in line
    assert line.endswith(words)
