"""Run all benchmarks one after another, and make the pages of their results.

    python benchmarks/everything.py [--only NAME ...] [--quick]
        [--timm SCRIPT] [--fairseq SCRIPT] [--peer-path DIR ...]

Each runs in a process of its own and replaces its own part of `benchmarks/results.json`, with
machine, load, date and versions, so that one can be run anew without the others. `--quick` runs the
short forms and writes to `benchmarks/results/` instead, which git ignores. A benchmark that fails
is named and the others still run; the exit status is then 1. One that needs root is left out where
it is not root that runs all, and fails where it is asked for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import page
import peers
import stored
from catalog import CATALOG, Entry
from tables import markdown_of_limits

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
QUICK = HERE / "results"


def main() -> None:
    arguments = parse()
    results = QUICK / "results.json" if arguments.quick else RESULTS
    wanted = arguments.only or by_default()
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


def by_default() -> list[str]:
    """Return what belongs to a full run of this user; say what does not."""
    names = []
    for entry in CATALOG:
        if entry.is_default and entry.needs_root and os.geteuid() != 0:
            print(f"{entry.name}: left out, it needs root; as root: --only {entry.name}")
        elif entry.is_default:
            names.append(entry.name)
    return names


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
    for peer in peers.PEERS:
        parser.add_argument(f"--{peer.name}", type=Path, help=peers.help_of(peer.name))
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
