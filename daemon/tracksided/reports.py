"""What goes out: the closed set of results that stages make and sinks write."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trackside.wire.records import Hello


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number under one TensorBoard tag."""

    tag: str
    """``Group/Name``."""

    value: float
    """May be NaN or infinite."""

    step: int
    """Where it stands in the curve."""


@dataclass(frozen=True, slots=True)
class Text:
    """One Markdown text under one TensorBoard tag."""

    tag: str
    """``Group/Name``."""

    text: str
    """Markdown."""

    step: int
    """Where it stands."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of finite values: ``counts[i]`` of them lie in ``edges[i] .. edges[i + 1]``."""

    tag: str
    """``Group/Name``."""

    edges: NDArray[np.float64]
    """[bins + 1], ascending."""

    counts: NDArray[np.float64]
    """[bins]."""

    minimum: float
    """Smallest value."""

    maximum: float
    """Largest value."""

    total: float
    """Sum of the values."""

    sum_squares: float
    """Sum of the squares of the values."""

    step: int
    """Where it stands."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One rendered image, already encoded as PNG."""

    file_name: str
    """Under the step's folder, for example ``decoder_layer0_self_attn.png``."""

    tag: str | None
    """TensorBoard image tag, or None to write only the file."""

    png: bytes
    """The whole file."""

    width_px: int
    """Of the image."""

    height_px: int
    """Of the image."""


@dataclass(frozen=True, slots=True)
class RawMap:
    """One attention map for the ``raw`` folder."""

    file_name: str
    """``decoder_layer0_self_attn.npz``."""

    weights: NDArray[np.float32]
    """[heads, queries, keys]."""

    query_rows: NDArray[np.int64]
    """[queries]: position of each kept query row in the sequence, ascending."""

    module: str
    """Path of the module that made the call."""


Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that the user should look at: one per cause."""

    rule: str
    """Its name."""

    severity: Severity
    """``warning`` or ``critical``."""

    run: str
    """Id of the run."""

    step: int | None
    """None where it belongs to no step."""

    rank: int | None
    """None where it belongs to no single rank."""

    value: float | None
    """What was found; NaN or None where no number says it."""

    threshold: float | None
    """What it was compared with."""

    message: str
    """What was found, in one line."""

    advice: str
    """What to do about it."""

    timestamp: float
    """Unix seconds: of the step, or of the look at the machine."""

    @property
    def id(self) -> str:
        """Name of this alert in its run: the same after a restart of the daemon."""
        step = "none" if self.step is None else str(self.step)
        rank = "all" if self.rank is None else str(self.rank)
        return f"{self.rule}/{step}/{rank}/{self.timestamp:.6f}"


@dataclass(slots=True)
class SegmentProgress:
    """What is committed of one segment."""

    last_step: int = 0
    """Of the newest line, 0 where there is none."""

    last_sequence: int = 0
    """Of the newest record; those before it are done with, too."""

    last_line: int = 0
    """Place of the newest line among all lines, from 1."""

    num_steps: int = 0
    """How many are committed."""


@dataclass(frozen=True, slots=True)
class StepAnalysis:
    """What a worker made of one step: everything but what only the parent knows.

    ``statistics`` holds the keys ``encoder``, ``decoder``, ``gradients``,
    ``gradient_noise_scale`` of ``statistics.json``.
    """

    statistics: Mapping[str, Any]
    """See above."""

    scalars: tuple[Scalar, ...]
    """Curves of attention."""

    histograms: tuple[Histogram, ...]
    """Of gradients and weights."""

    pictures: tuple[Picture, ...]
    """Of this step."""

    raw: tuple[RawMap, ...]
    """Filled only where the trainer asked for it; may be large."""

    failures: Mapping[str, str]
    """Stage name to the error that cost its output."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """A complete sampled step, ready for every sink."""

    hello: Hello
    """Of the lowest rank."""

    step: int
    """Optimizer steps done, from 1."""

    statistics: Mapping[str, Any]
    """The whole of ``statistics.json``."""

    history: Mapping[str, Any]
    """The line of ``history.jsonl``."""

    scalars: tuple[Scalar, ...]
    """All curves of this step."""

    texts: tuple[Text, ...]
    """All texts of this step."""

    histograms: tuple[Histogram, ...]
    """Of gradients and weights."""

    pictures: tuple[Picture, ...]
    """Of this step."""

    alerts: tuple[Alert, ...] = ()
    """Raised by this step; they are in ``history``, too."""


def known_scalars(values: Mapping[str, float | None], step: int) -> Iterator[Scalar]:
    """Yield the numbers that are known.

    Args:
        values: tag to number; None yields nothing.
        step: under which they stand.
    """
    for tag, value in values.items():
        if value is not None:
            yield Scalar(tag, float(value), step)
