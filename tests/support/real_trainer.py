"""Trains a small transformer with dropout, AdamW and clipping; says exactly what came out.

``python real_trainer.py STEPS [KEYWORD=VALUE ...]``: with keywords, trackside is attached with
them (values are Python literals); without any, it is not even imported. Each step's loss is
printed as it is, bit by bit; the last line is a digest of weights, optimizer and generator.
"""

import ast
import hashlib
import sys
import time

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, LENGTH, BATCH = 32, 32, 16, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(self.norm(hidden)).unflatten(-1, (3, 4, WIDTH // 4))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=0.1 if self.training else 0.0
        )
        return hidden + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embedding(tokens)))


def main(arguments: list[str]) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    num_steps = int(arguments[0])
    keywords = dict(argument.split("=", 1) for argument in arguments[1:])
    pause_s = float(keywords.pop("pause_s", 0))
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if keywords:
        import trackside  # noqa: PLC0415 - the bare trainer must not know it

        settings = {name: ast.literal_eval(value) for name, value in keywords.items()}
        session = trackside.attach(model, optimizer, **settings)
    for _ in range(num_steps):
        tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sys.stdout.write(loss.item().hex() + "\n")
        sys.stdout.flush()
        time.sleep(pause_s)
    if keywords:
        session.close()
    sys.stdout.write(digest(model, optimizer) + "\n")


def digest(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    sha = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha.update(tensor.numpy().tobytes())
    for state in optimizer.state_dict()["state"].values():
        for value in state.values():
            sha.update(torch.as_tensor(value).numpy().tobytes())
    sha.update(torch.get_rng_state().numpy().tobytes())
    return sha.hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
