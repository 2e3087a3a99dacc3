"""The recipes for trainers: script saved, line typed, and outputs held against the page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from daemon_process import wait_until
from documents import blocks
from guide import Guide, listings, shell_lines, the_run
from quoted import mistakes
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel
from written import history, load, steps

from trackside.wire import segment

pytestmark = pytest.mark.integration

TRACKSIDE_RUN = "trackside run -- python train.py"
Follow = Callable[..., Guide]
RESUMED = """
import torch
import trackside
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
state = {state}
{block}
for _ in range(30):
    model(torch.ones(2, 4)).mean().backward()
    optimizer.step()
"""


@pytest.fixture
def follow(shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Follow:
    """Saves `train.py`, types the line that trains, and looks for all that the page lists."""
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 22))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def by_page(name: str, line: str = TRACKSIDE_RUN) -> Guide:
        page = Guide(name, tmp_path)
        page.save("train.py")
        done = page.type(line)
        assert done.returncode == 0, done.stderr
        (tree,) = listings(name, "tree")
        assert mistakes(tree, tmp_path) == []
        assert segment.scan(shm_dir) == ()
        return page

    return by_page


def modules(run: Path, step: int) -> list[str]:
    """Return the modules whose attention was drawn at a step."""
    found = load(run / f"step_{step}" / "statistics.json")
    return [entry["module"] for entry in (*found["encoder"], *found["decoder"])]


def sources(average: Path) -> list[str]:
    return [source["name"] for source in load(average)["sources"]]


def mean_of(paths: list[Path]) -> dict[str, torch.Tensor]:
    """Return the mean of checkpoints, key by key, in float64."""
    whole = [load_file(path) if path.suffix == ".safetensors" else weights(path) for path in paths]
    return {key: torch.stack([state[key].double() for state in whole]).mean(0) for key in whole[0]}


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    found: dict[str, torch.Tensor] = content.get("state_dict", content)
    return found


def test_the_loop_by_hand(follow: Follow, tmp_path: Path) -> None:
    page = follow("docs/how-to/pytorch.md")

    run, checkpoints = tmp_path / "outputs", tmp_path / "checkpoints"
    # Each 20th of 120 steps, and the first of the epochs 1 and 4 of 30 steps each.
    assert {path.name for path in run.iterdir() if "step_" in path.name} == {
        *(f"step_{step}" for step in (20, 40, 60, 80, 100, 120)),
        *("epoch_1_step_1", "epoch_4_step_91"),
    }
    assert steps(run) == [1, 20, 40, 60, 80, 91, 100, 120]
    assert [line["epoch"] for line in history(run)] == [1, 1, 2, 2, 3, 4, 4, 4]
    assert {key for line in history(run) for key in line["logged"]} == {"accuracy"}
    assert modules(run, 20) == ["layer.self_attn"]
    totals = load(run / "training_statistics.json")
    assert (totals["state"], totals["dropped"]) == ("finished", {})
    assert sources(checkpoints / "averaged_model.json") == [f"epoch_{i}.pt" for i in (1, 2, 3, 4)]
    expected = mean_of(sorted(checkpoints.glob("epoch_*.pt")))
    torch.testing.assert_close(
        weights(checkpoints / "averaged_model.pt"), expected, check_dtype=False
    )

    report = page.type("trackside report -o outputs")
    with page.tensorboard() as server:
        wait_until(lambda: "tensorboard" in server.get("runs"))
        accuracy = server.scalars("tensorboard", "Custom/accuracy")

    assert report.returncode == 0, report.stderr
    assert re.search(r"^  step +120 of ", report.stdout, re.MULTILINE)
    assert accuracy[-1][0] == 120


def test_a_loop_by_hand_that_is_resumed(tmp_path: Path, shm_dir: Path) -> None:
    (block,) = (
        block.text
        for block in blocks("python")
        if block.page == "docs/how-to/pytorch.md" and block.title is None
    )
    page = Guide("docs/how-to/pytorch.md", tmp_path)
    # The second try goes on from a checkpoint at 20 of the 30 steps of the first.
    for done in (0, 20):
        script = RESUMED.format(state={"step": done, "epoch": 1}, block=block)
        (tmp_path / "train.py").write_text(script)
        said = page.type(TRACKSIDE_RUN, {"TRACKSIDE_EVERY": "10"})
        assert said.returncode == 0, said.stderr

    run = the_run(tmp_path)
    assert run.name == "reverser"
    assert [line["step"] for line in history(run)] == [10, 20, 30, 30, 40, 50]
    assert {line["epoch"] for line in history(run)} == {1}
    assert segment.scan(shm_dir) == ()


def test_hugging_face(follow: Follow, tmp_path: Path) -> None:
    follow("docs/how-to/huggingface.md")

    run, checkpoints = the_run(tmp_path), tmp_path / "checkpoints"
    assert steps(run) == [10, 20, 30, 40]
    assert modules(run, 10) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    names = [f"checkpoint-{step}" for step in (10, 20, 30, 40)]
    assert sources(checkpoints / "averaged" / "averaging.json") == names
    mean = mean_of([checkpoints / name / "model.safetensors" for name in names])
    averaged = checkpoints / "averaged"
    loaded = GPT2LMHeadModel.from_pretrained(averaged).state_dict()
    torch.testing.assert_close({key: loaded[key] for key in mean}, mean, check_dtype=False)


def test_lightning(follow: Follow, tmp_path: Path) -> None:
    follow("docs/how-to/lightning.md")

    run, checkpoints = the_run(tmp_path), tmp_path / "checkpoints"
    assert steps(run) == [10, 20, 30, 40]
    assert modules(run, 10) == ["layer.self_attn"]
    assert len(sources(checkpoints / "averaged_model.json")) == 4
    expected = mean_of(sorted(checkpoints.glob("*.ckpt")))
    torch.testing.assert_close(
        weights(checkpoints / "averaged_model.pt"), expected, check_dtype=False
    )


def test_accelerate(follow: Follow, tmp_path: Path) -> None:
    page = "docs/how-to/accelerate.md"
    (line,) = (line for line in shell_lines(page) if "train.py" in line)
    follow(page, line)

    run = the_run(tmp_path)
    assert steps(run) == [10, 20, 30, 40]
    assert modules(run, 10) == ["layer.self_attn"]
    assert load(run / "run.json")["config"] == {"lr": 1e-3}
