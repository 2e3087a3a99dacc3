# ruff: noqa: INP001 - a script, not part of a package
"""The two lines in a plain training script: a small encoder learns to sort digits.

    python examples/encoder_two_lines.py

About a minute on a CPU. Attention maps, gradient norms and curves appear in
./trackside_logs, written by a daemon that `attach` starts if none runs.
"""

import torch
from torch import nn

import trackside

STEPS = 400
NUM_DIGITS = 10
LENGTH = 12
WIDTH = 64


class Sorter(nn.Module):
    """Predicts, for each position, which digit stands there once they are sorted."""

    def __init__(self) -> None:
        super().__init__()
        self.digits = nn.Embedding(NUM_DIGITS, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, NUM_DIGITS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, length, digits] for digits [batch, length]."""
        logits: torch.Tensor = self.out(self.encoder(self.digits(tokens) + self.positions))
        return logits


def main() -> None:
    """Train, and print the loss now and then."""
    torch.manual_seed(0)
    model = Sorter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trackside.attach(model, optimizer, every=50)

    for step in range(1, STEPS + 1):
        tokens = torch.randint(NUM_DIGITS, (64, LENGTH))
        target = tokens.sort(dim=1).values
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step} loss {loss.item():.3f}")  # noqa: T201 - it is a script


if __name__ == "__main__":
    main()
