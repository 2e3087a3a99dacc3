"""The text of the demo: Python's own standard library, split into training and held-out files."""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracksided.errors import SettingsError

MAX_BYTES = 6_000_000  # more than a demo reads, and loaded in well under a second
HELD_OUT_EVERY = 10  # one file in ten
MIN_BYTES = 200_000  # a shorter text is learned by heart
# Installed packages differ from machine to machine; tests and tables are not what code looks like.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}
)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Text for training and, from other files, for evaluation."""

    train: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
    train_files: tuple[Path, ...]
    held_out_files: tuple[Path, ...]


def load_corpus(root: Path | None = None, *, max_bytes: int = MAX_BYTES) -> Corpus:
    """Read Python files in order of their path until there is enough text.

    Args:
        root: directory to search; None is the standard library of this interpreter.
        max_bytes: where to stop; the file that passes it is cut.

    Raises:
        SettingsError: there is too little text.
    """
    root = Path(sysconfig.get_paths()["stdlib"]) if root is None else root
    texts: tuple[list[bytes], list[bytes]] = ([], [])
    files: tuple[list[Path], list[Path]] = ([], [])
    num_bytes = 0
    for index, path in enumerate(_python_files(root)):
        if num_bytes >= max_bytes:
            break
        text = path.read_bytes()[: max_bytes - num_bytes]
        num_bytes += len(text)
        split = int(index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
        texts[split].append(text)
        files[split].append(path)
    if num_bytes < MIN_BYTES:
        raise SettingsError(
            f"{root} holds {num_bytes} bytes of Python source, the demo needs {MIN_BYTES}; "
            f"use an interpreter that is installed with its standard library as files"
        )
    train, held_out = (np.frombuffer(b"".join(part), dtype=np.uint8) for part in texts)
    return Corpus(train, held_out, tuple(files[0]), tuple(files[1]))


def random_batches(
    text: NDArray[np.uint8], *, batch_size: int, length: int, seed: tuple[int, ...]
) -> Iterator[NDArray[np.int64]]:
    """Yield windows of the text at random places, [batch, length], without end.

    Equal seeds yield equal batches.
    """
    generator = np.random.default_rng(seed)
    while True:
        starts = generator.integers(0, len(text) - length + 1, size=batch_size)
        yield _windows(text, starts, length)


def even_batches(
    text: NDArray[np.uint8], *, num_batches: int, batch_size: int, length: int
) -> Iterator[NDArray[np.int64]]:
    """Yield a fixed number of batches [batch, length], spread evenly over the whole text."""
    starts = np.linspace(0, len(text) - length, num_batches * batch_size).astype(np.int64)
    for batch in starts.reshape(num_batches, batch_size):
        yield _windows(text, batch, length)


def _windows(text: NDArray[np.uint8], starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    windows: NDArray[np.int64] = text[starts[:, None] + np.arange(length)].astype(np.int64)
    return windows


def _python_files(root: Path) -> list[Path]:
    found = [
        path.relative_to(root)
        for path in root.rglob("*.py")
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]) and path.is_file()
    ]
    return [root / path for path in sorted(found)]
