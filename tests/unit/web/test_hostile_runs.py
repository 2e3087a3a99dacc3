"""Files of a run that somebody else wrote: what is kept and sent of them is bounded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tracksided.web.curves import MAX_LAYERS, Curves
from tracksided.web.fields import as_it_is
from tracksided.web.run_view import RunView
from tracksided.web.stream import _encoded, _run_document


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def view_of(directory: Path, **files: Any) -> RunView:
    """Return the view of a run whose files hold one line or object each, as it is sent."""
    names = {"history": "history.jsonl", "alerts": "alerts.jsonl", "run": "run.json"}
    for name, document in files.items():
        (directory / names[name]).write_text(json.dumps({"run": "r", **document}) + "\n")
    view = RunView("key", "r", directory)
    asyncio.run(view.refresh())
    assert view.problem is None
    return view


@pytest.mark.parametrize("name", ["host", "monitoring"])
def test_what_a_line_nests_too_deep_is_not_sent(tmp_path: Path, name: str) -> None:
    view = view_of(tmp_path, history={"step": 1, "loss": 2.0, name: {"a": nested(480)}})

    sent = json.loads(_encoded(_run_document(view)))

    assert sent[name] is None
    assert view.curves.columns()["loss"] == [2.0]


def test_what_settings_nest_too_deep_is_not_sent(tmp_path: Path) -> None:
    averages = [{"output": "a.pt"}, {"sources": nested(480)}]
    view = view_of(tmp_path, run={"hostname": nested(480), "every": 10, "averages": averages})

    sent = json.loads(_encoded(_run_document(view)))

    assert (sent["hostname"], sent["every"]) == (None, 10)
    assert sent["averages"] == [{"output": "a.pt"}]


def test_of_an_alert_texts_and_numbers_are_kept_and_no_more_than_is_read(tmp_path: Path) -> None:
    alert = {"rule": "loss_spike", "value": 2.5, "message": "x" * 9000, "advice": nested(480)}
    view = view_of(tmp_path, alerts=alert)

    (sent,) = json.loads(_encoded(_run_document(view)))["alerts"]

    assert (sent["rule"], sent["value"], sent["advice"]) == ("loss_spike", 2.5, None)
    assert sent["message"] == "x" * 4000


def test_a_line_of_many_layers_is_kept_no_further_than_it_is_shown() -> None:
    curves = Curves()
    layers = [{"layer": n, "type": "self_attention", "entropy": 0.5} for n in range(1000)]

    curves.add({"step": 1, "attention": {"encoder": layers[:200], "decoder": layers}})

    rows = curves.rows_from(0)
    assert rows is not None
    assert len(rows[0]["entropy"]) == MAX_LAYERS == len(curves.columns()["entropy"])
    assert list(rows[0]["entropy"])[-1] == f"decoder {MAX_LAYERS - 201} self"


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [
        ({"gpus": [{"index": 0, "power_w": 300.5}] * 1000}, True),
        ([[]] * 30_000, False),
        ({"name": "x" * 100_000}, True),
        ("x" * 2_000_000, False),
        (nested(9), False),
        (None, True),
    ],
)
def test_a_value_is_sent_as_it_is_up_to_a_bound(value: object, *, is_kept: bool) -> None:
    assert as_it_is(value) == (value if is_kept else None)
