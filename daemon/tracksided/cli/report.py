"""`trackside report`: how a training goes, from what its trainer left on disk."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tracksided.errors import OutputError, ReportError, TracksidedError
from tracksided.printable import printable
from tracksided.progress.compare import Comparison, compare, comparison_document
from tracksided.progress.directories import is_directory
from tracksided.progress.locate import Source, latest_checkpoint, newest_in, place_for, source_at
from tracksided.progress.summary import Summary, summarise
from tracksided.progress.wording import Section, describe, document, readable
from tracksided.sinks.json_file import replace_file

DEFAULT_OUTPUTS = Path("outputs")
OWN_OUTPUTS = Path("trackside_logs")  # where `attach` lets its runs be written
PLOT_NAME = "training_progress.png"
PATH = click.Path(path_type=Path)


@click.command(name="report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directories", nargs=-1, metavar="[DIR]...", type=PATH)
@click.option(
    "-c",
    "--checkpoint",
    metavar="DIR",
    type=PATH,
    help="A checkpoint or the directory of a run; the same as DIR.",
)
@click.option(
    "-o",
    "--outputs",
    metavar="DIR",
    default=DEFAULT_OUTPUTS,
    type=PATH,
    show_default="./outputs",
    help="Directory of outputs: its newest run is read.",
)
@click.option("-l", "--latest", is_flag=True, help="Read the checkpoint-N with the largest N.")
@click.option("-u", "--summary", is_flag=True, help="Show the summary; without -p and -s always.")
@click.option(
    "-p", "--plot", is_flag=True, help=f"Draw the curves: {PLOT_NAME} in the directory of the run."
)
@click.option(
    "-s", "--save-plot", metavar="FILE", type=PATH, help="Draw the curves: .png, .pdf, .svg ..."
)
@click.option("--compare", "is_comparison", is_flag=True, help="Put all DIRs side by side.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(  # noqa: PLR0917 - click passes everything by keyword
    directories: tuple[Path, ...],
    checkpoint: Path | None,
    outputs: Path,
    latest: bool,  # noqa: FBT001 - click passes everything by keyword
    summary: bool,  # noqa: FBT001 - click passes everything by keyword
    plot: bool,  # noqa: FBT001 - click passes everything by keyword
    save_plot: Path | None,
    is_comparison: bool,  # noqa: FBT001 - click passes everything by keyword
    as_json: bool,  # noqa: FBT001 - click passes everything by keyword
) -> None:
    """Show how a training goes: progress, loss, gradients, speed.

    Reads trainer_state.json of Hugging Face's Trainer, history.jsonl of trackside, or event files
    of TensorBoard.
    """
    named = [*([] if checkpoint is None else [checkpoint]), *directories]
    try:
        if is_comparison:
            sources = [_source(path, latest=latest) for path in named]
        else:
            sources = [_only_source(named, outputs, latest=latest)]
        summaries = [summarise(source.read()) for source in sources]
        comparison = compare(summaries) if is_comparison else None
        pictures = _draw(summaries, comparison, save_plot, place_for(sources[0]) if plot else None)
        if as_json:
            _print_json(summaries, comparison, pictures)
        elif comparison is not None:
            _show_comparison(comparison)
        elif summary or not pictures:
            _show_summary(summaries[0])
    except TracksidedError as error:
        _fail(str(error))
    if not as_json:
        for picture in pictures:
            click.echo(f"curves: {_on_one_line(picture)}")
    for found in summaries:
        if found.loss is None:
            _fail(f"{found.curve.source} has no loss yet")


def _only_source(named: Sequence[Path], outputs: Path, *, latest: bool) -> Source:
    if len(named) > 1:
        raise ReportError("several directories can only be compared: --compare DIR DIR")
    is_by_default = not named and outputs == DEFAULT_OUTPUTS
    if is_by_default and not is_directory(outputs) and is_directory(OWN_OUTPUTS):
        raise ReportError(f"{outputs} is no directory; for runs of trackside: -o {OWN_OUTPUTS}")
    return _source(named[0], latest=latest) if named else newest_in(outputs, latest=latest)


def _source(path: Path, *, latest: bool) -> Source:
    return latest_checkpoint(path) if latest else source_at(path)


def _draw(
    summaries: Sequence[Summary],
    comparison: Comparison | None,
    file: Path | None,
    beside: Path | None,
) -> tuple[Path, ...]:
    """Draw the curves and write them where they are wanted; return where they are."""
    if file is None and beside is None:
        return ()
    from tracksided.progress.plot import draw  # noqa: PLC0415 - matplotlib takes half a second

    curves = [summary.curve for summary in summaries]
    names = comparison.names if comparison is not None else [curve.name for curve in curves]
    curves = [replace(curve, name=name) for curve, name in zip(curves, names, strict=True)]
    written: list[Path] = []
    if file is not None:
        _write(file, draw(curves, file.suffix.removeprefix(".")))
        written.append(file)
    if beside is not None:
        written.append(_write_beside(beside / PLOT_NAME, draw(curves, "png")))
    return tuple(written)


def _write(path: Path, picture: bytes) -> None:
    try:
        replace_file(path, picture)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; name another file") from error


def _write_beside(path: Path, picture: bytes) -> Path:
    """Write a picture, into a temporary file where the directory is not ours to write."""
    try:
        replace_file(path, picture)
    except OSError as error:
        with tempfile.NamedTemporaryFile(
            prefix="trackside-", suffix=path.suffix, delete=False
        ) as file:
            file.write(picture)
        said = f"cannot write {path}: {error.strerror}; the curves go elsewhere"
        click.echo(_on_one_line(said), err=True)
        return Path(file.name)
    return path


def _print_json(
    summaries: Sequence[Summary], comparison: Comparison | None, pictures: Sequence[Path]
) -> None:
    found = (
        document(summaries[0]) if comparison is None else comparison_document(comparison, summaries)
    )
    click.echo(json.dumps({**found, "pictures": [readable(path) for path in pictures]}, indent=2))


def _show_summary(summary: Summary) -> None:
    sections = describe(summary, time.time())
    title = f"{_on_one_line(summary.curve.name)}  ({_on_one_line(summary.curve.source)})"
    console = Console()
    if console.is_terminal:
        console.print(Text(title, style="bold"))
        console.print(_summary_table(sections))
        return
    click.echo(title)
    width = max(len(_on_one_line(label)) for section in sections for label, _ in section.rows)
    for section in sections:
        click.echo(f"\n{section.title}")
        for label, text in section.rows:
            shown = _on_one_line(text)
            click.echo(f"  {_on_one_line(label):{width}}  {shown}" if label else f"  {shown}")


def _summary_table(sections: Sequence[Section]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for section in sections:
        table.add_row(Text(f"\n{section.title}", style="bold not dim default"))
        for label, text in section.rows:
            table.add_row(Text(f"  {_on_one_line(label)}"), Text(_on_one_line(text)))
    return table


def _show_comparison(comparison: Comparison) -> None:
    console = Console()
    same = (
        f"{comparison.num_same} settings are the same, "
        f"{comparison.num_lonely} are known of one run only"
    )
    if console.is_terminal:
        names = (escape(_on_one_line(name)) for name in comparison.names)
        table = Table("", *names, box=None, pad_edge=False)
        section = None
        for row in comparison.rows:
            if row.section != section:
                table.add_row(Text(f"\n{row.section}", style="bold"))
                section = row.section
            style = "yellow" if row.section == "Settings" else ""
            label, *cells = (Text(_on_one_line(text)) for text in (f"  {row.label}", *row.cells))
            table.add_row(label, *cells, style=style)
        console.print(table)
        console.print(f"\n{same}", highlight=False)
        return
    rows = (("", *comparison.names), *((r.label, *r.cells) for r in comparison.rows))
    lines = [tuple(map(_on_one_line, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.echo(_columns(lines[0], widths))
    section = None
    for row, line in zip(comparison.rows, lines[1:], strict=True):
        if row.section != section:
            click.echo(f"\n{row.section}")
            section = row.section
        click.echo(_columns(line, widths))
    click.echo(f"\n{same}")


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"  {'  '.join(padded)}".rstrip()


def _fail(message: str) -> None:
    click.echo(f"trackside report: {_on_one_line(message)}", err=True)
    sys.exit(1)


def _on_one_line(text: str | Path) -> str:
    """Return a text as a terminal can show it: names and settings come from others' files."""
    return printable(readable(text))
