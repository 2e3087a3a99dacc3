"""Read remote files in windows, the next one while the last is used, in bounded memory."""

import threading
from collections import OrderedDict
from concurrent.futures import Future

from tracksided.checkpoints.remote.files import RemoteFiles

SMALL_BYTES = 64 << 10  # headers and directories: one request for many of them
SMALL_COUNT = 64

READ_AHEAD_BYTES = 16 << 20  # of all windows together, up to 120 checkpoints at once


class Windows:
    """A bounded number of ranges, aligned to their size. Any thread may read."""

    def __init__(self, files: RemoteFiles, window_bytes: int, count: int, *, ahead: bool) -> None:
        """Keep ``count`` windows; ``ahead`` fetches the next one before it is asked for."""
        self._files = files
        self._window_bytes = window_bytes
        self._count = count
        self._ahead = ahead
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()

    @classmethod
    def for_small_reads(cls, files: RemoteFiles) -> "Windows":
        """Make those through which structures are read."""
        return cls(files, SMALL_BYTES, SMALL_COUNT, ahead=False)

    @classmethod
    def for_streams(cls, files: RemoteFiles, num_streams: int) -> "Windows":
        """Make those through which some files are read from end to end at the same time."""
        count = 2 * num_streams + 2
        nbytes = READ_AHEAD_BYTES // count // SMALL_BYTES * SMALL_BYTES
        return cls(files, max(SMALL_BYTES, nbytes), count, ahead=True)

    def read_into(self, place: tuple[str, int], buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset`` of a file, and return how much there was.

        Args:
            place: path of the file, and its size.
            buffer: to be filled.
            offset: in the file.

        Raises:
            RemoteFailure: the store does not give it.
        """
        _, nbytes = place
        filled = 0
        while filled < len(buffer) and offset + filled < nbytes:
            index, skipped = divmod(offset + filled, self._window_bytes)
            window = self._window(place, index)
            part = memoryview(window)[skipped : skipped + len(buffer) - filled]
            if not part:
                break  # the file is shorter than it was
            buffer[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def holds(self, place: tuple[str, int], offset: int) -> bool:
        """Whether the window around an offset of a file is there, or on its way."""
        with self._lock:
            return (place[0], offset // self._window_bytes) in self._held

    def _window(self, place: tuple[str, int], index: int) -> bytes:
        future = self._fetched(place, index)
        if self._ahead and (index + 1) * self._window_bytes < place[1]:
            self._fetched(place, index + 1)
        try:
            return self._files.received(future)
        except BaseException:
            with self._lock:
                self._held.pop((place[0], index), None)
            raise

    def _fetched(self, place: tuple[str, int], index: int) -> Future[bytes]:
        path, nbytes = place
        with self._lock:
            future = self._held.get((path, index))
            if future is None:
                start = index * self._window_bytes
                stop = min(start + self._window_bytes, nbytes)
                future = self._files.fetch(path, start, stop)
                self._held[path, index] = future
                if len(self._held) > self._count:
                    self._held.popitem(last=False)
            return future
