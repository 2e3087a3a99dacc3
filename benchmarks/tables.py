"""Tables and limits: what benchmarks find, as JSON and as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from figures import Figure, Spread

NOTHING = "-"
PARTS = ("median", "low", "high")
LIMIT_DIGITS = 4  # significant ones


@dataclass(frozen=True, slots=True)
class Column:
    """One column: where its cells are found, and how they are shown."""

    key: str
    title: str
    digits: int | None = None
    """After the point; None leaves numbers as they are."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by column key; the first column names the row."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Figure]]
    interval: str = ""
    """What stands in brackets behind a median."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What must be reached, and what was."""

    what: str
    sign: Literal["<=", ">="]
    bound: float
    reached: Mapping[str, Spread | float] = field(default_factory=dict)
    """By clock or kind; an empty key needs no name. Empty: it was not measured."""

    why_not: str = ""
    """Why it was not measured."""

    @property
    def kept(self) -> bool | None:
        """Judge medians; None where nothing was measured."""
        if not self.reached:
            return None
        medians = [
            value.median if isinstance(value, Spread) else value for value in self.reached.values()
        ]
        if self.sign == "<=":
            return all(value <= self.bound for value in medians)
        return all(value >= self.bound for value in medians)

    def document(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return {**asdict(self), "kept": self.kept}


def markdown(table: Mapping[str, Any]) -> str:
    """Show a table in the form that JSON holds."""
    columns = table["columns"]
    lines = [line(column["title"] for column in columns), line("---" for _ in columns)]
    lines += [
        line(cell(row.get(column["key"]), column) for column in columns) for row in table["rows"]
    ]
    return "\n".join(lines)


def line(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def cell(value: Any, column: Mapping[str, Any]) -> str:
    """Show one value of JSON: text, a number, or a median with its interval."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, Mapping):
        median, low, high = (
            number(value[key], column["digits"]) for key in ("median", "low", "high")
        )
        return f"{median} [{low}, {high}]"
    return value if isinstance(value, str) else number(value, column["digits"])


def number(value: float, digits: int | None) -> str:
    return f"{value:,}" if digits is None else f"{value:,.{digits}f}"


def markdown_of_limits(limits: Sequence[Mapping[str, Any]]) -> str:
    """Show limits in the form that JSON holds."""
    lines = [line(("limit", "reached", "kept")), line(["---"] * 3)]
    for limit in limits:
        reached = [
            significant(value) + (f" ({name})" if name else "")
            for name, value in limit["reached"].items()
        ]
        kept = NOTHING if limit["kept"] is None else cell(limit["kept"], {})
        words = ", ".join(reached) or f"not measured: {limit['why_not']}"
        lines.append(line((f"{limit['what']} {limit['sign']} {limit['bound']:.4g}", words, kept)))
    return "\n".join(lines)


def significant(value: Any) -> str:
    if isinstance(value, Mapping):
        median, low, high = (significant(value[key]) for key in PARTS)
        return f"{median} [{low}, {high}]"
    return f"{value:.{LIMIT_DIGITS}g}"
