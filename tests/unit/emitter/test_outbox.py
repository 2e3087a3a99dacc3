"""The way of sampled steps to the ring: order, lateness, shedding, counts."""

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from attention_values import CALL

from trackside.capture.captured import CapturedAttention
from trackside.capture.clipping import ClipTally
from trackside.capture.logbook import Logbook
from trackside.draft import StepDraft
from trackside.notes import Notes
from trackside.outbox import Outbox
from trackside.publisher import CLOSE_RESERVE_BYTES, Publisher
from trackside.staging import HostArray, Staged, Staging
from trackside.wire.layout import DropCause
from trackside.wire.records import Close, RecordKind, Step, decode
from trackside.wire.ring import PublishResult


class _Ring:
    """Keeps records; refuses payloads above a limit."""

    capacity_bytes = 1 << 30
    path = Path("ring")
    was_cut = False

    def __init__(self, limit: int = 1 << 20) -> None:
        self.limit = limit
        self.free_bytes = 1 << 30
        self.records: list[tuple[RecordKind, int, bytes]] = []
        self.chunks: list[list[tuple[int, memoryview]]] = []
        self.counts: dict[str, int] = {}

    def publish(
        self,
        kind: RecordKind,
        step: int,
        metadata: bytes,
        arrays: list[tuple[int, memoryview]],
        payload_bytes: int,
        *,
        keep_free_bytes: int,
    ) -> PublishResult:
        del keep_free_bytes
        if payload_bytes > self.limit:
            self.count_drop(DropCause.RING_FULL)
            return PublishResult.RING_FULL
        self.records.append((kind, step, metadata))
        self.chunks.append(arrays)
        return PublishResult.PUBLISHED

    def has_room(self, num_bytes: int) -> bool:
        return num_bytes <= self.free_bytes

    def count_drop(self, cause: DropCause, count: int = 1) -> None:
        if count:
            self.counts[cause.label] = self.counts.get(cause.label, 0) + count

    @property
    def drops(self) -> dict[str, int]:
        return self.counts

    def close(self) -> None:
        pass

    def steps(self) -> list[Step]:
        return [decode(Step, packed) for kind, _, packed in self.records if kind == RecordKind.STEP]


class _LateStaging(Staging):
    """Copies that are done when the test says so; one that never gets a buffer if full."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bool] = []
        self.is_full = False

    def stage(self, tensors: Mapping[str, torch.Tensor]) -> Staged | None:
        staged = super().stage(tensors)
        assert staged is not None
        if self.is_full:
            return None
        index = len(self.done)
        self.done.append(False)
        return Staged(staged.arrays, lambda: self.done[index], ())


def _outbox(ring: _Ring, staging: Staging | None = None, logbook: Logbook | None = None) -> Outbox:
    publisher = Publisher(ring, None)  # type: ignore[arg-type] # a fake
    return _outbox_of(publisher, staging, logbook)


def _outbox_of(
    publisher: Publisher, staging: Staging | None = None, logbook: Logbook | None = None
) -> Outbox:
    return Outbox(
        publisher,
        staging or Staging(),
        logbook=logbook or Logbook(1 << 20),
        step_bytes=1 << 20,
        note=Notes().say,
    )


def _draft(step: int, **fields: object) -> StepDraft:
    return StepDraft(step=step, epoch=None, epoch_requested=False, **fields)  # type: ignore[arg-type] # the caller's


def _attention(num_bytes: int) -> CapturedAttention:
    shared = torch.zeros(num_bytes, dtype=torch.uint8)
    return CapturedAttention(CALL, {"query": shared, "key": shared})


def test_steps_leave_in_order_and_only_when_they_have_arrived() -> None:
    ring, staging = _Ring(), _LateStaging()
    outbox = _outbox(ring, staging)
    for step in (1, 2):
        outbox.submit(_draft(step, loss=torch.tensor(float(step))))

    staging.done[1] = True
    outbox.flush()
    assert ring.steps() == []
    staging.done[0] = True
    outbox.flush()

    assert [(step.step, step.loss) for step in ring.steps()] == [(1, 1.0), (2, 2.0)]
    assert not outbox.queue


def test_a_step_without_a_buffer_is_counted_and_its_log_kept() -> None:
    ring, staging = _Ring(), _LateStaging()
    logbook = Logbook(1 << 20)
    outbox = _outbox(ring, staging, logbook)
    logbook.add(1, "a", 1.0)

    staging.is_full = True
    outbox.submit(_draft(1))
    staging.is_full = False
    outbox.submit(_draft(2))
    staging.done[0] = True
    outbox.flush()

    (step,) = ring.steps()
    assert step.dropped == {"copy_late": 1}
    assert [entry.name for entry in step.scalars] == ["a"]


def test_a_log_waits_while_the_ring_has_no_room_for_it() -> None:
    ring, logbook = _Ring(), Logbook(1 << 20)
    outbox = _outbox(ring, logbook=logbook)
    logbook.add(1, "a", 1.0)

    ring.free_bytes = CLOSE_RESERVE_BYTES + logbook.nbytes - 1
    outbox.submit(_draft(1))
    ring.free_bytes += 1
    outbox.submit(_draft(2))

    assert [[entry.step for entry in step.scalars] for step in ring.steps()] == [[], [1]]
    assert ring.counts == {}


def test_logged_values_without_a_place_are_counted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ring, logbook = _Ring(), Logbook(1 << 10)
    outbox = _outbox(ring, logbook=logbook)
    for index in range(5):
        logbook.add(index, "x" * 50, 0.0)

    outbox.submit(_draft(5))
    outbox.submit(_draft(6))

    # Of 1 KiB an eighth: one value of 40 + 50 bytes.
    assert [[entry.step for entry in step.scalars] for step in ring.steps()] == [[4], []]
    assert ring.counts == {"log_full": 4}
    assert len(caplog.records) == 1


def test_nothing_is_staged_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    ring, staging = _Ring(), Staging()
    outbox = _outbox(ring, staging)
    monkeypatch.setattr(staging, "can_copy", lambda: False)

    outbox.submit(_draft(1))

    assert not outbox.can_copy()
    assert ring.counts == {"copy_late": 1}


def test_attention_is_shed_first_and_its_arrays_with_it() -> None:
    ring = _Ring(limit=100)
    outbox = _outbox(ring)

    outbox.submit(_draft(1, attention=(_attention(200),), loss=0.5))

    (step,) = ring.steps()
    assert (step.attention, step.arrays, step.loss) == ((), (), 0.5)
    assert step.dropped == {"ring_full": 1}


def test_a_tensor_that_layers_share_is_sent_once() -> None:
    ring = _Ring()
    outbox = _outbox(ring)

    outbox.submit(_draft(1, attention=(_attention(200),)))

    (step,) = ring.steps()
    assert [(spec.name, spec.offset) for spec in step.arrays] == [
        ("attention/0/query", 0),
        ("attention/0/key", 0),
    ]
    assert len(ring.chunks[0]) == 1


def test_numbers_on_a_device_are_read_when_they_arrive() -> None:
    ring, staging = _Ring(), _LateStaging()
    logbook = Logbook(1 << 20)
    outbox = _outbox(ring, staging, logbook)
    logbook.add(3, "host", 1.0)
    logbook.add(3, "device", torch.tensor(2.0))
    clip = {"clip_norm": torch.tensor(4.0), "max_norm": 1.0}
    tally = ClipTally(torch.tensor(3), torch.tensor(5.0))

    outbox.submit(_draft(4, num_steps=4, clipping=tally, **clip))
    staging.done[0] = True
    outbox.flush()

    (step,) = ring.steps()
    assert (step.norm_before_clip, step.clipped, step.clip_rate) == (4.0, True, 0.75)
    assert step.norm_peak == 5.0
    assert [(entry.name, entry.value) for entry in step.scalars] == [("host", 1.0), ("device", 2.0)]


def test_what_never_arrives_is_counted_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.outbox.DRAIN_TIMEOUT_S", 0.0)
    ring, staging = _Ring(), _LateStaging()
    outbox = _outbox(ring, staging)
    outbox.submit(_draft(1))

    outbox.close("closed", steps=5, sampled=1, loss=2.5)

    ((_, _, packed),) = ring.records
    close = decode(Close, packed)
    assert close.dropped == {"copy_late": 1}
    assert (close.steps, close.sampled, close.published, close.loss) == (5, 1, 0, 2.5)


def test_without_a_ring_everything_is_counted() -> None:
    publisher = Publisher(None, None)
    outbox = _outbox_of(publisher)

    outbox.submit(_draft(1))
    outbox.close("closed", steps=1, sampled=1, loss=None)

    assert publisher.drops == {"other": 2}


def test_the_bell_rings_after_each_record() -> None:
    ring = _Ring()
    seen: list[int] = []

    class Bell:
        def ring(self) -> None:
            seen.append(len(ring.records))

        def close(self) -> None:
            seen.append(-1)

    publisher = Publisher(ring, Bell())  # type: ignore[arg-type] # a fake
    outbox = _outbox_of(publisher)
    outbox.submit(_draft(1))
    outbox.submit(_draft(2))
    publisher.close()
    publisher.close()

    assert seen == [1, 2, -1]


@pytest.mark.parametrize(
    ("dtype", "raw", "values"),
    [
        ("int32", b"\x05\0\0\0\xff\xff\xff\xff", [5.0, -1.0]),
        ("float64", struct.pack("<2d", 0.1, 1e300), [0.1, 1e300]),
        ("bfloat16", b"\x80\x3f\x00\xc0", [1.0, -2.0]),  # the upper halves of float32
    ],
)
def test_a_host_array_reads_its_numbers(dtype: str, raw: bytes, values: list[float]) -> None:
    array = HostArray(dtype, (2,), memoryview(raw))

    assert (array.numbers(), array.number()) == (values, values[0])


def test_a_ring_that_somebody_cut_is_given_up_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ring = _Ring()
    publisher = Publisher(ring, None)  # type: ignore[arg-type] # a fake
    outbox = _outbox_of(publisher)
    outbox.submit(_draft(1))
    ring.was_cut = True

    for step in (2, 3):
        outbox.submit(_draft(step))

    assert [step.step for step in ring.steps()] == [1]
    assert publisher.drops == {"other": 2}
    assert not publisher.has_ring
    (told,) = caplog.messages
    assert told.startswith("trackside: somebody cut ring while it was written")
