"""Checkpoints on a file server that is stopped keep nobody else waiting."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from averaging_service import Clock, save, settle
from daemon_process import wait_until

from tracksided import patient_thread
from tracksided.checkpoints import service as service_module
from tracksided.checkpoints import watched
from tracksided.checkpoints.service import CheckpointService
from tracksided.checkpoints.watcher import Look, look

pytestmark = pytest.mark.integration


def test_other_directories_are_averaged_and_the_hung_one_when_it_answers(
    tmp_path: Path,
    clock: Clock,
    make_service: Callable[..., CheckpointService],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hung, sound = tmp_path / "hung", tmp_path / "sound"
    answers = threading.Event()

    def look_where_it_answers(directory: Path) -> Look:
        if directory == hung:
            answers.wait()
        return look(directory)

    monkeypatch.setattr(service_module, "look", look_where_it_answers)
    monkeypatch.setattr(patient_thread, "SILENT_S", 0.0)
    monkeypatch.setattr(watched, "LOOK_WAIT_S", 0.5)
    service = make_service()
    for directory in (hung, sound):
        directory.mkdir()
        save(directory, 1, 2, 3)
        service.watch(directory, run=None)

    first = settle(service, clock)
    answers.set()
    wait_until(lambda: service._watched[hung].calls.is_free)
    second = settle(service, clock)

    assert [event.directory for event in first] == [sound]
    assert [event.directory for event in second] == [hung]
    told = [entry.message for entry in caplog.records if str(hung) in entry.message]
    assert f"checkpoints in {hung}: no answer, is the server stopped?" in told
    assert f"checkpoints in {hung} are looked at again" in told
