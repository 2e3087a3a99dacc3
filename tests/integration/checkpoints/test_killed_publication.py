"""A kill -9 at any step of publishing a directory loses nothing that somebody put into it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from debris import debris
from safetensors.torch import load_file, save_file

from tracksided.checkpoints.job import AverageRequest, run_average
from tracksided.checkpoints.sweeping import sweep

pytestmark = pytest.mark.integration

MINE = {"notes.txt": "mine", "eval/scores.json": "0.9", "config.json.kept": "mine, too"}
# Averages in a process that kills itself before it does a certain thing for the n-th time.
AVERAGE = """
import os, signal, sys
from pathlib import Path
from tracksided.checkpoints import publish_directory, renaming, replaced
from tracksided.checkpoints.job import AverageRequest, run_average

directory, before, number, can_exchange = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
places = {
    "take": (publish_directory, "_take_name"),
    "exchange": (publish_directory, "exchange"),
    "hand over": (publish_directory, "hand_over"),
    "move": (replaced, "rename_to_free"),
    "discard": (publish_directory, "discard"),
    "rename": (Path, "rename"),
    "unlink": (Path, "unlink"),
    "rmdir": (Path, "rmdir"),
}
if can_exchange == "no":
    publish_directory.exchange = renaming._rename = lambda *_: False
if len(sys.argv) > 5:
    really_take_name = publish_directory._take_name

    def take_name(temporary, path):  # somebody comes first
        path.mkdir()
        (path / "thesis.txt").write_text(sys.argv[5])
        return really_take_name(temporary, path)

    publish_directory._take_name = take_name
owner, name = places[before]
really, left = getattr(owner, name), [number]

def act(*args, **kwargs):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return really(*args, **kwargs)

setattr(owner, name, act)
run_average(AverageRequest(directory=Path(directory), patterns=("*/",), count=2))
"""


def save_step(directory: Path, step: int) -> None:
    made = directory / f"checkpoint-{step}"
    made.mkdir()
    save_file({"w": torch.full((3,), float(step))}, made / "model.safetensors")
    for name in ("config.json", "generation_config.json"):
        (made / name).write_text(f'"{name} {step}"')


def average(directory: Path) -> None:
    run_average(AverageRequest(directory=directory, patterns=("*/",), count=2))


def average_until_killed(directory: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", AVERAGE, str(directory), *arguments]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def texts(*outputs: Path) -> list[str]:
    return sorted(
        path.read_text()
        for output in outputs
        for path in output.rglob("*")
        if path.is_file() and path.name not in {"model.safetensors", "averaging.json"}
    )


STEPS = [
    ("take", 1),
    ("hand over", 1),
    *(("move", number) for number in range(1, 4)),
    ("discard", 1),
    *(("unlink", number) for number in range(1, 5)),
    ("rmdir", 1),
]


RENAMES = [("exchange", 1, "yes"), *(("rename", number, "no") for number in (1, 2, 3))]


@pytest.mark.parametrize(
    ("before", "number", "can_exchange"),
    [*((*step, way) for step in STEPS for way in ("yes", "no")), *RENAMES],
)
def test_what_others_put_there_outlives_a_kill(
    tmp_path: Path, before: str, number: int, can_exchange: str
) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)
    average(tmp_path)
    output = tmp_path / "averaged"
    (output / "eval").mkdir()
    for name, text in MINE.items():
        (output / name).write_text(text)
    save_step(tmp_path, 3)

    average_until_killed(tmp_path, before, str(number), can_exchange)

    hidden = [tmp_path / name for name in debris(tmp_path)]
    assert set(MINE.values()) <= set(texts(output, *hidden))
    average(tmp_path)
    assert {name: (output / name).read_text() for name in MINE} == MINE
    assert len(texts(output)) == len(MINE) + 2  # none is doubled, none is of an old average
    assert load_file(output / "model.safetensors")["w"].tolist() == [2.5, 2.5, 2.5]
    assert debris(tmp_path) == []
    assert os.listdir(tmp_path / "averaged" / "eval") == ["scores.json"]  # noqa: PTH208 - names


@pytest.mark.parametrize(
    ("before", "number", "can_exchange"),
    [
        *(
            (before, 1, way)
            for before in ("hand over", "discard", "rmdir")
            for way in ("yes", "no")
        ),
        *RENAMES,
    ],
)
def test_a_directory_that_came_meanwhile_outlives_a_kill(
    tmp_path: Path, before: str, number: int, can_exchange: str
) -> None:
    for step in (1, 2):
        save_step(tmp_path, step)

    average_until_killed(tmp_path, before, str(number), can_exchange, "mine")

    hidden = [tmp_path / name for name in debris(tmp_path)]
    assert "mine" in texts(tmp_path / "averaged", *hidden)
    for _ in range(2):  # where it has the name again, it is no average, and in the way
        sweep(tmp_path)
    assert debris(tmp_path) == []
    assert (tmp_path / "averaged" / "thesis.txt").read_text() == "mine"
