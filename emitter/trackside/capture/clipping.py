"""Clip events: the norm before clipping and its limit, of every step, without waiting."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from trackside.capture.gradients import is_partial, local, total_norm
from trackside.capture.owned import OwnParameters

if TYPE_CHECKING:
    from types import FrameType

L2 = 2.0  # the order of a norm that nobody says anything of
MAX_FRAMES = 16  # from the hook up to torch's clip_grad_norm_, past the guard
MAX_UNREAD = 1024  # steps; each holds a block of 512 bytes on the device
_NUMBERS = (float, int)
_NAMES = ("parameters", "max_norm", "total_norm")
_NUM_PLAIN = len(_NAMES)  # all are given by position
Number = float | torch.Tensor
"""A value, or a 0-d tensor on a device that is not waited for."""


@dataclass(frozen=True, slots=True)
class ClipEvent:
    """What clipping did to the gradients of one step."""

    norm: Number | None
    """Over everything that was clipped, before it was; None where the ranks hold it in parts."""

    max_norm: float | None
    """None where it is a tensor on a device."""

    order: float
    """Of the norm: 2 for L2."""


@dataclass(frozen=True, slots=True)
class ClipTally:
    """What clipping did to the steps since the last sample."""

    num_clipped: Number
    norm_peak: Number | None
    """Largest norm before clipping, NaN if one was; None where no step was compared."""


NOTHING_CLIPPED = ClipTally(0.0, None)


class ClipWatch:
    """Listens to `torch.nn.utils.clip_grad_norm_` and counts how often it clips.

    Norms of another order than 2 are taken as they come; `ClipEvent.order` tells. Where parts of
    the model are clipped by themselves, their norms are put together, and the last limit counts.
    """

    def __init__(self, own: OwnParameters, can_compute: Callable[[], bool]) -> None:
        """Start empty.

        Args:
            own: calls that clip none of these are another model's.
            can_compute: whether work may be given to a device now.
        """
        self.norms: list[torch.Tensor] = []
        """Of the step in progress, of each time it was clipped, or could have been."""

        self._own, self._can_compute = own, can_compute
        self._first: object = None  # of the parameters in the last call that clipped our own
        self._is_old = False  # backward has run since the norms came
        self._max_norm: float | None = None
        self._order: float | None = None  # None: to be found
        self._is_in_parts = False  # norms that no rank knows: then all of them are
        self._num_clipped: torch.Tensor | None = None  # of the steps that are compared
        self._peak: torch.Tensor | None = None  # of the same steps
        self._unread: list[tuple[torch.Tensor, float]] = []  # steps that are not compared yet

    @property
    def has_heard(self) -> bool:
        """Whether torch's clipping has been called in this session."""
        return self._max_norm is not None or self._is_in_parts or bool(self.norms)

    def on_plain_clip(self, args: Sequence[object]) -> bool:
        """Take a call of the usual form, quickly; False where it needs `on_clip`."""
        if len(args) < _NUM_PLAIN:
            return False
        parameters, limit, norm = args[0], args[1], args[2]
        if type(parameters) is not list or not parameters or parameters[0] is not self._first:
            return False
        if type(norm) is not torch.Tensor or not isinstance(limit, _NUMBERS):
            return False
        self.norms.append(norm)
        self._max_norm = limit
        return True

    def on_clip(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Take a call of ``clip_grads_with_norm_(parameters, max_norm, total_norm, ...)``."""
        given: dict[str, Any] = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        norm, limit = given["total_norm"], given["max_norm"]
        parameters = given["parameters"]
        if not self._own.are_in(parameters):
            return
        if isinstance(parameters, list) and parameters:
            self._first = parameters[0]
        if self._order is None:
            self._order = _order_of_caller()
        if self._is_old:  # the step of what is there was skipped, by a GradScaler for example
            self.discard()
        if is_partial(norm):
            self._is_in_parts = True
        else:
            is_tensor = isinstance(norm, torch.Tensor)
            known = local(norm) if is_tensor else torch.tensor(float(norm), device="cpu")
            self.norms.append(known)
        is_known = not isinstance(limit, torch.Tensor) or limit.device.type == "cpu"
        self._max_norm = float(limit) if is_known else None

    def look_closely(self) -> None:
        """Find out about the next call what takes longer: the step is sampled."""
        self._first = self._order = None

    def note_backward(self) -> None:
        """Let what comes next take the place of what is there; until then it may be stepped on."""
        self._is_old, self._first = True, None

    def event(self) -> ClipEvent | None:
        """Return the clip event of the step in progress, None where nothing was clipped."""
        order = L2 if self._order is None else self._order
        if self._is_in_parts:
            return ClipEvent(None, self._max_norm, order)
        if not self.norms:
            return None
        norm = self.norms[0] if len(self.norms) == 1 else total_norm(self.norms)
        return ClipEvent(_number(norm), self._max_norm, order)

    def end_plain_step(self) -> bool:
        """End a step that was clipped once or not at all, quickly; False: it needs `end_step`."""
        norms = self.norms
        if not norms:
            return True
        limit = self._max_norm
        if limit is None or len(norms) > 1 or not norms[0].is_cpu:
            return False
        if len(self._unread) >= MAX_UNREAD - 1:
            return False
        self._unread.append((norms.pop(), limit))
        return True

    def end_step(self) -> None:
        """Note the step in progress, if that can be done now, and begin the next."""
        if self._max_norm is not None and self.norms and self._can_compute():
            largest = self.norms[0]
            for norm in self.norms[1:]:
                largest = torch.maximum(largest, norm)
            self._unread.append((largest, self._max_norm))
            if len(self._unread) >= MAX_UNREAD:
                self._compare()
        self.discard()

    def discard(self) -> None:
        """Forget the step in progress."""
        self.norms.clear()
        self._is_old = False

    def take_tally(self) -> ClipTally:
        """Return what was seen since the last call."""
        self._own.forget()
        self._compare()
        count, self._num_clipped = self._num_clipped, None
        peak, self._peak = self._peak, None
        return ClipTally(
            0.0 if count is None else _number(count), None if peak is None else _number(peak)
        )

    def _compare(self) -> None:
        """Compare norms with limits all at once: few kernels for many steps."""
        unread, self._unread = self._unread, []
        groups: dict[tuple[float, torch.device], list[torch.Tensor]] = {}
        for norm, limit in unread:
            groups.setdefault((limit, norm.device), []).append(norm.detach())
        for (limit, _), norms in groups.items():
            together = torch.stack(norms)
            count = (together > limit).sum(dtype=torch.float32)
            self._num_clipped = _merge(torch.add, self._num_clipped, count)
            self._peak = _merge(torch.maximum, self._peak, together.amax())


def _order_of_caller() -> float:
    """Return the order of the norm that the running ``clip_grad_norm_`` has taken."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no public way to this frame
    for _ in range(MAX_FRAMES):
        if frame is None:
            break
        if frame.f_code.co_name == "clip_grad_norm_" and "norm_type" in frame.f_locals:
            return float(frame.f_locals["norm_type"])
        frame = frame.f_back
    return L2


def _merge(
    merge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    so_far: torch.Tensor | None,
    more: torch.Tensor,
) -> torch.Tensor:
    """Merge on a device if either is there: the other way round would wait for it."""
    if so_far is None:
        return more
    device = more.device if so_far.is_cpu else so_far.device
    return merge(so_far.to(device, non_blocking=True), more.to(device, non_blocking=True))


def _number(norm: torch.Tensor) -> Number:
    if norm.requires_grad:
        norm = norm.detach()
    return float(norm) if norm.is_cpu else norm
