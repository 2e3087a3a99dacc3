"""Training is bit for bit the same with and without a session."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from trackside.session import Session

Attach = Callable[..., Session]


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=0.1)
        return x + self.drop(self.out(mixed.transpose(1, 2).reshape(x.shape)))


def _losses(attach: Callable[[nn.Module, torch.optim.Optimizer], object]) -> Iterator[object]:
    torch.manual_seed(3)
    model = nn.Sequential(_Block(), _Block(), nn.Linear(16, 7))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    attach(model, optimizer)
    for step in range(9):
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        for _ in range(2):
            x = torch.randn(2, 6, 16)
            loss = F.cross_entropy(model(x).flatten(0, 1), torch.randint(0, 7, (12,)))
            (loss / 2).backward()
            yield loss.item()
        yield nn.utils.clip_grad_norm_(model.parameters(), 0.1).item()
        optimizer.step()
    yield [parameter.detach().clone() for parameter in model.parameters()]
    yield torch.get_rng_state()
    yield torch.rand(3)


def _leave_alone(*_: object) -> None:
    """Attach nothing."""


@pytest.mark.parametrize("every", [1, 3])
def test_losses_weights_and_random_numbers_are_the_same(quiet_attach: Attach, every: int) -> None:
    bare = list(_losses(_leave_alone))
    watched = list(_losses(lambda model, optimizer: quiet_attach(model, optimizer, every=every)))

    assert len(bare) == len(watched)
    assert bare[:-3] == watched[:-3]
    for left, right in zip(bare[-3], watched[-3], strict=True):
        assert torch.equal(left, right)
    assert torch.equal(bare[-2], watched[-2])
    assert torch.equal(bare[-1], watched[-1])


def test_attention_is_captured_in_these_runs(
    quiet_attach: Attach, receive: Callable[[], object]
) -> None:
    list(_losses(lambda model, optimizer: quiet_attach(model, optimizer, every=4)))

    samples = receive().samples

    assert [sample.step.step for sample in samples] == [4, 8]
    for sample in samples:
        assert [captured.call.layer for captured in sample.attention] == [0, 1]
        assert sample.attention[0].query.shape == (4, 6, 4)
        assert sample.attention[0].call.is_causal
