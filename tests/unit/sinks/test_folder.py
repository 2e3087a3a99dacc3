"""Step folders: whole or not there, strict JSON, exact raw maps."""

import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracksided.errors import OutputError
from tracksided.reports import Picture, RawMap
from tracksided.sinks.folder import sweep, write_step_folder

PICTURE = Picture("decoder_layer0_self_attn.png", None, b"png bytes", 1, 1)


class Killed(BaseException):
    """Stands for SIGKILL: nothing below may catch it."""


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def write(save_dir: Path, content: int, folder: str = "step_100") -> None:
    write_step_folder(save_dir, folder, statistics={"content": content}, pictures=[PICTURE], raw=[])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def write_until_killed(save_dir: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> bool:
    """Stop at the n-th system call that changes names or makes bytes durable."""
    count = itertools.count(1)

    def interrupt(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(count) == fatal:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, interrupt(getattr(os, name)))
        try:
            write(save_dir, 2)
        except Killed:
            return True
    return False


def test_everything_of_a_step_lies_in_its_folder(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    raw = RawMap("decoder_layer0_self_attn.npz", weights, np.array([0, 2, 5]), "h.0.attn")

    write_step_folder(
        tmp_path / "new", "step_100", statistics={"a": 1}, pictures=[PICTURE], raw=[raw]
    )

    folder = tmp_path / "new" / "step_100"
    assert (folder / PICTURE.file_name).read_bytes() == b"png bytes"
    with np.load(folder / "raw" / raw.file_name) as loaded:
        assert loaded["weights"].dtype == np.float32
        np.testing.assert_array_equal(loaded["weights"], weights)
        np.testing.assert_array_equal(loaded["query_rows"], [0, 2, 5])
        assert str(loaded["module"]) == "h.0.attn"
    assert names(tmp_path / "new") == ["step_100"]


def test_statistics_are_strict_json_and_unknown_is_null(tmp_path: Path) -> None:
    values = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf],
        "number": np.float32(0.5),
        "none": None,
    }

    write_step_folder(tmp_path, "step_1", statistics=values, pictures=[], raw=[])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = (tmp_path / "step_1" / "statistics.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found == {"nan": None, "inf": [None, None], "number": 0.5, "none": None}


def test_without_statistics_there_is_no_such_file(tmp_path: Path) -> None:
    write_step_folder(tmp_path, "step_1", statistics=None, pictures=[PICTURE], raw=[])

    assert names(tmp_path / "step_1") == [PICTURE.file_name]


def test_a_step_done_again_replaces_its_folder(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step_100" / "stale.png").touch()

    write(tmp_path, 2)

    assert tree(tmp_path) == {
        "step_100/statistics.json": b'{\n  "content": 2\n}\n',
        "step_100/decoder_layer0_self_attn.png": b"png bytes",
    }


@pytest.mark.parametrize("has_old", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_old: bool
) -> None:
    seen: set[str] = set()
    for fatal in itertools.count(1):
        save_dir = tmp_path / str(fatal)
        save_dir.mkdir()
        if has_old:
            write(save_dir, 1)

        is_killed = write_until_killed(save_dir, monkeypatch, fatal)
        sweep(save_dir)

        found = names(save_dir)
        assert found == ["step_100"] or not (found or has_old)
        if found:
            files = tree(save_dir / "step_100")
            assert files.keys() == {"statistics.json", PICTURE.file_name}
            seen.add(files["statistics.json"].decode())
        write(save_dir, 3)
        assert b"3" in (save_dir / "step_100" / "statistics.json").read_bytes()
        if not is_killed:
            break
    assert fatal > 6
    assert len(seen) == 1 + has_old


def test_a_failed_write_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)
    before = tree(tmp_path)

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OutputError, match=r"step_100: No space left on device; free"):
            write(tmp_path, 2)

    assert tree(tmp_path) == before
    assert names(tmp_path) == ["step_100"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()

    with pytest.raises(OutputError, match=r"run/step_100: "):
        write(tmp_path / "run", 1)


def test_a_link_in_the_place_of_a_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").touch()
    save_dir = tmp_path / "run"
    save_dir.mkdir()
    (save_dir / "step_100").symlink_to(elsewhere)

    write(save_dir, 1)

    assert (elsewhere / "keep").exists()
    assert not (save_dir / "step_100").is_symlink()


def test_sweep_does_not_wait_for_the_other_end_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json.trackside-tmp")

    sweep(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_sweep_leaves_what_is_not_temporary(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "history.jsonl").touch()
    (tmp_path / "run.json.trackside-tmp").touch()

    sweep(tmp_path)
    sweep(tmp_path / "missing")

    assert names(tmp_path) == ["history.jsonl", "step_100"]
