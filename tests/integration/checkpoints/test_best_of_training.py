"""The best checkpoints of real trainings, by what the frameworks themselves wrote down."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tracksided.checkpoints.job import AverageRequest, plan_average
from tracksided.checkpoints.policy import BestBy

transformers = pytest.importorskip("transformers")
lightning = pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.integration,
    # Advice and deprecations of the frameworks: not about the averaging.
    pytest.mark.filterwarnings("ignore"),
]


def chosen(directory: Path, metric: str, count: int) -> dict[str, float | None]:
    request = AverageRequest(
        directory=directory,
        patterns=("checkpoint-*/", "*.ckpt"),
        best=BestBy(metric=metric, mode="min"),
        count=count,
    )
    return {source.name: source.metric for source in plan_average(request).sources}


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of random tokens."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 101, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def test_the_trainers_evaluations_choose_its_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=101, bos_token_id=0, eos_token_id=1
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=16,
        per_device_train_batch_size=4,
        learning_rate=0.5,  # too much: the loss goes up and down
        save_steps=4,
        eval_steps=2,
        eval_strategy="steps",
        logging_steps=1,
        metric_for_best_model="loss",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    torch.manual_seed(0)
    trainer = transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        arguments,
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
    )
    trainer.train()
    losses = {
        f"checkpoint-{row['step']}": row["eval_loss"]
        for row in trainer.state.log_history
        if "eval_loss" in row and row["step"] % 4 == 0
    }
    best = sorted(losses, key=lambda name: losses[name])

    assert len(losses) == 4
    assert chosen(tmp_path, "eval_loss", 2) == {name: losses[name] for name in best[:2]}
    assert chosen(tmp_path, "best_metric", 1) == {best[0]: trainer.state.best_metric}


class Regression(lightning.LightningModule):  # type: ignore[misc,name-defined] # may be missing
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch: list[torch.Tensor]) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def on_validation_epoch_end(self) -> None:
        self.losses.append(self.trainer.callback_metrics["val_loss"].item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def test_lightnings_scores_choose_its_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = DataLoader(TensorDataset(torch.randn(20, 3)), batch_size=20)
    model = Regression()
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, monitor="val_loss", save_top_k=-1, filename="{epoch}-{val_loss:.0f}"
    )
    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data, data)
    ranked = sorted(enumerate(model.losses), key=lambda entry: entry[1])

    found = chosen(tmp_path, "val_loss", 2)

    assert {name.partition("-")[0]: score for name, score in found.items()} == {
        f"epoch={epoch}": loss for epoch, loss in ranked[:2]
    }
