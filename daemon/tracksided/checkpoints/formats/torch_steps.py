"""Find the step that a torch checkpoint states.

| where | example |
|---|---|
| beside the model, at any depth | `{"model": ..., "global_step": 100}`; nanoGPT's `iter_num` |
| fairseq | `optimizer_history[-1]["num_updates"]` |
| Composer | `state["timestamp"]["Timestamp"]["batch"]` |
"""

from collections.abc import Mapping, Sequence

from tracksided.checkpoints.formats.pickle_nodes import ListNode, Node, text_entries
from tracksided.checkpoints.numbers import MAX_COUNT

STEP_KEYS = ("global_step", "step", "steps", "num_updates", "iteration", "iter", "iter_num")


def step_of(levels: Sequence[Node]) -> int | None:
    """Return the step, or None.

    Args:
        levels: the dicts that lead to the model, the outermost first, and the model.
    """
    for level in levels:
        entries = text_entries(level)
        for key in STEP_KEYS:
            step = _as_step(entries.get(key))
            if step is not None:
                return step
        for found in (_fairseq(entries), _composer(entries)):
            if found is not None:
                return found
    return None


def _fairseq(entries: Mapping[str, Node]) -> int | None:
    history = entries.get("optimizer_history")
    last = history.items[-1] if isinstance(history, ListNode) and history.items else None
    return _as_step(text_entries(last).get("num_updates"))


def _composer(entries: Mapping[str, Node]) -> int | None:
    timestamp = text_entries(entries.get("timestamp"))
    return _as_step(text_entries(timestamp.get("Timestamp")).get("batch"))


def _as_step(value: Node) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < MAX_COUNT else None
