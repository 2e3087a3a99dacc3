"""Which checkpoints belong together, and which number in their names is the step.

A series is the names with their varying numbers taken out: ``model_100.pt`` and ``model_200.pt``
are one, ``model_ema_100.pt`` is of another. No I/O, no clock.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tracksided.checkpoints.numbering import (
    COUNTING,
    EMA_WORDS,
    LEFT_OUT,
    Kind,
    Name,
    Part,
    read_name,
)
from tracksided.checkpoints.policy import Candidate

_CLOCK = re.compile(r"(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?")  # HHMM, HHMMSS
_NAMELESS = "its name has no step, and does not say to which series it belongs"


@dataclass(frozen=True, slots=True)
class Series:
    """Checkpoints that may be averaged together."""

    reason: str
    """Why its checkpoints are skipped where another series is averaged."""

    candidates: tuple[Candidate, ...]
    """Each with what its name says of its step."""


@dataclass(frozen=True, slots=True)
class _Named:
    candidate: Candidate
    name: Name

    @property
    def counting(self) -> tuple[Part, ...]:
        return tuple(part for part in self.name.parts if part.kind in COUNTING)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(part.value for part in self.counting)

    @property
    def passing(self) -> tuple[str, ...]:
        return tuple(part.text for part in self.name.parts if part.kind is Kind.PASSING)


def series_of(candidates: Iterable[Candidate], *, is_mixed: bool = False) -> tuple[Series, ...]:
    """Sort candidates into series, that of the newest first.

    An EMA copy stands behind the weights it was kept beside, one rank behind the lower ones.
    Names without a number (``last``, ``model_best``) go with the series that they can be of, where
    that is only one. Others without a number are a series together, the last: models of several
    trainings (soups) are named like that.

    Args:
        candidates: in any order.
        is_mixed: all are wanted together, whatever they are called.
    """
    named = [
        _Named(entry, read_name(entry.path.name, is_directory=entry.is_directory))
        for entry in sorted(
            candidates, key=lambda entry: entry.path.name
        )  # the same for any listing
    ]
    groups = _groups([entry for entry in named if entry.name.is_numbered])
    single = [entry for entry in named if not entry.name.is_numbered]
    resolved = [_resolved(group) for group in groups]
    if is_mixed:
        everything = [entry for series in resolved for entry in series.candidates]
        everything += [entry.candidate for entry in single]
        return (Series("", tuple(everything)),) if everything else ()
    aliases, others = _aliases(single, [group[0].name for group in groups])
    found = [
        replace(series, candidates=(*series.candidates, *aliases[group[0].name]))
        for group, series in _ordered(zip(groups, resolved, strict=True))
    ]
    return (*found, *_nameless(others))


def _groups(named: Sequence[_Named]) -> list[list[_Named]]:
    by_key: defaultdict[tuple[object, ...], list[_Named]] = defaultdict(list)
    for entry in named:
        by_key[entry.name.key].append(entry)
    groups: list[list[_Named]] = []
    for group in map(_without_clocks, by_key.values()):
        for part in _split_by_settings(group):
            groups += _split_grid(part)
    return groups


def _without_clocks(group: list[_Named]) -> list[_Named]:
    """Tell the time of day from a step: ``20261124_093000`` and ``20261124_500``.

    Right behind a date a number is a clock if all numbers at its place can be.
    """
    clocks = {
        place
        for place, part in enumerate(group[0].name.parts)
        if part.follows_date and all(_may_be_clock(entry.name.parts[place]) for entry in group)
    }
    return [
        replace(entry, name=entry.name.with_passing(clocks)) if clocks else entry for entry in group
    ]


def _may_be_clock(part: Part) -> bool:
    return _CLOCK.fullmatch(part.text) is not None


def _split_by_settings(group: list[_Named]) -> list[list[_Named]]:
    """Tell apart what has one number twice: ``lr_0.1_step_100`` and ``lr_0.01_step_100``."""
    if not group[0].numbers or _is_distinct(group):
        return [group]
    for place in range(len(group[0].passing)):
        by_text: defaultdict[str, list[_Named]] = defaultdict(list)
        for entry in group:
            by_text[entry.passing[place]].append(entry)
        parts = list(by_text.values())
        if 1 < len(parts) < len(group) and all(_is_distinct(part) for part in parts):
            return parts
    return [group]


def _is_distinct(group: Sequence[_Named]) -> bool:
    return len({entry.numbers for entry in group}) == len(group)


def _split_grid(group: list[_Named]) -> list[list[_Named]]:
    """Tell apart ``llama_7_100`` and ``llama_13_100``: the number that varies least is a name."""
    if _step_place(group) is not None:
        return [group]
    columns = [set(values) for values in zip(*(entry.numbers for entry in group), strict=True)]
    places = [
        place for place, column in enumerate(columns) if 1 < len(column) < len(set(_rows(group)))
    ]
    if len(places) < 2:  # noqa: PLR2004 - the name's number and the step's, each seen again
        return [group]
    least = min(places, key=lambda place: len(columns[place]))
    by_number: defaultdict[int, list[_Named]] = defaultdict(list)
    for entry in group:
        by_number[entry.numbers[least]].append(entry)
    return [part for inner in by_number.values() for part in _split_grid(inner)]


def _rows(group: Sequence[_Named]) -> list[tuple[int, ...]]:
    return [entry.numbers for entry in group]


def _step_place(group: Sequence[_Named]) -> int | None:
    """Return which of the numbers is the step, or None where that is not certain.

    The last that the names call a step. Else the finest that varies, if all others that vary grow
    with it: 500 in ``checkpoint_1_500``, because ``checkpoint_1_1000`` lies beside it. Else the
    epoch.
    """
    counting = group[0].counting
    called = [place for place, part in enumerate(counting) if part.kind is Kind.STEP]
    if called:
        return called[-1]
    rows = sorted(set(_rows(group)))
    epochs = [place for place, part in enumerate(counting) if part.kind is Kind.EPOCH]
    if len(rows) == 1:
        alone = [0] if len(counting) == 1 and counting[0].is_certain else []
        return next(iter(epochs[-1:] or alone), None)
    varying = [place for place in range(len(counting)) if len({row[place] for row in rows}) > 1]
    finest = [place for place in varying if _orders(rows, place, varying)]
    if finest:
        return max(finest, key=lambda place: rows[-1][place])
    usable = [place for place in epochs if place in varying]
    return usable[-1] if usable else None


def _orders(rows: Sequence[tuple[int, ...]], place: int, varying: Sequence[int]) -> bool:
    """Whether a number has no value twice, and all others that vary grow with it."""
    ordered = sorted(rows, key=lambda row: row[place])
    return all(
        one[place] < other[place] and all(one[at] <= other[at] for at in varying)
        for one, other in pairwise(ordered)
    )


def _resolved(group: Sequence[_Named]) -> Series:
    place = _step_place(group)
    return Series(
        f"belongs to another series: {_label(group, place)}",
        tuple(_numbered(entry, place) for entry in group),
    )


def _label(group: Sequence[_Named], place: int | None) -> str:
    """Name a series by one of its names, with what varies in it taken out."""
    step = None if place is None else group[0].counting[place]
    varying = {
        number
        for number, parts in enumerate(zip(*(entry.name.parts for entry in group), strict=True))
        if len({part.text for part in parts}) > 1
    }
    numbers = iter(range(len(group[0].name.parts)))
    label = ""
    for piece in group[0].name.pieces:
        if isinstance(piece, str):
            label += piece
        elif piece.kind not in LEFT_OUT:
            varies = next(numbers) in varying or piece is step
            mark = "N" if piece.kind in COUNTING else "*"
            label += mark if varies else piece.text
    return label


def _numbered(entry: _Named, place: int | None) -> Candidate:
    part = None if place is None else entry.counting[place]
    return replace(
        entry.candidate,
        is_numbered=True,
        name_step=None if part is None else part.value,
        scale="" if part is None else part.kind.name,
        calls_it_step=part is not None and part.kind is Kind.STEP,
    )


def _ordered(
    pairs: Iterable[tuple[Sequence[_Named], Series]],
) -> list[tuple[Sequence[_Named], Series]]:
    """Put that of the newest first, and those of one training side by side."""
    by_training: defaultdict[frozenset[str], list[tuple[Sequence[_Named], Series]]]
    by_training = defaultdict(list)
    for group, series in pairs:
        by_training[group[0].name.identity - EMA_WORDS].append((group, series))
    trainings = sorted(
        by_training.values(),
        key=lambda pairs: max((_latest(group), group[0].name.key) for group, _ in pairs),
        reverse=True,
    )
    return [pair for inner in trainings for pair in sorted(inner, key=_standing)]


def _standing(
    pair: tuple[Sequence[_Named], Series],
) -> tuple[bool, tuple[str, ...], int, str]:
    """Rank the series of one training: weights before EMA, the first place, the newest."""
    group, series = pair
    name = group[0].name
    return bool(name.identity & EMA_WORDS), name.places, -_latest(group), series.reason


def _latest(group: Sequence[_Named]) -> int:
    return max(entry.candidate.mtime_ns for entry in group)


def _aliases(
    single: Iterable[_Named], names: Iterable[Name]
) -> tuple[Mapping[Name, list[Candidate]], list[_Named]]:
    """Sort out which names without a number can be of one series only, and which of none."""
    by_likeness: defaultdict[tuple[object, object], list[Name]] = defaultdict(list)
    for name in names:
        for identity in {name.identity, None}:
            for places in {name.places, None}:
                by_likeness[identity, places].append(name)
    found: defaultdict[Name, list[Candidate]] = defaultdict(list)
    others: list[_Named] = []
    for entry in single:
        likeness = entry.name.identity or None, entry.name.places or None
        fitting = by_likeness.get(likeness, [])
        if len(fitting) == 1:
            found[fitting[0]].append(entry.candidate)
        else:
            others.append(entry)
    return found, others


def _nameless(single: Iterable[_Named]) -> list[Series]:
    """Take what is left together, but for the files of several ranks."""
    by_place: defaultdict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for entry in single:
        by_place[entry.name.places].append(entry.candidate)
    return [Series(_NAMELESS, tuple(by_place[places])) for places in sorted(by_place)]
