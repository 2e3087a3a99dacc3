"""Sampled steps on their way to the ring, in order, and what the user logged meanwhile."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from trackside.capture.clipping import Number
from trackside.capture.logbook import Logbook, LogPage
from trackside.draft import StepDraft
from trackside.publisher import Publisher
from trackside.staging import HostArray, Staged, Staging
from trackside.wire.layout import DropCause
from trackside.wire.records import Close

DRAIN_TIMEOUT_S = 2.0  # for the last copies from a device, at close only
SHRUNK = (
    "sampled steps are larger than step_bytes and are made to fit; `shrunk` in history.jsonl says "
    "how. Fewer layers, heads or max_queries need less, a larger ring_bytes or step_bytes hold more"
)
LOG_FULL = (
    "more was logged between two records than is kept: the oldest values are dropped, and counted "
    "as log_full. Log less often, lower every= so that records come sooner, and see that a daemon "
    "makes room for them"
)
CLIPPED_SCALED = (
    "gradients were clipped while they were still multiplied by the loss scale, so that the limit "
    "was max_norm / scale: call scaler.unscale_(optimizer) before clip_grad_norm_. Norm and limit "
    "are recorded as they would be without the scale"
)
_LOSS = "loss"


class Outbox:
    """Stages drafts and publishes them when they have arrived. One thread at a time."""

    def __init__(
        self,
        publisher: Publisher,
        staging: Staging,
        *,
        logbook: Logbook,
        step_bytes: int,
        note: Callable[[str], None],
    ) -> None:
        """Start empty.

        Args:
            publisher: takes what has arrived.
            staging: brings it.
            logbook: what is logged; goes along with the drafts.
            step_bytes: at most this much payload for a step.
            note: takes what the user should know, repeated reasons too.
        """
        self._logbook = logbook
        self._step_bytes = step_bytes
        self._note = note
        self._publisher = publisher
        self._staging = staging
        self.queue: deque[_Queued] = deque()
        """Steps that are still on their way."""

        self._last_loss: float | None = None

    def can_copy(self) -> bool:
        """Whether work may be given to a device now; not while a CUDA graph is captured."""
        return self._staging.can_copy()

    def submit(self, draft: StepDraft) -> None:
        """Send a draft on its way; from the CPU it is published at once."""
        if self._publisher.has_room(self._logbook.nbytes):  # else it waits, at no cost
            draft.page = self._logbook.take()
        if draft.fit(self._step_bytes):
            self._note(SHRUNK)
        staged = self._staging.stage(draft.tensors()) if self.can_copy() else None
        if staged is None:
            self._logbook.put_back(draft.page)
            self._publisher.count_drop(DropCause.COPY_LATE)
            return
        self.queue.append(_Queued(draft, staged))
        self.flush()

    def flush(self) -> None:
        """Publish what has arrived, in order; never wait."""
        while self.queue and self.can_copy() and self.queue[0].staged.is_ready():
            self._publish(self.queue.popleft())

    def close(self, reason: str, *, steps: int, sampled: int, loss: Number | None) -> None:
        """Publish everything that arrives in time, then the last record.

        Args:
            reason: why the session ends.
            steps: optimizer steps seen.
            sampled: steps that were due.
            loss: the last one, None to take that of the last published step.
        """
        while self.queue and self._staging.drain(self.queue[0].staged, DRAIN_TIMEOUT_S):
            self._publish(self.queue.popleft())
        if self.queue:
            self._publisher.count_drop(DropCause.COPY_LATE, len(self.queue))
            self.queue.clear()
        page = self._logbook.take()
        tensors = page.tensors()
        if isinstance(loss, torch.Tensor):
            tensors[_LOSS] = loss
        arrays = self._bring(tensors)
        if arrays is None:
            self._publisher.count_drop(DropCause.COPY_LATE)
            page, arrays = LogPage((), page.texts), {}
        last = arrays[_LOSS].number() if _LOSS in arrays else loss
        if last is None or isinstance(last, torch.Tensor):
            last = self._last_loss
        self._count_overflow()
        self._publisher.publish_close(
            Close(
                reason=reason,
                timestamp=time.time(),
                steps=steps,
                sampled=sampled,
                published=0,
                dropped={},
                loss=last,
                scalars=page.scalars(arrays),
                texts=page.texts,
            )
        )

    def _publish(self, queued: "_Queued") -> None:
        self._count_overflow()
        step, arrays = queued.draft.finish(queued.staged.arrays)
        if step.max_norm != queued.draft.max_norm:
            self._note(CLIPPED_SCALED)
        self._last_loss = step.loss if step.loss is not None else self._last_loss
        if not self._publisher.publish_step(step, arrays):
            self._logbook.put_back(LogPage(step.scalars, step.texts))
        queued.staged.release()

    def _bring(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, HostArray] | None:
        """Bring the last tensors to the host; None where they do not come in time."""
        if not tensors:
            return {}
        staged = self._staging.stage(tensors)
        is_here = staged is not None and self._staging.drain(staged, DRAIN_TIMEOUT_S)
        return staged.arrays if staged is not None and is_here else None

    def _count_overflow(self) -> None:
        lost = self._logbook.take_overflowed()
        if lost:
            self._publisher.count_drop(DropCause.LOG_FULL, lost)
            self._note(LOG_FULL)


@dataclass(frozen=True, slots=True)
class _Queued:
    """A step on its way to the host."""

    draft: StepDraft
    staged: Staged
