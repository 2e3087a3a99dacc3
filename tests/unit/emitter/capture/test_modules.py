import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trackside.capture.modules import ModuleIndex, is_in_reentrant_checkpoint


class Probe(nn.Module):
    """Asks where it is while it runs."""

    def __init__(self, index: list[ModuleIndex]) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.index = index
        self.paths: list[str] = []
        self.is_checkpointed: list[bool] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        arguments = locals()
        arguments.pop("self")
        self.paths.append(self.index[0].running().path)
        self.is_checkpointed.append(is_in_reentrant_checkpoint())
        assert "self" not in arguments  # what a caller did to his own locals() stays
        return self.inner(rows)


def test_the_innermost_running_module_is_named_without_wrappers() -> None:
    index: list[ModuleIndex] = []
    probe = Probe(index)
    wrapped = nn.ModuleDict({"_orig_mod": nn.ModuleDict({"module": nn.Sequential(probe)})})
    root = nn.ModuleDict({"blocks": nn.ModuleList([nn.Identity(), wrapped])})
    index.append(ModuleIndex(root))

    wrapped["_orig_mod"]["module"](torch.ones(1, 1))

    assert probe.paths == ["blocks.1.0"]


def test_the_root_has_an_empty_path() -> None:
    index: list[ModuleIndex] = []
    probe = Probe(index)
    index.append(ModuleIndex(probe))

    probe(torch.ones(1, 1))

    assert probe.paths == [""]
    assert index[0].running().path == ""


def test_a_module_outside_the_model_belongs_to_its_caller() -> None:
    index: list[ModuleIndex] = []
    probe = Probe(index)

    class Caller(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return probe(rows)

    root = nn.Sequential(Caller())
    index.append(ModuleIndex(root))

    root(torch.ones(1, 1))

    assert probe.paths == ["0"]


def test_layers_of_torch_that_hold_nothing_stand_for_their_parent() -> None:
    places: list[str] = []

    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.softmax = nn.Softmax(-1)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.softmax(rows)

    root = nn.Sequential(Parent())
    index = ModuleIndex(root)
    root[0].softmax.register_forward_pre_hook(lambda *_: places.append(index.running().path))

    root(torch.ones(1, 1))

    assert places == ["0"]


def test_only_a_reentrant_checkpoint_is_one() -> None:
    index: list[ModuleIndex] = []
    probe = Probe(index)
    index.append(ModuleIndex(probe))
    rows = torch.ones(1, 1, requires_grad=True)

    checkpoint(probe, rows, use_reentrant=True)
    checkpoint(probe, rows, use_reentrant=False)
    probe(rows)

    assert probe.is_checkpointed == [True, False, False]


def test_query_key_and_value_tell_one_sequence_from_two() -> None:
    found: list[bool | None] = []

    class Attention(nn.Module):
        def forward(self, *_: torch.Tensor) -> None:
            found.append(index.running().shares_sequence)

    model = Attention()
    index = ModuleIndex(model)
    one, two, three = torch.ones(1), torch.ones(1), torch.ones(1)

    for arguments in [(one, one, one), (one, two, two), (one, two, three), (one, two), (one,)]:
        model(*arguments)

    assert found == [True, False, None, None, None]


def test_encoder_states_are_told_by_their_name() -> None:
    found: list[bool] = []

    class Attention(nn.Module):
        def forward(self, *_: torch.Tensor, **__: torch.Tensor | None) -> None:
            found.append(index.running().has_encoder_states)

    model = Attention()
    index = ModuleIndex(model)
    rows = torch.ones(1)

    model(rows, encoder_hidden_states=rows)
    model(rows, encoder_hidden_states=None)
    model(rows, rows)

    assert found == [True, False, False]
