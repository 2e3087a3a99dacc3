"""When an overview is made, and what it reads and writes."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tracksided import overview as module
from tracksided.errors import OutputError
from tracksided.jobs import JobFailed, OverviewDone, OverviewJob
from tracksided.overview import RunDirectory, write_overview
from tracksided.overviews import EVERY_S, Overviews
from tracksided.reports import Picture
from tracksided.stages import RunData

WORDS = ("animation", "entropy")


@dataclass
class FakePool:
    has_room: bool = True
    jobs: list[OverviewJob] = field(default_factory=list)

    def submit(self, job: OverviewJob) -> int:
        self.jobs.append(job)
        return len(self.jobs)


class Drawing:
    """Draws the steps that it sees."""

    name = "entropy"

    def render(self, run: RunData) -> object:
        yield Picture("seen.png", None, repr([s.step for s in run.steps]).encode(), 1, 1)


class Broken:
    name = "animation"

    def render(self, run: RunData) -> object:
        yield Picture("first.png", None, b"1", 1, 1)
        raise ZeroDivisionError(len(run.steps))


def write_history(directory: Path, *steps: int) -> None:
    lines = [json.dumps({"step": step, "folder": f"step_{step}", "loss": -step}) for step in steps]
    (directory / "history.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_overviews_are_made_while_the_run_grows_but_not_too_often(tmp_path: Path) -> None:
    overviews, pool = Overviews(tmp_path, WORDS), FakePool()
    asked: list[tuple[int, int]] = []

    for minute, num_steps in enumerate((4, 5, 6, 7, 8, 100, 101, 125)):
        before = len(pool.jobs)
        overviews.keep_up(pool, minute * EVERY_S, num_steps)
        if len(pool.jobs) > before:
            asked.append((minute, num_steps))
            overviews.receive(len(pool.jobs), OverviewDone({}))

    # 7 is the first that is a quarter more than 5, 100 than 7 (8 is not), 125 than 100
    assert asked == [(1, 5), (3, 7), (5, 100), (7, 125)]
    overviews.keep_up(pool, 7 * EVERY_S + EVERY_S / 2, 1000)
    assert len(pool.jobs) == 4


def test_no_second_overview_is_asked_for_while_one_is_made(tmp_path: Path) -> None:
    overviews, pool = Overviews(tmp_path, WORDS), FakePool()
    overviews.keep_up(pool, 0.0, 5)

    overviews.keep_up(pool, 1e6, 500)
    assert not overviews.finish(pool, 500)

    assert len(pool.jobs) == 1
    assert overviews.receive(1, OverviewDone({}))
    assert not overviews.finish(pool, 500)  # the last one sees all steps
    assert len(pool.jobs) == 2


@pytest.mark.parametrize(
    "outcome", [OverviewDone({"renderer x": "broken"}), JobFailed("killed", is_output=False)]
)
def test_a_run_ends_whatever_becomes_of_its_last_overview(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outcome: OverviewDone | JobFailed
) -> None:
    overviews, pool = Overviews(tmp_path, WORDS), FakePool()
    assert not overviews.finish(pool, 9)

    assert overviews.receive(1, outcome)

    assert overviews.finish(pool, 9)
    assert len(pool.jobs) == 1
    assert "is missing" in caplog.text


def test_nothing_is_asked_of_workers_where_nobody_wants_it(tmp_path: Path) -> None:
    overviews, pool = Overviews(tmp_path, ()), FakePool()

    overviews.keep_up(pool, 0.0, 100)

    assert overviews.finish(pool, 100)
    assert pool.jobs == []


def test_a_run_without_steps_has_no_overview(tmp_path: Path) -> None:
    overviews, pool = Overviews(tmp_path, WORDS), FakePool()

    assert overviews.finish(pool, 0)
    assert pool.jobs == []


def test_answers_for_others_are_not_taken(tmp_path: Path) -> None:
    assert not Overviews(tmp_path, WORDS).receive(1, OverviewDone({}))


def test_steps_that_training_went_back_on_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_RENDERERS", (Drawing(),))
    write_history(tmp_path, 10, 20, 30, 20, 25)

    assert write_overview(tmp_path, ("entropy",)) == {}

    assert (tmp_path / "overview" / "seen.png").read_text() == "[10, 20, 25]"
    assert [path.name for path in (tmp_path / "overview").iterdir()] == ["seen.png"]


def test_a_broken_renderer_costs_its_other_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RUN_RENDERERS", (Broken(), Drawing()))
    write_history(tmp_path, 1)

    found = write_overview(tmp_path, WORDS)

    assert found == {"renderer animation": "ZeroDivisionError(1)"}
    names = {path.name for path in (tmp_path / "overview").iterdir()}
    assert names == {"first.png", "seen.png"}


def test_lines_are_read_from_where_they_lie(tmp_path: Path) -> None:
    write_history(tmp_path, 1, 2, 3)
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(b'not json\n{"step": "x"}\n{"step": 9, "folder": "../../etc"}\n[]\n{"step": 4')
    (tmp_path / "step_2").mkdir()
    (tmp_path / "step_2" / "a.png").write_bytes(b"a")

    with (tmp_path / "history.jsonl").open("rb") as file:
        run = RunDirectory(tmp_path, file)

        assert [run.line(step)["loss"] for step in reversed(run.steps)] == [-3, -2, -1]
        assert [tuple(run.files(step)) for step in run.steps] == [(), ("a.png",), ()]
        assert [run.read(step, "a.png") for step in run.steps] == [None, b"a", None]


def test_a_run_without_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"history\.jsonl"):
        write_overview(tmp_path, WORDS)
