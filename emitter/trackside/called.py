"""Sessions that are told which step it is, and publish when they are told: the classic API's.

A call names a step. Its record is put together from what is there:

============================================ =====================================================
the call comes                               what its record is made of
============================================ =====================================================
after the optimizer's step, forward armed    what the hooks made of that step; it waited
before the optimizer's step, forward armed   the same; it goes out at the end of the step
where the forward was not armed              attention of a forward of our own, no gradients
============================================ =====================================================

The optimizer's steps are counted in between, in the caller's numbering, so that the forward of
the next due step is armed. The first call is taken to come after the step that it names; a wrong
guess costs a forward of our own and is put right by the next call.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trackside.capture.captured import CapturedAttention
from trackside.capture.scalars import as_number, learning_rate
from trackside.draft import StepDraft
from trackside.recorder import Recorder
from trackside.session import Session
from trackside.undisturbed import needs_other_ranks, undisturbed


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the user's."""

    step: int
    epoch: int | None
    loss: object
    is_due: bool
    """Whether this step is wanted."""

    is_first_of_epoch: bool
    """Whether it is wanted because of its epoch."""

    inputs: tuple[object, ...]
    """What the model is called with; a single mapping holds keywords."""


class CalledRecorder(Recorder):
    """Publishes the steps that calls name. The training thread's, as its base."""

    _follows_every_forward = True
    _finished: StepDraft | None = None  # of a completed step, waits for its call
    _promised: Call | None = None  # its step is under way
    _last_step: int | None = None  # the last one that went out
    _is_in_progress = False  # a training forward has run since the last optimizer step
    _is_forcing = False

    def record(self, call: Call) -> None:
        """Publish the step that the call names, now or at the end of the optimizer's step."""
        if self._is_over:
            return
        self._logged_loss.never_wait()  # drafts wait for calls, not for losses
        self._keep_promise()
        self._logged_loss.newest = as_number(call.loss)
        finished, self._finished = self._finished, None
        if call.is_due and self._is_new(call.step):
            is_captured = self._tap is None or self._tap.has_captured
            if self._is_in_progress and self._is_sampling and is_captured:
                self._promised = call
            elif finished is not None and finished.step == self.step and not self._is_in_progress:
                finished.attention = finished.attention or self._capture_now(call)
                self._submit(finished, call)
            else:
                self.sampled += 1
                self._submit(self._draft_without_step(self._capture_now(call)), call)
        self._synchronize(call.step)

    def on_step_end(self) -> None:
        """Run after the optimizer's step."""
        super().on_step_end()
        self._is_in_progress = False

    def remove(self) -> None:
        """Unhook everything; what the tap still holds is published first."""
        self._keep_promise()
        super().remove()

    def _on_forward(self) -> None:
        if self._is_forcing:
            return
        super()._on_forward()
        if torch.is_grad_enabled():
            self._is_in_progress = True

    def _send(self, draft: StepDraft) -> None:
        call, self._promised = self._promised, None
        if call is None:
            self._finished = draft
        else:
            self._submit(draft, call)

    def _keep_promise(self) -> None:
        """Publish a step that was to come with its optimizer step, which never came."""
        call, self._promised = self._promised, None
        if call is not None:
            attention = () if self._tap is None else self._tap.take()
            self._disarm()
            self.sampled += 1
            self._submit(self._draft_without_step(attention), call)

    def _submit(self, draft: StepDraft, call: Call) -> None:
        draft.step, draft.epoch, draft.epoch_requested = (
            call.step,
            call.epoch,
            call.is_first_of_epoch,
        )
        draft.loss = as_number(call.loss)
        self._outbox.submit(draft)

    def _draft_without_step(self, attention: tuple[CapturedAttention, ...]) -> StepDraft:
        optimizer = self.hooks.optimizer
        return StepDraft(
            step=self.step,
            epoch=None,
            epoch_requested=False,
            timestamp=time.time(),
            learning_rate=None if optimizer is None else learning_rate(optimizer),
            attention=attention,
        )

    def _capture_now(self, call: Call) -> tuple[CapturedAttention, ...]:
        if self._tap is None:
            return ()
        if needs_other_ranks(self._root):
            self._note(
                "a sharded model cannot be run by one rank: attention is captured only in "
                "training forwards, in steps that come as the calls before announce them"
            )
            return ()
        self.guard.run("a forward for log_attention", self._run_forward, call.inputs)
        captured = self._tap.take()
        self._note(*self._tap.notes)
        return captured

    def _run_forward(self, inputs: tuple[object, ...]) -> None:
        tap = self._tap
        if tap is None:
            return
        self._stance.force_eager()
        self._is_forcing = True
        try:
            with tap.capture_once(), undisturbed(self._root):
                if len(inputs) == 1 and isinstance(inputs[0], Mapping):
                    self._root(**inputs[0])
                else:
                    self._root(*inputs)
        finally:
            self._is_forcing = False
            if not self._is_sampling:
                self._stance.restore()

    def _synchronize(self, step: int) -> None:
        """Count the optimizer's steps as the caller does."""
        if not self._is_in_progress:
            self.follow(step)
        elif self.step != step - 1:
            self.step = step - 1
            if self._promised is None and self._is_sampling:
                self._disarm()  # the forward of this step has run, the next is armed at its end

    def _is_new(self, step: int) -> bool:
        last, self._last_step = self._last_step, step
        if last is not None and step <= last:
            self._note(
                f"step {step} comes after step {last}: steps should grow over the whole training; "
                "curves go back with them, and a step that is there is written anew"
            )
        return step != last


class CalledSession(Session):
    """A session whose steps are named by calls. For the thread that trains."""

    recorder_type = CalledRecorder

    def record(self, call: Call) -> None:
        """Publish the step that a call names, if it is due."""
        if self._parts is None:
            return
        recorder = self._parts.recorder
        if isinstance(recorder, CalledRecorder):
            recorder.guard.run("log_attention", recorder.record, call)
