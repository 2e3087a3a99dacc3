"""A directory that the sink wrote, over the HTTP API of a real TensorBoard."""

import io
import json
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_trainer import make_hello
from PIL import Image

from tracksided.renderers.png import encode
from tracksided.reports import Histogram, Picture, Scalar, StepReport, Text
from tracksided.sinks.tensorboard import TensorBoardSink, truncate_uncommitted

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
POLL_S = 0.02
IMAGE_TAG = "attention/decoder_layer0_self"
Get = Callable[..., object]

HELLO = make_hello(Path("/nowhere"))


def report(step: int) -> StepReport:
    image = np.full((20, 30), step % 200, dtype=np.uint8)
    return StepReport(
        hello=HELLO,
        step=step,
        statistics={},
        history={},
        scalars=(
            Scalar("Training/Loss", 1 / step, step),
            Scalar("attention/decoder_layer0_self_entropy", 2.0, step),
        ),
        texts=(Text("Training/Epoch_Summary", f"step **{step}**", step),),
        histograms=(
            Histogram(
                "Gradients/w", np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.0]), 0, 2, 3, 5, step
            ),
        ),
        pictures=(Picture("a.png", IMAGE_TAG, encode(image), 30, 20),),
    )


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lives of a daemon; the first one was killed with step 300 uncommitted."""
    directory = tmp_path_factory.mktemp("run") / "tensorboard"
    sink = TensorBoardSink(directory, wall_time=1e9)
    sink.write(report(100), wall_time=1e9)
    commit = sink.write(report(200), wall_time=1e9 + 1)
    sink.write(report(300), wall_time=1e9 + 2)
    sink.close()
    truncate_uncommitted(directory, commit)
    sink = TensorBoardSink(directory, wall_time=1e9)
    for step in range(300, 2000, 100):
        sink.write(report(step), wall_time=1e9 + step)
    sink.rollback(1900)
    sink.write(report(1900), wall_time=2e9)
    sink.close()
    return directory


@pytest.fixture(scope="module")
def get(logdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    log = tmp_path_factory.mktemp("log") / "tensorboard.log"
    command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main"]
    options = ["--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    options += ["--load_fast", "false", "--samples_per_plugin", "images=100"]
    with log.open("wb") as file:
        server = subprocess.Popen([*command, *options], stdout=file, stderr=file)
    try:
        base = _address(log, server)

        def get(route: str, **query: str | int) -> object:
            address = f"{base}/data/{route}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(address, timeout=DEADLINE_S) as response:  # noqa: S310
                content = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return json.loads(content) if is_json else content

        _wait_for(lambda: get("runs") == ["."])
        yield get
    finally:
        server.terminate()
        server.wait(timeout=DEADLINE_S)


def _address(log: Path, server: subprocess.Popen[bytes]) -> str:
    found: list[str] = []

    def is_up() -> bool:
        assert server.poll() is None, log.read_text()
        found[:] = re.findall(r"http://127\.0\.0\.1:\d+", log.read_text())
        return bool(found)

    _wait_for(is_up)
    return found[0]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(POLL_S)


def test_every_step_has_its_scalar_once(get: Get) -> None:
    points = get("plugin/scalars/scalars", run=".", tag="Training/Loss")

    assert [step for _, step, _ in points] == list(range(100, 2000, 100))
    assert points[1] == [1e9 + 1, 200, pytest.approx(1 / 200)]


def test_images_are_served_as_they_were_encoded(get: Get) -> None:
    found = get("plugin/images/images", run=".", tag=IMAGE_TAG, sample=0)

    assert [image["step"] for image in found] == list(range(100, 2000, 100))
    query = dict(urllib.parse.parse_qsl(found[0]["query"]))
    png = get("plugin/images/individualImage", **query)
    decoded = np.asarray(Image.open(io.BytesIO(png)))
    assert decoded.shape == (20, 30)
    assert (decoded == 100).all()


def test_texts_are_rendered(get: Get) -> None:
    found = get("plugin/text/text", run=".", tag="Training/Epoch_Summary")

    assert "step <strong>1900</strong>" in found[-1]["text"]  # the newest is always kept


def test_histograms_are_found(get: Get) -> None:
    found = get("plugin/histograms/histograms", run=".", tag="Gradients/w")

    _, step, buckets = found[0]
    assert step == 100
    assert sum(count for _, _, count in buckets) == 4


def test_the_layout_groups_the_tags(get: Get) -> None:
    layout = get("plugin/custom_scalars/layout")

    titles = [category["title"] for category in layout["category"]]
    assert titles[:3] == ["Training", "attention", "Memory"]
    pattern = layout["category"][1]["chart"][0]["multiline"]["tag"][0]
    found = get("plugin/custom_scalars/scalars", run=".", tag=pattern)
    assert list(found["tag_to_events"]) == ["attention/decoder_layer0_self_entropy"]
