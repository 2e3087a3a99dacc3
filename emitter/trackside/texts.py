"""Measures of a collection of texts: lengths, scripts, vocabulary, coverage of terms.

Computed when the user asks for it, before training, in the calling thread; bounded by `MAX_TEXTS`
and `MAX_CHARACTERS`.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice

import numpy as np

from trackside.errors import ConfigError
from trackside.scripts import LETTERS, UNSPACED_CHARACTER, script_of, words_of

MAX_TEXTS = 10_000
MAX_CHARACTERS = 10_000_000  # in all: some seconds
MAX_TERMS = 256
SEGMENT_WORDS = 1000  # the usual length for a standardised type-token ratio
ZIPF_RANKS = 1000  # the most frequent words: of rarer ones a sample knows too little
MIN_ZIPF_WORDS = 50  # fewer different ones have no exponent worth its name
MIXED_SHARE = 0.1  # of a text's letters, from which on a second script counts


@dataclass(frozen=True, slots=True)
class TextSample:
    """The texts that were looked at."""

    texts: tuple[str, ...]
    origin: str
    """Which of them these are, in words."""


def take_sample(texts: Iterable[str], max_texts: int = MAX_TEXTS) -> TextSample:
    """Take a bounded number of texts: of a sequence evenly spaced ones, else the first.

    Args:
        texts: a list or a column of a data set; an iterator is used up so far.
        max_texts: at most this many.

    Raises:
        ConfigError: something in it is no text, or ``max_texts`` is not above 0.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ConfigError(f"texts is a {type(texts).__name__}, expected several texts")
    if max_texts < 1:
        raise ConfigError(f"max_texts is {max_texts}, expected a number above 0")
    taken: list[str] = []
    num_characters = 0
    for index, text in _spread(texts, max_texts):
        if not isinstance(text, str):
            raise ConfigError(
                f"texts[{index}] is a {type(text).__name__}, expected a text; give one column of "
                "the data set"
            )
        taken.append(text[: MAX_CHARACTERS - num_characters])
        num_characters += len(taken[-1])
        if num_characters >= MAX_CHARACTERS:
            break
    return TextSample(tuple(taken), _origin(texts, len(taken), max_texts))


def measure_texts(texts: Sequence[str], terms: Sequence[str] = ()) -> dict[str, float]:
    """Return measures by name; those that are not defined are missing.

    Shares are 0 to 1. The formulas stand in ``docs/stages.md``.

    Args:
        texts: at least one.
        terms: words or phrases that should occur, compared without case; at most `MAX_TERMS`.

    Raises:
        ConfigError: there is no text, or too many terms.
    """
    if not texts:
        raise ConfigError("texts is empty")
    lengths = np.array([len(text) for text in texts])
    return {
        "Texts": float(len(texts)),
        "Characters": float(lengths.sum()),
        "Characters_Per_Text_Mean": float(lengths.mean()),
        "Characters_Per_Text_Median": float(np.median(lengths)),
        "Characters_Per_Text_P95": float(np.percentile(lengths, 95)),
        "Characters_Per_Text_Max": float(lengths.max()),
        "Empty_Share": sum(not text.strip() for text in texts) / len(texts),
        "Duplicate_Share": 1.0 - len(set(texts)) / len(texts),
        **script_measures(texts),
        **vocabulary_measures(texts),
        **(term_measures(texts, terms) if terms else {}),
    }


def script_measures(texts: Iterable[str]) -> dict[str, float]:
    """Return the share of each script, and of texts that mix scripts.

    ``Script_Share/<script>`` is of all characters but spaces, the largest first; empty without
    any. ``Mixed_Script_Share`` is of the texts with letters: those in which a second script has
    `MIXED_SHARE` of the letters. Han and Kana count as one there, since Japanese needs both.
    """
    total: Counter[str] = Counter()
    num_mixed = num_lettered = 0
    for text in texts:
        scripts = _scripts(text)
        total += scripts
        letters = Counter({name: n for name, n in scripts.items() if name in LETTERS})
        letters["Han"] += letters.pop("Kana", 0)
        ranked = letters.most_common(2)
        num_lettered += ranked[0][1] > 0
        num_mixed += len(ranked) > 1 and ranked[1][1] > MIXED_SHARE * letters.total()
    shares = {
        f"Script_Share/{script}": count / total.total() for script, count in total.most_common()
    }
    return shares | ({"Mixed_Script_Share": num_mixed / num_lettered} if num_lettered else {})


def vocabulary_measures(texts: Iterable[str]) -> dict[str, float]:
    """Return how many different words there are and how they are distributed.

    With N words, V different ones, f_r the frequency of the r-th most frequent:

    - ``Type_Token_Ratio``: mean of V / N over segments of `SEGMENT_WORDS`, so that it does not
      depend on how many texts were looked at; over all words where they fill no segment
      (standardised ratio, Scott 1996, WordSmith Tools);
    - ``Herdan_C``: ln V / ln N (Herdan 1960, Type-Token Mathematics);
    - ``Hapax_Share``: share of the V that occur once;
    - ``Zipf_Exponent``: minus the least-squares slope of ln f_r over ln r for r up to
      `ZIPF_RANKS`; about 1 for natural text (Zipf 1949, Human Behavior and the Principle of
      Least Effort).
    """
    counts: Counter[str] = Counter()
    segment: set[str] = set()
    ratios: list[float] = []
    num_words = num_texts = 0
    for text in texts:
        num_texts += 1
        words = words_of(text)
        counts.update(words)
        for word in words:
            segment.add(word)
            num_words += 1
            if num_words % SEGMENT_WORDS == 0:
                ratios.append(len(segment) / SEGMENT_WORDS)
                segment.clear()
    if not num_words:
        return {}
    found = {
        "Words": float(num_words),
        "Words_Per_Text_Mean": num_words / num_texts,
        "Vocabulary": float(len(counts)),
        "Type_Token_Ratio": sum(ratios) / len(ratios) if ratios else len(counts) / num_words,
        "Hapax_Share": sum(count == 1 for count in counts.values()) / len(counts),
    }
    if num_words > 1:
        found["Herdan_C"] = math.log(len(counts)) / math.log(num_words)
    if len(counts) >= MIN_ZIPF_WORDS:
        frequencies = [count for _, count in counts.most_common(ZIPF_RANKS)]
        ranks = np.arange(1, len(frequencies) + 1)
        found["Zipf_Exponent"] = -float(np.polyfit(np.log(ranks), np.log(frequencies), 1)[0])
    return found


def term_measures(texts: Iterable[str], terms: Sequence[str]) -> dict[str, float]:
    """Return which share of the terms occurs at all, and which share of the texts has one.

    A term in a script with spaces must stand alone: "art" does not occur in "party".

    Raises:
        ConfigError: there are more than `MAX_TERMS`.
    """
    if len(terms) > MAX_TERMS:
        raise ConfigError(f"terms has {len(terms)} entries, at most {MAX_TERMS} are looked for")
    patterns = {term.casefold(): _alone(term.casefold()) for term in terms}
    seen: set[str] = set()
    num_texts = num_with = 0
    for text in texts:
        folded = text.casefold()
        here = {
            term
            for term, pattern in patterns.items()
            if term in folded and pattern.search(folded) is not None
        }
        seen |= here
        num_texts += 1
        num_with += bool(here)
    return {
        "Term_Coverage": len(seen) / len(patterns),
        "Texts_With_Terms_Share": num_with / num_texts if num_texts else 0.0,
    }


def _spread(texts: Iterable[object], count: int) -> Iterator[tuple[int, object]]:
    """Yield places and texts: evenly spaced where places can be asked for, else the first."""
    if isinstance(texts, Sized) and hasattr(texts, "__getitem__") and len(texts) > count:
        for place in range(count):
            index = place * len(texts) // count
            yield index, texts[index]
    else:
        yield from enumerate(islice(texts, count))


def _origin(texts: Iterable[object], num_taken: int, max_texts: int) -> str:
    known = len(texts) if isinstance(texts, Sized) else None
    if known == num_taken:
        return f"all {num_taken}"
    if known is None or known <= max_texts:
        return f"the first {num_taken}" + ("" if known is None else f" of {known}")
    cut = "" if num_taken == max_texts else f", up to {MAX_CHARACTERS} characters"
    return f"{num_taken} of {known}, evenly spaced{cut}"


def _scripts(text: str) -> Counter[str]:
    """Count the scripts of a text's characters."""
    scripts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        script = script_of(character)
        if script is not None:
            scripts[script] += count
    return scripts


def _alone(term: str) -> re.Pattern[str]:
    first = "" if UNSPACED_CHARACTER.match(term[:1]) else r"(?<!\w)"
    last = "" if UNSPACED_CHARACTER.match(term[-1:]) else r"(?!\w)"
    return re.compile(f"{first}{re.escape(term)}{last}")
