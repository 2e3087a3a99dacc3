"""What a loader reads beside the weights goes along whole, or the directory does not count."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from huggingface_directories import load, save_adapter, save_single, save_step

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

StateDict = dict[str, torch.Tensor]


def skipped(out: Path) -> Mapping[str, str]:
    made = run_average(AverageRequest(directory=out, patterns=("checkpoint-*/",)))
    assert isinstance(made, Provenance)
    return {entry.name: entry.reason for entry in made.skipped}


@pytest.mark.parametrize(
    ("save", "name"), [(save_single, "config.json"), (save_adapter, "adapter_config.json")]
)
@pytest.mark.parametrize("content", [b"", b"{", b'{"r": 4,\xff', b"[" * 1000])
def test_half_a_configuration_costs_the_directory_its_place(
    tmp_path: Path, save: Callable[[Path, StateDict], None], name: str, content: bytes
) -> None:
    first, second, _ = [save_step(tmp_path, step, save) for step in (1, 2, 3)]
    (tmp_path / "checkpoint-3" / name).write_bytes(content)

    assert f"{name}: is no complete JSON" in skipped(tmp_path)["checkpoint-3"]
    found = load(tmp_path / "averaged")
    for key in first:
        if first[key].is_floating_point():
            mean = (first[key].double() + second[key].double()) / 2
            assert torch.equal(found[key], mean.to(first[key].dtype))


def test_a_configuration_that_is_too_large_to_be_read_goes_along(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    text = json.dumps({"id2label": ["x" * (1 << 20)]})
    (tmp_path / "checkpoint-2" / "config.json").write_text(text)

    assert skipped(tmp_path) == {}

    assert (tmp_path / "averaged" / "config.json").read_text() == text
