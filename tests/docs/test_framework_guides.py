"""The scripts of the recipes for trainers, run as they stand on their pages."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from guide import file_text
from received import Received, read_segment
from transformers import Trainer

from trackside.session import _open_sessions
from trackside.wire import segment

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings(  # what Lightning warns of is not ours
        "ignore:.*num_workers.*", "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*litlogger.*"
    ),
]

Run = Callable[[str], Received]


@pytest.fixture
def run(shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the `train.py` of a page, and returns what it published."""
    for name, value in {"AUTOSTART": "0", "RING_BYTES": str(1 << 22)}.items():
        monkeypatch.setenv(f"TRACKSIDE_{name}", value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    original = Trainer.train
    threads = torch.get_num_threads()

    def follow(page: str) -> Received:
        code = compile(file_text(page, "train.py"), page, "exec")
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            if "lightning" in page:
                warnings.simplefilter("ignore")
            exec(code, {"__name__": "__main__"})  # noqa: S102 - the point
        (path,) = segment.scan(shm_dir)
        return read_segment(path)

    yield follow
    Trainer.train = original
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for session in tuple(_open_sessions):
        session.close()
    for path in segment.scan(shm_dir):
        segment.remove(path)


def numbers(received: Received) -> list[int]:
    return [step.step for step in received.steps]


def logged(received: Received) -> set[str]:
    assert received.close is not None
    scalars = [scalar for step in received.steps for scalar in step.scalars]
    return {scalar.name for scalar in (*scalars, *received.close.scalars)}


def modules(received: Received) -> list[str]:
    return [attention.module for attention in received.steps[0].attention]


def test_the_loop_by_hand(run: Run, tmp_path: Path) -> None:
    received = run("docs/how-to/pytorch.md")

    # Each 20th of 120 steps, and the first of the epochs 1 and 4 of 30 steps each.
    assert numbers(received) == [1, 20, 40, 60, 80, 91, 100, 120]
    assert [step.step for step in received.steps if step.epoch_requested] == [1, 91]
    assert [step.epoch for step in received.steps] == [1, 1, 2, 2, 3, 4, 4, 4]
    assert logged(received) == {"accuracy"}
    assert modules(received) == ["layer.self_attn"]
    assert received.hello.save_dir == str(tmp_path / "outputs")
    assert received.hello.checkpoints == (str(tmp_path / "checkpoints"),)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert saved == [f"epoch_{epoch}.pt" for epoch in (1, 2, 3, 4)]


def test_hugging_face(run: Run, tmp_path: Path) -> None:
    received = run("docs/how-to/huggingface.md")

    assert numbers(received) == [10, 20, 30, 40]
    assert modules(received) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    assert "Trainer/loss" in logged(received)
    assert received.hello.checkpoints == (str(tmp_path / "checkpoints"),)
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert saved == [f"checkpoint-{step}" for step in (10, 20, 30, 40)]


def test_lightning(run: Run, tmp_path: Path) -> None:
    received = run("docs/how-to/lightning.md")

    assert numbers(received) == [10, 20, 30, 40]
    assert modules(received) == ["layer.self_attn"]
    assert "train_loss" in logged(received)
    assert received.hello.checkpoints == (str(tmp_path / "checkpoints"),)
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 4


def test_accelerate(run: Run) -> None:
    received = run("docs/how-to/accelerate.md")

    assert numbers(received) == [10, 20, 30, 40]
    assert modules(received) == ["layer.self_attn"]
    assert "train_loss" in logged(received)
    assert received.hello.config == {"lr": 1e-3}
