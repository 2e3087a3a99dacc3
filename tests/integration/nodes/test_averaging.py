"""An average that ranks on several nodes make together is that of one process."""

import json
from pathlib import Path

import pytest
import torch
from namespaces import INTERFACE, can_make_nodes, joined_nodes, torchrun

from tracksided.checkpoints.job import AverageRequest, run_average

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need root and iproute2"),
]

NODES = 3
PORT = 29518


def save(directory: Path) -> None:
    directory.mkdir()
    for step in (1, 2, 3):
        torch.manual_seed(step)
        torch.save({"w": torch.randn(900, 700), "n": torch.tensor(step)}, directory / f"{step}.pt")


def test_three_nodes_publish_the_bytes_of_one_process(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    for directory in (one, many):
        save(directory)
    assert run_average(AverageRequest(directory=one, patterns=("*.pt",))) is not None

    with joined_nodes(NODES) as nodes:
        environ = {"GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"}
        logs = [tmp_path / f"node{index}.log" for index in range(NODES)]
        ranks = [
            node.start(
                [*torchrun(nodes, index, port=PORT), "-m", "tracksided.average", str(many)],
                environ,
                logs[index],
            )
            for index, node in enumerate(nodes)
        ]
        codes = [rank.wait(timeout=150) for rank in ranks]

    assert codes == [0] * NODES, logs[0].read_text()
    average = (many / "averaged_model.pt").read_bytes()
    assert average == (one / "averaged_model.pt").read_bytes()
    sources = [torch.load(many / f"{step}.pt")["w"].double() for step in (1, 2, 3)]
    mean = torch.stack(sources).mean(0).float()
    assert torch.load(many / "averaged_model.pt")["w"].allclose(mean)
    assert json.loads((many / "averaged_model.json").read_text())["ranks"] == NODES
