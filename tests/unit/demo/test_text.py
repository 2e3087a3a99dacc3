from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.demo.text import HELD_OUT_EVERY, even_batches, load_corpus, random_batches
from tracksided.errors import SettingsError


def write_sources(root: Path, num_files: int, num_bytes: int) -> None:
    for index in range(num_files):
        path = root / f"package{index % 3}" / f"module{index:03d}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([index]) * num_bytes)


def test_training_and_held_out_files_are_disjoint(tmp_path: Path) -> None:
    write_sources(tmp_path, num_files=40, num_bytes=10_000)

    corpus = load_corpus(tmp_path)

    assert len(corpus.held_out_files) == 40 // HELD_OUT_EVERY
    assert not set(corpus.train_files) & set(corpus.held_out_files)
    assert not set(np.unique(corpus.train)) & set(np.unique(corpus.held_out))
    assert len(corpus.train) + len(corpus.held_out) == 40 * 10_000


def test_the_text_is_that_of_the_files_in_order_of_their_paths(tmp_path: Path) -> None:
    write_sources(tmp_path, num_files=40, num_bytes=10_000)

    corpus = load_corpus(tmp_path)

    assert list(corpus.train_files) == sorted(corpus.train_files)
    assert corpus.train.tobytes() == b"".join(path.read_bytes() for path in corpus.train_files)


def test_the_text_is_bounded(tmp_path: Path) -> None:
    write_sources(tmp_path, num_files=40, num_bytes=10_000)

    corpus = load_corpus(tmp_path, max_bytes=255_000)

    assert len(corpus.train) + len(corpus.held_out) == 255_000


@pytest.mark.parametrize("folder", ["test", "site-packages", "package/tests"])
def test_tests_and_installed_packages_are_left_out(tmp_path: Path, folder: str) -> None:
    write_sources(tmp_path, num_files=40, num_bytes=10_000)
    other = tmp_path / folder / "other.py"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x" * 10_000)

    corpus = load_corpus(tmp_path)

    assert other not in corpus.train_files + corpus.held_out_files


def test_too_little_text_is_an_error_that_names_the_directory(tmp_path: Path) -> None:
    write_sources(tmp_path, num_files=5, num_bytes=100)

    with pytest.raises(SettingsError, match=f"{tmp_path.name} holds 500 bytes"):
        load_corpus(tmp_path)


def test_equal_seeds_yield_equal_batches_and_other_seeds_others() -> None:
    text = np.arange(200, dtype=np.uint8)

    first, again, other = (
        next(random_batches(text, batch_size=4, length=9, seed=seed))
        for seed in ((0, 0), (0, 0), (0, 1))
    )

    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_every_window_is_a_stretch_of_the_text(length: int, seed: int) -> None:
    text = np.arange(40, dtype=np.uint8)

    batch = next(random_batches(text, batch_size=3, length=length, seed=(seed,)))

    assert batch.shape == (3, length)
    for window in batch:
        assert list(window) == list(range(window[0], window[0] + length))
        assert window[-1] < 40


def test_even_batches_reach_from_the_first_byte_to_the_last() -> None:
    text = np.arange(100, dtype=np.uint8)

    batches = list(even_batches(text, num_batches=2, batch_size=3, length=10))

    assert [batch.shape for batch in batches] == [(3, 10), (3, 10)]
    # Six windows start at 0, 18, ..., 90.
    assert [int(window[0]) for batch in batches for window in batch] == [0, 18, 36, 54, 72, 90]
