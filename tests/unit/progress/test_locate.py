"""Which file wins, which run and checkpoint is the newest."""

import os
from pathlib import Path

import pytest
from closed_directory import close_directory
from training_logs import train_row, write_run, write_state

from tracksided.errors import ReportError
from tracksided.progress.curve import Kind
from tracksided.progress.locate import Source, latest_checkpoint, newest_in, place_for, source_at
from tracksided.progress.training_args import read_training_args
from tracksided.reports import Scalar
from tracksided.sinks import event_protos
from tracksided.sinks.event_file import frame


def state(directory: Path, *, age_s: float = 0.0) -> Path:
    path = write_state(directory, [train_row(5, 1.0)])
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


def events(directory: Path) -> Path:
    directory.mkdir(parents=True)
    path = directory / "events.out.tfevents.1.host"
    scalars = event_protos.scalar_events([Scalar("loss", 1.0, 1)], 1.0)
    path.write_bytes(b"".join(map(frame, scalars)))
    os.utime(path, (1e9, 1e9))
    return directory


def test_state_of_a_trainer_wins_over_history_and_that_over_events(tmp_path: Path) -> None:
    events(tmp_path / "run")
    assert source_at(tmp_path / "run").kind is Kind.EVENTS

    write_run(tmp_path / "run", [{"step": 10}])
    assert source_at(tmp_path / "run").kind is Kind.HISTORY

    state(tmp_path / "run")
    assert source_at(tmp_path / "run").kind is Kind.TRAINER_STATE


def test_checkpoints_are_ordered_by_number_not_by_text_or_time(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-1000", age_s=50)
    state(tmp_path / "checkpoint-200", age_s=5)
    (tmp_path / "checkpoint-3000").mkdir()  # its state is written last: not complete yet

    found = latest_checkpoint(tmp_path)

    assert found.path == tmp_path / "checkpoint-1000" / "trainer_state.json"
    assert found.name == f"{tmp_path.name}/checkpoint-1000"
    assert source_at(tmp_path) == found
    assert newest_in(tmp_path, latest=False) == found


def test_run_with_a_state_of_its_own_is_read_unless_it_was_resumed(tmp_path: Path) -> None:
    state(tmp_path / "checkpoint-100", age_s=20)
    own = state(tmp_path, age_s=10)
    assert newest_in(tmp_path, latest=False).path == own
    assert newest_in(tmp_path, latest=True).path.parent.name == "checkpoint-100"

    state(tmp_path / "checkpoint-150", age_s=5)
    assert newest_in(tmp_path, latest=False).path.parent.name == "checkpoint-150"
    assert source_at(tmp_path).path == own  # named: what lies there


def test_newest_of_several_runs_is_the_one_written_last(tmp_path: Path) -> None:
    state(tmp_path / "old" / "checkpoint-900", age_s=100)
    state(tmp_path / "project" / "new" / "checkpoint-50", age_s=1)
    events(tmp_path / "project" / "new" / "runs" / "start")  # tells less than what is beside it

    for latest in (False, True):
        assert newest_in(tmp_path, latest=latest).path.parent.name == "checkpoint-50"


def test_event_files_are_found_where_run_directories_keep_them(tmp_path: Path) -> None:
    directory = events(tmp_path / "out" / "runs" / "start")

    expected = Source(Kind.EVENTS, directory, "start")
    assert source_at(tmp_path / "out") == expected
    assert source_at(tmp_path / "out" / "runs") == expected
    assert newest_in(tmp_path, latest=False) == expected


def test_file_may_be_named_itself(tmp_path: Path) -> None:
    path = state(tmp_path)

    assert source_at(path).path == path
    (tmp_path / "other.json").touch()
    with pytest.raises(ReportError, match=r"other\.json is no trainer_state\.json"):
        source_at(tmp_path / "other.json")


@pytest.mark.parametrize("latest", [False, True])
def test_what_is_missing_is_named(tmp_path: Path, *, latest: bool) -> None:
    wanted = "checkpoint-N with a trainer_state.json" if latest else "trainer_state.json, history"

    with pytest.raises(ReportError, match=wanted):
        newest_in(tmp_path, latest=latest)
    with pytest.raises(ReportError, match="missing does not exist"):
        newest_in(tmp_path / "missing", latest=latest)


def test_a_directory_of_somebody_else_among_outputs_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = state(tmp_path / "mine")
    state(tmp_path / "theirs")
    close_directory(tmp_path / "theirs", monkeypatch)

    assert newest_in(tmp_path, latest=False).path == path
    assert read_training_args(tmp_path / "theirs") == ({}, None)


def test_named_directory_without_a_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"has no trainer_state\.json, history\.jsonl or Tensor"):
        source_at(tmp_path)
    with pytest.raises(ReportError, match="missing does not exist"):
        source_at(tmp_path / "missing")
    with pytest.raises(ReportError, match="no checkpoint-N"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Kind.HISTORY, "run/history.jsonl"),
        (Kind.TRAINER_STATE, "run/trainer_state.json"),
        (Kind.TRAINER_STATE, "run/checkpoint-20/trainer_state.json"),
        (Kind.EVENTS, "run"),
        (Kind.EVENTS, "run/tensorboard"),
    ],
)
def test_pictures_of_a_source_belong_to_its_run(kind: Kind, path: str) -> None:
    assert place_for(Source(kind, Path(path), "name")) == Path("run")
