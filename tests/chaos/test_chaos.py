"""The short form of ``run.py``: random faults, and nothing is lost, doubled or left behind."""

from pathlib import Path

import pytest
from chaos_story import play

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the drain alone may take 900 s

SEED = 20261124


def test_nothing_is_lost_doubled_or_left_behind(tmp_path: Path) -> None:
    story = play(tmp_path, faults=25, seed=SEED, with_real=True, say=lambda _: None)

    assert not story.verdict.problems
    assert story.verdict.published > 0
    assert (story.verdict.lost, story.verdict.doubled) == (0, 0)
