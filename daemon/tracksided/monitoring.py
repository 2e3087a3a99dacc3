"""What the steps of a run say together: `Monitoring/*`, `Epoch/*`, the object of a line."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trackside.errors import RecordCorrupt
from trackside.wire.plain import from_plain
from tracksided.convergence.course import Course, Point, ends_epoch, find_evaluation
from tracksided.convergence.verdict import MEMORY_POINTS, Verdict, judge, move_on
from tracksided.errors import ObservationError
from tracksided.observations import Observation, observe
from tracksided.reports import Scalar, StepReport, known_scalars
from tracksided.summaries import epoch_scalars, epoch_text

logger = logging.getLogger(__name__)

KEY = "monitoring"  # of a line of history.jsonl
COURSE = "course"  # in that object: what the next step goes on from


@dataclass(frozen=True, slots=True)
class _Remembered:
    point: Point
    course: Course
    """After it."""


class Monitoring:
    """Follows one run. One thread."""

    def __init__(self, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        """Take up what is known of the run.

        Args:
            lines: the newest ones of ``history.jsonl``, oldest first.
        """
        self._memory: deque[_Remembered] = deque(maxlen=MEMORY_POINTS)
        self.verdict = Verdict()
        """After the newest step."""

        now = None
        for line in lines:
            now = self._recall(line) or now
        if now is not None:
            self._judge(now)

    @property
    def course(self) -> Course:
        """What the run has been through."""
        return self._memory[-1].course if self._memory else Course()

    def add(self, report: StepReport) -> StepReport:
        """Return the report of the next step with what the steps so far say together."""
        now = observe(report.history)
        point = _point(report.history, now)
        before = self._rewound(point.step)
        self._remember(point)
        self._judge(now)
        ended = before.epoch if ends_epoch(before, point) else None
        document = {**asdict(self.verdict), COURSE: asdict(self.course)}
        return replace(
            report,
            history={**report.history, KEY: document},
            scalars=(
                *report.scalars,
                *_scalars(self.verdict, report.step),
                *(() if ended is None else epoch_scalars(ended)),
            ),
            texts=(
                *report.texts,
                *(() if ended is None else (epoch_text(ended, before.epoch_before),)),
            ),
        )

    def _rewound(self, step: int) -> Course:
        """Forget this step and what lies ahead of it: it belongs to an abandoned try."""
        while self._memory and self._memory[-1].point.step >= step:
            self._memory.pop()
        return self.course

    def _remember(self, point: Point, course: Course | None = None) -> None:
        if course is None:
            points = [*(entry.point for entry in self._memory), point]
            course = move_on(self.course, points)
        self._memory.append(_Remembered(point, course))

    def _judge(self, now: Observation) -> None:
        self.verdict = judge([entry.point for entry in self._memory], self.course, now.ranks)

    def _recall(self, line: Mapping[str, Any]) -> Observation | None:
        """Take a written step in; a line that makes no sense is passed over."""
        try:
            now = observe(line)
            point = _point(line, now)
        except ObservationError as error:
            logger.debug("a line of history.jsonl cannot be followed: %s", error)
            return None
        self._rewound(point.step)
        self._remember(point, _written_course(line))
        return now


def _written_course(line: Mapping[str, Any]) -> Course | None:
    """Return the course that a line holds; None where it holds none that makes sense."""
    document = line.get(KEY)
    if not isinstance(document, Mapping):
        return None
    try:
        found: Course = from_plain(Course, document.get(COURSE), f"{KEY}.{COURSE}")
    except RecordCorrupt as error:
        logger.debug("the course is taken up anew: %s", error)
        return None
    return found


def _point(line: Mapping[str, Any], now: Observation) -> Point:
    epoch, logged = line.get("epoch"), line.get("logged")
    numbers = {
        str(name): float(value)
        for name, value in (logged.items() if isinstance(logged, Mapping) else ())
        if isinstance(value, int | float)
    }
    return Point(
        step=now.step,
        timestamp=now.timestamp,
        epoch=epoch if isinstance(epoch, int) else None,
        loss=now.loss,
        learning_rate=now.learning_rate,
        gradient_norm=now.gradient_norm,
        clip_rate=now.clip_rate,
        evaluation=find_evaluation(numbers),
    )


def _scalars(verdict: Verdict, step: int) -> Iterator[Scalar]:
    values = {
        "Monitoring/Convergence_Score": verdict.convergence_score,
        "Monitoring/Loss_Trend": verdict.loss_trend,
        "Monitoring/Straggler_Score": verdict.straggler_score,
        "Monitoring/Step_Time_Skew": verdict.step_time_skew,
        "Monitoring/Distinct_Weights": verdict.distinct_weights,
    }
    return known_scalars(values, step)
