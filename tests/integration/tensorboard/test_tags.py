"""Every tag of the contract, from records to the HTTP API of a real TensorBoard, by both loaders.

The run behind it: two ranks; the daemon is killed after step 30 and started again; the trainers
are killed after step 50 and begin again at step 30, with another loss. What a reader must see are
steps 10 and 20 of the first try, 30 and 40 of the second, and nothing of 50.

A new tag takes one line in `SCALARS`, `MACHINE`, `LONG_RUN`, `TEXTS`, `IMAGES` or `HISTOGRAMS`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_attention, make_hello
from safetensors.numpy import save_file
from tensorboard_server import TensorBoardServer
from written import history, load

from trackside.wire.records import LoggedScalar, LoggedText

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STEPS = [10, 20, 30, 40]
RUN = "run/tensorboard"
LONG = "long/tensorboard"
MEASURED = "measured/tensorboard"
SECOND_TRY = 100.0  # added to the losses of the second try
SHAPE = (2, 6, 4)

Statistics = Mapping[int, Mapping[str, Any]]
"""Step to its ``statistics.json``."""

Value = Callable[[int, Mapping[str, Any]], float]


def of_map(stack: str, index: int, key: str) -> Value:
    return lambda _, statistics: statistics[stack][index][key]


# Tag to its value, from the step and its statistics.json.
SCALARS: dict[str, Value] = {
    "Training/Loss": lambda step, _: 10 / step + (SECOND_TRY if step >= 30 else 0),
    "Training/Learning_Rate": lambda *_: 0.001,
    "Training/GradNorm": lambda *_: 2.0,
    "Training/Gradient_Norm": lambda *_: 1.0,
    "Training/Clip_Rate": lambda *_: 0.5,
    "Training/Epoch": lambda step, _: step // 20,
    "Training/Step_Seconds": lambda *_: 0.1,
    # b = 1, B = 2: |G|^2 = 2 * 2^2 - 2.5^2, tr = (2.5^2 - 2^2) / (1 - 1/2)
    "Monitoring/Gradient_Noise_Scale": lambda *_: 4.5 / 1.75,
    "Monitoring/Straggler_Score": lambda *_: 1.0,  # ranks take equally long
    "Monitoring/Step_Time_Skew": lambda *_: 0.0,
    "Monitoring/Distinct_Weights": lambda *_: 1.0,  # and have equal weights
    "Custom/accuracy": lambda *_: 0.25,
    "Eval/Loss": lambda step, _: step / 2,
    "Dataset/samples": lambda *_: 50_000,
    **{
        f"attention/{tag}_{key}": of_map(stack, index, key)
        for tag, stack, index in (
            ("encoder_layer0", "encoder", 0),
            ("decoder_layer0_self", "decoder", 0),
            ("decoder_layer0_cross", "decoder", 1),
        )
        for key in ("mean", "std", "entropy")
    },
}
# What only the machine knows, of a third run that goes on until all is: tag to its limits.
MACHINE = {
    "Memory/Process_RSS_MB": (1, 1e7),
    "Memory/Host_Percent": (0, 100),
    "Memory/Pressure_Level": (0, 3),
    "System/CPU_Percent": (0, 100),
}
# Those that have no point at every step: tag to its points.
SINGLE_SCALARS = {
    # Epoch 0 has step 10, epoch 1 steps 20 and 30, epoch 2 step 40; a step a second.
    "Epoch/Loss": [(10, 1.0), (30, (0.5 + 10 / 30 + SECOND_TRY) / 2), (40, 0.25 + SECOND_TRY)],
    "Epoch/Loss_Min": [(10, 1.0), (30, 0.5), (40, 0.25 + SECOND_TRY)],
    "Epoch/Learning_Rate": [(10, 0.001), (30, 0.001), (40, 0.001)],
    "Epoch/Gradient_Norm": [(10, 2.0), (30, 2.0), (40, 2.0)],
    "Epoch/Clip_Rate": [(10, 0.5), (30, 0.5), (40, 0.5)],
    "Epoch/Sampled_Steps": [(10, 1.0), (30, 2.0), (40, 1.0)],
    "Epoch/Seconds": [(10, 0.0), (30, 10.0), (40, 0.0)],
    "Config/Sequence_Length": [(10, 6.0), (30, 6.0)],
    "Config/Gradient_Accumulation_Steps": [(10, 1.0), (30, 1.0)],
    "Final/Loss": [(45, 0.5)],
    "Final/Best_Loss": [(45, 0.5)],
    "Final/Steps": [(45, 45.0)],
    "Final/Sampled_Steps": [(45, 2.0)],
    "Final/Dropped": [(45, 0.0)],
    "Checkpoints/Averaged": [(3, 3.0)],
}
# What takes ten steps to be known, of a second run with twelve: tag to first step and limits.
LONG_RUN = {
    "Monitoring/Convergence_Score": (10, 0.0, 1.0),
    "Monitoring/Loss_Trend": (10, -1.0, 0.0),  # the loss falls, and stays above 0
    "Monitoring/Gradient_Cosine": (2, -1.0, 1.0),
    "Final/Convergence_Score": (12, 0.0, 1.0),
}
# Depends on the machine, or on what came before a restart of the daemon.
OPTIONAL = re.compile(r"GPU_\d+/.*|Memory/.*|System/.*|Monitoring/Gradient_Cosine")
TEXTS = {
    "Training/Epoch_Summary": "Mean gradient norm",
    "Config/Training_Settings": "every 10 steps",
    "Custom/summary": "summary of <strong>40</strong>",
    "Training/Final_Summary": "finished",
    "Dataset/Summary": "wikitext",
    "Checkpoints/Sources": "model_step_1.safetensors",
    "Custom/note": "a note",
}
IMAGES = {
    *(
        f"attention/{name}{kind}"
        for name in ("encoder_layer0_self", "decoder_layer0_self", "decoder_layer0_cross")
        for kind in ("", "_heads")
    ),
    "attention/encoder_layer_comparison",
    "attention/decoder_layer_comparison",
    "attention/decoder_cross_layer_comparison",
    "Training/Gradient_Flow",
}
HISTOGRAMS = {
    f"{group}/{name}": 3
    for group in ("Gradients", "Model/Weights_Distribution")
    for name in ("embed.weight", "head.weight")
}


class Ranks:
    """Two ranks of one try."""

    def __init__(self, shm_dir: Path, out: Path, checkpoints: Path, attempt: int) -> None:
        words = ("heatmap", "statistics", "multi_head", "layer_comparison", "gradient_flow")
        hello = make_hello(
            out,
            attempt=attempt,
            world_size=2,
            local_world_size=2,
            visualize=words,
            checkpoints=(str(checkpoints),),
        )
        self._attempt = attempt
        self._ranks = [
            FakeRank(
                shm_dir, replace(hello, rank=rank, local_rank=rank), nonce=f"a{attempt}r{rank}"
            )
            for rank in (0, 1)
        ]

    def publish(self, step: int) -> None:
        loss = 10 / step + SECOND_TRY * self._attempt
        fields: dict[str, Any] = {"loss": loss, "epoch": step // 20}
        calls = (
            replace(make_attention(), stack="encoder", is_causal=False),
            make_attention(),
            replace(make_attention(), type="cross_attention", is_causal=False),
        )
        random = np.random.default_rng(step)
        arrays = {
            f"attention/{index}/{name}": random.standard_normal(SHAPE, dtype=np.float32)
            for index in range(len(calls))
            for name in ("query", "key")
        }
        scalars = {"accuracy": 0.25, "Eval/Loss": step / 2, "Dataset/samples": 50_000.0}
        texts = {
            "summary": f"summary of **{step}**",
            "Dataset/Summary": "| source | wikitext |",
            "note": "a note",
        }
        self._ranks[0].publish(
            step,
            arrays=arrays,
            attention=calls,
            scalars=tuple(LoggedScalar(step=step, name=n, value=v) for n, v in scalars.items()),
            texts=tuple(LoggedText(step=step, tag=tag, text=text) for tag, text in texts.items()),
            **fields,
        )
        self._ranks[1].publish(step, scalars=(), **fields)

    def close(self) -> None:
        for rank in self._ranks:
            rank.close(steps=45)

    def abandon(self) -> None:
        for rank in self._ranks:
            rank.abandon()


def committed(out: Path) -> int:
    path = out / "history.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_measured(out: Path, rank: FakeRank) -> bool:
    """Publish a step; tell whether the machine was known well enough at the one before."""
    count = committed(out)
    rank.publish(count + 1)
    wait_until(lambda: committed(out) > count)
    host = history(out)[-1]["host"] or {}
    return host.get("cpu_percent") is not None and bool(host.get("processes"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tell the story; return the directory in which the run has its own."""
    parent = tmp_path_factory.mktemp("runs")
    shm_dir = tmp_path_factory.mktemp("shm")
    shm_dir.chmod(0o700)
    out, checkpoints = parent / "run", tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2, 3):
        weights = {"w": np.full(4, float(step), dtype=np.float32)}
        save_file(weights, checkpoints / f"model_step_{step}.safetensors")
    daemon = DaemonProcess(shm_dir, tmp_path_factory.mktemp("log") / "daemon.log")
    try:
        daemon.start()
        first = Ranks(shm_dir, out, checkpoints, attempt=0)
        for step in (10, 20, 30):
            first.publish(step)
        wait_until(lambda: committed(out) == 3)
        daemon.kill()
        daemon.start()
        for step in (40, 50):
            first.publish(step)
        wait_until(lambda: committed(out) == 5)
        first.abandon()
        second = Ranks(shm_dir, out, checkpoints, attempt=1)
        for step in (30, 40):
            second.publish(step)
        second.close()
        long = FakeRank(shm_dir, make_hello(parent / "long", run="long"), nonce="long")
        for step in range(1, 13):
            long.publish(step)
        long.close(steps=12)
        measured = FakeRank(
            shm_dir, make_hello(parent / "measured", run="m", visualize=()), nonce="m"
        )
        wait_until(lambda: is_measured(parent / "measured", measured))
        measured.close()
        wait_until(lambda: not list(shm_dir.glob("*.ring")))
        daemon.stop()
    finally:
        daemon.kill()
    return parent


@pytest.fixture(scope="module")
def statistics(directory: Path) -> Statistics:
    return {step: load(directory / "run" / f"step_{step}" / "statistics.json") for step in STEPS}


@pytest.fixture(scope="module", params=["false", "true"], ids=["python", "rust"])
def server(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TensorBoardServer]:
    log = tmp_path_factory.mktemp("log") / "tensorboard.log"
    with TensorBoardServer(directory, log, request.param) as server:
        for run in (RUN, LONG, MEASURED):
            wait_until(lambda run=run: "Final/Steps" in server.tags("scalars", run))
        yield server


@pytest.mark.parametrize("tag", SCALARS)
def test_scalar_has_one_point_at_every_step_that_counts(
    server: TensorBoardServer, statistics: Statistics, tag: str
) -> None:
    found = server.scalars(RUN, tag)

    assert [step for step, _ in found] == STEPS
    expected = [SCALARS[tag](step, statistics[step]) for step in STEPS]
    assert [point for _, point in found] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tag", MACHINE)
def test_reading_of_the_machine_is_shown_where_it_is_known(
    server: TensorBoardServer, tag: str
) -> None:
    found = server.scalars(MEASURED, tag)

    low, high = MACHINE[tag]
    assert found
    assert all(low <= value <= high for _, value in found)


@pytest.mark.parametrize("tag", SINGLE_SCALARS)
def test_scalar_has_its_few_points(server: TensorBoardServer, tag: str) -> None:
    found = server.scalars(RUN, tag)

    assert [step for step, _ in found] == [step for step, _ in SINGLE_SCALARS[tag]]
    expected = [value for _, value in SINGLE_SCALARS[tag]]
    assert [value for _, value in found] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("tag", LONG_RUN)
def test_what_takes_some_steps_to_know_is_shown(server: TensorBoardServer, tag: str) -> None:
    found = server.scalars(LONG, tag)

    first, low, high = LONG_RUN[tag]
    assert [step for step, _ in found] == list(range(first, 13))
    assert all(low <= value <= high for _, value in found)


@pytest.mark.parametrize("tag", TEXTS)
def test_text_is_shown(server: TensorBoardServer, tag: str) -> None:
    found = server.get("plugin/text/text", run=RUN, tag=tag)

    assert TEXTS[tag] in found[-1]["text"]
    # One at every step, epoch or start, or one at all; nothing of the abandoned step 50.
    steps = [entry["step"] for entry in found]
    assert len(steps) == 1 or steps in (STEPS, [10, 30, 40], [10, 30])


@pytest.mark.parametrize("tag", sorted(IMAGES))
def test_image_is_the_one_in_the_folder_of_its_step(
    server: TensorBoardServer, directory: Path, tag: str
) -> None:
    found = server.get("plugin/images/images", run=RUN, tag=tag, sample=0)

    assert [image["step"] for image in found] == STEPS
    for image in found:
        query = dict(part.split("=") for part in image["query"].split("&"))
        png = server.get("plugin/images/individualImage", **query)
        folder = directory / "run" / f"step_{image['step']}"
        assert png in [path.read_bytes() for path in folder.glob("*.png")]


@pytest.mark.parametrize("tag", HISTOGRAMS)
def test_histogram_counts_its_elements(server: TensorBoardServer, tag: str) -> None:
    found = server.get("plugin/histograms/histograms", run=RUN, tag=tag)

    assert [step for _, step, _ in found] == STEPS
    for _, _, buckets in found:
        assert sum(count for _, _, count in buckets) == HISTOGRAMS[tag]


@pytest.mark.parametrize(
    ("plugin", "known"),
    [
        ("scalars", {*SCALARS, *SINGLE_SCALARS}),
        ("text", set(TEXTS)),
        ("images", IMAGES),
        ("histograms", set(HISTOGRAMS)),
    ],
)
def test_every_tag_is_in_a_table(server: TensorBoardServer, plugin: str, known: set[str]) -> None:
    found = {tag for tag in server.tags(plugin, RUN) if not OPTIONAL.fullmatch(tag)}

    assert found == known


def test_every_curve_has_its_place_on_the_custom_page(server: TensorBoardServer) -> None:
    layout = server.get("plugin/custom_scalars/layout")
    patterns = [
        re.compile(pattern)
        for category in layout["category"]
        for chart in category["chart"]
        for pattern in chart["multiline"]["tag"]
    ]

    # What is logged once, or under a group of the user's own, is on the page of all scalars.
    elsewhere = re.compile(r"Eval/.*|Dataset/.*|Final/.*|Config/.*|Checkpoints/.*|Training/Epoch")
    missing = {
        tag
        for tag in server.tags("scalars", RUN)
        if not elsewhere.fullmatch(tag) and not any(p.fullmatch(tag) for p in patterns)
    }
    assert missing == set()
    found = server.get("plugin/custom_scalars/scalars", run=RUN, tag=r"attention/.*_entropy")
    assert len(found["tag_to_events"]) == 3
