"""Waiting for the outputs of a daemon that may be gone."""

from pathlib import Path

import pytest
from fake_trainer import FakeRank, make_hello

from trackside.wire.segment import remove
from tracksided import launch
from tracksided.launch import DaemonGone, Serving


def test_a_daemon_of_others_has_time_to_come_back(
    shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Serving(shm_dir, None)
    left = FakeRank(shm_dir, make_hello(tmp_path))
    left.publish(1)
    left.abandon()

    is_drained = daemon.wait_until_drained(None, timeout_s=0.0)
    monkeypatch.setattr(launch, "COMEBACK_LIMIT_S", 0.0)
    with pytest.raises(DaemonGone, match="has ended") as raised:
        daemon.wait_until_drained(None, timeout_s=60.0)

    assert not is_drained
    assert raised.value.num_left == 1
    remove(left.writer.path)


def test_where_nothing_is_left_no_daemon_is_missed(
    shm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "COMEBACK_LIMIT_S", 0.0)

    assert Serving(shm_dir, None).wait_until_drained(None, timeout_s=60.0)
