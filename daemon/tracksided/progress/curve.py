"""The values that every reader makes and all the rest works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracksided.reports import Alert
from tracksided.sinks.json_file import Json


class Kind(Enum):
    """What a curve was read from."""

    TRAINER_STATE = "trainer_state.json"
    HISTORY = "history.jsonl"
    EVENTS = "TensorBoard event files"


@dataclass(frozen=True, slots=True)
class Series:
    """Values over steps. NaN and infinity are values that were seen; unknown is left out."""

    steps: NDArray[np.int64]
    """[n], ascending, each step once."""

    values: NDArray[np.float64]
    """[n]."""

    @classmethod
    def of(cls, steps: Sequence[int], values: Sequence[float]) -> "Series":
        """Build a series from plain numbers."""
        return cls(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.steps)

    def per_step(self) -> "Series":
        """Return how much each finite value is above the one before it, per step.

        Left out where it is not above: the values of a clock that was set back, or began anew.
        """
        known = self.finite
        gained, steps = np.diff(known.values), np.diff(known.steps)
        is_forward = gained > 0
        return Series(known.steps[1:][is_forward], (gained / steps)[is_forward])

    @property
    def finite(self) -> "Series":
        """The values that are neither NaN nor infinite."""
        is_finite = np.isfinite(self.values)
        return Series(self.steps[is_finite], self.values[is_finite])


EMPTY = Series.of((), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a source itself says of the whole training; unknown is None."""

    tokens: float | None = None
    floating_point_operations: float | None = None
    training_seconds: float | None = None
    mean_loss: float | None = None
    """Over all steps, also those that were not logged."""

    steps_per_second: float | None = None
    samples_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCurve:
    """One training, as far as one source tells of it. Unknown is None or empty."""

    name: str
    """Short, for legends: the run, or ``run/checkpoint-20``."""

    source: Path
    """The file or directory it was read from."""

    kind: Kind
    loss: Series = EMPTY
    learning_rate: Series = EMPTY
    gradient_norm: Series = EMPTY
    """Before clipping, where the source tells it apart."""

    clip_rate: Series = EMPTY
    """Share of the steps since the value before whose gradient was clipped, 0 to 1."""

    epoch: Series = EMPTY
    seconds_per_step: Series = EMPTY
    tokens: Series = EMPTY
    """Seen since the training began."""

    evaluation: Mapping[str, Series] = field(default_factory=dict)
    """By name: ``eval_loss``, ``eval_accuracy``, ``val_loss`` ..."""

    step: int | None = None
    """Optimizer steps done."""

    max_steps: int | None = None
    num_epochs: float | None = None
    samples_per_step: float | None = None
    """Of all ranks, per optimizer step."""

    max_gradient_norm: float | None = None
    """Where gradients are clipped."""

    totals: Totals = field(default_factory=Totals)
    started_at: float | None = None
    """Unix seconds, as all times here."""

    written_at: float | None = None
    """When the source was written last."""

    checkpoint: str | None = None
    """The newest checkpoint: its name."""

    checkpoint_at: float | None = None
    """When it was written."""

    settings: Mapping[str, Json] = field(default_factory=dict)
    statistics: Mapping[str, float] = field(default_factory=dict)
    """Other numbers, as they stood last, by a name in words."""

    alerts: tuple[Alert, ...] | None = None
    """Raised by trackside; None where nobody watched."""

    notes: tuple[str, ...] = ()
    """What the reader had to say: lines left out, steps that went back."""

    @property
    def evaluation_loss_name(self) -> str | None:
        """Name of the loss on held-out data; None where none was logged."""
        names = sorted(name for name in self.evaluation if name.endswith("loss"))
        usual = [name for name in ("eval_loss", "val_loss") if name in names]
        return next(iter([*usual, *names]), None)

    @property
    def evaluation_loss(self) -> Series:
        """The loss on held-out data; empty where none was logged."""
        name = self.evaluation_loss_name
        return EMPTY if name is None else self.evaluation[name]
