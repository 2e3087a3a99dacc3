"""A line of history.jsonl as rules see it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import make_hello, make_step
from hypothesis import given, settings
from hypothesis import strategies as st

from tracksided.assemble import RankStep, assemble
from tracksided.errors import ObservationError
from tracksided.observations import Observation, observe
from tracksided.sinks.json_file import encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def written(line: Any) -> Any:
    return json.loads(encode(line))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_line_says_the_same_before_and_after_it_was_written(bad: float) -> None:
    hello = make_hello(Path("/out"))
    ranks = [
        RankStep(hello, make_step(3, loss=bad, norm_before_clip=bad)),
        RankStep(make_hello(Path("/out"), rank=1), make_step(3, step_seconds=bad)),
    ]
    line = assemble(ranks, None).history

    before, after = observe(line), observe(written(line))

    assert math.isnan(after.loss or 0)
    assert math.isnan(after.gradient_norm or 0)
    assert [math.isnan(rank.loss or 0) for rank in after.ranks] == [True, False]
    assert math.isnan(after.ranks[1].step_seconds or 0)
    assert repr(before) == repr(after)  # NaN is not equal to itself


def test_attention_and_ranks_are_found_by_their_place() -> None:
    observation = observe(
        {
            "step": 7,
            "timestamp": 1.5,
            "attention": {
                "decoder": [
                    {
                        "layer": 1,
                        "module": "h.1",
                        "type": "cross_attention",
                        "entropy": 2,
                        "normalized_entropy": 0.5,
                        "max_logit": None,
                    }
                ]
            },
            "ranks": [{"rank": 3, "loss": 1.0, "dropped": 4, "weight_checksum": "ab"}],
        }
    )

    (call,) = observation.attention
    assert call.place == ("decoder", "cross_attention", 1)
    assert (call.entropy, call.normalized_entropy, call.max_logit) == (2.0, 0.5, None)
    (rank,) = observation.ranks
    assert (rank.rank, rank.loss, rank.dropped, rank.weight_checksum) == (3, 1.0, 4, "ab")
    assert observation.loss is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "7"}, "step is '7', expected an integer"),
        ({"step": None}, "step is None"),
        ({"timestamp": None}, "timestamp is missing"),
        ({"timestamp": math.inf}, "timestamp is missing or not finite"),
        ({"loss": "low"}, "loss is 'low', expected a number"),
        ({"loss": 10**400}, "loss is 1000.*beyond any number"),
        ({"loss": True}, "loss is True, expected a number"),
        ({"ranks": 3}, "ranks is 3, expected a list of objects"),
        ({"ranks": [{}]}, "ranks.rank is None"),
        ({"attention": [1]}, r"attention is \[1\]"),
        ({"attention": {"encoder": [{"type": 1}]}}, "attention.encoder.type is 1"),
        ({"layer_norms": [1]}, r"layer_norms is \[1\]"),
        ({"layer_norms": {"h.0": "big"}}, "layer_norms.h.0 is 'big'"),
        ({"nonfinite": [1]}, r"nonfinite is \[1\]"),
    ],
)
def test_field_of_another_type_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ObservationError, match=message):
        observe({"step": 7, "timestamp": 1.0, **changes})


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*Observation.__slots__, "lr", "nonfinite"]), JSON))
def test_any_object_is_an_observation_or_refused(line: dict[str, Any]) -> None:
    try:
        observation = observe(line)
    except ObservationError:
        return
    assert isinstance(observation, Observation)
