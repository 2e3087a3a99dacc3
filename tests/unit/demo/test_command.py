import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from tracksided.cli import demo
from tracksided.errors import OutputError, SettingsError


@pytest.mark.parametrize("steps", ["0", "59", "-5", "many"])
def test_too_few_steps_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str
) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(demo.command, ["--steps", steps])

    assert result.exit_code == 2
    assert "Invalid value for '--steps'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_output_directory_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")

    result = CliRunner().invoke(demo.command, ["--out", str(tmp_path)])

    assert isinstance(result.exception, OutputError)
    assert not result.stdout


def test_an_address_that_is_none_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo.command, ["--out", str(tmp_path / "new"), "--http", "here"])

    assert isinstance(result.exception, SettingsError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(demo, "_run", interrupting(number))
    # Whatever started the tests may have had the signal ignored.
    inherited = signal.signal(number, signal.SIG_DFL)
    try:
        result = CliRunner().invoke(demo.command, ["--out", str(tmp_path)])
        after = signal.getsignal(number)
    finally:
        signal.signal(number, inherited)

    assert result.exit_code == 128 + number
    assert "interrupted" in result.stderr
    assert after is signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_run", interrupting(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        result = CliRunner().invoke(demo.command, ["--out", str(tmp_path)])
    finally:
        signal.signal(signal.SIGHUP, before)

    assert result.exit_code == 0


def interrupting(number: signal.Signals) -> Callable[[Path, int, object], None]:
    """Return a demo that is sent a signal, and the same again while it puts things in order."""

    def run(out: Path, steps: int, page: object) -> None:
        del out, steps, page
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)

    return run


@pytest.mark.parametrize(
    ("last", "averaged", "said"),
    [
        (1.75, 1.5, "the average is better by 0.2500"),
        (1.5, 1.75, "the average is not better (by 0.2500)"),
        (1.5, 1.5, "the average is not better (by 0.0000)"),
    ],
)
def test_the_comparison_says_what_came_out(last: float, averaged: float, said: str) -> None:
    results = SimpleNamespace(checkpoints=(Path("a.pt"), Path("b.pt")), average=Path("mean.pt"))

    lines = list(demo._comparison(results, last, averaged))

    assert lines[0].endswith(f"{last:.4f} nats per byte: b.pt")
    assert lines[1].endswith(f"{averaged:.4f} nats per byte: mean.pt")
    assert said in lines[2]


@pytest.mark.parametrize(
    ("is_on_path", "typed"), [(True, "tensorboard"), (False, "venv/bin/tensorboard")]
)
def test_the_command_for_the_curves_can_be_typed_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_on_path: bool, typed: str
) -> None:
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "tensorboard").touch(mode=0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs) if is_on_path else "")

    assert demo._tensorboard() == typed
