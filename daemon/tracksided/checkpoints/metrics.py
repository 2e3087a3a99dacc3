"""What a checkpoint scored: read from files beside it, from its content, from its name.

| where, the first that states the metric counts | form |
|---|---|
| `NAME.json` beside the file `NAME.pt`; `metrics.json` in a checkpoint directory | see below |
| `metrics.json` beside the checkpoints | one such object per name, with or without suffix |
| the content | as the format says |
| the name | `epoch=3-val_loss=0.25.ckpt` |

A JSON object states a metric as `{"val_loss": 0.25}` or `{"metrics": {"val_loss": 0.25}}`.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping

from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import stated_metrics
from tracksided.checkpoints.json_source import read_json
from tracksided.checkpoints.naming import stem_of
from tracksided.checkpoints.numbers import numbers_in
from tracksided.checkpoints.policy import Candidate
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.shown import shown, unquoted
from tracksided.checkpoints.store import Store

METRICS_FILE = "metrics.json"

_MAX_BYTES = 4 << 20  # of a file of metrics: some 10,000 checkpoints
_MAX_NAMED = 6  # metrics listed in a message
_IN_NAME = re.compile(
    r"([a-z][\w./]*)=([-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf))", re.IGNORECASE
)


def metric_of(store: Store, candidate: Candidate, checkpoint: Checkpoint, metric: str) -> float:
    """Return a metric of a checkpoint that is open.

    Raises:
        SourceRefused: it states no such metric, states NaN or infinity, or what should say so is
            damaged.
    """
    names: list[str] = []
    path = candidate.path
    for stated in _statements(store, candidate, checkpoint):
        value = stated.get(metric)
        if value is None:
            names += stated
        elif math.isfinite(value):
            return value
        else:
            raise SourceRefused(path, f"its {metric!r} is {value}")
    raise SourceRefused(path, _lacking(metric, sorted(set(names)), checkpoint.step))


def _statements(
    store: Store, candidate: Candidate, checkpoint: Checkpoint
) -> Iterator[Mapping[str, float]]:
    path = candidate.path
    inside = f"{path.name}/{METRICS_FILE}"
    own = inside if candidate.is_directory else stem_of(path.name) + ".json"
    yield _numbers(_read(store, candidate, own))
    by_name = _read(store, candidate, METRICS_FILE)
    for name in (path.name, stem_of(path.name)):
        yield _numbers(by_name.get(name))
    yield stated_metrics(checkpoint)
    yield metrics_in_name(path.name)


def metrics_in_name(name: str) -> dict[str, float]:
    """Return the ``NAME=NUMBER`` parts of a file name, as Lightning writes them."""
    return {key: float(number) for key, number in _IN_NAME.findall(stem_of(name))}


def _numbers(content: object) -> dict[str, float]:
    inner = content.get("metrics") if isinstance(content, Mapping) else None
    return numbers_in(content) | numbers_in(inner)


def _read(store: Store, candidate: Candidate, beside: str) -> Mapping[str, object]:
    """Read a JSON object; where there is no file, there are no metrics."""
    if not store.has_file(beside):
        return {}
    path = candidate.path
    try:
        source = store.open_file(beside)
        try:
            parsed = read_json(source, _MAX_BYTES)
        finally:
            source.close()
    except SourceRefused as error:
        raise SourceRefused(path, str(error)) from error
    return parsed if isinstance(parsed, dict) else {}


def _lacking(metric: str, names: list[str], step: int | None) -> str:
    at = "" if step is None else f" at its step {step}"
    message = f"states no {metric!r}{at}"
    near = difflib.get_close_matches(metric, names, n=1)
    if near:
        return f"{message}; did you mean {shown(near[0])}?"
    if not names:
        return message
    more = len(names) - _MAX_NAMED
    listed = ", ".join(unquoted(name) for name in names[:_MAX_NAMED]) + (
        f" and {more} more" if more > 0 else ""
    )
    return f"{message}; it states {listed}"
