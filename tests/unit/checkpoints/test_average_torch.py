"""The average of `.pt` files against numpy and torch."""

import json
import os
import pickle  # noqa: TID251 - makes what is refused
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evil import Evil
from random_tensors import mean
from torch import nn
from torch.utils.serialization import config

from tracksided.checkpoints import averaging, shares
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, plan_average, run_average
from tracksided.checkpoints.policy import StepRange
from tracksided.errors import CheckpointError

Save = Callable[..., list[dict[str, torch.Tensor]]]


def load(directory: Path, **options: Any) -> Any:
    return torch.load(directory / "averaged_model.pt", **{"weights_only": True, **options})


def test_the_newest_five_by_step_are_averaged(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(200, 1000, 90, 1200, 400, 600)

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [200, 400, 600, 1000, 1200]
    by_step = {int(state["counter"]): state for state in states}
    chosen = [by_step[step] for step in (200, 400, 600, 1000, 1200)]
    averaged = load(tmp_path)
    assert torch.equal(averaged["weight"], mean([state["weight"] for state in chosen]))
    assert torch.equal(averaged["bias"], mean([state["bias"] for state in chosen]))
    assert averaged["counter"] == 1200


def test_a_wrapper_keeps_its_settings_and_loses_the_optimizer(tmp_path: Path) -> None:
    big = 1 << 20
    for step in (10, 20):
        model = nn.Linear(4, 3)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": {"last": step},
            "rng_state": torch.get_rng_state(),
            "rng_seed": 1234,
            "ema": {"weight": torch.zeros(big)},
            "class_weights": torch.ones(3),
            "step": step,
            "args": Namespace(lr=0.1),
        }
        torch.save(content, tmp_path / f"checkpoint_{step}.pt")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert provenance is not None
    assert provenance.dropped == ("optimizer", "lr_scheduler", "rng_state", "ema")
    averaged = load(tmp_path, weights_only=False)
    assert list(averaged) == ["model", "rng_seed", "class_weights", "step", "args"]
    assert averaged["args"] == Namespace(lr=0.1)
    assert averaged["step"] == 20
    assert torch.equal(averaged["class_weights"], torch.ones(3))
    assert averaged["model"]._metadata == nn.Linear(4, 3).state_dict()._metadata
    assert (tmp_path / "averaged_model.pt").stat().st_size < big
    nn.Linear(4, 3).load_state_dict(averaged["model"])


def test_a_loader_that_computes_places_instead_of_reading_them_gets_the_average(
    tmp_path: Path,
) -> None:
    for step in (1, 2):
        content = {
            "optimizer": {"state": {0: torch.zeros(5)}, "param_groups": []},
            "model": {"a": torch.full((5,), 1.0 * step), "b": torch.full((300,), 10.0 * step)},
        }
        torch.save(content, tmp_path / f"step_{step}.pt")

    run_average(AverageRequest(directory=tmp_path))

    with config.patch({"load.calculate_storage_offsets": True}):
        averaged = load(tmp_path, mmap=True)
    assert torch.equal(averaged["model"]["a"], torch.full((5,), 1.5))
    assert torch.equal(averaged["model"]["b"], torch.full((300,), 15.0))


def test_the_optimizer_is_not_even_read(tmp_path: Path) -> None:
    for step in (1, 2):
        content = {"model": {"w": torch.full((4,), float(step))}, "optimizer": torch.ones(5000)}
        path = tmp_path / f"step_{step}.pt"
        torch.save(content, path)
        damaged = path.read_bytes().replace(torch.ones(5000).numpy().tobytes(), b"\xff" * 20_000)
        path.write_bytes(damaged)

    run_average(AverageRequest(directory=tmp_path))

    assert torch.equal(load(tmp_path)["model"]["w"], torch.full((4,), 1.5))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_the_result_does_not_depend_on_blocks_chunks_or_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int
) -> None:
    monkeypatch.setattr(averaging, "BLOCK_BYTES", 64)
    monkeypatch.setattr(shares, "CHUNK_BYTES", 192)
    states = []
    for step in (1, 2, 3):
        flat = torch.randn(500, generator=torch.Generator().manual_seed(step))
        state = {"a": flat[:123], "b": flat[130:400].view(27, 10), "n": torch.arange(99) * step}
        torch.save(state, tmp_path / f"step_{step}.pt")
        states.append(state)

    run_average(AverageRequest(directory=tmp_path, num_threads=num_threads))

    averaged = load(tmp_path)
    assert torch.equal(averaged["a"], mean([state["a"] for state in states]))
    assert torch.equal(averaged["b"], mean([state["b"] for state in states]))
    assert torch.equal(averaged["n"], states[-1]["n"])


def test_tensors_may_lie_elsewhere_in_each_checkpoint(tmp_path: Path) -> None:
    one, two = torch.arange(6.0), torch.arange(6.0) * 3
    torch.save({"a": one, "b": one + 1, "c": one + 2}, tmp_path / "step_1.pt")
    flat = torch.cat([two + 2, torch.zeros(5), two, two + 1])
    torch.save({"c": flat[:6], "b": flat[17:], "a": flat[11:17]}, tmp_path / "step_2.pt")

    run_average(AverageRequest(directory=tmp_path))

    averaged = load(tmp_path)
    assert torch.equal(averaged["a"], (one + two) / 2)
    assert torch.equal(averaged["b"], (one + two) / 2 + 1)
    assert torch.equal(averaged["c"], (one + two) / 2 + 2)


def test_tensors_tied_only_in_the_newest_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3), "b": torch.ones(3)}, tmp_path / "step_1.pt")
    tied = torch.ones(3) * 5
    torch.save({"a": tied, "b": tied}, tmp_path / "step_2.pt")

    with pytest.raises(CheckpointError, match="share memory"):
        run_average(AverageRequest(directory=tmp_path))


def test_methods_and_ranges_choose_weights_and_steps(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(100, 150, 200, 300, 400)
    steps = StepRange(first=200, last=300, every=100)

    provenance = run_average(
        AverageRequest(directory=tmp_path, method="ema", decay=0.5, steps=steps)
    )

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [200, 300]
    expected = (states[2]["weight"].double() + 2 * states[3]["weight"].double()) / 3
    assert torch.allclose(load(tmp_path)["weight"].double(), expected, rtol=0, atol=1e-7)


def test_links_copies_and_own_outputs_count_once(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    (tmp_path / "last.pt").symlink_to("step_2.pt")
    os.link(tmp_path / "step_2.pt", tmp_path / "best.pt")
    (tmp_path / "copy_2.pt").write_bytes((tmp_path / "step_2.pt").read_bytes())
    run_average(AverageRequest(directory=tmp_path, output_name="mine.pt"))
    (tmp_path / "latest.pt").symlink_to("averaged_model.pt")

    first = run_average(AverageRequest(directory=tmp_path))
    again = run_average(AverageRequest(directory=tmp_path))

    assert first is not None
    assert again is not None
    assert len(again.sources) == 2
    assert first.output_digest == again.output_digest


def test_checkpoints_without_checksums_are_averaged_and_said_to_be_unverified(
    tmp_path: Path, save_steps: Save
) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        states = save_steps(1, 2)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert provenance is not None
    assert [source.verified for source in provenance.sources] == [False, False]
    assert torch.equal(load(tmp_path)["bias"], mean([state["bias"] for state in states]))


def test_the_provenance_names_sources_weights_and_digests(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3)

    run_average(AverageRequest(directory=tmp_path))

    described = json.loads((tmp_path / "averaged_model.json").read_text())
    assert described["output_bytes"] == (tmp_path / "averaged_model.pt").stat().st_size
    assert [source["name"] for source in described["sources"]] == [
        "step_1.pt",
        "step_2.pt",
        "step_3.pt",
    ]
    assert [source["bytes"] for source in described["sources"]] == [
        (tmp_path / f"step_{step}.pt").stat().st_size for step in (1, 2, 3)
    ]
    assert len({source["digest"] for source in described["sources"]}) == 3
    assert all(source["verified"] for source in described["sources"])
    assert described["method"] == "uniform"


def test_the_output_takes_the_mode_of_the_newest(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2)
    (tmp_path / "step_2.pt").chmod(0o640)

    run_average(AverageRequest(directory=tmp_path))

    assert (tmp_path / "averaged_model.pt").stat().st_mode & 0o7777 == 0o640
    assert (tmp_path / "averaged_model.json").stat().st_mode & 0o7777 == 0o640


def test_an_evil_checkpoint_runs_nothing_and_is_refused(tmp_path: Path, save_steps: Save) -> None:
    marker = tmp_path / "executed"

    states = save_steps(1, 2)
    other = {name: tensor + 1 for name, tensor in states[0].items()}
    torch.save(Evil(marker), tmp_path / "step_9.pt")
    torch.save(
        {"weight": Evil(marker), "bias": Evil(marker), "counter": Evil(marker)},
        tmp_path / "step_8.pt",
    )
    torch.save({"model": other, "extra": Evil(marker)}, tmp_path / "step_0.pt")

    provenance = run_average(AverageRequest(directory=tmp_path))

    assert provenance is not None
    assert not marker.exists()
    assert [source.name for source in provenance.sources] == ["step_0.pt", "step_1.pt", "step_2.pt"]
    assert {entry.name for entry in provenance.skipped} == {"step_8.pt", "step_9.pt"}


def test_other_kinds_of_files_are_refused_by_name(tmp_path: Path) -> None:
    state = {"w": torch.ones(2)}
    torch.save(state, tmp_path / "step_1.pt", _use_new_zipfile_serialization=False)
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "step_2.pt"))
    (tmp_path / "step_3.pt").write_bytes(b"")
    (tmp_path / "step_4.pt").write_bytes(b"no checkpoint at all")
    (tmp_path / "step_5.pt").write_bytes(pickle.dumps([1]))
    os.mkfifo(tmp_path / "step_6.pt")
    torch.save({"epoch": 3, "net": Namespace(w=torch.ones(1))}, tmp_path / "step_7.pt")
    torch.save([torch.ones(1)], tmp_path / "step_8.pt")
    torch.save({"w": torch.ones(2).to_sparse()}, tmp_path / "step_9.pt")

    with pytest.raises(TooFewCheckpoints) as caught:
        run_average(AverageRequest(directory=tmp_path))

    reasons = {entry.name: entry.reason for entry in caught.value.skipped}
    assert "legacy pickle" in reasons["step_1.pt"]
    assert "TorchScript" in reasons["step_2.pt"]
    assert "empty" in reasons["step_3.pt"]
    assert "not a zip file" in reasons["step_4.pt"]
    assert "legacy pickle" in reasons["step_5.pt"]
    assert "not a regular file" in reasons["step_6.pt"]
    assert "'net'" in reasons["step_7.pt"]
    assert "does not hold a dict" in reasons["step_8.pt"]
    assert "sparse" in reasons["step_9.pt"]


def test_big_endian_files_are_refused(tmp_path: Path, save_steps: Save) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        save_steps(1, 2)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    path = tmp_path / "step_2.pt"
    path.write_bytes(path.read_bytes().replace(b"little", b"bigbig"))

    with pytest.raises(TooFewCheckpoints, match="big-endian"):
        plan_average(AverageRequest(directory=tmp_path))


def test_one_checkpoint_is_averaged_only_where_one_was_asked_for(
    tmp_path: Path, save_steps: Save
) -> None:
    states = save_steps(1)

    with pytest.raises(TooFewCheckpoints, match="2 are needed"):
        run_average(AverageRequest(directory=tmp_path))
    run_average(AverageRequest(directory=tmp_path, count=1))

    assert torch.equal(load(tmp_path)["weight"], states[0]["weight"])
