"""The analysis process when the daemon at the other end of its socket is gone."""

import os
import select
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from fake_trainer import FakeRank, make_hello

from trackside.wire.segment import remove
from tracksided.jobs import Job, JobDone, RecordRef, ReportJob

pytestmark = pytest.mark.integration

MEMORY_BYTES = 1 << 30
PATIENCE_S = 60


def start_worker(theirs: socket.socket) -> "subprocess.Popen[str]":
    descriptor = theirs.fileno()
    words = (str(descriptor), str(os.getpid()), str(MEMORY_BYTES))
    return subprocess.Popen(
        [sys.executable, "-m", "tracksided.worker", *words],
        pass_fds=(descriptor,),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("is_read", [True, False], ids=["answer-read", "answer-unread"])
def test_it_ends_without_a_word(tmp_path: Path, *, is_read: bool) -> None:
    """A socket closed with an answer in it gives the other side ECONNRESET, not an end."""
    ours, theirs = socket.socketpair()
    with theirs:
        worker = start_worker(theirs)
    with Connection(ours.detach()) as connection:
        connection.send(ReportJob(tmp_path))
        assert select.select([connection], [], [], PATIENCE_S)[0], "no answer within a minute"
        if is_read:
            connection.recv()

    _, said = worker.communicate(timeout=PATIENCE_S)
    assert (worker.returncode, said) == (0, "")


def test_it_lets_go_of_a_segment_that_is_removed(tmp_path: Path, shm_dir: Path) -> None:
    """As long as anybody maps it, the memory of a removed segment is not free."""
    rank = FakeRank(shm_dir, make_hello(tmp_path))
    rank.publish(1)
    segment = rank.writer.path
    ours, theirs = socket.socketpair()
    with theirs:
        worker = start_worker(theirs)
    maps = Path(f"/proc/{worker.pid}/maps")
    with Connection(ours.detach()) as connection:
        connection.send(job_of(segment, tmp_path / "run"))
        assert isinstance(connection.recv(), JobDone)
        was_mapped = str(segment) in maps.read_text()
        rank.abandon()
        remove(segment)

        deadline = time.monotonic() + PATIENCE_S
        while str(segment) in maps.read_text():
            assert time.monotonic() < deadline, "still mapped after a minute"
            time.sleep(0.05)

    _, said = worker.communicate(timeout=PATIENCE_S)
    assert was_mapped
    assert (worker.returncode, said) == (0, "")


def job_of(segment: Path, output_dir: Path) -> Job:
    return Job(
        records=(RecordRef(segment, 0),),
        output_dir=output_dir,
        with_pictures=False,
        with_statistics=True,
        shed=None,
        previous=None,
    )
