"""The ``attention_monitoring`` block of a JSON configuration, checked."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Required, TypedDict, cast

from trackside.config import Heads, PathLike
from trackside.errors import ConfigError

BLOCK = "attention_monitoring"
_ENABLED = "enabled"
_LIGHTWEIGHT = "lightweight_mode"


class LightKeywords(TypedDict, total=False):
    """Keywords of `trackside.LightweightAttentionMonitor`."""

    save_dir: Required[PathLike | None]
    save_frequency: int
    use_tensorboard: bool


class FullKeywords(LightKeywords, total=False):
    """Keywords of `trackside.TrainingAttentionMonitor`."""

    save_on_epochs: Sequence[int]
    visualization_types: Sequence[str]
    max_workers: int
    batch_idx_to_visualize: int
    layers_to_visualize: Sequence[int] | None
    heads_to_visualize: Heads
    save_raw_weights: bool
    tensorboard_log_dir: PathLike | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicSettings:
    """What a block asks for. Values are checked by the monitors."""

    is_enabled: bool
    is_lightweight: bool
    full: FullKeywords

    @property
    def light(self) -> LightKeywords:
        """The keywords that the lightweight monitor has."""
        chosen = {name: value for name, value in self.full.items() if name in _LIGHT_NAMES}
        return cast("LightKeywords", chosen)

    @property
    def full_only(self) -> tuple[str, ...]:
        """Names of the given keywords that it does not have."""
        return tuple(name for name in self.full if name not in _LIGHT_NAMES)


def read_settings(config: Mapping[str, object]) -> ClassicSettings:
    """Read the block; without one, monitoring is off.

    Raises:
        ConfigError: an unknown key, a misspelled block, or a value of another kind.
    """
    block = config.get(BLOCK)
    if block is None:
        near = difflib.get_close_matches(BLOCK, config, n=1)
        if near and BLOCK not in config:
            raise ConfigError(f"no block {BLOCK!r} in the configuration; is {near[0]!r} meant?")
        return ClassicSettings(is_enabled=False, is_lightweight=False, full={"save_dir": None})
    if not isinstance(block, Mapping):
        raise ConfigError(f"{BLOCK}={block!r} cannot be used: give an object of settings")
    keywords: dict[str, object] = {}
    for name, value in block.items():
        if name in {_ENABLED, _LIGHTWEIGHT}:
            continue
        if name not in _FULL_NAMES:
            raise _unknown(str(name))
        keywords[name] = value
    return ClassicSettings(
        is_enabled=_flag(block, _ENABLED, default=True),
        is_lightweight=_flag(block, _LIGHTWEIGHT, default=False),
        full=cast("FullKeywords", {"save_dir": None, **keywords}),
    )


def _unknown(name: str) -> ConfigError:
    names = sorted({*_FULL_NAMES, _ENABLED, _LIGHTWEIGHT})
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"{BLOCK} has no key {name!r}; {hint}")


def _flag(block: Mapping[str, object], name: str, *, default: bool) -> bool:
    value = block.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{BLOCK}.{name}={value!r} cannot be used: give true or false")
    return value


_LIGHT_NAMES = frozenset(LightKeywords.__annotations__)
_FULL_NAMES = frozenset(FullKeywords.__annotations__)
