"""Measures of texts, against formulas and values worked out by hand."""

import math
import random
from collections import Counter
from itertools import count, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside import texts
from trackside.scripts import script_of, words_of
from trackside.texts import (
    measure_texts,
    script_measures,
    take_sample,
    term_measures,
    vocabulary_measures,
)

# One character of each script, by its code point: name, character, script.
CHARACTERS = [
    ("latin", "a", "Latin"),
    ("e acute", "\u00e9", "Latin"),
    ("fullwidth latin", "\uff21", "Latin"),
    ("han", "\u6f22", "Han"),
    ("rare han", "\U00020000", "Han"),
    ("compatibility han", "\uf900", "Han"),
    ("iteration mark", "\u3005", "Han"),
    ("ideographic zero", "\u3007", "Han"),
    ("hiragana", "\u3042", "Kana"),
    ("katakana", "\u30a2", "Kana"),
    ("halfwidth katakana", "\uff71", "Kana"),
    ("long vowel", "\u30fc", "Kana"),
    ("hangul", "\ud55c", "Hangul"),
    ("jamo", "\u1112", "Hangul"),
    ("cyrillic", "\u0436", "Cyrillic"),
    ("greek", "\u03bb", "Greek"),
    ("arabic", "\u0639", "Arabic"),
    ("hebrew", "\u05d0", "Hebrew"),
    ("devanagari vowel sign", "\u093e", "Devanagari"),
    ("thai", "\u0e01", "Thai"),
    ("georgian", "\u10d0", "Other"),
    ("digit", "7", "Digits"),
    ("fullwidth digit", "\uff17", "Digits"),
    ("arabic digit", "\u0667", "Digits"),
    ("comma", ",", "Punctuation"),
    ("ideographic full stop", "\u3002", "Punctuation"),
    ("plus", "+", "Symbols"),
    ("emoji", "\U0001f600", "Symbols"),
    ("space", " ", None),
    ("ideographic space", "\u3000", None),
    ("newline", "\n", None),
    ("unassigned", "\U000e0fff", None),
    ("surrogate", "\ud800", None),
]


@pytest.mark.parametrize(
    ("character", "script"),
    [entry[1:] for entry in CHARACTERS],
    ids=[entry[0] for entry in CHARACTERS],
)
def test_the_script_of_a_character(character: str, script: str | None) -> None:
    assert script_of(character) == script


def test_han_and_kana_are_words_one_by_one() -> None:
    # "deep learning" in Chinese and Latin letters, then Japanese, then Korean
    found = words_of("\u6df1\u5ea6Learning_2024, \u3042\u30a2 \ud55c\uad6d\uc5b4")

    assert found == [
        "\u6df1",
        "\u5ea6",
        "learning",
        "2024",
        "\u3042",
        "\u30a2",
        "\ud55c\uad6d\uc5b4",
    ]


def test_shares_of_scripts_leave_spaces_out() -> None:
    found = script_measures(["ab\u6f22\u6f22\u6f22\u6f22 1.", "  \n"])

    assert found == {
        "Script_Share/Han": 0.5,
        "Script_Share/Latin": 0.25,
        "Script_Share/Digits": 0.125,
        "Script_Share/Punctuation": 0.125,
        "Mixed_Script_Share": 1.0,
    }


@pytest.mark.parametrize(
    ("text", "is_mixed"),
    [
        ("plain text, 1234", False),
        ("\u6f22\u5b57" * 10 + "ab", False),  # 2 of 22 letters
        ("\u6f22\u5b57" * 10 + "abc", True),  # 3 of 23
        ("\u6f22\u5b57\u304b\u306a\u30ab\u30ca", False),  # Japanese
        ("\u304b\u306a", False),
        ("\u6f22\ud55c", True),
    ],
)
def test_a_text_mixes_scripts_where_a_second_one_has_a_tenth(text: str, is_mixed: object) -> None:
    assert script_measures([text, "123"])["Mixed_Script_Share"] == float(is_mixed is True)


def test_spaces_alone_have_no_script_and_no_words() -> None:
    assert script_measures([" ", ""]) == {}
    assert vocabulary_measures([" ", "..."]) == {}


def test_lengths_by_hand() -> None:
    found = measure_texts(["a", "bb", "bb", "", "x" * 95])

    assert found["Texts"] == 5
    assert found["Characters"] == 100
    assert found["Characters_Per_Text_Mean"] == 20
    assert found["Characters_Per_Text_Median"] == 2
    assert found["Characters_Per_Text_P95"] == pytest.approx(2 + 0.8 * 93)  # between 2 and 95
    assert found["Characters_Per_Text_Max"] == 95
    assert found["Empty_Share"] == 0.2
    assert found["Duplicate_Share"] == pytest.approx(0.2)


def test_vocabulary_by_hand() -> None:
    found = vocabulary_measures(["the cat the dog", "The end."])

    assert found["Words"] == 6
    assert found["Words_Per_Text_Mean"] == 3
    assert found["Vocabulary"] == 4
    assert found["Type_Token_Ratio"] == pytest.approx(4 / 6)
    assert found["Hapax_Share"] == 0.75
    assert found["Herdan_C"] == pytest.approx(math.log(4) / math.log(6))
    assert "Zipf_Exponent" not in found


@given(st.lists(st.text("ab \u6f22", max_size=12), max_size=12))
def test_the_type_token_ratio_is_the_mean_over_segments(lines: list[str]) -> None:
    words = [word for line in lines for word in words_of(line)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "SEGMENT_WORDS", 5)
        found = vocabulary_measures(lines)

    full = [set(words[i : i + 5]) for i in range(0, len(words) - 4, 5)]
    if full:
        expected = sum(len(segment) for segment in full) / (5 * len(full))
    elif words:
        expected = len(set(words)) / len(words)
    else:
        assert found == {}
        return
    assert found["Type_Token_Ratio"] == pytest.approx(expected)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
def test_zipf_is_found_in_words_that_follow_it(exponent: float) -> None:
    words = [f"w{rank}" for rank in range(1, 201) for _ in range(round(1e4 / rank**exponent))]
    random.Random(1).shuffle(words)

    found = vocabulary_measures([" ".join(words)])

    assert found["Zipf_Exponent"] == pytest.approx(exponent, abs=0.01)


def test_terms_stand_alone_and_in_any_case() -> None:
    lines = ["We party at the ART fair", "\u673a\u5668\u5b66\u4e60\u5f88\u597d", "nothing"]

    found = term_measures(lines, ["art", "part", "\u5b66\u4e60", "fair play", "c++"])

    assert found == {"Term_Coverage": 0.4, "Texts_With_Terms_Share": pytest.approx(2 / 3)}
    assert term_measures(["I like C++."], ["c++"])["Term_Coverage"] == 1.0


def test_a_list_is_sampled_evenly() -> None:
    sample = take_sample([str(i) for i in range(100)], max_texts=4)

    assert sample.texts == ("0", "25", "50", "75")
    assert sample.origin == "4 of 100, evenly spaced"


def test_an_iterator_is_used_as_far_as_needed() -> None:
    endless = map(str, count())

    sample = take_sample(endless, max_texts=3)

    assert sample.texts == ("0", "1", "2")
    assert sample.origin == "the first 3"
    assert next(endless) == "3"


def test_a_short_list_is_taken_whole() -> None:
    assert take_sample(["a", "b"], max_texts=10).origin == "all 2"


def test_characters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MAX_CHARACTERS", 10)

    sample = take_sample(["a" * 8, "b" * 8, "c" * 8])

    assert sample.texts == ("a" * 8, "bb")
    assert sample.origin == "the first 2 of 3"
    assert take_sample(["a" * 4] * 9, max_texts=8).origin == (
        "3 of 9, evenly spaced, up to 10 characters"
    )


def test_scripts_are_counted_like_a_plain_loop() -> None:
    characters = [entry[1] for entry in CHARACTERS]
    line = "".join(random.Random(2).choices(characters, k=500))
    expected = Counter(script for c in line if (script := script_of(c)) is not None)

    found = script_measures(islice([line], 1))

    assert {name.partition("/")[2]: share for name, share in found.items() if "/" in name} == {
        name: pytest.approx(n / expected.total()) for name, n in expected.items()
    }
