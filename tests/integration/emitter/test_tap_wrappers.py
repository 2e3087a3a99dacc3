"""What is put around a model, before or after the tap: torch.compile, DDP and FSDP2."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from trackside.capture.attention import AttentionTap

pytestmark = pytest.mark.integration

BATCH, ROWS, WIDTH = 4, 6, 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (4, -1)).transpose(1, 2)
            for part in self.project(hidden).chunk(3, -1)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return hidden + mixed.transpose(1, 2).flatten(2)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def compile_wrapper(model: Model, **options: Any) -> nn.Module:
    return torch.compile(model, **options)


def compile_in_place(model: Model, **options: Any) -> nn.Module:
    model.compile(**options)
    return model


def compile_blocks(model: Model, **options: Any) -> nn.Module:
    for block in model.layers:
        block.compile(**options)
    return model


@pytest.mark.parametrize("how", [compile_wrapper, compile_in_place, compile_blocks])
# Dynamo looks at the gradient of what goes into the second block.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_is_compiled_no_more_often_and_run_eagerly_when_armed(
    how: Callable[..., nn.Module],
) -> None:
    graphs = []
    for is_tapped in (False, True):
        torch.compiler.reset()
        num_graphs = 0

        def backend(graph: Any, _: Any) -> Callable[..., Any]:
            nonlocal num_graphs
            num_graphs += 1
            return graph.forward

        model = Model()
        errors: list[tuple[str, BaseException]] = []
        tap = AttentionTap(
            model,
            layers=None,
            heads="all",
            sample=0,
            max_queries=512,
            on_error=lambda *error, errors=errors: errors.append(error),
        )
        if is_tapped:
            tap.install()
        compiled = how(model, backend=backend, fullgraph=True)
        for step in range(6):
            is_due = step in {2, 4}
            if is_due:
                torch.compiler.set_stance("force_eager")
                tap.arm()
            compiled(torch.randn(BATCH, ROWS, WIDTH)).sum().backward()
            captured = tap.take()
            if is_due:
                torch.compiler.set_stance("default")
            assert len(captured) == (2 if is_due and is_tapped else 0)
        tap.remove()
        assert errors == []
        graphs.append(num_graphs)

    assert graphs[0] == graphs[1] > 0


def shard(model: Model) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", [nn.parallel.DistributedDataParallel, shard])
@pytest.mark.parametrize("tapped", ["model before", "model after", "wrapper"])
def test_distributed_wrappers_before_and_after_make_no_difference(
    wrap: Callable[[nn.Module], nn.Module], tapped: str
) -> None:
    errors: list[tuple[str, BaseException]] = []

    def install(model: nn.Module) -> AttentionTap:
        tap = AttentionTap(
            model,
            layers=None,
            heads="all",
            sample=0,
            max_queries=512,
            on_error=lambda *error: errors.append(error),
        )
        tap.install()
        return tap

    model = Model()
    if tapped == "model before":
        tap = install(model)
    wrapped = wrap(model)
    if tapped != "model before":
        tap = install(model if tapped == "model after" else wrapped)

    tap.arm()
    wrapped(torch.randn(BATCH, ROWS, WIDTH)).sum().backward()

    assert errors == []
    modules = [one.call.module for one in tap.take()]
    tap.remove()
    assert modules == ["layers.0", "layers.1"]
