"""Makes the captured attention of a step fit a number of bytes, the same way every time.

First all maps keep fewer query rows, half as many each time; every row that is kept stays exact.
Where that is not enough, layers are left out, those in the middle first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from trackside.capture.captured import CapturedAttention
from trackside.capture.rows import Rows

MIN_ROWS = 16  # fewer show no pattern: then rather fewer layers
_PER_ROW = frozenset({"query", "mask", "logits"})  # the others have no query rows


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is left, and what was done."""

    attention: tuple[CapturedAttention, ...]
    shrunk: tuple[str, ...]
    """In words; empty where everything fitted."""


def fit(attention: tuple[CapturedAttention, ...], budget_bytes: int) -> Fitted:
    """Shrink attention to ``budget_bytes``; nothing is read from or copied to a device.

    Args:
        attention: captured calls in order of execution. A tensor that several of them share
            counts once.
        budget_bytes: for all of them; less than 1 leaves nothing.
    """
    needed = _num_bytes(attention, None)
    if needed <= budget_bytes:
        return Fitted(attention, ())
    most = max(len(captured.call.query_rows) for captured in attention)
    limit = most
    while limit // 2 >= MIN_ROWS and _num_bytes(attention, limit) > budget_bytes:
        limit //= 2
    kept = list(attention)
    left_out: list[CapturedAttention] = []
    while kept and _num_bytes(kept, limit) > budget_bytes:
        left_out.append(kept.pop(len(kept) // 2))
    shrunk = [f"attention of {needed} bytes has to fit {max(budget_bytes, 0)}"]
    if limit < most:
        shrunk.append(f"{limit} of {most} query rows are kept")
    shrunk += [f"left out: {_name(captured)}" for captured in left_out]
    return Fitted(_thin(kept, limit), tuple(shrunk))


def _num_bytes(attention: Sequence[CapturedAttention], limit: int | None) -> int:
    """Count the bytes of all distinct tensors if at most ``limit`` rows were kept."""
    sizes: dict[int, int] = {}
    for captured in attention:
        rows = len(captured.call.query_rows)
        num_kept = rows if limit is None else min(rows, limit)
        for name, tensor in captured.tensors.items():
            # Rows are few enough for whole numbers to stay exact.
            sizes[id(tensor)] = (
                tensor.nbytes // rows * num_kept if name in _PER_ROW else tensor.nbytes
            )
    return sum(sizes.values())


def _thin(attention: Sequence[CapturedAttention], limit: int) -> tuple[CapturedAttention, ...]:
    """Keep at most ``limit`` rows of each call; what calls share they share afterwards."""
    made: dict[int, torch.Tensor] = {}
    return tuple(
        captured
        if len(captured.call.query_rows) <= limit
        else _with_rows(captured, Rows.spread(len(captured.call.query_rows), limit), made)
        for captured in attention
    )


def _with_rows(
    captured: CapturedAttention, rows: Rows, made: dict[int, torch.Tensor]
) -> CapturedAttention:
    tensors = dict(captured.tensors)
    for name in _PER_ROW & tensors.keys():
        whole = tensors[name]
        if id(whole) not in made:
            made[id(whole)] = rows.take(whole).contiguous()
        tensors[name] = made[id(whole)]
    kept = tuple(captured.call.query_rows[index] for index in rows.indices)
    return CapturedAttention(replace(captured.call, query_rows=kept), tensors)


def _name(captured: CapturedAttention) -> str:
    call = captured.call
    return f"{call.stack} {call.type} layer {call.layer}"
