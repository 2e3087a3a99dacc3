"""Run all benchmarks one after another, and make the pages of their results.

    python benchmarks/everything.py [--only NAME ...] [--quick]
        [--timm SCRIPT] [--fairseq SCRIPT] [--peer-path DIR ...]

Each runs in a process of its own and replaces its own part of `benchmarks/results.json`, with
machine, load, date and versions, so that one can be run anew without the others. `--quick` runs the
short forms and writes to `benchmarks/results/` instead, which git ignores. A benchmark that fails
is named and the others still run; the exit status is then 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import page
import stored
from catalog import CATALOG, Entry
from tables import markdown_of_limits

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
QUICK = HERE / "results"


def main() -> None:
    arguments = parse()
    results = QUICK / "results.json" if arguments.quick else RESULTS
    wanted = arguments.only or [entry.name for entry in CATALOG if entry.is_default]
    try:
        stored.load(results)  # before half an hour is spent on what cannot be kept
    except ValueError as error:
        sys.exit(str(error))
    failed = []
    for entry in CATALOG:
        if entry.name not in wanted:
            continue
        print(f"\n# {entry.name}\n", flush=True)
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            done = subprocess.run(command(entry, arguments, Path(file.name)), check=False)
            if done.returncode:
                failed.append(f"{entry.name}: exit status {done.returncode}")
            else:
                stored.store(results, entry.name, json.loads(Path(file.name).read_text()))
    try:
        docs = QUICK if arguments.quick else page.DOCS
        page.write(stored.load(results), docs)
        print(f"\n{results} and {', '.join(page.PAGES)} in {docs} are written")
    except page.MissingResult as error:
        print(f"\n{results} is written; the pages are not: {error}")
    print(markdown_of_limits(limits(results, wanted)))
    if failed:
        sys.exit("failed: " + "; ".join(failed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [entry.name for entry in CATALOG]
    others = [entry.name for entry in CATALOG if not entry.is_default]
    parser.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"of {', '.join(names)}; by default all but {', '.join(others)}",
    )
    parser.add_argument("--quick", action="store_true", help="short forms: to see them work")
    parser.add_argument("--fairseq", type=Path, help="its scripts/average_checkpoints.py")
    parser.add_argument("--timm", type=Path, help="its avg_checkpoints.py")
    parser.add_argument("--peer-path", nargs="+", type=Path, help="where these two find imports")
    arguments = parser.parse_args()
    for script in (arguments.fairseq, arguments.timm):
        if script is not None and not script.is_file():
            parser.error(f"{script}: there is no such file")
    return arguments


def command(entry: Entry, arguments: argparse.Namespace, json_file: Path) -> Sequence[str | Path]:
    """Return how a benchmark is run as its user would run it."""
    words: list[str | Path] = [sys.executable, HERE / f"{entry.name}.py", "--json", json_file]
    if arguments.quick:
        words.append("--quick")
    if entry.takes_peers:
        for option, value in (("--fairseq", arguments.fairseq), ("--timm", arguments.timm)):
            words += [option, value] if value else []
        words += ["--peer-path", *arguments.peer_path] if arguments.peer_path else []
    return words


def limits(results: Path, wanted: Sequence[str]) -> list[dict[str, object]]:
    """Return the limits of what was run, as far as it has results."""
    found = stored.load(results)
    return [limit for name in wanted if name in found for limit in found[name]["limits"]]


if __name__ == "__main__":
    main()
