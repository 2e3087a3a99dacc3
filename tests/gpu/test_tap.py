"""Capturing on CUDA. Without CUDA all of these are skipped."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

BATCH, ROWS, WIDTH, HEADS = 4, 7, 32, 4


class Model(nn.Module):
    """One layer of each kind that the tap knows."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, hidden: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.project(hidden).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=~padding[:, None, None]
        )
        mixed = mixed + (query @ key.transpose(-2, -1)).softmax(-1) @ value
        hidden = hidden + mixed.transpose(1, 2).flatten(2)
        return self.attention(hidden, hidden, hidden, key_padding_mask=padding)[0]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_capturing_never_waits_for_the_device() -> None:
    model = Model().cuda()
    hidden = torch.randn(BATCH, ROWS, WIDTH, device="cuda")
    padding = torch.zeros(BATCH, ROWS, dtype=torch.bool, device="cuda")
    errors: list[tuple[str, BaseException]] = []
    tap = AttentionTap(
        model,
        layers=None,
        heads=(2, 0),
        sample=0,
        max_queries=5,
        on_error=lambda *error: errors.append(error),
    )
    tap.install()
    model(hidden, padding)

    tap.arm()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(hidden, padding)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert errors == []
    captured = tap.take()
    tap.remove()
    assert len(captured) == 3
    assert {tensor.device.type for one in captured for tensor in one.tensors.values()} == {"cuda"}
