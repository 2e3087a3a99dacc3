"""Errors of the emitter and of the wire.

What is derived from what:

    TracksideError
    +-- ConfigError          a setting that cannot be used (also a ValueError)
    +-- DeviceNotSupported   tensors on a device that nothing is recorded from
    +-- WireError
        +-- SegmentRefused   a file that is not a segment we may read
        |   +-- LayoutMismatch   a segment of another wire version
        +-- SegmentNotCreated    shared memory for a new segment cannot be had
        +-- DoorbellUnavailable  a doorbell socket cannot be made safely
        +-- RecordCorrupt    a record whose bytes contradict its checksum or schema
"""


class TracksideError(Exception):
    """Base of every error raised by trackside."""


class ConfigError(TracksideError, ValueError):
    """A setting has a value that cannot be used; the message names it and the mend."""


class DeviceNotSupported(TracksideError):
    """Tensors lie on a device that they cannot be copied from; the message names its type."""


class WireError(TracksideError):
    """Base of the errors of shared memory and records."""


class SegmentRefused(WireError):
    """A file in the node-local directory is not a segment that this process may read."""


class LayoutMismatch(SegmentRefused):
    """A segment was written with another version of the wire layout."""


class SegmentNotCreated(WireError):
    """Shared memory for a new segment cannot be had; the message names the size and the mend."""


class DoorbellUnavailable(WireError):
    """A doorbell socket cannot be made safely; the ring works without it."""


class RecordCorrupt(WireError):
    """A record's bytes contradict its checksum, its bounds or its schema."""
