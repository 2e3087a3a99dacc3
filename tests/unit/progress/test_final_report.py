"""The words of the final report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from training_logs import make_alert, write_run

from tracksided.progress.final_report import MAX_ALERTS, compose
from tracksided.progress.history import History, read_history


def history(tmp_path: Path, **hello: Any) -> History:
    return read_history(write_run(tmp_path, [{"step": 10}, {"step": 20}], **hello), "run")


def test_every_alert_stands_with_its_advice_up_to_a_limit(tmp_path: Path) -> None:
    alerts = [make_alert(step=step) for step in range(MAX_ALERTS + 3)]

    found = history(tmp_path)
    curve = replace(found.curve, alerts=(*alerts, make_alert(rule="gone")))

    report = compose(replace(found, curve=curve), None, 0.0)

    assert f"loss_spike: {MAX_ALERTS + 3}, gone: 1." in report
    assert r"| 7 | warning | loss_spike | all | loss 9 \| median 1 | look at the batch |" in report
    assert "4 more stand in alerts.jsonl." in report


def test_nothing_of_the_user_leaves_its_cell(tmp_path: Path) -> None:
    config = {"a|b": "x\n# heading <script>", "back\\slash": 1, "c\x1b[2J": "\u202ed"}

    report = compose(history(tmp_path, config=config), None, 0.0)

    assert r"| a\|b | x # heading &lt;script> |" in report
    assert r"| back\\slash | 1 |" in report
    assert r"| c\\x1b[2J | \\u202ed |" in report


def test_run_that_nothing_is_known_of_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.touch()

    report = compose(read_history(path, "run"), None, 0.0)

    assert "| state | unknown |" in report
    assert "| started | unknown |" in report
    assert "| optimizer steps seen | unknown |" in report
    assert "| sampled steps | unknown written of unknown |" in report
    assert "| loss | unknown |" in report
    assert "| clip rate | unknown |" in report
    assert "No attention was captured." in report
    assert "None were raised." in report
    assert "| 0 |" not in report


def test_averages_are_counted_and_the_newest_named(tmp_path: Path) -> None:
    made = {"output": "a.pt", "step": 20, "sources": ["1.pt", "2.pt"], "error": None}
    failed = {"output": "a.pt", "step": 30, "sources": [], "error": "disk full"}
    found = history(tmp_path)
    totals = {"averages": [{**made, "step": 10}, made, failed]}

    report = compose(replace(found, totals=totals), None, 0.0)

    assert "2 were made, 1 failed." in report
    assert "| sources | 1.pt, 2.pt |" in report
    assert "| up to step | 20 |" in report
    assert "| error | disk full |" in report
