"""The analysis process when the daemon at the other end of its socket is gone."""

import os
import select
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tracksided.jobs import ReportJob

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
