"""A training by torchrun over two nodes, two ranks each, with a daemon on each node."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from namespaces import INTERFACE, Node, torchrun

RUN = "two-nodes"
RANKS, RANKS_OF_NODE = 4, 2
STEPS = 6
HTTP_PORT = 9470  # of namespaces that are ours alone
TORCHRUN_PORT = 29517
TRAINER = f"""
import os, sys, time
import torch, trackside
import torch.distributed as dist
from torch import nn
run, checkpoints, end = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
with trackside.attach(model, optimizer, every=2, attention=False, save_dir=run,
                      checkpoints=checkpoints, autostart=False, ring_bytes=1 << 20):
    torch.manual_seed(1 + dist.get_rank())
    for step in range(1, {STEPS} + 1):
        model(torch.randn(5, 4)).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        if step % 2 == 0 and dist.get_rank() == 0:
            torch.save(model.module.state_dict(), f"{{checkpoints}}/step_{{step}}.pt")
    while not os.path.exists(end):
        time.sleep(0.05)
dist.destroy_process_group()
"""


class TwoNodeJob:
    """All of it runs; ranks stay after their last step until they are told to end."""

    def __init__(self, place: Path, launchers: Sequence[subprocess.Popen[bytes]]) -> None:
        self.out = place / "run"
        self.checkpoints = place / "checkpoints"
        self._place = place
        self._launchers = launchers

    def finish(self) -> None:
        """Let the ranks end, and wait for them."""
        (self._place / "end").touch()
        codes = [launcher.wait(timeout=150) for launcher in self._launchers]
        assert codes == [0, 0], (self._place / "node0.log").read_text()


@contextmanager
def two_node_job(
    nodes: Sequence[Node], memories: Sequence[Path], place: Path
) -> Iterator[TwoNodeJob]:
    """Start daemons, which serve HTTP to the other node, and the ranks; end them all."""
    script = place / "train.py"
    script.write_text(TRAINER)
    (place / "checkpoints").mkdir()
    words = [str(script), *(str(place / name) for name in ("run", "checkpoints", "end"))]
    daemons, launchers = [], []
    try:
        for index, (node, memory) in enumerate(zip(nodes, memories, strict=True)):
            daemons.append(start_daemon(node, memory, place / f"daemon{index}.toml"))
            environ = {
                "TRACKSIDE_SHM_DIR": str(memory),
                "GLOO_SOCKET_IFNAME": INTERFACE,
                "OMP_NUM_THREADS": "1",
            }
            launcher = torchrun(nodes, index, port=TORCHRUN_PORT, num_ranks=RANKS_OF_NODE, run=RUN)
            log = place / f"node{index}.log"
            launchers.append(node.start([*launcher, *words], environ, log))
        yield TwoNodeJob(place, launchers)
    finally:
        for process in (*launchers, *daemons):
            process.terminate()
            process.wait()


def start_daemon(node: Node, memory: Path, settings: Path) -> subprocess.Popen[bytes]:
    """Start a daemon that serves HTTP to the other nodes; its settings and its log lie together."""
    listen = f'listen = "{node.address}:{HTTP_PORT}"'
    settings.write_text(f"[http]\n{listen}\nallow_remote = true\n")
    command = [sys.executable, "-P", "-m", "tracksided", "daemon", "--config", str(settings)]
    return node.start(command, {"TRACKSIDE_SHM_DIR": str(memory)}, settings.with_suffix(".log"))
