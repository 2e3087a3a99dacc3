"""`trackside report`: how a training goes, from what its trainer left on disk."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tracksided.errors import TracksidedError
from tracksided.progress.locate import Source, latest_checkpoint, newest_in, source_at
from tracksided.progress.summary import Summary, summarise
from tracksided.progress.wording import Section, describe, document, readable

DEFAULT_OUTPUTS = Path("outputs")


@click.command(name="report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directories", nargs=-1, metavar="[DIR]...", type=click.Path(path_type=Path))
@click.option(
    "-c",
    "--checkpoint",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A checkpoint or the directory of a run; the same as DIR.",
)
@click.option(
    "-o",
    "--outputs",
    metavar="DIR",
    default=DEFAULT_OUTPUTS,
    type=click.Path(path_type=Path),
    show_default="./outputs",
    help="Directory of outputs: its newest run is read.",
)
@click.option("-l", "--latest", is_flag=True, help="Read the checkpoint-N with the largest N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    directories: tuple[Path, ...],
    checkpoint: Path | None,
    outputs: Path,
    latest: bool,  # noqa: FBT001 - click passes everything by keyword
    as_json: bool,  # noqa: FBT001 - click passes everything by keyword
) -> None:
    """Show how a training goes: progress, loss, gradients, speed.

    Reads trainer_state.json of Hugging Face's Trainer, history.jsonl of trackside, or event files
    of TensorBoard.
    """
    try:
        source = _source(directories, checkpoint, outputs, latest=latest)
        found = summarise(source.read())
    except TracksidedError as error:
        _fail(str(error))
    if as_json:
        click.echo(json.dumps(document(found), indent=2))
    else:
        _show(found)
    if found.loss is None:
        _fail(f"{readable(found.curve.source)} has no loss yet")


def _source(
    directories: Sequence[Path], checkpoint: Path | None, outputs: Path, *, latest: bool
) -> Source:
    named = [*directories, *([] if checkpoint is None else [checkpoint])]
    if not named:
        return newest_in(outputs, latest=latest)
    if len(named) > 1:
        _fail("several directories can only be compared: --compare DIR DIR")
    return latest_checkpoint(named[0]) if latest else source_at(named[0])


def _show(summary: Summary) -> None:
    sections = describe(summary, time.time())
    title = f"{readable(summary.curve.name)}  ({readable(summary.curve.source)})"
    console = Console(soft_wrap=True)
    if console.is_terminal:
        _show_table(sections, title, console)
        return
    click.echo(title)
    width = max(len(label) for section in sections for label, _ in section.rows)
    for section in sections:
        click.echo(f"\n{section.title}")
        for label, text in section.rows:
            click.echo(f"  {label:{width}}  {text}")


def _show_table(sections: Sequence[Section], title: str, console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for section in sections:
        table.add_row(f"\n[bold default]{section.title}[/]")
        for label, text in section.rows:
            table.add_row(f"  {label}", text)
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table, highlight=False, soft_wrap=False)


def _fail(message: str) -> None:
    click.echo(f"trackside report: {message}", err=True)
    sys.exit(1)
