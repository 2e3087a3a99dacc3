import asyncio
import threading
from collections.abc import Callable

import pytest

from tracksided.web import turns
from tracksided.web.turns import AT_ONCE, Turns

DEADLINE_S = 30.0


async def told(of_run: Turns, run: str, call: Callable[[], str]) -> str:
    try:
        return await of_run.take(run, call)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror


def test_a_run_that_hangs_takes_few_threads_and_no_others_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "PATIENCE_S", 0.02)
    hang = threading.Event()
    begun: list[int] = []

    def read() -> str:
        begun.append(1)
        hang.wait(DEADLINE_S)
        return "late"

    async def ask() -> tuple[list[str], int, str, str]:
        of_run = Turns()
        hung = await asyncio.gather(*(told(of_run, "hung", read) for _ in range(20)))
        num_threads = len(begun)
        monkeypatch.setattr(turns, "PATIENCE_S", DEADLINE_S)
        other = await told(of_run, "well", lambda: "well")
        hang.set()
        return hung, num_threads, other, await told(of_run, "hung", lambda: "well again")

    hung, num_threads, other, again = asyncio.run(ask())

    assert hung == ["no answer"] * 20
    assert num_threads == AT_ONCE
    assert (other, again) == ("well", "well again")


def test_an_error_is_handed_on_and_gives_its_turn_back():
    def read() -> str:
        raise OSError(5, "Input/output error")

    async def ask() -> list[str]:
        of_run = Turns()
        return [await told(of_run, "a", read) for _ in range(2 * AT_ONCE)]

    assert asyncio.run(ask()) == ["Input/output error"] * 2 * AT_ONCE


def test_nothing_is_kept_of_runs_that_nobody_reads():
    async def ask() -> int:
        of_run = Turns()
        for number in range(100):
            await of_run.take(str(number), lambda: "well")
        await asyncio.sleep(0)
        return len(of_run._of_run)

    assert asyncio.run(ask()) <= 1
