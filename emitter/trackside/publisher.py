"""Record, then doorbell; what cannot be published is counted by cause. Never raises."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from trackside.errors import WireError
from trackside.staging import HostArray
from trackside.wire.layout import DropCause, align
from trackside.wire.records import ArraySpec, Close, Metadata, RecordKind, Step, encode
from trackside.wire.ring import PublishResult, RingWriter

logger = logging.getLogger(__name__)

ATTENTION_PREFIX = "attention/"
GRADIENTS_PREFIX = "gradients/"
CLOSE_RESERVE_BYTES = 1024  # kept free of steps: an orderly end is told even by a full ring
NO_ROOM = frozenset({PublishResult.RING_FULL, PublishResult.TOO_LARGE})
SMALL_RING_BYTES = 64 * CLOSE_RESERVE_BYTES


class Bell(Protocol):
    """What rings after a record; `trackside.wire.doorbell.Doorbell` is the real one."""

    def ring(self) -> None:
        """Ask the daemon to look."""

    def close(self) -> None:
        """Stop."""


class Publisher:
    """Puts records into the ring and rings. One thread at a time.

    Without a ring everything is counted as dropped; without a bell the daemon looks by itself.
    """

    def __init__(self, ring: RingWriter | None, bell: Bell | None) -> None:
        self.published = 0
        self._ring = ring
        self._bell = bell
        # Small rings of tests have no room to spare.
        is_small = ring is None or ring.capacity_bytes < SMALL_RING_BYTES
        self._close_bytes = 0 if is_small else CLOSE_RESERVE_BYTES
        self._drops: dict[str, int] = {}  # what the ring cannot count: there is none, or no more

    @property
    def has_ring(self) -> bool:
        """Whether there is anything to publish to."""
        return self._ring is not None

    def has_room(self, num_bytes: int) -> bool:
        """Whether a step of this size could be published now."""
        ring = self._sound_ring()
        return ring is not None and ring.has_room(num_bytes + self._close_bytes)

    @property
    def drops(self) -> dict[str, int]:
        """Drops by cause since the session began, without the causes that did not occur."""
        drops = dict(self._drops)
        ring = self._sound_ring()
        for cause, count in (ring.drops if ring else {}).items():
            drops[cause] = drops.get(cause, 0) + count
        return drops

    def count_drop(self, cause: DropCause, count: int = 1) -> None:
        """Count samples, or parts of one, that will not be published."""
        ring = self._sound_ring()
        if ring is not None:
            ring.count_drop(cause, count)
        else:
            self._drops[cause.label] = self._drops.get(cause.label, 0) + count

    def publish_step(self, step: Step, arrays: Mapping[str, HostArray]) -> bool:
        """Publish a step, with as much of it as there is room for; True if anything went out.

        Attention is shed first, then gradients, the scalars at last; each part counts as a drop.
        ``step.arrays`` and ``step.dropped`` are filled in here.
        """
        while True:
            result = self._publish(
                RecordKind.STEP, step.step, replace(step, dropped=self.drops), arrays
            )
            if result not in NO_ROOM:
                return result is PublishResult.PUBLISHED
            if step.attention:
                step, arrays = replace(step, attention=()), _without(arrays, ATTENTION_PREFIX)
            elif step.gradients is not None:
                step, arrays = replace(step, gradients=None), _without(arrays, GRADIENTS_PREFIX)
            else:
                return False

    def publish_close(self, close: Close) -> bool:
        """Publish the last record; ``published`` and ``dropped`` are filled in here."""
        close = replace(close, published=self.published, dropped=self.drops)
        result = self._publish(RecordKind.CLOSE, 0, close, {})
        if result in NO_ROOM and (close.scalars or close.texts):
            # What was logged last may be more than the room that is kept for the end itself.
            close = replace(close, scalars=(), texts=(), dropped=self.drops)
            result = self._publish(RecordKind.CLOSE, 0, close, {})
        return result is PublishResult.PUBLISHED

    def close(self) -> None:
        """End the segment and the bell; the counts stay readable. Twice is fine."""
        self._drops = self.drops
        ring, bell, self._ring, self._bell = self._ring, self._bell, None, None
        if ring is not None:
            ring.close()
        if bell is not None:
            bell.close()

    def _sound_ring(self) -> RingWriter | None:
        """Return the ring, None where there is none or no more; that its file was cut is told."""
        if self._ring is not None and self._ring.was_cut:
            logger.warning(
                "trackside: somebody cut %s while it was written; nothing more of this rank is "
                "published, training goes on",
                self._ring.path,
            )
            self._ring.close()
            self._ring = None
        return self._ring

    def _publish(
        self, kind: RecordKind, step: int, metadata: Metadata, arrays: Mapping[str, HostArray]
    ) -> PublishResult:
        ring = self._sound_ring()
        if ring is None:
            self.count_drop(DropCause.OTHER)
            return PublishResult.INACTIVE
        layout = _lay_out(arrays)
        if isinstance(metadata, Step):
            metadata = replace(metadata, arrays=layout.specs)
        try:
            packed = encode(metadata)
            kept = self._close_bytes if kind is RecordKind.STEP else 0
            result = ring.publish(
                *(kind, step, packed, layout.chunks, layout.payload_bytes), keep_free_bytes=kept
            )
        except (WireError, ValueError, TypeError) as error:
            logger.warning("trackside: a record of step %d cannot be published: %s", step, error)
            self.count_drop(DropCause.ERROR)
            return PublishResult.INACTIVE
        if result is PublishResult.PUBLISHED:
            self.published += 1
            if self._bell is not None:
                self._bell.ring()
        return result


@dataclass(frozen=True, slots=True)
class _Layout:
    """The arrays of a record in its payload."""

    specs: tuple[ArraySpec, ...]
    chunks: list[tuple[int, memoryview]]
    payload_bytes: int


def _lay_out(arrays: Mapping[str, HostArray]) -> _Layout:
    """Give every array its place; one under several names has one place."""
    specs: list[ArraySpec] = []
    chunks: list[tuple[int, memoryview]] = []
    places: dict[int, int] = {}
    end = 0
    for name, array in arrays.items():
        if id(array) not in places:
            places[id(array)] = end
            chunks.append((end, array.raw))
            end += align(array.raw.nbytes)
        specs.append(
            ArraySpec(
                name=name,
                dtype=array.dtype,
                shape=array.shape,
                offset=places[id(array)],
                nbytes=array.raw.nbytes,
            )
        )
    return _Layout(tuple(specs), chunks, end)


def _without(arrays: Mapping[str, HostArray], prefix: str) -> dict[str, HostArray]:
    return {name: array for name, array in arrays.items() if not name.startswith(prefix)}
