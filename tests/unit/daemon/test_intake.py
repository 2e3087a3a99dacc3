"""From new segments to runs."""

import time
from pathlib import Path

from fake_trainer import FakeRank, make_hello

from tracksided.config import Settings
from tracksided.intake import MAX_ENDED, Intake


def test_a_segment_of_a_name_that_was_there_before_is_taken_in(
    shm_dir: Path, tmp_path: Path
) -> None:
    """Names of segments that are done with are not kept, or a daemon would collect them."""
    intake = Intake(shm_dir, [].append, time.time)
    for _ in range(2):
        rank = FakeRank(shm_dir, make_hello(tmp_path / "out"), nonce="same")

        (run,) = intake.look(Settings(), 0.0)

        assert intake.look(Settings(), 0.0) == []
        rank.abandon()
        intake.remove(run)
        assert not list(shm_dir.iterdir())
        assert intake.runs == []
    intake.close()


def test_of_many_runs_that_are_over_the_first_are_served_and_those_that_train(
    shm_dir: Path, tmp_path: Path
) -> None:
    intake = Intake(shm_dir, [].append, time.time)
    num_ended = MAX_ENDED + 2
    ranks = [
        FakeRank(shm_dir, make_hello(tmp_path / f"{k}", run=f"run-{k:02}"), ring_bytes=1 << 14)
        for k in range(num_ended + 1)
    ]
    runs = intake.look(Settings(), 0.0)
    for rank in ranks[:num_ended]:
        rank.abandon()

    assert intake.current == [*runs[:MAX_ENDED], runs[-1]]
    assert intake.num_held_back == 2

    intake.remove(runs[0])

    assert intake.current == [*runs[1 : MAX_ENDED + 1], runs[-1]]
    runs[1].break_off(RuntimeError("a defect"))  # and any other that cannot be written
    assert intake.num_held_back == 0
    ranks[-1].abandon()
    for run in tuple(intake.runs):
        intake.remove(run)


def test_a_run_that_a_training_waits_for_is_not_held_back(shm_dir: Path, tmp_path: Path) -> None:
    intake = Intake(shm_dir, [].append, time.time)
    hellos = [make_hello(tmp_path / f"{k}", run=f"run-{k}") for k in range(MAX_ENDED)]
    first = make_hello(tmp_path / "resumed", run="resumed")
    again = make_hello(tmp_path / "resumed", run="resumed", attempt=1)
    ranks = [
        FakeRank(shm_dir, hello, nonce=f"{number}", ring_bytes=1 << 14)
        for number, hello in enumerate([*hellos, first, again])
    ]
    runs = intake.look(Settings(), 0.0)
    runs.sort(key=lambda run: (run.run_id == "resumed", run.generation.hello.attempt))
    intake.runs[:] = runs
    for rank in ranks[:-1]:
        rank.abandon()

    assert intake.current == runs[:-1]
    assert intake.num_held_back == 0

    ranks[-1].abandon()
    for run in runs:
        intake.remove(run)
