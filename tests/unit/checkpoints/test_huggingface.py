"""The average of Hugging Face directories against numpy, and what does not count."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from debris import debris
from huggingface_directories import (
    SHARDS,
    TRAINING_FILES,
    StateDict,
    assert_mean,
    link_out,
    load,
    model,
    save_adapter,
    save_bin,
    save_bin_shards,
    save_shards,
    save_single,
    save_step,
)
from safetensors.torch import save_file

from tracksided.checkpoints.averaging import Averaging
from tracksided.checkpoints.job import AverageRequest, TooFewCheckpoints, Unchanged, run_average
from tracksided.checkpoints.naming import DIRECTORY_PROVENANCE
from tracksided.checkpoints.provenance import Provenance
from tracksided.checkpoints.shares import Crcs
from tracksided.errors import CheckpointError, OutputError, SettingsError


def run(out: Path, **options: object) -> Provenance:
    request = AverageRequest(directory=out, patterns=("checkpoint-*/",), **options)  # type: ignore[arg-type] # as given
    provenance = run_average(request)
    assert provenance is not None
    return provenance


def skipped(out: Path) -> Mapping[str, str]:
    return {entry.name: entry.reason for entry in run(out).skipped}


@pytest.mark.parametrize(
    "save", [save_single, save_shards, save_bin, save_bin_shards, save_adapter]
)
def test_the_average_is_the_mean_in_the_same_files(
    tmp_path: Path, save: Callable[[Path, StateDict], None]
) -> None:
    states = [save_step(tmp_path, step, save) for step in (900, 1000, 1100)]

    provenance = run(tmp_path)

    averaged = tmp_path / "averaged"
    assert_mean(load(averaged), states)
    newest = {path.name for path in (tmp_path / "checkpoint-1100").iterdir()}
    left_out = {*TRAINING_FILES, "global_step7", "trainer_state.json"}
    names = {path.name for path in averaged.iterdir()}
    assert names == (newest - left_out) | {DIRECTORY_PROVENANCE}
    assert set(provenance.dropped) == left_out
    assert (averaged / "tokenizer.json").read_text() == "tokenizer of 1100"
    assert [source.step for source in provenance.sources] == [900, 1000, 1100]
    described = json.loads((averaged / DIRECTORY_PROVENANCE).read_text())
    assert described == json.loads(json.dumps(provenance.to_json()))
    assert debris(tmp_path) == []


def test_index_header_owner_and_mode_are_those_of_the_newest(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    newest = tmp_path / "checkpoint-2"
    (newest / "config.json").chmod(0o640)
    newest.chmod(0o750)

    run(tmp_path)

    averaged = tmp_path / "averaged"
    index = "model.safetensors.index.json"
    assert (averaged / index).read_bytes() == (newest / index).read_bytes()
    shard = next(iter(SHARDS))
    expected, found = (newest / shard).read_bytes(), (averaged / shard).read_bytes()
    header = 8 + struct.unpack("<Q", expected[:8])[0]
    assert found[:header] == expected[:header]
    assert (averaged / "config.json").stat().st_mode & 0o777 == 0o640
    assert averaged.stat().st_mode & 0o777 == 0o750


def test_a_new_average_replaces_the_old_one_and_is_never_a_source(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2)]
    (tmp_path / "checkpoint-2" / "stale.txt").write_text("of the average before")
    run(tmp_path)
    assert (tmp_path / "averaged" / "stale.txt").exists()
    shutil.copytree(tmp_path / "averaged", tmp_path / "checkpoint-9")
    states.append(save_step(tmp_path, 3))

    provenance = run(tmp_path)

    assert len(provenance.sources) == 3
    assert_mean(load(tmp_path / "averaged"), states)
    assert not (tmp_path / "averaged" / "stale.txt").exists()
    assert debris(tmp_path) == []


def test_the_same_sources_are_not_averaged_again_if_the_output_is_whole(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    made = run(tmp_path)
    request = AverageRequest(directory=tmp_path, patterns=("checkpoint-*/",), keep_current=True)

    found = run_average(request)

    assert isinstance(found, Unchanged)
    assert found.provenance["output_digest"] == made.output_digest
    assert found.skipped == ()
    (tmp_path / "averaged" / next(iter(SHARDS))).unlink()
    assert isinstance(run_average(request), Provenance)


def test_without_the_state_that_comes_last_a_directory_of_the_trainer_waits(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3, 4):
        save_step(tmp_path, step)
    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()
    state = (tmp_path / "checkpoint-4" / "trainer_state.json").read_text()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(state[:-1])

    reasons = skipped(tmp_path)

    assert "no trainer_state.json" in reasons["checkpoint-3"]
    assert "trainer_state.json: is no complete JSON" in reasons["checkpoint-4"]


def test_directories_without_any_trainer_count_and_are_ordered_by_their_names(
    tmp_path: Path,
) -> None:
    for step in (30, 200, 1000):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        save_single(directory, model(step))

    provenance = run(tmp_path, count=2)

    assert [source.step for source in provenance.sources] == [200, 1000]


def test_a_name_without_a_step_is_ordered_by_the_state(tmp_path: Path) -> None:
    for name, step in (("best", 30), ("earlier", 7)):
        save_step(tmp_path, step, name=name)

    provenance = run_average(AverageRequest(directory=tmp_path, patterns=("*/",)))

    assert provenance is not None
    assert [source.name for source in provenance.sources] == ["earlier", "best"]


def test_a_link_to_a_checkpoint_counts_once(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    (tmp_path / "checkpoint-best").symlink_to("checkpoint-2")

    provenance = run(tmp_path)

    assert len(provenance.sources) == 2
    assert "is the same file as" in provenance.skipped[0].reason


def rewrite_index(directory: Path, change: Mapping[str, str]) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= change
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d: rewrite_index(d, {"embed": "../outside.safetensors"}), "'../outside"),
        (lambda d: rewrite_index(d, {"embed": "/x.safetensors"}), "'/x.safetensors' names no file"),
        (lambda d: rewrite_index(d, {"embed": "config.json"}), "'config.json', which is no"),
        (lambda d: rewrite_index(d, {"embed": ".."}), "'..', which is no"),
        (lambda d: rewrite_index(d, {"embed": "gone.safetensors"}), "gone.safetensors: cannot be"),
        (lambda d: rewrite_index(d, {"embed": "\x1b/.safetensors"}), r"'\x1b/.safetensors' names"),
        (lambda d: rewrite_index(d, {"embed": "0\ud800.safetensors"}), "names no file inside"),
        (lambda d: rewrite_index(d, {"embed": "x" * 256}), "x" * 100 + "...', which is no"),
        (lambda d: rewrite_index(d, {"embed": f"{'0' * 256}.safetensors"}), "...' names no file"),
        (lambda d: rewrite_index(d, {"embed": ["x"] * 999}), "names something else than a text"),
        (lambda d: rewrite_index(d, {"n" * 9999: next(iter(SHARDS))}), "n" * 100 + "...' in model"),
        (lambda d: rewrite_index(d, {"new": next(iter(SHARDS))}), "places 'new' in model-00001"),
        (lambda d: rewrite_index(d, {"embed": list(SHARDS)[1]}), "does not place 'embed'"),
        (lambda d: (d / next(iter(SHARDS))).unlink(), "model-00001-of-00002.safetensors: cannot"),
        (lambda d: os.truncate(d / next(iter(SHARDS)), 100), "model-00001-of-00002.safetensors"),
        (lambda d: (d / "model.safetensors.index.json").unlink(), "its shards have no index"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{"), "is no complete JSON"),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "has no weight_map"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text("[" + "[]," * 10_000 + "[]]"),
            "nests lists or objects",
        ),
        (lambda d: link_out(d, next(iter(SHARDS))), "a link that leaves the directory"),
        (lambda d: link_out(d, "config.json"), "config.json: a link that leaves the directory"),
        (lambda d: [p.unlink() for p in d.glob("model*")], "holds no weights"),
    ],
)
def test_an_incomplete_or_hostile_directory_is_skipped_by_name(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    damage(tmp_path / "checkpoint-3")

    reasons = skipped(tmp_path)

    assert reason in reasons["checkpoint-3"]
    assert_mean(load(tmp_path / "averaged"), [model(1), model(2)])


def test_what_no_format_needs_and_is_no_file_of_its_own_is_left_out(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2)]
    (tmp_path / "secret").write_text("not for the average")
    newest = tmp_path / "checkpoint-2"
    os.mkfifo(newest / "pipe")
    (newest / "out.json").symlink_to("../secret")
    (newest / "dangling.json").symlink_to("gone.json")
    (newest / "same.json").symlink_to("config.json")

    provenance = run(tmp_path)

    assert_mean(load(tmp_path / "averaged"), states)
    assert {"pipe", "out.json", "dangling.json"} <= set(provenance.dropped)
    names = {path.name for path in (tmp_path / "averaged").iterdir()}
    assert not names & {"pipe", "out.json", "dangling.json"}
    assert (tmp_path / "averaged" / "same.json").read_bytes() == (
        newest / "config.json"
    ).read_bytes()


def test_a_link_inside_of_the_directory_is_followed(tmp_path: Path) -> None:
    states = [save_step(tmp_path, step, save_single) for step in (1, 2)]
    newest = tmp_path / "checkpoint-2"
    (newest / "model.safetensors").rename(newest / "blob")
    (newest / "model.safetensors").symlink_to("blob")

    run(tmp_path)

    assert_mean(load(tmp_path / "averaged"), states)


def test_nan_in_a_shard_names_directory_shard_and_tensor(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step)
    state = model(2)
    state["head"][0, 0] = float("nan")
    save_shards(tmp_path / "checkpoint-2", state)

    assert skipped(tmp_path)["checkpoint-2"] == (
        "model-00002-of-00002.safetensors: NaN or infinity in tensor 'head'"
    )


def test_directories_deleted_while_they_are_read_still_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2, 3)]

    run_kernel = Averaging.run

    def rotate_then_average(*args: Any, **options: Any) -> Crcs:
        for path in tmp_path.glob("checkpoint-*"):
            shutil.rmtree(path)
        return run_kernel(*args, **options)

    monkeypatch.setattr(Averaging, "run", rotate_then_average)
    run(tmp_path)

    assert_mean(load(tmp_path / "averaged"), states)


def test_a_foreign_directory_of_the_output_name_is_left_alone(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    foreign = tmp_path / "averaged"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")

    with pytest.raises(OutputError, match="exists and is no average"):
        run(tmp_path)

    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("given", "made"), [("mine.pt", "mine"), ("soup", "soup")])
def test_the_output_of_directories_has_no_suffix(tmp_path: Path, given: str, made: str) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)

    assert run(tmp_path, output_name=given).output == made
    assert (tmp_path / made / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("checkpoint-99", "rotation deletes"),
        ("step-99", "torchtitan deletes, and loads"),
        ("average-of-step-9", "torchtitan deletes, and loads"),
    ],
)
def test_an_output_named_like_a_checkpoint_is_refused(
    tmp_path: Path, name: str, reason: str
) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)

    with pytest.raises(SettingsError, match=reason):
        run(tmp_path, output_name=name)


def test_a_single_directory_is_too_few(tmp_path: Path) -> None:
    save_step(tmp_path, 1)

    with pytest.raises(TooFewCheckpoints, match="1 usable checkpoints match checkpoint-"):
        run(tmp_path)


def test_other_shapes_are_skipped_by_directory_name(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, step, save_single)
    save_single(tmp_path / "checkpoint-2", {**model(2), "embed": torch.ones(2, 2)})

    assert "shape of 'embed' is [2, 2], [6, 4]" in skipped(tmp_path)["checkpoint-2"]


def test_float8_in_directories_is_refused(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(
            tmp_path,
            step,
            lambda d, _: save_file(
                {"w": torch.ones(2).to(torch.float8_e4m3fn)}, d / "model.safetensors"
            ),
        )

    with pytest.raises(CheckpointError, match="float8"):
        run(tmp_path)


def test_a_copy_of_a_directory_counts_once(tmp_path: Path) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-best")

    provenance = run(tmp_path)

    assert len(provenance.sources) == 2
    assert "is a copy of checkpoint-" in provenance.skipped[0].reason


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_long_state_is_not_parsed_but_must_be_whole(tmp_path: Path, *, is_whole: bool) -> None:
    for step in (1, 2):
        save_step(tmp_path, step, name="run_of_{step}")
    log = [{"loss": float("nan"), "step": step} for step in range(30_000)]
    for step in (1, 2, 3):
        directory = tmp_path / f"run_of_{step}"
        if step == 3:
            save_step(tmp_path, step, name="run_of_{step}")
        state = json.dumps({"global_step": 500 + step, "log_history": log}, indent=2)
        cut = state if is_whole or step < 3 else state[: state.rindex(",")]
        (directory / "trainer_state.json").write_text(cut)

    provenance = run_average(AverageRequest(directory=tmp_path, patterns=("*/",)))

    assert provenance is not None
    assert len(provenance.sources) == (3 if is_whole else 2)
    assert provenance.step == (503 if is_whole else 502)


def test_a_file_beside_the_weights_that_changes_meanwhile_costs_the_directory_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [save_step(tmp_path, step) for step in (1, 2, 3)]

    run_kernel = Averaging.run

    def write_then_average(*args: Any, **options: Any) -> Crcs:
        (tmp_path / "checkpoint-3" / "config.json").write_text("{")
        return run_kernel(*args, **options)

    monkeypatch.setattr(Averaging, "run", write_then_average)

    assert "config.json: " in skipped(tmp_path)["checkpoint-3"]
    assert_mean(load(tmp_path / "averaged"), states[:2])
