"""Results as serialized TensorBoard events. Imports neither torch nor TensorFlow nor matplotlib."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.histogram_pb2 import HistogramProto
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2

from tracksided.reports import Histogram, Picture, Scalar, Text

FILE_VERSION = "brain.Event:2"
COLOUR_SPACE_RGB = 3
LAYOUT_TAG = "custom_scalars__config__"
FLOAT32_MAX = 3.4028234663852886e38

# Category, then charts by title: regular expressions of tags.
LAYOUT = (
    (
        "Training",
        (
            ("Loss", (r"Training/Loss", r"Epoch/.*[Ll]oss.*")),
            ("Learning rate", (r"Training/Learning_Rate",)),
            ("Gradient norm", (r"Training/GradNorm", r"Training/Gradient_Norm")),
            ("Clip rate", (r"Training/Clip_Rate",)),
            ("Seconds per step", (r"Training/Step_Seconds",)),
        ),
    ),
    (
        "attention",
        (
            ("Entropy", (r"attention/.*_entropy",)),
            ("Standard deviation", (r"attention/.*_std",)),
            ("Mean", (r"attention/.*_mean",)),
        ),
    ),
    (
        "Memory",
        (
            ("Megabytes", (r"Memory/.*_MB",)),
            ("Percent", (r"Memory/.*_Percent",)),
            ("Pressure", (r"Memory/Pressure_Level",)),
        ),
    ),
    (
        "GPU and system",
        (
            ("Utilization", (r"GPU_\d+/Utilization_Percent", r"System/CPU_Percent")),
            ("Memory", (r"GPU_\d+/Memory_Usage_Percent",)),
            ("Temperature", (r"GPU_\d+/Temperature_C",)),
            ("Power", (r"GPU_\d+/Power_W",)),
        ),
    ),
    (
        "Monitoring",
        (
            ("Convergence", (r"Monitoring/Convergence_Score",)),
            ("Loss trend", (r"Monitoring/Loss_Trend",)),
            ("Gradient noise scale", (r"Monitoring/Gradient_Noise_Scale",)),
            ("Gradient cosine", (r"Monitoring/Gradient_Cosine",)),
            ("Ranks", (r"Monitoring/Straggler_Score", r"Monitoring/Step_Time_Skew")),
            ("Distinct weights", (r"Monitoring/Distinct_Weights",)),
        ),
    ),
    ("Epochs", (("All", (r"Epoch/.*",)),)),
    ("Custom", (("All", (r"Custom/.*",)),)),
)


def header(wall_time: float, *, is_first: bool) -> Iterator[bytes]:
    """Yield what a file begins with.

    Args:
        wall_time: Unix seconds.
        is_first: of the directory. Only then a session starts: a later START makes readers
            forget all steps from its own on.
    """
    yield _serialize(Event(wall_time=wall_time, file_version=FILE_VERSION))
    if is_first:
        yield session_start(0, wall_time)
        yield layout(wall_time)


def session_start(step: int, wall_time: float) -> bytes:
    """Build the event that makes readers forget this step and all after it."""
    log = SessionLog(status=SessionLog.START)
    return _serialize(Event(wall_time=wall_time, step=step, session_log=log))


def layout(wall_time: float) -> bytes:
    """Build the layout of the custom-scalars page."""
    categories = [
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(
                    title=name, multiline=layout_pb2.MultilineChartContent(tag=patterns)
                )
                for name, patterns in charts
            ],
        )
        for title, charts in LAYOUT
    ]
    content = layout_pb2.Layout(category=categories).SerializeToString()
    return _event(0, wall_time, [_string_value(LAYOUT_TAG, "custom_scalars", content)])


def scalar_events(scalars: Iterable[Scalar], wall_time: float) -> Iterator[bytes]:
    """Yield one event per run of scalars with the same step."""
    for step, group in groupby(scalars, key=lambda scalar: scalar.step):
        values = [Summary.Value(tag=s.tag, simple_value=_single(s.value)) for s in group]
        yield _event(step, wall_time, values)


def text_events(texts: Iterable[Text], wall_time: float) -> Iterator[bytes]:
    """Yield one event per text; lone surrogates become question marks."""
    for text in texts:
        content = text.text.encode(errors="replace")
        yield _event(text.step, wall_time, [_string_value(text.tag, "text", content)])


def histogram_events(histograms: Iterable[Histogram], wall_time: float) -> Iterator[bytes]:
    """Yield one event per histogram."""
    for histogram in histograms:
        proto = HistogramProto(
            min=histogram.minimum,
            max=histogram.maximum,
            num=float(histogram.counts.sum()),
            sum=histogram.total,
            sum_squares=histogram.sum_squares,
            bucket_limit=histogram.edges[1:].tolist(),
            bucket=histogram.counts.tolist(),
        )
        yield _event(histogram.step, wall_time, [Summary.Value(tag=histogram.tag, histo=proto)])


def picture_events(pictures: Iterable[Picture], step: int, wall_time: float) -> Iterator[bytes]:
    """Yield one event per picture that has a tag; its PNG goes in as it is.

    Args:
        pictures: those without a tag are passed over.
        step: under which they stand.
        wall_time: Unix time in seconds.
    """
    for picture in pictures:
        if picture.tag is not None:
            image = Summary.Image(
                height=picture.height_px,
                width=picture.width_px,
                colorspace=COLOUR_SPACE_RGB,
                encoded_image_string=picture.png,
            )
            yield _event(step, wall_time, [Summary.Value(tag=picture.tag, image=image)])


def _single(value: float) -> float:
    """Keep a number that float32 cannot hold from being refused: it becomes infinite."""
    return value if not abs(value) > FLOAT32_MAX else math.copysign(math.inf, value)


def _string_value(tag: str, plugin: str, content: bytes) -> Summary.Value:
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name=plugin),
        data_class=DATA_CLASS_TENSOR,
    )
    tensor = TensorProto(dtype=DT_STRING, string_val=[content])
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _event(step: int, wall_time: float, values: Sequence[Summary.Value]) -> bytes:
    return _serialize(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))


def _serialize(event: Event) -> bytes:
    return bytes(event.SerializeToString())
