"""The recipes for launchers, followed with real processes."""

import os
import re
import shlex
from pathlib import Path

import pytest
from guide import BIN, Guide, listings, shell_lines, the_run
from namespaces import INTERFACE, can_make_nodes, joined_nodes
from quoted import mistakes
from slurm import submit
from written import history, load

from trackside.wire import segment

pytestmark = pytest.mark.integration
needs_nodes = pytest.mark.skipif(
    not can_make_nodes(), reason="network namespaces need root and iproute2"
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine of a reader need not be told."""
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 22))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def written_ranks(run: Path) -> set[tuple[int, ...]]:
    """Return which ranks the lines of a history name."""
    return {tuple(entry["rank"] for entry in line["ranks"]) for line in history(run)}


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


@needs_nodes
def test_torchrun_on_two_nodes(tmp_path: Path, shm_dir: Path) -> None:
    page = Guide("docs/how-to/torchrun.md", tmp_path)
    page.save("train.py")
    (line,) = (line for line in shell_lines(page.page) if "--nnodes=2" in line)
    with joined_nodes(2) as nodes:
        typed = line.replace("HOST", nodes[0].address)
        started = []
        for index, node in enumerate(nodes):
            memory = shm_dir / str(index)
            memory.mkdir(mode=0o700)
            environ = {
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "TRACKSIDE_SHM_DIR": str(memory),
                "GLOO_SOCKET_IFNAME": INTERFACE,
                # A node that can look its own name up finds out that it is HOST.
                "PET_RDZV_CONF": f"is_host={index == 0}",
                "PET_LOCAL_ADDR": node.address,
            }
            command = ["bash", "-c", f"cd {shlex.quote(str(tmp_path))} && {typed}"]
            started.append(node.start(command, environ, tmp_path / f"node{index}.log"))

        try:
            codes = [process.wait(timeout=150) for process in started]
        finally:
            for process in started:
                process.kill()

    assert codes == [0, 0], (tmp_path / "node0.log").read_text()
    (tree,) = listings(page.page, "tree")
    assert mistakes(tree, tmp_path) == []
    run = tmp_path / "trackside_logs" / "reverser-1"
    assert (written_ranks(run), written_ranks(run / "node1")) == ({(0, 1)}, {(2, 3)})
    # Attention comes from rank 0.
    assert load(run / "step_10" / "statistics.json")["encoder"]
    assert not load(run / "node1" / "step_10" / "statistics.json")["encoder"]
    assert [segment.scan(memory) for memory in shm_dir.iterdir()] == [(), ()]


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
