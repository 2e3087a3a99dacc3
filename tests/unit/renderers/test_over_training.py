"""Pictures of a whole run: the animation and the entropy by layer and step."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from tracksided.catalog import RENDERERS, RUN_RENDERERS
from tracksided.renderers.animation import MAX_FRAMES, Animation
from tracksided.renderers.apng import animate, read_frame
from tracksided.renderers.entropy import EntropyByLayer
from tracksided.renderers.head_map import HeadMap
from tracksided.renderers.palette import WHITE, palette_bytes
from tracksided.renderers.png import HEADER, SIGNATURE, chunk, encode
from tracksided.renderers.thinning import thinned
from tracksided.reports import Picture
from tracksided.runs import OVERVIEW_WORDS
from tracksided.stages import AttentionMap, RecordedStep, StepData

MakeMap = Callable[..., AttentionMap]
MakeStep = Callable[..., StepData]
Decode = Callable[[Picture], np.ndarray]


@dataclass
class FakeRun:
    """Steps with their lines of history and their files."""

    lines: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    contents: Mapping[int, Mapping[str, bytes]] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[RecordedStep, ...]:
        return tuple(RecordedStep(s, f"step_{s}") for s in sorted({*self.lines, *self.contents}))

    def line(self, step: RecordedStep) -> Mapping[str, Any]:
        return self.lines[step.step]

    def files(self, step: RecordedStep) -> Sequence[str]:
        return tuple(self.contents.get(step.step, ()))

    def read(self, step: RecordedStep, file_name: str) -> bytes | None:
        return self.contents[step.step].get(file_name)


def indices(shade: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width), shade, dtype=np.uint8)


def frames_of(png: bytes) -> list[np.ndarray]:
    """Decode an animation by the means of Pillow."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.is_animated
        found = []
        for index in range(image.n_frames):
            image.seek(index)
            found.append(np.asarray(image.convert("RGB")))
        return found


def rgb(image: np.ndarray) -> np.ndarray:
    with Image.open(io.BytesIO(encode(image))) as decoded:
        return np.asarray(decoded.convert("RGB"))


def layer(number: int, value: float | None, kind: str = "self_attention") -> dict[str, object]:
    return {"layer": number, "type": kind, "normalized_entropy": value}


def test_the_daemon_asks_for_an_overview_where_a_renderer_wants_one() -> None:
    assert {renderer.name for renderer in RUN_RENDERERS} == set(OVERVIEW_WORDS)
    assert {renderer.name for renderer in RENDERERS} & set(OVERVIEW_WORDS) == {"animation"}


@pytest.mark.parametrize("renderer", RUN_RENDERERS, ids=lambda r: r.name)
def test_a_run_with_nothing_to_draw_yields_nothing(
    renderer: Animation | EntropyByLayer,
) -> None:
    assert list(renderer.render(FakeRun())) == []
    lines = {1: {"step": 1}, 2: {"attention": {"decoder": [layer(0, None)]}}}
    assert list(renderer.render(FakeRun(lines))) == []


def test_frames_come_back_as_they_were() -> None:
    images = [indices(shade) for shade in (0, 100, 223)]
    images[1][5, 7] = 9

    png, width, height = animate([read_frame(encode(image)) for image in images])

    assert (width, height) == (60, 40)
    for found, expected in zip(frames_of(png), images, strict=True):
        np.testing.assert_array_equal(found, rgb(expected))


def test_smaller_frames_get_white_around_them() -> None:
    images = [indices(3, 20, 30), indices(7, 40, 25)]

    png, width, height = animate([read_frame(encode(image)) for image in images])

    assert (width, height) == (30, 40)
    for found, image in zip(frames_of(png), images, strict=True):
        expected = np.full((40, 30), WHITE, dtype=np.uint8)
        expected[: image.shape[0], : image.shape[1]] = image
        np.testing.assert_array_equal(found, rgb(expected))


def other_palette() -> bytes:
    file = io.BytesIO()
    Image.fromarray(indices(1)).convert("P").save(file, format="png")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", encode(indices(1))[:50], encode(indices(1))[:-400], other_palette()],
    ids=["empty", "gif", "no header", "torn", "another palette"],
)
def test_what_is_not_our_picture_is_no_frame(content: bytes) -> None:
    frame = read_frame(content)

    assert frame is None or frame.compressed == b""


def picture_of(head: bytes, *more: tuple[bytes, bytes]) -> bytes:
    parts = ((b"IHDR", head), (b"PLTE", palette_bytes()), *more)
    return SIGNATURE + b"".join(chunk(name, content) for name, content in parts)


@pytest.mark.parametrize(
    ("head", "is_one"),
    [
        (HEADER.pack(9, 9, 8, 3, 0, 0, 0), True),
        (HEADER.pack(0, 9, 8, 3, 0, 0, 0), False),
        (HEADER.pack(9, 1 << 20, 8, 3, 0, 0, 0), False),
        (HEADER.pack(9, 9, 4, 3, 0, 0, 0), False),
        (HEADER.pack(9, 9, 8, 3, 0, 0, 1), False),
        (b"short", False),
    ],
    ids=["ours", "no width", "too high", "another depth", "interlaced", "short"],
)
def test_a_header_of_another_kind_is_no_frame(head: bytes, *, is_one: bool) -> None:
    content = (b"IDAT", b"compressed")

    assert (read_frame(picture_of(head, content)) is not None) == is_one
    assert read_frame(picture_of(head)) is None  # without content


def test_a_damaged_frame_is_refused_where_it_must_be_opened() -> None:
    sound, torn = (read_frame(encode(indices(1, 20, side))) for side in (30, 20))
    torn = type(torn)(torn.width_px, torn.height_px, torn.compressed[:4])

    with pytest.raises(ValueError, match="frame"):
        animate([sound, torn])


def test_the_animation_shows_one_head_in_every_step(
    make_map: MakeMap, make_step: MakeStep, decode: Decode
) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        step: next(
            iter(
                HeadMap().render(
                    make_step(
                        [make_map(rng.dirichlet(np.ones(5), (3, 5)), heads=(4, 6, 7))], step=step
                    )
                )
            )
        )
        for step in (100, 200, 300)
    }
    contents = {step: {p.file_name: p.png, "x.png": b""} for step, p in pictures.items()}

    (picture,) = Animation().render(FakeRun(contents=contents))

    assert picture.file_name == "decoder_layer0_self_attn_head4.png"
    for found, expected in zip(frames_of(picture.png), pictures.values(), strict=True):
        np.testing.assert_array_equal(found, decode(expected))


def test_a_long_run_is_thinned_evenly_to_its_ends() -> None:
    name = "decoder_layer0_self_attn_head0.png"
    contents = {step: {name: encode(indices(step % 200))} for step in range(1, 1001)}

    (picture,) = Animation().render(FakeRun(contents=contents))

    shades = [int(np.unique(f[:, :, 1])[0]) for f in frames_of(picture.png)]
    assert len(shades) == MAX_FRAMES
    assert shades[0] == rgb(indices(1))[0, 0, 1]
    assert shades[-1] == rgb(indices(0))[0, 0, 1]  # step 1000


@pytest.mark.parametrize(("length", "limit"), [(3, 5), (5, 5), (6, 5), (1000, 7), (100, 99)])
def test_thinning_keeps_ends_and_even_gaps(length: int, limit: int) -> None:
    found = thinned(range(length), limit)

    gaps = np.diff(found)
    assert len(found) == min(length, limit)
    assert (found[0], found[-1]) == (0, length - 1)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_a_lost_picture_costs_its_frame_only() -> None:
    name = "encoder_layer3_self_attn_head0.png"
    contents = {s: {name: encode(indices(s))} for s in (1, 2, 3)} | {4: {}, 5: {name: b"torn"}}

    (picture,) = Animation().render(FakeRun(contents=contents))

    assert len(frames_of(picture.png)) == 3


def test_entropy_has_a_cell_per_layer_and_step(decode: Decode) -> None:
    values = {10: (0.0, 0.25, 1.0), 20: (0.5, None, 0.75)}
    lines = {
        step: {"attention": {"decoder": [layer(i, v) for i, v in enumerate(row)]}}
        for step, row in values.items()
    }

    (picture,) = EntropyByLayer().render(FakeRun(lines))

    assert (picture.file_name, picture.tag) == ("entropy.png", None)
    pixels = decode(picture)
    cells = _cells(pixels, rows=3, columns=2)
    for column, row in enumerate(values.values()):
        for index, value in enumerate(row):
            found = cells[index, column].tolist()
            if value is None:
                assert len(set(found)) == 1  # grey
            else:
                shade = colormaps["viridis"](round(value * 223) / 223)[:3]
                assert found == [round(255 * part) for part in shade]


def _cells(pixels: np.ndarray, *, rows: int, columns: int) -> np.ndarray:
    """Return the middle pixel of each cell of the first panel, found by its frame."""
    is_black = (pixels == 0).all(axis=2)
    top, bottom = np.flatnonzero(is_black.sum(axis=1) > 500)[[0, 1]]
    left = int(np.flatnonzero(is_black[top])[0])
    right = left + 513  # 512 pixels and the line
    assert is_black[top : bottom + 1, [left, right]].all()
    rows_at = top + 1 + (np.arange(rows) * 2 + 1) * (bottom - top - 1) // (2 * rows)
    columns_at = left + 1 + (np.arange(columns) * 2 + 1) * 512 // (2 * columns)
    return pixels[np.ix_(rows_at, columns_at)]


def test_stacks_and_kinds_have_panels_of_their_own(decode: Decode) -> None:
    line = {
        "attention": {
            "encoder": [layer(0, 0.5), layer(5, 0.5)],
            "decoder": [layer(0, 0.5), layer(0, 0.5, "cross_attention")],
        }
    }

    (picture,) = EntropyByLayer().render(FakeRun({1: line, 2: line}))

    is_black = (decode(picture) == 0).all(axis=2)
    frames = np.flatnonzero(is_black.sum(axis=1) > 500)
    heights = np.diff(frames)[::2] - 1
    assert heights.tolist() == [104, 104, 104]
