import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.checkpoints.weights import METHODS, weights
from tracksided.errors import SettingsError


@given(st.sampled_from(METHODS), st.integers(1, 30))
def test_weights_sum_to_one_and_none_is_negative(method: str, count: int) -> None:
    found = weights(method, list(range(0, 10 * count, 10)))

    assert len(found) == count
    assert math.isclose(sum(found), 1.0, rel_tol=1e-12)
    assert min(found) >= 0


@pytest.mark.parametrize("method", ["uniform", "lawa", "wsm-linear"])
def test_uniform_methods_give_every_checkpoint_the_same(method: str) -> None:
    assert np.allclose(weights(method, [1, 2, 3, 4]), 0.25)


def test_ema_of_even_steps_halves_per_checkpoint_at_decay_one_half() -> None:
    found = weights("ema", [100, 200, 300], decay=0.5)

    assert np.allclose(found, np.array([1, 2, 4]) / 7)


def test_ema_counts_a_checkpoint_for_the_gap_before_it() -> None:
    # Mean gap 200: ages 2, 1.5 and 0; gaps 100, 100 and 300.
    found = weights("ema", [100, 200, 500], decay=0.25)

    raw = np.array([100 * 0.25**2, 100 * 0.25**1.5, 300])
    assert np.allclose(found, raw / raw.sum())


def test_ema_without_steps_takes_even_gaps() -> None:
    assert weights("ema", [None, None], decay=0.5) == weights("ema", [1, 2], decay=0.5)


@pytest.mark.parametrize("steps", [[7, 7, 7], [3, 9, 6]])
def test_ema_of_steps_that_do_not_ascend_takes_even_gaps(steps: list[int]) -> None:
    assert weights("ema", steps, decay=0.5) == weights("ema", [1, 2, 3], decay=0.5)


@pytest.mark.parametrize(
    ("method", "schedule"),
    [
        ("wsm-cosine", lambda u: (1 + math.cos(math.pi * u)) / 2),
        ("wsm-1-sqrt", lambda u: 1 - math.sqrt(u)),
    ],
)
def test_a_merge_scales_each_update_by_the_decay_schedule(method: str, schedule: object) -> None:
    # theta_j = theta_0 + sum of updates up to j: the merged model must hold update i
    # times the schedule at i / n.
    count = 6
    updates = np.random.default_rng(0).normal(size=count)
    checkpoints = np.cumsum(updates)

    merged = float(np.dot(weights(method, [None] * count), checkpoints))

    assert callable(schedule)
    levels = [1.0] + [schedule(i / count) for i in range(1, count)]
    assert math.isclose(merged, float(np.dot(levels, updates)), rel_tol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0, math.nan])
def test_a_decay_outside_of_zero_and_one_is_refused(decay: float) -> None:
    with pytest.raises(SettingsError, match="decay"):
        weights("ema", [1, 2], decay=decay)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="wsm-cosine"):
        weights("median", [1, 2])
