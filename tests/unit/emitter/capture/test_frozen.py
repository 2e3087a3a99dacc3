from collections.abc import Callable

import pytest
import torch
from torch import nn

from trackside.capture.attention import AttentionTap

MakeTap = Callable[..., AttentionTap]
WIDTH, HEADS = 8, 2
Hidden = torch.Tensor  # [batch, rows, width]


def layers_of(tap: AttentionTap) -> list[int]:
    return [captured.call.layer for captured in tap.take()]


def is_hooked() -> bool:
    return torch._C._len_torch_function_stack() > 0


class Frozen(nn.Module):
    """A part that is fast in eval mode, in front of a model that trains."""

    def __init__(self, part: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.part = part.requires_grad_(requires_grad=False)
        self.model = model

    def train(self, mode: bool = True) -> "Frozen":  # noqa: FBT001, FBT002 - torch's
        super().train(mode)
        self.part.eval()
        return self

    def forward(self, hidden: Hidden) -> Hidden:
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        if isinstance(self.part, nn.MultiheadAttention):
            hidden = self.part(hidden, hidden, hidden, key_padding_mask=padding)[0]
        else:
            hidden = self.part(hidden, src_key_padding_mask=padding)
        return self.model(hidden)


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)


PARTS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
    "encoder": lambda: nn.TransformerEncoder(encoder_layer(), 2),
    "layer": encoder_layer,
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("name", PARTS)
def test_frozen_parts_stay_on_their_fast_path(
    make_tap: MakeTap, hidden: Hidden, name: str, model_class: type[nn.Module]
):
    model = Frozen(PARTS[name](), model_class(1)).train()
    expected = model(hidden)
    tap = make_tap(model)

    tap.arm()
    output = model(hidden)

    assert torch.equal(output, expected)
    modules = [one.call.module for one in tap.take()]
    assert modules == ([] if name == "layer" else ["model.blocks.0"])
    (note,) = tap.notes
    assert note.startswith("part is frozen and in eval mode")
    assert not model.part._forward_hooks
    assert not is_hooked()


def test_the_fast_path_differs_from_the_slow_one(hidden: Hidden, model_class: type[nn.Module]):
    """The control of the test above: padded positions show which path was taken."""
    model = Frozen(PARTS["encoder"](), model_class(1)).train()

    fast = model.part(hidden, src_key_padding_mask=torch.tensor([[False] * 5, [True] * 5]))

    assert fast[1].eq(0).all()


def test_an_error_in_a_frozen_part_leaves_nothing(
    make_tap: MakeTap, hidden: Hidden, model_class: type[nn.Module]
):
    model = Frozen(PARTS["attention"](), model_class(1)).train()
    tap = make_tap(model)

    for _ in range(2):
        tap.arm()
        with pytest.raises(RuntimeError, match="embed_dim"):
            model(hidden[..., :3])
        assert not is_hooked()
        assert not model.part._forward_hooks

    tap.arm()
    model(hidden)
    assert layers_of(tap) == [0]
