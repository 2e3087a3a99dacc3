"""Facts of a data set as scalars and as a table."""

import math
from typing import Any

import numpy as np
import pytest
from shown_cell import LIKE_MARKUP, shown_cell

from trackside.dataset import MAX_ENTRIES, describe
from trackside.errors import ConfigError


def numbers_of(**facts: object) -> dict[str, float]:
    return describe(facts).numbers


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (5, {"": 5.0}),
        (np.float32(0.5), {"": 0.5}),
        ({"easy": 0.75, "hard": 0.25, "why": "x"}, {"/easy": 0.75, "/hard": 0.25}),
        (
            [1, 2, 3, 4, 100],
            {"_Count": 5, "_Mean": 22, "_Median": 3, "_P95": 80.8, "_Max": 100},
        ),
        (np.array([2.0, 2.0]), {"_Count": 2, "_Mean": 2, "_Median": 2, "_P95": 2, "_Max": 2}),
        ("wiki", {}),
        (True, {}),
        (None, {}),
        ([], {}),
        (["a", "b"], {}),
        ([[1], [2, 3]], {}),
        (np.zeros((2, 2)), {}),
    ],
)
def test_numbers_are_found_in_facts(fact: object, expected: dict[str, float]) -> None:
    found = numbers_of(fact=fact)

    assert found == pytest.approx({f"Dataset/fact{end}": value for end, value in expected.items()})


def test_everything_is_in_the_table() -> None:
    facts = {"samples": 5_478_451, "source": "a|b\nc", "levels": {"easy": 0.5}, "nan": math.nan}
    summary = describe(facts).summary

    assert summary.splitlines() == [
        "| | |",
        "|---|---|",
        "| samples | 5478451 |",
        "| source | a\\|b c |",
        "| levels/easy | 0.5 |",
        "| nan | nan |",
    ]


@pytest.mark.parametrize("fact", LIKE_MARKUP)
def test_a_fact_is_shown_as_it_is(fact: str) -> None:
    assert shown_cell(describe({"source": fact}).summary, "source") == fact


def test_a_distribution_without_end_is_cut() -> None:
    assert len(numbers_of(terms={f"t{i}": i for i in range(1000)})) == MAX_ENTRIES


def test_a_long_word_is_cut() -> None:
    (row,) = describe({"source": "x" * 10_000}).summary.splitlines()[2:]

    assert len(row) < 300


def test_texts_are_measured_and_facts_win_over_measures() -> None:
    found = describe({"Texts": 7, "samples": 3}, texts=["ab", "cd ef"], terms=["ab", "zz"])

    assert found.numbers["Dataset/Texts"] == 7.0
    assert found.numbers["Dataset/samples"] == 3.0
    assert found.numbers["Dataset/Characters"] == 7.0
    assert found.numbers["Dataset/Term_Coverage"] == 0.5
    assert "| texts that were measured | all 2 |" in found.summary


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"texts": "one long text"}, ("str", "several texts")),
        ({"texts": 3.5}, ("float", "several texts")),
        ({"texts": ["a", {"text": "b"}]}, ("texts[1]", "dict", "column")),
        ({"texts": []}, ("empty",)),
        ({"texts": ["a"], "max_texts": 0}, ("max_texts is 0",)),
        ({"terms": ["a"]}, ("no texts were given",)),
        ({"texts": ["a"], "terms": ["t"] * 257}, ("257", "256")),
    ],
)
def test_what_cannot_be_measured_is_named(keywords: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        describe({}, **keywords)

    assert all(word in str(caught.value) for word in words)
