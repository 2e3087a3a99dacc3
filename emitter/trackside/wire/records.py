"""Typed metadata of every record kind, with strict decoding from msgpack.

A record on the wire is msgpack metadata plus raw array bytes. The metadata is the
dataclasses below as a msgpack map; arrays are named, and each `ArraySpec` says where its
bytes lie in the payload. Decoding checks every field before anything is used: a peer that
sends another shape gets `RecordCorrupt`, never an exception of Python's own.
"""

import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from trackside.errors import RecordCorrupt
from trackside.wire.plain import fields_of, from_plain

Stack = Literal["encoder", "decoder"]
AttentionType = Literal["self_attention", "cross_attention"]

# What an array may hold; bfloat16 has no numpy type and travels as its 16 raw bits.
DTYPE_BYTES: Mapping[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
}
MAX_DIMENSIONS = 8  # attention needs 3; a bound keeps a hostile shape cheap to refuse
REPLICA = -1  # in place of a shard: every rank holds the whole parameter
MAX_STEP = 2**63 - 1  # what the signed 64 bits of a TensorBoard event hold
MAX_METADATA_ITEMS = 1 << 20  # per msgpack container: bounds what decoding may allocate


class RecordKind(IntEnum):
    """What a record holds."""

    STEP = 1
    """One sampled optimizer step of one rank. Metadata is `Step`."""

    CLOSE = 2
    """Last record of an orderly end. Metadata is `Close`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Where one array lies in the payload, row-major."""

    name: str
    """Unique within the record, for example ``attention/0/query``."""

    dtype: str
    """A key of `DTYPE_BYTES`."""

    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the payload; a multiple of 64."""

    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who writes this segment, and what the daemon shall do with it.

    It lies in the segment in front of the ring, not in a record.
    """

    run: str
    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    hostname: str
    pid: int
    attempt: int
    """Restart count of the launcher, 0 for the first start."""

    started_at: float
    """Unix time in seconds at which the session began; for people, since clocks are set."""

    started_boottime: float
    """The same moment by CLOCK_BOOTTIME, in seconds: puts the starts of a machine in order."""

    save_dir: str
    """Absolute path under which the daemon writes."""

    checkpoints: tuple[str, ...]
    """Absolute directories that the daemon watches and averages."""

    every: int
    visualize: tuple[str, ...]
    save_raw: bool
    config: dict[str, Any]
    """The user's own settings, shown as they are."""

    versions: dict[str, str]
    """Distribution name to version, plus ``python``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One captured attention call, one sample of the batch.

    Either ``query`` and ``key`` are present (and the daemon computes
    softmax(query key^T * scale + mask)), or ``logits`` is, which already holds scale and mask.
    Arrays are named ``attention/<index>/<field>``, with ``index`` the place in `Step.attention`:

    ======== ============================ ==================================================
    field    shape                        meaning
    ======== ============================ ==================================================
    query    [heads, queries, head_dim]   the kept heads and query rows
    key      [key_heads, keys, head_dim]  before GQA expansion; see ``key_heads``
    mask     [1 or heads, queries, keys]  bool, True = attend; or float, added to the logits
    logits   [heads, queries, keys]       what softmax was called on
    sinks    [heads]                      an extra logit per head that takes mass, then is cut
    ======== ============================ ==================================================
    """

    stack: Stack
    type: AttentionType
    layer: int
    """Index in its stack by order of execution."""

    module: str
    """Full module path, or an empty string where it is not known."""

    scale: float
    is_causal: bool
    """Top-left aligned: query row i sees keys 0..i."""

    heads: tuple[int, ...]
    """Indices of the kept heads in the model's own numbering."""

    key_heads: tuple[int, ...]
    """For each kept head, its index into the first axis of ``key``."""

    num_heads: int
    num_queries: int
    num_keys: int
    query_rows: tuple[int, ...]
    """Indices of the kept query rows, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """Per-parameter gradient data of one step, as the optimizer saw it (after clipping).

    Arrays, with P parameters and S sampled elements (strided, at most 1024 a parameter):

    ======================== ======= =========================================================
    name                     shape   meaning
    ======================== ======= =========================================================
    gradients/norm           [P]     L2 norm
    gradients/abs_max        [P]     largest magnitude
    gradients/weight_norm    [P]     L2 norm of the weights before the step
    gradients/sample         [S]     sampled gradient elements
    gradients/sample_count   [P]     how many of the S belong to each parameter, in order
    gradients/weight_before  [S]     the same elements of the weights, before the step
    gradients/weight_after   [S]     and after it
    gradients/unclipped      [S]     the gradient's elements as backward left them; only where
                                     torch's clipping, which says what it does, was not called
    ======================== ======= =========================================================

    A rank sends what it holds. Of a sharded parameter that is one shard: squares of the norms add
    up over the shards, and all of them are there where their elements are ``total_elements``.
    """

    names: tuple[str, ...]
    num_elements: tuple[int, ...]
    """On this rank."""

    total_elements: tuple[int, ...]
    """Of the whole parameter; more than ``num_elements`` where it is sharded."""

    shards: tuple[int, ...]
    """Which shard this rank holds; ranks with the same number hold copies of it. `REPLICA` where
    the parameter is not sharded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedScalar:
    """A value given to `Session.log`."""

    step: int
    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedText:
    """A text given to `Session.text`."""

    step: int
    tag: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One sampled optimizer step of one rank. Unknown is None."""

    step: int
    epoch: int | None
    epoch_requested: bool
    """Sampled because of `epochs`; its folder is named ``epoch_<e>_step_<s>``."""

    timestamp: float
    """Unix time in seconds at the end of the optimizer step."""

    loss: float | None
    learning_rate: float | None
    norm_before_clip: float | None
    norm_after_clip: float | None
    max_norm: float | None
    clipped: bool | None
    clip_rate: float | None
    """Share of the steps since the last sample whose gradient was clipped, 0 to 1."""

    norm_peak: float | None
    """Largest gradient norm before clipping in the steps since the last sample; NaN where one
    was. None where no step was clipped, or might have been."""

    local_gradient_norm: float | None
    """Before the ranks were averaged."""

    step_seconds: float | None
    """Mean wall time of a step since the last sample."""

    local_seconds: float | None
    """Wall time from the end of the step before to the first backward: data and forward, in which
    a rank waits for no other; None where the step was not known to be sampled by then."""

    amp_scale: float | None
    micro_batches: int | None
    dropped: dict[str, int]
    """Cause to count, since the session began."""

    shrunk: tuple[str, ...]
    """What was made smaller to fit the byte budget of a step, in words."""

    tokens: tuple[str, ...]
    """Of the captured sample, as the user gave them; empty where not."""

    attention: tuple[Attention, ...]
    gradients: Gradients | None
    scalars: tuple[LoggedScalar, ...]
    texts: tuple[LoggedText, ...]
    arrays: tuple[ArraySpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """An orderly end of a session."""

    reason: str
    timestamp: float
    steps: int
    """Optimizer steps seen."""

    sampled: int
    """Steps that were due."""

    published: int
    dropped: dict[str, int]
    loss: float | None
    """The last loss seen."""

    scalars: tuple[LoggedScalar, ...]
    texts: tuple[LoggedText, ...]


Metadata = Hello | Step | Close
_Record = TypeVar("_Record", Hello, Step, Close)


def encode(metadata: Metadata) -> bytes:
    """Pack metadata to msgpack.

    Raises:
        RecordCorrupt: a value that msgpack cannot hold.
    """
    try:
        packed: bytes = msgpack.packb(metadata, default=fields_of, use_bin_type=True)
    except UnicodeEncodeError as error:  # a name in another encoding, from the file system
        raise RecordCorrupt(
            f"{type(metadata).__name__} cannot be packed: {error.object!r} is not UTF-8; choose a "
            "save_dir= and a run= that are, or set LC_ALL=C.UTF-8 where the locale is at fault"
        ) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RecordCorrupt(f"{type(metadata).__name__} cannot be packed: {error}") from error
    return packed


def decode(expected: type[_Record], packed: bytes | memoryview) -> _Record:
    """Unpack and check metadata.

    Raises:
        RecordCorrupt: not msgpack, a field missing, unknown or of another type, or an array
            specification that contradicts itself.
    """
    try:
        plain = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            max_array_len=MAX_METADATA_ITEMS,
            max_map_len=MAX_METADATA_ITEMS,
        )
    except Exception as error:
        raise RecordCorrupt(f"{expected.__name__} is not valid msgpack: {error!r}") from error
    record = from_plain(expected, plain, expected.__name__)
    if isinstance(record, Step):
        _check_arrays(record)
    return typing.cast("_Record", record)


def array_views(specs: Sequence[ArraySpec], payload: memoryview) -> dict[str, NDArray[Any]]:
    """Map array names to read-only numpy views of ``payload``, without a copy.

    bfloat16 arrays come as ``uint16`` bits: see `widen_bfloat16`.

    Raises:
        RecordCorrupt: an array lies outside the payload.
    """
    views: dict[str, NDArray[Any]] = {}
    for spec in specs:
        end = spec.offset + spec.nbytes
        if end > len(payload):
            raise RecordCorrupt(
                f"array {spec.name!r} ends at byte {end} of a payload of {len(payload)} bytes"
            )
        dtype = np.dtype(np.uint16 if spec.dtype == "bfloat16" else spec.dtype)
        flat = np.frombuffer(payload[spec.offset : end], dtype=dtype)
        view = flat.reshape(spec.shape)
        view.flags.writeable = False
        views[spec.name] = view
    return views


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Turn bfloat16 bits into float32, exactly: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _check_arrays(step: Step) -> None:
    seen: set[str] = set()
    for spec in step.arrays:
        where = f"array {spec.name!r:.80}"
        if spec.name in seen:
            raise RecordCorrupt(f"{where} appears twice")
        seen.add(spec.name)
        if spec.dtype not in DTYPE_BYTES:
            raise RecordCorrupt(f"{where} has unknown dtype {spec.dtype!r:.40}")
        if len(spec.shape) > MAX_DIMENSIONS or any(side < 0 for side in spec.shape):
            raise RecordCorrupt(f"{where} has impossible shape {spec.shape!r:.80}")
        if spec.offset < 0 or spec.nbytes != math.prod(spec.shape) * DTYPE_BYTES[spec.dtype]:
            raise RecordCorrupt(f"{where}: offset {spec.offset} or size {spec.nbytes} is wrong")
