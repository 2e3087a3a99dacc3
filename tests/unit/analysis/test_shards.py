"""Whole gradients from the shards of several ranks."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.wire.records import REPLICA
from tracksided.analysis import analyse
from tracksided.samples import GradientSample, StepSamples
from tracksided.shards import join_shards
from tracksided.statistics.weight_checksum import total_weight_norm, weight_checksum

MakeSamples = Callable[..., StepSamples]


def held(parts: dict[str, tuple[np.ndarray, int, int]]) -> GradientSample:
    """Build what a rank holds: name to (its elements, shard, elements of the whole)."""
    pieces = [part for part, _, _ in parts.values()]
    floats = tuple(piece.astype(np.float32) for piece in pieces)
    return GradientSample(
        names=tuple(parts),
        num_elements=tuple(len(piece) for piece in pieces),
        total_elements=tuple(total for _, _, total in parts.values()),
        shards=tuple(shard for _, shard, _ in parts.values()),
        norm=np.array([np.linalg.norm(piece) for piece in pieces], np.float32),
        abs_max=np.array([np.abs(piece).max() for piece in pieces], np.float32),
        weight_norm=np.array([2 * np.linalg.norm(piece) for piece in pieces], np.float32),
        sample=floats,
        weight_before=tuple(2 * piece for piece in floats),
        weight_after=tuple(3 * piece for piece in floats),
    )


def of_ranks(make_samples: MakeSamples, *ranks: GradientSample, **step: Any) -> StepSamples:
    samples = make_samples(*({**step} for _ in ranks))
    return replace(
        samples,
        samples=tuple(
            replace(sample, gradients=gradients)
            for sample, gradients in zip(samples.samples, ranks, strict=True)
        ),
    )


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    num_shards=st.integers(2, 4),
    num_copies=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_shards_on_one_node_make_the_whole(
    make_samples: MakeSamples, sizes: list[int], num_shards: int, num_copies: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    whole = {f"p{i}": random.normal(size=size) for i, size in enumerate(sizes)}
    ranks = [
        held(
            {
                name: (piece, shard, len(values))
                for name, values in whole.items()
                # As torch does: chunks of equal size, the last ones shorter or empty.
                if len(piece := values[shard * (chunk := -(-len(values) // num_shards)) :][:chunk])
            }
        )
        for _ in range(num_copies)
        for shard in range(num_shards)
    ]

    leader = join_shards(of_ranks(make_samples, *ranks, clipped=False)).leader

    found = leader.gradients
    assert found is not None
    assert dict(zip(found.names, found.num_elements, strict=True)) == {
        name: len(values) for name, values in whole.items()
    }
    assert all(found.is_whole)
    for index, name in enumerate(found.names):
        values = whole[name]
        assert found.norm[index] == pytest.approx(math.sqrt(sum(v * v for v in values)), rel=1e-6)
        assert found.abs_max[index] == np.float32(np.abs(values).max())
        np.testing.assert_array_equal(found.sample[index], values.astype(np.float32))
        np.testing.assert_array_equal(found.weight_after[index], 3 * values.astype(np.float32))
    total = np.linalg.norm(np.concatenate(list(whole.values())))
    assert leader.step.norm_after_clip == pytest.approx(total, rel=1e-6)
    assert leader.step.norm_before_clip == leader.step.norm_after_clip


def test_what_other_nodes_hold_stays_unknown(make_samples: MakeSamples) -> None:
    values = np.array([3.0, 4.0, np.nan])
    samples = of_ranks(
        make_samples,
        held({"sharded": (values[:1], 0, 12), "whole": (values[:2], REPLICA, 2)}),
        held({"sharded": (values[1:2], 1, 12), "whole": (values[:2], REPLICA, 2)}),
        held({"broken": (values, 3, 12)}),
        clipped=False,
        clip_rate=0.0,
    )

    joined = join_shards(samples)
    analysis = analyse(joined, visualize=(), with_pictures=False, with_statistics=True)

    assert joined.leader.step.norm_after_clip is None
    assert joined.leader.step.norm_before_clip is None
    sharded, whole, broken = analysis.statistics["gradients"]["parameters"]
    assert (sharded["norm"], sharded["abs_max"], sharded["weight_norm"]) == (None, None, None)
    assert sharded["nonfinite"] is None  # not here, but perhaps there
    assert sharded["mean"] == 3.5  # of what is known
    assert (whole["norm"], whole["weight_norm"], whole["nonfinite"]) == (5.0, 10.0, False)
    assert broken["nonfinite"] is True


@pytest.mark.parametrize("norm", [2.5, None], ids=["known", "a gradient was not read"])
def test_without_shards_nothing_changes(make_samples: MakeSamples, norm: float | None) -> None:
    replica = held({"a": (np.array([1.0, 2.0]), REPLICA, 2)})
    samples = of_ranks(make_samples, replica, replica, norm_after_clip=norm)

    assert join_shards(samples) is samples


def test_a_replica_that_went_its_own_way_has_another_checksum() -> None:
    values = np.linspace(-1, 1, 50)
    nudged = values.copy()
    nudged[7] = np.nextafter(np.float32(values[7]), np.float32(2))

    first, same = (held({"a": (values, REPLICA, 50)}) for _ in range(2))
    other, mirrored = held({"a": (nudged, REPLICA, 50)}), held({"a": (-values, REPLICA, 50)})

    assert weight_checksum(first) == weight_checksum(same)
    assert len({weight_checksum(entry) for entry in (first, other, mirrored)}) == 3
    assert (
        total_weight_norm(first)
        == total_weight_norm(mirrored)
        == 2 * np.float32(np.linalg.norm(values))
    )


def test_shards_have_no_checksum_and_no_total() -> None:
    first_half = held({"a": (np.array([1.0]), 0, 2)})
    only_shard = held({"a": (np.array([1.0]), 0, 1)})  # of a row that cannot be divided

    assert weight_checksum(first_half) is None
    assert weight_checksum(only_shard) is None
    assert total_weight_norm(first_half) is None
