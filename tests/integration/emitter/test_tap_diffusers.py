"""Attention of a U-Net of Diffusers: named by what it attends to, and equal to the kernel's."""

import model_families as families
import numpy as np
import pytest
import torch

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention

library = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.integration,
    # The library's own advice and deprecations: not about the tap.
    pytest.mark.filterwarnings("ignore"),
]

SIDE, WORDS, WIDTH = 8, 7, 32
PLACES = (
    "down_blocks.0.attentions.0.transformer_blocks.0",
    "mid_block.attentions.0.transformer_blocks.0",
    "up_blocks.1.attentions.0.transformer_blocks.0",
    "up_blocks.1.attentions.1.transformer_blocks.0",
)


def _weights(captured: CapturedAttention) -> np.ndarray:
    """Compute the weights of a captured call, [heads, queries, keys]."""
    query, key = (captured.tensors[name].double().numpy() for name in ("query", "key"))
    powers = np.exp(np.einsum("hqd,hkd->hqk", query, key) * captured.call.scale)
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def test_pixels_attend_to_pixels_and_across_to_words() -> None:
    torch.manual_seed(0)
    model = library.UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
    )
    inputs = {
        "sample": torch.randn(2, 4, SIDE, SIDE),
        "timestep": torch.tensor([1, 2]),
        "encoder_hidden_states": torch.randn(2, WORDS, WIDTH),
    }
    expected = families.kernel_maps(model, inputs)
    failures: list[str] = []
    tap = AttentionTap(
        model,
        layers=None,
        heads="all",
        sample=families.PADDED,
        max_queries=SIDE * SIDE,
        on_error=lambda where, _: failures.append(where),
    )
    tap.install()

    tap.arm()
    model(**inputs)
    found = tap.take()
    tap.remove()

    assert failures == []
    assert [(one.call.stack, one.call.type, one.call.layer, one.call.module) for one in found] == [
        named
        for layer, place in enumerate(PLACES)
        for named in (
            ("encoder", "self_attention", layer, f"{place}.attn1"),
            ("decoder", "cross_attention", layer, f"{place}.attn2"),
        )
    ]
    for one, own in zip(found, expected, strict=True):
        assert np.abs(_weights(one) - own.numpy()).max() <= 1e-5
