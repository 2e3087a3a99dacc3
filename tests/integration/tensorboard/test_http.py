"""A directory that the sink wrote, over the HTTP API of a real TensorBoard."""

import io
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from daemon_process import wait_until
from fake_trainer import make_hello
from PIL import Image
from tensorboard_server import TensorBoardServer

from tracksided.renderers.png import encode
from tracksided.reports import Histogram, Picture, Scalar, StepReport, Text
from tracksided.sinks.tensorboard import TensorBoardSink, truncate_uncommitted

pytestmark = pytest.mark.integration

RUN = "."
IMAGE_TAG = "attention/decoder_layer0_self"
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
    truncate_uncommitted(directory, {commit.file_name: commit.end_offset})
    sink = TensorBoardSink(directory, wall_time=1e9)
    for step in range(300, 2000, 100):
        sink.write(report(step), wall_time=1e9 + step)
    sink.rollback(1900)
    sink.write(report(1900), wall_time=2e9)
    sink.close()
    return directory


@pytest.fixture(scope="module", params=["false", "true"], ids=["python", "rust"])
def server(
    logdir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TensorBoardServer]:
    log = tmp_path_factory.mktemp("log") / "tensorboard.log"
    with TensorBoardServer(logdir, log, request.param) as server:
        wait_until(lambda: "Training/Loss" in server.tags("scalars", RUN))
        wait_until(lambda: len(server.scalars(RUN, "Training/Loss")) == 19)
        yield server


def test_every_step_has_its_scalar_once(server: TensorBoardServer) -> None:
    points = server.get("plugin/scalars/scalars", run=RUN, tag="Training/Loss")

    assert [step for _, step, _ in points] == list(range(100, 2000, 100))
    assert points[1] == [1e9 + 1, 200, pytest.approx(1 / 200)]
    assert points[-1][0] == 2e9  # of the second try


def test_images_are_served_as_they_were_encoded(server: TensorBoardServer) -> None:
    found = server.get("plugin/images/images", run=RUN, tag=IMAGE_TAG, sample=0)

    assert [image["step"] for image in found] == list(range(100, 2000, 100))
    query = dict(urllib.parse.parse_qsl(found[0]["query"]))
    png = server.get("plugin/images/individualImage", **query)
    decoded = np.asarray(Image.open(io.BytesIO(png)))
    assert decoded.shape == (20, 30)
    assert (decoded == 100).all()


def test_texts_are_rendered(server: TensorBoardServer) -> None:
    found = server.get("plugin/text/text", run=RUN, tag="Training/Epoch_Summary")

    assert [text["step"] for text in found] == list(range(100, 2000, 100))
    assert "step <strong>1900</strong>" in found[-1]["text"]


def test_histograms_are_found(server: TensorBoardServer) -> None:
    found = server.get("plugin/histograms/histograms", run=RUN, tag="Gradients/w")

    _, step, buckets = found[0]
    assert step == 100
    assert sum(count for _, _, count in buckets) == 4


def test_the_layout_groups_the_tags(server: TensorBoardServer) -> None:
    layout = server.get("plugin/custom_scalars/layout")

    titles = [category["title"] for category in layout["category"]]
    assert titles[:3] == ["Training", "attention", "Memory"]
    pattern = layout["category"][1]["chart"][0]["multiline"]["tag"][0]
    found = server.get("plugin/custom_scalars/scalars", run=RUN, tag=pattern)
    assert list(found["tag_to_events"]) == ["attention/decoder_layer0_self_entropy"]
