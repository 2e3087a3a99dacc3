"""One committed sampled step as the rules see it: what a line of ``history.jsonl`` holds.

Rules see a step through its line and nothing else, so that a daemon which starts anew remembers
what the one before it saw.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracksided.errors import ObservationError

MEMORY_STEPS = 512  # how many steps rules may look back: twice the longest median they take


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionObservation:
    """The numbers of one attention call."""

    stack: str
    """``encoder`` or ``decoder``."""

    type: str
    """``self_attention`` or ``cross_attention``."""

    layer: int
    """Index in its stack, from 0."""

    module: str
    """Path of the module that made the call."""

    entropy: float | None = None
    """Mean over heads and queries, in nats."""

    normalized_entropy: float | None = None
    """Entropy over the largest possible one, 0 to 1."""

    max_logit: float | None = None
    """Largest visible logit of all kept heads, after scale and mask."""

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells the calls of a model apart from step to step."""
        return self.stack, self.type, self.layer

    @property
    def title(self) -> str:
        """How a message calls it."""
        kind = self.type.replace("_", " ").replace("attention", "").strip()
        return f"{self.stack} layer {self.layer} ({kind})"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankObservation:
    """What one rank said of the step."""

    rank: int
    """In the whole job."""

    loss: float | None = None
    """Of its own batch."""

    local_gradient_norm: float | None = None
    """L2 norm of its own gradient, before the ranks were averaged."""

    step_seconds: float | None = None
    """Mean wall time of its steps since the sample before."""

    local_seconds: float | None = None
    """From the end of the step before to the first backward: no other rank is waited for."""

    dropped: int = 0
    """Samples dropped since the rank's session began."""

    weight_checksum: int | str | None = None
    """Equal on all ranks that hold the same weights; None where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One sampled step. Unknown is None, never 0; NaN stands for any number that is not finite."""

    step: int
    """Optimizer steps done, from 1."""

    timestamp: float
    """Unix time in seconds at the end of the optimizer step."""

    loss: float | None = None
    """Of rank 0's batch."""

    learning_rate: float | None = None
    """Of the optimizer's first parameter group."""

    norm_before_clip: float | None = None
    """L2 norm of the whole gradient before clipping."""

    norm_after_clip: float | None = None
    """The same as the optimizer saw it."""

    max_norm: float | None = None
    """The limit of the clip call; None where no call was seen."""

    clip_rate: float | None = None
    """Share of the steps since the last sample whose gradient was clipped, 0 to 1."""

    norm_peak: float | None = None
    """Largest norm before clipping since the sample before, this one included."""

    step_seconds: float | None = None
    """Of rank 0: mean wall time of a step since the sample before."""

    amp_scale: float | None = None
    """Loss scale of the gradient scaler; None without one."""

    world_size: int = 1
    """Ranks of the whole job."""

    ranks: tuple[RankObservation, ...] = ()
    """Those of this node, ascending."""

    attention: tuple[AttentionObservation, ...] = ()
    """One entry per captured call: encoder first, in order of execution."""

    layer_norms: Mapping[str, float] = field(default_factory=dict)
    """Module path of a layer to the norm of its gradient."""

    @property
    def gradient_norm(self) -> float | None:
        """The norm before clipping, or what the optimizer saw where that is not known."""
        return self.norm_after_clip if self.norm_before_clip is None else self.norm_before_clip


def observe(line: Mapping[str, Any]) -> Observation:
    """Build an observation from a line of ``history.jsonl``, written or about to be.

    Args:
        line: all of it, parsed.

    Raises:
        ObservationError: a field is missing or has another type.
    """
    fields = _Fields(line, _names(line.get("nonfinite")))
    attention = line.get("attention") or {}
    if not isinstance(attention, Mapping):
        raise ObservationError(f"attention is {attention!r:.80}, expected an object")
    layer_norms = line.get("layer_norms") or {}
    if not isinstance(layer_norms, Mapping):
        raise ObservationError(f"layer_norms is {layer_norms!r:.80}, expected an object")
    norms = _Fields(layer_norms, prefix="layer_norms.")
    return Observation(
        step=fields.integer("step"),
        timestamp=fields.required("timestamp"),
        loss=fields.number("loss"),
        learning_rate=fields.number("lr"),
        norm_before_clip=fields.number("norm_before_clip"),
        norm_after_clip=fields.number("norm_after_clip"),
        max_norm=fields.number("max_norm"),
        clip_rate=fields.number("clip_rate"),
        norm_peak=fields.number("norm_peak"),
        step_seconds=fields.number("step_seconds"),
        amp_scale=fields.number("amp_scale"),
        world_size=fields.integer("world_size", 1),
        ranks=tuple(_rank(entry, fields.nonfinite) for entry in _objects(line, "ranks")),
        attention=tuple(
            _attention(stack, entry)
            for stack in ("encoder", "decoder")
            for entry in _objects(attention, stack)
        ),
        layer_norms={
            name: norm for name in layer_norms if (norm := norms.number(name)) is not None
        },
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to one object of a line."""

    values: Mapping[str, Any]
    nonfinite: frozenset[str] = frozenset()
    """Dotted paths of numbers that are null in JSON because they are not finite."""

    prefix: str = ""

    def number(self, key: str) -> float | None:
        path = f"{self.prefix}{key}"
        value = self.values.get(key)
        if value is None:
            return math.nan if path in self.nonfinite else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ObservationError(f"{path} is {value!r:.80}, expected a number")
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError as error:  # an integer beyond what a float can hold
            raise ObservationError(f"{path} is {value!r:.80}, beyond any number") from error

    def required(self, key: str) -> float:
        value = self.number(key)
        if value is None or math.isnan(value):
            raise ObservationError(f"{self.prefix}{key} is missing or not finite")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if type(value) is not int:
            raise ObservationError(f"{self.prefix}{key} is {value!r:.80}, expected an integer")
        return value

    def word(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise ObservationError(f"{self.prefix}{key} is {value!r:.80}, expected a text")
        return value


def _rank(entry: Mapping[str, Any], nonfinite: frozenset[str]) -> RankObservation:
    rank = _Fields(entry, prefix="ranks.").integer("rank")
    fields = _Fields(entry, nonfinite, f"ranks.{rank}.")
    checksum = entry.get("weight_checksum")
    if checksum is not None and not isinstance(checksum, int | str):
        raise ObservationError(f"ranks.{rank}.weight_checksum is {checksum!r:.80}")
    return RankObservation(
        rank=rank,
        loss=fields.number("loss"),
        local_gradient_norm=fields.number("local_grad_norm"),
        step_seconds=fields.number("step_seconds"),
        local_seconds=fields.number("local_seconds"),
        dropped=fields.integer("dropped", 0),
        weight_checksum=checksum,
    )


def _attention(stack: str, entry: Mapping[str, Any]) -> AttentionObservation:
    fields = _Fields(entry, prefix=f"attention.{stack}.")
    return AttentionObservation(
        stack=stack,
        type=fields.word("type"),
        layer=fields.integer("layer"),
        module=fields.word("module"),
        entropy=fields.number("entropy"),
        normalized_entropy=fields.number("normalized_entropy"),
        max_logit=fields.number("max_logit"),
    )


def _names(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ObservationError(f"nonfinite is {value!r:.80}, expected a list of names")
    return frozenset(value)


def _objects(parent: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    value = parent.get(key, ())
    if not isinstance(value, Sequence) or not all(isinstance(entry, Mapping) for entry in value):
        raise ObservationError(f"{key} is {value!r:.80}, expected a list of objects")
    return value
