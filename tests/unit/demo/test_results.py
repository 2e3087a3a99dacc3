import json
from pathlib import Path

import pytest

from tracksided.checkpoints.provenance import KIND
from tracksided.demo.results import find_results, wait_for_average
from tracksided.errors import OutputError


@pytest.fixture
def out(tmp_path: Path) -> Path:
    step = tmp_path / "run" / "step_20"
    step.mkdir(parents=True)
    lines = [{"step": 10, "folder": "step_10"}, {"step": 20, "folder": "step_20"}]
    history = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "run" / "history.jsonl").write_text(history)
    for layer in range(4):
        (step / f"decoder_layer{layer}_self_attn.png").write_bytes(b"")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for name in ("step_000010.pt", "step_000020.pt", "averaged_model.pt"):
        (checkpoints / name).write_bytes(b"")
    write_sources(tmp_path, ["step_000010.pt", "step_000020.pt"])
    return tmp_path


def write_sources(out: Path, names: list[str]) -> None:
    document = {"kind": KIND, "sources": [{"name": name} for name in names]}
    (out / "checkpoints" / "averaged_model.json").write_text(json.dumps(document))


def test_results_name_files_of_the_last_sampled_step(out: Path) -> None:
    results = find_results(out)

    assert results.num_sampled_steps == 2
    assert results.heat_map == out / "run" / "step_20" / "decoder_layer3_self_attn.png"
    assert [path.name for path in results.checkpoints] == ["step_000010.pt", "step_000020.pt"]
    assert results.averaged == ("step_000010.pt", "step_000020.pt")


def test_a_run_without_heat_maps_is_an_error(out: Path) -> None:
    for path in (out / "run" / "step_20").iterdir():
        path.unlink()

    with pytest.raises(OutputError, match="step_20 holds no heat map"):
        find_results(out)


def test_a_missing_history_is_an_error(out: Path) -> None:
    (out / "run" / "history.jsonl").unlink()

    with pytest.raises(OutputError, match=r"cannot read .*history\.jsonl: No such file"):
        find_results(out)


def test_waiting_ends_where_the_newest_checkpoint_is_in_the_average(out: Path) -> None:
    wait_for_average(out, timeout_s=0)


def test_an_average_of_older_checkpoints_is_not_enough(out: Path) -> None:
    write_sources(out, ["step_000010.pt"])

    with pytest.raises(OutputError, match=r"did not average step_000020\.pt within 0 s"):
        wait_for_average(out, timeout_s=0)
