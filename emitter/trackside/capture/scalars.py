"""Loss, learning rate, loss scale and step time, without waiting for a device."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.amp.grad_scaler import GradScaler

from trackside.capture.clipping import Number
from trackside.capture.gradients import is_sharded, local

if TYPE_CHECKING:
    from types import FrameType

_NUM_PLAIN = 2  # `Tensor.backward` gives the tensor and its gradient by position
MANY_MICRO_BATCHES = 256  # in one step; more than anybody accumulates
NO_STEP = (
    f"{MANY_MICRO_BATCHES} calls of backward and no step: steps are those of a torch optimizer "
    "that updates parameters of the model; one that was created with others (flattened, sharded) "
    "has to be passed to attach(model, optimizer), and one that takes the place of another once "
    "more. A hand-written update is not seen"
)
MAX_FRAMES = 32  # from the optimizer's hook up to GradScaler.step, past the wrappers of frameworks


class LossWatch:
    """Listens to ``backward``: the scalar it is called on is the loss of a micro-batch.

    The value is raw: a loss that was divided for accumulation stays divided, and frameworks that
    divide it say so by `are_shares`.
    """

    def __init__(self) -> None:
        self.micro_batches = 0
        """Calls of backward on a loss since the last step."""

        self.num_left_out = 0
        """Those of them that a sampled step has no gradients of."""

        self.is_sampling = False
        """Whether the losses of the step in progress are kept, or only the last."""

        self.are_shares = False
        """Whether the losses of a step's micro-batches add up to its loss, already divided."""

        self._last: torch.Tensor | None = None
        self._before_call: tuple[torch.Tensor | None, torch.Tensor | None, int] = (None, None, 0)
        self._has_strangers = False  # others have called backward between ours and our step
        self._total: torch.Tensor | None = None  # of the losses that are kept
        self._num_losses = 0
        self._is_of_last_call = False  # whether the last call of backward was on the last loss

    @property
    def has_many(self) -> bool:
        """Whether the step in progress now has more micro-batches than anybody accumulates."""
        return self.micro_batches == MANY_MICRO_BATCHES + 1

    def on_plain_backward(self, args: Sequence[object]) -> bool:
        """Take a call on one loss in a step that is not sampled, quickly.

        False where it needs `on_backward`.
        """
        if len(args) < _NUM_PLAIN or args[1] is not None or type(args[0]) is not torch.Tensor:
            return False
        root = args[0]
        if root.ndim or self.micro_batches >= MANY_MICRO_BATCHES:
            return False
        self.micro_batches += 1
        self._last = root.detach()
        return True

    def on_backward(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Take a call of ``torch.autograd.backward(tensors, grad_tensors, ...)``."""
        self._is_of_last_call = False
        root = args[0] if args else kwargs.get("tensors")
        if not isinstance(root, torch.Tensor):
            if not isinstance(root, Sequence) or len(root) != 1:
                return
            root = root[0]
        if not isinstance(root, torch.Tensor) or root.numel() != 1:
            return
        given = args[1] if len(args) > 1 else kwargs.get("grad_tensors")
        if isinstance(given, Sequence) and len(given) == 1:  # of one root, as the last stage's
            given = given[0]
        if given is not None:
            return  # not a loss: the gradient comes from outside
        self.micro_batches += 1
        self._before_call = self._last, self._total, self._num_losses
        self._last = root.detach().reshape(())
        self._is_of_last_call = True
        if self.is_sampling:
            self._keep(self._last)

    def begin_with_last_call(self) -> None:
        """Forget the losses before the last call: no gradient of theirs is in the step.

        They were another model's, or their gradients were thrown away: by a GradScaler, or
        because they were not finite.
        """
        self._total, self._num_losses = None, 0
        self._before_call = self._last, None, 0
        if self._last is not None and self._is_of_last_call:
            self._keep(self._last)
        self.num_left_out = self.micro_batches - self._num_losses

    def leave_out_last_call(self) -> None:
        """Forget the loss of the last call: another model's, it changed no gradient of ours."""
        if self._is_of_last_call:
            self._last, self._total, self._num_losses = self._before_call
            self.num_left_out += 1
            self._is_of_last_call = False
            self.note_strangers()

    def note_strangers(self) -> None:
        """Trust no loss any more that was not looked at in a sampled step: others train too."""
        self._has_strangers = True

    def of_step(self, scale: Number | None) -> Number | None:
        """Return the loss of the micro-batches so far, divided by the loss scale.

        Their mean, or their sum where they are shares.
        """
        if self._total is None:
            return None
        with torch.no_grad():
            loss = self._total if self.are_shares else self._total / self._num_losses
            return as_number(loss if scale is None else loss / scale)

    def last(self, *, has_stepped: bool) -> torch.Tensor | None:
        """Return the last loss, as backward saw it.

        None where that is a share, or may be another model's: after a step, only the last call
        before it is surely of this one.
        """
        is_after_step = has_stepped and self.micro_batches > 0
        return None if self.are_shares or self._has_strangers or is_after_step else self._last

    def is_of_next_step(self, value: object) -> bool:
        """Whether a loss with a graph is another than the last that backward was called on."""
        if not isinstance(value, torch.Tensor) or not value.requires_grad or self._last is None:
            return False
        return value.data_ptr() != self._last.data_ptr()

    def end_step(self) -> None:
        """Begin the next step."""
        self.micro_batches = 0
        if self._num_losses:
            self._total, self._num_losses = None, 0

    def _keep(self, loss: torch.Tensor) -> None:
        """Add a loss up, at once: who never steps must not fill the memory."""
        if self._total is None:
            self._total = loss.to(torch.float32, copy=True)
        else:
            self._total = self._total + loss.to(torch.float32)
        self._num_losses += 1


class LocalClock:
    """Wall time of a sampled step up to its first backward, from when it was armed.

    Nothing in it waits for another rank: those wait for each other in backward, so that the time
    of a whole step is the same on all of them.
    """

    def __init__(self) -> None:
        self._armed_at_s: float | None = None
        self._seconds: float | None = None

    def arm(self, now_s: float) -> None:
        """Begin, at the end of the step before; ``now_s`` is of a monotonic clock."""
        self._armed_at_s, self._seconds = now_s, None

    def on_backward(self, now_s: float) -> None:
        """End at the first backward."""
        if self._armed_at_s is not None:
            self._seconds, self._armed_at_s = now_s - self._armed_at_s, None

    def take(self) -> float | None:
        """Return the time of the step in progress, and forget it."""
        seconds, self._seconds, self._armed_at_s = self._seconds, None, None
        return seconds


class StepClock:
    """Mean wall time of a step since the last sample."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._steps = 0

    def lap(self, now_s: float, steps: int) -> float | None:
        """Return seconds per step since the last lap; None for the first.

        Args:
            now_s: of a monotonic clock, at the end of a step.
            steps: optimizer steps done so far.
        """
        since_s, done = self._since_s, steps - self._steps
        self._since_s, self._steps = now_s, steps
        return None if since_s is None or done < 1 else (now_s - since_s) / done


def as_number(value: object) -> Number | None:
    """Return a plain number or a 0-d tensor on a device; None for what is neither.

    Values on the CPU are read at once, so that a tensor that is changed later stays as it was.
    A tensor on a device is copied there. A DTensor has a number where every rank holds the whole.
    """
    if isinstance(value, torch.Tensor):
        if type(value) is not torch.Tensor:  # only others can be a DTensor
            if is_sharded(value):
                return None
            value = local(value)
        if value.numel() != 1 or value.is_complex() or value.is_meta:
            return None
        value = value.detach()
        if value.device.type == "cpu":
            return float(value)
        return value.reshape(()).clone()
    try:
        return float(value)  # type: ignore[arg-type]  # the error is the check
    except (TypeError, ValueError, OverflowError):
        return None


def learning_rate(optimizer: torch.optim.Optimizer) -> Number | None:
    """Return the learning rate of the first parameter group."""
    groups = optimizer.param_groups
    return as_number(groups[0].get("lr")) if groups else None


def amp_scale(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """Return the loss scale of the `GradScaler` whose step is on this thread's stack.

    Only inside an optimizer's step hook. None where no scaler takes this step.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no public way to this frame
    for _ in range(MAX_FRAMES):
        if frame is None:
            return None
        if frame.f_code is GradScaler.step.__code__:
            scaler = frame.f_locals.get("self")
            is_enabled = isinstance(scaler, GradScaler) and scaler.is_enabled()
            scale = getattr(scaler, "_scale", None) if is_enabled else None
            return scale.detach().clone() if isinstance(scale, torch.Tensor) else None
        frame = frame.f_back
    scale = getattr(optimizer, "grad_scale", None)
    return scale.detach().clone() if isinstance(scale, torch.Tensor) else None
