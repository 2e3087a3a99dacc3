"""The JSON header of a safetensors file, read entry by entry.

Never parsed as a whole, so that work and memory grow with its tensors, whatever it holds:

    {"__metadata__": {key: text},
     name: {"dtype": text, "shape": [size], "data_offsets": [begin, end]}}
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tracksided.checkpoints.dtypes import DTYPES
from tracksided.checkpoints.numbers import MAX_COUNT, MAX_DIMENSIONS
from tracksided.checkpoints.shown import shown

MAX_ENTRY_CHARACTERS = 4096  # that many dimensions of that size take 1,400

DTYPE_NAMES: Mapping[str, str] = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}

_METADATA = "__metadata__"
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """A tensor as the header describes it."""

    name: str
    dtype: str
    """A key of `tracksided.checkpoints.dtypes.DTYPES`."""

    shape: tuple[int, ...]
    begin: int
    """Bytes from the end of the header."""

    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says."""

    entries: tuple[HeaderEntry, ...]
    """In its order."""

    metadata: Mapping[str, str]
    """Texts that were saved beside the tensors."""


def read_header(content: memoryview) -> Header:
    """Parse a header.

    Raises:
        ValueError: it is not sane; the message is fit for the user.
    """
    reader = _Reader(str(content, "utf-8"))
    entries: list[HeaderEntry] = []
    metadata: dict[str, str] = {}
    for name in reader.members():
        if name == _METADATA:
            metadata = {key: reader.take_text() for key in reader.members()}
        else:
            entries.append(_entry(name, reader.take_flat_object(name)))
    reader.require_end()
    return Header(tuple(entries), metadata)


class _Reader:
    """A position in JSON text. Each value is taken before the next key is asked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def members(self) -> Iterator[str]:
        """Enter the object that begins here and yield its keys, the value of each comes next."""
        self._require("{")
        if self._skips("}"):
            return
        seen: set[str] = set()
        while True:
            key = self.take_text()
            if key in seen:
                raise ValueError(f"{shown(key)} stands twice")
            seen.add(key)
            self._require(":")
            yield key
            if self._skips("}"):
                return
            self._require(",")

    def take_text(self) -> str:
        """Take the string that begins here."""
        if self._next() != '"':
            raise ValueError(f"no text where one is expected, at character {self._at}")
        text, self._at = _DECODER.raw_decode(self._text, self._at)
        text = str(text)
        text.encode()  # refuses half of a surrogate pair, which no file name or JSON can hold
        return text

    def take_flat_object(self, name: str) -> Mapping[str, object]:
        """Take the object that begins here and holds no other one."""
        if self._next() != "{":
            raise ValueError(f"tensor {shown(name)} is not described by an object")
        end = self._text.find("}", self._at, self._at + MAX_ENTRY_CHARACTERS) + 1
        if not end:
            raise ValueError(
                f"tensor {shown(name)} is described by more than {MAX_ENTRY_CHARACTERS} characters"
            )
        fields: dict[str, object] = _FLAT_DECODER.decode(self._text[self._at : end])
        self._at = end
        return fields

    def require_end(self) -> None:
        """Refuse what follows."""
        if self._next():
            raise ValueError(f"something follows at character {self._at}")

    def _next(self) -> str:
        """Skip white space, and return the character after it; nothing at the end."""
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at
        return self._text[self._at : self._at + 1]

    def _skips(self, character: str) -> bool:
        if self._next() != character:
            return False
        self._at += 1
        return True

    def _require(self, character: str) -> None:
        if not self._skips(character):
            raise ValueError(f"no {character!r} where one is expected, at character {self._at}")


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a key stands twice")
    return unique


_FLAT_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition)


def _entry(name: str, fields: Mapping[str, object]) -> HeaderEntry:
    dtype = DTYPE_NAMES.get(str(fields.get("dtype")))
    if dtype is None:
        found = shown(str(fields.get("dtype")))
        raise ValueError(f"tensor {shown(name)} has dtype {found}, which is not known")
    shape, offsets = _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if shape is None or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"tensor {shown(name)} has no sane shape")
    match offsets:
        case (begin, end) if begin <= end:
            nbytes = end - begin
        case _:
            raise ValueError(f"tensor {shown(name)} has no sane data_offsets")
    if math.prod(shape) * DTYPES[dtype].itemsize != nbytes:
        raise ValueError(f"tensor {shown(name)} has another size than its shape")
    return HeaderEntry(name, dtype, shape, begin, nbytes)


def _counts(value: object) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(_is_count(number) for number in value):
        return None
    return tuple(value)


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < MAX_COUNT
