"""Errors of the daemon.

TracksidedError
+-- SettingsError      a setting or option that cannot be used
+-- DaemonRunning      another daemon already serves this user
+-- OutputError        an output directory or file cannot be written
+-- ObservationError   a line of history.jsonl or alerts.jsonl is not what we write
+-- ReportError        what a report shall be made of is missing or cannot be read
+-- RankLost           another rank of an averaging ended or cannot be reached
+-- CheckpointError    a checkpoint directory or file cannot be used
    +-- CheckpointRefused   a file that is not a complete, sane checkpoint
"""


class TracksidedError(Exception):
    """Base of every error the daemon raises on purpose; its message is fit for the user."""


class SettingsError(TracksidedError, ValueError):
    """A setting or option cannot be used; the message names it and the mend."""


class DaemonRunning(TracksidedError):
    """Another daemon already serves this user and node-local directory."""


class OutputError(TracksidedError):
    """An output directory or file cannot be written; the message says why and what to do."""


class OutputPending(OutputError):
    """An output is being written and has not been yet; ask again."""


class ObservationError(TracksidedError, ValueError):
    """A line of ``history.jsonl`` or ``alerts.jsonl`` is not what we write."""


class ReportError(TracksidedError):
    """A file or field that a report needs is missing or cannot be read; the message says which."""


class RankLost(TracksidedError):
    """Another rank of an averaging ended or cannot be reached; nothing was published."""


class CheckpointError(TracksidedError):
    """A checkpoint directory or file cannot be used."""


class CheckpointRefused(CheckpointError):
    """A file is not a complete and sane checkpoint of a format we read."""
