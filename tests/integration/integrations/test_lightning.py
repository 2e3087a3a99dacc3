"""A real Lightning `Trainer` fits a real encoder of two layers."""

import csv
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what Lightning's imports warn of is not ours
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

from trackside.integrations.lightning import TracksideCallback, _callback_class

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings(
        "ignore:.*num_workers.*", "ignore:.*LeafSpec.*:FutureWarning", "ignore:.*litlogger.*"
    ),
]

Receive = Callable[[], Any]
WIDTH, CLASSES, LENGTH, BATCHES = 16, 5, 8, 4


class Classifier(pl.LightningModule):
    """Its own forward is never called in training: only that of its parts is."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def loss(self, batch: Any) -> torch.Tensor:
        features, target = batch
        return functional.cross_entropy(self.head(self.encoder(features).mean(1)), target)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Validated(Classifier):
    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.loss(batch))


class Forked(Validated):
    """Logs its loss by steps and by epochs, as loggers are to get it."""

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss


class Calling(Classifier):
    """Its own forward is called, inside of the step."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(features).mean(1))

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        features, target = batch
        loss = functional.cross_entropy(self(features), target)
        self.log("train_loss", loss)
        return loss


class ByHand(Classifier):
    """Manual optimization, of two optimizers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:
        first, second = self.optimizers()
        with torch.device("cpu"):  # a mode of the user's, on top of ours
            loss = self.loss(batch)
            self.manual_backward(loss)
        first.step()
        second.step()
        first.zero_grad()
        second.zero_grad()
        self.log("train_loss", loss)

    def configure_optimizers(self) -> Any:
        encoder = torch.optim.SGD(self.encoder.parameters(), lr=0.1)
        return [encoder, torch.optim.SGD(self.head.parameters(), lr=0.2)]


class Losses(Callback):
    """What Lightning itself holds at the end of each batch."""

    def __init__(self) -> None:
        self.of_batches: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.of_batches.append(trainer.callback_metrics["train_loss"].item())


class Failing(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("disk on fire")


def loader() -> Any:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2 * BATCHES, LENGTH, WIDTH, generator=generator)
    target = torch.randint(CLASSES, (2 * BATCHES,), generator=generator)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(features, target), batch_size=2
    )


def fit(module: pl.LightningModule, *callbacks: Callback, **settings: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "logger": False,
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **settings,
        },
        callbacks=list(callbacks),
    )
    trainer.fit(module, loader(), loader() if isinstance(module, Validated) else None)
    return trainer


def make(kind: type[Classifier] = Classifier) -> Classifier:
    torch.manual_seed(0)
    return kind()


ATTENTIONS = ["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"]


@pytest.mark.parametrize("kind", [Classifier, Calling])
def test_everything_that_lightning_logs_is_in_the_records(
    receive: Receive, kind: type[Classifier]
) -> None:
    losses = Losses()

    fit(make(kind), losses, TracksideCallback(every=2, run=kind.__name__))

    received = receive()
    assert received.hello.run == kind.__name__
    assert sorted(received.steps) == [2, 4, 6, 8]
    for number, step in received.steps.items():
        assert step.loss == pytest.approx(losses.of_batches[number - 1], rel=1e-6)
        assert step.learning_rate == pytest.approx(1e-2 * 0.5 ** (number - 1), rel=1e-9)
        assert step.epoch == (number - 1) // BATCHES
        assert received.modules(number) == ATTENTIONS
    logged = dict(received.curve("train_loss"))
    assert logged == pytest.approx(dict(enumerate(losses.of_batches, 1)), rel=1e-6)
    assert (received.close.reason, received.close.steps) == ("closed", 8)


def test_the_first_step_of_an_epoch_is_sampled(receive: Receive) -> None:
    fit(make(), TracksideCallback(every=100, epochs=(1,)))

    (step,) = receive().steps.values()

    assert (step.step, step.epoch, step.epoch_requested) == (5, 1, True)


def test_the_loss_of_accumulated_batches_is_their_mean(receive: Receive) -> None:
    losses = Losses()

    fit(make(), losses, TracksideCallback(every=1), accumulate_grad_batches=2)

    received = receive()
    assert len(received.steps) == 4
    for number, step in received.steps.items():
        pair = losses.of_batches[2 * number - 2 : 2 * number]
        assert step.loss == pytest.approx(sum(pair) / 2, rel=1e-6)
        assert step.micro_batches == 2
        assert received.modules(number) == ATTENTIONS


def test_metrics_of_a_validation_are_logged_once(receive: Receive) -> None:
    trainer = fit(make(Validated), TracksideCallback(every=3))

    curve = receive().curve("val_loss")

    assert [step for step, _ in curve] == [4, 8]
    assert curve[-1][1] == pytest.approx(trainer.callback_metrics["val_loss"].item(), rel=1e-6)


def test_curves_are_those_of_lightnings_own_loggers(receive: Receive, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)

    fit(
        make(Forked), TracksideCallback(every=1), logger=logger, log_every_n_steps=2,
        accumulate_grad_batches=2, max_epochs=4, enable_checkpointing=False,
    )  # fmt: skip

    received = receive()
    with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in ("train_loss_step", "train_loss_epoch", "val_loss"):
        wanted = [(1 + int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert [step for step, _ in received.curve(name)] == [step for step, _ in wanted]
        assert dict(received.curve(name)) == pytest.approx(dict(wanted), rel=1e-6)
    assert [step for step, _ in received.curve("train_loss_step")] == [2, 4, 6, 8]
    assert received.curve("train_loss") == []


def test_with_manual_optimization_the_first_optimizer_is_watched(
    receive: Receive, caplog: pytest.LogCaptureFixture
) -> None:
    losses = Losses()

    fit(make(ByHand), losses, TracksideCallback(every=2))

    received = receive()
    assert sorted(received.steps) == [2, 4, 6, 8]
    for number, step in received.steps.items():
        assert step.loss == pytest.approx(losses.of_batches[number - 1], rel=1e-6)
        assert step.learning_rate == 0.1
        assert received.modules(number) == ATTENTIONS
        assert all(name.startswith("encoder.") for name in step.gradients.names)
    assert "2 optimizers" in caplog.text


def test_checkpoint_directories_are_announced(receive: Receive, tmp_path: Path) -> None:
    directory = tmp_path / "kept"

    fit(make(), ModelCheckpoint(dirpath=directory), TracksideCallback(every=4))

    assert receive().hello.checkpoints == (str(directory),)
    assert list(directory.glob("*.ckpt"))


def test_a_resumed_fit_goes_on_counting(receive: Receive, tmp_path: Path) -> None:
    first = fit(make(), max_epochs=1)
    first.save_checkpoint(tmp_path / "first.ckpt")
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[TracksideCallback(every=6)],
    )  # fmt: skip

    trainer.fit(make(), loader(), ckpt_path=tmp_path / "first.ckpt", weights_only=False)

    received = receive()
    assert sorted(received.steps) == [6]
    assert received.close.steps == 4


def test_training_is_bit_for_bit_what_it_is_without(receive: Receive) -> None:
    bare, watched = make(), make()

    fit(bare)
    bare_generator = torch.get_rng_state()
    fit(watched, TracksideCallback(every=1, layers=None))

    assert torch.equal(torch.get_rng_state(), bare_generator)
    for name, weight in bare.state_dict().items():
        assert torch.equal(weight, watched.state_dict()[name]), name
    assert len(receive().steps) == 8


@pytest.mark.usefixtures("receive")
def test_no_mode_of_ours_stays_behind() -> None:
    for kind in (Classifier, ByHand):
        fit(make(kind), TracksideCallback(every=8))

        assert not torch.overrides._get_current_function_mode_stack()


def test_an_exception_closes_the_session(receive: Receive) -> None:
    callback = TracksideCallback(every=2)
    trainer = None

    with pytest.raises(RuntimeError, match="disk on fire"):
        trainer = fit(make(), callback, Failing())

    assert trainer is None
    assert callback.session is None
    received = receive()
    assert sorted(received.steps) == [2]
    assert received.close.reason == "failed: RuntimeError"


def test_the_strategy_gets_its_own_step_back(receive: Receive) -> None:
    trainer = fit(make(), TracksideCallback(every=4))

    assert "training_step" not in vars(trainer.strategy)
    assert len(receive().steps) == 2


def test_the_package_that_the_script_uses_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    older = ModuleType("pytorch_lightning.callbacks")
    older.Callback = type("Callback", (), {})
    assert _callback_class() is Callback

    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    monkeypatch.setitem(sys.modules, "pytorch_lightning.callbacks", older)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")

    assert _callback_class() is older.Callback


def test_without_lightning_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, f"{package}.callbacks", None)

    with pytest.raises(ImportError, match="pip install lightning"):
        _callback_class()
