"""One rank's records on their way in, and how far its cursor goes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_trainer import FakeRank, make_hello

from trackside.wire.records import Close, RecordKind, encode
from trackside.wire.ring import RingReader
from trackside.wire.segment import remove
from tracksided.ingest.stream import MAX_OUTSTANDING, RankStream

OpenStream = Callable[[], RankStream]


@pytest.fixture
def rank(shm_dir: Path, tmp_path: Path) -> Iterator[FakeRank]:
    rank = FakeRank(shm_dir, make_hello(tmp_path))
    yield rank
    rank.abandon()
    remove(rank.writer.path)


@pytest.fixture
def open_stream(rank: FakeRank) -> Iterator[OpenStream]:
    """Open the segment as a daemon does that starts now."""
    opened: list[RankStream] = []

    def make() -> RankStream:
        opened.append(RankStream(RingReader.open(rank.writer.path), rank.hello))
        return opened[-1]

    yield make
    for stream in opened:
        stream.close(remove=False)


def test_no_more_is_taken_in_than_is_written_soon(rank: FakeRank, open_stream: OpenStream) -> None:
    for step in range(1, MAX_OUTSTANDING + 3):
        rank.publish(step)
    stream = open_stream()

    taken = list(stream.poll())
    stream.settle(taken[0].end)
    more = list(stream.poll())

    assert [delivery.step.step for delivery in taken] == list(range(1, MAX_OUTSTANDING + 1))
    assert [delivery.step.step for delivery in more] == [MAX_OUTSTANDING + 1]


def test_the_cursor_stays_before_what_is_not_settled(
    rank: FakeRank, open_stream: OpenStream
) -> None:
    for step in (1, 2, 3):
        rank.publish(step)
    stream = open_stream()
    first, second, third = stream.poll()

    stream.settle(third.end)
    stream.settle(first.end)

    assert [delivery.step.step for delivery in open_stream().poll()] == [2, 3]

    stream.settle(second.end)
    assert list(open_stream().poll()) == []


def test_how_a_run_ended_is_known_to_the_next_daemon_too(
    rank: FakeRank, open_stream: OpenStream
) -> None:
    rank.publish(1)
    rank.close(steps=7)
    stream = open_stream()
    (delivery,) = stream.poll()
    stream.settle(delivery.end)

    again = open_stream()

    assert list(again.poll()) == []
    assert again.has_ended()
    assert again.close_record is not None
    assert again.close_record.steps == 7


@pytest.mark.parametrize("dropped", [{f"cause {number}": 1 for number in range(65)}, {"x" * 65: 1}])
def test_more_causes_of_drops_than_there_can_be_are_not_taken_in(
    rank: FakeRank, open_stream: OpenStream, dropped: dict[str, int]
) -> None:
    """They would stand in every status of the daemon."""
    close = Close(
        reason="closed",
        timestamp=0.0,
        steps=2,
        sampled=2,
        published=2,
        dropped=dropped,
        loss=None,
        scalars=(),
        texts=(),
    )
    rank.publish(1, dropped=dropped)
    rank.publish(2, dropped={"ring_full": 3})
    rank.writer.publish(RecordKind.CLOSE, 0, encode(close))
    stream = open_stream()

    taken = list(stream.poll())

    assert [delivery.step.step for delivery in taken] == [2]
    assert stream.close_record is None
    assert (stream.health().corrupt_records, stream.health().drops) == (2, {})
