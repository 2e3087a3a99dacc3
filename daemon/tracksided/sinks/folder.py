"""The folder of one step: ``step_100/``. It appears whole, or not at all.

A folder is built beside its place and renamed. Where one stands already (a step done again after
a crash), it first steps aside:

======================== ========================= ==========================================
``step_100``             beside it                 what a kill there means to `sweep`
======================== ========================= ==========================================
old                      new, unfinished           new is removed
missing                  old and new               old goes back; the step is done again
new                      old                       old is removed
======================== ========================= ==========================================
"""

import io
import logging
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from tracksided.durable import sync_directory
from tracksided.reports import Picture, RawMap
from tracksided.sinks.json_file import TEMPORARY_SUFFIX, encode
from tracksided.sinks.refusal import output_error

logger = logging.getLogger(__name__)

STATISTICS_FILE = "statistics.json"
RAW_FOLDER = "raw"
NEW_SUFFIX = f".new{TEMPORARY_SUFFIX}"
OLD_SUFFIX = f".old{TEMPORARY_SUFFIX}"
NPZ_LEVEL = 1  # zeros of causal maps shrink at any level, weights hardly at the best


def write_step_folder(
    save_dir: Path,
    folder: str,
    *,
    statistics: Mapping[str, object] | None,
    pictures: Sequence[Picture],
    raw: Sequence[RawMap],
) -> None:
    """Write all files of a step, durably, in place of what stood there.

    Args:
        save_dir: of the run; made when needed.
        folder: name under it.
        statistics: content of ``statistics.json``, NaN and infinity become null; None for no
            such file.
        pictures: written under their names.
        raw: written under ``raw/``.

    Raises:
        OutputError: it cannot be written; what stood there stays.
    """
    target = save_dir / folder
    new = save_dir / f".{folder}{NEW_SUFFIX}"
    old = save_dir / f".{folder}{OLD_SUFFIX}"
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        _restore(old, target)
        _remove(new)
        new.mkdir()
        if statistics is not None:
            _write(new / STATISTICS_FILE, encode(statistics, indent=2))
        for picture in pictures:
            _write(new / picture.file_name, picture.png)
        if raw:
            (new / RAW_FOLDER).mkdir()
            for attention in raw:
                _write(new / RAW_FOLDER / attention.file_name, _npz(attention))
            sync_directory(new / RAW_FOLDER)
        sync_directory(new)
        if os.path.lexists(target):
            target.rename(old)
        new.rename(target)
        sync_directory(save_dir)
        _remove(old)
    except OSError as error:
        _take_back(new, old, target)
        raise output_error(target, error) from error


def sweep(save_dir: Path) -> None:
    """Clear away what killed writers left under temporary names.

    Only while no other process writes there.

    Raises:
        OutputError: something cannot be moved or removed.
    """
    path = save_dir
    try:
        for path in sorted(save_dir.glob(f"*{TEMPORARY_SUFFIX}")):
            logger.info("clearing away %s, which a killed writer left", path)
            if path.name.startswith(".") and path.name.endswith(OLD_SUFFIX):
                _restore(path, save_dir / path.name[1 : -len(OLD_SUFFIX)])
            else:
                _remove(path)
    except OSError as error:
        raise output_error(path, error) from error


def _restore(old: Path, target: Path) -> None:
    """Put a folder back that stepped aside, unless its successor has come."""
    if os.path.lexists(old):
        if os.path.lexists(target):
            _remove(old)
        else:
            old.rename(target)


def _take_back(new: Path, old: Path, target: Path) -> None:
    """Undo a write that failed, as far as it can be; `sweep` does the rest."""
    try:
        _restore(old, target)
        _remove(new)
    except OSError as error:
        logger.debug("left for the next start: %s", error)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:  # never opened: a pipe would wait for its other end
        path.unlink(missing_ok=True)


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _npz(attention: RawMap) -> memoryview:
    """Encode as numpy does, but quickly: ``np.savez_compressed`` knows only its slow level."""
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "weights": np.asarray(attention.weights, dtype=np.float32),
        "query_rows": attention.query_rows,
        "module": np.array(attention.module),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(
        buffer, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=NPZ_LEVEL
    ) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy_format.write_array(member, array, allow_pickle=False)
    return buffer.getbuffer()
