"""`trackside demo`: train a small GPT and show everything trackside makes of it."""

import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tracksided.demo.places import create_output, private_shared_memory
from tracksided.demo.processes import evaluate, run_training, train_command, train_environment
from tracksided.demo.results import Results, find_results, wait_for_average
from tracksided.errors import OutputError
from tracksided.launch import running_daemon
from tracksided.listen_address import DEFAULT, ListenAddress, parse_listen_address

DEFAULT_STEPS = 400
MIN_STEPS = 60  # below that, sampled steps and checkpoints lie too close to show anything
SHM_ROOT = Path("/dev/shm")  # noqa: S108 - memory, made private below
DRAIN_TIMEOUT_S = 120.0  # the daemon draws on cycles that nobody else wants
AVERAGE_TIMEOUT_S = 30.0
# Checkpoints come every few seconds here: look often enough to average them as they come.
DAEMON_CONFIG = """
[checkpoints]
poll_seconds = 1.0
"""
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the demo to end; not an Exception, so that nothing swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@click.command(name="demo", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    show_default="./trackside_demo, or the next free name",
    help="New or empty directory for all outputs.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=MIN_STEPS),
    default=DEFAULT_STEPS,
    show_default=True,
    help="Training steps.",
)
@click.option(
    "--http",
    is_flag=False,
    flag_value=DEFAULT,
    metavar="[HOST:PORT]",
    help=f"Show the training on a page there while it runs. Without value: {DEFAULT}.",
)
def command(out: Path | None, steps: int, http: str | None) -> None:
    """Train a small GPT on two CPU ranks, and show what trackside makes of it.

    The text is the source of Python's standard library. It takes about two minutes on two cores,
    uses a daemon of its own, and needs no network.
    """
    try:
        with _signals_as_exceptions():
            page = None if http is None else parse_listen_address(http)
            _run(create_output(out, Path.cwd()), steps, page)
    except Interrupted as interrupted:
        click.echo("trackside demo: interrupted; all its processes have ended", err=True)
        sys.exit(interrupted.exit_code)


def _run(out: Path, steps: int, page: ListenAddress | None) -> None:
    started = time.monotonic()
    click.echo(f"training {steps} steps on 2 ranks; outputs go to {out}")
    if page is not None:
        click.echo(f"watch it at {page.url}")
    run = f"demo-{secrets.token_hex(4)}"
    losses: list[float] = []
    with contextlib.ExitStack() as stack:
        shm = stack.enter_context(private_shared_memory(SHM_ROOT))
        # A file of its own: what the user configured (directories to watch) is not for the demo.
        config = shm / "demo.toml"
        config.write_text(DAEMON_CONFIG, encoding="utf-8")
        options = ["--low-priority", "--config", str(config)]
        if page is not None:
            options += ["--http", page.text]
        daemon = stack.enter_context(running_daemon(shm, *options))
        with _progress(steps) as show:

            def report(step: int, loss: float) -> None:
                losses.append(loss)
                show(step, loss)

            run_training(train_command(steps, out), train_environment(os.environ, shm, run), report)
        click.echo("training is done; the daemon finishes its work")
        if not daemon.wait_until_drained(run, DRAIN_TIMEOUT_S):
            raise OutputError(f"the daemon did not finish within {DRAIN_TIMEOUT_S:g} s, see {out}")
        wait_for_average(out, AVERAGE_TIMEOUT_S)
    results = find_results(out)
    last = results.checkpoints[-1]
    held_out = evaluate([last, results.average])
    click.echo(
        "\n".join(
            (
                "",
                *_summary(results),
                "",
                f"training loss   {losses[0]:.3f} -> {losses[-1]:.3f} nats per byte",
                *_comparison(results, held_out[last], held_out[results.average]),
                "",
                f"it took {time.monotonic() - started:.0f} s",
            )
        )
    )


def _summary(results: Results) -> Iterator[str]:
    yield f"attention map   {_shown(results.heat_map)}"
    yield f"statistics      {_shown(results.last_step_dir / 'statistics.json')}"
    yield (
        f"history         {_shown(results.run_dir / 'history.jsonl')} "
        f"({results.num_sampled_steps} sampled steps)"
    )
    yield f"average         {_shown(results.average)} ({len(results.averaged)} checkpoints)"
    yield f"curves          {_tensorboard()} --logdir {_shown(results.run_dir / 'tensorboard')}"


def _comparison(results: Results, last: float, averaged: float) -> Iterator[str]:
    yield f"held-out loss   {last:.4f} nats per byte: {results.checkpoints[-1].name}"
    yield f"                {averaged:.4f} nats per byte: {results.average.name}"
    difference = averaged - last
    if difference < 0:
        yield f"                the average is better by {-difference:.4f}"
    else:
        yield (
            f"                the average is not better (by {difference:.4f}): it helps once the "
            f"loss has flattened; try more --steps"
        )


def _tensorboard() -> str:
    """Return TensorBoard's command as it can be typed here, also where .venv is not active."""
    beside = Path(sys.executable).with_name("tensorboard")
    return "tensorboard" if shutil.which("tensorboard") or not beside.exists() else _shown(beside)


def _shown(path: Path) -> str:
    """Return a path as the user would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[int, float], None]]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step, loss: None  # noqa: ARG005 - the shape of a report
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=steps, loss="-")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.3f}")


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise `Interrupted` on the first signal, and ignore more while things are put in order."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        for handled in HANDLED_SIGNALS:
            signal.signal(handled, signal.SIG_IGN)
        raise Interrupted(number)

    # What is ignored already (under nohup, say) stays ignored.
    previous = {
        number: handler
        for number in HANDLED_SIGNALS
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in previous:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
