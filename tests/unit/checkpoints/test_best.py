"""The best checkpoints by a metric, against a plain sort."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, plan_average, run_average
from tracksided.checkpoints.policy import BestBy, StepRange
from tracksided.cli.average import command

Save = Callable[..., list[dict[str, torch.Tensor]]]


def request(directory: Path, mode: str = "min", **options: Any) -> AverageRequest:
    best = BestBy(metric="val_loss", mode=mode)
    patterns = ("*.pt", "*.ckpt", "*.safetensors", "*/")
    return AverageRequest(directory=directory, best=best, patterns=patterns, **options)


def steps_of(directory: Path, mode: str = "min", **options: Any) -> list[int | None]:
    return [source.step for source in plan_average(request(directory, mode, **options)).sources]


def reasons_of(directory: Path, **options: Any) -> dict[str, str]:
    plan = plan_average(request(directory, **options))
    return {entry.name: entry.reason for entry in plan.skipped}


def score(directory: Path, losses: dict[int, object]) -> None:
    for step, loss in losses.items():
        (directory / f"step_{step}.json").write_text(json.dumps({"val_loss": loss}))


def test_the_best_are_averaged_from_oldest_to_newest(tmp_path: Path, save_steps: Save) -> None:
    states = save_steps(1, 2, 3, 4, 5)
    score(tmp_path, {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.2, 5: 0.4})

    provenance = run_average(request(tmp_path, count=3))

    assert provenance is not None
    assert [(source.step, source.metric) for source in provenance.sources] == [
        (1, 0.3),
        (2, 0.1),
        (4, 0.2),
    ]
    averaged = torch.load(tmp_path / "averaged_model.pt", weights_only=True)
    mean = np.mean([states[index]["weight"].double().numpy() for index in (0, 1, 3)], axis=0)
    assert torch.equal(averaged["weight"], torch.from_numpy(mean).float())
    assert averaged["counter"] == 4
    described = json.loads((tmp_path / "averaged_model.json").read_text())
    assert described["best"] == {"metric": "val_loss", "mode": "min"}
    assert [source["metric"] for source in described["sources"]] == [0.3, 0.1, 0.2]


def test_the_mode_says_which_end_is_good(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.2})

    assert steps_of(tmp_path, "min", count=2) == [2, 4]
    assert steps_of(tmp_path, "max", count=2) == [1, 3]


def test_of_equal_ones_the_newer_are_taken(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, dict.fromkeys((1, 2, 3, 4), 0.5))

    assert steps_of(tmp_path, "min", count=2) == [3, 4]
    assert steps_of(tmp_path, "max", count=2) == [3, 4]


def test_a_range_of_steps_is_kept(tmp_path: Path, save_steps: Save) -> None:
    save_steps(10, 20, 30, 40, 50)
    score(tmp_path, {10: 0.0, 20: 0.4, 30: 0.1, 40: 0.2, 50: 0.3})

    steps = StepRange(first=20, last=50, every=10)
    assert steps_of(tmp_path, count=2, steps=steps) == [30, 40]
    assert steps_of(tmp_path, count=2, steps=StepRange(every=20)) == [20, 40]


def test_the_next_best_takes_the_place_of_one_that_is_not_sound(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})
    state = torch.load(tmp_path / "step_1.pt", weights_only=True)
    state["weight"][0] = math.nan
    torch.save(state, tmp_path / "step_1.pt")

    provenance = run_average(request(tmp_path, count=2))

    assert provenance is not None
    assert [source.step for source in provenance.sources] == [2, 3]
    assert "NaN or infinity" in provenance.skipped[0].reason


@given(
    losses=st.dictionaries(
        st.integers(1, 9),
        st.sampled_from([None, 0.1, 0.2, 0.3, math.nan, math.inf, -math.inf, "0.1", True]),
        min_size=2,
    ),
    mode=st.sampled_from(["min", "max"]),
    count=st.integers(1, 9),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_losses_choose_like_a_plain_sort(
    tmp_path_factory: pytest.TempPathFactory, losses: dict[int, Any], mode: str, count: int
) -> None:
    directory = tmp_path_factory.mktemp("losses")
    for step in losses:
        torch.save({"w": torch.full((2,), float(step))}, directory / f"step_{step}.pt")
    score(directory, losses)
    sign = 1 if mode == "min" else -1
    good = [
        (sign * loss, -step)
        for step, loss in losses.items()
        if isinstance(loss, float) and math.isfinite(loss)
    ]
    expected = sorted(-step for _, step in sorted(good)[:count])

    if len(expected) < min(2, count):
        with pytest.raises(TooFewCheckpoints):
            plan_average(request(directory, mode, count=count))
        return
    assert steps_of(directory, mode, count=count) == expected
    reasons = reasons_of(directory, mode=mode, count=count)
    assert reasons.keys() == {
        f"step_{step}.pt" for step in losses if -step not in {place for _, place in good}
    }


LOSSES = {100: 0.3, 200: 0.1, 300: 0.2}


def model(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3,), float(step))}


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


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({}, "states no 'val_loss'"),
        ({"val_los": 0.1}, "states no 'val_loss'; did you mean 'val_los'?"),
        ({"accuracy": 0.1, "f1": 2}, "states no 'val_loss'; it states accuracy, f1"),
        ({f"m{n}": n for n in range(9)}, "it states m0, m1, m2, m3, m4, m5 and 3 more"),
        ({"val_loss": "0.1"}, "states no 'val_loss'"),
        ({"val_loss": None}, "states no 'val_loss'"),
        ({"val_loss": math.nan}, "its 'val_loss' is nan"),
        ({"val_loss": math.inf}, "its 'val_loss' is inf"),
        ({"val_loss": -(10**400)}, "its 'val_loss' is -inf"),
        ([0.1], "states no 'val_loss'"),
    ],
)
def test_one_without_the_metric_is_skipped_with_the_reason(
    tmp_path: Path, save_steps: Save, stated: object, reason: str
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    (tmp_path / "step_2.json").write_text(json.dumps(stated))

    assert reasons_of(tmp_path)["step_2.pt"].endswith(reason)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "step_2.json is not sane JSON"),
        (b"\xff\xfe\x00", "step_2.json is not sane JSON"),
        (b"[" * 200_000, "step_2.json is not sane JSON"),
        (b" " * (5 << 20), "step_2.json: 5242880 bytes, more than the 4194304 read"),
    ],
)
def test_a_damaged_file_of_metrics_costs_its_checkpoint_only(
    tmp_path: Path, save_steps: Save, content: bytes, reason: str
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    (tmp_path / "step_2.json").write_bytes(content)

    assert steps_of(tmp_path) == [1, 3]
    assert reason in reasons_of(tmp_path)["step_2.pt"]


def test_a_pipe_for_a_file_of_metrics_is_refused_not_waited_for(
    tmp_path: Path, save_steps: Save
) -> None:
    save_steps(1, 2, 3)
    score(tmp_path, {1: 0.1, 3: 0.3})
    os.mkfifo(tmp_path / "step_2.json")

    assert "step_2.json: not a regular file" in reasons_of(tmp_path)["step_2.pt"]


def test_a_metric_whose_checksum_does_not_match_is_refused(tmp_path: Path) -> None:
    for step, loss in LOSSES.items():
        content = {"model": model(step), "val_loss": torch.tensor(loss, dtype=torch.float64)}
        torch.save(content, tmp_path / f"step_{step}.pt")
    path = tmp_path / "step_200.pt"
    stored = torch.tensor(0.1, dtype=torch.float64).numpy().tobytes()
    path.write_bytes(path.read_bytes().replace(stored, bytes(8)))

    assert "corrupt: its CRC-32" in reasons_of(tmp_path)["step_200.pt"]
    assert steps_of(tmp_path) == [100, 300]


def test_reading_metrics_executes_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    for step, loss in LOSSES.items():
        content = {"model": model(step), "metrics": {"val_loss": loss, "f1": Evil()}}
        content |= {"val_loss": Evil(), "callbacks": {"a": Evil()}}
        torch.save(content, tmp_path / f"step_{step}.pt")

    assert steps_of(tmp_path, count=2) == [200, 300]
    assert not marker.exists()


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_command_shows_the_metric_it_chose_by(tmp_path: Path, save_steps: Save) -> None:
    save_steps(1, 2, 3, 4)
    score(tmp_path, {1: 0.25, 2: 0.125, 3: 0.5})
    options = ("--best", "val_loss", "--mode", "min", "--num-checkpoints", "2", "--method", "ema")

    planned = run(tmp_path, *options, "--dry-run")
    plan = json.loads(run(tmp_path, *options, "--dry-run", "--json").stdout)
    made = run(tmp_path, *options)

    assert "step 2  step_2.pt  val_loss 0.125  (" in planned.stdout
    assert "skipped step_4.pt: states no 'val_loss'" in planned.stderr
    assert plan["best"] == {"metric": "val_loss", "mode": "min"}
    # Of two, the older has 0.9 of the newer's weight.
    assert [source["weight"] for source in plan["sources"]] == pytest.approx([0.9 / 1.9, 1 / 1.9])
    assert [source["metric"] for source in plan["sources"]] == [0.25, 0.125]
    assert "step 1  step_1.pt  val_loss 0.25\n" in made.stdout
