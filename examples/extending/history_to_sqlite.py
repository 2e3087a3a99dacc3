"""Copies the numbers of a run into SQLite: `python history_to_sqlite.py RUN_DIRECTORY DATABASE`.

A sink outside of the daemon. A line of ``history.jsonl`` is what commits a step, so whoever
follows that file sees every step once. Run it as often as you like, also while the training goes
on: how far it came stands in the database, and is committed together with the rows.
"""

import json
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS position (path TEXT PRIMARY KEY, offset INTEGER, inode INTEGER);
CREATE TABLE IF NOT EXISTS numbers (
    path TEXT, step INTEGER, name TEXT, value REAL, PRIMARY KEY (path, step, name));
"""


def follow(history: Path, database: sqlite3.Connection) -> int:
    """Add all whole lines that are new; return how many.

    Args:
        history: ``history.jsonl`` of a run.
        database: with the tables of `SCHEMA`.
    """
    path = str(history.resolve())
    known = database.execute("SELECT offset, inode FROM position WHERE path = ?", (path,))
    offset, inode = known.fetchone() or (0, None)
    count = 0
    with history.open("rb") as file, database:  # one transaction: all of it, or nothing
        status = history.stat()
        if status.st_ino != inode or status.st_size < offset:
            offset = 0  # another file, or one that was cut: begin anew
            database.execute("DELETE FROM numbers WHERE path = ?", (path,))
        file.seek(offset)
        for content in file:
            if not content.endswith(b"\n"):
                break  # about to be written
            offset += len(content)
            count += 1
            line = json.loads(content)
            # Training that went back: what lies ahead belongs to an abandoned try.
            database.execute(
                "DELETE FROM numbers WHERE path = ? AND step >= ?", (path, line["step"])
            )
            rows = [(path, line["step"], name, value) for name, value in numbers(line)]
            database.executemany("INSERT INTO numbers VALUES (?, ?, ?, ?)", rows)
        database.execute(
            "INSERT OR REPLACE INTO position VALUES (?, ?, ?)", (path, offset, status.st_ino)
        )
    return count


def numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a line with dotted names; lists and what is unknown are left out."""
    for name, value in line.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)


def main(directory: str, file_name: str) -> None:
    """Bring a database up to date."""
    database = sqlite3.connect(file_name)
    database.executescript(SCHEMA)
    count = follow(Path(directory) / "history.jsonl", database)
    database.close()
    sys.stdout.write(f"{count} steps added to {file_name}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
