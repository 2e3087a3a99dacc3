import asyncio
import threading

import pytest

from tracksided.web import patience
from tracksided.web.patience import Patient


def test_many_who_ask_at_once_cost_one_reading():
    readings: list[int] = []

    def read() -> int:
        readings.append(1)
        return len(readings)

    async def ask() -> None:
        patient = Patient(read, lambda _: False)
        await asyncio.gather(*(patient.refresh() for _ in range(20)))
        await patient.refresh()  # still fresh

    asyncio.run(ask())

    assert len(readings) == 1


def test_what_has_more_is_read_on_at_once():
    pieces = iter([1, 2, 3])
    taken: list[int] = []

    async def ask() -> None:
        await Patient(
            lambda: next(pieces), lambda piece: taken.append(piece) or piece < 3
        ).refresh()

    asyncio.run(ask())

    assert taken == [1, 2, 3]


def test_a_file_system_that_hangs_keeps_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.01)
    hang = threading.Event()
    calls: list[int] = []

    def read() -> int:
        calls.append(1)
        hang.wait()
        return 7

    async def ask() -> list[int]:
        taken: list[int] = []
        patient = Patient(read, lambda value: bool(taken.append(value)))
        await patient.refresh()
        await patient.refresh()
        before = list(taken)
        hang.set()
        while not taken:
            await patient.refresh()
        return [*before, len(calls), *taken]

    assert asyncio.run(ask()) == [1, 7]  # nothing before, one reading, its value in the end


def test_a_reading_that_does_not_end_is_told_until_it_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.01)
    hang = threading.Event()
    now = [0.0]

    async def ask() -> list[str | None]:
        patient = Patient(hang.wait, lambda _: False, clock=lambda: now[0])
        told: list[str | None] = []
        for now[0] in (100.0, 105.0, 111.0):
            await patient.refresh()
            told.append(patient.problem)
        hang.set()
        while patient.problem is not None:
            await patient.refresh()
        return told

    at_first, still, at_last = asyncio.run(ask())

    assert (at_first, still) == (None, None)
    assert at_last is not None
    assert "does not answer" in at_last


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "/data/history.jsonl"), "cannot read /data/h"),
        (ValueError("what nobody foresaw"), "ValueError: what nobody foresaw"),
    ],
)
def test_what_goes_wrong_is_told_and_logged_once(
    error: Exception, told: str, caplog: pytest.LogCaptureFixture
):
    def read() -> int:
        raise error

    async def ask() -> str | None:
        patient = Patient(read, lambda _: False, clock=iter(range(1000)).__next__)
        for _ in range(3):
            await patient.refresh()
        return patient.problem

    problem = asyncio.run(ask())

    assert problem is not None
    assert problem.startswith(told)
    assert len(caplog.records) == 1
