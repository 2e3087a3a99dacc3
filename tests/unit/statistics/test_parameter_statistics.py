"""Statistics of gradients and weights, against Python's own and closed forms."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.catalog import PARAMETER_STATISTICS
from tracksided.gradient_memory import GradientMemory
from tracksided.samples import GradientSample
from tracksided.statistics.gradient_cosine import gradient_cosine
from tracksided.statistics.histogram import histogram
from tracksided.statistics.noise_scale import gradient_noise_scale

Make = Callable[..., GradientSample]
BY_NAME = {statistic.name: statistic for statistic in PARAMETER_STATISTICS}
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def compute(name: str, gradients: GradientSample) -> Sequence[float | list[float] | None]:
    return BY_NAME[name].compute(gradients)


@settings(max_examples=50)
@given(rows=st.lists(st.lists(FLOATS, min_size=1, max_size=6), min_size=1, max_size=3))
def test_sampled_statistics_equal_pythons(make_gradients: Make, rows: list[list[float]]) -> None:
    gradients = make_gradients(rows)
    largest = max(abs(value) for row in rows for value in row)

    assert compute("mean", gradients) == pytest.approx(
        [statistics.fmean(row) for row in rows], rel=1e-12, abs=largest * 1e-12
    )
    assert compute("std", gradients) == pytest.approx(
        [statistics.pstdev(row) for row in rows], rel=1e-6, abs=largest * 1e-9
    )
    assert compute("zero_fraction", gradients) == [row.count(0) / len(row) for row in rows]


@settings(max_examples=50)
@given(row=st.lists(FLOATS, min_size=1, max_size=40))
def test_quantiles_lie_on_straight_lines_between_elements(
    make_gradients: Make, row: list[float]
) -> None:
    (found,) = compute("quantiles", make_gradients([row]))

    ordered, largest = sorted(row), max(map(abs, row))
    expected = []
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        below, rest = divmod(share * (len(row) - 1), 1)
        low, high = ordered[int(below)], ordered[min(int(below) + 1, len(row) - 1)]
        expected.append(low + rest * (high - low))
    assert found == pytest.approx(expected, rel=1e-9, abs=largest * 1e-9)


def test_the_cosine_is_that_of_the_elements_of_both_steps(make_gradients: Make) -> None:
    before = make_gradients([[1, 0], [1, 2, 3], [5]], names=("a", "b", "gone"))
    now = make_gradients(
        [[1, 1], [-2, -4, -6], [1]],
        names=("a", "b", "new"),
        previous=GradientMemory.of(100, before),
    )

    assert compute("cosine_to_previous", now) == pytest.approx([math.sqrt(0.5), -1, None])


def test_the_whole_cosine_weighs_parameters_by_their_elements(make_gradients: Make) -> None:
    rng = np.random.default_rng(0)
    sizes = (1000, 50, 10)
    before, now = ([rng.normal(1, 1, size) * size for size in sizes] for _ in range(2))
    strides = (10, 5, 1)

    def sampled(rows: list[np.ndarray], **fields: object) -> GradientSample:
        elements = [row[::stride] for row, stride in zip(rows, strides, strict=True)]
        return make_gradients(elements, num_elements=sizes, **fields)

    found = gradient_cosine(sampled(now, previous=GradientMemory.of(1, sampled(before))))

    a, b = np.concatenate(now), np.concatenate(before)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert expected == pytest.approx(0.5, abs=0.05)
    assert found == pytest.approx(expected, abs=0.1)  # 100 of 1000 elements: one standard error


@pytest.mark.parametrize(
    ("before", "now"),
    [([[1.0]], [[0.0]]), ([[0.0]], [[1.0]]), ([[1.0, 2.0]], [[1.0]]), ([[]], [[]]), ([], [[1.0]])],
    ids=["zero now", "zero before", "another size", "no samples", "new"],
)
def test_the_cosine_is_unknown_where_there_is_nothing_to_compare(
    make_gradients: Make, before: list[list[float]], now: list[list[float]]
) -> None:
    memory = GradientMemory.of(1, make_gradients(before))
    gradients = make_gradients(now, previous=memory)

    assert compute("cosine_to_previous", gradients) == [None]
    assert gradient_cosine(gradients) is None


def test_a_broken_gradient_has_a_broken_cosine(make_gradients: Make) -> None:
    memory = GradientMemory.of(1, make_gradients([[1.0, 2.0]]))
    gradients = make_gradients([[math.nan, 1.0]], previous=memory)

    (found,) = compute("cosine_to_previous", gradients)
    assert math.isnan(found)
    assert math.isnan(gradient_cosine(gradients))


def test_a_memory_has_a_bound_and_owns_what_it_keeps(make_gradients: Make) -> None:
    rows = [np.arange(1024, dtype=np.float32)] * 600
    gradients = make_gradients(rows)

    memory = GradientMemory.of(1, gradients)

    kept = sum(elements.nbytes for elements in memory.elements)
    assert (1 << 19) < kept <= (1 << 20)
    assert not any(map(np.shares_memory, memory.elements, gradients.sample))
    same = dataclasses.replace(gradients, previous=memory)
    assert compute("cosine_to_previous", same) == pytest.approx([1.0] * 600)


def test_the_update_ratio_is_the_step_over_the_weights(make_gradients: Make) -> None:
    gradients = make_gradients([[0, 0], [0]], before=[[3, 4], [0]], after=[[3, 4.5], [1]])

    # |(0, 0.5)| / |(3, 4)|; nothing to compare with where the weights were 0
    assert compute("update_ratio", gradients) == [pytest.approx(0.1), None]


def test_whole_tensor_numbers_are_passed_on(make_gradients: Make) -> None:
    values = np.array([1.5, np.inf], dtype=np.float32)
    gradients = make_gradients([[1], [2]], norm=values, abs_max=values, weight_norm=values)

    for name in ("norm", "abs_max", "weight_norm"):
        assert compute(name, gradients) == [1.5, math.inf]
    assert compute("nonfinite", gradients) == [False, True]


def test_a_norm_that_overflows_alone_is_not_a_broken_gradient(make_gradients: Make) -> None:
    infinite = np.array([np.inf], dtype=np.float32)

    assert compute("nonfinite", make_gradients([[1]], norm=infinite)) == [False]


@pytest.mark.parametrize("name", BY_NAME)
def test_no_parameters_give_no_values(make_gradients: Make, name: str) -> None:
    assert compute(name, make_gradients([])) == []


@pytest.mark.parametrize("name", ["mean", "std", "zero_fraction", "update_ratio", "quantiles"])
def test_a_parameter_without_samples_is_unknown(make_gradients: Make, name: str) -> None:
    assert compute(name, make_gradients([[], [1.0]]))[0] is None


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_extreme_values_do_not_warn_or_raise(make_gradients: Make, name: str, value: float) -> None:
    whole = np.array([value], dtype=np.float32)
    row = [[value, value, 0.0]]
    gradients = make_gradients(row, row, [[0, -value, 1]], norm=whole, abs_max=abs(whole))

    (found,) = compute(name, gradients)

    if name in {"mean", "std"} and math.isfinite(value):
        assert math.isfinite(found)


@settings(max_examples=50)
@given(values=st.lists(FLOATS | st.sampled_from([math.nan, math.inf]), max_size=40))
def test_a_histogram_counts_every_finite_value_in_its_bin(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    finite = [float(value) for value in array if math.isfinite(value)]

    found = histogram("t", array, 7)

    if not finite:
        assert found is None
        return
    assert found.counts.sum() == len(finite)
    assert (found.minimum, found.maximum) == (min(finite), max(finite))
    assert found.total == pytest.approx(math.fsum(finite), rel=1e-9, abs=2.0**100 * 1e-12)
    assert found.sum_squares == pytest.approx(math.fsum(v * v for v in finite))
    assert (np.diff(found.edges) >= 0).all()


def test_histogram_bins_are_equal_from_the_smallest_to_the_largest() -> None:
    values = np.array([0, 0.5, 0.5, 1.5, 29.5, 30], dtype=np.float32)

    found = histogram("t", values, 7)

    np.testing.assert_allclose(found.edges, np.arange(31))
    assert {bin_: n for bin_, n in enumerate(found.counts) if n} == {0: 3, 1: 1, 29: 2}


def test_the_noise_scale_is_found_from_gradients_of_known_noise() -> None:
    """Gradients of batches of b samples: G + noise of variance tr(Sigma) / b."""
    rng = np.random.default_rng(0)
    dimensions, ranks, batch, sigma = 2000, 8, 4, 0.7
    true_gradient = rng.normal(0, 0.5, dimensions)
    local = true_gradient + rng.normal(0, sigma / math.sqrt(batch), (ranks, dimensions))
    expected = dimensions * sigma**2 / (true_gradient @ true_gradient)

    found = gradient_noise_scale(
        [float(np.linalg.norm(row)) for row in local],
        float(np.linalg.norm(local.mean(axis=0))),
        num_ranks=ranks,
    )

    assert found is not None
    assert batch * found == pytest.approx(
        expected, rel=0.1
    )  # two standard errors of 2000 dimensions


@pytest.mark.parametrize(
    ("local", "whole"), [([1.0, 1.0], 1.0), ([1.0, 1.0], 0.5), ([math.inf, 1.0], 1.0)]
)
def test_the_noise_scale_is_unknown_where_noise_or_signal_is_not_positive(
    local: list[float], whole: float
) -> None:
    assert gradient_noise_scale(local, whole, num_ranks=2) is None
