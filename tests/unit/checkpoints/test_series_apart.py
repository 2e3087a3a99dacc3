"""Names of several series, and which of them come first."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sorted_series import sort_out

from tracksided.checkpoints.policy import Candidate
from tracksided.checkpoints.series import series_of


@pytest.mark.parametrize(
    ("names", "expected", "reasons"),
    [
        pytest.param(
            ["model_1.pt", "model_ema_1.pt", "model_2.pt", "model_ema_2.pt"],
            [["model_1.pt", "model_2.pt"], ["model_ema_1.pt", "model_ema_2.pt"]],
            ["model_N", "model_ema_N"],
            id="ema-beside-weights",
        ),
        pytest.param(
            ["model000100.pt", "ema_0.9999_000100.pt", "model000200.pt", "ema_0.9999_000200.pt"],
            [
                ["model000100.pt", "model000200.pt"],
                ["ema_0.9999_000100.pt", "ema_0.9999_000200.pt"],
            ],
            ["modelN", "ema_0.9999_N"],
            id="guided-diffusion",
        ),
        pytest.param(
            ["modelA_1.pt", "modelA_2.pt", "modelB_1.pt", "modelB_2.pt"],
            [["modelB_1.pt", "modelB_2.pt"], ["modelA_1.pt", "modelA_2.pt"]],
            ["modelB_N", "modelA_N"],
            id="two-models",
        ),
        pytest.param(
            ["step_1_rank_0.pt", "step_1_rank_1.pt", "step_2_rank_0.pt", "step_2_rank_1.pt"],
            [["step_1_rank_0.pt", "step_2_rank_0.pt"], ["step_1_rank_1.pt", "step_2_rank_1.pt"]],
            ["step_N_rank_0", "step_N_rank_1"],
            id="ranks",
        ),
        pytest.param(
            ["checkpoint_1_500.pt", "checkpoint1.pt", "checkpoint_2_1000.pt", "checkpoint2.pt"],
            [["checkpoint1.pt", "checkpoint2.pt"], ["checkpoint_1_500.pt", "checkpoint_2_1000.pt"]],
            ["checkpointN", "checkpoint_N_N"],
            id="fairseq-epochs-and-updates",
        ),
        pytest.param(
            ["llama_7_100.pt", "llama_13_100.pt", "llama_7_200.pt", "llama_13_200.pt"],
            [["llama_13_100.pt", "llama_13_200.pt"], ["llama_7_100.pt", "llama_7_200.pt"]],
            ["llama_13_N", "llama_7_N"],
            id="a-number-that-is-a-name",
        ),
        pytest.param(
            ["lr_0.1_step_1.pt", "lr_0.1_step_2.pt", "lr_0.01_step_1.pt", "lr_0.01_step_2.pt"],
            [
                ["lr_0.01_step_1.pt", "lr_0.01_step_2.pt"],
                ["lr_0.1_step_1.pt", "lr_0.1_step_2.pt"],
            ],
            ["lr_0.01_step_N", "lr_0.1_step_N"],
            id="a-setting-that-is-a-name",
        ),
        pytest.param(
            ["epoch_1.pt", "epoch_2.pt", "step_100.pt", "step_200.pt"],
            [["step_100.pt", "step_200.pt"], ["epoch_1.pt", "epoch_2.pt"]],
            ["step_N", "epoch_N"],
            id="epochs-and-steps",
        ),
    ],
)
def test_series_are_kept_apart_that_of_the_newest_first(
    names: Sequence[str], expected: list[list[str]], reasons: list[str]
) -> None:
    steps, found = sort_out(names)

    assert [list(series) for series in steps] == expected
    assert found == [f"belongs to another series: {label}" for label in reasons]


def test_what_says_neither_step_nor_series_stays_apart() -> None:
    two, reasons = sort_out(["model_1.pt", "model_2.pt", "ema_1.pt", "ema_2.pt", "best.pt"])
    one, _ = sort_out(["step_1.pt", "step_2.pt", "vocab.pt"])

    assert list(two[2]) == ["best.pt"]
    assert reasons[2] == "its name has no step, and does not say to which series it belongs"
    assert [list(series) for series in one] == [["step_1.pt", "step_2.pt"], ["vocab.pt"]]


def test_files_of_ranks_are_not_mixed() -> None:
    names = ["step_1_rank0.pt", "step_1_rank1.pt", "step_2_rank0.pt", "step_2_rank1.pt"]

    numbered, _ = sort_out([*names, "latest_rank0.pt", "latest_rank1.pt"])
    single, _ = sort_out(["model_rank0.pt", "model_rank1.pt"])

    assert [list(series) for series in numbered] == [
        ["step_1_rank0.pt", "step_2_rank0.pt", "latest_rank0.pt"],
        ["step_1_rank1.pt", "step_2_rank1.pt", "latest_rank1.pt"],
    ]
    assert [list(series) for series in single] == [["model_rank0.pt"], ["model_rank1.pt"]]


def test_mixed_series_are_one_counted_on_a_scale_that_all_have() -> None:
    names = ["runA_1.pt", "runA_2.pt", "runB_1.pt", "runB_3.pt"]

    assert sort_out(names, is_mixed=True)[0] == [
        {"runA_1.pt": 1, "runB_1.pt": 1, "runA_2.pt": 2, "runB_3.pt": 3}
    ]
    assert sort_out(["step_100.pt", "epoch_2.pt", "epoch_3.pt"], is_mixed=True)[0] == [
        {"step_100.pt": None, "epoch_2.pt": None, "epoch_3.pt": None}
    ]


NAMES = st.sampled_from(
    [
        *(f"model_{step}" for step in (1, 2, 30)),
        *(f"model_ema_{step}" for step in (1, 2, 30)),
        *("checkpoint_1_500", "checkpoint_2_900", "checkpoint1", "last", "best_rank0", "soup_a"),
        *(
            "step_1_rank0",
            "step_1_rank1",
            "x_20261124_0930",
            "x_20261124_2500",
            "7_1",
            "7_2",
            "8_1",
        ),
        *("8_2", "epoch=1-loss=0.5", "epoch=2-loss=0.4-v1", "lr_0.1_step_1", "lr_0.2_step_1", "12"),
    ]
)


@given(
    st.lists(st.tuples(NAMES | st.text(max_size=8), st.integers(0, 9)), unique_by=lambda e: e[0])
)
@example([("model_1", 0), ("12", 0), ("\u02e50", 0)])
def test_every_checkpoint_is_of_one_series_whatever_the_listing(
    entries: list[tuple[str, int]],
) -> None:
    candidates = [Candidate(Path(f"_{name}.pt"), mtime_ns) for name, mtime_ns in entries]

    series = series_of(candidates)

    found = [entry.path for row in series for entry in row.candidates]
    assert sorted(found) == sorted(entry.path for entry in candidates)
    assert [frozenset(row.candidates) for row in series] == [
        frozenset(row.candidates) for row in series_of(candidates[::-1])
    ]
