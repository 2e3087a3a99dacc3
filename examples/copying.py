# ruff: noqa: INP001 - a script, not part of a package
"""A tiny GPT-2 learns under Hugging Face's Trainer to say a row of letters twice.

``python examples/copying.py --out examples/logs/copying`` leaves what the Trainer logged, on which
docs/report.md tries `trackside report`; takes less than a minute on a CPU.
"""

import argparse
from collections.abc import Sequence

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

LETTERS, LENGTH = 12, 8
TRAINING, HELD_OUT = 512, 64


class Twice(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of random letters; only the second half, the same letters again, is learned."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        letters = torch.randint(LETTERS, (size, LENGTH), generator=generator)
        self._rows = torch.cat([letters, letters], dim=1)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        labels = row.clone()
        labels[:LENGTH] = -100  # what nobody can know
        return {"input_ids": row, "labels": labels}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write ``trainer_state.json``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--steps", type=int, default=600)
    chosen = parser.parse_args(arguments)

    set_seed(0)
    shape = {"n_positions": 2 * LENGTH, "n_embd": 64, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=LETTERS, loss_type="ForCausalLM", **shape))
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=chosen.out,
            max_steps=chosen.steps,
            learning_rate=chosen.learning_rate,
            per_device_train_batch_size=16,
            logging_steps=6,
            eval_strategy="steps",
            eval_steps=120,
            save_strategy="no",
            include_num_input_tokens_seen="all",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Twice(TRAINING, seed=1),
        eval_dataset=Twice(HELD_OUT, seed=2),
    )
    trainer.train()
    trainer.save_state()


if __name__ == "__main__":
    main()
