"""A sampled step between its hooks and its record: what is known, and what is still on a device."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from trackside.capture.budget import fit
from trackside.capture.captured import CapturedAttention
from trackside.capture.clipping import L2, NOTHING_CLIPPED, ClipTally, Number
from trackside.capture.gradients import CapturedGradients
from trackside.capture.logbook import LOGGED_PREFIX, LogPage
from trackside.staging import HostArray
from trackside.wire.records import Step

CLIP_EPSILON = 1e-6  # as in torch.nn.utils.clip_grad_norm_
SAME_NORM = 1e-2  # rounding in half precision is 4e-3, and loss scales are powers of two
MAX_LOCAL_DRIFT = 1e-3  # far above the rounding of a norm, far below what averaging changes
_NUMBER = "number/"


@dataclass(slots=True, kw_only=True)
class StepDraft:
    """Everything that a `Step` record will hold. Numbers may be 0-d tensors on a device."""

    step: int
    epoch: int | None
    epoch_requested: bool
    timestamp: float = 0.0
    loss: Number | None = None
    learning_rate: Number | None = None
    clip_norm: Number | None = None
    """Before clipping; None where nothing was clipped."""

    max_norm: float | None = None
    clip_order: float = L2
    """Of the norm that was clipped by, and of its limit."""

    clipping: ClipTally = NOTHING_CLIPPED
    """Since the last sample."""

    num_steps: int = 0
    """Steps since the last sample."""

    local_norm: Number | None = None
    local_drift: Number | None = None
    """How much of the gradient behind it is not the rank's own; see `OwnNorm.drift`."""

    is_local_norm_total: bool = False
    """Whether one rank is all there is, so that the norm before clipping is the local one."""

    step_seconds: float | None = None
    local_seconds: float | None = None
    amp_scale: Number | None = None
    micro_batches: int | None = None
    shrunk: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    attention: tuple[CapturedAttention, ...] = ()
    gradients: CapturedGradients | None = None
    page: LogPage = field(default_factory=LogPage)

    def fit(self, budget_bytes: int) -> bool:
        """Shrink the attention so that everything fits; tell whether anything was made smaller.

        Metadata comes on top: some kilobytes.
        """
        gradients = self.gradients
        rest = 0
        if gradients is not None:
            self.shrunk += gradients.shrunk
            rest = sum(tensor.nbytes for tensor in gradients.tensors.values())
        fitted = fit(self.attention, budget_bytes - rest)
        self.attention = fitted.attention
        self.shrunk += fitted.shrunk
        return bool(self.shrunk)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything that must reach the host, by name."""
        tensors: dict[str, torch.Tensor] = {}
        for index, captured in enumerate(self.attention):
            for name, tensor in captured.tensors.items():
                tensors[f"attention/{index}/{name}"] = tensor
        if self.gradients is not None:
            tensors.update(self.gradients.tensors)
        for name, number in self._numbers().items():
            if isinstance(number, torch.Tensor):
                tensors[_NUMBER + name] = number
        tensors.update(self.page.tensors())
        return tensors

    def finish(self, arrays: Mapping[str, HostArray]) -> tuple[Step, dict[str, HostArray]]:
        """Return the step, and of ``arrays`` (all of `tensors`) those that go along.

        ``arrays`` and ``dropped`` of the step are left to the publisher.
        """
        found = self._read(arrays)
        after = self._norm_after(found)
        before, clipped = self._clipped(found["clip_norm"], after)
        before, max_norm, peak = self._in_true_units(found, before, after)
        is_own = (found["local_drift"] or 0.0) <= MAX_LOCAL_DRIFT
        local_norm = found["local_norm"] if is_own else None
        step = Step(
            step=self.step,
            epoch=self.epoch,
            epoch_requested=self.epoch_requested,
            timestamp=self.timestamp,
            loss=found["loss"],
            learning_rate=found["learning_rate"],
            norm_before_clip=before,
            norm_after_clip=after,
            max_norm=max_norm,
            clipped=clipped,
            clip_rate=None if clipped is None else self._clip_rate(found["clip_count"]),
            norm_peak=peak,
            local_gradient_norm=before if self.is_local_norm_total else local_norm,
            step_seconds=self.step_seconds,
            local_seconds=self.local_seconds,
            amp_scale=found["amp_scale"],
            micro_batches=self.micro_batches,
            dropped={},
            shrunk=self.shrunk,
            tokens=self.tokens,
            attention=tuple(captured.call for captured in self.attention),
            gradients=None if self.gradients is None else self.gradients.meta,
            scalars=self.page.scalars(arrays),
            texts=self.page.texts,
            arrays=(),
        )
        kept = {
            name: array
            for name, array in arrays.items()
            if not name.startswith((_NUMBER, LOGGED_PREFIX))
        }
        return step, kept

    def _clipped(
        self, clip_norm: float | None, after: float | None
    ) -> tuple[float | None, bool | None]:
        """Return the norm before clipping, and whether that was clipped.

        Args:
            clip_norm: what clipping was called with; None where it was not, or nobody knows it.
            after: the norm as the optimizer saw it.
        """
        if clip_norm is not None:
            return clip_norm, None if self.max_norm is None else clip_norm > self.max_norm
        if self.max_norm is not None:  # clipped by a norm that no rank knows
            return None, None
        return after, None if self.gradients is None else False

    def _clip_rate(self, num_clipped: float | None) -> float | None:
        if num_clipped is None or not self.num_steps:
            return None
        return min(num_clipped / self.num_steps, 1.0)

    def _norm_after(self, found: Mapping[str, float | None]) -> float | None:
        """Return the norm as the optimizer saw it; of a sharded model it follows from clipping."""
        if self.gradients is None or not self.gradients.is_sharded:
            return found["norm_after"]
        before = found["clip_norm"]
        if before is None or self.max_norm is None or self.clip_order != L2:
            return None
        return before * _clip_factor(before, self.max_norm)

    def _in_true_units(
        self, found: Mapping[str, float | None], before: float | None, after: float | None
    ) -> tuple[float | None, float | None, float | None]:
        """Return norm, limit and peak of clipping; norm and peak as L2 norms of true gradients.

        Heard is the norm that was clipped by. Of another order, what it left tells the L2 norm;
        of gradients that were still multiplied by the loss scale, it is divided by that.
        """
        norm, limit, peak = found["clip_norm"], self.max_norm, found["norm_peak"]
        if norm is None or limit is None:
            return before, limit, peak
        factor = _clip_factor(norm, limit)
        if self.clip_order != L2:
            return (after / factor if after is not None and factor > 0 else None), limit, None
        scale, left = found["amp_scale"], norm * factor
        if scale is None or after is None or math.isclose(left, after, rel_tol=SAME_NORM):
            return before, limit, peak
        if math.isclose(left, after * scale, rel_tol=SAME_NORM):
            return norm / scale, limit / scale, None  # the peak may be of another scale
        return before, limit, peak

    def _numbers(self) -> dict[str, Number | None]:
        return {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "clip_norm": self.clip_norm,
            "clip_count": self.clipping.num_clipped,
            "norm_peak": self.clipping.norm_peak,
            "local_norm": self.local_norm,
            "local_drift": self.local_drift,
            "amp_scale": self.amp_scale,
            "norm_after": None if self.gradients is None else self.gradients.total_norm,
        }

    def _read(self, arrays: Mapping[str, HostArray]) -> dict[str, float | None]:
        return {
            name: arrays[_NUMBER + name].number() if isinstance(number, torch.Tensor) else number
            for name, number in self._numbers().items()
        }


def _clip_factor(norm: float, limit: float) -> float:
    """Return what torch's clipping multiplies gradients by."""
    return min(1.0, limit / (norm + CLIP_EPSILON))
