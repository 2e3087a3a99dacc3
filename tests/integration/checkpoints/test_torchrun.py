"""`torchrun -m tracksided.average` with real gloo ranks: the bytes of one process, or nothing."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from debris import debris
from safetensors.torch import save_file
from torchrun import TORCHRUN
from transformers import GPT2Config, GPT2LMHeadModel

from tracksided.checkpoints.job import AverageRequest, run_average

pytestmark = pytest.mark.integration

DEADLINE_S = 120.0
OLD = b"the previous average"
NUM_ELEMENTS = 20_000_000  # the ranks are seen while they write
CONFIG = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=101, bos_token_id=0, eos_token_id=1)

FSDP = """
import os, sys, torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
torch.manual_seed(0)
# Seven rows do not divide by two: the shards differ in size.
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2, bias=False)).bfloat16()
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
for step in range(1, 4):
    torch.manual_seed(10 * step + dist.get_rank())
    model(torch.randn(3, 5).bfloat16()).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    weights, moments = get_state_dict(model, optimizer)
    content = {"model": weights, "optim": moments, "step": step}
    dcp.save(content, checkpoint_id=f"{sys.argv[1]}/step_{step}")
dist.barrier()
os._exit(0)  # without the teardown of gloo's threads, which now and then aborts
"""

TORN = """
import runpy
import torch.distributed as dist

join = dist.init_process_group

def join_and_lose(*arguments, **options):
    join(*arguments, **options)
    raise RuntimeError("Connection closed by peer")

dist.init_process_group = join_and_lose
runpy.run_module("tracksided.average", run_name="__main__", alter_sys=True)
"""


def start(num_ranks: int, arguments: Sequence[str | Path]) -> subprocess.Popen[str]:
    command = [*TORCHRUN, "--nproc-per-node", str(num_ranks), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(job: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit code, standard output, and the lines of ours on standard error."""
    try:
        output, errors = job.communicate(timeout=DEADLINE_S)
    finally:
        job.kill()
    return job.returncode, output, [line for line in errors.splitlines() if "trackside" in line]


def average_on(num_ranks: int, *arguments: str | Path) -> tuple[int, str, list[str]]:
    code, output, errors = finish(start(num_ranks, ["-m", "tracksided.average", *arguments]))
    ours = [line for line in errors if line.startswith("trackside average: ")]
    return code, output, ours


def save_files(out: Path) -> None:
    for step in (1, 2, 3):
        torch.manual_seed(step)
        state = {"w": torch.randn(700, 700), "h": torch.randn(5000).half(), "n": torch.tensor(step)}
        torch.save({"model": state, "optimizer": {"w": state["w"]}}, out / f"step_{step}.pt")


def save_safetensors(out: Path) -> None:
    for step in (1, 2, 3):
        torch.manual_seed(step)
        save_file({"w": torch.randn(700, 700), "ids": torch.arange(9)}, out / f"{step}.safetensors")


def save_shards(out: Path) -> None:
    for step in (1, 2, 3):
        torch.manual_seed(step)
        directory = out / f"checkpoint-{step}"
        GPT2LMHeadModel(CONFIG).save_pretrained(directory, max_shard_size="60KB")
        (directory / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def save_fsdp(out: Path, within: str = "") -> None:
    script = out / "train.py"
    script.write_text(FSDP.replace("/step_{step}", "/step_{step}/" + within))
    code, _, errors = finish(start(2, [script, out]))
    assert code == 0, errors
    script.unlink()


def save_accelerate(out: Path) -> None:
    save_fsdp(out, "pytorch_model_fsdp_0")


def averages(out: Path) -> dict[str, bytes]:
    """Everything published but the provenance."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if "averaged" in str(path.relative_to(out))
        and path.is_file()
        and path.name not in {"averaged_model.json", "averaging.json"}
    }


def provenance(out: Path) -> dict[str, object]:
    (path,) = [*out.glob("averaged_model.json"), *out.glob("averaged/averaging.json")]
    found: dict[str, object] = json.loads(path.read_bytes())
    return found


@pytest.mark.parametrize(
    ("num_ranks", "save", "num_files"),
    [
        (2, save_files, 1),
        (3, save_safetensors, 1),
        (3, save_shards, 7),
        (3, save_fsdp, 3),
        (2, save_accelerate, 3),
    ],
)
def test_ranks_publish_the_bytes_of_one_process(
    tmp_path: Path, num_ranks: int, save: Callable[[Path], None], num_files: int
) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    one.mkdir()
    save(one)
    shutil.copytree(one, many)
    patterns = ("checkpoint-*/", "*.pt", "*.safetensors", "*/")
    alone = run_average(AverageRequest(directory=one, patterns=patterns, method="wsm-cosine"))
    assert alone is not None

    code, output, errors = average_on(num_ranks, many, "--method", "wsm-cosine", "--json")

    assert (code, errors) == (0, [])
    assert averages(many) == averages(one)
    assert len(averages(many)) == num_files
    printed = json.loads(output)
    assert printed == provenance(many)
    assert printed["ranks"] == num_ranks
    assert printed["output_digest"] == alone.output_digest
    assert [source["step"] for source in printed["sources"]] == [1, 2, 3]
    assert debris(many) == []


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Path]:
    """A directory with an average in it, which must survive the test."""
    (tmp_path / "averaged_model.pt").write_bytes(OLD)
    yield tmp_path
    assert (tmp_path / "averaged_model.pt").read_bytes() == OLD
    assert not (tmp_path / "averaged_model.json").exists()


def test_nan_in_the_share_of_another_rank_ends_all_with_one_message(checkpoints: Path) -> None:
    for step in (1, 2):
        tensors = {"a": torch.full((9000,), step), "z": torch.full((9000,), float("nan"))}
        torch.save(tensors, checkpoints / f"step_{step}.pt")

    code, _, errors = average_on(2, checkpoints)

    assert code == 1
    assert len(errors) == 1
    assert "1 usable checkpoints match" in errors[0]
    assert "NaN or infinity in tensor 'z'" in errors[0]
    assert debris(checkpoints) == []


def test_wrong_options_and_dry_runs_end_all_ranks(checkpoints: Path) -> None:
    save_files(checkpoints)

    code, _, _ = average_on(2, checkpoints, "--method", "no-such-method")
    dry, output, errors = average_on(2, checkpoints, "--dry-run")

    assert code == 1  # torchrun's own, whatever the ranks ended with
    assert (dry, errors) == (0, [])
    assert "would average 3 checkpoints" in output


@contextlib.contextmanager
def mounted(directory: Path, nbytes: int) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk_ends_all_with_one_message(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, 1 << 20):
        for step in (1, 2, 3):
            torch.save({"w": torch.full((70_000,), float(step))}, disk / f"step_{step}.pt")
        (disk / "averaged_model.pt").write_bytes(OLD)

        code, _, errors = average_on(2, disk)

        assert code == 1
        assert len(errors) == 1
        assert "No space left on device; the previous file stays" in errors[0]
        assert (disk / "averaged_model.pt").read_bytes() == OLD
        assert debris(disk) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_directory_that_a_rank_does_not_share_is_named(checkpoints: Path) -> None:
    """Rank 1 runs where an empty file system lies over the directory, as on another node."""
    save_files(checkpoints)
    average = f"exec {sys.executable} -m tracksided.average {checkpoints}"
    elsewhere = f"mount -t tmpfs tmpfs {checkpoints} && {average}"
    script = f'if [ "$RANK" = 1 ]; then unshare -m sh -c "{elsewhere}"; else {average}; fi'

    code, _, errors = finish(start(2, ["--no-python", "sh", "-c", script]))

    ours = [line for line in errors if line.startswith("trackside average: ")]
    assert code == 1
    assert len(ours) == 1
    assert "step_1.pt: cannot be opened: No such file or directory" in ours[0]
    assert debris(checkpoints) == []


def ranks_of(job: subprocess.Popen[str]) -> dict[int, int]:
    """Pids of the ranks that torchrun has started."""
    found: dict[int, int] = {}
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    for pid in children:
        with contextlib.suppress(OSError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = [line for line in environment if line.startswith(b"RANK=")]
            found |= {int(line.partition(b"=")[2]): int(pid) for line in rank}
    return found


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_leaves_the_previous_average(checkpoints: Path, killed: int) -> None:
    for step in (1, 2, 3):
        torch.save({"w": torch.full((NUM_ELEMENTS,), float(step))}, checkpoints / f"step_{step}.pt")
    job = start(3, ["-m", "tracksided.average", checkpoints])
    deadline = time.monotonic() + DEADLINE_S
    while not debris(checkpoints):
        assert time.monotonic() < deadline, "no temporary file appeared"
        assert job.poll() is None, job.communicate()
        time.sleep(0.001)

    os.kill(ranks_of(job)[killed], signal.SIGKILL)
    code, _, errors = finish(job)

    assert code == 1
    ours = [line for line in errors if line.startswith("trackside average: ")]
    assert len(ours) == 1
    assert "another rank ended or cannot be reached" in ours[0]
    assert "the previous average stays" in ours[0]
    left = debris(checkpoints)
    assert len(left) == (1 if killed == 0 else 0)
    (checkpoints / "averaged_model.pt").rename(checkpoints / "old")
    assert run_average(AverageRequest(directory=checkpoints)) is not None
    assert debris(checkpoints) == []  # what a killed rank 0 left is swept
    (checkpoints / "averaged_model.json").unlink()
    (checkpoints / "old").rename(checkpoints / "averaged_model.pt")


def test_a_rank_that_is_lost_while_all_connect_is_told_once(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    save_files(checkpoints)
    script = tmp_path_factory.mktemp("torn") / "average.py"
    script.write_text(TORN)

    code, _, errors = finish(start(3, [script, checkpoints]))

    assert code == 1
    (ours,) = [line for line in errors if line.startswith("trackside average: ")]
    assert "another rank ended or cannot be reached: Connection closed by peer" in ours
    assert "the previous average stays" in ours
    assert debris(checkpoints) == []


def test_without_torchrun_it_says_how_to_start(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}

    done = subprocess.run(
        [sys.executable, "-m", "tracksided.average", str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        env=environment,
    )

    assert done.returncode == 1
    assert done.stderr == (
        "trackside average: no RANK is set; start it with torchrun, or use `trackside average`\n"
    )
