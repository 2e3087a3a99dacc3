"""The frame of every benchmark: options, the machine around it, tables on the screen, JSON.

A benchmark gives its options and a function that measures; it runs alone as a script, or with the
others by `everything.py`. `--quick` changes the defaults to a short form, which shows that the
benchmark works and is no measurement.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import commit, load_average, machine, versions
from tables import Limit, Table, markdown, markdown_of_limits

NOT_SETTINGS = {"json", "quick"}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a benchmark found out."""

    tables: Mapping[str, Table]
    limits: Sequence[Limit] = ()
    peers: Mapping[str, str | None] = field(default_factory=dict)
    """Versions of peers that are no packages here; None: it was not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """How one benchmark is run."""

    file: str
    """Its script; the name of the benchmark is taken from it."""

    about: str | None
    """Docstring of the script."""

    add_options: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Findings]
    quick: Mapping[str, object]
    """Defaults of the short form."""

    packages: Sequence[str] = ()
    """Distributions whose versions the numbers depend on, peers included."""

    def main(self) -> None:
        """Measure, show the tables, and write the JSON where it is asked for."""
        arguments = self.parse()
        document = self.document(arguments)
        show(document)
        if arguments.json:
            arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")

    def parse(self) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=(self.about or "").splitlines()[0])
        self.add_options(parser)
        parser.add_argument("--json", type=Path, help="file to write")
        parser.add_argument("--quick", action="store_true", help="a short form, to see it work")
        if parser.parse_known_args()[0].quick:
            parser.set_defaults(**self.quick)
        return parser.parse_args()

    def document(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Measure, and return all that is kept of it.

        Programs start from compiled files, as they do wherever pip installed them.
        """
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        date, before, start = datetime.now(UTC), load_average(), time.monotonic()
        findings = self.measure(arguments)
        return {
            "benchmark": Path(self.file).stem,
            "date": date.strftime("%Y-%m-%d %H:%M UTC"),
            "seconds": round(time.monotonic() - start),
            "is_quick": arguments.quick,
            "machine": machine(),
            "load_average": {"before": before, "after": load_average()},
            "versions": {**versions(self.packages), **findings.peers},
            "settings": settings(arguments) | {"commit": commit()},
            "tables": {name: asdict(table) for name, table in findings.tables.items()},
            "limits": [limit.document() for limit in findings.limits],
        }


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that numbers depend on: not places, nor what was left unset."""
    return {
        name: value
        for name, value in vars(arguments).items()
        if name not in NOT_SETTINGS and value is not None and not holds_places(value)
    }


def holds_places(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(entry, Path) for entry in values) or values == []


def show(document: Mapping[str, Any]) -> None:
    facts = document["machine"]
    before, after = (load[0] for load in document["load_average"].values())
    known = document["versions"].items()
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['kernel']}")
    print(", ".join(f"{name} {version or 'not there'}" for name, version in known))
    print(f"load average {before} before, {after} after; {document['seconds']} s")
    print("settings:", json.dumps(document["settings"]))
    for table in document["tables"].values():
        note = f"median [{table['interval']}]\n\n" if table["interval"] else ""
        print(f"\n{note}{markdown(table)}")
    if document["limits"]:
        print(f"\n{markdown_of_limits(document['limits'])}")
