"""Finds what a report is made of: which file wins, which run and checkpoint is the newest."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracksided.checkpoints.naming import is_checkpoint_directory
from tracksided.errors import ReportError
from tracksided.progress import event_files, history, trainer_state
from tracksided.progress.curve import Kind, TrainingCurve
from tracksided.progress.directories import (
    checkpoints_in,
    directories_in,
    is_directory,
    is_file,
    written_at,
)
from tracksided.sinks.history import FILE_NAME as HISTORY_FILE

DEPTH = 3  # levels below a directory of outputs that are looked at: outputs/run/runs/start
# Where event files lie in a run's directory: trackside's, and the Trainer's with a run per start.
EVENT_DIRECTORIES = ("tensorboard", "runs", "logs", "lightning_logs")
STEP_PREFIXES = ("step_", "epoch_")  # trackside's folders, one per sampled step
SOURCES = f"{trainer_state.FILE_NAME}, {HISTORY_FILE} or TensorBoard event files"


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one directory of event files, that a report can be made of."""

    kind: Kind
    path: Path
    name: str

    @property
    def written_at(self) -> float:
        """When it was written last; 0 where it has just gone."""
        paths = event_files.event_files(self.path) if self.kind is Kind.EVENTS else (self.path,)
        return max((written_at(path) or 0.0 for path in paths), default=0.0)

    def read(self) -> TrainingCurve:
        """Read it; raises `ReportError`."""
        if self.kind is Kind.TRAINER_STATE:
            return trainer_state.read_trainer_state(self.path, self.name)
        if self.kind is Kind.HISTORY:
            return history.read_history(self.path, self.name).curve
        return event_files.read_event_files(self.path, self.name)


def source_at(path: Path) -> Source:
    """Return the source that a user names: a file, a checkpoint, or a run's directory.

    In a directory ``trainer_state.json`` wins over ``history.jsonl``, and both over event files.
    Where it holds none of them, its newest checkpoint counts, then its directories of event files,
    then the newest run below it.

    Raises:
        ReportError: there is none; the message names what was looked for.
    """
    if is_file(path):
        return _source_of_file(path)
    if not is_directory(path):
        raise ReportError(f"{path} {_absence(path)}; expected a directory with {SOURCES}")
    found = _direct(path) or _newest_checkpoint(path) or _events_below(path)
    return newest_in(path, latest=False) if found is None else found


def latest_checkpoint(path: Path) -> Source:
    """Return the ``checkpoint-N`` with the largest N in a directory.

    Raises:
        ReportError: there is none that has its ``trainer_state.json`` yet.
    """
    found = _newest_checkpoint(path)
    if found is None:
        raise ReportError(f"{path} has no checkpoint-N with a {trainer_state.FILE_NAME}")
    return found


def newest_in(outputs: Path, *, latest: bool) -> Source:
    """Return the newest run in a directory of outputs, which may itself be one run.

    The newest is the one that was written last.

    Args:
        outputs: looked at down to `DEPTH` levels.
        latest: take its ``checkpoint-N`` with the largest N, also where the run's own directory
            has a source.

    Raises:
        ReportError: there is none.
    """
    if not is_directory(outputs):
        raise ReportError(f"{outputs} {_absence(outputs)}; name one with -o, or a run with -c")
    find, wanted = (
        (_newest_checkpoint, f"checkpoint-N with a {trainer_state.FILE_NAME}")
        if latest
        else (_of_run, SOURCES)
    )
    found = [source for run in _runs(outputs, DEPTH) if (source := find(run)) is not None]
    if not found:
        raise ReportError(
            f"{outputs} has no {wanted}, down to {DEPTH} levels below it; name a run with -c"
        )
    return max(found, key=lambda source: source.written_at)


def place_for(source: Source) -> Path:
    """Return the directory of the run to which a source belongs: a checkpoint stays as it is."""
    directory = source.path if source.kind is Kind.EVENTS else source.path.parent
    is_part = is_checkpoint_directory(directory.name) or directory.name in EVENT_DIRECTORIES
    return directory.parent if is_part else directory


def _absence(path: Path) -> str:
    """Say why there is no directory for us."""
    try:
        path.stat()
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "is no directory"


def _source_of_file(path: Path) -> Source:
    kinds = {trainer_state.FILE_NAME: Kind.TRAINER_STATE, HISTORY_FILE: Kind.HISTORY}
    kind = kinds.get(path.name)
    if kind is None:
        raise ReportError(f"{path} is no {SOURCES}; name its directory")
    return Source(kind, path, _name(path.parent))


def _direct(directory: Path) -> Source | None:
    """Return what lies in a directory itself, the best first."""
    for file_name in (trainer_state.FILE_NAME, HISTORY_FILE):
        if is_file(directory / file_name):
            return _source_of_file(directory / file_name)
    if event_files.event_files(directory):
        return Source(Kind.EVENTS, directory, _name(directory))
    return None


def _of_run(directory: Path) -> Source | None:
    """Return the source of a run's directory: of its own state and its checkpoints the later."""
    own, checkpoint = _direct(directory), _newest_checkpoint(directory)
    if own is None or checkpoint is None:
        return own or checkpoint
    # A state that a Trainer saved at an end is older than the checkpoints of its next start.
    is_later = own.kind is Kind.TRAINER_STATE and checkpoint.written_at > own.written_at
    return checkpoint if is_later else own


def _newest_checkpoint(directory: Path) -> Source | None:
    states = (path / trainer_state.FILE_NAME for path in checkpoints_in(directory).values())
    complete = [state for state in states if is_file(state)]
    return _source_of_file(complete[-1]) if complete else None


def _events_below(directory: Path) -> Source | None:
    """Return the newest run of event files, below or where run directories keep them."""
    places = (directory, *(directory / name for name in EVENT_DIRECTORIES))
    found = [
        Source(Kind.EVENTS, path, _name(path))
        for place in places
        for path in (place, *directories_in(place))
        if event_files.event_files(path)
    ]
    return max(found, key=lambda source: source.written_at, default=None)


def _runs(directory: Path, depth: int) -> Iterator[Path]:
    """Yield directories that hold a source or checkpoints, the outermost first."""
    is_run = _of_run(directory) is not None
    if is_run:
        yield directory
    for path in directories_in(directory) if depth > 0 else ():
        # A run's own event files tell less than what lies beside them.
        is_part = is_checkpoint_directory(path.name) or path.name.startswith(STEP_PREFIXES)
        if not is_part and not (is_run and path.name in EVENT_DIRECTORIES):
            yield from _runs(path, depth - 1)


def _name(directory: Path) -> str:
    """Return a short name: a checkpoint goes with its run, event files with theirs."""
    resolved = directory.resolve()
    is_part = is_checkpoint_directory(resolved.name) or resolved.name in EVENT_DIRECTORIES
    return f"{resolved.parent.name}/{resolved.name}" if is_part else resolved.name
