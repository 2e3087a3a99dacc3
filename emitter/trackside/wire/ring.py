"""The ring: one producer publishes records, one consumer reads them, nobody waits.

`RingWriter` belongs to one rank, `RingReader` to the daemon. Each cursor has one owner: the
writer stores the write cursor when a record is complete, the reader stores the read cursor when
a record is durable elsewhere. A full ring drops the new record and counts it.
"""

from trackside.wire.layout import DropCause
from trackside.wire.reader import RingReader
from trackside.wire.scanner import Record
from trackside.wire.writer import PublishResult, RingWriter

__all__ = ["DropCause", "PublishResult", "Record", "RingReader", "RingWriter"]
