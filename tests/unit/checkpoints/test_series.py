"""Names as trainers give them: which checkpoints are one series, and what their steps are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.checkpoints.numbering import Kind, read_name
from tracksided.checkpoints.policy import Candidate, newest_first, with_steps
from tracksided.checkpoints.series import series_of

Steps = dict[str, int | None]


def sort_out(
    names: Sequence[str], contents: Mapping[str, int] | None = None, *, is_mixed: bool = False
) -> tuple[list[Steps], list[str]]:
    """Return the steps of each series, oldest first, and the reasons to skip them.

    Args:
        names: in the order of their writing; a slash at the end makes a directory.
        contents: steps that the files state inside.
        is_mixed: all together.
    """
    candidates = [
        Candidate(Path(name), mtime_ns, is_directory=name.endswith("/"))
        for mtime_ns, name in enumerate(names)
    ]
    found = series_of(candidates, is_mixed=is_mixed)
    ordered = [
        newest_first(
            with_steps(
                [
                    replace(entry, content_step=(contents or {}).get(entry.path.name))
                    for entry in series.candidates
                ]
            )
        )[::-1]
        for series in found
    ]
    steps: list[Steps] = [{entry.path.name: entry.step for entry in row} for row in ordered]
    return steps, [series.reason for series in found]


def one_series(names: Sequence[str], contents: Mapping[str, int] | None = None) -> Steps:
    steps, _ = sort_out(names, contents)
    assert len(steps) == 1, steps
    return steps[0]


@pytest.mark.parametrize(
    ("names", "contents", "ordered"),
    [
        pytest.param(
            ["step_900.pt", "step_1000.pt", "step_90.pt"],
            {},
            [("step_90.pt", 90), ("step_900.pt", 900), ("step_1000.pt", 1000)],
            id="numbers-before-times",
        ),
        pytest.param(
            ["checkpoint-9.pth.tar", "checkpoint-10.pth.tar", "last.pth.tar", "model_best.pth.tar"],
            {},
            [
                ("checkpoint-9.pth.tar", 9),
                ("checkpoint-10.pth.tar", 10),
                ("last.pth.tar", None),
                ("model_best.pth.tar", None),
            ],
            id="timm",
        ),
        pytest.param(
            ["epoch=1-step=200.ckpt", "epoch=0-step=100.ckpt", "epoch=2-step=300-v1.ckpt"],
            {},
            [
                ("epoch=0-step=100.ckpt", 100),
                ("epoch=1-step=200.ckpt", 200),
                ("epoch=2-step=300-v1.ckpt", 300),
            ],
            id="lightning",
        ),
        pytest.param(
            ["model_20261124.pt", "model_20261125.pt"],
            {"model_20261124.pt": 750},
            [("model_20261124.pt", None), ("model_20261125.pt", None)],
            id="no-scale-for-all",
        ),
        pytest.param(
            ["epoch=1-step=200.ckpt", "epoch=00-val_loss=0.25-step=100.ckpt"],
            {},
            [("epoch=00-val_loss=0.25-step=100.ckpt", 100), ("epoch=1-step=200.ckpt", 200)],
            id="lightning-two-kinds-of-names",
        ),
        pytest.param(
            ["epoch=0-val_loss=0.90.ckpt", "epoch=1-val_loss=0.85.ckpt", "last.ckpt"],
            {
                "epoch=0-val_loss=0.90.ckpt": 50,
                "epoch=1-val_loss=0.85.ckpt": 100,
                "last.ckpt": 100,
            },
            [
                ("epoch=0-val_loss=0.90.ckpt", 50),
                ("last.ckpt", 100),
                ("epoch=1-val_loss=0.85.ckpt", 100),
            ],
            id="lightning-metrics-and-last",
        ),
        pytest.param(
            ["checkpoint_1_500.pt", "checkpoint_1_1000.pt", "checkpoint_2_1500.pt"],
            {},
            [
                ("checkpoint_1_500.pt", 500),
                ("checkpoint_1_1000.pt", 1000),
                ("checkpoint_2_1500.pt", 1500),
            ],
            id="fairseq-updates",
        ),
        pytest.param(
            ["checkpoint9.pt", "checkpoint10.pt", "checkpoint_best.pt"],
            {},
            [("checkpoint9.pt", 9), ("checkpoint10.pt", 10), ("checkpoint_best.pt", None)],
            id="fairseq-epochs",
        ),
        pytest.param(
            ["checkpoint-500/", "checkpoint-1000/"],
            {},
            [("checkpoint-500", 500), ("checkpoint-1000", 1000)],
            id="hugging-face",
        ),
        pytest.param(
            ["ep0-ba100-rank0.pt", "ep1-ba200-rank0.pt", "latest-rank0.pt"],
            {},
            [
                ("ep0-ba100-rank0.pt", 100),
                ("ep1-ba200-rank0.pt", 200),
                ("latest-rank0.pt", None),
            ],
            id="composer",
        ),
        pytest.param(
            ["epoch_0/", "epoch_1/", "epoch_10/"],
            {},
            [("epoch_0", 0), ("epoch_1", 1), ("epoch_10", 10)],
            id="torchtune",
        ),
        pytest.param(
            ["9epoch.pth", "10epoch.pth", "latest.pth"],
            {},
            [("9epoch.pth", 9), ("10epoch.pth", 10), ("latest.pth", None)],
            id="espnet",
        ),
        pytest.param(
            ["model_0004999.pth", "model_0009999.pth", "model_final.pth"],
            {},
            [("model_0004999.pth", 4999), ("model_0009999.pth", 9999), ("model_final.pth", None)],
            id="detectron2",
        ),
        pytest.param(
            ["step-5/", "step-10/"], {}, [("step-5", 5), ("step-10", 10)], id="torchtitan"
        ),
        pytest.param(["ckpt.pt"], {"ckpt.pt": 2000}, [("ckpt.pt", 2000)], id="nanogpt"),
        pytest.param(
            ["resnet50_e9_top1_70.1.pt", "resnet50_e10_top1_69.8.pt"],
            {},
            [("resnet50_e9_top1_70.1.pt", 9), ("resnet50_e10_top1_69.8.pt", 10)],
            id="accuracy-and-architecture",
        ),
        pytest.param(
            ["model_20261124_203000.pt", "model_20261125_070000.pt", "model_20261125_201500.pt"],
            {},
            [
                ("model_20261124_203000.pt", None),
                ("model_20261125_070000.pt", None),
                ("model_20261125_201500.pt", None),
            ],
            id="moments",
        ),
        pytest.param(
            ["m_20261124_070000.pt", "m_20261124_203000.pt", "m_20261125_070000.pt"],
            {},
            [
                ("m_20261124_070000.pt", None),
                ("m_20261124_203000.pt", None),
                ("m_20261125_070000.pt", None),
            ],
            id="moments-at-one-time-of-day",
        ),
        pytest.param(
            ["model_2026-11-24_20-45.pt", "model_2026-11-25_07-30.pt"],
            {},
            [("model_2026-11-24_20-45.pt", None), ("model_2026-11-25_07-30.pt", None)],
            id="moments-in-minutes",
        ),
        pytest.param(
            ["model_20261124_500.pt", "model_20261124_1000.pt", "model_20261124_1500.pt"],
            {},
            [
                ("model_20261124_500.pt", 500),
                ("model_20261124_1000.pt", 1000),
                ("model_20261124_1500.pt", 1500),
            ],
            id="steps-behind-a-date",
        ),
        pytest.param(
            ["m_1795510000.pt", "m_1795510600.pt"],
            {},
            [("m_1795510000.pt", None), ("m_1795510600.pt", None)],
            id="unix-time",
        ),
        pytest.param(
            ["model_0.25.pt", "model_0.20.pt"],
            {},
            [("model_0.25.pt", None), ("model_0.20.pt", None)],
            id="metrics-alone",
        ),
        pytest.param(
            ["seed_b.pt", "seed_a.pt", "seed_c.pt"],
            {},
            [("seed_b.pt", None), ("seed_a.pt", None), ("seed_c.pt", None)],
            id="soup",
        ),
        pytest.param(
            ["seed2.pt", "seed1.pt"],
            {},
            [("seed2.pt", None), ("seed1.pt", None)],
            id="soup-of-seeds",
        ),
        pytest.param(
            ["checkpoint_1.pt", "checkpoint_2.pt"],
            {"checkpoint_1.pt": 750, "checkpoint_2.pt": 1500},
            [("checkpoint_1.pt", 750), ("checkpoint_2.pt", 1500)],
            id="content-before-a-number",
        ),
        pytest.param(
            ["checkpoint_1.pt", "checkpoint_2.pt"],
            {"checkpoint_2.pt": 1500},
            [("checkpoint_1.pt", 1), ("checkpoint_2.pt", 2)],
            id="one-scale-for-all",
        ),
        pytest.param(
            ["a.pt", "b.pt"],
            {"a.pt": 750},
            [("a.pt", 750), ("b.pt", None)],
            id="names-without-numbers-rank-by-content-and-time",
        ),
        pytest.param(
            ["step_3.pt", "step_4.pt"],
            {"step_3.pt": 750, "step_4.pt": 1},
            [("step_3.pt", 3), ("step_4.pt", 4)],
            id="a-name-that-says-step-before-content",
        ),
        pytest.param(
            ["step_1.pt", "step_2.pt", "last.pt", "step_3.pt"],
            {},
            [("step_1.pt", 1), ("step_2.pt", 2), ("last.pt", None), ("step_3.pt", 3)],
            id="last-ranks-with-what-was-written-before",
        ),
        pytest.param(
            ["step_1.pt", "best_step_2.pt"],
            {},
            [("step_1.pt", 1), ("best_step_2.pt", 2)],
            id="best-of-the-series",
        ),
    ],
)
def test_one_series_is_ordered_by_steps_that_are_certain(
    names: Sequence[str], contents: Mapping[str, int], ordered: list[tuple[str, int | None]]
) -> None:
    assert list(one_series(names, contents).items()) == ordered


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


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("GlobalStep88.pt", [(Kind.STEP, "88")]),
        ("iter_0005000.pt", [(Kind.STEP, "0005000")]),
        ("footstep.pt", []),
        ("v" + "9" * 40 + ".pt", [(Kind.IDENTITY, "v" + "9" * 40)]),
        ("9" * 40 + ".pt", [(Kind.IDENTITY, "9" * 40)]),
        ("model_7b_100.pt", [(Kind.IDENTITY, "7b"), (Kind.NUMBER, "100")]),
        ("e10.pt", [(Kind.EPOCH, "10")]),
        ("net_1000_steps.pt", [(Kind.STEP, "1000")]),
        ("resnet50_step_100.pt", [(Kind.NUMBER, "50"), (Kind.STEP, "100")]),
        ("model_50_epoch_3.pt", [(Kind.NUMBER, "50"), (Kind.EPOCH, "3")]),
        (
            "gpt--val_loss=0.10-step=100-consumed_samples=800.0-last.ckpt",
            [(Kind.STEP, "100"), (Kind.PASSING, "consumed_samples=800.0")],
        ),
        ("lr1e-5_3.pt", [(Kind.PASSING, "1e-5"), (Kind.NUMBER, "3")]),
        ("w_3f9ac01.pt", [(Kind.PASSING, "3f9ac01")]),
        ("model-00001-of-00002.safetensors", [(Kind.PLACE, "00001-of-00002")]),
        ("Nov24_20-45-01.pt", [(Kind.PASSING, "nov24_20-45-01")]),
        ("a\ue000b_1.pt", [(Kind.NUMBER, "1")]),
    ],
)
def test_numbers_are_told_apart(name: str, kinds: list[tuple[Kind, str]]) -> None:
    assert [(part.kind, part.text) for part in read_name(name).parts] == kinds


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
