"""`trackside doctor`: look for what keeps telemetry from arriving, and name the mend."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from trackside.wire.segment import node_directory
from tracksided.doctor.checks import examine
from tracksided.doctor.finding import Finding, Level
from tracksided.doctor.gather import gather
from tracksided.printable import printable

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "-o",
    "--outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A save_dir to look at, besides those of the runs that are served.",
)
def command(*, as_json: bool, outputs: tuple[Path, ...]) -> None:
    """Check this machine for everything trackside needs; exit code 1 if something fails."""
    absolute = [path.absolute() for path in outputs]
    findings = examine(gather(node_directory(os.environ), absolute, Path.cwd()))
    if as_json:
        click.echo(json.dumps(_document(findings), indent=2))
    else:
        _show(findings, Console())
    sys.exit(int(any(finding.level is Level.FAIL for finding in findings)))


def _document(findings: Sequence[Finding]) -> dict[str, object]:
    worst = [level for level in (Level.FAIL, Level.WARN, Level.OK) if _count(findings, level)]
    return {
        "result": worst[0].value if worst else Level.OK.value,
        "findings": [
            {
                "check": finding.check,
                "result": finding.level.value,
                "found": finding.found,
                "mend": finding.mend,
            }
            for finding in findings
        ],
    }


def _show(findings: Sequence[Finding], console: Console) -> None:
    for finding in findings:
        colour = _COLOURS[finding.level]
        console.print(f"[{colour}]{finding.level.value:4}[/]", end=" ")
        text = printable(f"{finding.check}: {finding.found}")
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        if finding.mend is not None:
            mend = printable(f"       -> {finding.mend}")
            console.print(mend, markup=False, highlight=False, soft_wrap=True)
    failed, warned = _count(findings, Level.FAIL), _count(findings, Level.WARN)
    console.print(f"{len(findings)} checked, {failed} failed, {warned} to look at")


def _count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)
