"""From new segments to runs: which segments belong together, and which run goes first."""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tracksided.config import Settings
from tracksided.ingest.aligner import Aligner
from tracksided.ingest.generation import Generation, output_directory
from tracksided.ingest.segments import SegmentScanner
from tracksided.ingest.stream import Delivery, RankStream
from tracksided.outputs import RunOutputs
from tracksided.patient_outputs import PatientOutputs
from tracksided.reports import Alert
from tracksided.runs import Run, State

logger = logging.getLogger(__name__)

# Runs without trainers that are served at a time, all that can be written: each takes a thread,
# files and a look in every turn, and hundreds left nothing over for the workers.
MAX_ENDED = 16


class Intake:
    """All runs of the node-local directory. One thread.

    Starts of one run id are served one after the other: steps of a restarted job are written
    only when those of the try before it are.
    """

    def __init__(
        self,
        directory: Path,
        tell: Callable[[Alert], None],
        wall_clock: Callable[[], float],
    ) -> None:
        """Find nothing yet.

        Args:
            directory: the node-local one.
            tell: sends a committed alert to the channels; does not wait.
            wall_clock: Unix time in seconds.
        """
        self._scanner = SegmentScanner(directory)
        self._tell = tell
        self._wall_clock = wall_clock
        self._outputs: dict[Path, PatientOutputs] = {}
        self.runs: list[Run] = []
        """In order of their start."""

    @property
    def refused(self) -> dict[str, str]:
        """File name to reason of segments that are not read."""
        return self._scanner.refused

    @property
    def current(self) -> list[Run]:
        """The runs to be served now: of each run id and directory the earliest start.

        A run whose trainers are gone comes before every later run of its directory, whatever
        that is called: a job that resumes under a new name writes after what it resumes. Of all
        runs whose trainers are gone the first few are served, the others after them.
        """
        return self._line_up()[0]

    @property
    def num_held_back(self) -> int:
        """Runs without trainers that wait for others to be written."""
        return self._line_up()[1]

    def look(self, settings: Settings, now: float) -> list[Run]:
        """Take in new segments; return the runs that they began or joined."""
        touched: list[Run] = []
        for stream in self._scanner.look():
            run = self._run_of(stream)
            if run is None:
                run = self._begin(stream, settings, now)
            else:
                run.generation.join(stream)
            touched.append(run)
        return touched

    def remove(self, run: Run) -> None:
        """Let go of a finished run and unlink its segments."""
        run.close(remove_segments=True)
        self.runs.remove(run)
        for stream in run.generation.streams:
            self._scanner.forget(stream.reader.path)
        if not any(other.directory == run.directory for other in self.runs):
            outputs = self._outputs.pop(run.directory, None)
            if outputs is not None:
                outputs.close()

    def outputs_of(self, run_id: str) -> PatientOutputs | None:
        """Return the open outputs of a run, None where there are none."""
        for run in self.runs:
            if run.run_id == run_id:
                outputs = self._outputs.get(run.directory)
                return outputs if outputs is not None and outputs.is_open else None
        return None

    def close(self) -> None:
        """Close everything; segments stay for the next daemon."""
        for run in self.runs:
            run.close(remove_segments=False)
        for outputs in self._outputs.values():
            outputs.close()

    def _line_up(self) -> tuple[list[Run], int]:
        """Return the runs to be served now, and how many wait because there are so many."""
        current: list[Run] = []
        taken: set[tuple[str, Path] | Path] = set()
        num_in = Counter(run.directory for run in self.runs)
        num_ended = num_held_back = 0
        for run in self.runs:
            key = (run.run_id, run.directory)
            if not taken.isdisjoint((key, run.directory)):
                continue
            taken.add(key)
            if run.is_alive:
                current.append(run)
                continue
            is_waited_for = num_in[run.directory] > 1
            if is_waited_for:
                taken.add(run.directory)
            if num_ended < MAX_ENDED or is_waited_for:
                current.append(run)
                num_ended += run.problem is None  # one that cannot be written keeps none waiting
            else:
                num_held_back += 1
        return current, num_held_back

    def _run_of(self, stream: RankStream) -> Run | None:
        """Return the run that a segment joins: of several tries, the one that began with it."""
        started = stream.hello.started_boottime
        candidates = [
            run
            for run in self.runs
            if run.state in {State.OPENING, State.RUNNING} and run.generation.accepts(stream.hello)
        ]
        return min(
            candidates,
            key=lambda run: abs(run.generation.hello.started_boottime - started),
            default=None,
        )

    def _begin(self, stream: RankStream, settings: Settings, now: float) -> Run:
        aligner: Aligner[Delivery] = Aligner(
            num_ranks=stream.hello.local_world_size,
            now=now,
            join_grace_s=settings.join_grace_seconds,
            max_lag_s=settings.max_lag_seconds,
        )
        generation = Generation(aligner, stream)
        outputs = self._outputs_in(output_directory(stream.hello))
        run = Run(generation, settings, outputs, self._tell, self._wall_clock)
        for other in self.runs:
            if other.directory == run.directory and other.run_id != run.run_id and other.is_alive:
                logger.warning(
                    "runs %s and %s both write to %s now; give each a save_dir of its own",
                    other.run_id,
                    run.run_id,
                    run.directory,
                )
        self.runs.append(run)
        return run

    def _outputs_in(self, directory: Path) -> PatientOutputs:
        if directory not in self._outputs:
            self._outputs[directory] = PatientOutputs(directory, self._open)
        return self._outputs[directory]

    def _open(self, directory: Path) -> RunOutputs:
        return RunOutputs(directory, self._wall_clock)
