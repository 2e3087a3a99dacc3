"""From new segments to runs."""

import time
from pathlib import Path

from fake_trainer import FakeRank, make_hello

from tracksided.config import Settings
from tracksided.intake import Intake


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
