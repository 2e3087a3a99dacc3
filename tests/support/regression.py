"""A small training without attention, step by step."""

import torch
from torch import nn


def make_regression() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, clip: float | None = None
) -> torch.Tensor:
    """Train on new random inputs; return the loss."""
    loss = model(torch.randn(5, 4)).square().mean()
    loss.backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()
