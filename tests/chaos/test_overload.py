"""More than the workers can do: pictures go first, scalars never, and it ends by itself."""

import json
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from typed import trackside
from written import history, scalars, steps

pytestmark = pytest.mark.integration

FLOOD_STEPS = 150
SETTINGS = "[workers]\nshed_pictures_at = 4\nshed_statistics_at = 8\n"
RING_BYTES = 8 << 20


def flooded(shm_dir: Path, out: Path, run: str) -> FakeRank:
    rank = FakeRank(shm_dir, make_hello(out, run=run), ring_bytes=RING_BYTES)
    for step in range(1, FLOOD_STEPS + 1):
        rank.publish(step)
    return rank


def test_a_run_that_floods_the_workers_does_not_keep_them_from_the_others(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    # With everything published before the daemon starts, the first run has work all the time.
    ranks = [flooded(shm_dir, tmp_path / "first", "first")]
    ranks.append(FakeRank(shm_dir, make_hello(tmp_path / "second", run="second"), nonce="b"))
    for step in (1, 2, 3):
        ranks[1].publish(step)
    daemon.start()
    wait_until(lambda: steps(tmp_path / "second") == [1, 2, 3])

    assert len(steps(tmp_path / "first")) < FLOOD_STEPS

    for rank in ranks:
        rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert steps(tmp_path / "first") == list(range(1, FLOOD_STEPS + 1))


def test_overload_costs_pictures_then_statistics_never_scalars_and_passes(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    settings = tmp_path / "daemon.toml"
    settings.write_text(SETTINGS)
    rank = flooded(shm_dir, out, "flood")
    daemon.start("--config", str(settings))
    wait_until(lambda: len(steps(out)) == FLOOD_STEPS)
    wait_until(lambda: daemon.status["runs"][0]["committed_step"] == FLOOD_STEPS)
    (run,) = json.loads(trackside("status", "--json").stdout)["runs"]
    shown = trackside("status").stdout
    doctor = trackside("doctor").stdout
    rank.publish(FLOOD_STEPS + 1)  # the flood is over
    rank.close()
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    lines = history(out)
    shed = [line["shed"] for line in lines]
    assert {"pictures", "pictures and statistics"} <= set(shed)
    assert run["shed"] == sum(entry is not None for entry in shed)
    assert f"{run['shed']} steps without pictures" in shown
    assert "raise every=" in doctor
    for line in lines:
        pictures = list((out / line["folder"]).glob("*.png"))
        assert bool(pictures) == (line["shed"] is None)
        statistics = json.loads((out / line["folder"] / "statistics.json").read_text())
        assert bool(statistics["decoder"]) == (line["shed"] != "pictures and statistics")
    expected = [(step, 10.0 / step) for step in range(1, FLOOD_STEPS + 2)]
    found = scalars(out, "Training/Loss")
    assert found == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]
    assert shed[-1] is None
