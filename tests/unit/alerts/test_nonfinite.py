"""Loss or gradient that is not finite."""

import math

import pytest
from observed import make_observation

from tracksided.alerts.nonfinite import Nonfinite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["loss", "norm_before_clip"])
def test_it_is_found_at_once_and_critical(field: str, bad: float) -> None:
    finding = Nonfinite().check(make_observation(7, **{field: bad}), ())

    assert finding is not None
    assert finding.severity == "critical"
    assert "step 7" in finding.message


def test_finite_numbers_and_unknown_ones_are_fine() -> None:
    rule = Nonfinite()

    assert rule.check(make_observation(7), ()) is None
    unknown = make_observation(7, loss=None, norm_before_clip=None, norm_after_clip=None)
    assert rule.check(unknown, ()) is None


def test_gradient_under_a_scaler_must_overflow_several_times_in_a_row() -> None:
    rule = Nonfinite(scaled_steps=3)
    steps = [
        make_observation(step, amp_scale=65536.0, norm_before_clip=math.inf) for step in range(1, 4)
    ]
    good = make_observation(4, amp_scale=32768.0)

    assert rule.check(steps[0], ()) is None
    assert rule.check(steps[1], steps[:1]) is None
    assert rule.check(steps[2], steps[:2]) is not None
    assert rule.check(steps[2], (steps[0], good)) is None


def test_loss_under_a_scaler_needs_no_patience() -> None:
    assert Nonfinite().check(make_observation(1, amp_scale=2.0, loss=math.nan), ()) is not None
