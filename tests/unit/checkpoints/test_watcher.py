import errno
import os
from pathlib import Path

import pytest

from tracksided.checkpoints import watcher
from tracksided.checkpoints.watcher import Look, look


def put(directory: Path, name: str, content: bytes = b"x", mtime: int = 1) -> None:
    (directory / name).write_bytes(content)
    os.utime(directory / name, (mtime, mtime))


def test_a_look_sees_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    for name in ("step_1.pt", "a.ckpt", "averaged_model.pt", "notes.txt", ".hidden.pt"):
        put(tmp_path, name)

    seen = look(tmp_path)

    assert {name for name, _, _, _ in seen.signature} == {"step_1.pt", "a.ckpt"}


def test_a_missing_directory_holds_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "later") == Look(frozenset())


def test_the_pattern_of_the_file_written_last_comes_first(tmp_path: Path) -> None:
    put(tmp_path, "a.pt", mtime=1)
    put(tmp_path, "b.pt", mtime=2)
    put(tmp_path, "c.safetensors", mtime=3)

    seen = look(tmp_path)

    assert seen.patterns == ("*.safetensors", "*.pt")
    assert seen.most_of_one_kind == 2


def put_directory(directory: Path, *names: str) -> None:
    directory.mkdir()
    for name in names:
        put(directory, name)


def test_a_look_sees_directories_with_weights_and_what_makes_them_complete(tmp_path: Path) -> None:
    put_directory(tmp_path / "checkpoint-1", "model.safetensors", "optimizer.pt", "config.json")
    put(tmp_path / "checkpoint-1", "trainer_state.json")
    put_directory(tmp_path / "checkpoint-2", "pytorch_model.bin", "trainer_state.json")
    put_directory(tmp_path / "best", "adapter_model.safetensors")
    put_directory(tmp_path / "averaged", "model.safetensors")
    put_directory(tmp_path / "mine", "model.safetensors", "averaging.json")
    put_directory(tmp_path / "runs", "events.out.tfevents")
    put_directory(tmp_path / ".hidden", "model.safetensors")

    seen = look(tmp_path)

    assert {name for name, _, _, _ in seen.signature} == {
        "checkpoint-1/model.safetensors",
        "checkpoint-1/trainer_state.json",
        "checkpoint-2/pytorch_model.bin",
        "checkpoint-2/trainer_state.json",
        "best/adapter_model.safetensors",
    }
    assert seen.names == {"checkpoint-1", "checkpoint-2", "best"}
    assert set(seen.patterns) == {"checkpoint-*/", "*/"}
    assert seen.most_of_one_kind == 2


def test_a_file_that_grows_inside_of_a_directory_is_a_change(tmp_path: Path) -> None:
    put_directory(tmp_path / "checkpoint-1", "model.safetensors")
    before = look(tmp_path)

    put(tmp_path / "checkpoint-1", "model.safetensors", b"grown")

    assert look(tmp_path) != before


@pytest.mark.parametrize(
    ("name", "half", "last"),
    [
        ("checkpoint-2", ("model.safetensors",), "trainer_state.json"),
        ("later", ("model-00001-of-00002.safetensors",), "model.safetensors.index.json"),
        ("later", ("__0_0.distcp", "__1_0.distcp"), ".metadata"),
    ],
)
def test_a_directory_is_seen_when_what_is_written_last_is_there(
    tmp_path: Path, name: str, half: tuple[str, ...], last: str
) -> None:
    put_directory(tmp_path / "checkpoint-1", "model.safetensors", "trainer_state.json")
    put_directory(tmp_path / name, *half)
    before = look(tmp_path)

    put(tmp_path / name, last)

    assert before.names == {"checkpoint-1"}
    assert look(tmp_path).names == {"checkpoint-1", name}


def test_the_first_directory_of_the_trainer_waits_for_its_state_too(tmp_path: Path) -> None:
    put_directory(tmp_path / "checkpoint-1", "model.safetensors", "training_args.bin")
    put_directory(tmp_path / "final", "model.safetensors", "training_args.bin")

    assert look(tmp_path).names == {"final"}


def test_a_directory_of_too_many_files_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "MAX_ENTRIES", 3)
    put_directory(tmp_path / "few", "model.safetensors", "1", "2")
    put_directory(tmp_path / "many", "model.safetensors", "1", "2", "3")

    assert look(tmp_path).names == {"few"}


def test_the_output_is_called_after_what_was_written_last(tmp_path: Path) -> None:
    put(tmp_path, "a.pt", mtime=1)
    assert look(tmp_path).default_output == "averaged_model.pt"

    put_directory(tmp_path / "checkpoint-1")
    put(tmp_path / "checkpoint-1", "model.safetensors", mtime=2)
    assert look(tmp_path).default_output == "averaged"


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("loop.pt", errno.ELOOP),
        ("step_1.pt/x", errno.ENOTDIR),
        ("x" * 300, errno.ENAMETOOLONG),
    ],
)
def test_a_link_that_leads_nowhere_is_left_out_and_named(
    tmp_path: Path, target: str, number: int
) -> None:
    put(tmp_path, "step_1.pt")
    before = look(tmp_path)
    (tmp_path / "loop.pt").symlink_to(target)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "rotated.pt").symlink_to("gone.pt")

    seen = look(tmp_path)

    assert seen == before
    assert seen.refused == (("loop.pt", f"cannot be looked at: {os.strerror(number)}"),)


def test_a_part_of_a_directory_that_cannot_be_looked_at_is_named(tmp_path: Path) -> None:
    put_directory(tmp_path / "checkpoint-1", "config.json")
    (tmp_path / "checkpoint-1" / "model.safetensors").symlink_to("model.safetensors")

    seen = look(tmp_path)

    reason = f"cannot be looked at: {os.strerror(errno.ELOOP)}"
    assert seen.refused == (("checkpoint-1/model.safetensors", reason),)
