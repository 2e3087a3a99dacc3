"""Which segments are of one start of a job."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import FakeRank, make_hello

from trackside.wire.ring import RingReader
from tracksided.ingest.aligner import Aligner
from tracksided.ingest.generation import Generation
from tracksided.ingest.stream import Delivery, RankStream

STARTED = {"started_boottime": 1000.0, "world_size": 3, "local_world_size": 2}


@pytest.fixture
def generation(shm_dir: Path, tmp_path: Path) -> Iterator[Generation]:
    """One whose rank 0 began after a thousand seconds."""
    rank = FakeRank(shm_dir, make_hello(tmp_path, **STARTED))
    stream = RankStream(RingReader.open(rank.writer.path), rank.hello)
    aligner: Aligner[Delivery] = Aligner(num_ranks=2, now=0.0, join_grace_s=20.0, max_lag_s=60.0)
    yield Generation(aligner, stream)
    stream.close(remove=True)
    rank.abandon()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"started_boottime": 1119.0}, True),
        ({"started_boottime": 881.0}, True),
        ({"started_boottime": 1121.0}, False),  # the same job, started again by hand
        ({"rank": 0}, False),
        ({"run": "another"}, False),
        ({"attempt": 1}, False),
        ({"save_dir": "/elsewhere"}, False),
        ({"node_rank": 1}, False),  # nodes write to folders of their own
    ],
    ids=str,
)
def test_a_segment_joins_the_start_that_it_is_of(
    generation: Generation, tmp_path: Path, changes: dict[str, Any], *, expected: bool
) -> None:
    newcomer = replace(make_hello(tmp_path, **STARTED), **{"rank": 1, **changes})

    assert generation.accepts(newcomer) is expected
