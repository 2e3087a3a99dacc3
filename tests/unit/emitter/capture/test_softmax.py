from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from trackside.capture.attention import AttentionTap
from trackside.capture.captured import CapturedAttention
from trackside.capture.recording import NO_ATTENTION

MakeTap = Callable[..., AttentionTap]
Reconstruct = Callable[[CapturedAttention], np.ndarray]
Softmax = Callable[[torch.Tensor], torch.Tensor]

SPELLINGS: dict[str, Softmax] = {
    "torch.softmax": lambda logits: torch.softmax(logits, -1),
    "torch.softmax by name": lambda logits: torch.softmax(input=logits, dim=3),
    "F.softmax": lambda logits: functional.softmax(logits, dim=-1),
    "F.softmax to float32": lambda logits: functional.softmax(logits, -1, dtype=torch.float32),
    "Tensor.softmax": lambda logits: logits.softmax(-1),
    "Tensor.softmax by name": lambda logits: logits.softmax(dim=-1, dtype=torch.float32),
    "torch.special.softmax": lambda logits: torch.special.softmax(logits, dim=-1),
    "nn.Softmax": nn.Softmax(dim=-1),
}


class Block(nn.Module):
    def __init__(self, softmax: Softmax) -> None:
        super().__init__()
        self.softmax = softmax

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.softmax(logits * 3)


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_seen_once(make_tap: MakeTap, reconstruct: Reconstruct, name: str):
    model = nn.Sequential(Block(SPELLINGS[name]))
    logits = torch.randn(2, 3, 4, 5)
    tap = make_tap(model, sample=1, heads=(2,), max_queries=2)

    tap.arm()
    weights = model(logits)
    (captured,) = tap.take()

    assert captured.call.module == "0"
    assert captured.call.scale == 1
    assert not captured.call.is_causal
    assert captured.call.query_rows == (0, 3)
    expected = weights[1, 2:, [0, 3]].double().numpy()
    assert np.abs(reconstruct(captured) - expected).max() <= 1e-5


@pytest.mark.parametrize(
    "softmax",
    [
        lambda logits: logits[:, 0].softmax(-1),  # [batch, tokens, vocabulary]
        lambda logits: logits[0, 0].softmax(-1),  # a router
        lambda logits: logits.softmax(1),  # classes of pixels
        lambda logits: logits.log_softmax(-1),
        lambda logits: logits[:0].softmax(-1),
    ],
)
def test_other_softmaxes_are_not_attention(make_tap: MakeTap, softmax: Softmax):
    model = Block(softmax)
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, 3, 4, 5))

    assert tap.take() == ()
    assert tap.notes == (NO_ATTENTION,)


def test_logits_in_bfloat16_keep_their_type(make_tap: MakeTap, reconstruct: Reconstruct):
    model = Block(SPELLINGS["F.softmax to float32"])
    tap = make_tap(model)

    tap.arm()
    weights = model(torch.randn(1, 2, 4, 4, dtype=torch.bfloat16))
    (captured,) = tap.take()

    assert captured.tensors["logits"].dtype is torch.bfloat16
    assert np.abs(reconstruct(captured) - weights[0].double().numpy()).max() <= 1e-5


def test_logits_are_rounded_where_softmax_rounds_them(make_tap: MakeTap):
    model = Block(lambda logits: logits.softmax(-1, dtype=torch.bfloat16))
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(1, 2, 4, 4))

    assert tap.take()[0].tensors["logits"].dtype is torch.bfloat16


class SinkAttention(nn.Module):
    """Each head's sink takes part in softmax and is cut off, as in GPT-OSS."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.tensor([0.5, -1.0, 3.0]))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(logits.shape[0], -1, logits.shape[2], -1)
        combined = torch.cat([logits, sinks], dim=-1)
        combined = combined - combined.max(dim=-1, keepdim=True).values
        return combined.softmax(-1)[..., :-1]


def test_sinks_are_told_apart_from_keys(make_tap: MakeTap):
    model, logits = SinkAttention(), torch.randn(2, 3, 4, 5) * 4
    tap = make_tap(model, heads=(2, 0))

    tap.arm()
    weights = model(logits)
    (captured,) = tap.take()

    assert captured.call.num_keys == 5
    found = captured.tensors["logits"].double()
    assert (found - logits[0, [2, 0]]).abs().max() < 1e-5
    powers = found.exp()
    sinks = captured.tensors["sinks"].double().exp()[:, None, None]
    expected = weights[0, [2, 0]].double()
    assert (powers / (powers.sum(-1, keepdim=True) + sinks) - expected).abs().max() <= 1e-5


class BatchedAttention(nn.Module):
    """Folds heads into the batch, as models did that multiplied with bmm."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return functional.softmax(logits, dim=-1)


def test_heads_folded_into_the_batch_are_told_apart(make_tap: MakeTap, reconstruct: Reconstruct):
    model, logits = BatchedAttention(3), torch.randn(6, 4, 5)
    tap = make_tap(model, sample=1)

    tap.arm()
    weights = model(logits)
    (captured,) = tap.take()

    assert captured.call.num_heads == 3
    assert np.abs(reconstruct(captured) - weights[3:].double().numpy()).max() <= 1e-5


def test_a_batch_that_heads_do_not_divide_is_not_attention(make_tap: MakeTap):
    model = BatchedAttention(4)
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(6, 4, 5))

    assert tap.take() == ()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_refused_by_name(make_tap: MakeTap, layout: torch.layout):
    model = BatchedAttention(2)
    tap = make_tap(model)

    tap.arm()
    model(torch.nested.nested_tensor([torch.randn(2, 5), torch.randn(3, 5)], layout=layout))

    assert tap.take() == ()
    (note,) = tap.notes
    assert note.startswith("softmax was called on a ")


class SinkAfterSoftmax(nn.Module):
    """Each head's sink scales what softmax gives, as in Granite: no column is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks = nn.Parameter(torch.tensor([0.5, -1.0, 3.0]))

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        kept = torch.sigmoid(logits.logsumexp(-1) - self.sinks[:, None])
        return logits.softmax(-1) * kept[..., None]


def test_a_sink_that_comes_in_after_softmax_takes_no_key_away(
    make_tap: MakeTap, reconstruct: Reconstruct
):
    model, logits = SinkAfterSoftmax(), torch.randn(2, 3, 5, 5)
    tap = make_tap(model)

    tap.arm()
    model(logits)
    (captured,) = tap.take()

    assert captured.call.num_keys == 5
    powers = np.exp(logits[0].double().numpy())
    expected = powers / powers.sum(-1, keepdims=True)
    assert np.abs(reconstruct(captured) - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("num_heads", "found"),
    [(3, 3), (2, 4), (6, 3), (12, 3)],
    ids=["its own", "two maps for each (differential)", "a rank's half", "a rank's quarter"],
)
def test_heads_that_a_module_may_have_are_taken(make_tap: MakeTap, num_heads: int, found: int):
    model = BatchedAttention(num_heads)
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(2, found, 4, 5))

    assert tap.take()[0].call.num_heads == found


@pytest.mark.parametrize(
    "shape", [(4, 8, 2, 5), (1, 300, 2, 16), (2, 3, 2, 4, 12)], ids=["windows", "points", "blocks"]
)
def test_other_dimensions_in_an_attention_are_refused_by_name(
    make_tap: MakeTap, shape: tuple[int, ...]
):
    model = BatchedAttention(2)
    tap = make_tap(model)

    tap.arm()
    model(torch.randn(shape))

    assert tap.take() == ()
    (note,) = tap.notes
    assert note == (
        "softmax was called on other dimensions than [batch, heads, queries, keys] in a "
        "BatchedAttention of 2 heads"
    )
