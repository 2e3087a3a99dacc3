"""Objects in a bucket: list, look at, read ranges, upload, remove. The only user of fsspec."""

import asyncio
import contextlib
import datetime as dt
import importlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from fsspec import filesystem
from fsspec.asyn import AsyncFileSystem

from tracksided.checkpoints.ending import signals_held
from tracksided.checkpoints.remote.address import SCHEMES, RemoteAddress
from tracksided.errors import SettingsError, TracksidedError

# Of a few MiB. The libraries below try again by themselves, for hours where nothing answers.
PATIENCE_S = 300.0


class RemoteFailure(TracksidedError):
    """The store cannot be reached, or refuses; the message names the object."""

    def __init__(
        self, reason: str, *, is_missing: bool = False, is_unreachable: bool = False
    ) -> None:
        """Say what happened.

        Args:
            reason: for the user.
            is_missing: there is no such object.
            is_unreachable: other objects would not be reached either.
        """
        super().__init__(reason)
        self.is_missing = is_missing
        self.is_unreachable = is_unreachable


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """An object, or a prefix that is used like a directory."""

    path: str
    """Bucket and key."""

    is_directory: bool
    nbytes: int
    mtime_ns: int
    etag: str
    """Changes with the content; empty for a directory."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Upload(Protocol):
    """An object that is uploaded in parts, and appears at `commit`."""

    closed: bool

    def write(self, data: bytes | memoryview) -> int:
        """Append; sends a part where enough has come together."""

    def close(self) -> None:
        """Send what is left."""

    def commit(self) -> None:
        """Make the object visible."""

    def discard(self) -> None:
        """Forget the parts."""


class RemoteFiles:
    """One kind of object store. Any thread may call it."""

    def __init__(self, scheme: str) -> None:
        """Load the package for it; connects at the first request.

        Raises:
            SettingsError: the package is not installed.
            TypeError: a version of it without an asynchronous interface.
        """
        self._scheme = SCHEMES[scheme]
        self.scheme = scheme
        try:
            with signals_held():  # it starts a thread; `crew` says what must not interrupt that
                # Listings are kept by who asked for them, for one averaging.
                store = filesystem(scheme, use_listings_cache=False)
            others = _classes(self._scheme.errors)
            self._unreachable = _classes(self._scheme.unreachable)
        except ImportError as error:
            raise SettingsError(
                f"{scheme}:// needs the package {self._scheme.module}; install it with\n"
                f"    pip install 'trackside[daemon,{self._scheme.extra}]'\n"
                "or, in a clone of trackside, with\n"
                f"    pip install '.[daemon,{self._scheme.extra}]'"
            ) from error
        if not isinstance(store, AsyncFileSystem):
            raise TypeError(f"{self._scheme.module} has no asynchronous interface")
        self._store = store
        self._errors: tuple[type[Exception], ...] = (OSError, *others)
        self._is_given_up = False

    def url(self, path: str) -> str:
        """Return the URL of an object, for messages."""
        return str(RemoteAddress(self.scheme, path))

    def list(self, path: str) -> tuple[RemoteEntry, ...]:
        """List what lies directly below a path; raises RemoteFailure."""
        with self.reached():
            found = self._store.ls(path, detail=True)
        entries = [_entry(info) for info in found]
        return tuple(entry for entry in entries if entry.name and entry.path != path)

    def look(self, path: str) -> RemoteEntry:
        """Look at an object as it is now; raises RemoteFailure."""
        with self.reached():
            return _entry(self._store.info(path))

    def fetch(self, path: str, start: int, stop: int) -> Future[bytes]:
        """Begin to read bytes ``start`` to ``stop`` - 1, for `received`.

        Raises:
            RemoteFailure: all was given up.
        """
        self.require_wanted()
        read = self._store._cat_file(path, start=start, end=stop)  # noqa: SLF001 - its async form
        return asyncio.run_coroutine_threadsafe(read, self._store.loop)

    def received(self, future: Future[bytes]) -> bytes:
        """Wait for what `fetch` began; raises RemoteFailure."""
        with self.reached():
            try:
                return future.result(PATIENCE_S)
            except TimeoutError:
                if not future.cancel():
                    raise  # it ended so itself
                reason = f"no answer in {PATIENCE_S:.0f} s"
                raise RemoteFailure(reason, is_unreachable=True) from None

    def upload(self, path: str, part_bytes: int) -> Upload:
        """Begin an upload; raises RemoteFailure."""
        with self.reached():
            opened: Upload = self._store.open(path, "wb", block_size=part_bytes, autocommit=False)
            return opened

    def put(self, path: str, content: bytes) -> None:
        """Write a small object at once; raises RemoteFailure."""
        with self.reached():
            self._store.pipe_file(path, content)

    def remove(self, path: str) -> None:
        """Remove an object; raises RemoteFailure."""
        with self.reached():
            self._store.rm_file(path)

    def give_up(self) -> None:
        """Cancel all requests: who waits for one ends, however long the store is silent."""
        self._is_given_up = True
        loop = self._store.loop
        loop.call_soon_threadsafe(_cancel_all, loop)

    def require_wanted(self) -> None:
        """Raise RemoteFailure where all was given up."""
        if self._is_given_up:
            raise RemoteFailure("was given up")

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """Turn what the store's library raises into RemoteFailure."""
        try:
            yield
        except FileNotFoundError as error:
            raise RemoteFailure("does not exist", is_missing=True) from error
        except PermissionError as error:
            raise RemoteFailure(
                f"access denied: {_text(error)}; check {self._scheme.credentials}"
            ) from error
        except self._errors as error:
            hint = f"; check {self._scheme.credentials}" if _is_about_credentials(error) else ""
            is_unreachable = isinstance(error, self._unreachable)
            raise RemoteFailure(_text(error) + hint, is_unreachable=is_unreachable) from error


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _classes(names: tuple[tuple[str, str], ...]) -> tuple[type[Exception], ...]:
    return tuple(getattr(importlib.import_module(module), name) for module, name in names)


def _entry(info: Mapping[str, Any]) -> RemoteEntry:
    """Read what s3fs and gcsfs say of an object; they name some things differently."""
    modified = info.get("LastModified") or info.get("mtime")
    mtime_ns = 0
    if isinstance(modified, dt.datetime):
        mtime_ns = int(modified.timestamp() * 1000) * 1_000_000  # stores tell milliseconds
    return RemoteEntry(
        path=str(info["name"]).strip("/"),
        is_directory=info["type"] == "directory",
        nbytes=int(info.get("size") or 0),
        mtime_ns=mtime_ns,
        etag=str(info.get("ETag") or info.get("etag") or "").strip('"'),
    )


def _text(error: Exception) -> str:
    """Return the first line of a message, with its class where that is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_about_credentials(error: Exception) -> bool:
    return "credential" in f"{type(error).__name__} {error}".lower()
