"""`trackside average`: average checkpoints into one, by hand."""

import contextlib
import fnmatch
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tracksided.checkpoints.averaging import Progress as Report
from tracksided.checkpoints.ending import signals_as_exits
from tracksided.checkpoints.formats.catalog import suffix_of
from tracksided.checkpoints.job import (
    DEFAULT_COUNT,
    AverageRequest,
    Plan,
    PlannedSource,
    Unchanged,
    output_place,
    plan_average,
    run_average,
)
from tracksided.checkpoints.output_names import DEFAULT_OUTPUT
from tracksided.checkpoints.placement import HERE
from tracksided.checkpoints.policy import BestBy, StepRange
from tracksided.checkpoints.provenance import Provenance, Skipped, SourceRecord
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.weights import DEFAULT_DECAY, METHODS
from tracksided.checkpoints.workers import Workers
from tracksided.descriptors import allow_many_files
from tracksided.errors import RankLost, SettingsError, TracksidedError
from tracksided.printable import printable

DEFAULT_PATTERN = "*.pt"
# Tried in turn without a pattern. The Trainer's directories come before other files: beside them
# it leaves the final model as one, model.safetensors.
PATTERNS = (
    DEFAULT_PATTERN,
    "checkpoint-*/",
    "*.safetensors",
    "*.ckpt",
    "*.pth",
    "*.pth.tar",
    "*.pt.tar",
    "*/",
)

_REFRESH_S = 0.1  # of the progress bar


class _Place(click.ParamType[Path | RemoteAddress]):
    """A directory, or the URL of a prefix that is used like one."""

    name = "directory"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | RemoteAddress:
        """Tell them apart."""
        try:
            return RemoteAddress.parse(str(value)) or Path(str(value))
        except SettingsError as error:
            self.fail(str(error), param, ctx)


@click.command(name="average", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", required=False, type=_Place())
@click.option(
    "--checkpoint-dir",
    "--checkpoint_dir",
    default="checkpoints",
    type=_Place(),
    show_default="./checkpoints",
    help="Directory, s3:// or gs:// URL that holds the checkpoints; the same as DIRECTORY.",
)
@click.option(
    "--num-checkpoints",
    "--num_checkpoints",
    default=DEFAULT_COUNT,
    type=click.IntRange(min=1),
    show_default=True,
    help="How many of the newest, or of the best.",
)
@click.option(
    "--output-name",
    "--output_name",
    default=DEFAULT_OUTPUT,
    show_default=True,
    help="Name of what is written, with the checkpoints. Its suffix follows the format.",
)
@click.option(
    "--pattern",
    default=None,
    show_default=f"the first with enough usable checkpoints of {', '.join(PATTERNS)}",
    help="Names of the checkpoints.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="uniform",
    show_default=True,
    help="How checkpoints are weighted; docs/averaging.md has the formulas.",
)
@click.option(
    "--decay",
    type=float,
    default=DEFAULT_DECAY,
    show_default=True,
    help="Of --method ema, per mean gap between checkpoints.",
)
@click.option("--from-step", "--from_step", type=int, help="Leave out earlier steps.")
@click.option("--to-step", "--to_step", type=int, help="Leave out later steps.")
@click.option("--every", type=click.IntRange(min=1), help="Only steps that are multiples of this.")
@click.option("--best", metavar="METRIC", help="Take the best by a metric, not the newest.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="Which METRIC of --best is good.")
@click.option(
    "--mix-series",
    "--mix_series",
    is_flag=True,
    help="Average checkpoints of several series (runA_N, runB_N) together.",
)
@click.option("--dry-run", "--dry_run", is_flag=True, help="Say what would be averaged, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def command(  # noqa: PLR0917 - click passes everything by keyword
    context: click.Context,
    directory: Path | RemoteAddress | None,
    checkpoint_dir: Path | RemoteAddress,
    num_checkpoints: int,
    output_name: str,
    pattern: str | None,
    method: str,
    decay: float,
    from_step: int | None,
    to_step: int | None,
    every: int | None,
    best: str | None,
    mode: str | None,
    mix_series: bool,  # noqa: FBT001 - click passes everything by keyword
    dry_run: bool,  # noqa: FBT001 - click passes everything by keyword
    as_json: bool,  # noqa: FBT001 - click passes everything by keyword
) -> None:
    """Average the newest, or best, checkpoints of DIRECTORY, or of a URL, into one.

    Reads .pt, .pth and .ckpt of torch.save, .safetensors, and directories of Hugging Face and
    torch.distributed.checkpoint.
    Nothing is unpickled. The average appears whole, with a JSON file that names its sources.
    """
    workers: Workers | None = context.obj
    given = {name for name in context.params if _is_given(context, name)}
    if directory is not None and "checkpoint_dir" in given and checkpoint_dir != directory:
        _fail(f"DIRECTORY is {directory}, --checkpoint-dir {checkpoint_dir}: give one of them")
    if "decay" in given and method != "ema":
        _fail(f"--decay belongs to --method ema; {method} has none")
    if from_step is not None and to_step is not None and from_step > to_step:
        _fail(f"--from-step {from_step} comes after --to-step {to_step}: no step lies between")
    request = AverageRequest(
        directory=checkpoint_dir if directory is None else directory,
        output_name=output_name,
        patterns=(pattern,) if pattern else PATTERNS,
        count=num_checkpoints,
        method=method,
        decay=decay,
        steps=StepRange(first=from_step, last=to_step, every=every),
        best=_best_by(best, mode),
        mix_series=mix_series,
    )
    allow_many_files()
    if workers is not None and isinstance(request.directory, RemoteAddress):
        _fail(f"{request.directory}: ranks share a directory; use `trackside average` for a URL")
    try:
        if dry_run:
            plan = plan_average(request)
            _say_pattern(request, plan.sources)
            _show_plan(plan, as_json=as_json)
        else:
            provenance = _run_with_progress(request, workers)
            _say_pattern(request, provenance.sources)
            _show_result(provenance, request, as_json=as_json)
    except RankLost:
        raise  # every rank notices: who started them lets one speak
    except TracksidedError as error:
        _fail(str(error))


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _best_by(metric: str | None, mode: str | None) -> BestBy | None:
    if metric is None and mode is None:
        return None
    if metric is None:
        _fail("--mode belongs to --best METRIC")
    if mode is None:
        _fail(f"--best {metric} needs --mode min or --mode max: which {metric} is good?")
    return BestBy(metric=metric, mode=mode)


def _echo(message: str, *, err: bool = False) -> None:
    click.echo(printable(message), err=err)


def _fail(message: str) -> NoReturn:
    _echo(f"trackside average: {message}", err=True)
    sys.exit(1)


def _say_pattern(request: AverageRequest, sources: Sequence[PlannedSource | SourceRecord]) -> None:
    """Say so where another pattern than the default one was used."""
    newest = sources[-1].name
    if len(request.patterns) == 1 or fnmatch.fnmatchcase(newest, DEFAULT_PATTERN):
        return
    suffix = suffix_of(newest)
    used = f"*{suffix}" if suffix else "checkpoint directories"
    _echo(f"using {used} in {request.directory}", err=True)


def _run_with_progress(request: AverageRequest, workers: Workers | None) -> Provenance:
    # Ranks have handlers of their own: they end together.
    numbers = (signal.SIGTERM, signal.SIGHUP) if workers is None else ()
    with signals_as_exits(*numbers), _progress_bar() as report:
        provenance = run_average(request, report, workers)
    if isinstance(provenance, Unchanged):
        raise SettingsError("nothing was averaged")
    return provenance


@contextlib.contextmanager
def _progress_bar() -> Iterator[Report | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("averaging"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Drawn by this thread alone: one of rich's own may be late, when the interpreter ends.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task, drawn_at = bar.add_task("averaging"), 0.0

        def report(done: int, total: int) -> None:
            nonlocal drawn_at
            now = time.monotonic()
            is_due = now >= drawn_at + _REFRESH_S
            drawn_at = now if is_due else drawn_at
            bar.update(task, completed=done, total=total, refresh=is_due)

        yield report


def _show_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**asdict(plan), "output": str(plan.output)}, indent=2))
        return
    _show_skipped(plan.skipped)
    _echo(f"would average {len(plan.sources)} checkpoints into {plan.output}:")
    for source in plan.sources:
        _echo(_line(source, plan.best) + f"  ({source.bytes / 1e6:.1f} MB)")


def _show_result(provenance: Provenance, request: AverageRequest, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(provenance.to_json(), indent=2))
        return
    _show_skipped(provenance.skipped)
    output = output_place(request, provenance.output, provenance.sources_in)
    _echo(
        f"averaged {len(provenance.sources)} checkpoints ({provenance.method}) into {output} "
        f"in {provenance.seconds:.1f} s{_ranks(provenance)}:"
    )
    if provenance.sources_in != HERE:
        _echo(
            f"it lies beside {request.directory}, because Accelerate counts every name in there "
            "as a checkpoint",
            err=True,
        )
    for source in provenance.sources:
        unverified = "" if source.verified else "  (no checksums in this file)"
        _echo(_line(source, provenance.best) + unverified)
    if provenance.dropped:
        _echo(f"left out: {', '.join(provenance.dropped)}")


def _ranks(provenance: Provenance) -> str:
    return "" if provenance.ranks == 1 else f" on {provenance.ranks} ranks"


def _show_skipped(skipped: tuple[Skipped, ...]) -> None:
    for entry in skipped:
        _echo(f"skipped {entry.name}: {entry.reason}", err=True)


def _line(source: PlannedSource | SourceRecord, best: BestBy | None) -> str:
    step = "" if source.step is None else f"step {source.step}  "
    metric = "" if best is None else f"  {best.metric} {source.metric:.6g}"
    return f"  {source.weight:.4f}  {step}{source.name}{metric}"
