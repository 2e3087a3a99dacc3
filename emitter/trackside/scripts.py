"""Writing systems of characters, from their Unicode names and categories.

The standard library has no table of scripts; the first word of a character's name says it, but
for symbols. Source: Unicode Standard Annex #24, Script Names.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping

# First word of a name -> script. What is not here is OTHER.
_SCRIPT_OF_WORD: Mapping[str, str] = {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "KATAKANA-HIRAGANA": "Kana",
    "HANGUL": "Hangul",
    "BOPOMOFO": "Bopomofo",
    "LATIN": "Latin",
    "GREEK": "Greek",
    "CYRILLIC": "Cyrillic",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "BENGALI": "Bengali",
    "TAMIL": "Tamil",
    "THAI": "Thai",
}
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
DIGITS, PUNCTUATION, SYMBOLS, OTHER = "Digits", "Punctuation", "Symbols", "Other"
_CLASSES: Mapping[str, str] = {"N": DIGITS, "P": PUNCTUATION, "S": SYMBOLS}
LETTERS = frozenset({*_SCRIPT_OF_WORD.values(), OTHER})
"""Scripts of letters; the rest are digits, punctuation and symbols."""

# Written without spaces between words: every character counts as a word of its own.
_UNSPACED = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # Han
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Kana
    "\u0e00-\u0e7f"  # Thai
)
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


@functools.lru_cache(maxsize=1 << 16)
def script_of(character: str) -> str | None:
    """Return the script of a character; None for spaces, controls and what is unassigned.

    Letters and the marks upon them have the name of their script, or ``Other``; everything else
    is ``Digits``, ``Punctuation`` or ``Symbols``.
    """
    category = unicodedata.category(character)
    if (
        category[0] in _CLASSES and category != "Nl"
    ):  # Nl: letter-like numbers, such as the Chinese zero
        return _CLASSES[category[0]]
    if category[0] in "ZC":
        return None
    name = unicodedata.name(character, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    return _SCRIPT_OF_WORD.get(name.partition(" ")[0], OTHER)


def words_of(text: str) -> list[str]:
    """Split into words, in lower case.

    A word is a run of letters and digits; of Han, Kana and Thai, which are written without
    spaces, every character is one.
    """
    return _WORD.findall(text.casefold())
