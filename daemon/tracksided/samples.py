"""What comes in: one rank's sampled step as numpy arrays, and all local ranks of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trackside.errors import RecordCorrupt
from trackside.wire.records import (
    ArraySpec,
    Attention,
    Gradients,
    Hello,
    Step,
    array_views,
    widen_bfloat16,
)
from tracksided.gradient_memory import GradientMemory

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AttentionSample:
    """One captured attention call; shapes as in `trackside.wire.records.Attention`."""

    call: Attention
    """What is known of it besides its arrays."""

    query: FloatArray | None
    """[heads, queries, head_dim]: kept heads and rows; None where ``logits`` are."""

    key: FloatArray | None
    """[key heads, keys, head_dim]; `call.key_heads` says which one each head looks at."""

    mask: NDArray[Any] | None
    """[1 or heads, queries, keys]: bool (True = attend) or float32 (added)."""

    logits: FloatArray | None
    """[heads, queries, keys] after scale and mask, where the model makes them itself."""

    sinks: FloatArray | None
    """[heads]: learned logits that take weight from each row; None without."""


@dataclass(frozen=True, slots=True)
class GradientSample:
    """Per-parameter gradient data; shapes as in `trackside.wire.records.Gradients`."""

    names: tuple[str, ...]
    """Of the parameters that have a gradient."""

    num_elements: tuple[int, ...]
    """Held by this rank, or by all of its node once shards are put together."""

    total_elements: tuple[int, ...]
    """Of the whole parameter."""

    shards: tuple[int, ...]
    """Which shard this is; `trackside.wire.records.REPLICA` where it is not sharded."""

    norm: FloatArray
    """[parameters]: L2 norm of all elements held."""

    abs_max: FloatArray
    """[parameters]: largest magnitude of all elements held."""

    weight_norm: FloatArray
    """[parameters]: L2 norm of the weights before the step."""

    sample: tuple[FloatArray, ...]
    """[sampled] each: gradient elements, one array per parameter."""

    weight_before: tuple[FloatArray, ...]
    """[sampled] each: the same elements of the weights, before the step."""

    weight_after: tuple[FloatArray, ...]
    """[sampled] each: the same elements of the weights, after the step."""

    previous: GradientMemory | None = None
    """Of the sampled step before; None where that is not known."""

    unclipped: tuple[FloatArray, ...] | None = None
    """[sampled] each: the elements of ``sample`` at the end of backward; None where torch's own
    clipping tells more."""

    @property
    def is_whole(self) -> tuple[bool, ...]:
        """For each parameter, whether all of its elements are here."""
        return tuple(
            held >= total
            for held, total in zip(self.num_elements, self.total_elements, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled step of one rank, validated. Arrays may be views of shared memory."""

    hello: Hello
    """What the rank said of itself when its session began."""

    step: Step
    """All but arrays."""

    attention: tuple[AttentionSample, ...]
    """One entry per captured call, in order of execution; none beside rank 0."""

    gradients: GradientSample | None
    """None where gradients are off."""


@dataclass(frozen=True, slots=True)
class StepSamples:
    """All local ranks of one step of one run, by rank, at least one."""

    run: str
    """Id of the run."""

    step: int
    """Optimizer steps done, from 1."""

    samples: tuple[Sample, ...]
    """By rank, ascending; at least one."""

    @property
    def leader(self) -> Sample:
        """The sample of the lowest rank: the one that carries attention."""
        return self.samples[0]

    def after(self, previous: GradientMemory | None) -> "StepSamples":
        """Hand the gradient of the sampled step before to the leader's.

        One that lies ahead belongs to a try that training went back on, and is left out.

        Args:
            previous: of the sampled step before; None where it is not known.
        """
        gradients = self.leader.gradients
        if gradients is None or previous is None or previous.step >= self.step:
            return self
        leader = replace(self.leader, gradients=replace(gradients, previous=previous))
        return replace(self, samples=(leader, *self.samples[1:]))


def build_sample(hello: Hello, step: Step, payload: memoryview) -> Sample:
    """Check the arrays of a step record against its metadata and view them.

    Raises:
        RecordCorrupt: an array is missing, of an impossible shape, or outside the payload.
    """
    views = array_views(step.arrays, payload)
    specs = {spec.name: spec for spec in step.arrays}
    arrays = _Arrays(views, specs)
    attention = tuple(_attention(arrays, i, call) for i, call in enumerate(step.attention))
    gradients = None if step.gradients is None else _gradients(arrays, step.gradients)
    return Sample(hello, step, attention, gradients)


class _Arrays:
    """Arrays of one record, looked up by name and checked by shape."""

    def __init__(self, views: Mapping[str, NDArray[Any]], specs: Mapping[str, ArraySpec]) -> None:
        self._views = views
        self._specs = specs

    def floats(self, name: str, shape: tuple[int | None, ...]) -> FloatArray:
        array = self.optional(name, shape)
        if array is None:
            raise RecordCorrupt(f"array {name!r} is missing")
        return np.asarray(array, dtype=np.float32)

    def has(self, name: str) -> bool:
        return name in self._views

    def optional(self, name: str, shape: tuple[int | None, ...]) -> NDArray[Any] | None:
        """Return the array as bool, integer or float32, or None where it was not sent."""
        array = self._views.get(name)
        if array is None:
            return None
        if len(array.shape) != len(shape) or any(
            expected is not None and found != expected
            for found, expected in zip(array.shape, shape, strict=True)
        ):
            raise RecordCorrupt(f"array {name!r} has shape {array.shape}, expected {shape}")
        dtype = self._specs[name].dtype
        if dtype == "bfloat16":
            return widen_bfloat16(array)
        if dtype in {"float16", "float64"}:
            return array.astype(np.float32)
        return array


def _attention(arrays: _Arrays, index: int, call: Attention) -> AttentionSample:
    prefix = f"attention/{index}"
    heads, queries, keys = len(call.heads), len(call.query_rows), call.num_keys
    _check_call(prefix, call)
    query = arrays.optional(f"{prefix}/query", (heads, queries, None))
    key = arrays.optional(f"{prefix}/key", (None, keys, None))
    mask = arrays.optional(f"{prefix}/mask", (None, queries, keys))
    logits = arrays.optional(f"{prefix}/logits", (heads, queries, keys))
    sinks = arrays.optional(f"{prefix}/sinks", (heads,))
    if logits is None and (query is None or key is None):
        raise RecordCorrupt(f"{prefix} has neither logits nor query and key")
    if query is not None and key is not None:
        if query.shape[-1] != key.shape[-1]:
            raise RecordCorrupt(f"{prefix}: query and key differ in head size")
        if max(call.key_heads, default=0) >= key.shape[0]:
            raise RecordCorrupt(f"{prefix}: key_heads points outside of {key.shape[0]} heads")
    if mask is not None and mask.shape[0] not in {1, heads}:
        raise RecordCorrupt(f"{prefix}: mask has {mask.shape[0]} heads, expected 1 or {heads}")
    return AttentionSample(call, query, key, mask, logits, sinks)


def _check_call(where: str, call: Attention) -> None:
    in_range = (
        call.layer >= 0
        and call.num_keys > 0
        and call.num_queries > 0
        and len(call.heads) == len(call.key_heads) > 0
        and len(call.query_rows) > 0
        and all(0 <= head < call.num_heads for head in call.heads)
        and all(head >= 0 for head in call.key_heads)
        and all(0 <= row < call.num_queries for row in call.query_rows)
        and all(a < b for a, b in zip(call.query_rows, call.query_rows[1:], strict=False))
    )
    if not in_range:
        raise RecordCorrupt(f"{where} contradicts itself: {call!r:.300}")


def _gradients(arrays: _Arrays, meta: Gradients) -> GradientSample:
    num_parameters = len(meta.names)
    columns = (meta.num_elements, meta.total_elements, meta.shards)
    if any(len(column) != num_parameters for column in columns):
        raise RecordCorrupt("gradients: the columns of its metadata differ in length")
    per_parameter = (num_parameters,)
    counts = arrays.optional("gradients/sample_count", per_parameter)
    if counts is None or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise RecordCorrupt("gradients/sample_count is missing, negative or not integer")
    total = int(counts.sum())
    bounds = np.cumsum(counts)[:-1]

    def split(name: str) -> tuple[FloatArray, ...]:
        return tuple(np.split(arrays.floats(name, (total,)), bounds)) if num_parameters else ()

    return GradientSample(
        names=meta.names,
        num_elements=meta.num_elements,
        total_elements=meta.total_elements,
        shards=meta.shards,
        norm=arrays.floats("gradients/norm", per_parameter),
        abs_max=arrays.floats("gradients/abs_max", per_parameter),
        weight_norm=arrays.floats("gradients/weight_norm", per_parameter),
        sample=split("gradients/sample"),
        unclipped=split("gradients/unclipped") if arrays.has("gradients/unclipped") else None,
        weight_before=split("gradients/weight_before"),
        weight_after=split("gradients/weight_after"),
    )
