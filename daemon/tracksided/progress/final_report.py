"""The final report of a run as Markdown. Pure: what is unknown says so, nothing is guessed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tracksided.observations import AttentionObservation
from tracksided.printable import printable
from tracksided.progress import fields
from tracksided.progress.history import History, attention_entries
from tracksided.progress.summary import Summary, statistics, summarise
from tracksided.progress.wording import (
    UNKNOWN,
    at_step,
    describe,
    duration,
    moment,
    number,
    readable,
)
from tracksided.reports import Alert
from tracksided.sinks.json_file import Json

MAX_ALERTS = 50
MAX_SETTINGS = 200
# Of a training that is over.
_SECTIONS = ("Loss", "Optimizer", "Evaluation", "Convergence", "Speed", "Notes")
_LEFT_OUT = ("time left", "gradient norm", "gradient norms", "above the limit")
_SHOWN_ELSEWHERE = ("world_size", "every")
_STATES = {
    "finished": "finished: every rank that was seen closed its session",
    "killed": "killed: not every rank that was seen closed its session",
}

_RANK_HEAD = (
    "rank",
    "steps",
    "sampled",
    "last step written",
    "last loss",
    "end",
    "dropped",
    "damaged",
)

Cells = tuple[str, ...]


def compose(history: History, picture: str | None, now: float) -> str:
    """Write the report of a run that is over.

    Args:
        history: of its whole output directory.
        picture: file name of its curves, None where there are none.
        now: Unix seconds.
    """
    summary = summarise(history.curve)
    parts = [
        f"# Run {_escaped(history.curve.name)}",
        _table(("", ""), _facts(history, summary)),
    ]
    if picture is not None:
        parts.append(f"![Loss, learning rate, gradient norm and loss histogram]({picture})")
    for section in describe(summary, now):
        if section.title in _SECTIONS:
            rows = [row for row in section.rows if row[0] not in _LEFT_OUT]
            parts += [f"## {section.title}", _table(("", ""), rows)]
    parts += ["## Gradients", _table(("", ""), _gradients(history, summary))]
    parts += ["## Attention", *_attention(history)]
    parts += ["## Ranks", _table(_RANK_HEAD, _ranks(history.totals))]
    parts += ["## Alerts", *_alerts(history.curve.alerts or ())]
    parts += ["## Checkpoint averages", *_averages(history.totals)]
    parts += ["## Settings", *_settings(history)]
    parts.append(f"Written by trackside on {moment(now)}; what happened later is not in it.")
    return "\n\n".join(parts) + "\n"


def _facts(history: History, summary: Summary) -> Iterable[Cells]:
    run, totals = history.run, history.totals
    state = str(totals.get("state"))
    yield "state", _STATES.get(state, UNKNOWN)
    yield "started", moment(fields.number(run.get("started_at")))
    ended = moment(fields.number(totals.get("ended_at")))
    yield "ended", f"{ended}, after {duration(summary.training_seconds)}"
    yield "optimizer steps seen", _of(totals, "steps")
    every = fields.count(run.get("every"))
    rate = "" if every is None else f"; every {every} steps was asked for"
    yield "sampled steps", f"{_of(totals, 'processed')} written of {_of(totals, 'sampled')}{rate}"
    yield "ranks", f"{_of(run, 'world_size')}, on host {_of(run, 'hostname')}"
    final = totals.get("final")
    loss = fields.number(final.get("loss")) if isinstance(final, Mapping) else None
    yield "last loss of the lowest rank", number(loss)
    if loss is None and summary.loss is not None:
        sampled = summary.loss
        yield "last sampled loss", f"{number(sampled.current)} at step {sampled.current_step}"
    yield "restart", f"attempt {_of(run, 'attempt')}, counted from 0"


def _gradients(history: History, summary: Summary) -> Iterable[Cells]:
    norm, peak = summary.gradient_norm, statistics(history.norm_peak)
    if norm is None:
        yield "gradient norm", UNKNOWN
    else:
        yield "median norm of the sampled steps", number(norm.median)
        yield "largest of the sampled steps", at_step(norm.maximum, norm.maximum_step)
        yield "NaN or infinite", f"{norm.nonfinite} of {norm.count} sampled steps"
    if peak is not None:
        yield "largest of all steps, up to the sample at", at_step(peak.maximum, peak.maximum_step)
    yield "clipped to", number(history.curve.max_gradient_norm)
    rates = history.curve.clip_rate.finite
    if len(rates):
        mean, last = 100 * float(rates.values.mean()), 100 * float(rates.values[-1])
        yield "clip rate", f"{mean:.1f} % on average over the samples, {last:.1f} % at the last"
    else:
        yield "clip rate", UNKNOWN
    scale = history.noise_scale.finite
    if len(scale):
        middle = number(float(np.median(scale.values)))
        last_scale = number(float(scale.values[-1]))
        yield "gradient noise scale", f"median {middle}, last {last_scale}, in batches of one rank"
    else:
        yield "gradient noise scale", UNKNOWN


def _attention(history: History) -> Iterable[str]:
    first, last = history.first_attention, history.last_attention
    if not first:
        yield "No attention was captured."
        return
    before = {entry.place: entry for entry in attention_entries(first)}
    rows = [_layer(before.get(entry.place), entry) for entry in attention_entries(last)]
    steps = f"at step {first.get('step')} and at step {last.get('step')}"
    yield (
        f"Mean entropy in nats, its share of the largest possible one, and the largest logit, "
        f"{steps}."
    )
    yield _table(("layer", "module", "entropy", "share", "largest logit"), rows)


def _layer(first: AttentionObservation | None, last: AttentionObservation) -> Cells:
    def change(name: str) -> str:
        start = None if first is None else getattr(first, name)
        return f"{number(start)} to {number(getattr(last, name))}"

    columns = (change(name) for name in ("entropy", "normalized_entropy", "max_logit"))
    return (last.title, last.module or UNKNOWN, *columns)


def _ranks(totals: Mapping[str, Json]) -> Iterable[Cells]:
    for rank in _objects(totals.get("ranks")):
        damaged = [fields.step(rank.get(key)) for key in ("corrupt", "torn")]
        yield (
            _of(rank, "rank"),
            _of(rank, "steps"),
            _of(rank, "sampled"),
            _of(rank, "last_step"),
            number(fields.number(rank.get("loss"))),
            _of(rank, "reason"),
            _dropped(rank.get("dropped")),
            UNKNOWN if None in damaged else str(sum(filter(None, damaged))),
        )


def _dropped(causes: Json) -> str:
    if not isinstance(causes, Mapping):
        return UNKNOWN
    return ", ".join(f"{cause} {count}" for cause, count in causes.items()) or "0"


def _alerts(alerts: Sequence[Alert]) -> Iterable[str]:
    if not alerts:
        yield "None were raised."
        return
    counts = Counter(alert.rule for alert in alerts)
    yield ", ".join(f"{_escaped(rule)}: {count}" for rule, count in counts.most_common()) + "."
    rows = [
        (
            UNKNOWN if alert.step is None else str(alert.step),
            alert.severity,
            alert.rule,
            "all" if alert.rank is None else str(alert.rank),
            alert.message,
            alert.advice,
        )
        for alert in alerts[:MAX_ALERTS]
    ]
    yield _table(("step", "severity", "rule", "rank", "what", "advice"), rows)
    if len(alerts) > MAX_ALERTS:
        yield f"{len(alerts) - MAX_ALERTS} more stand in alerts.jsonl."


def _averages(totals: Mapping[str, Json]) -> Iterable[str]:
    averages = _objects(totals.get("averages"))
    if not averages:
        yield "None were made up to here."
        return
    failed = [entry for entry in averages if entry.get("error")]
    made = [entry for entry in averages if not entry.get("error")]
    yield f"{len(made)} were made, {len(failed)} failed."
    for title, entries in (("the last made", made), ("the last that failed", failed)):
        if entries:
            yield _table((title, ""), _average(entries[-1]))


def _average(entry: Mapping[str, Any]) -> Iterable[Cells]:
    yield "output", _of(entry, "output")
    yield "up to step", _of(entry, "step")
    sources = entry.get("sources")
    yield "sources", ", ".join(map(str, sources)) if isinstance(sources, list) else UNKNOWN
    if entry.get("error"):
        yield "error", str(entry["error"])


def _settings(history: History) -> Iterable[str]:
    settings = [
        (key, str(value))
        for key, value in history.curve.settings.items()
        if key not in _SHOWN_ELSEWHERE
    ]
    if not settings:
        yield "None are known."
        return
    yield _table(("setting", "value"), settings[:MAX_SETTINGS])
    if len(settings) > MAX_SETTINGS:
        yield f"{len(settings) - MAX_SETTINGS} more stand in run.json."


def _table(head: Cells, rows: Iterable[Cells]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(map(_escaped, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    """Keep a text in its cell, and from being read as HTML."""
    plain = printable(" ".join(readable(text).split()))
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _of(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return UNKNOWN if value is None else str(value)


def _objects(value: Json) -> list[Mapping[str, Json]]:
    entries = value if isinstance(value, list) else []
    return [entry for entry in entries if isinstance(entry, Mapping)]
