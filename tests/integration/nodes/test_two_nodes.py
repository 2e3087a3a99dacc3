"""torchrun over two nodes, a daemon on each, one output directory that both see."""

import sys
from pathlib import Path

import pytest
from daemon_process import wait_until
from nodes import INTERFACE, Node, can_make_nodes
from written import history, load, scalars

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need root and iproute2"),
]

TRAINER = """
import sys
import torch, trackside
import torch.distributed as dist
from torch import nn
torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
with trackside.attach(model, optimizer, every=2, attention=False, save_dir=sys.argv[1],
                      checkpoints=sys.argv[2], autostart=False, ring_bytes=1 << 20):
    torch.manual_seed(1 + dist.get_rank())
    for step in range(1, 7):
        model(torch.randn(5, 4)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        if step % 2 == 0 and dist.get_rank() == 0:
            torch.save(model.module.state_dict(), f"{sys.argv[2]}/step_{step}.pt")
dist.destroy_process_group()
"""


def test_each_node_writes_what_its_ranks_say(
    nodes: tuple[Node, Node], memories: tuple[Path, Path], tmp_path: Path
) -> None:
    script, out = tmp_path / "train.py", tmp_path / "run"
    script.write_text(TRAINER)
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    daemons, launchers = [], []
    try:
        for index, (node, memory) in enumerate(zip(nodes, memories, strict=True)):
            environ = {
                "TRACKSIDE_SHM_DIR": str(memory),
                "GLOO_SOCKET_IFNAME": INTERFACE,
                "OMP_NUM_THREADS": "1",
            }
            daemon = [sys.executable, "-P", "-m", "tracksided", "daemon"]
            daemons.append(node.start(daemon, environ, tmp_path / f"daemon{index}.log"))
            launcher = [
                *(sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes=2", "--nproc-per-node=2"),
                *(f"--node-rank={index}", "--rdzv-backend=static", "--rdzv-id=two-nodes"),
                *(f"--master-addr={nodes[0].address}", "--master-port=29517"),
                *(str(script), str(out), str(checkpoints)),
            ]
            launchers.append(node.start(launcher, environ, tmp_path / f"node{index}.log"))

        codes = [launcher.wait(timeout=150) for launcher in launchers]

        assert codes == [0, 0], (tmp_path / "node0.log").read_text()
        for directory in (out, out / "node1"):
            wait_until((directory / "training_statistics.json").exists)
        wait_until(lambda: bool(load(out / "run.json")["averages"]))
    finally:
        for process in (*launchers, *daemons):
            process.terminate()
            process.wait()

    first, second = history(out), history(out / "node1")
    assert [line["step"] for line in first] == [line["step"] for line in second] == [2, 4, 6]
    assert {line["run"] for line in (*first, *second)} == {"two-nodes"}
    assert {line["world_size"] for line in (*first, *second)} == {4}
    for here, there in zip(first, second, strict=True):
        ranks = [entry["rank"] for line in (here, there) for entry in line["ranks"]]
        assert ranks == [0, 1, 2, 3]
        # After the all-reduce the gradient is one; losses and weights tell replicas from ranks.
        assert here["norm_before_clip"] == there["norm_before_clip"]
        entries = [*here["ranks"], *there["ranks"]]
        assert len({entry["loss"] for entry in entries}) == 4
        assert len({entry["weight_checksum"] for entry in entries}) == 1
    assert (
        load(out / "run.json")["state"] == load(out / "node1" / "run.json")["state"] == "finished"
    )
    assert len(scalars(out / "node1", "Training/Loss")) == 3
    (average,) = load(out / "run.json")["averages"]  # by the first node, and by no other
    assert average["sources"] == ["step_2.pt", "step_4.pt", "step_6.pt"]
    assert load(out / "node1" / "run.json")["averages"] == []
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        *("averaged_model.json", "averaged_model.pt"),
        *("step_2.pt", "step_4.pt", "step_6.pt"),
    ]
