"""The classic example as a user starts it, with a real daemon."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from written import load, scalars, steps

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[3] / "examples" / "training_with_attention_example.py"


@pytest.fixture
def served(daemon: DaemonProcess) -> None:
    daemon.start()


@pytest.mark.usefixtures("served")
def test_the_example_says_where_its_outputs_are(tmp_path: Path, shm_dir: Path) -> None:
    arguments = ("--mode", "custom", "--steps", "60", "--out", str(tmp_path))

    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    wait_until(lambda: not list(shm_dir.glob("*.ring")))  # its final report is written
    out = tmp_path / "custom"
    assert f"outputs in {out}" in done.stdout
    assert "has not finished" not in done.stdout
    assert steps(out) == [1, 50]
    assert [step for step, _ in scalars(out, "Training/Loss")] == [1, 50]
    assert (out / "epoch_0_step_1" / "statistics.json").exists()
    folder = out / "step_50"
    statistics = load(folder / "statistics.json")
    assert [len(statistics[stack]) for stack in ("encoder", "decoder")] == [2, 4]
    assert statistics["gradients"]["parameters"]
    for name in ("encoder_layer1_self_attn_heads", "decoder_cross_layer_comparison"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "raw" / "decoder_layer1_self_attn.npz") as raw:
        weights = raw["weights"]
    assert weights.shape == (4, 8, 8)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.triu(weights, 1).any()  # the decoder is causal
