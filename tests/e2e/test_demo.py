"""`trackside demo` as a user starts it: real ranks, real daemon, real files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from claimed_lines import DEMO, lines_of
from made import Copy

# A minute alone on two cores; the limit is for machines that do other things too.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEPS = 60
SAMPLED = list(range(6, STEPS + 1, 6))
NUM_LAYERS = 4
DEADLINE_S = 240.0
COMMAND = [sys.executable, "-m", "tracksided", "demo", "--steps"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the shortest demo once; return its output directory and what it printed."""
    (line,) = {line.text for line in lines_of(DEMO)}
    copy = Copy.make(tmp_path_factory.mktemp("demo") / "trackside")
    done = copy.type(line, {"DEMO_ARGS": f"--steps {STEPS} --out tour"})
    return copy.directory / "tour", done.stdout


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_sampled_step_has_one_line_of_history(demo: tuple[Path, str]) -> None:
    out, _ = demo

    lines = [json.loads(line) for line in (out / "run" / "history.jsonl").read_text().splitlines()]

    assert [line["step"] for line in lines] == SAMPLED
    # Uniform over 256 bytes is 5.55 nats: every loss after some steps is below it.
    assert all(0 < line["loss"] < 5.6 for line in lines)


def test_every_sampled_step_has_its_maps_and_statistics(demo: tuple[Path, str]) -> None:
    out, _ = demo

    for step in SAMPLED:
        folder = out / "run" / f"step_{step}"
        maps = {f"decoder_layer{layer}_self_attn.png" for layer in range(NUM_LAYERS)}
        assert maps | {"gradient_flow.png"} <= {path.name for path in folder.iterdir()}
        statistics = read_json(folder / "statistics.json")
        assert statistics["metadata"]["step"] == step
        assert statistics["metadata"]["world_size"] == 2
        assert [rank["rank"] for rank in statistics["ranks"]] == [0, 1]
        assert [layer["shape"] for layer in statistics["decoder"]] == [[4, 128, 128]] * NUM_LAYERS


def test_the_totals_say_that_nothing_was_lost(demo: tuple[Path, str]) -> None:
    out, _ = demo

    totals = read_json(out / "run" / "training_statistics.json")

    assert totals["processed"] == len(SAMPLED)
    assert not any(totals["dropped"].values())
    assert list((out / "run" / "tensorboard").glob("events.out.tfevents*"))


def test_the_average_is_the_mean_of_the_newest_five_checkpoints(demo: tuple[Path, str]) -> None:
    out, _ = demo
    saved = sorted((out / "checkpoints").glob("step_*.pt"))
    newest = [torch.load(path, weights_only=True) for path in saved[-5:]]

    average = torch.load(out / "checkpoints" / "averaged_model.pt", weights_only=True)
    sources = read_json(out / "checkpoints" / "averaged_model.json")["sources"]

    assert len(saved) >= 5
    assert saved[-1].name == f"step_{STEPS:06d}.pt"
    assert [source["name"] for source in sources] == [path.name for path in saved[-5:]]
    assert average.keys() == newest[0].keys()
    for name, tensor in average.items():
        expected = np.mean([state[name].double().numpy() for state in newest], axis=0)
        # One rounding to float32; the absolute part is for sums that nearly cancel.
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-7, atol=1e-12)


def test_the_summary_names_files_that_are_there(demo: tuple[Path, str]) -> None:
    out, said = demo

    named = re.findall(r"(tour/\S+)", said)

    assert len(named) >= 5
    assert all((out.parent / name).exists() for name in named)
    assert re.search(r"held-out loss +\d\.\d{4} nats per byte: step_000060\.pt", said)
    assert re.search(r"\d\.\d{4} nats per byte: averaged_model\.pt", said)


def test_the_command_itself_imports_no_torch() -> None:
    check = "import sys, tracksided.cli.demo; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_an_interrupted_demo_ends_all_its_processes_and_frees_its_memory(tmp_path: Path) -> None:
    with subprocess.Popen(
        # What starts in the background of a script has SIGINT ignored, and hands that on.
        ["env", "--default-signal=INT", *COMMAND, "100000", "--out", str(tmp_path / "tour")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        family = wait_for_ranks(demo)
        memory = next(
            Path(argument).parent
            for process in family
            for argument in process.cmdline()
            if argument.endswith("demo.toml")
        )
        assert memory.is_dir()

        os.kill(demo.pid, signal.SIGINT)
        _, said = demo.communicate(timeout=DEADLINE_S)

    assert demo.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    assert not memory.exists()
    _, alive = psutil.wait_procs(family, timeout=DEADLINE_S)
    assert not alive


def wait_for_ranks(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return all descendants once both ranks have opened their segments."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert demo.poll() is None, demo.communicate()
        family = psutil.Process(demo.pid).children(recursive=True)
        rings = {path for process in family for path in maps_of(process) if path.endswith(".ring")}
        if len(rings) == 2:
            return family
        time.sleep(0.05)
    pytest.fail("the ranks did not start")


def maps_of(process: psutil.Process) -> list[str]:
    try:
        return [entry.path for entry in process.memory_maps()]
    except psutil.Error:
        return []  # it has just ended, or is not up yet
