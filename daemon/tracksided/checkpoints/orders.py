"""What the ranks of a job send each other about an averaging, as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tracksided.checkpoints.formats.base import Place
from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.shares import Chunk, ChunkCrcs, Crcs
from tracksided.errors import CheckpointError, OutputError, TracksidedError

_RAISED = (CheckpointError, OutputError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOrder:
    """A checkpoint that rank 0 chose."""

    path: str
    is_directory: bool
    format: str
    files: tuple[tuple[str, int, int], ...]
    """(name, bytes, mtime_ns) of each that holds tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOrder:
    """The plan."""

    round: int
    """Number of the order."""

    sources: tuple[SourceOrder, ...]
    weights: tuple[float, ...]
    fingerprint: str
    """See `tracksided.checkpoints.shares.fingerprint`."""

    paths: tuple[str, ...]
    """Of the output's files while they are written."""

    places: Mapping[str, Place]
    num_threads: int

    def to_json(self) -> dict[str, object]:
        """Return what is sent; floats survive JSON exactly."""
        places = {key: [place.file, place.offset] for key, place in self.places.items()}
        sources = [asdict(source) for source in self.sources]
        fields = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        return {"order": "write", **fields, "sources": sources, "places": places}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Take it from what was sent."""
        return cls(
            round=fields["round"],
            sources=tuple(
                SourceOrder(
                    path=source["path"],
                    is_directory=source["is_directory"],
                    format=source["format"],
                    files=tuple((name, nbytes, mtime) for name, nbytes, mtime in source["files"]),
                )
                for source in fields["sources"]
            ),
            weights=tuple(fields["weights"]),
            fingerprint=fields["fingerprint"],
            paths=tuple(fields["paths"]),
            places={key: Place(file, offset) for key, (file, offset) in fields["places"].items()},
            num_threads=fields["num_threads"],
        )


_PLAIN_FIELDS = ("round", "weights", "fingerprint", "paths", "num_threads")


@dataclass(frozen=True, slots=True)
class ReadBackOrder:
    """What all ranks wrote."""

    round: int
    crcs: Crcs

    def to_json(self) -> dict[str, object]:
        """Return what is sent."""
        return {"order": "read back", "round": self.round, **_crcs_to_json(self.crcs)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Take it from what was sent."""
        return cls(fields["round"], _crcs_from_json(fields))


@dataclass(frozen=True, slots=True)
class Report:
    """What came of an order at one rank."""

    crcs: Crcs = field(default_factory=Crcs)
    kind: str | None = None
    """Name of the error's class, one of `_RAISED` where it is one; None where there is none."""

    message: str = ""
    refused: tuple[str, str] | None = None
    """(path, reason) of a source that cannot be used."""

    @classmethod
    def of(cls, error: TracksidedError | OSError, output: str) -> Self:
        """Tell of an error; one of the operating system is one of the output, by its name."""
        if isinstance(error, OSError):
            message = f"{output}: writing failed: {error.strerror}; the previous average stays"
            return cls(kind=OutputError.__name__, message=message)
        if isinstance(error, SourceRefused):
            return cls(kind=SourceRefused.__name__, refused=(str(error.path), error.reason))
        kind = next((kind for kind in _RAISED if isinstance(error, kind)), type(error))
        return cls(kind=kind.__name__, message=str(error))

    @property
    def is_failed(self) -> bool:
        """Whether the order failed there."""
        return self.kind is not None

    def raise_failure(self, rank: int, owners: Mapping[str, Path]) -> None:
        """Raise here what was raised there; a rank that only stopped says nothing.

        Args:
            rank: that reports.
            owners: the sources' paths as this rank knows them, by those that were ordered.

        Raises:
            CheckpointError: a source cannot be used, or all of them.
            OutputError: the output cannot be written.
        """
        if self.refused is not None:
            path, reason = self.refused
            raise SourceRefused(owners[path], reason)
        for error in _RAISED:
            if self.kind == error.__name__:
                raise error(f"rank {rank}: {self.message}")

    def to_json(self) -> dict[str, object]:
        """Return what is sent."""
        return {
            "kind": self.kind,
            "message": self.message,
            "refused": self.refused,
            **_crcs_to_json(self.crcs),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Take it from what was sent."""
        refused = fields["refused"]
        return cls(
            crcs=_crcs_from_json(fields),
            kind=fields["kind"],
            message=fields["message"],
            refused=None if refused is None else (refused[0], refused[1]),
        )


def _crcs_to_json(crcs: Crcs) -> dict[str, object]:
    chunks = [
        [chunk.job, chunk.start, chunk.stop, found.output, *found.sources]
        for chunk, found in crcs.chunks.items()
    ]
    return {"chunks": chunks, "rest": [[*place, crc] for place, crc in crcs.rest.items()]}


def _crcs_from_json(fields: Mapping[str, Any]) -> Crcs:
    return Crcs(
        {
            Chunk(job, start, stop): ChunkCrcs(output, tuple(sources))
            for job, start, stop, output, *sources in fields["chunks"]
        },
        {(index, key): crc for index, key, crc in fields["rest"]},
    )
