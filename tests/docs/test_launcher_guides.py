"""The quick start and the recipes for launchers, followed with real processes."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from guide import BIN, Guide, shell_lines, the_run
from slurm import submit
from torch.distributed.run import get_args_parser
from written import history, load

from trackside.wire import segment

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of a reader need not be told."""
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 22))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def written_ranks(run: Path) -> set[tuple[int, ...]]:
    """Return which ranks the lines of a history name."""
    return {tuple(entry["rank"] for entry in line["ranks"]) for line in history(run)}


@pytest.mark.usefixtures("shm_dir")
def test_the_quick_start_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Guide("docs/quickstart.md", tmp_path)
    page.save("train.py")
    monkeypatch.setenv("TRACKSIDE_SAVE_RAW", "1")

    done = page.type("trackside run -- python train.py")

    assert done.returncode == 0, done.stderr
    # A machine that is busy lets the reader wait, and says so.
    assert re.fullmatch(r"(trackside: waiting .*\n)?", done.stderr)
    losses = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert re.fullmatch(r"(step \d+ loss \d+\.\d{3}\n){10}", done.stdout)
    assert losses[-1] < 0.1 < losses[0]
    run = the_run(tmp_path)
    for step in range(10, 101, 10):
        assert (run / f"step_{step}" / "encoder_layer0_self_attn.png").exists()
    for name in ("history.jsonl", "run.json", "final_report.md", "final_report.png"):
        assert (run / name).stat().st_size > 0
    assert (run / "alerts.jsonl").exists()
    # Position i is written from position 11 - i: the diagonal that the reader is shown.
    with np.load(run / "step_100" / "raw" / "encoder_layer0_self_attn.npz") as raw:
        looked_at = raw["weights"].mean(0).argmax(-1)
    assert looked_at.tolist() == list(range(11, -1, -1))


def test_torchrun_on_one_node(tmp_path: Path, shm_dir: Path) -> None:
    page = Guide("docs/how-to/torchrun.md", tmp_path)
    page.save("train.py")

    done = page.type("trackside run -- torchrun --standalone --nproc-per-node=2 train.py")

    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    assert [line["step"] for line in history(run)] == list(range(10, 51, 10))
    assert written_ranks(run) == {(0, 1)}
    assert load(run / "training_statistics.json")["state"] == "finished"
    assert segment.scan(shm_dir) == ()


def test_torchrun_understands_the_line_for_several_nodes() -> None:
    lines = shell_lines("docs/how-to/torchrun.md")
    (words,) = (line.split() for line in lines if "--nnodes=2" in line)

    known = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])

    assert (known.nnodes, known.nproc_per_node, known.rdzv_backend) == ("2", "2", "c10d")
    assert known.training_script == "train.py"


@pytest.mark.parametrize(
    ("script", "run_id"), [("torchrun.sbatch", r"train-\d+"), ("ranks.sbatch", r"slurm-\d+\.\d+")]
)
def test_a_batch_job_has_one_daemon_and_one_run(
    script: str, run_id: str, tmp_path: Path, shm_dir: Path
) -> None:
    Guide("docs/how-to/torchrun.md", tmp_path).save("train.py")
    job = Guide("docs/how-to/slurm.md", tmp_path).save(script)

    code, said = submit(job, {"PATH": f"{BIN}:{os.environ['PATH']}"})

    assert code == 0, said
    run = the_run(tmp_path)
    assert re.fullmatch(run_id, run.name)
    assert written_ranks(run) == {(0, 1)}
    assert [line["step"] for line in history(run)] == list(range(10, 51, 10))
    assert load(run / "training_statistics.json")["state"] == "finished"
    assert not list(tmp_path.glob("over-*"))
    assert segment.scan(shm_dir) == ()
