"""Put results that were written with `--json` among the stored ones, and make the pages anew.

    python benchmarks/keep.py FILE [FILE ...]

For what ran apart from `make bench`: one benchmark, or the journey of a newcomer. It takes the
place of the older result of the same name; short forms are refused.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import page
import stored
from catalog import CATALOG
from newcomers import NAMES
from shown import MissingResult

KEYS = {
    *("benchmark", "date", "seconds", "is_quick", "machine", "load_average"),
    *("versions", "settings", "tables", "limits"),
}


class Refused(Exception):
    """A file is no result that is kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=page.RESULTS, help="where they are stored")
    parser.add_argument("--docs", type=Path, default=page.DOCS, help="where pages are written")
    arguments = parser.parse_args()
    try:
        documents = [read(file) for file in arguments.files]  # all, before one is kept
        for document in documents:
            stored.store(arguments.results, document["benchmark"], document)
            print(f"{document['benchmark']}, {document['date']}: kept in {arguments.results}")
        page.write(stored.load(arguments.results), arguments.docs)
    except (Refused, MissingResult, ValueError) as error:
        sys.exit(str(error))


def read(file: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        Refused: it is none, or one of a short form.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{file} cannot be read: {error}") from error
    missing = KEYS - document.keys() if isinstance(document, dict) else KEYS
    if missing:
        raise Refused(
            f"{file} is no result of a benchmark: {', '.join(sorted(missing))} is missing"
        )
    names = [*(entry.name for entry in CATALOG), *NAMES]
    if document["benchmark"] not in names:
        raise Refused(f"{file} is of {document['benchmark']!r}; known are {', '.join(names)}")
    if document["is_quick"]:
        raise Refused(f"{file} is of a short form, which measures nothing; run it without --quick")
    return document


if __name__ == "__main__":
    main()
