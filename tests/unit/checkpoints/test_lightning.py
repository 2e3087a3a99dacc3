"""Checkpoints as Lightning writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.provenance import Provenance

StateDict = dict[str, torch.Tensor]


def module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def content(step: int) -> dict[str, Any]:
    """The keys of Trainer.save_checkpoint in version 2."""
    torch.manual_seed(step)
    trained = module()
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    progress = {"total": {"ready": step, "completed": step}, "current": {"ready": step}}
    return {
        "epoch": step // 100,
        "global_step": step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": trained.state_dict(),
        "loops": {"fit_loop": {"epoch_progress": progress}, "validate_loop": {}},
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5), "top_k": {}}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": step}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"width": 4},
    }


def save(out: Path, step: int, name: str = "epoch={epoch}-step={step}.ckpt") -> StateDict:
    saved = content(step)
    torch.save(saved, out / name.format(epoch=step // 100, step=step))
    state: StateDict = saved["state_dict"]
    return state


def run(out: Path, **options: Any) -> Provenance:
    request = AverageRequest(directory=out, patterns=("*.ckpt",), **options)
    provenance = run_average(request)
    assert provenance is not None
    return provenance


def assert_mean(found: StateDict, states: list[StateDict]) -> None:
    for name, newest in states[-1].items():
        expected = newest
        if newest.is_floating_point():
            mean = np.mean([state[name].double().numpy() for state in states], axis=0)
            expected = torch.from_numpy(mean).float()
        assert torch.equal(found[name], expected), name


def test_the_state_dict_is_averaged_and_what_a_loader_needs_stays(tmp_path: Path) -> None:
    states = [save(tmp_path, step) for step in (90, 1000, 400)]

    provenance = run(tmp_path)

    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    assert [source.step for source in provenance.sources] == [90, 400, 1000]
    assert_mean(averaged["state_dict"], [states[0], states[2], states[1]])
    module().load_state_dict(averaged["state_dict"])
    newest = content(1000)
    kept = set(newest) - {"optimizer_states", "lr_schedulers"}
    assert set(averaged) == kept
    for key in kept - {"state_dict"}:
        assert averaged[key] == newest[key]
    assert provenance.dropped == ("optimizer_states", "lr_schedulers")


def test_last_counts_once_also_where_it_differs_around_the_weights(tmp_path: Path) -> None:
    for step in (100, 200):
        save(tmp_path, step)
    torch.save({**content(200), "callbacks": {}}, tmp_path / "last.ckpt")

    provenance = run(tmp_path)

    assert [source.step for source in provenance.sources] == [100, 200]
    assert len(provenance.skipped) == 1
    assert "is a copy of" in provenance.skipped[0].reason


def test_versions_of_one_name_are_ordered_by_step(tmp_path: Path) -> None:
    save(tmp_path, 30, "epoch=0-step=30.ckpt")
    save(tmp_path, 200, "epoch=0-step=200-v1.ckpt")
    save(tmp_path, 1000, "epoch=00-val_loss=0.25-step=1000.ckpt")

    assert [source.step for source in run(tmp_path, count=2).sources] == [200, 1000]
