"""Where a checkpoint may state its metric, and which statement counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from best_checkpoints import LOSSES, model, request, score, steps_of
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import plan_average, run_average


def own_file(directory: Path, step: int, loss: float) -> None:
    torch.save(model(step), directory / f"step_{step}.pt")
    (directory / f"step_{step}.json").write_text(json.dumps({"metrics": {"val_loss": loss}}))


def common_file(directory: Path, step: int, loss: float) -> None:
    torch.save(model(step), directory / f"step_{step}.pt")
    path = directory / "metrics.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    name = f"step_{step}.pt" if step == 100 else f"step_{step}"
    path.write_text(json.dumps({**content, name: {"val_loss": loss}}))


def beside_the_model(directory: Path, step: int, loss: float) -> None:
    torch.save({"model": model(step), "val_loss": loss}, directory / f"step_{step}.pt")


def below_metrics(directory: Path, step: int, loss: float) -> None:
    content = {"model": model(step), "val_loss": 1.0, "metrics": {"val_loss": loss}}
    torch.save(content, directory / f"step_{step}.pt")


def below_extra_state(directory: Path, step: int, loss: float) -> None:
    content = {"model": model(step), "extra_state": {"val_loss": loss, "epoch": 3}}
    torch.save(content, directory / f"step_{step}.pt")


def in_a_plain_state_dict(directory: Path, step: int, loss: float) -> None:
    torch.save({**model(step), "val_loss": loss}, directory / f"step_{step}.pt")


def as_tensor(directory: Path, step: int, loss: float) -> None:
    dtype = {100: torch.bfloat16, 200: torch.float16, 300: torch.float64}[step]
    content = {"model": model(step), "val_loss": torch.tensor(loss, dtype=dtype)}
    torch.save(content, directory / f"step_{step}.pt")


def in_the_name(directory: Path, step: int, loss: float) -> None:
    torch.save(model(step), directory / f"epoch={step // 100}_val_loss={loss:.2e}-step={step}.ckpt")


def in_metadata(directory: Path, step: int, loss: float) -> None:
    metadata = {"val_loss": str(loss), "format": "pt"}
    save_file(model(step), directory / f"step_{step}.safetensors", metadata=metadata)


def in_a_directory(directory: Path, step: int, loss: float) -> None:
    inside = directory / f"step_{step}"
    inside.mkdir()
    save_file(model(step), inside / "model.safetensors")
    (inside / "metrics.json").write_text(json.dumps({"val_loss": loss}))


def beside_a_directory(directory: Path, step: int, loss: float) -> None:
    in_a_directory(directory, step, loss)
    (directory / f"step_{step}" / "metrics.json").rename(directory / "spare.json")
    common_file(directory, step, loss)
    (directory / f"step_{step}.pt").unlink()


@pytest.mark.parametrize(
    "save",
    [
        own_file,
        common_file,
        beside_the_model,
        below_metrics,
        below_extra_state,
        in_a_plain_state_dict,
        as_tensor,
        in_the_name,
        in_metadata,
        in_a_directory,
        beside_a_directory,
    ],
)
def test_a_metric_may_stand_in_many_places(
    tmp_path: Path, save: Callable[[Path, int, float], None]
) -> None:
    for step, loss in LOSSES.items():
        save(tmp_path, step, loss)

    sources = plan_average(request(tmp_path, count=2)).sources

    assert [source.step for source in sources] == [200, 300]
    # bfloat16 and float16 keep 8 and 11 bits of a number.
    assert [source.metric for source in sources] == pytest.approx([0.1, 0.2], rel=2**-9)


def test_metrics_of_one_step_do_not_go_along_with_an_average(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        in_a_directory(tmp_path, step, loss)

    run_average(request(tmp_path))

    assert load_file(tmp_path / "averaged" / "model.safetensors")["w"][0] == 200
    assert not (tmp_path / "averaged" / "metrics.json").exists()


def test_a_file_beside_a_checkpoint_counts_before_its_content(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        torch.save({"model": model(step), "val_loss": -loss}, tmp_path / f"step_{step}.pt")
    score(tmp_path, dict(LOSSES))

    assert steps_of(tmp_path, count=1) == [200]


def lightning(step: int, scores: dict[str, float], current: float) -> dict[str, Any]:
    """What `Trainer.save_checkpoint` writes, with one callback that monitors val_loss."""
    state = {
        "monitor": "val_loss",
        "current_score": torch.tensor(current),
        "best_k_models": {name: torch.tensor(value) for name, value in scores.items()},
        "best_model_score": torch.tensor(-1.0),
    }
    early = {"wait_count": 0, "best_score": torch.tensor(-1.0)}
    callbacks = {"ModelCheckpoint{'monitor': 'val_loss'}": state, "EarlyStopping{}": early}
    return {"global_step": step, "state_dict": model(step), "callbacks": callbacks}


def test_scores_of_lightning_are_exact_where_its_names_round_them(tmp_path: Path) -> None:
    for epoch, loss in enumerate([0.0043, 0.0041, 0.0042]):
        content = lightning(epoch + 1, {}, loss)
        torch.save(content, tmp_path / f"epoch={epoch}-val_loss=0.00.ckpt")

    assert steps_of(tmp_path, count=1) == [2]


def test_of_two_callbacks_that_which_lists_the_file_counts(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        name = f"step={step}.ckpt"
        content = lightning(step, {}, 0.05)
        other = lightning(step, {f"/elsewhere/{name}": loss}, loss)["callbacks"]
        content["callbacks"] |= {f"{key} second": state for key, state in other.items()}
        torch.save(content, tmp_path / name)

    assert steps_of(tmp_path, count=2) == [200, 300]


def test_callbacks_that_disagree_leave_it_to_the_name(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        content = lightning(step, {}, 0.05)
        other = lightning(step, {}, step / 1000)["callbacks"]
        content["callbacks"] |= {f"{key} second": state for key, state in other.items()}
        torch.save(content, tmp_path / f"step={step}-val_loss={loss}.ckpt")

    assert steps_of(tmp_path, count=1) == [200]
