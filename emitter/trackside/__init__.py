"""Telemetry for PyTorch training: two lines in the script, everything else in a daemon.

Names are loaded when they are first used: importing `trackside.wire` costs no torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trackside.classic import (
        LightweightAttentionMonitor,
        TrainingAttentionMonitor,
        monitor_from_config,
    )
    from trackside.config import EmitterConfig
    from trackside.errors import ConfigError, TracksideError
    from trackside.session import Session, attach, log_dataset

    __version__: str

__all__ = [
    "ConfigError",
    "EmitterConfig",
    "LightweightAttentionMonitor",
    "Session",
    "TracksideError",
    "TrainingAttentionMonitor",
    "__version__",
    "attach",
    "log_dataset",
    "monitor_from_config",
]

_HOMES = {
    "ConfigError": "trackside.errors",
    "EmitterConfig": "trackside.config",
    "LightweightAttentionMonitor": "trackside.classic",
    "Session": "trackside.session",
    "TracksideError": "trackside.errors",
    "TrainingAttentionMonitor": "trackside.classic",
    "attach": "trackside.session",
    "log_dataset": "trackside.session",
    "monitor_from_config": "trackside.classic",
}


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415 - only when a name is asked for

    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("trackside")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
