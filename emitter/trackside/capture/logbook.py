"""What the user logs, kept until the next record takes it along.

Every value is kept, of steps that are not sampled too. Memory is bounded in bytes: where a flood
comes between two records, the oldest values go and are counted.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from trackside.capture.clipping import Number
from trackside.capture.scalars import as_number
from trackside.wire.records import MAX_STEP, LoggedScalar, LoggedText

MAX_KIND_BYTES = 4 << 20  # of values, and of texts; a daemon refuses 16 MiB of metadata
RING_SHARE = 8  # what is kept of a kind fits into this part of the ring, beside half for a step
ENTRY_BYTES = 40  # of a record, around a name or text: keys, step, value
DEVICE_BYTES = 128  # charged for a value on a device, where it takes 512 bytes until it is fetched
MAX_TOKENS = 16_384  # some hundred kilobytes of a record; axes name a few dozen of them
MAX_TOKEN_CHARS = 32
LOGGED_PREFIX = "logged/"  # of tensors with logged values, among those of a step
STRANGE_STEP = f"log(step=...) takes steps from 0 to {MAX_STEP}; values of others are left out"


@dataclass(frozen=True, slots=True)
class DeviceScalar:
    """A logged value that still lies on a device."""

    step: int
    name: str
    value: torch.Tensor
    """0-d."""


_Scalar = LoggedScalar | DeviceScalar
_Entry = TypeVar("_Entry")


class Logbook:
    """Scalars and texts in order; the oldest go where there are too many, and are counted."""

    def __init__(self, ring_bytes: int) -> None:
        """Start empty.

        Args:
            ring_bytes: of the ring that takes it all.
        """
        kind_bytes = min(MAX_KIND_BYTES, ring_bytes // RING_SHARE)
        self._scalars = _Shelf[_Scalar](kind_bytes, _scalar_bytes)
        self._texts = _Shelf[LoggedText](kind_bytes, _text_bytes)
        self._tokens: Iterable[object] = ()

    @property
    def nbytes(self) -> int:
        """About what a record needs that takes everything along."""
        return self._scalars.nbytes + self._texts.nbytes

    def add(self, step: int, name: str, number: Number) -> None:
        """Keep a value."""
        if isinstance(number, torch.Tensor):
            self._scalars.add(DeviceScalar(step, name, number))
        else:
            self._scalars.add(LoggedScalar(step=step, name=name, value=number))

    def add_values(self, step: int, values: Mapping[str, object]) -> list[str]:
        """Keep those that are single numbers; return what is to be said of the others."""
        notes: list[str] = []
        for name, value in values.items():
            number = as_number(value)
            if number is None:
                notes.append(f"log({name}=...) takes single numbers; {type(value)} is left out")
            else:
                self.add(step, _packable(str(name)), number)
        return notes

    def add_text(self, step: int, tag: str, text: str) -> None:
        """Keep a text.

        Args:
            step: under which it is shown.
            tag: of it, as `Session.text` takes it.
            text: Markdown.
        """
        self._texts.add(LoggedText(step=step, tag=_packable(tag), text=_packable(text)))

    def give_tokens(self, tokens: Iterable[object]) -> None:
        """Keep what stands at each position, in place of what was given before; not read yet."""
        self._tokens = tokens

    def take_tokens(self) -> tuple[str, ...]:
        """Return what was given and forget it; nothing where there are more than `MAX_TOKENS`.

        What is neither text nor an integer becomes a question mark: to ask a tensor for its value
        could wait for a device.
        """
        given, self._tokens = self._tokens, ()
        tokens = tuple(
            _packable(str(token)[:MAX_TOKEN_CHARS]) if isinstance(token, str | int) else "?"
            for token in itertools.islice(given, MAX_TOKENS + 1)
        )
        return tokens if len(tokens) <= MAX_TOKENS else ()

    def take(self) -> "LogPage":
        """Return everything kept, and forget it."""
        return LogPage(self._scalars.take(), self._texts.take())

    def put_back(self, page: "LogPage") -> None:
        """Keep again what could not be sent, as far as there is room in front."""
        self._scalars.put_back(page.entries)
        self._texts.put_back(page.texts)

    def take_overflowed(self) -> int:
        """Return how many entries were lost since the last call."""
        return self._scalars.take_lost() + self._texts.take_lost()


class Numbers(Protocol):
    """What this needs of `trackside.staging.HostArray`."""

    def numbers(self) -> Sequence[float]:
        """Return all values, in order."""


@dataclass(frozen=True, slots=True)
class LogPage:
    """What one record takes along."""

    entries: tuple[LoggedScalar | DeviceScalar, ...] = ()
    texts: tuple[LoggedText, ...] = ()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the values that lie on devices as float64: few tensors by name, [values] each."""
        groups = self._groups().values()
        return {
            f"{LOGGED_PREFIX}{index}": torch.stack(group).double()
            for index, group in enumerate(groups)
        }

    def scalars(self, arrays: Mapping[str, "Numbers"]) -> tuple[LoggedScalar, ...]:
        """Return all values; ``arrays`` are those of `tensors` by name, on the host, and others."""
        rest = {
            kind: iter(arrays[f"{LOGGED_PREFIX}{index}"].numbers())
            for index, kind in enumerate(self._groups())
        }
        return tuple(
            entry
            if isinstance(entry, LoggedScalar)
            else LoggedScalar(step=entry.step, name=entry.name, value=next(rest[_kind(entry)]))
            for entry in self.entries
        )

    def _groups(self) -> dict[tuple[torch.device, torch.dtype], list[torch.Tensor]]:
        """Return what can be stacked: one copy for all instead of one for each."""
        groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
        for entry in self.entries:
            if isinstance(entry, DeviceScalar):
                groups.setdefault(_kind(entry), []).append(entry.value)
        return groups


class _Shelf(Generic[_Entry]):
    """Entries of one kind, in order and within bounds."""

    def __init__(self, max_bytes: int, bytes_of: Callable[[_Entry], int]) -> None:
        self.nbytes = 0
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._entries: deque[_Entry] = deque()
        self._lost = 0

    def add(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self.nbytes += self._bytes_of(entry)
        if self.nbytes > self._max_bytes:
            self._shed()

    def take(self) -> tuple[_Entry, ...]:
        taken = tuple(self._entries)
        self._entries.clear()
        self.nbytes = 0
        return taken

    def put_back(self, entries: Sequence[_Entry]) -> None:
        self._entries.extendleft(reversed(entries))
        self.nbytes += sum(map(self._bytes_of, entries))
        self._shed()

    def take_lost(self) -> int:
        lost, self._lost = self._lost, 0
        return lost

    def _shed(self) -> None:
        while self.nbytes > self._max_bytes:
            self.nbytes -= self._bytes_of(self._entries.popleft())
            self._lost += 1


def as_step(value: object) -> int | None:
    """Return a count of steps; None for what is none, and for one that lies on a device."""
    if isinstance(value, torch.Tensor) and not value.is_cpu:
        return None
    try:
        step = int(value)  # type: ignore[call-overload]  # the error is the check
    except (TypeError, ValueError, OverflowError):
        return None
    return step if 0 <= step <= MAX_STEP else None


def _kind(entry: DeviceScalar) -> tuple[torch.device, torch.dtype]:
    return entry.value.device, entry.value.dtype


def _scalar_bytes(entry: _Scalar) -> int:
    own_bytes = ENTRY_BYTES + _utf8_bytes(entry.name)
    return own_bytes if isinstance(entry, LoggedScalar) else own_bytes + DEVICE_BYTES


def _text_bytes(entry: LoggedText) -> int:
    return ENTRY_BYTES + _utf8_bytes(entry.tag) + _utf8_bytes(entry.text)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _packable(text: str) -> str:
    """Return the text without lone surrogates, which no record can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()
