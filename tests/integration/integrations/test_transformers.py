"""A real `transformers.Trainer` trains a real GPT-2 of two layers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentences import LENGTH, VOCABULARY, Sentences
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import ProgressCallback

from trackside.errors import ConfigError
from trackside.integrations.transformers import TracksideCallback, curve_name
from trackside.wire import segment

pytestmark = pytest.mark.integration

Receive = Callable[[], Any]


class Failing(TrainerCallback):
    """Raises at the end of a step."""

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("disk on fire")


@pytest.fixture(autouse=True)
def trainer_as_it_was() -> Iterator[None]:
    original = Trainer.train
    yield
    Trainer.train = original


def make_trainer(out: Path, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    set_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
    settings: dict[str, Any] = {
        "output_dir": str(out),
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **arguments,
    }
    trainer = Trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(**settings),
        train_dataset=Sentences(5),
        eval_dataset=Sentences(5),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def rows(trainer: Trainer, name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in trainer.state.log_history if name in row}


def test_everything_the_trainer_logs_is_in_the_records(receive: Receive, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "checkpoints", TracksideCallback(every=2, run="hf"))

    trainer.train()

    received = receive()
    assert received.hello.run == "hf"
    assert received.hello.checkpoints == (str(tmp_path / "checkpoints"),)
    for name in ("train_batch_size", "max_grad_norm", "report_to", "lr_scheduler_kwargs"):
        assert received.hello.config[name] == getattr(trainer.args, name)
    assert sorted(received.steps) == [2, 4, 6]
    losses, rates, norms = (rows(trainer, n) for n in ("loss", "learning_rate", "grad_norm"))
    for number, step in received.steps.items():
        assert step.loss == pytest.approx(losses[number], rel=1e-6)
        assert step.learning_rate == pytest.approx(rates[number], rel=1e-12)
        assert step.norm_before_clip == pytest.approx(norms[number], rel=1e-6)
        assert received.modules(number) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    assert received.curve("Trainer/loss") == [(step, losses[step]) for step in range(1, 7)]
    assert (received.close.reason, received.close.steps) == ("closed", 6)


@pytest.mark.parametrize("accepts_count", [True, False])
def test_the_loss_of_accumulated_micro_batches_is_the_trainers(
    receive: Receive, tmp_path: Path, *, accepts_count: bool
) -> None:
    # The count of tokens in all micro-batches, or the number of micro-batches, divides the loss.
    trainer = make_trainer(
        tmp_path / "c", TracksideCallback(every=1), gradient_accumulation_steps=3, max_steps=4
    )
    trainer.model_accepts_loss_kwargs = accepts_count

    trainer.train()

    losses = rows(trainer, "loss")
    received = receive()
    found = {number: step.loss for number, step in received.steps.items()}
    assert found == pytest.approx(losses, rel=1e-6)
    # Of 8 batches in an epoch the last step has but two.
    assert [step.micro_batches for step in received.steps.values()] == [3, 3, 2, 3]
    assert received.close.loss == pytest.approx(losses[4], rel=1e-6)


def test_epochs_are_told_before_their_first_step(receive: Receive, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "c", TracksideCallback(every=100, epochs=(1,)), max_steps=-1, num_train_epochs=2
    )

    trainer.train()

    (step,) = receive().steps.values()
    assert (step.step, step.epoch, step.epoch_requested) == (9, 1, True)


def test_metrics_of_an_evaluation_have_their_own_group(receive: Receive, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path / "c", TracksideCallback(every=3), eval_strategy="steps", eval_steps=2
    )

    trainer.train()

    received = receive()
    losses = rows(trainer, "eval_loss")
    assert received.curve("Eval/loss") == [(step, losses[step]) for step in (2, 4, 6)]
    # The forwards of the evaluation are not captured: gradients are off in them.
    assert received.modules(3) == ["transformer.h.0.attn", "transformer.h.1.attn"]


def test_names_of_curves() -> None:
    names = ("loss", "eval_loss", "test_f1", "eval_rewards/margin", "rewards/margin")

    found = [curve_name(name) for name in names]

    assert found == [
        "Trainer/loss", "Eval/loss", "Test/f1", "Eval/rewards/margin", "rewards/margin",
    ]  # fmt: skip


def test_training_under_bfloat16_is_captured(receive: Receive, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "c", TracksideCallback(every=2), bf16=True, max_steps=2)

    trainer.train()

    received = receive()
    assert received.steps[2].loss == pytest.approx(rows(trainer, "loss")[2], rel=1e-6)
    assert received.modules(2) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    kept = received.samples[0].attention[0]
    assert kept.query.shape[0] == 2


def test_recomputed_forwards_are_not_captured_twice(receive: Receive, tmp_path: Path) -> None:
    callback = TracksideCallback(every=2)
    trainer = make_trainer(tmp_path / "c", callback, max_steps=2)
    trainer.model.activation_checkpointing_enable()

    trainer.train()

    assert trainer.model.is_activation_checkpointing
    assert receive().modules(2) == ["transformer.h.0.attn", "transformer.h.1.attn"]


def test_a_resumed_training_goes_on_counting(receive: Receive, tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path / "c", max_steps=3, **arguments).train()
    trainer = make_trainer(tmp_path / "c", TracksideCallback(every=5), max_steps=6, **arguments)

    trainer.train(resume_from_checkpoint=True)

    received = receive()
    assert sorted(received.steps) == [5]
    assert received.steps[5].loss == pytest.approx(rows(trainer, "loss")[5], rel=1e-6)


def test_training_is_bit_for_bit_what_it_is_without(receive: Receive, tmp_path: Path) -> None:
    arguments = {"gradient_accumulation_steps": 2, "max_steps": 5}
    bare = make_trainer(tmp_path / "a", **arguments)
    watched = make_trainer(tmp_path / "b", TracksideCallback(every=1, layers=None), **arguments)

    set_seed(1)
    bare.train()
    bare_generator = torch.get_rng_state()
    set_seed(1)
    watched.train()

    assert torch.equal(torch.get_rng_state(), bare_generator)
    assert rows(watched, "loss") == rows(bare, "loss")
    for name, weight in bare.model.state_dict().items():
        assert torch.equal(weight, watched.model.state_dict()[name]), name
    assert len(receive().steps) == 5


def test_an_exception_in_the_training_closes_the_session(receive: Receive, tmp_path: Path) -> None:
    callback = TracksideCallback(every=2)
    trainer = make_trainer(tmp_path / "c", callback, Failing())

    with pytest.raises(RuntimeError, match="disk on fire"):
        trainer.train()

    assert callback.session is None
    received = receive()
    assert sorted(received.steps) == [2]
    assert (received.close.reason, received.close.steps) == ("failed: RuntimeError", 3)
    assert not trainer.model._forward_hooks


def test_a_second_training_is_a_session_of_its_own(
    receive: Receive, shm_dir: Path, tmp_path: Path
) -> None:
    callback = TracksideCallback(every=2)
    trainer = make_trainer(tmp_path / "c", callback, max_steps=2)

    trainer.train()
    first = receive()
    trainer.train()

    assert first.close.reason == "closed"
    assert callback.session is None
    assert len(segment.scan(shm_dir)) == 2


def test_an_unknown_keyword_is_an_error_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="did you mean 'every'"):
        TracksideCallback(evry=3)


def test_the_environment_stands_above_what_the_callback_finds(
    receive: Receive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKSIDE_CHECKPOINTS", str(tmp_path / "elsewhere"))

    make_trainer(tmp_path / "c", TracksideCallback(every=2), max_steps=2).train()

    assert receive().hello.checkpoints == (str(tmp_path / "elsewhere"),)
