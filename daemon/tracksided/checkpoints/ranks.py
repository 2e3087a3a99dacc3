"""An averaging whose work the ranks of a job share.

Rank 0 chooses, plans and publishes as a single process does. The others wait for orders, which
are JSON: nothing that a rank sends is unpickled.

| order of rank 0 | what every rank does | what it answers |
|---|---|---|
| write | opens the same sources, writes its share of the output, syncs | CRC-32 of its chunks |
| read back | reads what the next rank wrote; looks whether its sources changed | nothing |
| end | ends with the exit code of rank 0 | |

All ranks write disjoint ranges of the same temporary files, on a file system that they share.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tracksided.checkpoints.averaging import Averaging, Progress
from tracksided.checkpoints.formats.base import Checkpoint
from tracksided.checkpoints.formats.catalog import describe_as
from tracksided.checkpoints.orders import ReadBackOrder, Report, SourceOrder, WriteOrder
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.shares import Crcs, fingerprint, shares
from tracksided.checkpoints.source import SourceDirectory, SourceFile
from tracksided.checkpoints.workers import Work, compare, require_unchanged
from tracksided.checkpoints.writeback import FileTarget
from tracksided.errors import CheckpointError, OutputError, RankLost, TracksidedError

EXIT_FAILED = 1


class Group(Protocol):
    """How the ranks of a job talk. One thread calls it; every call is one of all ranks."""

    @property
    def rank(self) -> int:
        """Of this process."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def broadcast(self, content: bytes | None) -> bytes:
        """Give what rank 0 has to all; raises RankLost."""

    def gather(self, content: bytes) -> tuple[bytes, ...]:
        """Give what each has to rank 0, in the order of ranks; raises RankLost."""

    def raise_alarm(self, number: int) -> None:
        """Tell all, without waiting, that the round of a number came to nothing."""

    def is_alarmed(self, number: int) -> bool:
        """Whether somebody raised the alarm of a round."""


class Stopped(TracksidedError):
    """Another rank failed, or the job is to end: this rank need not go on."""


class Ranks:
    """`Workers` of rank 0: it orders, does its own share, and hears the others.

    States: idle -> ordered -> idle; `end` from either.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._round = 0
        self._is_idle = True
        self._owners: Mapping[str, Path] = {}
        """The sources' paths as this rank was given them, by those that were ordered."""

    @property
    def count(self) -> int:
        """Number of ranks."""
        return self._group.size

    def write(self, work: Work, progress: Progress | None) -> Crcs:
        """Let every rank write its share; see `Workers.write`.

        Raises:
            RankLost: a rank cannot be reached any more.
        """
        averaging = work.averaging
        order = WriteOrder(
            round=self._round + 1,
            sources=tuple(_source_order(checkpoint) for checkpoint in averaging.checkpoints),
            weights=averaging.weights,
            fingerprint=fingerprint(averaging.checkpoints, averaging.jobs, averaging.weights),
            paths=tuple(str(path.absolute()) for path in work.paths),
            places=work.places,
            num_threads=work.num_threads,
        )
        self._owners = {
            str(checkpoint.sources[0].owner.absolute()): checkpoint.sources[0].owner
            for checkpoint in averaging.checkpoints
        }
        with self._ordered(order.to_json()) as reports:
            mine = _run_share(self._group, order, averaging, work, progress)
            reports.append(Report(mine))
        crcs = Crcs()
        for report in reports:
            crcs.add(report.crcs)
        return crcs

    def read_back(self, work: Work, crcs: Crcs) -> None:
        """Let every rank read what another wrote; see `Workers.read_back`."""
        order = ReadBackOrder(self._round + 1, crcs)
        with self._ordered(order.to_json()) as reports:
            _read_back_share(self._group, order, work)
            reports.append(Report())

    def end(self, exit_code: int) -> None:
        """Let all ranks end with the exit code of this one, which is about to end."""
        with contextlib.suppress(RankLost):  # who is gone needs no order
            if self._is_idle:
                self._group.broadcast(_encode({"order": "end", "exit_code": exit_code}))
            else:
                self._group.raise_alarm(self._round)

    @contextlib.contextmanager
    def _ordered(self, order: Mapping[str, object]) -> Iterator[list[Report]]:
        """Give an order, do the own share inside, and add what the others report.

        The own failure is raised when all others were heard, so that they wait for the next order.
        """
        self._round += 1
        self._is_idle = False
        self._group.broadcast(_encode(order))
        reports: list[Report] = []
        failure: Exception | None = None
        try:
            yield reports
        except (TracksidedError, OSError) as error:
            self._group.raise_alarm(self._round)
            failure = error
        answers = self._group.gather(b"{}")
        self._is_idle = True
        others = [Report.from_json(json.loads(answer)) for answer in answers[1:]]
        if failure is not None and not isinstance(failure, Stopped):
            raise failure
        for rank, report in enumerate(others, start=1):
            report.raise_failure(rank, self._owners)
        if failure is not None:
            raise failure
        for rank, report in enumerate(others, start=1):
            if report.is_failed:
                raise Stopped(f"rank {rank} was asked to end; the previous average stays")
        reports += others


def follow(group: Group) -> int:
    """Serve rank 0 as another rank, and return its exit code.

    Raises:
        RankLost: another rank ended, cannot be reached, or is of another version.
    """
    with contextlib.ExitStack() as opened:
        work: Work | None = None
        while True:
            order = json.loads(group.broadcast(None))
            match order["order"]:
                case "write":
                    opened.close()
                    write = WriteOrder.from_json(order)
                    report, work = _write(group, write, opened)
                    number = write.round
                case "read back" if work is not None:
                    read = ReadBackOrder.from_json(order)
                    report, number = _read_back(group, read, work), read.round
                case "end":
                    return int(order["exit_code"])
                case _:
                    raise RankLost(f"rank 0 ordered {order['order']!r}, which is not known here")
            if report.is_failed:
                group.raise_alarm(number)
            group.gather(_encode(report.to_json()))


def _write(
    group: Group, order: WriteOrder, opened: contextlib.ExitStack
) -> tuple[Report, Work | None]:
    try:
        work = _open_work(order, opened)
        return Report(_run_share(group, order, work.averaging, work, None)), work
    except (TracksidedError, OSError) as error:
        return Report.of(error, _output_name(order)), None


def _read_back(group: Group, order: ReadBackOrder, work: Work) -> Report:
    try:
        _read_back_share(group, order, work)
    except (TracksidedError, OSError) as error:
        return Report.of(error, work.paths[0].name)
    return Report()


def _run_share(
    group: Group,
    order: WriteOrder,
    averaging: Averaging,
    work: Work,
    progress: Progress | None,
) -> Crcs:
    """Write this rank's share, and bring it to disk, so that other nodes see it."""

    def watch(done: int, total: int) -> None:
        _require_calm(group, order.round)
        if progress is not None:
            progress(done, total)

    share = shares(averaging.checkpoints, averaging.jobs, group.size)[group.rank]
    crcs = averaging.run(
        share, work.places, work.targets, num_threads=work.num_threads, progress=watch
    )
    for target in work.targets:
        target.sync()
    return crcs


def _read_back_share(group: Group, order: ReadBackOrder, work: Work) -> None:
    """Read what the next rank wrote: only a file system that all share shows it."""
    averaging = work.averaging
    theirs = (group.rank + 1) % group.size
    share = shares(averaging.checkpoints, averaging.jobs, group.size)[theirs]
    written = {chunk: order.crcs.chunks[chunk].output for chunk in share.chunks}
    compare(
        work.paths,
        averaging.jobs,
        work.places,
        written,
        watch=lambda: _require_calm(group, order.round),
    )
    require_unchanged(averaging)


def _require_calm(group: Group, number: int) -> None:
    """Raise Stopped where another rank failed, or this one is asked to end."""
    if group.is_alarmed(number):
        raise Stopped("ended before it was done; the previous average stays")


def _source_order(checkpoint: Checkpoint) -> SourceOrder:
    owner, first = checkpoint.sources[0].owner, checkpoint.sources[0].path
    return SourceOrder(
        path=str(owner.absolute()),
        is_directory=owner != first,
        format=checkpoint.format,
        files=_states(checkpoint),
    )


def _states(checkpoint: Checkpoint) -> tuple[tuple[str, int, int], ...]:
    return tuple(
        (source.name, source.identity.nbytes, source.identity.mtime_ns)
        for source in checkpoint.sources
    )


def _open_work(order: WriteOrder, opened: contextlib.ExitStack) -> Work:
    """Open the same sources and the same output as rank 0.

    Raises:
        SourceRefused: a source cannot be read here, or is another one here.
        CheckpointError: the plan comes out in another way.
        OutputError: the output of rank 0 is not to be seen here.
    """
    checkpoints = [_open_source(source, opened) for source in order.sources]
    averaging = Averaging(checkpoints, order.weights)
    if fingerprint(averaging.checkpoints, averaging.jobs, averaging.weights) != order.fingerprint:
        raise CheckpointError(
            "plans another averaging than rank 0; all ranks must run the same version of trackside"
        )
    paths = [Path(path) for path in order.paths]
    return Work(
        averaging=averaging,
        places=order.places,
        targets=_open_targets(paths, opened),
        paths=paths,
        num_threads=order.num_threads,
    )


def _open_source(order: SourceOrder, opened: contextlib.ExitStack) -> Checkpoint:
    path = Path(order.path)
    source = SourceDirectory(path) if order.is_directory else SourceFile(path)
    opened.callback(source.close)
    checkpoint = describe_as(order.format, source)
    if _states(checkpoint) != order.files:
        raise SourceRefused(path, "is not the same on all ranks: it changes, or is not shared")
    return checkpoint


def _open_targets(paths: Sequence[Path], opened: contextlib.ExitStack) -> tuple[FileTarget, ...]:
    targets: list[FileTarget] = []
    for path in paths:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise OutputError(
                f"{path.parent}: the output of rank 0 cannot be opened: {error.strerror}; the "
                "directory must be shared by all ranks, under the same path"
            ) from error
        opened.callback(os.close, descriptor)
        targets.append(FileTarget(descriptor))
    return tuple(targets)


def _output_name(order: WriteOrder) -> str:
    return Path(order.paths[0]).name


def _encode(content: Mapping[str, object]) -> bytes:
    return json.dumps(content).encode()
