"""Somebody removes or replaces what the daemon uses."""

import shutil
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from written import scalars, steps

pytestmark = pytest.mark.integration


def finish(rank: FakeRank, shm_dir: Path) -> None:
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))


def test_history_removed_in_mid_run_is_begun_anew(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    (out / "history.jsonl").unlink()
    rank.publish(2)
    wait_until(lambda: steps(out) == [2])
    daemon.kill()
    daemon.start()
    rank.publish(3)
    finish(rank, shm_dir)

    assert steps(out) == [2, 3]
    assert "history.jsonl was removed or replaced" in daemon.output


def test_output_directory_removed_in_mid_run_comes_back(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    shutil.rmtree(out)
    rank.publish(2)
    finish(rank, shm_dir)

    assert steps(out) == [2]
    assert [step for step, _ in scalars(out, "Training/Loss")] == [2]
    assert (out / "step_2" / "statistics.json").exists()
    assert (out / "run.json").exists()


def test_output_directory_replaced_by_a_file_is_waited_for(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    out.rename(tmp_path / "moved")
    out.write_text("in the way")
    rank.publish(2)
    wait_until(lambda: "a file stands where a directory is needed" in daemon.output)
    out.unlink()
    (tmp_path / "moved").rename(out)
    finish(rank, shm_dir)

    assert steps(out) == [1, 2]
    assert [step for step, _ in scalars(out, "Training/Loss")] == [1, 2]


def test_segment_removed_by_a_stranger_is_named_with_its_mend(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(1)
    wait_until(lambda: steps(out) == [1])
    for path in (rank.writer.path, rank.writer.path.with_suffix(".alive")):
        path.unlink()

    wait_until(lambda: "enable-linger" in daemon.output)
    wait_until(lambda: "is over" in daemon.output)
    rank.hang_up()
    assert daemon.stop() == 0


@pytest.mark.parametrize("what", ["directory", "socket", "foreign"])
def test_daemon_moves_in_again_where_its_directory_was_removed(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, what: str
) -> None:
    daemon.start()
    wait_until((shm_dir / "daemon.sock").exists)
    first = (shm_dir / "daemon.sock").stat()
    if what == "directory":
        shutil.rmtree(shm_dir)
    else:
        (shm_dir / "daemon.sock").unlink()
    if what == "foreign":
        (shm_dir / "daemon.sock").write_text("not a socket")
    wait_until(
        lambda: (
            (shm_dir / "daemon.sock").is_socket()
            and (shm_dir / "daemon.sock").stat().st_ctime_ns > first.st_ctime_ns
        )
    )
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    rank.publish(1)
    finish(rank, shm_dir)

    assert steps(tmp_path / "out") == [1]
    assert daemon.stop() == 0
    assert not (shm_dir / "daemon.sock").exists()


def test_foreign_file_in_the_socket_s_place_is_replaced(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    (shm_dir / "daemon.sock").write_text("not a socket")
    daemon.start()
    wait_until((shm_dir / "daemon.sock").is_socket)
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    rank.publish(1)
    finish(rank, shm_dir)
    assert steps(tmp_path / "out") == [1]
