"""The protocols of what can be plugged into the pipeline.

Statistics, renderers and alert rules are frozen dataclasses whose fields are their settings.
They do no I/O, read no clock and use no random numbers; what they remember across steps is
handed to them. `tracksided.catalog` lists them all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trackside.wire.records import AttentionType, Stack
from tracksided.reports import Picture
from tracksided.samples import FloatArray, GradientSample


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """Exact attention weights of one call, before dropout."""

    stack: Stack
    """``encoder`` or ``decoder``."""

    type: AttentionType
    """``self_attention`` or ``cross_attention``."""

    layer: int
    """Index in its stack, from 0."""

    module: str
    """Path of the module that made the call."""

    heads: tuple[int, ...]
    """Indices of the rows of ``weights`` in the model's own head numbering."""

    num_heads: int
    """Of the call; at least as many as are kept."""

    num_queries: int
    """Of the sequence; at least as many as are kept."""

    query_rows: NDArray[np.int64]
    """[queries]: position of each kept query row in the sequence, ascending."""

    weights: FloatArray
    """[heads, queries, keys]; rows sum to 1, or to 0 where everything is masked
    (less than 1 with attention sinks)."""

    max_logit: FloatArray
    """[heads]: largest visible logit after scale and mask; NaN where nothing is visible."""

    visible: NDArray[np.bool_]
    """[1 or heads, queries, keys]: False where a mask hides the key."""


@dataclass(frozen=True, slots=True)
class StepData:
    """All that a stage may look at: one step of one run, rank 0's attention."""

    run: str
    """Id of the run."""

    step: int
    """Optimizer steps done, from 1."""

    epoch: int | None
    """None where the script did not say."""

    maps: Iterable[AttentionMap]
    """May be walked any number of times; large maps are rebuilt each time."""

    gradients: GradientSample | None
    """Of the lowest rank, with the shards of its node; None where gradients are off."""

    gradient_statistics: Mapping[str, Any] | None
    """The ``gradients`` object of ``statistics.json``."""

    tokens: tuple[str, ...] = ()
    """What stands at each position of the sample; empty where the script did not say."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A sampled step that is written."""

    step: int
    """Optimizer steps done, from 1."""

    folder: str
    """Name of its folder."""


class RunData(Protocol):
    """All that a stage may look at of a whole run."""

    @property
    def steps(self) -> Sequence[RecordedStep]:
        """The sampled steps, ascending; what training went back on is left out."""

    def line(self, step: RecordedStep) -> Mapping[str, Any]:
        """Return the line of a step in ``history.jsonl``.

        Args:
            step: one of `steps`.
        """

    def files(self, step: RecordedStep) -> Sequence[str]:
        """Return the names of the files in a step's folder; none where it is gone.

        Args:
            step: one of `steps`.
        """

    def read(self, step: RecordedStep, file_name: str) -> bytes | None:
        """Return what a file in a step's folder holds; None where that cannot be read.

        Args:
            step: one of `steps`.
            file_name: in its folder.
        """


class AttentionStatistic(Protocol):
    """One number, or one per head, of one attention map."""

    @property
    def name(self) -> str:
        """Key in ``statistics.json``."""

    def compute(self, attention: AttentionMap) -> float | list[float] | None:
        """Return the statistic, or None where it is not defined.

        Args:
            attention: one call, with all that is kept of it.
        """


class ParameterStatistic(Protocol):
    """One number, or one list of them, per parameter."""

    @property
    def name(self) -> str:
        """Key in ``statistics.json``, under ``gradients.parameters``."""

    def compute(self, gradients: GradientSample) -> Sequence[float | list[float] | None]:
        """Return one value per parameter, in order; None where it is not defined.

        Args:
            gradients: all parameters; arrays may be views of shared memory and must not be kept.
        """


class Renderer(Protocol):
    """Draws pictures of a step."""

    @property
    def name(self) -> str:
        """The word in `visualize` that turns it on."""

    def render(self, step: StepData) -> Iterable[Picture]:
        """Yield pictures; none where the step has nothing to draw.

        Args:
            step: what may be drawn.
        """


class RunRenderer(Protocol):
    """Draws pictures of a whole run, into the folder ``overview``."""

    @property
    def name(self) -> str:
        """The word in `visualize` that turns it on."""

    def render(self, run: RunData) -> Iterable[Picture]:
        """Yield pictures; none where the run has nothing to draw.

        Args:
            run: what may be drawn.
        """
