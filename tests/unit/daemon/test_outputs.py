"""One output directory: what lies there already, and what a kill leaves of a run."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest
from fake_trainer import make_hello, make_step
from training_logs import write_run
from written import load, scalars

from tracksided.assemble import RankStep, assemble
from tracksided.errors import OutputError
from tracksided.outputs import RunOutputs
from tracksided.reports import Scalar

STEP = {"with_attention": False}


def commit(outputs: RunOutputs, step: int) -> None:
    ranks = [RankStep(make_hello(outputs.directory), make_step(step, with_attention=False))]
    outputs.commit(assemble(ranks, None), {0: ("nonce", step)})


def open_and_begin(directory: Path, run: str, wall_time: float = 1e9) -> RunOutputs:
    outputs = RunOutputs(directory, lambda: wall_time)
    outputs.begin(make_hello(directory, run=run))
    return outputs


def test_event_files_that_were_brought_along_stay_also_after_a_kill(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_run(old, [{**STEP, "step": 1}, {**STEP, "step": 2}])
    shutil.copytree(old / "tensorboard", new / "tensorboard")

    open_and_begin(new, "resumed").close()  # killed before its first step
    outputs = open_and_begin(new, "resumed")
    commit(outputs, 3)
    outputs.close()
    RunOutputs(new, time.time).close()

    assert scalars(new, "Training/Loss") == [(1, 10.0), (2, 5.0), (3, pytest.approx(10 / 3))]


def test_a_run_that_begins_where_another_ended_keeps_its_last_events(tmp_path: Path) -> None:
    outputs = open_and_begin(tmp_path, "first")
    commit(outputs, 1)
    outputs.finish({"state": "finished"}, [Scalar("Final/Loss", 0.5, 1)], [], ["nonce"])
    outputs.close()

    open_and_begin(tmp_path, "second").close()  # killed before its first step
    RunOutputs(tmp_path, time.time).close()

    assert scalars(tmp_path, "Final/Loss") == [(1, 0.5)]
    assert "finished_segments" not in load(tmp_path / "run.json")


def test_event_files_of_which_older_lines_speak_stay(tmp_path: Path) -> None:
    first = open_and_begin(tmp_path, "first", 1e9)
    commit(first, 1)
    second = open_and_begin(tmp_path, "second", 2e9)  # a daemon of another container
    commit(second, 2)
    commit(first, 3)
    for outputs in (first, second):
        outputs.close()

    RunOutputs(tmp_path, time.time).close()

    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_two_writers_of_one_directory_name_each_other_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_and_begin(tmp_path, "job", 1e9)
    commit(first, 1)
    second = open_and_begin(tmp_path, "job", 2e9)
    for step in (2, 3, 4):
        assert second.rival is None or step > 2
        for outputs in (second, first):
            commit(outputs, step)

    warnings = [entry.message for entry in caplog.records if entry.name.endswith("history")]

    who = f"another daemon (pid {os.getpid()}, {socket.gethostname()}) writes to {tmp_path} too"
    assert [message.startswith(who) for message in warnings] == [True, True]
    assert sorted(warnings) == sorted(str(outputs.rival) for outputs in (first, second))
    for outputs in (first, second):
        outputs.close()


def test_nobody_else_is_seen_after_a_kill(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for daemon in range(1, 4):  # each is gone before the next one starts, one in mid-line
        outputs = open_and_begin(tmp_path, "job", daemon * 1e9)
        commit(outputs, 2 * daemon)
        commit(outputs, 2 * daemon + 1)
        assert outputs.rival is None
        outputs.close()
        if daemon == 1:
            with (tmp_path / "history.jsonl").open("ab") as history:
                history.write(b'{"step": 9')

    assert "writes to" not in caplog.text


@pytest.mark.parametrize("has_reader", [False, True])
@pytest.mark.parametrize("name", ["history.jsonl", "alerts.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str, *, has_reader: bool
) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR) if has_reader else None

    with pytest.raises(OutputError, match=f"{name}.*; a pipe, a socket or a device stands where"):
        RunOutputs(tmp_path, time.time)

    if reader is not None:
        os.close(reader)


@pytest.mark.parametrize("name", ["run.json", "run.json.trackside-tmp"])
def test_a_pipe_in_the_place_of_what_is_replaced_whole_is_replaced(
    tmp_path: Path, name: str
) -> None:
    outputs = RunOutputs(tmp_path, time.time)
    os.mkfifo(tmp_path / name)

    for _ in range(2):
        try:
            outputs.begin(make_hello(tmp_path))
            break
        except OutputError:
            continue
    outputs.close()

    assert load(tmp_path / "run.json")["state"] == "running"
