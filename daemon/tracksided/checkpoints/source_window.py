"""Parts of checkpoint files, read as if each were a file of its own."""

from tracksided.checkpoints.refusals import SourceRefused
from tracksided.checkpoints.source import SourceFile


class SourceWindow(SourceFile):
    """A part of a file that is read as if it were a file of its own; the file owns it."""

    def __init__(self, whole: SourceFile, start: int, nbytes: int, label: str) -> None:
        """Look at ``nbytes`` from ``start``; ``label`` names the part in messages.

        Raises:
            SourceRefused: the file ends before.
        """
        self._whole, self._start, self._nbytes, self._label = whole, start, nbytes, label
        self.path, self.owner = whole.path, whole.owner
        self.status, self.identity = whole.status, whole.identity
        if start < 0 or nbytes < 0 or start + nbytes > whole.nbytes:
            raise self.refusal(
                f"should be {nbytes} bytes from {start}, but the file has {whole.nbytes}"
            )

    @property
    def name(self) -> str:
        """The file's name and the label."""
        return f"{self._whole.name}: {self._label}"

    @property
    def nbytes(self) -> int:
        """Size of the part."""
        return self._nbytes

    @property
    def begins_at(self) -> int:
        """Position of the part's first byte in the file."""
        return self._whole.begins_at + self._start

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read exactly ``nbytes`` at ``offset`` of the part; see `SourceFile.read`."""
        self._require_inside(offset, nbytes)
        return self._whole.read(self._start + offset, nbytes)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset`` of the part; see `SourceFile.read_into`."""
        self._require_inside(offset, len(buffer))
        self._whole.read_into(buffer, self._start + offset)

    def _require_inside(self, offset: int, nbytes: int) -> None:
        if offset < 0 or offset + nbytes > self._nbytes:
            raise self.refusal(f"ends at byte {self._nbytes}, {offset + nbytes} are needed")

    def require_unchanged(self) -> None:
        """Refuse the file around it if it was written to."""
        self._whole.require_unchanged()

    def refusal(self, reason: str) -> SourceRefused:
        """Make the error that costs the whole checkpoint its place."""
        return self._whole.refusal(f"{self._label}: {reason}")

    def close(self) -> None:
        """Leave the file open: it belongs to others, too."""
