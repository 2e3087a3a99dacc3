"""Reads a run that is over and writes ``final_report.md`` and ``final_report.png`` beside it."""

from dataclasses import replace
from pathlib import Path

from tracksided.errors import ReportError
from tracksided.progress.final_report import compose
from tracksided.progress.history import read_history
from tracksided.progress.plot import draw
from tracksided.sinks.history import FILE_NAME as HISTORY_FILE
from tracksided.sinks.json_file import write_whole

REPORT_FILE = "final_report.md"
PICTURE_FILE = "final_report.png"


def write_final_report(directory: Path, now: float) -> None:
    """Write both files, each whole, the picture first: the text shows it.

    Args:
        directory: the output directory of a run whose totals are written.
        now: Unix seconds.

    Raises:
        ReportError: the history of the run cannot be read.
        OutputError: a file cannot be written.
    """
    history = read_history(directory / HISTORY_FILE, directory.name)
    run = history.run.get("run")
    curve = history.curve if run is None else replace(history.curve, name=str(run))
    try:
        picture = draw([curve], "png")
    except ReportError:  # nothing was sampled: the text says so
        (directory / PICTURE_FILE).unlink(missing_ok=True)
    else:
        write_whole(directory / PICTURE_FILE, picture)
    shown = PICTURE_FILE if (directory / PICTURE_FILE).exists() else None
    report = compose(replace(history, curve=curve), shown, now)
    write_whole(directory / REPORT_FILE, report.encode(errors="replace"))
