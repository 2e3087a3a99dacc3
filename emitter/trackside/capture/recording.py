"""What one forward of the model keeps: the calls seen, cut down to slices of one sample."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch._C._functorch import peek_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

from trackside.capture.captured import CapturedAttention
from trackside.capture.modules import ModuleIndex, Place, is_in_reentrant_checkpoint
from trackside.capture.naming import ModelTraits, classify
from trackside.capture.rows import Rows
from trackside.capture.shared_masks import SharedMasks, own_copy
from trackside.capture.sources.call import AttentionCall, Kept, Refusal, Source
from trackside.wire.records import Attention, AttentionType, Stack

Heads = Literal["all", "average"] | tuple[int, ...]
Group = tuple[Stack, AttentionType]
"""Layers are counted in each group by itself."""

NO_ATTENTION = (
    "no attention call was seen in the forward: neither scaled_dot_product_attention nor "
    "torch.nn.MultiheadAttention nor a softmax over [batch, heads, queries, keys]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSettings:
    """What is kept of each forward."""

    layers: tuple[int, ...] | None
    """Per group, negative from its end; None is all."""

    heads: Heads
    """``average`` keeps all: the average is taken by the daemon."""

    sample: int
    max_queries: int


class Recording:
    """The calls of one forward. One thread only."""

    def __init__(
        self,
        root: nn.Module,
        settings: TapSettings,
        expected: Mapping[Group, int],
        note: Callable[[str], None],
        *,
        without_gradients: bool = False,
    ) -> None:
        """Start empty.

        Args:
            root: the model.
            settings: what to keep.
            expected: number of layers in the last forward; layers that are not wanted by these
                numbers are not copied. Empty: each is, until it is clear that it is not wanted.
            note: takes reasons why something is not captured, repeated ones too.
            without_gradients: keep calls that run without gradients too.
        """
        self._without_gradients = without_gradients
        self._index = ModuleIndex(root)
        self._traits = ModelTraits.of(self._index)
        self._settings = settings
        self._expected = expected
        self._note = note
        self._kept: list[tuple[Group, CapturedAttention]] = []
        self._num_refused = 0
        self._masks = SharedMasks()
        self.counts: Counter[Group] = Counter()
        """Layers seen so far."""

    def observe(self, source: Source, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Keep slices of a call that has just returned, if it is attention and wanted."""
        if not (self._without_gradients or _has_gradients()):
            return
        if peek_interpreter_stack() is not None:
            self._refuse("attention inside a functional transform (torch.func, vmap)")
            return
        with _invisible():
            if args and _is_in_graph_capture(args[0]):
                self._refuse("attention inside a CUDA graph capture")
                return
            place = self._index.running()
            inspection = source(args, kwargs, place.module)
            if isinstance(inspection, Refusal):
                self._refuse(inspection.reason)
            elif inspection is not None:
                self._keep(inspection, place)

    def finish(self) -> tuple[CapturedAttention, ...]:
        """Return the wanted layers in order of execution, and forget everything."""
        kept, self._kept = self._kept, []
        if not self.counts and not self._num_refused:
            self._note(NO_ATTENTION)
        layers = self._settings.layers
        if layers is None:
            return tuple(captured for _, captured in kept)
        for (stack, kind), count in self.counts.items():
            for layer in layers:
                if not -count <= layer < count:
                    self._note(f"no layer {layer} among {count} of {stack} {kind}")
        return tuple(
            captured
            for group, captured in kept
            if captured.call.layer in layers or captured.call.layer - self.counts[group] in layers
        )

    def _refuse(self, reason: str) -> None:
        self._num_refused += 1
        self._note(reason)

    def _keep(self, call: AttentionCall, place: Place) -> None:
        group = classify(call, place, self._traits)
        layer = self.counts[group]
        self.counts[group] += 1
        if not self._may_be_wanted(group, layer):
            return
        heads = self._heads(call.num_heads)
        if not heads:
            return
        heads_per_key = call.num_heads // call.num_key_heads
        key_heads = tuple(sorted({head // heads_per_key for head in heads}))
        rows = Rows.spread(call.num_queries, self._settings.max_queries)
        tensors = call.read(Kept(self._sample(call.batch_size), heads, key_heads, rows))
        if isinstance(tensors, Refusal):
            self._refuse(tensors.reason)
            return
        metadata = Attention(
            stack=group[0],
            type=group[1],
            layer=layer,
            module=place.path,
            scale=call.scale,
            is_causal=call.is_causal,
            heads=heads,
            key_heads=tuple(key_heads.index(head // heads_per_key) for head in heads),
            num_heads=call.num_heads,
            num_queries=call.num_queries,
            num_keys=call.num_keys,
            query_rows=rows.indices,
        )
        own = {name: own_copy(tensor) for name, tensor in tensors.items() if name != "mask"}
        if "mask" in tensors:
            own["mask"] = self._masks.own(call, tensors["mask"])
        self._kept.append((group, CapturedAttention(metadata, own)))
        self._forget_passed(group)

    def _forget_passed(self, group: Group) -> None:
        """Drop layers that are now too far from the end to be wanted, so that memory is bounded."""
        layers = self._settings.layers
        if layers is None:
            return
        furthest = min((layer for layer in layers if layer < 0), default=0)
        self._kept = [
            (other, captured)
            for other, captured in self._kept
            if other != group
            or captured.call.layer in layers
            or captured.call.layer - self.counts[group] >= furthest
        ]

    def _may_be_wanted(self, group: Group, layer: int) -> bool:
        layers = self._settings.layers
        count = self._expected.get(group)
        if layers is None or count is None or layer >= count:
            return True
        return layer in layers or layer - count in layers

    def _heads(self, num_heads: int) -> tuple[int, ...]:
        """Return the kept heads of a call, each once."""
        wanted = self._settings.heads
        if isinstance(wanted, str):
            return tuple(range(num_heads))
        for head in wanted:
            if not -num_heads <= head < num_heads:
                self._note(f"no head {head} among {num_heads}")
        inside = (head % num_heads for head in wanted if -num_heads <= head < num_heads)
        return tuple(dict.fromkeys(inside))

    def _sample(self, batch_size: int) -> int:
        sample = self._settings.sample
        if -batch_size <= sample < batch_size:
            return sample % batch_size
        self._note(f"no sample {sample} in a batch of {batch_size}: the last one is taken")
        return batch_size - 1


def _has_gradients() -> bool:
    return torch.is_grad_enabled() or is_in_reentrant_checkpoint()


def _is_in_graph_capture(tensor: object) -> bool:
    """Say whether what is launched now becomes part of a CUDA graph, and of every replay."""
    is_cuda = isinstance(tensor, torch.Tensor) and tensor.is_cuda
    return is_cuda and torch.cuda.is_current_stream_capturing()


@contextlib.contextmanager
def _invisible() -> Iterator[None]:
    """Hide our own operations from autograd and from every mode of the user's.

    Selective checkpointing is such a mode: it saves what is computed, in order, and would hand
    ours to the recomputation.
    """
    with contextlib.ExitStack() as stack:
        # First, since a mode also sees gradients being switched off.
        stack.enter_context(torch._C.DisableTorchFunction())  # noqa: SLF001 - no public one
        stack.enter_context(torch.no_grad())
        if torch._C._len_torch_dispatch_stack():  # noqa: SLF001 - no public one
            stack.enter_context(_disable_current_modes())
        yield
