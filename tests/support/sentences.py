"""Sentences of random tokens for a language model, alike in every process."""

import torch

VOCABULARY, LENGTH, SAMPLES = 40, 12, 16


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """What a `transformers.Trainer` takes."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._tokens = torch.randint(VOCABULARY, (SAMPLES, LENGTH), generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[index], "labels": self._tokens[index]}
