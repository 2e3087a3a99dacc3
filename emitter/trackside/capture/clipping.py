"""Clip events: the norm before clipping and its limit, of every step, without waiting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trackside.capture.gradients import total_norm

_NAMES = ("parameters", "max_norm", "total_norm")
Number = float | torch.Tensor
"""A value, or a 0-d tensor on a device that is not waited for."""


@dataclass(frozen=True, slots=True)
class ClipEvent:
    """What clipping did to the gradients of one step."""

    norm: Number
    """Over everything that was clipped, before it was."""

    max_norm: float | None
    """None where it is a tensor on a device."""


class ClipWatch:
    """Listens to `torch.nn.utils.clip_grad_norm_` and counts how often it clips.

    Norms of another order than 2 are taken as they come. Where parts of the model are clipped by
    themselves, their norms are put together, and the last limit counts.
    """

    def __init__(self) -> None:
        self._norms: list[torch.Tensor] = []
        self._max_norm: float | None = None
        self._clipped: Number = 0.0

    @property
    def has_event(self) -> bool:
        """Whether the step in progress was clipped, or could have been."""
        return bool(self._norms)

    def on_clip(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Take a call of ``clip_grads_with_norm_(parameters, max_norm, total_norm, ...)``."""
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        norm, limit = given["total_norm"], given["max_norm"]
        self._norms.append(_local(norm))
        is_known = not isinstance(limit, torch.Tensor) or limit.device.type == "cpu"
        self._max_norm = float(limit) if is_known else None  # type: ignore[arg-type]  # torch does it too

    def event(self) -> ClipEvent | None:
        """Return the clip event of the step in progress, None where nothing was clipped."""
        if not self._norms:
            return None
        norm = self._norms[0] if len(self._norms) == 1 else total_norm(self._norms)
        return ClipEvent(_number(norm), self._max_norm)

    def end_step(self) -> None:
        """Count the step in progress if it was clipped, and begin the next."""
        if self._max_norm is not None:
            for norm in self._norms:
                is_clipped = _number(norm) > self._max_norm
                if is_clipped is False:
                    continue
                self._clipped = self._clipped + (
                    is_clipped if isinstance(is_clipped, torch.Tensor) else 1.0
                )
                break
        self.discard()

    def discard(self) -> None:
        """Forget the step in progress: it was skipped."""
        self._norms.clear()

    def take_count(self) -> Number:
        """Return how many steps were clipped since the last call."""
        clipped, self._clipped = self._clipped, 0.0
        return clipped


def _local(norm: object) -> torch.Tensor:
    """Return the norm as a tensor; of a sharded model, that of this rank's shards."""
    if type(norm) is torch.Tensor:
        return norm
    to_local = getattr(norm, "to_local", None)
    local = to_local() if to_local is not None else norm
    return local if isinstance(local, torch.Tensor) else torch.tensor(float(local))  # type: ignore[arg-type]  # a plain number


def _number(norm: torch.Tensor) -> Number:
    if norm.requires_grad:
        norm = norm.detach()
    return float(norm) if norm.is_cpu else norm
