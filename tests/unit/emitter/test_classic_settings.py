"""What keywords or a JSON block make of the classic monitors, and what is refused."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classic_training import VOCABULARY, Model, Training, attention_by_hand, captured

import trackside
from trackside.classic_settings import FullKeywords, LightKeywords
from trackside.errors import ConfigError

pytestmark = pytest.mark.usefixtures("quiet_monitors")

Receive = Callable[[], Any]


def block(**settings: Any) -> dict[str, Any]:
    return {"other": 1, "attention_monitoring": settings}


def test_signatures_are_those_of_the_contract() -> None:
    full = inspect.signature(trackside.TrainingAttentionMonitor).parameters
    light = inspect.signature(trackside.LightweightAttentionMonitor).parameters

    assert {name: value.default for name, value in full.items()} == {
        "save_dir": inspect.Parameter.empty,
        "save_frequency": 100,
        "save_on_epochs": (),
        "visualization_types": ("heatmap", "statistics"),
        "max_workers": 2,
        "batch_idx_to_visualize": 0,
        "layers_to_visualize": (0, -1),
        "heads_to_visualize": "average",
        "save_raw_weights": False,
        "use_tensorboard": True,
        "tensorboard_log_dir": None,
    }
    assert {name: value.default for name, value in light.items()} == {
        "save_dir": inspect.Parameter.empty,
        "save_frequency": 50,
        "use_tensorboard": True,
    }
    # The block knows every keyword, and no other.
    assert set(FullKeywords.__annotations__) == set(full)
    assert set(LightKeywords.__annotations__) == set(light)


def test_keywords_reach_the_daemon(receive: Receive, tmp_path: Path) -> None:
    monitor = trackside.TrainingAttentionMonitor(
        tmp_path, 7, (), ("multi_head",), 2, 1, None, "all", save_raw_weights=True
    )
    enc = torch.randint(VOCABULARY, (2, 6))
    model = Model()
    monitor.log_attention(model, enc, None, 7, 0.0)
    monitor.close()

    received = receive()
    hello = received.hello
    assert (hello.save_dir, hello.every, hello.save_raw) == (str(tmp_path), 7, True)
    assert hello.visualize == ("multi_head",)
    expected = attention_by_hand(model, enc[1:], enc[1:])  # the second sample
    np.testing.assert_allclose(captured(received.samples[0]), expected, atol=1e-6)


def test_the_lightweight_monitor_asks_for_statistics_only(receive: Receive, tmp_path: Path) -> None:
    training = Training()
    with trackside.LightweightAttentionMonitor(tmp_path, save_frequency=2) as monitor:
        training.run(monitor, range(1, 3))

    received = receive()
    assert received.hello.visualize == ("statistics",)
    assert received.samples[0].gradients is None
    assert len(received.steps[0].attention) == 1


def test_what_the_daemon_decides_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trackside.TrainingAttentionMonitor(tmp_path)
    assert not caplog.records

    trackside.TrainingAttentionMonitor(
        tmp_path, max_workers=4, use_tensorboard=False, tensorboard_log_dir="elsewhere"
    )

    (record,) = caplog.records
    for word in ("max_workers=4", "use_tensorboard=False", "elsewhere", "<save_dir>/tensorboard"):
        assert word in record.getMessage()


def test_a_block_makes_a_full_monitor(tmp_path: Path) -> None:
    monitor = trackside.monitor_from_config(
        block(enabled=True, save_dir=str(tmp_path), save_frequency=7, save_on_epochs=[1, 2])
    )

    assert type(monitor) is trackside.TrainingAttentionMonitor
    assert monitor._keywords["every"] == 7
    assert monitor._save_on_epochs == {1, 2}


def test_lightweight_mode_leaves_out_what_it_does_not_have(tmp_path: Path) -> None:
    monitor = trackside.monitor_from_config(
        block(lightweight_mode=True, save_dir=str(tmp_path), visualization_types=["heatmap"])
    )

    assert type(monitor) is trackside.LightweightAttentionMonitor
    assert monitor._keywords["every"] == 50
    assert monitor._keywords["visualize"] == ("statistics",)


@pytest.mark.parametrize("config", [{}, block(enabled=False), {"attention_monitoring": None}])
def test_a_monitor_that_is_not_asked_for_does_nothing(config: dict[str, Any]) -> None:
    monitor = trackside.monitor_from_config(config)

    assert monitor._is_over


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (block(save_frequncy=3), "did you mean 'save_frequency'"),
        (block(lightweight=True), "did you mean 'lightweight_mode'"),
        (block(zebra=True), "known: batch_idx_to_visualize, enabled"),
        (block(enabled="yes"), "enabled='yes' cannot be used"),
        ({"attention_monitorng": {}}, "is 'attention_monitorng' meant"),
        ({"attention_monitoring": [1]}, "give an object"),
        (block(save_frequency=0), "every=0"),
        (block(save_frequency="often"), "every='often'"),
        (block(visualization_types=["histogram"]), "visualization_types=.'histogram'."),
        (block(heads_to_visualize="some"), "heads='some'"),
        (block(save_on_epochs=3), "epochs=3"),
    ],
)
def test_what_cannot_be_used_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trackside.monitor_from_config(config)
