"""From hooks to records: which steps are sampled, what is collected when, what is published.

A step in the life of the recorder:

================== ==============================================================================
moment             what happens if the step is sampled
================== ==============================================================================
end of step s - 1  `_arm`: attention tap, local norms; compiled code runs eagerly from here
forward            the tap captures the first forward with gradients
backward           losses are kept
start of step s    `_begin`: everything is taken, compiled code runs compiled again
end of step s      `_finish`: weights again, then to the host and into the ring
================== ==============================================================================

A step that is not sampled costs integer tests. Where the loss is logged after its step, the record
waits for it until the next forward or backward.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ParamSpec

import torch
from torch import nn

from trackside.capture.clipping import ClipWatch, Number
from trackside.capture.held import UnheldModule
from trackside.capture.local_norm import LocalNorm
from trackside.capture.logbook import STRANGE_STEP, Logbook, as_step
from trackside.capture.owned import OwnParameters, TrainingThread
from trackside.capture.scalars import NO_STEP, LocalClock, LossWatch, StepClock, as_number
from trackside.closures import run_after_closure
from trackside.collector import Collector
from trackside.config import EmitterConfig
from trackside.draft import StepDraft
from trackside.guard import Guard
from trackside.hooks import backward_hook, clip_hook
from trackside.identity import Place
from trackside.late_loss import LateLoss
from trackside.notes import Notes
from trackside.opening import make_gradient_tap, make_tap
from trackside.optimizer_hooks import Args, Kwargs, OptimizerHooks
from trackside.outbox import Outbox
from trackside.publisher import Publisher
from trackside.root_hook import RootHook, has_compiled_parts, unwrap
from trackside.staging import Staging
from trackside.stance import Stance
from trackside.wire.layout import DropCause

STEP_TOLERANCE = 1  # log(step=) may count from 0, and come before or after the step
_P = ParamSpec("_P")


class Recorder:
    """Watches one model and optimizer, and publishes the sampled steps. The training thread's."""

    _follows_every_forward = False
    """Whether the model stays hooked between sampled steps."""

    _root = UnheldModule()

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        *,
        config: EmitterConfig,
        place: Place,
        publisher: Publisher,
        staging: Staging | None = None,
    ) -> None:
        """Prepare; nothing is touched before `install`."""
        self.step = 0
        """Optimizer steps completed, as the user counts them."""

        self.steps_seen = 0
        """Optimizer steps completed since the session began."""

        self.sampled = 0
        """Steps that were due."""

        self.guard = Guard(lambda: publisher.count_drop(DropCause.ERROR))
        self._config = config
        self._place = place
        self._publisher = publisher
        self._root = unwrap(model)
        self._root_hook = RootHook(self._root, self._on_forward)
        self.hooks = OptimizerHooks(self._root, optimizer, self.on_step_begin, self.on_step_end)
        """Around the optimizer that is watched."""

        takes_attention = config.attention and place.rank == 0
        self._tap = make_tap(self._root, config, self.guard.report) if takes_attention else None
        self._gradients = make_gradient_tap(self._root, config)
        self._loss, self._thread = LossWatch(), TrainingThread()
        self._note = Notes().say
        self.logbook = Logbook(config.ring_bytes)
        self._outbox = Outbox(
            publisher,
            staging or Staging(),
            logbook=self.logbook,
            step_bytes=config.step_budget_bytes,
            note=self._note,
        )
        self._clip = ClipWatch(OwnParameters(self.hooks.all_parameters), self._outbox.can_copy)
        self._collector = Collector(
            tap=self._tap,
            gradients=self._gradients,
            local_norm=LocalNorm(self.guard) if place.world_size > 1 else None,
            loss=self._loss,
            clip=self._clip,
            guard=self.guard,
            can_copy=self._outbox.can_copy,
            thread=self._thread,
        )
        self._clock, self._local_clock = StepClock(), LocalClock()
        self._stance, self._every = Stance(), config.every
        self._epoch: int | None = None
        self._epoch_requested = self._is_over = self._in_optimizer = False
        self._has_seen_forward = False
        self._is_sampling = self._is_arming_late = self._is_scaled = False
        self._last_sampled, self._logged_loss = 0, LateLoss()
        self._draft: StepDraft | None = None

    def install(self) -> None:
        """Hook everything. The first step is sampled if it is due and nothing is compiled."""
        backward_hook.add(self._on_backward)
        clip_hook.add(self._on_clip)
        self.hooks.install()
        if self._config.is_due(1):
            # Not armed here: a model that is compiled after attach would be traced armed.
            self._is_sampling = self._loss.is_sampling = self._is_arming_late = True
        if self._is_arming_late or self._follows_every_forward:
            self._hook_step()

    def log(self, step: int | None, epoch: float | None, scalars: Mapping[str, object]) -> None:
        """Take in what the user logs; see `Session.log`."""
        count = self.step if step is None else as_step(step)
        if count is None:
            self._note(STRANGE_STEP)
            return
        if abs(count - self.step) > STEP_TOLERANCE:
            self.follow(count)
        if epoch is not None:
            self._set_epoch(int(epoch))
        loss = as_number(scalars.get("loss"))
        others = {name: value for name, value in scalars.items() if name != "loss" or loss is None}
        self._note(*self.logbook.add_values(self._log_step() if step is None else count, others))
        if loss is not None:  # at last: a step that waits for its loss takes the others along
            self._log_loss(loss, scalars["loss"])

    def log_at(self, step: int, values: Mapping[str, object]) -> None:
        """Take in values of another count than the optimizer's; see `Session.log_at`."""
        count = as_step(step)
        self._note(*[STRANGE_STEP] if count is None else self.logbook.add_values(count, values))

    def log_text(self, tag: str, text: str) -> None:
        """Take in a text; see `Session.text`."""
        self.logbook.add_text(self._log_step(), tag, text)

    def follow(self, step: int) -> None:
        """Take over somebody's count of completed steps, exactly."""
        if step != self.step:
            self._set_step(int(step))

    def sum_micro_batches(self) -> None:
        """Take what backward is called on as shares of the step's loss from now on."""
        self._loss.are_shares = True

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Take what runs inside for a forward of the model; see `Session.forward`."""
        self._on_forward()
        with contextlib.nullcontext() if self._tap is None else self._tap.forward():
            yield

    def on_step_begin(
        self, optimizer: torch.optim.Optimizer, args: Args, kwargs: Kwargs
    ) -> tuple[Args, Kwargs] | None:
        """Run before the optimizer's step; a closure in its arguments comes back wrapped."""
        if not self._is_sampling or self._is_over:
            return None

        def begin() -> None:
            self._run_in_optimizer("start of an optimizer step", self._begin, optimizer)

        # What a closure does inside of the step is seen only after it.
        wrapped = run_after_closure(args, kwargs, begin)
        if wrapped is None:
            begin()
        return wrapped

    def on_step_end(self) -> None:
        """Run after the optimizer's step."""
        if self._is_over:
            return
        self.step += 1
        self.steps_seen += 1
        if self._clip.norms and not self._clip.end_plain_step():
            self._run_in_optimizer("clipping", self._clip.end_step)
        if self._is_sampling:
            self._is_sampling = False  # whatever fails in there
            self._run_in_optimizer("end of an optimizer step", self._finish)
            self._run_in_optimizer("end of an optimizer step", self._unhook_forward)
        elif self.steps_seen == 1:
            self._clock.lap(time.perf_counter(), 1)
        self._loss.end_step()
        self._logged_loss.of_step = None
        self._has_seen_forward = False
        if (self.step + 1) % self._every == 0:
            self._run_in_optimizer("arming", self._arm)
        if self._outbox.queue:
            self._run_in_optimizer("publishing", self._outbox.flush)

    def remove(self) -> None:
        """Unhook everything; twice is fine.

        Called by a hook of the optimizer, what torch iterates over stays until the next backward.
        """
        self._is_over, self._is_sampling = True, False
        self._stance.restore()
        self._collector.disarm_backward()
        self._unhook_forward()
        clip_hook.remove(self._on_clip)
        if not self._in_optimizer:
            backward_hook.remove(self._on_backward)
            self.hooks.remove()

    def finish(self, reason: str) -> None:
        """Publish what is under way, then the last record."""
        self._stop_waiting()
        loss = self._logged_loss.newest
        if loss is None and not self._is_scaled:  # else the last value of backward is not the loss
            loss = as_number(self._loss.last(has_stepped=self.steps_seen > 0))
        self._outbox.close(reason, steps=self.steps_seen, sampled=self.sampled, loss=loss)

    def _on_forward(self) -> None:
        self._has_seen_forward = True
        if self._logged_loss.waiting is not None:
            self.guard.run("start of a forward", self._stop_waiting)
        if self._is_arming_late:
            self.guard.run("start of the first forward", self._arm_late)

    def _hook_step(self) -> None:
        """Hook model and optimizer: only around sampled steps, so that the others do not pay."""
        self.hooks.arm()
        # First: it arms the tap in front of the first forward, whose hooks run in this order.
        self._root_hook.install()
        if self._tap is not None:
            self._tap.install()

    def _unhook_forward(self) -> None:
        """Unhook the model, as far as nothing needs its next forward."""
        if self._is_sampling or (self._follows_every_forward and not self._is_over):
            return
        if self._tap is not None:
            self._tap.remove()
        if self._logged_loss.waiting is None:
            self._root_hook.remove()

    def _on_backward(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        waiting = self._logged_loss.waiting
        is_special = self._is_sampling or self._is_over or self._clip.norms or waiting
        if not is_special and self._loss.on_plain_backward(args):
            return
        if self._is_over:
            self.remove()
            return
        if self._thread.is_other():
            self._loss.note_strangers()
            return
        if self._is_sampling:
            self._local_clock.on_backward(time.perf_counter())
        if waiting is not None:
            self.guard.run("start of backward", self._stop_waiting)
        if self._tap is not None:
            self._tap.end_block()
        if self._clip.norms:
            self._clip.note_backward()
        self.guard.run("backward", self._loss.on_backward, args, kwargs)
        if self._loss.has_many and self.hooks.all_parameters():  # none where the model is gone
            self._note(NO_STEP)

    def _on_clip(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        if not self._clip.on_plain_clip(args):
            self.guard.run("clipping", self._clip.on_clip, args, kwargs)

    def _arm(self) -> None:
        """Sample the step that begins now."""
        self._local_clock.arm(time.perf_counter())
        self._thread.set()
        self._is_sampling = self._loss.is_sampling = True
        if self._collector.needs_eager_code:
            self._stance.force_eager()
        self._hook_step()
        self._collector.arm(self.hooks.parameters, self.hooks.all_parameters)

    def _arm_late(self) -> None:
        self._is_arming_late = False
        self._thread.set()
        if self._is_sampling and not has_compiled_parts(self._root):
            self._collector.arm(self.hooks.parameters, self.hooks.all_parameters)

    def _disarm(self) -> None:
        """Leave the step that begins now alone after all."""
        self._is_sampling = self._loss.is_sampling = self._is_arming_late = False
        self._stance.restore()
        self.hooks.disarm()
        self._collector.disarm()

    def _begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Take what is there before the step changes it."""
        self._stance.restore()
        if not self._outbox.can_copy():  # what is computed here would become part of a CUDA graph
            self._publisher.count_drop(DropCause.COPY_LATE)
            return
        draft = StepDraft(
            step=self.step + 1,
            epoch=self._epoch,
            epoch_requested=self._epoch_requested,
            micro_batches=(self._loss.micro_batches - self._loss.num_left_out) or None,
            is_local_norm_total=self._place.world_size == 1,
            tokens=self.logbook.take_tokens(),
        )
        self._note(*self._collector.read(draft, optimizer))
        self._is_scaled = self._is_scaled or draft.amp_scale is not None
        self._draft = draft

    def _finish(self) -> None:
        """Complete the draft after the step and send it on its way."""
        draft, self._draft = self._draft, None
        local_seconds = self._local_clock.take()
        self._disarm()
        self._epoch_requested = False
        self.sampled += 1
        steps, self._last_sampled = self.steps_seen - self._last_sampled, self.steps_seen
        if draft is None:  # `_begin` failed, or the step's closure was never called
            return
        draft.timestamp = time.time()
        draft.num_steps, draft.clipping = steps, self._clip.take_tally()
        draft.step_seconds = self._clock.lap(time.perf_counter(), self.steps_seen)
        draft.local_seconds = local_seconds
        if self._gradients is not None:
            draft.gradients = self._gradients.after_step()
        if self._logged_loss.complete(draft):
            self._send(draft)

    def _send(self, draft: StepDraft) -> None:
        """Let go of a complete draft."""
        self._outbox.submit(draft)

    def _stop_waiting(self) -> None:
        """Wait for no logged loss, now and from now on."""
        self._send_late(self._logged_loss.give_up())

    def _send_late(self, draft: StepDraft | None) -> None:
        """Let go of a draft that was waiting for its loss."""
        if draft is not None:
            self._unhook_forward()
            self._outbox.submit(draft)

    def _log_loss(self, number: Number, value: object) -> None:
        self._logged_loss.newest = number
        if self._loss.micro_batches or self._has_seen_forward:
            self._logged_loss.of_step = number
        elif not self._loss.is_of_next_step(value):
            self._send_late(self._logged_loss.arrive())

    def _log_step(self) -> int:
        return self.step + bool(self._loss.micro_batches)

    def _set_step(self, step: int) -> None:
        self.step = step
        is_due = self._config.is_due(step + 1) or self._epoch_requested
        if is_due and not self._is_sampling:
            self._arm()
        elif self._is_sampling and not is_due:
            self._disarm()
            self._unhook_forward()

    def _set_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        if epoch in self._config.epochs:
            self._epoch_requested = True
            if not self._is_sampling:
                self._arm()

    def _run_in_optimizer(
        self, place: str, hook: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        self._in_optimizer = True
        try:
            self.guard.run(place, hook, *args, **kwargs)
        finally:
            self._in_optimizer = False
