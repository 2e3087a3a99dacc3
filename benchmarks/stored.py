"""Results of all benchmarks in one JSON file: each is replaced alone, the others stay."""

import json
import os
from pathlib import Path
from typing import Any

SCHEMA = 1

Results = dict[str, dict[str, Any]]
"""What each benchmark found, by its name."""


def load(path: Path) -> Results:
    """Read what is there; nothing where there is no file.

    Raises:
        ValueError: it is not a file of results of this schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); restore it or move it away") from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} has schema {found}, {SCHEMA} is read; restore it or move it away")
    return content["benchmarks"]


def store(path: Path, name: str, found: dict[str, Any]) -> None:
    """Put one benchmark's findings among the others; the file appears whole."""
    results = load(path) | {name: found}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}")
    document = {"schema": SCHEMA, "benchmarks": dict(sorted(results.items()))}
    half.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    half.replace(path)
