"""What the numbers in the name of a checkpoint are: steps, dates, metrics, identities.

Names are read in passes; what one pass has understood, no later one sees:

| pass | such as | what becomes of it |
|---|---|---|
| step, epoch | `step_100`, `iter-5`, `ba100`, `9_steps`; `epoch=3`, `e10`, `12epoch` | counts |
| moment | `20261124_093000`, `2026-11-24_20-45`, Unix time | differs, but counts nothing |
| metric | `top1_70.1`, `val_loss=0.2` | left out |
| setting, hash | `lr=0.1`, `wd_0.05`, `3f9ac01` | as a moment |
| version | `-v1` at the end, as Lightning tells two files of a name apart | left out |
| identity | `seed1`, `run2`, `rank0`, `00001-of-00002`, `v2`, `7b` | part of the name |
| any other | `model000100`, `checkpoint-12` | counts, if the others of its series agree |
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from tracksided.checkpoints.naming import stem_of, step_in_directory_name

GENERIC = frozenset(
    {
        *(
            "checkpoint",
            "checkpoints",
            "chkpt",
            "chkpnt",
            "ckpt",
            "cp",
            "snapshot",
            "save",
            "saved",
        ),
        *("model", "module", "net", "network", "weights", "params", "state", "dict", "pytorch"),
    }
)
"""Words that say no more than that something is a checkpoint."""

EMA_WORDS = frozenset({"ema", "swa", "avg", "average", "averaged", "shadow"})
"""Words for an average over the steps before, which a trainer keeps beside the weights."""

_ALIASES = frozenset({"best", "last", "latest", "final", "newest", "current"})


class Kind(Enum):
    """What a number is; the value stands for it in the name of a series."""

    STEP = "N"
    EPOCH = "E"
    NUMBER = "#"
    """Nothing in front of it says what it counts."""

    PASSING = "*"
    """A moment, a setting or a hash: no order follows from it."""

    METRIC = "m"

    IDENTITY = "="
    PLACE = "@"
    """Which rank or shard it is."""

    VERSION = "v"


COUNTING = frozenset({Kind.STEP, Kind.EPOCH, Kind.NUMBER})

LEFT_OUT = frozenset({Kind.METRIC, Kind.VERSION})
"""What no series is told from another by."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a name with a number in it."""

    kind: Kind
    text: str
    """As the name has it."""

    value: int = 0
    """Of a step, epoch or number."""

    is_certain: bool = True
    """It counts even where nothing can be compared with it."""

    follows_date: bool = False
    """It stands right behind a date, and may be the clock."""


@dataclass(frozen=True, slots=True)
class Name:
    """The name of a checkpoint, taken apart."""

    pieces: tuple[str | Part, ...]
    """All of it but the suffix, in order."""

    tokens: tuple[str | Part, ...]
    """Words in lower case, and what has numbers, in order; no aliases such as ``best``, and nothing
    that is `LEFT_OUT`."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has numbers, of the tokens."""
        return tuple(token for token in self.tokens if isinstance(token, Part))

    def with_passing(self, places: Collection[int]) -> "Name":
        """Return the name where these of its `parts` are known to be moments."""
        moments = {id(part) for place, part in enumerate(self.parts) if place in places}

        def known(token: str | Part) -> str | Part:
            if isinstance(token, Part) and id(token) in moments:
                return replace(token, kind=Kind.PASSING)
            return token

        return Name(tuple(map(known, self.pieces)), tuple(map(known, self.tokens)))

    @property
    def key(self) -> tuple[str, ...]:
        """What all names of a series have in common."""
        return tuple(token if isinstance(token, str) else _key_of(token) for token in self.tokens)

    @property
    def identity(self) -> frozenset[str]:
        """What tells a series from others: its words that are not generic, and identities."""
        words = {token for token in self.tokens if isinstance(token, str)} - GENERIC
        return frozenset(words | {part.text for part in self.parts if part.kind is Kind.IDENTITY})

    @property
    def places(self) -> tuple[str, ...]:
        """Which rank or shard it is of."""
        return tuple(part.text for part in self.parts if part.kind is Kind.PLACE)

    @property
    def is_numbered(self) -> bool:
        """Whether it belongs to a series, by a number or moment in it; others are single names."""
        return any(part.kind in COUNTING or part.kind is Kind.PASSING for part in self.parts)


_END = r"(?![a-z\d]|\.\d)"
# A word behind a number is about that one only where none follows, not even one that is marked.
_NO_NUMBER = "(?![a-z\\d]|[-_=. ]?[\\d\ue000-\uf8ff])"
_FLOAT = r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf)(?![a-z\d])"
_DATE = r"(?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
_CLOCK = r"(?:[01]\d|2[0-3])[-_.:h][0-5]\d(?:[-_.:m][0-5]\d(?:[.,]\d+)?)?"
_STEPS = r"global_?step|steps?|iter(?:ation)?s?|itr|updates?|ba"
_METRICS = (
    r"acc(?:uracy)?|auc|bleu|cer|dice|error|f1|fid|loss|m?ap|m?iou|mae|m?se|ppl|perplexity|psnr"
    r"|reward|rmse|rouge|score|ssim|top-?\d|wer"
)
_PARTS = r"(?:dev|eval|test|train|val|valid|validation)"
_PASSES: tuple[tuple[Kind, str], ...] = (
    (Kind.STEP, rf"(?<![a-z])(?:{_STEPS})[-_=. ]?(\d{{1,18}}){_END}"),
    (Kind.EPOCH, rf"(?<![a-z\d])(?:epochs?|ep|e)[-_=. ]?(\d{{1,18}}){_END}"),
    (Kind.STEP, rf"(?<![\d.])(\d{{1,18}})[-_]?(?:{_STEPS}){_NO_NUMBER}"),
    (Kind.EPOCH, rf"(?<![\d.])(\d{{1,18}})[-_]?epochs?{_NO_NUMBER}"),
    (Kind.PASSING, rf"{_DATE}(?:(?:t|[-_ .])?{_CLOCK}|t?\d{{6}}|t?\d{{4}})?z?(?!\d)"),
    (Kind.PASSING, rf"(?<![a-z])(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)\d\d?_{_CLOCK}"),
    (Kind.PASSING, r"(?<!\d)(?:[01]\d|2[0-3])([-:])[0-5]\d\1[0-5]\d(?!\d)"),
    (Kind.PASSING, r"(?<![\d.])1\d{9}(?:\d{3})?(?:\.\d+)?(?!\d)"),
    (Kind.PASSING, r"(?<![a-z\d])(?=[a-f]*\d)(?=\d*[a-f])[\da-f]{7,40}(?![a-z\d])"),
    (Kind.METRIC, rf"(?<![a-z])(?:{_PARTS}[-_]?)?(?:{_METRICS})[-_=@ ]?{_FLOAT}"),
    (Kind.PASSING, rf"(?<![a-z])[a-z][\w./]*={_FLOAT}"),
    (Kind.PLACE, r"(?<!\d)\d+[-_]of[-_]\d+(?!\d)"),
    (
        Kind.PLACE,
        rf"(?<![a-z])(?:device|gpu|host|node|part|rank|shard|worker|[dept]p)[-_ ]?\d+{_END}",
    ),
    (
        Kind.IDENTITY,
        rf"(?<![a-z])(?:exp|fold|member|replica|run|seed|split|trial)[-_ ]?\d+{_END}",
    ),
    (Kind.VERSION, r"-v\d+$"),
    (Kind.IDENTITY, r"(?<![a-z])v\d+(?:\.\d+)*(?![a-z\d])"),
    (Kind.PASSING, r"(?<![\d.])\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)(?![a-z\d])"),
    (Kind.IDENTITY, r"\d+[a-z]+|\d{19,}"),
    (Kind.NUMBER, r"(\d+)"),
)
_A_DATE = re.compile(_DATE)
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PASSES)
_CALLED_CHECKPOINT = re.compile(
    r"(?<![a-z])(?:checkpoint|chkpt|chkpnt|ckpt|cp|snapshot)[-_=. ]?$", re.IGNORECASE
)
# What is understood stands as one character of a private area until the name is put together.
_FIRST_MARK = 0xE000
_MARK = re.compile("[\ue000-\uf8ff]")
_BEHIND_MARK = re.compile("([\ue000-\uf8ff])[-_ .]$")
_MARK_OR_TEXT = re.compile("[\ue000-\uf8ff]|[^\ue000-\uf8ff]+")
_WORD = re.compile(r"[^\W\d_]+")


def read_name(name: str, *, is_directory: bool = False) -> Name:
    """Take the name of a file or directory apart."""
    stem = _MARK.sub("?", name if is_directory else stem_of(name))
    trainers_step = step_in_directory_name(name) if is_directory else None
    parts: list[Part] = []
    for kind, pattern in _COMPILED:
        stem = pattern.sub(partial(_mark, kind, parts), stem)
    if trainers_step is not None:  # the Trainer's own: the number is its global step
        parts = [Part(Kind.STEP, str(trainers_step), trainers_step)]
    pieces = [
        parts[ord(piece) - _FIRST_MARK] if _MARK.fullmatch(piece) else piece
        for piece in _MARK_OR_TEXT.findall(stem)
    ]
    return Name(tuple(pieces), tuple(token for piece in pieces for token in _tokens(piece)))


def looks_like_checkpoint(name: str) -> bool:
    """Whether the name of a directory is that of a checkpoint, whatever it holds so far."""
    parts = read_name(name, is_directory=True).parts
    return any(part.kind in COUNTING and part.is_certain for part in parts)


def _mark(kind: Kind, parts: list[Part], found: re.Match[str]) -> str:
    """Note a part, and return what stands for it: words in front of a number that counts stay."""
    mark = chr(_FIRST_MARK + len(parts))
    if kind not in COUNTING:
        parts.append(Part(kind, found[0].lower()))
        return mark
    before = found.string[: found.start(1)]
    behind = _BEHIND_MARK.search(before)
    parts.append(
        Part(
            kind,
            found[1],
            int(found[1]),
            is_certain=kind is not Kind.NUMBER or _CALLED_CHECKPOINT.search(before) is not None,
            follows_date=behind is not None
            and _A_DATE.fullmatch(parts[ord(behind[1]) - _FIRST_MARK].text) is not None,
        )
    )
    return (
        found[0][: found.start(1) - found.start()] + mark + found[0][found.end(1) - found.start() :]
    )


def _tokens(piece: str | Part) -> list[str | Part]:
    if isinstance(piece, Part):
        return [] if piece.kind in LEFT_OUT else [piece]
    words = [word.lower() for word in _WORD.findall(piece)]
    return [word for word in words if word not in _ALIASES]


def _key_of(part: Part) -> str:
    fixed = part.kind in {Kind.IDENTITY, Kind.PLACE}
    return part.kind.value + (part.text if fixed else "")
