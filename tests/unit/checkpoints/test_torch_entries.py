"""What of a torch checkpoint is averaged, what goes along, and what is refused or left out."""

import enum
import struct
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tracksided.checkpoints.formats import torch_beside
from tracksided.checkpoints.formats.training_state import is_training_state
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, run_average
from tracksided.checkpoints.provenance import Provenance

LARGE = 300_000  # elements of float32: more than the 1 MiB that goes along


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def filled(step: int, scale: float = 1.0, count: int = 3) -> torch.Tensor:
    return torch.full((count,), float(scale * step))


def average(directory: Path, make: Callable[[int], Any]) -> tuple[Any, Provenance]:
    """Average the checkpoints of steps 1 to 3."""
    for step in (1, 2, 3):
        torch.save(make(step), directory / f"step_{step}.pt")
    provenance = run_average(AverageRequest(directory=directory))
    assert isinstance(provenance, Provenance)
    return torch.load(directory / "averaged_model.pt", weights_only=False), provenance


def refusal(directory: Path, make: Callable[[int], Any]) -> str:
    """Return why step 3 is refused."""
    with pytest.raises(TooFewCheckpoints) as caught:
        average(directory, make)
    return {entry.name: entry.reason for entry in caught.value.skipped}["step_3.pt"]


@pytest.mark.parametrize(
    "keys",
    [
        (("a", 1), ("a", 2)),
        (torch.float32, torch.float16),
        (0, 1),
        (b"\x00" * 90 + b"\x01", b"\x00" * 90 + b"\x02"),
        (Colour.RED, Colour.BLUE),
        (frozenset({1}), frozenset({2})),
        (None, True),
    ],
)
def test_tensors_under_keys_of_any_kind_are_all_averaged(tmp_path: Path, keys: Any) -> None:
    averaged, _ = average(
        tmp_path, lambda step: {"model": {keys[0]: filled(step), keys[1]: filled(step, 10)}}
    )

    assert torch.equal(averaged["model"][keys[0]], filled(2))
    assert torch.equal(averaged["model"][keys[1]], filled(2, 10))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("wrapper", ["model", None])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda tensor: tensor.to_sparse(), "_rebuild_sparse_tensor"),
        (lambda tensor: tensor.to("meta"), "_rebuild_meta_tensor_no_storage"),
    ],
)
def test_tensors_of_other_kinds_are_refused_by_name(
    tmp_path: Path, change: Any, reason: str, wrapper: str | None
) -> None:
    def make(step: int) -> Any:
        state = {"plain": filled(step), "other": change(filled(step))}
        return state if wrapper is None else {wrapper: state}

    assert f"tensor 'other' is built by 'torch._utils.{reason}'" in refusal(tmp_path, make)


class Unnamed:
    """Equal only to itself, and without anything that tells one from another."""


def test_keys_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    reason = refusal(
        tmp_path, lambda step: {"model": {Unnamed(): filled(step), Unnamed(): filled(step)}}
    )

    assert "two keys are called" in reason
    assert "Unnamed" in reason


def parameter_with_attribute(step: int) -> nn.Parameter:
    parameter = nn.Parameter(filled(step))
    parameter.extra = filled(step)  # type: ignore[attr-defined] - torch saves any attribute
    return parameter


@pytest.mark.parametrize(
    "hide",
    [
        lambda step: Namespace(w=filled(step)),
        lambda step: {filled(step)},
        lambda step: frozenset({filled(step)}),
        parameter_with_attribute,
        lambda step: {"deep": [Namespace(inner={"w": filled(step)})]},
        lambda step: {filled(step): 1},
        lambda step: filled(step).untyped_storage(),
    ],
)
@pytest.mark.parametrize("wrapper", ["model", None])
def test_a_tensor_where_none_is_averaged_refuses_the_file(
    tmp_path: Path, hide: Callable[[int], Any], wrapper: str | None
) -> None:
    def make(step: int) -> Any:
        state = {"plain": filled(step), "hidden": hide(step)}
        return state if wrapper is None else {wrapper: state}

    assert refusal(tmp_path, make).startswith("'hidden' holds a tensor in an object")


@pytest.mark.parametrize("step_of_view", [1, 3])
@pytest.mark.parametrize(
    ("view", "bit"),
    [
        (lambda tensor: tensor.conj(), "conj"),
        (torch._neg_view, "neg"),
        (lambda tensor: tensor.conj().imag, "neg"),
    ],
)
def test_conjugate_and_negative_views_are_refused(
    tmp_path: Path, view: Any, bit: str, step_of_view: int
) -> None:
    for step in (1, 2, 3):
        tensor = torch.tensor([1 + 2j, 3 - 4j]) * step
        tensor = view(tensor) if step == step_of_view else view(tensor).clone()
        torch.save({"w": tensor}, tmp_path / f"step_{step}.pt")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    (skipped,) = provenance.skipped
    assert skipped.name == f"step_{step_of_view}.pt"
    assert f"is a view with '{bit}'; save it after resolve_conj()" in skipped.reason


def test_the_wrapper_with_most_bytes_is_the_model(tmp_path: Path) -> None:
    averaged, provenance = average(
        tmp_path,
        lambda step: {
            "model": {"pos_weight": filled(step, 1, 1), "name": "resnet"},
            "state_dict": {"w": filled(step, 1, LARGE)},
        },
    )

    assert torch.equal(averaged["state_dict"]["w"], filled(2, 1, LARGE))
    assert torch.equal(averaged["model"]["pos_weight"], filled(3, 1, 1))
    assert provenance.dropped == ()


@pytest.mark.parametrize(
    "beside",
    [
        lambda step: {"weights": {"w": filled(step, 1, LARGE)}},
        lambda step: {f"layers.{index}": filled(step, 1, LARGE // 10) for index in range(11)},
    ],
)
def test_more_tensors_beside_the_model_than_in_it_are_refused(
    tmp_path: Path, beside: Callable[[int], Any]
) -> None:
    reason = refusal(tmp_path, lambda step: {"model": {"bias": filled(step)}, **beside(step)})

    assert reason.startswith("it is not clear which are the weights: 'model' holds 12 bytes")


def test_a_larger_copy_that_says_so_is_left_out(tmp_path: Path) -> None:
    averaged, provenance = average(
        tmp_path,
        lambda step: {
            "model": {"w": filled(step, 1, LARGE).half()},
            "model_ema": {"w": filled(step, 1, LARGE)},
            "optimizer": {"state": {0: filled(step, 1, 2 * LARGE)}},
        },
    )

    assert list(averaged) == ["model"]
    assert provenance.dropped == ("model_ema", "optimizer")


def test_many_small_entries_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_beside, "MAX_CARRIED_IN_ALL_BYTES", 100)

    reason = refusal(
        tmp_path,
        lambda step: {
            "model": {"w": filled(step)},
            **{f"table {index}": filled(step) for index in range(9)},
        },
    )

    assert "108 bytes of tensors, 100 at most go along" in reason


def test_lightning_loses_the_large_callback_alone(tmp_path: Path) -> None:
    averaged, provenance = average(
        tmp_path,
        lambda step: {
            "state_dict": {"w": filled(step)},
            "callbacks": {
                "EMA": {"ema_state": {"w": filled(step, 1, LARGE)}},
                "ModelCheckpoint": {"monitor": "val_loss", "current_score": torch.tensor(0.5)},
            },
            "global_step": step,
        },
    )

    assert averaged["callbacks"] == {
        "ModelCheckpoint": {"monitor": "val_loss", "current_score": torch.tensor(0.5)}
    }
    assert provenance.dropped == ("callbacks.EMA",)
    assert torch.equal(averaged["state_dict"]["w"], filled(2))


@pytest.mark.parametrize(
    ("key", "is_state"),
    [
        *((key, True) for key in ("optimizer", "optim", "optimizer_states", "lr_schedulers")),
        *((key, True) for key in ("last_optimizer_state", "optimizer_state_dict", "optimizerD")),
        *((key, True) for key in ("GradScaler", "scaler", "rng_state", "cuda_rng_state_all")),
        *((key, True) for key in ("numpy_random_state", "random_states_0", "optimizer_1", "rng")),
        *((key, False) for key in ("noise_scheduler_config", "rng_free", "rng_seed", "random")),
        *((key, False) for key in ("token_stats", "starting_epoch", "optimizer_config", "model")),
        *((key, False) for key in ("adaptive", "optional", "state", "state_dict", "upscaler", 1)),
    ],
)
def test_whole_words_say_what_belongs_to_one_step(key: str | int, *, is_state: bool) -> None:
    assert is_training_state(key) == is_state


@pytest.mark.parametrize("wrapper", ["model", None])
def test_what_is_shaped_or_called_like_an_optimizer_goes(
    tmp_path: Path, wrapper: str | None
) -> None:
    torch_like = torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict()

    averaged, provenance = average(
        tmp_path,
        lambda step: {
            **({"w": filled(step)} if wrapper is None else {wrapper: {"w": filled(step)}}),
            "opt": {"state": {0: {"exp_avg": filled(step)}}},
            "adam": {"m": filled(step)},
            "d_trainer": torch_like,
            "noise_scheduler_config": {"beta": 0.1},
            "rng_free": {"x": 1},
            "sgd": {"lr": 0.1},
        },
    )

    assert list(averaged) == [wrapper or "w", "noise_scheduler_config", "rng_free", "sgd"]
    assert provenance.dropped == ("opt", "adam", "d_trainer")
    assert torch.equal(averaged["w"] if wrapper is None else averaged[wrapper]["w"], filled(2))


def test_a_single_dict_of_tensors_is_the_model_whatever_it_is_called(tmp_path: Path) -> None:
    averaged, provenance = average(
        tmp_path,
        lambda step: {
            "net": {"w": filled(step)},
            "epoch": step,
            "\x1b[1m_optim": {"m": filled(step)},
            "settings": {"lr": 0.1},
        },
    )

    assert torch.equal(averaged["net"]["w"], filled(2))
    assert list(averaged) == ["net", "epoch", "settings"]
    assert provenance.dropped == (r"\x1b[1m_optim",)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda step: {"generator": {"w": filled(step)}, "critic": {"w": filled(step)}},
            "not clear which is the model: 'generator', 'critic' hold tensors",
        ),
        (
            lambda step: {"model": Namespace(w=filled(step))},
            "its keys are 'model' (an object made by 'argparse.Namespace')",
        ),
        (lambda _: nn.Linear(2, 2), "save a state dict with torch.save"),
        (lambda step: {"a" * 2000: step}, f"its keys are '{'a' * 100}...'"),
        (lambda step: {"\x1b[31m": step}, r"its keys are '\x1b[31m'"),
    ],
)
def test_what_is_not_clear_is_refused_in_words(
    tmp_path: Path, make: Callable[[int], Any], reason: str
) -> None:
    assert reason in refusal(tmp_path, make)


def test_a_step_beyond_64_bits_is_none(tmp_path: Path) -> None:
    for name, step in (("a", 1), ("b", 1 << 300)):
        torch.save(
            {"model": {"w": filled(1 if step == 1 else 3)}, "step": step}, tmp_path / f"{name}.pt"
        )

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    assert {source.name: source.step for source in provenance.sources} == {"a.pt": 1, "b.pt": None}


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor_call(key: str, count: int) -> bytes:
    """The opcodes of a float32 tensor of one dimension over a storage of its own."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    size = b"J" + struct.pack("<i", count)
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + size + b"tQK\0"
    return call + size + b"\x85K\x01\x85\x89}tR"


def save_opcodes(path: Path, entries: bytes, storages: dict[str, bytes]) -> None:
    """Write an archive around a dict of model `w` and more entries."""
    model = text("model") + b"}" + text("w") + tensor_call("0", 2) + b"s"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}(" + model + entries + b"u.")
        for key, content in storages.items():
            archive.writestr(f"a/data/{key}", content)
        archive.writestr("a/version", "3\n")


PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"


# Large enough to be taken for the model, or to be left out.
TENSOR = tensor_call("1", LARGE)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        # A key whose text would have 2 ** 60 parts, in front of what is left out for its size.
        (b")" + b"2\x86" * 60 + TENSOR, "('a tuple')"),
        (b")" + b"\x85" * 5000 + TENSOR, "('a tuple')"),
        (text("k" * 9999) + TENSOR, f"('{'k' * 100}...')"),
        (text("deep") + b"]" * 20_000 + b"a" * 19_999, "nested deeper than 10000"),
        (
            text("state_dict")
            + b"}"
            + text("p")
            + PARAMETER * 5000
            + TENSOR
            + b"\x89}\x87R" * 5000
            + b"s",
            "tensor 'p' is wrapped too often",
        ),
        (
            text("state_dict") + b"}" + b")" + b"2\x86" * 60 + TENSOR + b"s",
            "a key is longer than 1000 characters",
        ),
        (
            text("state_dict") + b"}" + text("k" * 1001) + TENSOR + b"s",
            f"a name has 1001 characters: '{'k' * 100}...'",
        ),
    ],
)
def test_bombs_in_names_end_in_a_short_refusal(tmp_path: Path, entries: bytes, reason: str) -> None:
    for step in (7, 8):
        save_opcodes(tmp_path / f"step_{step}.pt", b"", {"0": struct.pack("<2f", step, 1)})
    save_opcodes(
        tmp_path / "step_9.pt", entries, {"0": struct.pack("<2f", 9, 1), "1": bytes(4 * LARGE)}
    )

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert isinstance(provenance, Provenance)
    (skipped,) = provenance.skipped
    assert reason in skipped.reason
    assert len(skipped.reason) < 400
