"""The recipes for launchers, followed with real processes."""

import os
import re
import shlex
from pathlib import Path

import pytest
from claimed_lines import LAUNCHERS, ShellLine, claimed
from daemon_process import wait_until
from documents import ROOT
from guide import BIN, Guide, listings, shell_lines, the_run
from namespaces import INTERFACE, can_make_nodes, joined_nodes
from quoted import mistakes
from slurm import submit
from slurm_cluster import COMPUTING, Cluster
from slurm_cluster import why_not as why_not_a_cluster
from written import history, load, steps

from trackside.wire import segment

pytestmark = pytest.mark.integration

SUPPORT = ROOT / "tests" / "support"
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
def test_a_batch_job_has_a_daemon_on_each_node_and_one_run(
    script: str, run_id: str, cluster: Cluster | None, tmp_path: Path, shm_dir: Path
) -> None:
    Guide("docs/how-to/torchrun.md", tmp_path).save("train.py")
    job = Guide("docs/how-to/slurm.md", tmp_path).save(script)

    code, said = submit(job, {"PATH": f"{BIN}:{os.environ['PATH']}"}, cluster)

    assert code == 0, said
    run = the_run(tmp_path)
    assert re.fullmatch(run_id, run.name)
    ranks = {run: (0, 1)} if cluster is None else {run: (0, 1), run / "node1": (2, 3)}
    for outputs, written in ranks.items():
        assert written_ranks(outputs) == {written}
        assert [line["step"] for line in history(outputs)] == list(range(10, 51, 10))
        assert load(outputs / "training_statistics.json")["state"] == "finished"
    assert not list(tmp_path.glob("over-*"))
    assert segment.scan(shm_dir) == ()
    assert cluster is None or cluster.segments() == []


# A rank that publishes until it is ended, and says what it has published.
ENDLESS = """
import itertools, os, secrets, time
from pathlib import Path
from fake_trainer import FakeRank, make_hello
from trackside.wire.segment import ensure_node_directory, node_directory
name = f"rank{os.environ['SLURM_PROCID']}"
directory = node_directory(os.environ)
ensure_node_directory(directory)
rank = FakeRank(directory, make_hello(Path(name).absolute(), run=name), nonce=secrets.token_hex(8))
with open(f"{name}.txt", "w", buffering=1) as published:
    for step in itertools.count(1):
        published.write(f"{step} {rank.publish(step).value}\\n")
        time.sleep(0.2)
"""


def test_a_job_that_is_cancelled_is_written_to_its_end(
    cluster: Cluster | None, tmp_path: Path, shm_dir: Path
) -> None:
    """SLURM ends it as it ends one whose time is up."""
    if cluster is None:
        pytest.skip(f"only SLURM cancels jobs: {why_not_a_cluster() or 'not one of others'}")
    job = Guide("docs/how-to/slurm.md", tmp_path).save("ranks.sbatch")
    (tmp_path / "train.py").write_text(ENDLESS)
    outputs = [tmp_path / f"rank{rank}" for rank in range(4)]
    environ = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(SUPPORT)}

    number = cluster.start(job, environ)
    wait_until(lambda: all((out / "history.jsonl").exists() for out in outputs))
    cluster.type(f"scancel {number}", tmp_path, environ)
    cluster.wait(number)

    assert cluster.segments() == []
    for out in outputs:
        published = out.with_suffix(".txt").read_text().splitlines()
        assert {line.split()[1] for line in published} == {"published"}
        # One more may be published than the rank had time to say.
        assert len(steps(out)) - len(published) in {0, 1}
        assert steps(out) == list(range(1, len(steps(out)) + 1))
    assert not list(tmp_path.glob("over-*"))
    assert segment.scan(shm_dir) == ()


@claimed(f"{LAUNCHERS}::test_what_a_job_left_on_a_node_is_written_later")
def test_what_a_job_left_on_a_node_is_written_later(
    line: ShellLine, cluster: Cluster | None, tmp_path: Path, shm_dir: Path
) -> None:
    if cluster is None:
        pytest.skip(f"needs a node of SLURM: {why_not_a_cluster() or 'not one of others'}")
    leave = ENDLESS.replace("itertools.count(1)", "(1, 2, 3)")
    (tmp_path / "left.py").write_text(leave)
    environ = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(SUPPORT)}
    node = COMPUTING[1]
    cluster.type(f"srun --nodelist={node} python left.py", tmp_path, environ)
    left = cluster.segments()

    done = cluster.type(line.text.replace("NODE", node), tmp_path, environ)

    assert done.returncode == 0, done.stderr
    assert len(left) == 1
    assert steps(tmp_path / "rank0") == [1, 2, 3]
    assert cluster.segments() == []
    assert segment.scan(shm_dir) == ()
