"""Statistics of a map, against loops over rows in float64 and against closed forms."""

import itertools
import math
import statistics
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.catalog import ATTENTION_STATISTICS
from tracksided.stages import AttentionMap

Make = Callable[..., AttentionMap]
BY_NAME = {statistic.name: statistic for statistic in ATTENTION_STATISTICS}
REL = 1e-5  # weights are float32


def compute(name: str, attention: AttentionMap) -> object:
    return BY_NAME[name].compute(attention)


Row = tuple[int, int, int, list[float], list[bool]]


def rows_of(attention: AttentionMap) -> Iterator[Row]:
    """Yield head, index, position, weights and visibility of every row that sees a key."""
    heads, num_rows, _ = attention.weights.shape
    for head, index in itertools.product(range(heads), range(num_rows)):
        visible = attention.visible[head if len(attention.visible) > 1 else 0, index].tolist()
        weights = [float(weight) for weight in attention.weights[head, index]]
        if any(visible) and sum(weights) != 0:
            yield head, index, int(attention.query_rows[index]), weights, visible


def mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def row_entropy(weights: list[float]) -> float:
    total = sum(weights)
    return -sum(w / total * math.log(w / total) for w in weights if w > 0)


def by_hand(attention: AttentionMap) -> dict[str, object]:
    rows = list(rows_of(attention))
    flat = [float(weight) for weight in attention.weights.ravel()]
    keys = attention.weights.shape[2]
    has_positions = attention.type == "self_attention" and attention.num_queries == keys
    entropies = [(head, row_entropy(weights)) for head, _, _, weights, _ in rows]
    per_head = [
        mean([entropy for head, entropy in entropies if head == index])
        for index in range(len(attention.weights))
    ]
    distances = [
        sum(w * abs(position - key) for key, w in enumerate(weights)) / sum(weights)
        for _, _, position, weights, _ in rows
    ]
    heads = sorted({head for head, *_ in rows})
    return {
        "mean": statistics.fmean(flat),
        "std": statistics.pstdev(flat),
        "min": min(flat),
        "max": max(flat),
        "entropy": mean([entropy for _, entropy in entropies]),
        "entropy_per_head": [math.nan if value is None else value for value in per_head],
        "normalized_entropy": mean(
            [row_entropy(w) / math.log(sum(v)) for _, _, _, w, v in rows if sum(v) > 1]
        ),
        "sink_mass": mean([w[0] for _, _, _, w, v in rows if v[0]]),
        "diagonal_mass": mean([w[p] for _, _, p, w, _ in rows]) if has_positions else None,
        "previous_token_mass": mean([w[p - 1] for _, _, p, w, _ in rows if p > 0])
        if has_positions
        else None,
        "mean_distance": mean(distances) if has_positions else None,
        "head_similarity": head_similarity(attention),
        "effective_rank": mean(
            [effective_rank([w for h, _, _, w, _ in rows if h == head]) for head in heads]
        ),
    }


def effective_rank(rows: list[list[float]]) -> float:
    """Compute the exponential of the entropy of the normalised singular values, one by one."""
    singular = np.linalg.svd(np.array(rows), compute_uv=False).tolist()
    shares = [value / sum(singular) for value in singular if value > 1e-6 * max(singular)]
    return math.exp(-sum(share * math.log(share) for share in shares))


def head_similarity(attention: AttentionMap) -> float | None:
    maps = [head.ravel().astype(np.float64) for head in attention.weights if head.any()]
    pairs = itertools.combinations(maps, 2)
    return mean([float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs])


@st.composite
def maps(draw: st.DrawFn, make: Make) -> AttentionMap:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    heads, num_rows, keys = draw(st.integers(1, 3)), draw(st.integers(1, 5)), 5
    num_queries = draw(st.sampled_from([5, 7]))
    visible = rng.random((draw(st.sampled_from([1, heads])), num_rows, keys)) < draw(
        st.sampled_from([0.3, 1.0])
    )
    weights = np.where(visible, rng.exponential(1, (heads, num_rows, keys)) ** 3, 0)
    mass = weights.sum(axis=-1, keepdims=True)
    sunk = draw(st.sampled_from([0.0, 0.5]))  # what a learned sink takes
    weights = np.divide(weights, mass * (1 + sunk), where=mass > 0, out=weights)
    return make(
        weights,
        visible=visible,
        type=draw(st.sampled_from(["self_attention", "cross_attention"])),
        num_queries=num_queries,
        query_rows=np.sort(rng.choice(5, num_rows, replace=False)),
    )


@settings(max_examples=50)
@given(data=st.data())
def test_statistics_equal_loops_over_rows(make_map: Make, data: st.DataObject) -> None:
    attention = data.draw(maps(make_map))

    for name, expected in by_hand(attention).items():
        found = compute(name, attention)

        if expected is None:
            assert found is None, name
        else:
            assert found == pytest.approx(expected, rel=REL, abs=1e-6, nan_ok=True), name


def hand_made(make: Make, name: str) -> AttentionMap:
    eye, causal = np.eye(4)[None], np.tril(np.ones((1, 4, 4)))
    gaps = causal.copy()
    gaps[0, [1, 3]] = 0  # rows that are hidden wholly
    return {
        "uniform": lambda: make(np.full((2, 4, 4), 0.25)),
        "one-hot": lambda: make(eye),
        "causal": lambda: make(causal / np.arange(1, 5)[:, None], visible=causal > 0),
        "empty rows": lambda: make(gaps / np.arange(1, 5)[:, None], visible=gaps > 0),
    }[name]()


def exp_entropy(*values: float) -> float:
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares))


ROOT = math.sqrt(2)
# Worked out with pencil and paper; in the order of the names above.
BY_PENCIL = {
    "mean": (1 / 4, 1 / 4, 1 / 4, 1 / 8),
    "std": (
        0,
        math.sqrt(3) / 4,
        math.sqrt((1 + 1 / 2 + 1 / 3 + 1 / 4) / 16 - 1 / 16),
        math.sqrt(1 / 12 - 1 / 64),
    ),
    "min": (1 / 4, 0, 0, 0),
    "max": (1 / 4, 1, 1, 1),
    "entropy": (math.log(4), 0, math.log(24) / 4, math.log(3) / 2),
    "entropy_per_head": ([math.log(4)] * 2, [0], [math.log(24) / 4], [math.log(3) / 2]),
    "normalized_entropy": (1, 0, 1, 1),
    "sink_mass": (1 / 4, 1 / 4, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 + 1 / 3) / 2),
    "diagonal_mass": (1 / 4, 1, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 + 1 / 3) / 2),
    "previous_token_mass": (1 / 4, 0, (1 / 2 + 1 / 3 + 1 / 4) / 3, 1 / 3),
    # of rows 0 to 3 over all four keys: 6/4, 4/4, 4/4, 6/4
    "mean_distance": (5 / 4, 0, (0 + 1 / 2 + 1 + 3 / 2) / 4, (0 + 1) / 2),
    "head_similarity": (1, None, None, None),
    # Of two rows with the products [[1, 1/3], [1/3, 1/3]], whose eigenvalues are (2 +- sqrt 2) / 3.
    "effective_rank": (1, 4, None, exp_entropy(math.sqrt(2 + ROOT), math.sqrt(2 - ROOT))),
}


@pytest.mark.parametrize("name", BY_PENCIL)
@pytest.mark.parametrize("kind", ["uniform", "one-hot", "causal", "empty rows"])
def test_statistics_equal_what_pencil_and_paper_say(make_map: Make, name: str, kind: str) -> None:
    attention = hand_made(make_map, kind)
    expected = BY_PENCIL[name][("uniform", "one-hot", "causal", "empty rows").index(kind)]

    found = compute(name, attention)

    if expected is not None:
        assert found == pytest.approx(expected, abs=1e-6)
    second = by_hand(attention)[name]
    assert found == (None if second is None else pytest.approx(second, rel=REL, abs=1e-6))


def test_uniform_causal_attention_has_the_entropy_of_its_lengths(make_map: Make) -> None:
    visible = np.tril(np.ones((4, 4), dtype=np.bool_))
    attention = make_map(visible[None] / np.arange(1, 5)[:, None], visible=visible[None])

    # ln 1, ln 2, ln 3, ln 4: their mean is ln(24) / 4
    assert compute("entropy", attention) == pytest.approx(math.log(24) / 4)
    assert compute("normalized_entropy", attention) == pytest.approx(1)
    assert compute("diagonal_mass", attention) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert compute("previous_token_mass", attention) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert compute("mean_distance", attention) == pytest.approx((0 + 0.5 + 1 + 1.5) / 4)


def test_a_previous_token_head_is_recognised(make_map: Make) -> None:
    weights = np.eye(6, k=-1)[None]
    weights[0, 0, 0] = 1

    attention = make_map(weights)

    assert compute("previous_token_mass", attention) == 1
    assert compute("entropy", attention) == pytest.approx(0, abs=1e-12)
    assert compute("mean_distance", attention) == pytest.approx(5 / 6)


def test_equal_heads_are_similar_and_disjoint_heads_are_not(make_map: Make) -> None:
    same = np.full((3, 4, 4), 0.25)
    disjoint = np.stack([np.eye(4), np.roll(np.eye(4), 1, axis=1)])

    assert compute("head_similarity", make_map(same)) == pytest.approx(1)
    assert compute("head_similarity", make_map(disjoint)) == 0


def test_the_effective_rank_counts_directions(make_map: Make) -> None:
    causal = np.tril(np.ones((4, 4)))
    causal /= causal.sum(axis=1, keepdims=True)
    sink = np.zeros((6, 6))
    sink[:, 0] = 1
    two = np.repeat(np.eye(2, 5), 4, axis=0)  # four rows look at key 0, four at key 1

    found = [
        compute("effective_rank", make_map(weights[None]))
        for weights in (np.full((7, 9), 1 / 9), sink, np.eye(6), two, causal)
    ]

    assert found == pytest.approx([1, 1, 6, 2, effective_rank(causal.tolist())], rel=1e-5)


def test_the_effective_rank_leaves_empty_rows_and_dead_heads_out(make_map: Make) -> None:
    weights = np.zeros((2, 4, 4))
    weights[0, [1, 3], [0, 2]] = 1  # of head 0, rows 1 and 3 live; of head 1, none

    assert compute("effective_rank", make_map(weights)) == pytest.approx(2)


def test_the_effective_rank_of_a_long_map_is_that_of_evenly_chosen_rows(make_map: Make) -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(300, 0.01), 511).astype(np.float32)
    half = weights[::2].tolist()  # 256 rows, the first and the last among them

    found = compute("effective_rank", make_map(weights[None]))

    assert found == pytest.approx(effective_rank(half), rel=1e-4)


def test_the_largest_logit_leaves_heads_out_that_see_nothing(make_map: Make) -> None:
    visible = np.ones((3, 1, 2), dtype=np.bool_)
    visible[1] = False
    logits = np.array([4.0, np.nan, 9.5], dtype=np.float32)

    attention = make_map(np.full((3, 1, 2), 0.5), visible=visible, max_logit=logits)

    assert compute("max_logit", attention) == 9.5


@pytest.mark.parametrize("keys", range(2, 40))
def test_rounded_weights_keep_entropies_in_their_range(make_map: Make, keys: int) -> None:
    uniform = np.full((1, 1, keys), np.float32(1 / keys))
    sunk = np.zeros((1, 1, keys))
    sunk[0, 0, 1] = np.float32(1 / 3 / keys)  # all else went to a learned sink

    assert compute("normalized_entropy", make_map(uniform)) <= 1
    assert compute("entropy", make_map(sunk)) >= 0
    assert min(compute("entropy_per_head", make_map(sunk))) >= 0
    assert compute("normalized_entropy", make_map(sunk)) >= 0


@pytest.mark.parametrize("name", BY_NAME)
def test_one_weight_is_enough(make_map: Make, name: str) -> None:
    expected = {
        "mean": 1,
        "std": 0,
        "min": 1,
        "max": 1,
        "entropy": 0,
        "entropy_per_head": [0],
        "normalized_entropy": None,  # there is no choice among one key
        "max_logit": 0,
        "sink_mass": 1,
        "diagonal_mass": 1,
        "previous_token_mass": None,
        "mean_distance": 0,
        "head_similarity": None,
        "effective_rank": 1,
    }

    assert compute(name, make_map(np.ones((1, 1, 1)))) == expected[name]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_map_that_sees_nothing_is_unknown_not_zero(make_map: Make, name: str) -> None:
    hidden = np.zeros((1, 3, 3), dtype=np.bool_)
    attention = make_map(
        np.zeros((2, 3, 3)), visible=hidden, max_logit=np.full(2, np.nan, dtype=np.float32)
    )

    found = compute(name, attention)

    if name in {"mean", "std", "min", "max"}:
        assert found == 0
    elif isinstance(found, list):  # one per head
        assert all(map(math.isnan, found))
    else:
        assert found is None


@pytest.mark.parametrize("name", BY_NAME)
def test_nan_shows(make_map: Make, name: str) -> None:
    weights = np.full((2, 3, 3), 1 / 3)
    weights[1, 1] = np.nan  # what a NaN logit leaves of its row
    attention = make_map(weights, max_logit=np.array([0, np.nan], dtype=np.float32))

    found = compute(name, attention)

    values = found if isinstance(found, list) else [found]
    assert any(math.isnan(value) for value in values)


@pytest.mark.parametrize("name", BY_NAME)
def test_large_logits_stay_finite(make_map: Make, name: str) -> None:
    largest = np.full(2, np.finfo(np.float32).max)
    weights = np.zeros((2, 4, 4))
    weights[:, :, 1] = 1

    found = compute(name, make_map(weights, max_logit=largest))

    assert np.isfinite(found).all()
