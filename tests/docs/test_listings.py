"""What the pages list or quote is what is there: trees of outputs, output of commands, diagrams."""

import re
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from documents import ROOT
from fake_trainer import FakeRank, make_hello
from guide import Guide, listings, the_run
from quoted import listed
from readme_path import readme_path

pytestmark = pytest.mark.integration

# One block of attention, which is the only layer of a decoder.
TRAINING = """
import torch
from real_trainer import WIDTH, Block
model = Block()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{attach}
for step in range(1, 101):
    model(torch.randn(2, 8, WIDTH)).square().mean().backward()
    optimizer.step()
    if step % 25 == 0:
        torch.save(model.state_dict(), f"checkpoints/model_{{step}}.pt")
"""
WATCHFUL = "[checkpoints]\npoll_seconds = 0.2\n"
_WHEN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, .* ago")
SOURCES = (ROOT / "emitter/trackside", ROOT / "daemon/tracksided")


def entries(tree: str) -> set[str]:
    return {path for path, _ in listed(tree)}


def written(directory: Path, named: set[str]) -> set[str]:
    """Return what is in a directory, and in those folders of it of which something is named."""
    opened = {Path(name).parent for name in named}
    inside = {path.relative_to(directory): "/" * path.is_dir() for path in directory.rglob("*")}
    return {f"{path}{end}" for path, end in inside.items() if path.parent in opened}


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guide:
    """Somebody who follows the README in a directory with a training."""
    (tmp_path / "train.py").write_text(TRAINING.format(attach=readme_path().attach))
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support"))
    monkeypatch.setenv("TRACKSIDE_RING_BYTES", str(1 << 22))
    monkeypatch.setenv("TRACKSIDE_VISUALIZE", "heatmap,statistics,gradient_flow,entropy")
    return Guide("README.md", tmp_path)


def test_the_readme_lists_all_that_a_run_writes(reader: Guide, shm_dir: Path) -> None:
    (tree,) = listings("README.md", "tree")

    done = reader.run("trackside", "run", "--", "python", "train.py")

    assert done.returncode == 0, done.stderr
    assert written(the_run(reader.directory), entries(tree)) == entries(tree)
    assert list(shm_dir.glob("*.ring")) == []


def test_all_files_that_are_described_are_written(
    reader: Guide, tmp_path: Path, shm_dir: Path
) -> None:
    (tree,) = listings("docs/reference/files.md", "tree")
    daemon = DaemonProcess(shm_dir, tmp_path / "daemon.log")
    (tmp_path / "daemon.toml").write_text(WATCHFUL)
    daemon.start("--config", str(tmp_path / "daemon.toml"))
    more = {"TRACKSIDE_SAVE_RAW": "1", "TRACKSIDE_CHECKPOINTS": "checkpoints"}

    done = reader.run("python", "train.py", environ=more)

    assert done.returncode == 0, done.stderr
    run = str(the_run(tmp_path).relative_to(tmp_path))
    own = tree.replace("trackside_logs/<run>", run)
    own = own.replace("/dev/shm/trackside-<uid>", str(shm_dir))  # noqa: S108 - the page's words
    assert len(entries(own)) > 10
    for name in entries(own):
        path = tmp_path / name
        wait_until(path.is_dir if name.endswith("/") else path.is_file)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))
    assert daemon.stop() == 0
    assert not (shm_dir / "status.json").exists()


def test_each_node_has_the_directory_that_is_listed(tmp_path: Path, shm_dir: Path) -> None:
    (tree,) = listings("docs/scaling.md", "tree")
    for node in range(3):
        daemon = DaemonProcess(shm_dir, tmp_path / "daemon.log")
        daemon.start()
        place = {"rank": node, "node_rank": node, "world_size": 3}
        rank = FakeRank(shm_dir, make_hello(tmp_path / "run", **place), nonce=f"n{node}")
        rank.publish(10)
        rank.close(steps=10)
        wait_until(lambda: not list(shm_dir.glob("*.ring")))
        assert daemon.stop() == 0

    folders = [path.parent for path in (tmp_path / "run").rglob("history.jsonl")]
    listed = [name.replace("<save_dir>", str(tmp_path / "run")) for name in entries(tree)]
    assert sorted(map(str, folders)) == sorted(name.rstrip("/") for name in listed)
    first, *others = ({path.name for path in folder.iterdir()} for folder in sorted(folders))
    assert all(names | {"node1", "node2"} == first for names in others)


@pytest.mark.parametrize("listing", listings("docs/report.md", "output"))
def test_a_report_reads_as_it_is_quoted(listing: str) -> None:
    command, _, quoted = listing.partition("\n")

    done = Guide("docs/report.md", ROOT).run("bash", "-c", command.removeprefix("$ "))

    assert done.returncode == 0, done.stderr
    assert _WHEN.sub("then", done.stdout) == _WHEN.sub("then", quoted)


def test_the_diagram_of_the_architecture_names_what_there_is() -> None:
    (diagram,) = listings("docs/architecture.md", "diagram")
    paths = re.findall(r"\b[a-z_]+(?:/[a-z_.]+|/|\.py)", diagram)
    classes = re.findall(r"\b[A-Z][a-z]+[A-Z]\w+", diagram)
    code = "\n".join(path.read_text() for root in SOURCES for path in root.rglob("*.py"))

    assert len(paths) > 10
    for name in paths:
        assert any((root / end).exists() for root in SOURCES for end in (name, f"{name}.py")), name
    assert {"RingWriter", "RingReader", "StepAnalysis", "StepReport"} <= set(classes)
    for name in set(classes) - {"ZeroMQ"}:
        assert f"class {name}" in code


def test_the_diagram_of_the_concepts_uses_words_that_are_explained() -> None:
    (diagram,) = listings("docs/concepts.md", "diagram")
    page = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    explained = {word.lower() for word in re.findall(r"^\*\*(\w+)\.\*\*", page, re.MULTILINE)}
    on_the_way = re.findall(r"(\w+)(?:  ->|  \.\.\.)", diagram)
    done = re.findall(r"(\w+):", diagram)

    assert on_the_way == ["record", "ring", "doorbell"]
    assert done == ["sampled", "stages", "commit"]
    assert {*on_the_way, *done} - {"sampled"} | {"sample", "step", "daemon"} <= explained
