"""The quick start, followed from its first line to its last picture."""

import re
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from daemon_process import wait_until
from documents import ROOT
from guide import Guide, listings, shell_lines, the_run
from numpy.typing import NDArray
from quoted import is_output, listed, mistakes
from written import history

from trackside.wire import segment

pytestmark = pytest.mark.integration

FloatArray = NDArray[np.float32]
PAGE = "docs/quickstart.md"
SAMPLED = range(10, 101, 10)
# Of a clone, what is installed.
INSTALLED = ("pyproject.toml", "README.md", "LICENSE", "emitter", "daemon", "systemd")


# With it, pip finds all that is needed here already, and fetches and installs nothing.
DRY = {
    "PYTHONPATH": str(Path(pytest.__file__).parents[1]),
    "PIP_DRY_RUN": "1",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the wrong way round: pypa/pip#5735
}


def test_the_install_lines_make_an_environment(tmp_path: Path) -> None:
    for name in INSTALLED:
        (tmp_path / name).symlink_to(ROOT / name)
    page = Guide(PAGE, tmp_path)
    lines = shell_lines(PAGE)
    install = lines[: lines.index("pip install '.[daemon]'") + 1]

    done = page.run("bash", "-ec", "\n".join(install), environ=DRY)

    assert len(install) == 3
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / "bin" / "activate").exists()
    assert "Would install trackside-" in done.stdout
    # What only the extra brings.
    assert "tensorboard" in done.stdout
    assert "does not provide the extra" not in done.stderr


@dataclass(frozen=True)
class Followed:
    """The reader's directory after training, and what the terminal showed."""

    page: Guide
    printed: str
    said: str
    """On its error output."""

    @property
    def run(self) -> Path:
        return the_run(self.page.directory)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """The script saved, and the line typed that trains it."""
    memory = Path(tempfile.mkdtemp(prefix="ts-test-", dir="/dev/shm"))
    environ = {
        "TRACKSIDE_SHM_DIR": str(memory),
        "TRACKSIDE_RING_BYTES": str(1 << 22),
        "TRACKSIDE_SAVE_RAW": "1",
        "OMP_NUM_THREADS": "1",
    }
    page = Guide(PAGE, tmp_path_factory.mktemp("reader"))
    page.save("train.py")
    done = page.type("trackside run -- python train.py", environ)
    assert done.returncode == 0, done.stderr
    yield Followed(page, done.stdout, done.stderr)
    left = segment.scan(memory)
    shutil.rmtree(memory)
    assert left == ()


@pytest.mark.usefixtures("shm_dir")
def test_the_doctor_says_ok_or_what_to_do(tmp_path: Path) -> None:
    *lines, end = Guide(PAGE, tmp_path).type("trackside doctor").stdout.splitlines()

    marks = [line.split()[0] for line in lines]
    assert re.match(rf"{len(marks) - marks.count('->')} checked, ", end)
    for mark, below in zip(marks, [*marks[1:], ""], strict=True):
        assert mark in {"ok", "->"} or (mark in {"warn", "fail"} and below == "->")


def test_it_prints_what_is_quoted(followed: Followed) -> None:
    (quoted,) = listings(PAGE, "output")

    assert is_output(quoted, followed.printed), followed.printed
    # A machine that is busy lets the reader wait, and says so.
    assert re.fullmatch(r"(trackside: waiting .*\n)?", followed.said)


def test_it_writes_what_is_listed_and_nothing_else(followed: Followed) -> None:
    (tree,) = listings(PAGE, "tree")
    names = {path.strip("/") for path, _ in listed(tree)}

    seen = followed.page.type("ls trackside_logs/*").stdout.split()

    assert mistakes(tree, followed.run) == []
    assert set(seen) == names | {f"step_{step}" for step in SAMPLED}
    assert re.fullmatch(r"train-\d{8}-\d{6}-\w+", followed.run.name)
    assert [line["step"] for line in history(followed.run)] == list(SAMPLED)
    assert (followed.run / "alerts.jsonl").read_text() == ""


def test_the_map_turns_into_the_diagonal_that_is_shown(followed: Followed) -> None:
    def mean_map(step: int) -> FloatArray:
        folder = followed.run / f"step_{step}"
        assert (folder / "encoder_layer0_self_attn.png").stat().st_size > 0
        with np.load(folder / "raw" / "encoder_layer0_self_attn.npz") as raw:
            weights: FloatArray = raw["weights"].mean(0)
        return weights

    # Position i is written from position 11 - i; before, every position looks everywhere.
    assert mean_map(100).argmax(-1).tolist() == list(range(11, -1, -1))
    assert mean_map(10).max() < 0.5


def test_its_report_says_how_far_the_loss_fell(followed: Followed) -> None:
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", followed.printed)]
    oldest, newest = statistics.median(losses[:3]), statistics.median(losses[-3:])

    report = (followed.run / "final_report.md").read_text()

    (found,) = re.findall(r"\| trend \| falling, (-\d+\.\d) % over the newest 10 values", report)
    # What is printed has three decimals.
    assert float(found) == pytest.approx(100 * (newest / oldest - 1), abs=0.1)


def test_tensorboard_shows_the_same_as_curves_and_maps(followed: Followed) -> None:
    run = f"{followed.run.name}/tensorboard"

    with followed.page.tensorboard() as server:
        wait_until(lambda: run in server.get("runs"))
        losses = server.scalars(run, "Training/Loss")
        maps = server.tags("images", run)

    assert [step for step, _ in losses] == list(SAMPLED)
    assert "attention/encoder_layer0_self" in maps
