"""What templates of pages may ask the stored results for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import newcomers
import peers
import stored
from tables import cell, markdown, markdown_of_limits


class MissingResult(Exception):
    """A template shows what is not among the results."""


@dataclass(frozen=True, slots=True)
class Growth:
    """From the first row of a table to its last."""

    work: float
    """By how much what the first column counts has grown, as a factor."""

    cost: float
    """By how much the median of another column has."""

    is_clear: bool
    """Whether the intervals of first and last row lie apart."""

    @property
    def said(self) -> str:
        """What can be said of the cost."""
        return f"{self.cost:.1f} times as much" if self.is_clear else "as much, within the noise"


class Shown:
    """Some results; every public method is a function of the templates."""

    def __init__(self, results: stored.Results) -> None:
        self._results = results

    def has(self, name: str) -> bool:
        return name in self._results

    def run(self, name: str) -> str:
        """Say when a benchmark ran, with which settings and beside how much load."""
        found = self._results[name]
        settings = ", ".join(
            f"{key.replace('_', ' ')} {listed(value)}" for key, value in found["settings"].items()
        )
        short = " **A short form, which shows that it works and measures nothing.**"
        return (
            f"`{name}`, {found['date']}: {found['seconds']} s, {load(found)}; {settings}."
            f"{short if found['is_quick'] else ''}"
        )

    def table(self, name: str, key: str) -> str:
        table = self._table(name, key)
        note = f"\n\nIn brackets: {table['interval']}." if table["interval"] else ""
        return markdown(table) + note

    def value(self, name: str, key: str, row: str, column: str) -> str:
        """Show one cell as its table does; ``row`` is what its first column says."""
        table = self._table(name, key)
        first = table["columns"][0]["key"]
        columns = [entry for entry in table["columns"] if entry["key"] == column]
        rows = [entry for entry in table["rows"] if str(entry[first]) == row]
        if not rows or not columns:
            raise MissingResult(
                f"table {key} of {name} has no row {row!r} with a column {column!r}"
            )
        return cell(rows[0][column], columns[0])

    def rows(self, name: str, key: str) -> list[Mapping[str, Any]]:
        """Return rows as JSON holds them, for words that depend on figures."""
        return list(self._table(name, key)["rows"])

    def growth(self, name: str, key: str, column: str) -> Growth:
        """Compare the first row of a table with its last, for words that depend on figures."""
        work = self._table(name, key)["columns"][0]["key"]
        first, *_, last = self.rows(name, key)
        least, most = first[column], last[column]
        is_clear = least["high"] < most["low"] or most["high"] < least["low"]
        return Growth(last[work] / first[work], most["median"] / least["median"], is_clear)

    def is_kept(self, name: str, what: str) -> bool | None:
        """Whether a limit is kept; None where it was not measured."""
        found = [limit["kept"] for limit in self._results[name]["limits"] if limit["what"] == what]
        return found[0] if found else None

    def limits(self, *names: str) -> str:
        return markdown_of_limits(
            [limit for name in names for limit in self._results[name]["limits"]]
        )

    def journeys(self) -> str:
        return newcomers.side_by_side(self._results)

    def seconds_to_a_map(self) -> str:
        return newcomers.seconds_to_a_map(self._results)

    def machine(self, name: str) -> str:
        return described(self._results[name]["machine"])

    def peers(self) -> str:
        """List whose scripts are compared with, and whether these results are of them."""
        versions = self._results["averaging"]["versions"]
        return "\n".join(
            f"- **{peer.name}**: `{peer.script}` of {peer.repository}, commit `{peer.commit}` "
            f"(version {peer.version}), SHA-256 `{peer.sha256}`; "
            f"{took_part(versions.get(peer.name), peer.sha256)}."
            for peer in peers.PEERS
        )

    def machines(self) -> str:
        """List machines, and what ran on each."""
        names: dict[str, list[str]] = {}
        for name, found in self._results.items():
            names.setdefault(described(found["machine"]), []).append(f"`{name}`")
        if len(names) == 1:
            return f"{next(iter(names))}."
        return "\n".join(f"- {machine}: {', '.join(of)}" for machine, of in names.items())

    def versions(self) -> str:
        """Tabulate the versions of all that took part, but for newcomers, who install their own."""
        of: dict[str, dict[str, None]] = {}
        for found in (self._results[name] for name in self._results if name not in newcomers.NAMES):
            for name, version in found["versions"].items():
                of.setdefault(name, {})[version or "was not there"] = None
        rows = [{"name": name, "version": "; ".join(of[name])} for name in sorted(of)]
        columns = [{"key": key, "title": key, "digits": None} for key in ("name", "version")]
        return markdown({"columns": columns, "rows": rows})

    def _table(self, name: str, key: str) -> Mapping[str, Any]:
        tables = self._results[name]["tables"]
        if key not in tables:
            raise MissingResult(
                f"the results of {name} have no table {key!r}, but {', '.join(tables)}"
            )
        return tables[key]


def took_part(version: str | None, sha256: str) -> str:
    """Compare with the digits of the digest that results hold."""
    if version is None:
        return "it was not there"
    shown = version.rpartition("SHA-256 ")[2]
    return "measured here" if sha256.startswith(shown) else f"measured here is another, {shown}"


def load(found: Mapping[str, Any]) -> str:
    if found["load_average"] is None:
        return "load average not noted"
    before, after = (found["load_average"][when][0] for when in ("before", "after"))
    return f"load average {before} before and {after} after"


def described(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
        f"Linux {machine['kernel']}"
    )


def listed(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    return str(value)
