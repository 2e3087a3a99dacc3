"""Pages are what their generator makes of the stored results."""

import copy
from pathlib import Path

import page
import pytest
import stored
from catalog import CATALOG
from shown import MissingResult

FULL_RUN = [entry.name for entry in CATALOG if entry.is_default and not entry.needs_root]
FAIRSEQ = "float32 `.pt`: seconds of fairseq, times ours"
FAIRSEQ_MOMENTS = "float32 `.pt` with Adam's moments: seconds of fairseq, times ours"


@pytest.fixture
def results() -> stored.Results:
    return copy.deepcopy(stored.load(page.RESULTS))


@pytest.mark.parametrize("name", page.PAGES)
def test_a_page_is_made_from_the_stored_results(name: str, results: stored.Results) -> None:
    made = page.render(name, results)

    assert (page.DOCS / name).read_text(encoding="utf-8") == made, "run make performance"


def test_every_benchmark_has_its_script() -> None:
    assert [entry.name for entry in CATALOG if not (page.HERE / f"{entry.name}.py").exists()] == []


@pytest.mark.parametrize("name", FULL_RUN)
def test_a_benchmark_of_a_full_run_that_has_no_results_is_named(
    name: str, results: stored.Results
) -> None:
    del results[name]

    with pytest.raises(MissingResult, match=f"no results of {name}, which"):
        page.render("performance.md", results)


def test_a_table_that_is_not_there_is_named(results: stored.Results) -> None:
    results["tap"]["tables"].pop("hooks")

    with pytest.raises(MissingResult, match="tap have no table 'hooks', but monitors"):
        page.render("performance.md", results)


def test_every_limit_of_a_full_run_is_on_the_page(results: stored.Results) -> None:
    text = (page.DOCS / "performance.md").read_text(encoding="utf-8")

    whats = [limit["what"] for name in FULL_RUN for limit in results[name]["limits"]]
    assert len(whats) > 15
    assert [what for what in whats if what not in text] == []


@pytest.mark.parametrize(
    ("plain", "moments", "words"),
    [
        (False, True, "script is missed on plain float32 `.pt` and reached on files with"),
        (True, False, "script is reached on plain float32 `.pt` and missed on files with"),
        (None, None, "whether ours is eight times faster stays open"),
    ],
)
def test_what_is_said_of_fairseq_follows_the_results(
    plain: object, moments: object, words: str, results: stored.Results
) -> None:
    kept = {FAIRSEQ: plain, FAIRSEQ_MOMENTS: moments}
    limits = results["averaging"]["limits"]
    results["averaging"]["limits"] = [
        limit | {"kept": kept.get(limit["what"], limit["kept"])}
        for limit in limits
        if kept.get(limit["what"], True) is not None
    ]

    text = page.render("performance.md", results)

    assert words in text
    assert text.count("stays open") == (plain is None)


@pytest.mark.parametrize(
    ("low", "words"),
    [(8.9, "16 times the tokens 2.5 times as much"), (3.9, "16 times the tokens as much, within")],
)
def test_what_is_said_of_growth_follows_the_results(
    low: float, words: str, results: stored.Results
) -> None:
    rows = results["growth"]["tables"]["length"]["rows"]
    rows[0]["trainer_ms"] = {"median": 4.0, "low": 3.0, "high": 4.5}
    rows[-1]["trainer_ms"] = {"median": 10.0, "low": low, "high": 11.0}

    assert words in page.render("performance.md", results)


def test_what_is_said_of_latency_follows_the_results(results: stored.Results) -> None:
    for row in results["ring"]["tables"]["latency"]["rows"]:
        row["ZeroMQ / ring"]["median"] = 2.0 if row["bytes"] == 4096 else 0.5

    text = page.render("performance.md", results)

    assert "sooner through the ring 4,096. " in text


def test_a_journey_that_is_not_stored_is_left_out(results: stored.Results) -> None:
    del results["newcomer_bookworm"]
    results["newcomer_trixie"]["tables"]["steps"]["rows"] = [
        {"step": "make demo", "seconds": 61.4},
        {"step": "clone to map, without torch", "seconds": 65.2},
    ]

    text = page.render("performance.md", results)

    assert "Debian 12" not in text
    assert "| make demo | 61 |" in text
    assert "the map is there in 65 seconds on Debian 13." in text


def test_a_benchmark_that_needs_root_can_be_missing(results: stored.Results) -> None:
    results.pop("nodes", None)

    assert "No run of it is among these results." in page.render("scaling.md", results)


def test_asking_for_help_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["page.py", "--help", "--docs", str(tmp_path / "docs")])

    with pytest.raises(SystemExit, match=r"^0$"):
        page.main()

    assert "--results" in capsys.readouterr().out
    assert not (tmp_path / "docs").exists()
