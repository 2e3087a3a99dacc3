"""What a user says of a data set: facts as scalars and as one table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from trackside.errors import ConfigError
from trackside.texts import MAX_TEXTS, measure_texts, take_sample
from trackside.wire.markdown import table_cell

GROUP = "Dataset"
SUMMARY_TAG = f"{GROUP}/Summary"
MAX_ENTRIES = 64  # of one distribution
MAX_NUMBERS = 512  # in all: what travels with one step is bounded


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is logged."""

    numbers: dict[str, float]
    """Tag to value."""

    summary: str
    """A Markdown table of everything."""


def describe(
    facts: Mapping[str, object],
    *,
    texts: Iterable[str] | None = None,
    terms: Sequence[str] = (),
    max_texts: int = MAX_TEXTS,
) -> DatasetFacts:
    """Turn facts into scalars and a table.

    Args:
        facts: name to a number; to a distribution, a mapping from names to numbers; to many
            numbers, such as lengths, of which five figures are logged; or to anything else, which
            is shown as it is.
        texts: of which lengths, scripts and vocabulary are measured.
        terms: that should occur in the texts.
        max_texts: how many texts are looked at.

    Raises:
        ConfigError: texts or terms cannot be used.
    """
    numbers: dict[str, float] = {}
    rows: list[tuple[str, str]] = []
    for name, fact in facts.items():
        found = dict(_numbers(name, fact))
        numbers |= found
        rows += [(key, _written(value)) for key, value in found.items()] or [
            (name, table_cell(str(fact)))
        ]
    if texts is not None:
        sample = take_sample(texts, max_texts)
        rows.append(("texts that were measured", sample.origin))
        measured = measure_texts(sample.texts, terms)
        rows += [(name, _written(value)) for name, value in measured.items()]
        numbers = measured | numbers
    elif terms:
        raise ConfigError("terms are looked for in texts, and no texts were given")
    kept = dict(list(numbers.items())[:MAX_NUMBERS])
    table = "".join(f"| {name} | {value} |\n" for name, value in rows)
    return DatasetFacts(
        numbers={f"{GROUP}/{name}": value for name, value in kept.items()},
        summary=f"| | |\n|---|---|\n{table}",
    )


def _numbers(name: str, fact: object) -> Iterator[tuple[str, float]]:
    """Yield what can be drawn of a fact; nothing of a word."""
    if _is_number(fact):
        yield name, float(fact)  # type: ignore[arg-type]  # a Real
    elif isinstance(fact, Mapping):
        for key, value in list(fact.items())[:MAX_ENTRIES]:
            if _is_number(value):
                yield f"{name}/{key}", float(value)
    elif isinstance(fact, Sequence | np.ndarray) and not isinstance(fact, str | bytes):
        yield from _figures(name, fact)


def _figures(name: str, values: object) -> Iterator[tuple[str, float]]:
    """Yield five figures of many numbers; nothing where they are no numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iuf":
        return
    yield f"{name}_Count", float(array.size)
    yield f"{name}_Mean", float(array.mean())
    yield f"{name}_Median", float(np.median(array))
    yield f"{name}_P95", float(np.percentile(array, 95))
    yield f"{name}_Max", float(array.max())


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _written(value: float) -> str:
    """Write counts in full, the rest with six digits."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.6g}"
