"""One output directory that several runs and several daemons have written to."""

import time
from pathlib import Path

import pytest
from fake_trainer import make_hello
from observed import make_report
from written import history, load

from tracksided.errors import OutputError
from tracksided.outputs import RunOutputs
from tracksided.reports import Scalar
from tracksided.sinks.event_file import own_files
from tracksided.sinks.event_records import read_scalars

FINAL = "Final/Loss"


def tags(directory: Path) -> set[str]:
    return {
        tag
        for path in own_files(directory / "tensorboard")
        for event in read_scalars(path)
        for tag, _ in event.values
    }


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Return the directory of a run that has ended, with events behind its last step."""
    outputs = RunOutputs(tmp_path, time.time)
    outputs.begin(make_hello(tmp_path, run="first"))
    outputs.commit(make_report(10), {0: ("n", 1)})
    outputs.finish({"run": "first", "state": "finished"}, [Scalar(FINAL, 0.5, 10)], [], ["n"])
    outputs.close()
    return tmp_path


@pytest.mark.parametrize("run", ["first", "second"])
def test_the_last_events_of_a_run_outlive_the_next_one_that_took_no_step(
    finished: Path, run: str
) -> None:
    outputs = RunOutputs(finished, time.time)
    outputs.begin(make_hello(finished, run=run))
    outputs.close()

    RunOutputs(finished, time.time).close()

    assert FINAL in tags(finished)


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 11, "records": {"0": ["m", Infinity]}, "tensorboard": null}',
        b'{"step": 11, "records": {}, "tensorboard": {"file": "x", "end": -Infinity}}',
        b'{"step": 11, "records": ' + b"[" * 100_000,
    ],
)
def test_a_line_that_somebody_edited_costs_no_more_than_itself(finished: Path, line: bytes) -> None:
    with (finished / "history.jsonl").open("ab") as file:
        file.write(line + b"\n")

    outputs = RunOutputs(finished, time.time)
    outputs.commit(make_report(12), {0: ("n", 2)})
    outputs.close()

    assert outputs.progress("n").last_sequence == 2
    assert (finished / "history.jsonl").read_bytes().splitlines()[1] == line


@pytest.mark.parametrize("depth", [400, 100_000])
def test_a_run_goes_on_whose_settings_somebody_made_too_deep(finished: Path, depth: int) -> None:
    deep = '{"run": "first", "config": ' + "[" * depth + "]" * depth + "}"
    (finished / "run.json").write_text(deep)

    outputs = RunOutputs(finished, time.time)
    outputs.begin(make_hello(finished, run="first"))
    outputs.close()

    assert load(finished / "run.json")["config"] == {}


def test_events_of_a_step_that_was_not_committed_go(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = RunOutputs(finished, time.time)
    outputs.begin(make_hello(finished, run="second"))
    monkeypatch.setattr(outputs._history, "append", _killed)
    with pytest.raises(KeyboardInterrupt):
        outputs.commit(make_report(11), {0: ("m", 1)})
    outputs.close()

    again = RunOutputs(finished, time.time)
    again.close()

    steps = [
        event.step
        for path in own_files(finished / "tensorboard")
        for event in read_scalars(path)
        if event.values
    ]
    assert 11 not in steps
    assert FINAL in tags(finished)


def test_a_step_whose_commit_is_killed_leaves_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where run.json tells of no events, the lines of history do."""
    outputs = RunOutputs(tmp_path, time.time)
    outputs.commit(make_report(10), {0: ("n", 1)})
    monkeypatch.setattr(outputs._history, "append", _killed)
    with pytest.raises(KeyboardInterrupt):
        outputs.commit(make_report(11), {0: ("n", 2)})
    outputs.close()

    RunOutputs(tmp_path, time.time).close()

    assert losses(tmp_path) == [(10, 1.0)]


def test_a_step_whose_line_cannot_be_written_is_in_the_curves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = RunOutputs(tmp_path, time.time)
    with monkeypatch.context() as patch:
        patch.setattr(outputs._history, "append", _full)
        for _ in range(2):
            with pytest.raises(OutputError):
                outputs.commit(make_report(10), {0: ("n", 1)})

    outputs.commit(make_report(10), {0: ("n", 1)})
    outputs.close()

    assert losses(tmp_path) == [(10, 1.0)]
    assert [line["step"] for line in history(tmp_path)] == [10]


def losses(directory: Path) -> list[tuple[int, float]]:
    """Return all that stands in the event files, of a step that comes twice both."""
    return [
        (event.step, value)
        for path in own_files(directory / "tensorboard")
        for event in read_scalars(path)
        for tag, value in event.values
        if tag == "Training/Loss"
    ]


def test_a_step_that_comes_again_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    outputs = RunOutputs(tmp_path, time.time)
    for sequence, loss in enumerate((2.0, 1.0), start=1):
        outputs.commit(make_report(10, loss=loss), {0: ("n", sequence)})
    outputs.close()

    events = [
        event
        for path in own_files(tmp_path / "tensorboard")
        for event in read_scalars(path)
        if event.is_restart or ("Training/Loss", 2.0) in event.values
    ]
    assert [(event.step, event.is_restart) for event in events] == [(10, False), (10, True)]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _full(*_: object) -> None:
    raise OutputError("no space")
