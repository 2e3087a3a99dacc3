"""Names as trainers give them: which checkpoints are one series, and what their steps are."""

from collections.abc import Mapping, Sequence

import pytest
from sorted_series import Steps, sort_out


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
