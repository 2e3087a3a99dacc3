"""`trackside status`: show the daemon, runs, ranks, lag, drops and alerts."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from trackside.wire import segment
from trackside.wire.locks import daemon_pid
from trackside.wire.segment import node_directory
from tracksided.doctor.averages import waits_for
from tracksided.doctor.finding import counted
from tracksided.printable import printable
from tracksided.status_file import SILENT_S, read_status, seconds_silent

EXIT_NO_DAEMON = 3  # as `systemctl status` has it
EXIT_WARNING = 4  # alerts are active, or something is not written or read
EXIT_CRITICAL = 5
SILENT = "silent"  # three signs of life were missed
_OUTCOMES = {
    "unchanged": "the average there is of the newest",
    "waiting": "nothing averaged since the daemon's start",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """Show the daemon of this user on this node.

    Exit code: 0 all is well, 3 no daemon runs, 4 warnings are active, the daemon is silent, or a
    run cannot be written or followed, 5 critical alerts are active.
    """
    status = _gather(node_directory(os.environ))
    if as_json:
        click.echo(json.dumps(status, indent=2))
    else:
        # A path that is broken across lines cannot be searched for or copied.
        _show(_printable(status), Console(soft_wrap=True))
    sys.exit(exit_code(status))


def page_state(http: dict[str, Any]) -> str:
    """Say where the page is; what answers there may be another user's where it is not served.

    Args:
        http: as in ``status.json``.
    """
    problem = http["problem"]
    if http["pid"] is None:
        return f"not served: {problem}"
    return http["url"] if problem is None else f"{http['url']} (not served a moment ago: {problem})"


def exit_code(status: dict[str, Any]) -> int:
    """Judge what `status --json` prints."""
    daemon, runs = status["daemon"], status["runs"]
    if daemon is None:
        return EXIT_NO_DAEMON
    severities = {alert["severity"] for run in runs for alert in run.get("alerts", ())}
    if "critical" in severities:
        return EXIT_CRITICAL
    has_problem = any(entry["problem"] for run in runs for entry in (run, *run["ranks"]))
    return EXIT_WARNING if severities or has_problem or daemon["state"] == SILENT else 0


def show_checkpoints(directories: list[dict[str, Any]], console: Console) -> None:
    """Print what becomes of the checkpoints in each watched directory."""
    for entry in directories:
        last = entry["last"]
        text = _OUTCOMES.get(str(entry.get("outcome")), "no average yet")
        if last is not None and last["error"]:
            text = f"failed: {last['error']}"
        elif last is not None:
            text = f"{last['output']} from {len(last['sources'])} up to step {last['step']}"
        console.print(
            f"\ncheckpoints {entry['directory']}: {entry['state']}, {text}",
            markup=False,
            highlight=False,
        )
        if entry.get("polled_because") is not None:
            console.print(
                f"  polled alone: {entry['polled_because']}", markup=False, highlight=False
            )
        for refused in entry.get("refused", ()):
            console.print(
                f"  not averaged: {refused['name']}: {refused['reason']}",
                markup=False,
                highlight=False,
            )
        if entry.get("missing", 0) > 0:
            console.print(f"  {waits_for(entry['missing'], entry.get('kept'))}", highlight=False)


def _gather(directory: Path) -> dict[str, Any]:
    pid = daemon_pid(directory)
    segments = [path.name for path in segment.scan(directory)]
    content = None if pid is None else read_status(directory)
    if content is None:
        daemon = None if pid is None else {"pid": pid, "state": "starting"}
        return {
            "directory": str(directory),
            "daemon": daemon,
            "runs": [],
            "refused": {},
            "checkpoints": {"directories": []},
            "segments": segments,
        }
    age_s = seconds_silent(content, wall=time.time(), monotonic=time.monotonic()) or 0.0
    return {
        "directory": str(directory),
        "daemon": {
            "pid": pid or content["pid"],  # 0: it runs in another PID namespace
            "version": content["version"],
            "started_at": content["started_at"],
            "state": "serving" if age_s < SILENT_S else SILENT,
            "seconds_since_update": round(age_s, 1),
            "workers": content["workers"],
            "monitors": content.get("monitors"),
            "http": content.get("http"),
        },
        "runs": content["runs"],
        "refused": content["refused"],
        "checkpoints": content["checkpoints"],
        "segments": segments,
    }


def _printable(value: Any) -> Any:
    """Return a JSON value whose texts a terminal can show: names in it come from trainings."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    return [_printable(entry) for entry in value] if isinstance(value, list) else value


def _show(status: dict[str, Any], console: Console) -> None:
    daemon = status["daemon"]
    if daemon is None:
        left = len(status["segments"])
        rest = f"; {counted(left, 'segment')} left there, to be written by the next" if left else ""
        console.print(f"no daemon serves {status['directory']}{rest}")
        console.print("start one with: trackside daemon")
        return
    console.print(f"daemon {daemon['pid']} {daemon['state']} {status['directory']}")
    if daemon["state"] == SILENT:
        console.print(f"  last sign of life {daemon['seconds_since_update']:.0f} s ago")
    if daemon.get("http") is not None:
        _show_http(daemon["http"], console)
    monitors = daemon.get("monitors")
    if monitors is not None and monitors["problem"] is not None:
        console.print(f"monitors {monitors['problem']}", markup=False, highlight=False)
    if not status["runs"]:
        console.print("no runs")
    for run in status["runs"]:
        _show_run(run, console)
    show_checkpoints(status["checkpoints"]["directories"], console)
    for reason in status["refused"].values():
        console.print(reason, markup=False)


def _show_http(http: dict[str, Any], console: Console) -> None:
    console.print(f"page {page_state(http)}", markup=False, highlight=False)


def _show_run(run: dict[str, Any], console: Console) -> None:
    console.print(
        f"\nrun {run['run']}: {run['state']}, step {run['committed_step']} written, "
        f"{run['waiting']} waiting, in {run['directory']}",
        markup=False,
        highlight=False,
    )
    if run["problem"]:
        console.print(f"  problem: {run['problem']}", markup=False)
    for loss in _losses(run):
        console.print(f"  {loss}; see `trackside doctor`", markup=False, highlight=False)
    for alert in run.get("alerts", ()):
        where = "" if alert["step"] is None else f" at step {alert['step']}"
        state = "" if alert["state"] == "raised" else ", not found any more"
        console.print(
            f"  {alert['severity']} {alert['rule']}{where}{state}: {alert['message']}",
            markup=False,
            highlight=False,
        )
    table = Table("rank", "pid", "alive", "last step", "lag", "drops", "damaged", box=None)
    for rank in run["ranks"]:
        drops = ", ".join(f"{cause} {count}" for cause, count in rank["drops"].items()) or "none"
        table.add_row(
            str(rank["rank"]),
            str(rank["pid"]),
            "yes" if rank["alive"] else "no",
            str(rank["last_step"]),
            f"{rank['lag_bytes'] / 2**20:.1f} MiB",
            drops,
            str(rank["corrupt"] + rank["torn"]),
        )
    console.print(table)


def _losses(run: dict[str, Any]) -> Iterator[str]:
    """Say what is missing of a run, and why."""
    if run["shed"]:
        yield f"{counted(run['shed'], 'step')} without pictures, left out under load"
    if run["failed"]:
        yield f"{counted(run['failed'], 'step')} without their analysis"
    if run["late"]:
        yield f"{counted(run['late'], 'record')} came after their step was written"
    for rank in run["ranks"]:
        if rank["problem"]:
            yield f"rank {rank['rank']}: {rank['problem']}"
