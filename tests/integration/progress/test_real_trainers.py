"""What a real Trainer leaves behind, against what it logged meanwhile."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentences import LENGTH, SAMPLES, VOCABULARY, Sentences
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from tracksided.progress.curve import Kind, Series, TrainingCurve
from tracksided.progress.locate import latest_checkpoint, newest_in, source_at
from tracksided.progress.summary import summarise

pytestmark = pytest.mark.integration

Train = Callable[..., "Logs"]


class Logs(TrainerCallback):
    """Notes what the Trainer logs, at the moment when it does."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def on_log(self, _: Any, state: Any, __: Any, logs: dict[str, float], **___: Any) -> None:
        self.rows.append((state.global_step, dict(logs)))

    def column(self, name: str, *, until: int = 1 << 30) -> tuple[list[int], list[float]]:
        found = [(step, row[name]) for step, row in self.rows if name in row and step <= until]
        return [step for step, _ in found], [value for _, value in found]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains into ``tmp_path / "out"`` and returns what was logged."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "out" / "runs" / "start"))

    def run(max_steps: int, *, resume: bool = False) -> Logs:
        set_seed(0)
        logs = Logs()
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            max_steps=max_steps,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=4,
            save_steps=4,
            learning_rate=1e-2,
            max_grad_norm=0.5,
            report_to=["tensorboard"],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        config = GPT2Config(
            vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's TensorBoard writer
            trainer = Trainer(
                GPT2LMHeadModel(config),
                arguments,
                train_dataset=Sentences(1),
                eval_dataset=Sentences(2),
                callbacks=[logs],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train(resume_from_checkpoint=resume or None)
            trainer.save_state()
        return logs

    return run


def assert_same(series: Series, expected: tuple[list[int], list[float]], *, single: bool) -> None:
    steps, values = expected
    assert series.steps.tolist() == steps
    wanted = np.float32(values) if single else values
    np.testing.assert_array_equal(series.values, wanted)


def assert_curve(curve: TrainingCurve, logs: Logs, *, until: int, single: bool = False) -> None:
    for series, name in (
        (curve.loss, "loss"),
        (curve.learning_rate, "learning_rate"),
        (curve.gradient_norm, "grad_norm"),
        (curve.evaluation["eval_loss"], "eval_loss"),
    ):
        assert_same(series, logs.column(name, until=until), single=single)


def test_every_source_of_a_trainer_tells_what_it_logged(tmp_path: Path, train: Train) -> None:
    out = tmp_path / "out"

    logs = train(10)

    state = newest_in(out, latest=False).read()
    assert state.source == out / "trainer_state.json"
    assert_curve(state, logs, until=10)
    checkpoint = latest_checkpoint(out).read()
    assert checkpoint.source.parent.name == "checkpoint-10"
    assert_curve(checkpoint, logs, until=10)
    assert_curve(source_at(out / "checkpoint-4").read(), logs, until=4)
    events = source_at(out / "runs").read()
    assert events.kind is Kind.EVENTS
    assert_curve(events, logs, until=10, single=True)
    final = logs.rows[-1][1]
    assert events.totals.mean_loss == np.float32(final["train_loss"])
    assert events.totals.floating_point_operations == np.float32(final["total_flos"])
    assert state.totals.mean_loss == final["train_loss"]


def test_summary_of_a_trainer_is_what_numpy_makes_of_its_logs(tmp_path: Path, train: Train) -> None:
    logs = train(10)

    summary = summarise(source_at(tmp_path / "out").read())

    _, losses = logs.column("loss")
    _, norms = logs.column("grad_norm")
    assert summary.loss is not None
    assert (summary.loss.current, summary.loss.minimum) == (losses[-1], min(losses))
    assert summary.loss.minimum_step == 1 + losses.index(min(losses))
    assert summary.loss.mean == pytest.approx(np.mean(losses))
    assert summary.clipped == (sum(norm > 0.5 for norm in norms), 10)
    assert (summary.step, summary.max_steps, summary.step_percent) == (10, 10, 100.0)
    assert summary.epoch == pytest.approx(10 / (SAMPLES / 4))
    final = logs.rows[-1][1]
    assert summary.speed.steps_per_second == final["train_steps_per_second"]
    assert summary.speed.samples_per_second == final["train_samples_per_second"]
    assert summary.speed.remaining_seconds == 0.0
    assert summary.training_seconds == final["train_runtime"]
    settings = summary.curve.settings
    assert (settings["learning_rate"], settings["max_grad_norm"]) == (1e-2, 0.5)
    assert settings["gradient_accumulation_steps"] == 2
    # Python 3.11.0 to 3.11.3 pickle the name of a member, LINEAR, all others its value.
    assert settings["lr_scheduler_type"] in {"linear", "LINEAR"}


def test_training_that_was_resumed_counts_once(tmp_path: Path, train: Train) -> None:
    out = tmp_path / "out"
    first = train(10)
    for left in (8, 10):
        assert (out / f"checkpoint-{left}").exists()
    (out / "checkpoint-10").rename(tmp_path / "aside")  # its last steps are done again

    second = train(14, resume=True)

    assert second.rows[0][0] == 9
    kept = Logs()
    kept.rows = [row for row in first.rows if row[0] <= 8] + second.rows
    assert_curve(source_at(out).read(), kept, until=14)
    events = source_at(out / "runs").read()
    assert_curve(events, kept, until=14, single=True)
    assert any("went back from step 10 to step 9" in note for note in events.notes)


def test_loss_that_is_not_a_number_survives_the_file(tmp_path: Path, train: Train) -> None:
    train(4)
    path = tmp_path / "out" / "trainer_state.json"
    text = path.read_text()
    first = text.index('"loss": ')
    path.write_text(text[:first] + '"loss": NaN' + text[text.index(",", first) :])

    values = source_at(path).read().loss.values

    assert math.isnan(values[0])
    assert np.isfinite(values[1:]).all()
