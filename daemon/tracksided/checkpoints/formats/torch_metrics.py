"""Find what a checkpoint scored in the inert nodes of a torch pickle.

| where | example |
|---|---|
| beside the model | `{"model": ..., "val_loss": 0.3}`; timm's `metric` |
| below `metrics` or fairseq's `extra_state` | `{"model": ..., "metrics": {"val_loss": 0.3}}` |
| the state of Lightning's `ModelCheckpoint` | `monitor` names the metric |
"""

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TypeAlias

import numpy as np

from tracksided.checkpoints.dtypes import DTYPES
from tracksided.checkpoints.formats.pickle_nodes import Node, text_entries
from tracksided.checkpoints.formats.torch_beside import CALLBACKS
from tracksided.checkpoints.formats.torch_entries import ModelPart
from tracksided.checkpoints.formats.torch_tensors import (
    Storage,
    is_tensor,
    tensor_view,
)
from tracksided.checkpoints.numbers import as_number
from tracksided.errors import CheckpointRefused

_GROUPS = ("extra_state", "metrics")  # the later counts where both state a metric
_NUMBERS = frozenset({"float16", "bfloat16", "float32", "float64", "int32", "int64"})

ReadStorage: TypeAlias = Callable[[Storage], bytes]
"""Returns the bytes of a storage that holds a single number."""


def stated_metrics(part: ModelPart, name: str, read: ReadStorage) -> dict[str, float]:
    """Return the numbers beside the model, by name.

    Args:
        part: the model in its checkpoint.
        name: of the file, as Lightning's callbacks list it.
        read: how to get at the bytes of a number that is a tensor.
    """
    # A tensor in a plain state dict is a part of the model, also where it is a single number.
    numbers = {key: value for key, value in text_entries(part.root).items() if not is_tensor(value)}
    beside: dict[str, Node] = {}
    for level in reversed(part.levels):
        beside |= text_entries(level)
    metrics = _numbers(numbers | beside, read)
    for group in _GROUPS:
        metrics |= _numbers(text_entries(beside.get(group)), read)
    return metrics | _monitored(text_entries(beside.get(CALLBACKS)), name, read)


def _monitored(callbacks: Mapping[str, Node], name: str, read: ReadStorage) -> dict[str, float]:
    """Read the states of `ModelCheckpoint`: exact scores, which file names only round.

    Of several that monitor the same, the one that lists this file counts. Where none does, they
    must agree.
    """
    listed: dict[str, float] = {}
    current: dict[str, set[float]] = {}
    for callback in callbacks.values():
        state = text_entries(callback)
        monitor = state.get("monitor")
        if not isinstance(monitor, str):
            continue
        for path, score in _numbers(text_entries(state.get("best_k_models")), read).items():
            if PurePath(path).name == name:
                listed[monitor] = score
        latest = _number(state.get("current_score"), read)
        if latest is not None:
            current.setdefault(monitor, set()).add(latest)
    agreed = {monitor: scores.pop() for monitor, scores in current.items() if len(scores) == 1}
    return agreed | listed


def _numbers(entries: Mapping[str, Node], read: ReadStorage) -> dict[str, float]:
    found = {key: _number(value, read) for key, value in entries.items()}
    return {key: value for key, value in found.items() if value is not None}


def _number(node: Node, read: ReadStorage) -> float | None:
    """Return a number, or the value of a tensor of one real number; None for all else."""
    if not is_tensor(node):
        return as_number(node)
    try:
        view = tensor_view(node, "a metric")
    except CheckpointRefused:
        return None  # of a kind that is not read here, and so no number
    if view.dtype not in _NUMBERS or view.shape.count(1) != len(view.shape):
        return None
    if view.storage.nbytes != DTYPES[view.dtype].itemsize:
        return None
    raw = read(view.storage)
    if view.dtype == "bfloat16":  # the upper half of a float32
        return float(np.frombuffer(b"\0\0" + raw, np.float32)[0])
    return float(np.frombuffer(raw, np.dtype(view.dtype))[0])
