"""All benchmarks in one go: what becomes of those that fail, and of the results of others."""

from pathlib import Path

import everything
import pytest
import stored
from catalog import Entry

pytestmark = pytest.mark.integration
GOOD = """
import json, sys
words = sys.argv[1:]
file = words[words.index("--json") + 1]
limit = {"what": "speed", "sign": ">=", "bound": 1, "reached": {"": 2}, "why_not": "", "kept": True}
json.dump({"words": words, "limits": [limit]}, open(file, "w"))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    entries = (Entry("good"), Entry("bad"), Entry("averager", takes_peers=True))
    entries += (Entry("rare", is_default=False),)
    for name in ("good", "averager", "rare"):
        (tmp_path / f"{name}.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(everything, "CATALOG", entries)
    monkeypatch.setattr(everything, "HERE", tmp_path)
    monkeypatch.setattr(everything, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(everything, "QUICK", tmp_path / "quick")
    monkeypatch.setattr(everything.page, "DOCS", tmp_path / "docs")
    stored.store(tmp_path / "results.json", "bad", {"limits": [], "from": "before"})
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["everything.py", *words])
    everything.main()


def test_one_that_fails_is_named_and_the_others_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^failed: bad: exit status 3$"):
        run(monkeypatch)

    results = stored.load(place / "results.json")
    assert sorted(results) == ["averager", "bad", "good"]
    assert results["bad"]["from"] == "before"
    assert "| speed >= 1 | 2 | yes |" in capsys.readouterr().out


def test_a_part_is_run_anew_with_the_options_it_takes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = str(place / "rare.py")

    run(monkeypatch, "--only", "averager", "rare", "--timm", script, "--peer-path", "x", "y")

    results = stored.load(place / "results.json")
    assert sorted(results) == ["averager", "bad", "rare"]
    assert results["averager"]["words"][2:] == ["--timm", script, "--peer-path", "x", "y"]
    assert results["rare"]["words"][2:] == []


def test_short_forms_leave_the_results_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (place / "results.json").read_bytes()

    run(monkeypatch, "--quick", "--only", "good")

    assert (place / "results.json").read_bytes() == before
    assert stored.load(place / "quick" / "results.json")["good"]["words"][2:] == ["--quick"]


def test_pages_that_lack_results_are_not_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--only", "good")

    assert not (place / "docs").exists()
    assert "the pages are not: there are no results of tap, blocking" in capsys.readouterr().out


def test_results_that_cannot_be_kept_are_said_before_anything_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "results.json").write_text("{}")

    with pytest.raises(SystemExit, match="has schema None"):
        run(monkeypatch)
    assert "# good" not in capsys.readouterr().out


def test_one_that_needs_root_is_left_out_for_others_unless_it_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = (Entry("good"), Entry("averager", needs_root=True))
    monkeypatch.setattr(everything, "CATALOG", entries)
    monkeypatch.setattr(everything.os, "geteuid", lambda: 1000)

    run(monkeypatch)

    assert "averager" not in stored.load(place / "results.json")
    assert "averager: left out, it needs root" in capsys.readouterr().out
    run(monkeypatch, "--only", "averager")
    assert "averager" in stored.load(place / "results.json")


def test_a_script_that_is_not_there_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--timm", str(place / "nothing.py"))
    assert "nothing.py: there is no such file" in capsys.readouterr().err
