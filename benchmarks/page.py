"""Make the pages that show stored results of their templates; the plot of growth, too.

    python benchmarks/page.py [--results FILE] [--docs DIR]

Templates hold the words and the limits. Every figure, and every verdict that depends on one, comes
from `benchmarks/results.json`.
"""

import argparse
import sys
from pathlib import Path

import growth_plot
import newcomers
import stored
from catalog import CATALOG
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from shown import MissingResult, Shown

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = HERE / "results.json"
PAGES = ("performance.md", "scaling.md")  # each has a template here
PICTURE = Path("images") / "growth.png"  # beside the pages
FUNCTIONS = tuple(name for name in vars(Shown) if not name.startswith("_"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="what is shown")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where pages are written")
    arguments = parser.parse_args()
    try:
        write(stored.load(arguments.results), arguments.docs)
    except (MissingResult, ValueError) as error:
        sys.exit(str(error))


def write(results: stored.Results, docs: Path) -> None:
    """Write the pages, and the picture beside them.

    Raises:
        MissingResult: a benchmark, table or row that a template shows is not there.
    """
    texts = {name: render(name, results) for name in PAGES}
    picture = docs / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(growth_plot.draw(results["growth"]))
    for name, text in texts.items():
        (docs / name).write_text(text, encoding="utf-8")


def render(name: str, results: stored.Results) -> str:
    """Fill a page's template in.

    Raises:
        MissingResult: a benchmark, table or row that the template shows is not there.
    """
    full_run = [entry for entry in CATALOG if entry.is_default]
    missing = [entry.name for entry in full_run if not entry.needs_root]
    missing = [name for name in missing if name not in results]
    if missing:
        raise MissingResult(
            f"there are no results of {', '.join(missing)}, which pages show; "
            f"make bench BENCH_ARGS='--only {' '.join(missing)}'"
        )
    names = (*(entry.name for entry in full_run), *newcomers.NAMES)
    shown = Shown({name: results[name] for name in names if name in results})
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown from our own numbers
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    functions = {name: getattr(shown, name) for name in FUNCTIONS}
    return environment.get_template(f"{name}.jinja").render(functions)


if __name__ == "__main__":
    main()
