"""What a JSON block makes of the classic monitors, and what is refused."""

import inspect
from pathlib import Path
from typing import Any

import pytest

import trackside
from trackside.classic_settings import FullKeywords, LightKeywords
from trackside.errors import ConfigError


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
