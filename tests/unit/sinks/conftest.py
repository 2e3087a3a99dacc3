"""A report with one of everything, and TensorBoard's own reader."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from fake_trainer import make_hello

from trackside.wire.records import Hello
from tracksided.renderers.png import encode
from tracksided.reports import Histogram, Picture, Scalar, StepReport, Text


@pytest.fixture
def hello() -> Hello:
    return make_hello(Path("/nowhere"))


@pytest.fixture
def make_report(hello: Hello) -> Callable[..., StepReport]:
    def make(step: int, **scalars: float) -> StepReport:
        values = scalars or {"Training/Loss": step / 10}
        image = np.full((20, 30), step % 200, dtype=np.uint8)
        return StepReport(
            hello=hello,
            step=step,
            statistics={},
            history={},
            scalars=tuple(Scalar(tag, value, step) for tag, value in values.items()),
            texts=(Text("Training/Epoch_Summary", f"**step** {step}", step),),
            histograms=(
                Histogram(
                    tag="Gradients/w",
                    edges=np.array([0.0, 1.0, 2.0]),
                    counts=np.array([3.0, 1.0]),
                    minimum=0.0,
                    maximum=2.0,
                    total=3.5,
                    sum_squares=5.0,
                    step=step,
                ),
            ),
            pictures=(
                Picture("a.png", "attention/decoder_layer0_self", encode(image), 30, 20),
                Picture("b.png", None, encode(image), 30, 20),
            ),
        )

    return make


@pytest.fixture
def read_scalars() -> Callable[[Path], Mapping[str, list[tuple[int, float]]]]:
    """Read all scalars of a directory as TensorBoard shows them: step and value, by tag."""

    def read(directory: Path) -> Mapping[str, list[tuple[int, float]]]:
        accumulator = _accumulator(directory)
        return {
            tag: [(e.step, float(e.tensor_proto.float_val[0])) for e in accumulator.Tensors(tag)]
            for tag in _tags_of(accumulator, "scalars")
        }

    return read


@pytest.fixture
def accumulate() -> Callable[[Path], object]:
    return _accumulator


def _tags_of(accumulator: object, plugin: str) -> Iterator[str]:
    for tag in accumulator.Tags()["tensors"]:
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == plugin:
            yield tag


def _accumulator(directory: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing import (  # noqa: PLC0415 - slow, and it warns
            plugin_event_accumulator,
        )

        accumulator = plugin_event_accumulator.EventAccumulator(
            str(directory), size_guidance={"tensors": 0}
        )
        accumulator.Reload()
    return accumulator
