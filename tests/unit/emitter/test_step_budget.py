"""A sampled step that is larger than its budget is made to fit, and stays exact."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from trackside.session import Session
from tracksided.attention import LazyMaps

HEADS, TOKENS, WIDTH = 2, 128, 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * HEADS * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x).view(1, TOKENS, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        self.query, self.key = q.detach(), k.detach()
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_an_oversized_step_keeps_exact_rows_and_says_so(
    quiet_attach: Callable[..., Session],
    receive: Callable[[], Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    model = Attention()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # Sampled gradients take 2920 bytes, keys 8192; queries of 64 rows 4096, of 32 rows 2048.
    quiet_attach(model, optimizer, every=1, ring_bytes=1 << 16, step_bytes=15_000)

    for _ in range(2):
        model(torch.randn(1, TOKENS, WIDTH)).square().sum().backward()
        optimizer.step()

    received = receive()
    assert received.drops == {}
    sample = received.samples[-1]
    assert sample.step.shrunk[-1] == "32 of 128 query rows are kept"
    (attention,) = LazyMaps(sample.attention)
    assert attention.query_rows.tolist() == [i * 127 // 31 for i in range(32)]
    scores = (model.query[0].double() @ model.key[0].double().mT).numpy() / np.sqrt(WIDTH)
    visible = np.tril(np.ones((TOKENS, TOKENS), bool))
    exact = np.exp(np.where(visible, scores, -np.inf))
    exact /= exact.sum(-1, keepdims=True)
    np.testing.assert_allclose(attention.weights, exact[:, attention.query_rows], atol=1e-6)
    said = [record for record in caplog.records if "step_bytes" in record.message]
    assert len(said) == 1
