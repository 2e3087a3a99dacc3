"""What the user logs, kept within bounds and in order."""

import pytest
import torch

from trackside.capture.logbook import MAX_KIND_BYTES, Logbook, as_step
from trackside.staging import Staging
from trackside.wire.records import Close, LoggedScalar, encode

RING_BYTES = 64 << 20  # of attach


def _steps(logbook: Logbook) -> list[int]:
    return [entry.step for entry in logbook.take().entries]


def test_what_could_not_be_sent_comes_first_again() -> None:
    logbook = Logbook(RING_BYTES)
    for index in range(3):
        logbook.add(index, "x", float(index))
    page = logbook.take()
    logbook.add(3, "x", 3.0)

    logbook.put_back(page)

    assert _steps(logbook) == [0, 1, 2, 3]
    assert logbook.take_overflowed() == 0


def test_a_full_logbook_gives_back_the_newest() -> None:
    logbook = Logbook(8 * 41 * 4)  # room for four values called x
    for index in range(3):
        logbook.add(index, "x", 0.0)
    page = logbook.take()
    for index in range(3):
        logbook.add(10 + index, "x", 0.0)

    logbook.put_back(page)

    assert _steps(logbook) == [2, 10, 11, 12]
    assert logbook.take_overflowed() == 2
    assert logbook.take_overflowed() == 0


def test_300_values_a_step_are_kept_at_the_default_rate() -> None:
    logbook = Logbook(RING_BYTES)
    for step in range(100):
        logbook.add_values(step, {f"group{index // 10}/value{index}": step for index in range(300)})

    assert len(logbook.take().entries) == 30_000
    assert logbook.take_overflowed() == 0


def test_a_flood_stays_within_the_bound_of_the_metadata() -> None:
    logbook = Logbook(1 << 20)
    for step in range(10_000):
        logbook.add_values(step << 40, {"a name of some length": step / 3})
    logbook.add_text(1, "tag", "\N{SNOWMAN}" * 100_000)  # 300 kB: too long by itself
    logbook.add_text(2, "tag", "fits")

    bound, kept = logbook.nbytes, logbook.take()
    packed = encode(
        Close(
            reason="",
            timestamp=0.0,
            steps=0,
            sampled=0,
            published=0,
            dropped={},
            loss=None,
            scalars=kept.scalars([]),
            texts=kept.texts,
        )
    )

    assert len(packed) <= bound <= 2 * (1 << 20) // 8
    assert kept.entries[-1] == LoggedScalar(
        step=9_999 << 40, name="a name of some length", value=9_999 / 3
    )
    assert [text.step for text in kept.texts] == [2]
    assert logbook.take_overflowed() == 10_000 - len(kept.entries) + 1
    assert logbook.nbytes == 0


def test_no_ring_is_so_large_that_a_record_is_refused() -> None:
    logbook = Logbook(1 << 40)
    logbook.add_text(1, "tag", "x" * MAX_KIND_BYTES)

    assert logbook.take_overflowed() == 1


def test_values_on_a_device_come_to_the_host_together_and_exactly() -> None:
    logbook = Logbook(RING_BYTES)
    whole = 2**31 - 1  # float32 cannot hold it
    logbook.add(1, "a", torch.tensor(0.5))
    logbook.add(1, "b", 1.5)
    logbook.add(1, "c", torch.tensor(whole))
    logbook.add(2, "a", torch.tensor(0.25))

    page = logbook.take()
    stacked = page.tensors()

    assert [tensor.tolist() for tensor in stacked.values()] == [[0.5, 0.25], [float(whole)]]
    staged = Staging().stage(stacked)
    assert staged is not None
    found = page.scalars(staged.arrays)
    assert [(entry.name, entry.value) for entry in found] == [
        ("a", 0.5),
        ("b", 1.5),
        ("c", float(whole)),
        ("a", 0.25),
    ]


def test_values_on_a_device_weigh_more() -> None:
    on_host, on_device = Logbook(RING_BYTES), Logbook(RING_BYTES)
    on_host.add(1, "x", 1.0)
    on_device.add(1, "x", torch.tensor(1.0))

    assert (on_host.nbytes, on_device.nbytes) == (41, 41 + 128)


@pytest.mark.parametrize("step", [-1, 2**63])
def test_a_step_that_no_event_can_hold_is_none(step: int) -> None:
    assert as_step(step) is None
