"""The store at a directory or URL; reading this shows where checkpoints may lie."""

from pathlib import Path

from tracksided.checkpoints.local_store import LocalStore
from tracksided.checkpoints.remote.address import RemoteAddress
from tracksided.checkpoints.store import Store


def open_store(directory: Path | RemoteAddress, count: int) -> Store:
    """Open a directory, or what a URL names.

    Args:
        directory: where the checkpoints lie.
        count: how many of them will be read at the same time.

    Raises:
        SettingsError: the package for the URL is missing.
    """
    if isinstance(directory, Path):
        return LocalStore(directory)
    from tracksided.checkpoints.remote.store import open_remote_store  # noqa: PLC0415 - fsspec is an extra, and 35 MB

    return open_remote_store(directory, count)
