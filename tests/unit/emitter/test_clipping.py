"""Counting clipped steps where norms are on a device, which must not be waited for."""

import math

import pytest
import torch
from torch.distributed.tensor import Partial

from trackside.capture import clipping
from trackside.capture.clipping import ClipWatch
from trackside.capture.owned import OwnParameters

PARAMETER = torch.nn.Parameter(torch.ones(1))


class _OnDevice(torch.Tensor):
    """A CPU tensor that says it is elsewhere, and refuses to be read."""

    @property
    def is_cpu(self) -> bool:  # type: ignore[override] # an attribute of torch's
        return False

    def __float__(self) -> float:
        raise AssertionError("waited for the device")

    def __bool__(self) -> bool:
        raise AssertionError("waited for the device")


def _norm(value: float) -> torch.Tensor:
    return torch.tensor(value).as_subclass(_OnDevice)


def _watch() -> ClipWatch:
    return ClipWatch(OwnParameters(lambda: [PARAMETER]), lambda: True)


def _clip(watch: ClipWatch, *calls: tuple[float, float]) -> None:
    for norm, limit in calls:
        watch.on_clip(([PARAMETER], limit), {"total_norm": _norm(norm)})
    watch.end_step()


def _read(number: float | torch.Tensor | None) -> float:
    assert isinstance(number, torch.Tensor)
    return number.as_subclass(torch.Tensor).item()


def test_norms_on_a_device_are_counted_without_a_wait() -> None:
    watch = _watch()

    _clip(watch, (2.0, 1.0))
    _clip(watch, (0.5, 1.0))
    _clip(watch, (5.0, 7.0))
    _clip(watch, (9.0, 7.0))

    tally, after = watch.take_tally(), watch.take_tally()
    assert (_read(tally.num_clipped), _read(tally.norm_peak)) == (2, 9.0)
    assert (after.num_clipped, after.norm_peak) == (0, None)


def test_parts_on_a_device_count_as_one_step() -> None:
    watch = _watch()

    _clip(watch, (0.5, 1.0), (3.0, 1.0), (2.0, 1.0))

    assert _read(watch.take_tally().num_clipped) == 1


def test_a_long_time_without_a_sample_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "MAX_UNREAD", 4)
    watch = _watch()

    for index in range(11):
        _clip(watch, (float(index), 5.5))
        assert len(watch._unread) < 4

    tally = watch.take_tally()
    assert (_read(tally.num_clipped), _read(tally.norm_peak)) == (5, 10.0)


def test_a_limit_that_is_on_a_device_is_not_counted() -> None:
    watch = _watch()
    watch.on_clip(([PARAMETER], torch.empty((), device="meta"), torch.tensor(3.0)), {})

    event = watch.event()
    watch.end_step()

    assert event is not None
    assert (event.norm, event.max_norm) == (3.0, None)
    assert watch.take_tally().num_clipped == 0


def test_one_nan_among_the_norms_is_the_peak() -> None:
    watch = _watch()

    for norm in (3.0, float("nan"), 5.0):
        _clip(watch, (norm, 1.0))

    assert math.isnan(_read(watch.take_tally().norm_peak))


class _InParts:
    """What torch hands over where the ranks have not put their norms together."""

    placements = (Partial(),)


def test_a_norm_that_no_rank_knows_is_not_taken_for_the_whole() -> None:
    watch = _watch()
    watch.on_clip(([PARAMETER], 1.0), {"total_norm": _InParts()})

    event = watch.event()
    watch.end_step()

    assert event is not None
    assert (event.norm, event.max_norm) == (None, 1.0)
    assert watch.take_tally().norm_peak is None
