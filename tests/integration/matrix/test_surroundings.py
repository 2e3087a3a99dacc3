"""What models are trained in: autocast, DDP, torch.compile, gradient checkpointing."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import model_families as families
import numpy as np
import pytest
import torch
from model_families import FAMILIES
from torch import nn
from torch._dynamo.utils import counters

from tracksided.attention import reconstruct
from tracksided.samples import AttentionSample

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Tracing asks the inputs of a block for a gradient, with and without us.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

FP32_TOLERANCE = 1e-5  # the contract
BF16_TOLERANCE = 2e-2
Train = Callable[..., list[torch.Tensor]]
Watched = Callable[..., tuple[list[torch.Tensor], tuple[AttentionSample, ...]]]


def _largest_difference(
    captured: tuple[AttentionSample, ...], expected: dict[tuple[str, str, int], torch.Tensor]
) -> float:
    found = {(one.call.stack, one.call.type, one.call.layer): reconstruct(one) for one in captured}
    assert found.keys() == expected.keys()
    for one in captured:
        assert one.call.module.startswith(
            ("model.", "transformer.", "bert.", "encoder.", "decoder.")
        )
    return max(np.abs(found[key].weights - own.numpy()).max() for key, own in expected.items())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "bart", "mixtral"])
def test_autocast_to_bfloat16_stays_within_the_contract(
    watched: Watched, name: str, implementation: str
) -> None:
    model, inputs = families.build(name, implementation), FAMILIES[name].inputs("right")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = families.own_maps(name, model, inputs)
        kernel = families.kernel_maps(model, inputs)
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, captured = watched(model, still, inputs, num_steps=1, dtype=torch.bfloat16)

    keys = [(one.call.stack, one.call.type, one.call.layer) for one in captured]
    assert sorted(keys) == sorted(own)
    expected = own if implementation == "eager" else dict(zip(keys, kernel, strict=True))
    assert _largest_difference(captured, expected) <= BF16_TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "whisper"])
def test_training_in_bfloat16_is_bit_for_bit_the_same(
    train: Train, watched: Watched, name: str
) -> None:
    outcomes = []
    for run in (train, lambda *args, **options: watched(*args, every=2, **options)[0]):
        model = families.build(name, "sdpa", dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        inputs = FAMILIES[name].inputs("right")
        losses = run(model, optimizer, inputs, num_steps=3, dtype=torch.bfloat16)
        outcomes.append((torch.stack(losses), model.state_dict()))

    (losses, weights), (tapped_losses, tapped_weights) = outcomes
    assert torch.equal(losses, tapped_losses)
    assert all(torch.equal(tapped_weights[key], weight) for key, weight in weights.items())


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "bart"])
def test_gradient_checkpointing_captures_each_layer_once(
    watched: Watched, name: str, *, use_reentrant: bool
) -> None:
    model, inputs = families.build(name, "sdpa"), FAMILIES[name].inputs("right")
    expected = families.own_maps(name, model, inputs)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:  # else nothing that goes into the first block would have a gradient
        model.enable_input_require_grads()
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, captured = watched(model, still, inputs, num_steps=1)

    assert _largest_difference(captured, expected) <= FP32_TOLERANCE


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("name", ["gpt2", "bert", "t5", "mixtral"])
def test_a_model_inside_of_ddp_keeps_its_names(watched: Watched, name: str) -> None:
    model, inputs = families.build(name, "sdpa"), FAMILIES[name].inputs("right")
    expected = families.own_maps(name, model, inputs)
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    still = torch.optim.SGD(model.parameters(), lr=0.0)

    _, captured = watched(wrapped, still, inputs, num_steps=1)

    assert _largest_difference(captured, expected) <= FP32_TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_compiled_model_is_captured_and_compiled_no_more_often(
    train: Train, watched: Watched, name: str
) -> None:
    inputs = FAMILIES[name].inputs("right")
    num_graphs = []
    for run in (train, lambda *args, **options: watched(*args, every=2, **options)):
        torch.compiler.reset()
        counters.clear()
        model = families.build(name, "sdpa")
        expected = families.own_maps(name, model, inputs)
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        outcome = run(torch.compile(model, backend="eager"), still, inputs, num_steps=3)
        num_graphs.append(counters["stats"]["unique_graphs"])

    _, captured = outcome
    assert _largest_difference(captured, expected) <= FP32_TOLERANCE
    assert num_graphs[0] == num_graphs[1] > 0


class _PartlyCompiled(nn.Module):
    """A function in the forward is compiled, which the module does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

        @torch.compile(backend="eager", fullgraph=True)
        def attend(hidden: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)

        self.attend = attend

    def forward(self, hidden: torch.Tensor) -> Any:
        mixed = nn.functional.scaled_dot_product_attention(hidden, hidden, self.attend(hidden))
        return SimpleNamespace(loss=self.project(mixed).square().mean())


def test_a_function_compiled_inside_of_the_first_step_stays_whole(
    train: Train, watched: Watched
) -> None:
    hidden = {"hidden": torch.randn(2, 2, 6, 8)}
    outcomes = []
    for run in (train, lambda *args, **options: watched(*args, every=1, **options)[0]):
        torch.compiler.reset()
        torch.manual_seed(0)
        model = _PartlyCompiled()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        outcomes.append(torch.stack(run(model, optimizer, hidden, num_steps=3)))

    assert torch.equal(*outcomes)
