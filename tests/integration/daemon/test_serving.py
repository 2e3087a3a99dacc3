"""What the daemon makes of records: files, once each, whatever happens in between."""

import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_arrays, make_hello
from PIL import Image
from web_site import answers, free_port
from written import history, load, scalars, steps

pytestmark = pytest.mark.integration

TRAINER = Path(__file__).parents[2] / "support" / "fake_trainer.py"


def is_empty(directory: Path) -> bool:
    return not list(directory.glob("*.ring"))


def test_step_is_written_as_the_contract_says(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, save_raw=True))
    for step in (10, 20):
        rank.publish(step)
    rank.close(steps=25)
    wait_until(lambda: is_empty(shm_dir))

    assert steps(out) == [10, 20]
    statistics = load(out / "step_20" / "statistics.json")
    assert statistics["metadata"]["loss"] == 0.5
    (layer,) = statistics["decoder"]
    arrays = make_arrays(20, with_attention=True)
    weights = causal_attention(arrays["attention/0/query"], arrays["attention/0/key"], 0.5)
    with np.load(out / "step_20" / "raw" / "decoder_layer0_self_attn.npz") as raw:
        np.testing.assert_allclose(raw["weights"], weights, atol=1e-6)
    assert layer["sink_mass"] == pytest.approx(weights[:, :, 0].mean(), abs=1e-6)
    assert layer["shape"] == [2, 6, 6]
    assert (out / "step_20" / "decoder_layer0_self_attn.png").read_bytes().startswith(b"\x89PNG")
    assert scalars(out, "Training/Loss") == [(10, 1.0), (20, 0.5)]
    totals = load(out / "training_statistics.json")
    assert (totals["steps"], totals["processed"], totals["state"]) == (25, 2, "finished")
    assert load(out / "run.json")["state"] == "finished"


def test_the_overview_shows_all_steps_when_the_run_is_over(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out, visualize=("animation", "entropy")))
    for step in (10, 20, 30):
        rank.publish(step)
    rank.close(steps=30)
    wait_until(lambda: is_empty(shm_dir))

    overview = out / "overview"
    assert {path.name for path in overview.iterdir()} == {
        "decoder_layer0_self_attn_head0.png",
        "entropy.png",
    }
    with Image.open(overview / "decoder_layer0_self_attn_head0.png") as animation:
        assert animation.n_frames == 3
        for index, step in enumerate((10, 20, 30)):
            animation.seek(index)
            frame = out / f"step_{step}" / "decoder_layer0_self_attn_head0.png"
            with Image.open(frame) as still:
                assert still.convert("RGB").tobytes() == animation.convert("RGB").tobytes()


@pytest.mark.parametrize("is_late", [False, True], ids=["one by one", "all at once"])
def test_gradients_are_compared_with_those_of_the_sampled_step_before(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess, *, is_late: bool
) -> None:
    out = tmp_path / "out"
    rank = FakeRank(shm_dir, make_hello(out))
    if not is_late:
        daemon.start()
    for step in (10, 20, 30):
        rank.publish(step)
        if not is_late:
            wait_until(lambda step=step: step in steps(out))
    rank.close(steps=30)
    if is_late:
        daemon.start()
    wait_until(lambda: is_empty(shm_dir))

    samples = [make_arrays(step, with_attention=True)["gradients/sample"] for step in (10, 20, 30)]
    found = [load(out / f"step_{step}" / "statistics.json")["gradients"] for step in (10, 20, 30)]
    assert found[0]["cosine_to_previous"] is None
    for before, now, gradients in zip(samples, samples[1:], found[1:], strict=False):
        assert gradients["cosine_to_previous"] == pytest.approx(cosine(before, now), abs=1e-6)
        parts = zip(np.split(before, 2), np.split(now, 2), gradients["parameters"], strict=True)
        for a, b, parameter in parts:
            assert parameter["cosine_to_previous"] == pytest.approx(cosine(a, b), abs=1e-6)
    curve = scalars(out, "Monitoring/Gradient_Cosine")
    assert [step for step, _ in curve] == [20, 30]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.astype(float) @ b / np.linalg.norm(a.astype(float)) / np.linalg.norm(b))


def causal_attention(query: np.ndarray, key: np.ndarray, scale: float) -> np.ndarray:
    """Compute attention by the textbook, in float64, a row at a time."""
    weights = np.zeros((query.shape[0], query.shape[1], key.shape[1]))
    for head in range(query.shape[0]):
        for row in range(query.shape[1]):
            logits = [
                scale * float(np.dot(query[head, row].astype(float), key[head, column]))
                for column in range(row + 1)
            ]
            exponents = np.exp(np.array(logits) - max(logits))
            weights[head, row, : row + 1] = exponents / exponents.sum()
    return weights


def test_ranks_of_a_step_come_together(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    hellos = [make_hello(out, rank=rank, world_size=2, local_world_size=2) for rank in (0, 1)]
    ranks = [FakeRank(shm_dir, hello, nonce=f"r{hello.rank}") for hello in hellos]
    ranks[0].publish(10, loss=1.0)
    daemon.start()
    ranks[1].publish(10, loss=3.0)
    for rank in ranks:
        rank.close(steps=10)
    wait_until(lambda: is_empty(shm_dir))

    (line,) = history(out)
    assert [(entry["rank"], entry["loss"]) for entry in line["ranks"]] == [(0, 1.0), (1, 3.0)]
    assert len(load(out / "training_statistics.json")["ranks"]) == 2


def test_two_runs_are_served_at_once(shm_dir: Path, tmp_path: Path, daemon: DaemonProcess) -> None:
    daemon.start()
    runs = [
        FakeRank(shm_dir, make_hello(tmp_path / name, run=name), nonce=name) for name in ("a", "b")
    ]
    for run in runs:
        run.publish(5)
    wait_until(lambda: steps(tmp_path / "a") == [5] and steps(tmp_path / "b") == [5])

    for run in runs:
        run.close()
    wait_until(lambda: is_empty(shm_dir))


def test_restarted_job_is_written_after_its_first_try(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    first = FakeRank(shm_dir, make_hello(out), nonce="first")
    for step in (10, 20, 30):
        first.publish(step)
    first.abandon()
    second = FakeRank(shm_dir, make_hello(out, attempt=1), nonce="second")
    second.publish(20, loss=9.0)
    second.close()
    daemon.start()
    wait_until(lambda: is_empty(shm_dir))

    assert steps(out) == [10, 20, 30, 20]
    # TensorBoard forgets what the restart has left behind.
    assert scalars(out, "Training/Loss") == [(10, 1.0), (20, 9.0)]


def test_kill_of_the_daemon_at_any_moment_neither_loses_nor_doubles_a_step(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    moments = random.Random(20261124)
    with subprocess.Popen(
        [sys.executable, TRAINER, shm_dir, out, "150"], stdout=subprocess.PIPE, text=True
    ) as trainer:
        for _ in range(6):
            daemon.start(wait=False)
            time.sleep(moments.uniform(0.2, 1.8))
            daemon.kill()
        daemon.start()
        assert trainer.stdout is not None
        published = [int(line.split()[0]) for line in trainer.stdout if "published" in line]
    wait_until(lambda: is_empty(shm_dir))
    assert daemon.stop() == 0

    assert published == list(range(1, 151))
    assert steps(out) == published
    losses = scalars(out, "Training/Loss")
    assert [step for step, _ in losses] == published
    np.testing.assert_allclose([loss for _, loss in losses], [10.0 / step for step in published])
    assert sorted(int(path.name[5:]) for path in out.glob("step_*")) == published
    assert load(out / "training_statistics.json")["processed"] == 150
    assert not list(out.glob(".*"))


def test_killed_trainer_is_drained_and_its_segment_removed(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    with subprocess.Popen(
        [sys.executable, TRAINER, shm_dir, out, "100000"], stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdout is not None
        published = [int(trainer.stdout.readline().split()[0]) for _ in range(20)]
        trainer.kill()
        published += [int(line.split()[0]) for line in trainer.stdout if line.endswith("\n")]
    wait_until(lambda: is_empty(shm_dir))

    # The last publish may have had no time to be printed.
    assert steps(out) in (published, [*published, published[-1] + 1])
    totals = load(out / "training_statistics.json")
    assert (totals["state"], totals["steps"]) == ("killed", None)
    assert not list(shm_dir.glob("*.alive"))


def test_foreign_segments_are_refused_once_and_left_alone(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    foreign = shm_dir / "evil.r0.1.x.ring"
    foreign.write_bytes(b"not a ring" * 1000)
    foreign.chmod(0o600)
    link = shm_dir / "link.r0.1.x.ring"
    link.symlink_to("/etc/passwd")
    lines = shm_dir / "two\nlines.ring"
    lines.touch()
    cut = FakeRank(shm_dir, make_hello(tmp_path / "cut", run="cut"), nonce="cut")
    os.truncate(cut.writer.path, 4096)
    versioned = FakeRank(shm_dir, make_hello(tmp_path / "v", run="newer"), nonce="v")
    with versioned.writer.path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<I", 99))
    daemon.start()
    good = FakeRank(shm_dir, make_hello(tmp_path / "good", run="good"), nonce="good")
    good.publish(1)
    wait_until(lambda: steps(tmp_path / "good") == [1])
    good.close()
    wait_until(lambda: not good.writer.path.exists())

    output = daemon.output
    for word in ("evil.r0", "link.r0", "cut.r0", "newer.r0", "two\\nlines.ring' refused"):
        assert len([line for line in output.splitlines() if word in line]) == 1, output
    assert "wire version 99" in output
    assert "\nlines.ring" not in output
    assert foreign.exists()
    assert link.is_symlink()
    for rank in (cut, versioned):
        rank.abandon()
    for path in (foreign, link, lines, cut.writer.path, versioned.writer.path):
        path.unlink(missing_ok=True)
        path.with_suffix(".alive").unlink(missing_ok=True)


def test_segment_cut_under_the_daemon_costs_only_itself(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    cut = FakeRank(shm_dir, make_hello(tmp_path / "cut", run="cut"), nonce="cut")
    cut.publish(1)
    wait_until(lambda: steps(tmp_path / "cut") == [1])
    os.truncate(cut.writer.path, 0)
    wait_until(lambda: "it was cut from" in daemon.output)

    good = FakeRank(shm_dir, make_hello(tmp_path / "good", run="good"), nonce="good")
    good.publish(1)
    wait_until(lambda: steps(tmp_path / "good") == [1])
    good.close()
    wait_until(lambda: is_empty(shm_dir))
    cut.hang_up()


def test_output_that_cannot_be_written_is_tried_again_until_it_can(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a directory is needed")
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(blocked / "out"))
    rank.publish(1)
    rank.close()
    wait_until(lambda: "a file stands where a directory is needed" in daemon.output)
    blocked.unlink()
    wait_until(lambda: is_empty(shm_dir))

    assert steps(blocked / "out") == [1]


def test_terminated_daemon_finishes_what_is_published(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    out = tmp_path / "out"
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(out))
    for step in range(1, 6):
        rank.publish(step)

    assert daemon.stop() == 0

    assert steps(out) == [1, 2, 3, 4, 5]
    assert not (shm_dir / "daemon.sock").exists()
    assert not (shm_dir / "status.json").exists()
    rank.close()
    daemon.start()
    wait_until(lambda: is_empty(shm_dir))
    assert steps(out) == [1, 2, 3, 4, 5]


def test_second_daemon_says_that_one_runs(daemon: DaemonProcess) -> None:
    daemon.start()

    second = subprocess.run(
        [sys.executable, "-m", "tracksided", "daemon"], capture_output=True, text=True, check=False
    )

    assert second.returncode == 75
    assert f"pid {daemon.pid}" in second.stderr
    assert "Traceback" not in second.stderr


def test_idle_daemon_ends_by_itself(daemon: DaemonProcess) -> None:
    daemon.start("--idle-exit", "0.5")

    assert daemon.wait() == 0


def test_settings_are_read_anew_on_hangup(tmp_path: Path, daemon: DaemonProcess) -> None:
    settings = tmp_path / "daemon.toml"
    settings.write_text("poll_seconds = 0.2")
    daemon.start("--config", str(settings))
    wait_until((daemon.directory / "status.json").exists)
    settings.write_text("poll_seconds = 0.1\n[workers]\ncount = 2")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: load(daemon.directory / "status.json")["settings"]["workers"]["count"] == 2)
    settings.write_text("pol_seconds = 0.1")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "did you mean 'poll_seconds'" in daemon.output)

    assert daemon.stop() == 0


def test_what_a_terminal_sends_to_all_is_for_the_daemon_alone(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    """A terminal that is closed sends SIGHUP to each process; the daemon reads settings anew."""
    out = tmp_path / "out"
    port = free_port()
    daemon.start("--http", f"127.0.0.1:{port}")
    rank = FakeRank(shm_dir, make_hello(out))
    rank.publish(10)
    wait_until(lambda: steps(out) == [10] and answers(port))
    children = psutil.Process(daemon.pid).children(recursive=True)
    wait_until(lambda: all(map(is_started, children)))

    for process in children:
        process.send_signal(signal.SIGHUP)
    rank.publish(20)
    rank.close(steps=20)
    wait_until(lambda: is_empty(shm_dir))

    assert steps(out) == [10, 20]
    assert children
    assert psutil.Process(daemon.pid).children(recursive=True) == children
    assert "Traceback" not in daemon.output


def is_started(process: psutil.Process) -> bool:
    """Whether Python is done with its imports, and the process has said what it ignores."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    (ignored,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(ignored >> (signal.SIGHUP - 1) & 1)
