"""Small records, published into a ring."""

from trackside.wire.records import RecordKind
from trackside.wire.ring import PublishResult, RingWriter


def publish(writer: RingWriter, step: int, payload: bytes = b"") -> PublishResult:
    return writer.publish(
        RecordKind.STEP, step, f"m{step}".encode(), [(0, memoryview(payload))], len(payload)
    )
