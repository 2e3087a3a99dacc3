"""Make `docs/performance.md` of its template and the stored results; the plot of growth, too.

    python benchmarks/page.py

The template holds the words and the limits; every figure comes from `benchmarks/results.json`.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import growth_plot
import stored
from catalog import CATALOG
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tables import cell, markdown, markdown_of_limits

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = HERE / "results.json"
TEMPLATE = "performance.md.jinja"
PICTURE = Path("images") / "growth.png"  # beside the page


class MissingResult(Exception):
    """The template shows what is not among the results."""


def main() -> None:
    try:
        write(stored.load(RESULTS), PAGE)
    except (MissingResult, ValueError) as error:
        sys.exit(str(error))


def write(results: stored.Results, target: Path) -> None:
    """Write the page, and the picture beside it."""
    text = render(results)
    picture = target.parent / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(growth_plot.draw(results["growth"]))
    target.write_text(text, encoding="utf-8")


def render(results: stored.Results) -> str:
    """Fill the template in.

    Raises:
        MissingResult: a benchmark, table or row that the template shows is not there.
    """
    wanted = [entry.name for entry in CATALOG if entry.is_default]
    missing = [name for name in wanted if name not in results]
    if missing:
        raise MissingResult(
            f"there are no results of {', '.join(missing)}, which {TEMPLATE} shows; "
            f"make bench BENCH_ARGS='--only {' '.join(missing)}'"
        )
    shown = Shown({name: results[name] for name in wanted})
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown from our own numbers
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    names = ("run", "table", "value", "limits", "machines", "versions")
    return environment.get_template(TEMPLATE).render({name: getattr(shown, name) for name in names})


class Shown:
    """What the template may ask for."""

    def __init__(self, results: stored.Results) -> None:
        self._results = results

    def run(self, name: str) -> str:
        """Say when a benchmark ran, with which settings and beside how much load."""
        found = self._results[name]
        before, after = (found["load_average"][when][0] for when in ("before", "after"))
        settings = ", ".join(
            f"{key.replace('_', ' ')} {listed(value)}" for key, value in found["settings"].items()
        )
        short = " **A short form, which shows that it works and measures nothing.**"
        return (
            f"`{name}`, {found['date']}: {found['seconds']} s, load average {before} before and "
            f"{after} after; {settings}.{short if found['is_quick'] else ''}"
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

    def limits(self, *names: str) -> str:
        return markdown_of_limits(
            [limit for name in names for limit in self._results[name]["limits"]]
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
        """Tabulate the versions of all that took part."""
        of: dict[str, dict[str, None]] = {}
        for found in self._results.values():
            for name, version in found["versions"].items():
                of.setdefault(name, {})[version or "was not there"] = None
        rows = [{"name": name, "version": "; ".join(of[name])} for name in sorted(of)]
        columns = [
            {"key": key, "title": key, "digits": None, "unit": ""} for key in ("name", "version")
        ]
        return markdown({"columns": columns, "rows": rows})

    def _table(self, name: str, key: str) -> Mapping[str, Any]:
        tables = self._results[name]["tables"]
        if key not in tables:
            raise MissingResult(
                f"the results of {name} have no table {key!r}, but {', '.join(tables)}"
            )
        return tables[key]


def described(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
        f"Linux {machine['kernel']}"
    )


def listed(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    main()
