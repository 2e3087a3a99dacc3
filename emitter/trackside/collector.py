"""What a sampled step is read with: armed before it, read before the optimizer changes anything."""

from collections.abc import Callable, Mapping, Sequence

import torch

from trackside.capture.attention import AttentionTap
from trackside.capture.clipping import ClipWatch
from trackside.capture.gradients import GradientTap, is_sharded
from trackside.capture.local_norm import LocalNorm
from trackside.capture.owned import GradientTrace, TrainingThread
from trackside.capture.scalars import LossWatch, amp_scale, as_number, learning_rate
from trackside.draft import StepDraft
from trackside.guard import Guard
from trackside.hooks import backward_hook


class Collector:
    """The taps and watches of one session; None is what it does not take. One thread at a time."""

    def __init__(
        self,
        *,
        tap: AttentionTap | None,
        gradients: GradientTap | None,
        local_norm: LocalNorm | None,
        loss: LossWatch,
        clip: ClipWatch,
        guard: Guard,
        can_copy: Callable[[], bool],
        thread: TrainingThread,
    ) -> None:
        """Take over the parts.

        Args:
            tap: of attention.
            gradients: of what the optimizer is about to use.
            local_norm: of the rank's own gradient, before ranks are averaged.
            loss: of ``backward``.
            clip: of torch's clipping.
            guard: around every hook.
            can_copy: whether there is room for what a sampled step would copy.
            thread: the one that trains; what others do is none of ours.
        """
        self._tap = tap
        self._gradients = gradients
        self._local_norm = local_norm
        self._loss = loss
        self._clip = clip
        self._guard = guard
        self._can_copy = can_copy
        self._thread = thread
        self._parameters: Callable[[], Sequence[torch.Tensor]] = tuple
        self._own: Callable[[], Sequence[torch.Tensor]] = tuple
        self._trace, self._updated_trace = GradientTrace(), GradientTrace()
        self._is_looking = False  # a backward runs that was seen from its start
        self._is_armed_in_time = False  # before the first backward of the step

    @property
    def needs_eager_code(self) -> bool:
        """Whether anything listens within forward or backward, where compiled code says nothing."""
        return self._tap is not None or self._local_norm is not None

    def arm(
        self,
        parameters: Callable[[], Sequence[torch.Tensor]],
        own: Callable[[], Sequence[torch.Tensor]],
    ) -> None:
        """Listen to the next forward and backward.

        Args:
            parameters: returns those to be updated.
            own: returns those whose gradients tell a loss of this session's from others.
        """
        if self._tap is not None:
            self._tap.arm()
        self._clip.look_closely()
        self._parameters, self._own = parameters, own
        self._is_armed_in_time = not self._loss.micro_batches
        self._loss.num_left_out = 0
        self.disarm_backward()
        backward_hook.add(self._before_backward)
        backward_hook.add_after(self._after_backward)
        if self._gradients is not None and self._local_norm is not None:
            self._local_norm.arm(parameters())

    def disarm(self) -> None:
        """Listen no more, and forget what was not read."""
        if self._tap is not None:
            self._tap.disarm()
        self.disarm_backward()

    def disarm_backward(self) -> None:
        """Listen to no backward; the tap keeps what it captured."""
        self._end_backward()
        if self._local_norm is not None:
            self._local_norm.disarm()

    def read(self, draft: StepDraft, optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
        """Fill a draft at the start of the optimizer's step; only inside of the step's hook.

        Returns:
            Why something was left out.
        """
        self._end_backward()  # a closure may be called again
        notes: tuple[str, ...] = ()
        if self._tap is not None:
            if self._is_armed_in_time and not draft.epoch_requested:
                self._tap.note_if_not_called()
            draft.attention = self._tap.take()
            notes += self._tap.notes
        scale = amp_scale(optimizer)
        draft.amp_scale = None if scale is None else as_number(scale)
        draft.learning_rate = learning_rate(optimizer)
        draft.loss = self._loss.of_step(draft.amp_scale)
        event = self._clip.event()
        if event is not None:
            draft.clip_norm, draft.max_norm = event.norm, event.max_norm
            draft.clip_order = event.order
        if self._gradients is not None:
            if self._clip.has_heard:
                self._gradients.forget_unclipped()
            self._gradients.before_step(optimizer, getattr(optimizer, "grad_scale", None), scale)
            notes += self._gradients.notes
        if self._local_norm is not None:
            own = self._local_norm.take()
            if own is not None:
                draft.local_norm = as_number(own.norm if scale is None else own.norm / scale)
                draft.local_drift = None if own.drift is None else as_number(own.drift)
        return notes

    def _end_backward(self) -> None:
        self._is_looking = False
        backward_hook.remove(self._before_backward)
        backward_hook.remove_after(self._after_backward)

    def _before_backward(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        del args, kwargs
        if not self._thread.is_other():
            self._guard.run("start of backward", self._look_for_gradients)

    def _look_for_gradients(self) -> None:
        self._trace.look(self._own())
        self._updated_trace.look(self._parameters())
        self._is_looking = True

    def _after_backward(self) -> None:
        # Armed within it, by an optimizer that steps in backward: it is of the step before.
        if self._is_looking and not self._thread.is_other():
            self._is_looking = False
            self._guard.run("end of backward", self._read_backward)

    def _read_backward(self) -> None:
        own, parameters = self._own(), self._parameters()
        had_any, has_changed = self._trace.had_any, self._trace.look(own)
        # Shards get their gradients at the last micro-batch only, and all count.
        if not any(map(is_sharded, own)):
            if had_any and not has_changed:
                self._loss.leave_out_last_call()
                return
            if has_changed and not had_any:
                self._loss.begin_with_last_call()
        if self._gradients is None or self._clip.has_heard or not self._can_copy():
            return
        # torch's own clipping says what it does; of any other only the gradients tell. Those of
        # copies in another precision are made after backward, and what is there is old.
        if self._updated_trace.look(parameters):
            self._gradients.after_backward(parameters)
        else:
            self._gradients.forget_unclipped()
