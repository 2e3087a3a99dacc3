"""Results that ran apart from a full run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import keep
import newcomers
import page
import pytest
import stored

pytestmark = pytest.mark.integration

START = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def journey(tmp_path: Path) -> Path:
    """Times of a newcomer as run.py writes them."""
    document = newcomers.document(
        {"suite": "trixie", "user": "root", "commit": "abc"},
        {"clone": 1.26, "make demo": 72.91, newcomers.MAP: 74.17},
        {"python": "3.13.5", "torch": "2.13.0"},
        start=START,
        end=START + timedelta(minutes=5),
        load_before=(1.5, 2.0, 3.0),
    )
    file = tmp_path / "journey.json"
    file.write_text(json.dumps(document))
    return file


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *files: Path) -> Path:
    """Keep files among a copy of the results."""
    results = tmp_path / "results.json"
    if not results.exists():
        results.write_bytes(page.RESULTS.read_bytes())
    places = ["--results", str(results), "--docs", str(tmp_path / "docs")]
    monkeypatch.setattr("sys.argv", ["keep.py", *map(str, files), *places])
    keep.main()
    return results


def test_a_journey_takes_the_place_of_the_older_one_and_is_on_the_page(
    journey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(monkeypatch, tmp_path, journey)

    found = stored.load(results)
    assert found["newcomer_trixie"] == json.loads(journey.read_text())
    others = stored.load(page.RESULTS)
    assert {**found, "newcomer_trixie": None} == {**others, "newcomer_trixie": None}
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert "`newcomer_trixie`, 2026-01-02 03:04 UTC: 300 s, load average 1.5 before" in text
    assert "suite trixie, user root, commit abc." in text
    assert "Debian 13, python 3.13.5, torch 2.13.0 |" in text
    assert "| 73 |\n" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is_quick": True}, "is of a short form"),
        ({"benchmark": "made_up"}, "is of 'made_up'; known are tap, "),
        ({"limits": ...}, "is no result of a benchmark: limits is missing"),
    ],
)
def test_what_is_no_result_is_refused_and_nothing_is_kept(
    change: dict,
    message: str,
    journey: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = {**json.loads(journey.read_text()), **change}
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({key: value for key, value in changed.items() if value is not ...}))

    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, tmp_path, journey, bad)

    assert (tmp_path / "results.json").read_bytes() == page.RESULTS.read_bytes()
    assert not (tmp_path / "docs").exists()


def test_a_file_that_is_no_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text.json"
    file.write_text("| step | seconds |")

    with pytest.raises(SystemExit, match=r"text\.json cannot be read"):
        run(monkeypatch, tmp_path, file)
