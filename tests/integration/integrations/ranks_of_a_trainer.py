"""A rank of a `transformers.Trainer`; torchrun starts two of them. Usage: ... DIRECTORY."""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from trackside.integrations.transformers import TracksideCallback

VOCABULARY, LENGTH = 40, 12


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self._tokens = torch.randint(VOCABULARY, (32, LENGTH), generator=generator)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    set_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)
    trainer = Trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(
            output_dir=str(directory / "checkpoints"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=4,
            logging_steps=1,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            ddp_backend="gloo",
            disable_tqdm=True,
        ),
        train_dataset=Sentences(),
        callbacks=[TracksideCallback(every=2, save_dir=directory / "out")],
    )
    trainer.train()
    if os.environ["RANK"] == "0":
        (directory / "log.json").write_text(json.dumps(trainer.state.log_history))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
