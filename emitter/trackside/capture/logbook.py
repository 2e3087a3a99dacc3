"""What the user logs, kept until the next record takes it along."""

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from trackside.capture.clipping import Number
from trackside.capture.scalars import as_number
from trackside.wire.records import LoggedScalar, LoggedText

MAX_ENTRIES = 1024  # of each kind; one value a step at every=1000 fits
MAX_TOKENS = 16_384  # some hundred kilobytes of a record; axes name a few dozen of them
MAX_TOKEN_CHARS = 32


@dataclass(frozen=True, slots=True)
class LoggedNumber:
    """A logged value that may still lie on a device."""

    step: int
    name: str
    value: Number


class Logbook:
    """Scalars and texts in order; the oldest go where there are too many, and are counted."""

    def __init__(self) -> None:
        self.overflowed = 0
        """Entries lost since the last `take_overflowed`."""

        self._numbers: deque[LoggedNumber] = deque(maxlen=MAX_ENTRIES)
        self._texts: deque[LoggedText] = deque(maxlen=MAX_ENTRIES)
        self._tokens: Iterable[object] = ()

    def add(self, number: LoggedNumber) -> None:
        """Keep a value."""
        self.overflowed += len(self._numbers) == MAX_ENTRIES
        self._numbers.append(number)

    def add_values(self, step: int, values: Mapping[str, object]) -> list[str]:
        """Keep those that are single numbers; return what is to be said of the others."""
        notes: list[str] = []
        for name, value in values.items():
            number = as_number(value)
            if number is None:
                notes.append(f"log({name}=...) takes single numbers; {type(value)} is left out")
            else:
                self.add(LoggedNumber(step, name, number))
        return notes

    def add_text(self, text: LoggedText) -> None:
        """Keep a text."""
        self.overflowed += len(self._texts) == MAX_ENTRIES
        self._texts.append(text)

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
            str(token)[:MAX_TOKEN_CHARS] if isinstance(token, str | int) else "?"
            for token in itertools.islice(given, MAX_TOKENS + 1)
        )
        return tokens if len(tokens) <= MAX_TOKENS else ()

    def take(self) -> "LogPage":
        """Return everything kept, and forget it."""
        page = LogPage(tuple(self._numbers), tuple(self._texts))
        self._numbers.clear()
        self._texts.clear()
        return page

    def put_back(self, page: "LogPage") -> None:
        """Keep again what could not be sent, as far as there is room in front."""
        room = MAX_ENTRIES - len(self._numbers)
        self._numbers.extendleft(reversed(page.numbers[max(len(page.numbers) - room, 0) :]))
        self.overflowed += max(len(page.numbers) - room, 0)
        room = MAX_ENTRIES - len(self._texts)
        self._texts.extendleft(reversed(page.texts[max(len(page.texts) - room, 0) :]))
        self.overflowed += max(len(page.texts) - room, 0)

    def take_overflowed(self) -> int:
        """Return how many entries were lost since the last call."""
        overflowed, self.overflowed = self.overflowed, 0
        return overflowed


@dataclass(frozen=True, slots=True)
class LogPage:
    """What one record takes along."""

    numbers: tuple[LoggedNumber, ...]
    texts: tuple[LoggedText, ...]

    def tensors(self) -> list[torch.Tensor]:
        """Return the values that lie on a device, in order, as 0-d float64."""
        values = (number.value for number in self.numbers)
        return [value.double() for value in values if isinstance(value, torch.Tensor)]

    def scalars(self, from_device: list[float]) -> tuple[LoggedScalar, ...]:
        """Return all values; ``from_device`` are those of `tensors`, in their order."""
        rest = iter(from_device)
        return tuple(
            LoggedScalar(
                step=number.step,
                name=number.name,
                value=next(rest) if isinstance(number.value, torch.Tensor) else number.value,
            )
            for number in self.numbers
        )
