"""Settings: precedence, parsing and refusals."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from trackside.config import EmitterConfig, unknown_variables
from trackside.environment import is_switched_off
from trackside.errors import ConfigError


def test_a_keyword_wins_over_the_environment_and_that_over_the_default() -> None:
    environ = {"TRACKSIDE_EVERY": "50", "TRACKSIDE_MAX_QUERIES": "7"}

    settings = EmitterConfig.resolve({"every": 100}, environ)

    assert (settings.every, settings.max_queries, settings.sample) == (100, 7, 0)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("EVERY", "5", "every", 5),
        ("EPOCHS", "1,3", "epochs", (1, 3)),
        ("LAYERS", "0,-1", "layers", (0, -1)),
        ("LAYERS", "all", "layers", None),
        ("LAYERS", "None", "layers", None),
        ("EPOCHS", "none", "epochs", ()),
        ("HEADS", "average", "heads", "average"),
        ("HEADS", "3", "heads", 3),
        ("HEADS", "0, 2", "heads", (0, 2)),
        ("ATTENTION", "off", "attention", False),
        ("GRADIENTS", "1", "gradients", True),
        ("SAVE_DIR", "/data/out", "save_dir", Path("/data/out")),
        ("SAVE_DIR", "", "save_dir", None),
        ("CHECKPOINTS", "/a:/b,c", "checkpoints", (Path("/a"), Path("/b,c"))),
        ("RUN", "x-1", "run", "x-1"),
        ("VISUALIZE", "none", "visualize", ()),
        ("VISUALIZE", "heatmap,multi_head", "visualize", ("heatmap", "multi_head")),
        ("CONFIG", '{"lr": 0.1}', "config", {"lr": 0.1}),
        ("AUTOSTART", "no", "autostart", False),
        ("SAVE_RAW", "true", "save_raw", True),
        ("RING_BYTES", "4096", "ring_bytes", 4096),
        ("STEP_BYTES", "4096", "step_bytes", 4096),
        ("SAMPLE", "2", "sample", 2),
    ],
)
def test_every_keyword_has_an_environment_variable(
    variable: str, text: str, name: str, value: object
) -> None:
    settings = EmitterConfig.resolve({}, {f"TRACKSIDE_{variable}": text})

    assert getattr(settings, name) == value


@pytest.mark.parametrize(
    "keywords",
    [
        {"every": 0},
        {"every": 2.5},
        {"every": True},
        {"epochs": "1"},
        {"layers": [0.5]},
        {"heads": "some"},
        {"heads": []},
        {"sample": -1},
        {"max_queries": 0},
        {"attention": 1},
        {"checkpoints": 3},
        {"run": "a/b"},
        {"run": ".."},
        {"ring_bytes": 10},
        {"step_bytes": 0},
        {"save_dir": "s3://bucket/run"},
        {"checkpoints": "s3://bucket/run"},
        {"visualize": ["heat"]},
        {"visualize": "heatmap"},
        {"config": [1]},
        {"save_dir": ""},
        {"save_dir": "~no-such-user/run"},
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_keyword_value_and_variable(
    keywords: Mapping[str, object],
) -> None:
    ((name, value),) = keywords.items()

    with pytest.raises(ConfigError, match=f"{name}=") as caught:
        EmitterConfig.resolve(keywords, {})

    assert repr(value) in str(caught.value)
    assert f"TRACKSIDE_{name.upper()}" in str(caught.value)


def test_a_refused_layers_says_how_to_ask_for_all() -> None:
    with pytest.raises(ConfigError, match="whole numbers, or None for all"):
        EmitterConfig.resolve({"layers": "all"}, {})


def test_an_unknown_keyword_names_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'every'"):
        EmitterConfig.resolve({"evry": 3}, {})


def test_a_bad_environment_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="TRACKSIDE_EVERY"):
        EmitterConfig.resolve({}, {"TRACKSIDE_EVERY": "often"})


def test_lists_and_foreign_integers_are_normalised() -> None:
    settings = EmitterConfig(layers=[0, np.int64(2)], heads=np.int32(1), checkpoints="ckpt")

    assert settings.layers == (0, 2)
    assert settings.heads == 1
    assert settings.checkpoints == (Path("ckpt"),)


def test_user_settings_that_json_cannot_hold_become_text() -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop

    settings = EmitterConfig(config={"path": Path("/x"), "big": 1 << 80, 3: (1, None), "l": loop})

    assert settings.config["path"] == "/x"
    assert settings.config["big"] == str(1 << 80)
    assert settings.config["3"] == [1, None]


def test_a_step_is_due_when_every_divides_it() -> None:
    settings = EmitterConfig(every=3)

    assert [step for step in range(1, 10) if settings.is_due(step)] == [3, 6, 9]


@pytest.mark.parametrize(("text", "expected"), [("0", True), ("1", False), ("", False)])
def test_the_switch(text: str, *, expected: bool) -> None:
    assert is_switched_off({"TRACKSIDE": text}) is expected


def test_a_mistyped_variable_is_found_and_the_nearest_one_named() -> None:
    environ = {
        "TRACKSIDE_EVRY": "5",
        "TRACKSIDE_QQQQQQ": "1",
        "TRACKSIDE_EVERY": "5",
        "TRACKSIDE_SHM_DIR": "/somewhere",
        "TRACKSIDE": "1",
        "PATH": "/bin",
    }

    found = unknown_variables(environ)

    assert found == {"TRACKSIDE_EVRY": "TRACKSIDE_EVERY", "TRACKSIDE_QQQQQQ": ""}


def test_a_step_budget_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"step_bytes=5000 .*at most ring_bytes, 4096"):
        EmitterConfig(step_bytes=5000, ring_bytes=4096)

    assert EmitterConfig(ring_bytes=4096).step_budget_bytes == 2048
    assert EmitterConfig(step_bytes=4096, ring_bytes=4096).step_budget_bytes == 4096
