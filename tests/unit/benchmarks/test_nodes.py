"""What the benchmark of several nodes makes of its measurements."""

import argparse

import nodes
import pytest
from figures import Spread
from nodes_averaging import Average
from nodes_job import Scrape, StepTime


def steps(*milliseconds: float, cpu: float = 0.5) -> list[StepTime]:
    return [StepTime(wall, cpu * wall) for wall in milliseconds]


def test_step_times_are_compared_within_rounds() -> None:
    bare = {1: steps(10.0, 20.0, 40.0), 2: steps(30.0, 60.0, 120.0)}
    watched = {1: steps(11.0, 22.0, 44.0), 2: steps(30.0, 90.0, 120.0, cpu=0.6)}

    one, two = nodes.steps_table(bare, watched).rows

    assert (one["nodes"], two["nodes"]) == (1, 2)
    assert one["bare"] == Spread(20.0, 15.0, 30.0)
    assert one["ratio"].median == pytest.approx(1.1)
    assert one["to_one"] == Spread(1.0, 1.0, 1.0)
    assert two["ratio"].median == pytest.approx(1.0)
    assert two["ratio"].high == pytest.approx(1.5)
    assert one["cpu_ratio"].median == pytest.approx(1.1)
    assert two["cpu_ratio"].median == pytest.approx(1.2)
    assert two["to_one"] == Spread(3.0, 3.0, 3.0)


def test_each_daemon_is_compared_with_that_of_one_node_alone() -> None:
    cpu_ms = {1: [[40.0], [50.0], [60.0]], 2: [[80.0, 20.0], [100.0, 25.0], [120.0, 30.0]]}
    scrape = Scrape(num_bytes=900, num_series=40, seconds=[0.02])
    second = Scrape(num_bytes=700, num_series=30, seconds=[0.01, 0.03, 0.05])
    scrapes = {1: [scrape], 2: [scrape, second]}

    rows = nodes.daemons_table(cpu_ms, scrapes).rows

    assert [row["where"] for row in rows] == ["node 1 of 1", "node 1 of 2", "node 2 of 2"]
    assert [row["to_one"] for row in rows] == [1.0, 2.0, 0.5]
    assert [row["num_bytes"] for row in rows] == [900, 900, 700]
    assert rows[2]["cpu_ms"] == Spread(25.0, 22.5, 27.5)
    assert rows[2]["scrape_ms"] == Spread(30.0, 20.0, 40.0)


def test_averages_are_compared_with_one_process_without_their_start() -> None:
    found = {
        0: [Average(2.0, 0.5, "a"), Average(2.5, 1.0, "a")],
        3: [Average(9.0, 0.25, "a"), Average(10.0, 0.5, "a")],
    }

    one, ranks = nodes.averages_table(found).rows

    assert one["who"] == "`trackside average`, one process"
    assert ranks["who"] == "torchrun, 3 nodes with a rank each"
    assert ranks["seconds"].median == 9.5
    assert ranks["to_one"] == Spread(0.5, 0.5, 0.5)


def test_without_root_it_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "can_make_nodes", lambda: False)

    with pytest.raises(SystemExit, match="run it as root, with iproute2 installed"):
        nodes.measure(argparse.Namespace())


def test_blocks_that_would_differ_in_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "can_make_nodes", lambda: True)

    with pytest.raises(SystemExit, match="--steps 25 is no multiple of --every 10"):
        nodes.measure(argparse.Namespace(steps=25, every=10))
