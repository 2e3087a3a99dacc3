"""Hold what is known of many checkpoints in little memory: they are mostly laid out alike."""

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tracksided.checkpoints.formats.base import Checkpoint, Record

_UNKNOWN = -1  # in place of a CRC-32


class RecordTable(Mapping[str, Record]):
    """Records as numbers in arrays, 24 bytes each, or 16 beside a table like it."""

    def __init__(self, records: Mapping[str, Record], like: "RecordTable | None" = None) -> None:
        """Take over some records.

        Args:
            records: by key.
            like: a table whose keys and lengths are held for both where they are the same.
        """
        crcs = [record.crc32 for record in records.values()]
        sources = [record.source for record in records.values()]
        self.places = {key: place for place, key in enumerate(records)}
        self.lengths = array("q", (record.nbytes for record in records.values()))
        if like is not None and like.places == self.places:
            self.places = like.places
        if like is not None and like.lengths == self.lengths:
            self.lengths = like.lengths
        self._offsets = array("q", (record.offset for record in records.values()))
        self._crcs = array("q", (_UNKNOWN if crc is None else crc for crc in crcs))
        self._sources = sources[:1] if len(set(sources)) == 1 else sources

    def __getitem__(self, key: str) -> Record:
        """Put a record together."""
        place = self.places[key]
        crc = self._crcs[place]
        return Record(
            self._sources[place if len(self._sources) > 1 else 0],
            self._offsets[place],
            self.lengths[place],
            None if crc == _UNKNOWN else crc,
        )

    def __iter__(self) -> Iterator[str]:
        """Yield the keys, in order."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.places)


def compacted(checkpoint: Checkpoint, like: Checkpoint | None) -> Checkpoint:
    """Return a checkpoint that says the same, and holds what is equal together with another.

    Args:
        checkpoint: as its format describes it.
        like: one that is held already; None for the first.
    """
    if like is None:
        return replace(checkpoint, records=RecordTable(checkpoint.records))
    other = like.records if isinstance(like.records, RecordTable) else None
    return replace(
        checkpoint,
        tensors=like.tensors if like.tensors == checkpoint.tensors else checkpoint.tensors,
        records=RecordTable(checkpoint.records, other),
    )
