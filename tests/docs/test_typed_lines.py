"""Shell lines of the pages, typed as a reader types them, where they have a meaning."""

import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from claimed_lines import TYPED, ShellLine, claimed
from daemon_process import DaemonProcess, wait_until
from documents import ROOT
from guide import BIN, Guide
from readme_path import ADDRESS
from s3_server import S3Server
from slurm import submit
from slurm_cluster import Cluster
from training_logs import eval_row, train_row, write_run, write_state

from trackside.wire.locks import daemon_pid

pytestmark = pytest.mark.integration

STEPS = (100, 200, 300, 400, 500, 600)
# Of the checkpoints, lowest first: 300, 600, 100.
EVAL_LOSSES = dict(zip(STEPS, (0.3, 0.9, 0.1, 0.8, 0.7, 0.2), strict=True))


def type_line(directory: Path, line: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    done = Guide("", directory).run("bash", "-c", line, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@claimed(f"{TYPED}::test_the_repository_is_cloned")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout can be cloned")
def test_the_repository_is_cloned(line: ShellLine, tmp_path: Path) -> None:
    done = type_line(tmp_path, f"{line.text.replace(ADDRESS, str(ROOT))} && pwd")

    assert done.stdout.strip() == str(tmp_path / "trackside")
    assert (tmp_path / "trackside" / "Makefile").is_file()


@claimed(f"{TYPED}::test_hooks_are_installed")
@pytest.mark.skipif(not (BIN / "pre-commit").exists(), reason="pre-commit is not here (group dev)")
def test_hooks_are_installed(line: ShellLine, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / ".venv").symlink_to(BIN.parent)

    type_line(tmp_path, line.text)

    assert "pre-commit" in (tmp_path / ".git/hooks/pre-commit").read_text()
    type_line(tmp_path, ".venv/bin/pre-commit validate-config")


def save_checkpoints(directory: Path) -> None:
    directory.mkdir()
    for step in STEPS:
        torch.save({"w": torch.full((4,), float(step))}, directory / f"model_{step}.pt")
    metrics = {f"model_{step}.pt": {"eval_loss": loss} for step, loss in EVAL_LOSSES.items()}
    (directory / "metrics.json").write_text(json.dumps(metrics))


@claimed(f"{TYPED}::test_checkpoints_are_averaged")
def test_checkpoints_are_averaged(line: ShellLine, tmp_path: Path) -> None:
    save_checkpoints(tmp_path / "checkpoints")
    # What a reader puts in: nodes, and a directory that they share.
    own = {"--nnodes 8": "--nnodes 1", "HOST:PORT": "127.0.0.1:0", "/shared/": "./"}
    typed = line.text.replace("torchrun ...", "torchrun --nproc-per-node 1")
    for placeholder, value in own.items():
        typed = typed.replace(placeholder, value)

    type_line(tmp_path, typed, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo")

    average = torch.load(tmp_path / "checkpoints/averaged_model.pt", weights_only=True)
    best = sorted(STEPS, key=EVAL_LOSSES.__getitem__)[:3]
    expected = sum(best) / 3 if "--best" in line.text else sum(STEPS[-5:]) / 5
    assert average["w"].tolist() == pytest.approx([expected] * 4)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server that has the bucket of the page, with checkpoints in it."""
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    client = boto3.client("s3", endpoint_url=server.url)
    client.create_bucket(Bucket="bucket")
    save_checkpoints(tmp_path / "checkpoints")
    for path in (tmp_path / "checkpoints").iterdir():
        client.upload_file(str(path), "bucket", f"runs/one/{path.name}")
    yield client
    for entry in client.list_objects_v2(Bucket="bucket")["Contents"]:
        client.delete_object(Bucket="bucket", Key=entry["Key"])
    client.close()
    server.stop()


@claimed(f"{TYPED}::test_a_bucket_is_averaged")
def test_a_bucket_is_averaged(line: ShellLine, bucket: Any, tmp_path: Path) -> None:
    type_line(tmp_path, line.text)

    bucket.download_file("bucket", "runs/one/averaged_model.pt", str(tmp_path / "average.pt"))
    average = torch.load(tmp_path / "average.pt", weights_only=True)
    assert average["w"].tolist() == pytest.approx([sum(STEPS[-5:]) / 5] * 4)


@claimed(f"{TYPED}::test_a_training_is_reported")
def test_a_training_is_reported(line: ShellLine, tmp_path: Path) -> None:
    rows = [*(train_row(step, 4.0 - step / 20) for step in range(5, 65, 5)), eval_row(60, 1.5)]
    for name in ("runs/gpt2", "runs/a", "runs/b", "runs/c", "outputs/run"):
        for step in (60, 1500):
            write_state(tmp_path / name / f"checkpoint-{step}", rows, global_step=step)
    write_run(tmp_path / "trackside_logs" / "run", [{"step": 10}, {"step": 20}])

    said = type_line(tmp_path, line.text).stdout

    drawn = list(tmp_path.rglob("training_progress.png")) + list(tmp_path.glob("curves.pdf"))
    if " -p" in line.text or " -s" in line.text:
        assert len(drawn) == 1
        assert f"{drawn[0].relative_to(tmp_path)}" in said
    elif "--json" in line.text:
        assert json.loads(said)["progress"]["step"] == 1500
    elif "trackside_logs" in line.text:
        assert "20" in next(row for row in said.splitlines() if row.startswith("  step"))
    elif "--compare" in line.text:
        assert said.splitlines()[0].split() == [f"{name}/checkpoint-1500" for name in "abc"]
    else:
        assert "1500" in next(row for row in said.splitlines() if row.startswith("  step"))


@claimed(f"{TYPED}::test_a_daemon_serves_until_it_is_asked_to_end")
def test_a_daemon_serves_until_it_is_asked_to_end(
    line: ShellLine, tmp_path: Path, shm_dir: Path
) -> None:
    (tmp_path / "FILE").write_text("poll_seconds = 0.5\n")
    environ = {**os.environ, "HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    log = tmp_path / "daemon.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            ["bash", "-c", f"exec {line.text}"],
            cwd=tmp_path,
            env=environ,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: daemon_pid(shm_dir) == daemon.pid or daemon.poll() is not None)

        assert daemon.poll() is None, log.read_text()
        is_modest = os.sched_getscheduler(daemon.pid) == os.SCHED_IDLE
        assert is_modest == ("--low-priority" in line.text)
    finally:
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(timeout=60)
    assert code == 0, log.read_text()


@claimed(f"{TYPED}::test_the_machine_is_looked_at")
def test_the_machine_is_looked_at(line: ShellLine, tmp_path: Path, shm_dir: Path) -> None:
    daemon = DaemonProcess(shm_dir, tmp_path / "daemon.log")
    daemon.start()
    wait_until((shm_dir / "status.json").exists)
    try:
        done = Guide("", tmp_path).run("bash", "-c", line.text)
    finally:
        assert daemon.stop() == 0

    if "status" in line.text:
        assert done.returncode == 0, done.stderr
        assert f"serving {shm_dir}" in done.stdout
    else:  # not every machine is as it should be
        assert done.returncode in {0, 1}, done.stderr
        assert "ok" in done.stdout


@claimed(f"{TYPED}::test_units_are_shown")
@pytest.mark.parametrize("with_options", [False, True])
def test_units_are_shown(line: ShellLine, *, with_options: bool, tmp_path: Path) -> None:
    plain, _, optional = line.text.partition(" [")
    user = pwd.getpwuid(os.getuid()).pw_name
    typed = f"{plain} {optional.rstrip(']').replace('ada', user)}" if with_options else plain

    said = type_line(tmp_path, typed).stdout

    assert "Type=notify" in said
    assert ("trackside@" in said) == with_options


JOB = """#!/bin/bash
#SBATCH --job-name=asked
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1

srun --overlap trackside run -- bash -c "until [ -e over ]; do sleep 0.1; done" &
until {line} | grep "^daemon .* serving"; do sleep 0.1; done
touch over
wait
"""


@claimed(f"{TYPED}::test_a_job_is_asked_for_its_daemon")
def test_a_job_is_asked_for_its_daemon(
    line: ShellLine, cluster: Cluster | None, tmp_path: Path, shm_dir: Path
) -> None:
    job = tmp_path / "asked.sbatch"
    job.write_text(JOB.format(line=line.text.replace("JOB", "$SLURM_JOB_ID")))

    code, said = submit(job, {"PATH": f"{BIN}:{os.environ['PATH']}"}, cluster)

    assert code == 0, said
    assert f"serving {shm_dir}" in said
