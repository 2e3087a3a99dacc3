"""One start of a training job: the segments of its local ranks, step by step."""

from collections.abc import Callable
from pathlib import Path

from trackside.wire.records import Hello
from tracksided.ingest.aligner import Aligned, Aligner
from tracksided.ingest.stream import Delivery, RankStream
from tracksided.reports import SegmentProgress

# Ranks of one job start together; a job that runs again under the same name starts later.
MAX_START_SPREAD_S = 120.0


class Generation:
    """Segments that belong together, aligned.

    A run id may come again: a job restarted by its launcher, or `attach` called once more. Each
    start is a generation of its own, since its steps begin anew.
    """

    def __init__(self, aligner: Aligner[Delivery], first: RankStream) -> None:
        self.late = 0
        """Records that came after their step was written."""

        self.streams: list[RankStream] = []
        self._aligner = aligner
        self._departed: set[int] = set()
        self._resumed: set[str] = set()
        self.join(first)

    @property
    def hello(self) -> Hello:
        """The lowest rank's."""
        return min((stream.hello for stream in self.streams), key=lambda hello: hello.rank)

    @property
    def nonces(self) -> tuple[str, ...]:
        """Of all segments."""
        return tuple(stream.nonce for stream in self.streams)

    def accepts(self, newcomer: Hello) -> bool:
        """Tell whether a segment is of this start."""
        own = self.hello
        same_job = (own.run, own.attempt, output_directory(own)) == (
            newcomer.run,
            newcomer.attempt,
            output_directory(newcomer),
        )
        has_rank = any(stream.hello.rank == newcomer.rank for stream in self.streams)
        spread_s = abs(newcomer.started_boottime - own.started_boottime)
        together = spread_s <= MAX_START_SPREAD_S
        return same_job and not has_rank and together

    def join(self, stream: RankStream) -> None:
        """Add a segment for which `accepts` is true."""
        self.streams.append(stream)
        self._aligner.join(stream.hello.rank)

    def take(
        self, now: float, progress: Callable[[str], SegmentProgress]
    ) -> list[Aligned[Delivery]]:
        """Read what is new and return the steps that are complete, in order.

        Args:
            now: monotonic seconds.
            progress: gives what is written of the segment with a nonce.
        """
        self._resume(progress)
        for stream in self.streams:
            written = progress(stream.nonce).last_sequence
            for delivery in stream.poll():
                if delivery.sequence <= written:  # by a daemon that could not move the cursor
                    stream.settle(delivery.end)
                elif not self._aligner.deliver(delivery.rank, delivery.step.step, delivery, now):
                    self.late += 1
                    stream.settle(delivery.end)
            if stream.hello.rank not in self._departed and stream.has_ended():
                self._departed.add(stream.hello.rank)
                self._aligner.leave(stream.hello.rank)
        return self._aligner.release(now)

    def is_over(self, now: float) -> bool:
        """Tell whether nothing more will come."""
        return self._aligner.is_over(now)

    def settle(self, step: Aligned[Delivery]) -> None:
        """Move the cursors over a step that is durable."""
        by_rank = {stream.hello.rank: stream for stream in self.streams}
        for rank, delivery in step.by_rank.items():
            by_rank[rank].settle(delivery.end)

    def _resume(self, progress: Callable[[str], SegmentProgress]) -> None:
        """Go on where an earlier daemon stopped, for segments that have joined since."""
        newcomers = [stream for stream in self.streams if stream.nonce not in self._resumed]
        if not newcomers:
            return
        newest = max(map(progress, self.nonces), key=lambda entry: entry.last_line)
        for stream in newcomers:
            own = progress(stream.nonce)
            self._aligner.resume(stream.hello.rank, own.last_step, newest.last_step)
            self._resumed.add(stream.nonce)


def output_directory(hello: Hello) -> Path:
    """Return where the daemon writes: nodes beside the first get folders of their own."""
    save_dir = Path(hello.save_dir)
    return save_dir if hello.node_rank == 0 else save_dir / f"node{hello.node_rank}"
