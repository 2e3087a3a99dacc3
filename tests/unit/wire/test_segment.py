"""Files in the node-local directory: names, refusals, liveness, leftovers."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alive_elsewhere import is_alive_for_others
from hypothesis import given
from hypothesis import strategies as st

from trackside.errors import ConfigError, SegmentNotCreated, SegmentRefused
from trackside.wire import segment
from trackside.wire.records import RecordKind
from trackside.wire.ring import RingReader, RingWriter
from trackside.wire.segment import (
    SegmentName,
    ensure_node_directory,
    node_directory,
    scan,
)

MakeWriter = Callable[..., RingWriter]
RUN_IDS = st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True)


@given(
    run=RUN_IDS,
    rank=st.integers(0, 10**9 - 1),
    pid=st.integers(0, 10**9 - 1),
    nonce=st.from_regex(r"[A-Za-z0-9]{1,32}", fullmatch=True),
)
def test_names_round_trip(run: str, rank: int, pid: int, nonce: str) -> None:
    name = SegmentName(run, rank, pid, nonce)

    assert name.file_name == f"{run}.r{rank}.{pid}.{nonce}.ring"
    assert SegmentName.parse(name.file_name) == name


@given(st.text(max_size=60))
def test_names_that_parse_are_canonical(text: str) -> None:
    name = SegmentName.parse(text)

    assert name is None or name.file_name == text


@pytest.mark.parametrize(
    "file_name",
    [
        "run.r0.1.a.ring.tmp",
        "run.r0.1.a.alive",
        "run.r00.1.a.ring",
        "run.r0.-1.a.ring",
        "run.r0.1.a/b.ring",
        "../run.r0.1.a.ring",
        "run.r0.1.a.ring\n",
        "run.r\u0661.1.a.ring",
        f"{'x' * 101}.r0.1.a.ring",
        ".r0.1.a.ring",
        "daemon.sock",
        "",
    ],
)
def test_other_names_are_not_segments(file_name: str) -> None:
    assert SegmentName.parse(file_name) is None


@pytest.mark.parametrize("run", ["", "a/b", "a b", "x" * 101, "\u00e9"])
def test_unusable_run_id_is_a_config_error(run: str) -> None:
    with pytest.raises(ConfigError, match="set run= or TRACKSIDE_RUN"):
        SegmentName(run, 0, 1, "a")


def test_node_directory_is_per_user_unless_moved() -> None:
    assert node_directory({}) == Path(f"/dev/shm/trackside-{os.geteuid()}")  # noqa: S108 - only compared
    assert node_directory({"TRACKSIDE_SHM_DIR": ""}) == node_directory({})
    assert node_directory({"TRACKSIDE_SHM_DIR": "/mnt/shm"}) == Path("/mnt/shm")
    with pytest.raises(ConfigError, match="TRACKSIDE_SHM_DIR='shm' is not an absolute path"):
        node_directory({"TRACKSIDE_SHM_DIR": "shm"})


def test_node_directory_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "node"
    old = os.umask(0)
    try:
        ensure_node_directory(path)
    finally:
        os.umask(old)

    ensure_node_directory(path)

    assert path.stat().st_mode & 0o7777 == 0o700


def test_node_directory_open_to_others_is_refused_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.mkdir()
    path.chmod(0o710)

    with pytest.raises(SegmentRefused, match=f"mode 0710.*chmod 700 {re.escape(str(path))}"):
        ensure_node_directory(path)


def test_node_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node"
    (tmp_path / "real").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "real")

    with pytest.raises(SegmentRefused, match="is a link or a file"):
        ensure_node_directory(path)


def test_node_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.touch(mode=0o600)

    with pytest.raises(SegmentRefused, match="is a link or a file"):
        ensure_node_directory(path)


def test_node_directory_without_a_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegmentRefused, match=r"No such file or directory.*TRACKSIDE_SHM_DIR"):
        ensure_node_directory(tmp_path / "no" / "node")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_node_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)

    with pytest.raises(SegmentRefused, match="belongs to user 12345, not to user 0"):
        ensure_node_directory(path)


def test_scan_lists_finished_segments_only(tmp_path: Path) -> None:
    for name in ("b.ring", "a.ring", "c.ring.tmp", "a.alive", "daemon.sock"):
        (tmp_path / name).touch()

    assert scan(tmp_path) == (tmp_path / "a.ring", tmp_path / "b.ring")
    assert scan(tmp_path / "missing") == ()


def test_segment_is_private_and_wholly_allocated(make_writer: MakeWriter) -> None:
    path = make_writer(1 << 20).path

    found = path.stat()
    assert found.st_mode & 0o7777 == 0o600
    assert found.st_size == 4096 + (1 << 20)
    assert found.st_blocks * 512 >= found.st_size
    assert path.with_suffix(".alive").stat().st_mode & 0o7777 == 0o600


def test_more_than_is_free_is_refused_with_sizes_and_mend_and_leaves_nothing(
    shm_dir: Path,
) -> None:
    space = os.statvfs(shm_dir)
    too_much = (space.f_blocks * space.f_frsize + (1 << 30)) // 64 * 64

    with pytest.raises(SegmentNotCreated, match=rf"{too_much} bytes.*\d+ bytes are free.*lower"):
        RingWriter.create(shm_dir, SegmentName("run", 0, 1, "a"), ring_bytes=too_much)

    assert not any(shm_dir.iterdir())


@pytest.mark.parametrize("ring_bytes", [-1, 0, 960, (1 << 40) + 64])
def test_impossible_ring_size_is_refused(shm_dir: Path, ring_bytes: int) -> None:
    with pytest.raises(SegmentNotCreated, match="change ring_bytes="):
        RingWriter.create(shm_dir, SegmentName("run", 0, 1, "a"), ring_bytes=ring_bytes)


def test_missing_directory_is_refused(shm_dir: Path) -> None:
    with pytest.raises(SegmentNotCreated, match="No such file or directory"):
        RingWriter.create(shm_dir / "no", SegmentName("run", 0, 1, "a"), ring_bytes=4096)


def test_same_name_twice_is_refused_and_the_first_lives_on(shm_dir: Path) -> None:
    name = SegmentName("run", 0, os.getpid(), "a")
    writer = RingWriter.create(shm_dir, name, ring_bytes=4096)

    with pytest.raises(SegmentNotCreated, match="exists"):
        RingWriter.create(shm_dir, name, ring_bytes=4096)

    assert is_alive_for_others(writer.path)
    writer.close()


def test_writer_is_alive_until_it_closes(make_writer: MakeWriter) -> None:
    writer = make_writer()
    writer.publish(RecordKind.STEP, 1, b"")

    assert segment.is_writer_alive(writer.path)
    assert is_alive_for_others(writer.path)
    writer.close()
    assert not segment.is_writer_alive(writer.path)
    assert not is_alive_for_others(writer.path)


def test_asking_in_the_writers_process_does_not_drop_its_lock(make_writer: MakeWriter) -> None:
    writer = make_writer()
    reader = RingReader.open(writer.path)

    answers = [segment.is_writer_alive(writer.path), reader.is_writer_alive()]
    segment.sweep(writer.path.parent)
    reader.close()

    assert answers == [True, True]
    assert is_alive_for_others(writer.path)


def test_forked_child_of_a_dead_writer_does_not_keep_it_alive(shm_dir: Path) -> None:
    """A data loader worker holds its parent's descriptors, and must not hold its lock."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        name = SegmentName("run", 0, 1, "a")
        RingWriter.create(shm_dir, name, ring_bytes=4096)
        grandchild = os.fork()
        if grandchild == 0:
            os.close(write_end)
            os.read(read_end, 1)  # until the test closes its end
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    (path,) = scan(shm_dir)

    is_alive = segment.is_writer_alive(path)

    os.close(write_end)
    os.close(read_end)
    segment.remove(path)
    assert not is_alive


def test_segment_without_lock_file_has_no_writer(tmp_path: Path) -> None:
    assert not segment.is_writer_alive(tmp_path / "run.r0.1.a.ring")


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")]
)
def test_lock_file_that_is_none_means_no_writer(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "run.r0.1.a.alive")

    assert not segment.is_writer_alive(tmp_path / "run.r0.1.a.ring")


def test_remove_is_fine_with_what_is_missing(make_writer: MakeWriter) -> None:
    path = make_writer().path

    segment.remove(path)
    segment.remove(path)

    assert not any(path.parent.iterdir())


def refuse(path: Path, complaint: str) -> None:
    with pytest.raises(SegmentRefused, match=complaint) as caught:
        RingReader.open(path)
    assert str(caught.value).startswith(f"segment {path.name!r} refused: ")
    assert "\n" not in str(caught.value)


def test_links_fifos_directories_and_ghosts_are_refused(
    make_writer: MakeWriter, tmp_path: Path
) -> None:
    real = make_writer().path
    link, fifo, directory = (tmp_path / f"run.r0.1.{x}.ring" for x in "lfd")
    link.symlink_to(real)
    os.mkfifo(fifo, 0o600)
    directory.mkdir()

    refuse(link, "a symbolic link")
    refuse(fifo, "not a regular file")
    refuse(directory, "Is a directory")
    refuse(tmp_path / "run.r0.1.x.ring", "No such file")


def test_file_with_another_name_is_refused(make_writer: MakeWriter, tmp_path: Path) -> None:
    path = tmp_path / "segment.ring"
    shutil.copyfile(make_writer().path, path)

    refuse(path, "the name is not <run>.r<rank>.<pid>.<nonce>.ring")


def test_file_open_to_others_is_refused(make_writer: MakeWriter) -> None:
    path = make_writer().path
    path.chmod(0o640)

    refuse(path, "mode 0640 lets other users in")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_file_of_another_user_is_refused(make_writer: MakeWriter) -> None:
    path = make_writer().path
    os.chown(path, 12345, -1)

    refuse(path, "belongs to user 12345, not 0")


@pytest.mark.parametrize("file_bytes", [0, 1, 4095, 4096, 8191, 8193])
def test_file_of_another_size_is_refused(
    make_writer: MakeWriter, tmp_path: Path, file_bytes: int
) -> None:
    original = make_writer(4096).path
    path = tmp_path / original.name
    shutil.copy(original, path)
    os.truncate(path, file_bytes)

    refuse(path, "bytes")


def test_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.r0.1.a.ring"
    path.touch(mode=0o600)
    path.write_bytes(os.urandom(8192))

    refuse(path, "magic is")


def test_file_cut_while_it_is_read_is_refused(make_writer: MakeWriter, tmp_path: Path) -> None:
    writer = make_writer(4096)
    writer.publish(RecordKind.STEP, 1, b"")
    path = tmp_path / writer.path.name
    shutil.copy(writer.path, path)
    reader = RingReader.open(path)

    os.truncate(path, 4096)

    for look in (reader.poll, lambda: reader.read_at(0), lambda: reader.drops):
        with pytest.raises(SegmentRefused, match="was cut from 8192 to 4096 bytes"):
            look()
