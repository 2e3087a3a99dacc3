"""torchrun over two nodes, a daemon on each, one output directory that both see."""

from pathlib import Path

import pytest
from daemon_process import wait_until
from namespaces import Node, can_make_nodes
from two_node_job import RUN, two_node_job
from written import history, load, scalars

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_make_nodes(), reason="network namespaces need root and iproute2"),
]


def test_each_node_writes_what_its_ranks_say(
    nodes: tuple[Node, ...], memories: tuple[Path, Path], tmp_path: Path
) -> None:
    with two_node_job(nodes, memories, tmp_path) as job:
        out, checkpoints = job.out, job.checkpoints
        job.finish()

        for directory in (out, out / "node1"):
            wait_until((directory / "training_statistics.json").exists)
        wait_until(lambda: bool(load(out / "run.json")["averages"]))

    first, second = history(out), history(out / "node1")
    assert [line["step"] for line in first] == [line["step"] for line in second] == [2, 4, 6]
    assert {line["run"] for line in (*first, *second)} == {RUN}
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
