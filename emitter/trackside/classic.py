"""The classic API: monitors that are told of every step. Thin faces on the emitter.

The monitors keep the names and meanings of the guides that they replace; the daemon does the
work. `trackside.attach` needs fewer lines and sees more.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import nn

from trackside.called import Call, CalledSession
from trackside.classic_settings import read_settings
from trackside.config import EmitterConfig, Heads, PathLike
from trackside.errors import ConfigError
from trackside.session import open_session

logger = logging.getLogger(__name__)

PICTURES = ("heatmap", "statistics", "multi_head", "layer_comparison")
DEFAULT_MAX_WORKERS = 2


class AttentionMonitor:
    """What both monitors do. For the thread that trains.

    The session begins with the first call of `log_attention`, which brings the model.
    """

    def __init__(
        self,
        keywords: Mapping[str, object],
        *,
        save_frequency: int,
        save_on_epochs: Sequence[int] = (),
    ) -> None:
        """Check the settings and keep them.

        Args:
            keywords: of `trackside.attach`.
            save_frequency: steps with ``step % save_frequency == 0`` are saved.
            save_on_epochs: epochs whose first call is saved, whatever its step.

        Raises:
            ConfigError: a value that cannot be used.
        """
        given = {**keywords, "every": save_frequency, "epochs": save_on_epochs}
        if given["save_dir"] is None:
            del given["save_dir"]  # the environment may have one
        config = EmitterConfig.resolve(given, os.environ)
        # An epoch is learned of too late to arm its first step: these are asked for call by call.
        self._keywords = {**given, "epochs": ()}
        self._save_frequency = config.every
        self._save_on_epochs = frozenset(config.epochs)
        self._is_over = False
        self._epoch: int | None = None
        self._model: nn.Module | None = None
        self._session: CalledSession | None = None

    @property
    def save_dir(self) -> Path | None:
        """Where the daemon writes; None before the first call."""
        return None if self._session is None else self._session.save_dir

    def log_attention(  # noqa: PLR0917 - the order of the guides' own
        self,
        model: nn.Module,
        enc: object,
        dec: object,
        step: int,
        loss: object,
        epoch: int | None = None,
    ) -> None:
        """Save the attention of this step, if it is due.

        Call it in every step, after the optimizer's step or before it. Attention, gradients and
        learning rate are those of the training step itself. Where its forward was not watched
        (the first call, the first call of an epoch, no training at all), the model is run once
        more on the inputs given, without gradients, in eval mode, and nothing of it stays.

        Args:
            model: the model, wrapped or not. Another one than before begins a new session.
            enc: what the model is called with, or a mapping of its keywords.
            dec: its second input, None if it has none.
            step: grows over the whole training.
            loss: of this step; a tensor is not waited for.
            epoch: the current one.
        """
        if self._is_over:
            return
        session = self._session
        if session is None or model is not self._model:
            session = self._open(model)
        is_first_of_epoch = epoch is not None and epoch != self._epoch
        is_asked = is_first_of_epoch and epoch in self._save_on_epochs
        self._epoch = epoch if epoch is not None else self._epoch
        session.record(
            Call(
                step=int(step),
                epoch=None if epoch is None else int(epoch),
                loss=loss,
                is_due=step % self._save_frequency == 0 or is_asked,
                is_first_of_epoch=is_asked,
                inputs=(enc,) if dec is None else (enc, dec),
            )
        )

    def close(self) -> None:
        """End the session; twice is fine. The daemon finishes what it has been sent."""
        self._end("closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end("closed" if kind is None else f"failed: {kind.__name__}")

    def _end(self, reason: str) -> None:
        self._is_over = True
        if self._session is not None:
            self._session.close(reason)

    def _open(self, model: nn.Module) -> CalledSession:
        if self._session is not None:
            self._session.close("another model")
        self._session = open_session(CalledSession, model, None, self._keywords)
        self._model = model
        return self._session


class TrainingAttentionMonitor(AttentionMonitor):
    """Attention maps and statistics of every ``save_frequency``-th step."""

    def __init__(  # noqa: PLR0917 - the order of the guides' own
        self,
        save_dir: PathLike | None,
        save_frequency: int = 100,
        save_on_epochs: Sequence[int] = (),
        visualization_types: Sequence[str] = ("heatmap", "statistics"),
        max_workers: int = DEFAULT_MAX_WORKERS,
        batch_idx_to_visualize: int = 0,
        layers_to_visualize: Sequence[int] | None = (0, -1),
        heads_to_visualize: Heads = "average",
        save_raw_weights: bool = False,  # noqa: FBT001, FBT002 - as in the guides
        use_tensorboard: bool = True,  # noqa: FBT001, FBT002 - as in the guides
        tensorboard_log_dir: PathLike | None = None,
    ) -> None:
        """Take the settings; nothing happens before the first `log_attention`.

        Args:
            save_dir: the run's directory, None for ``./trackside_logs/<run>``.
            save_frequency: steps with ``step % save_frequency == 0`` are saved.
            save_on_epochs: epochs whose first call is saved too, as ``epoch_<e>_step_<s>``.
            visualization_types: of ``heatmap``, ``statistics``, ``multi_head`` and
                ``layer_comparison``.
            max_workers: has no effect; the daemon's own settings bound its workers.
            batch_idx_to_visualize: which sample of the batch.
            layers_to_visualize: indices, negative from the end; None is all.
            heads_to_visualize: ``average``, ``all``, a head or a list of heads.
            save_raw_weights: whether the weights are kept as arrays too.
            use_tensorboard: False has no effect; the event files are part of a run.
            tensorboard_log_dir: has no effect; event files lie in ``<save_dir>/tensorboard``.

        Raises:
            ConfigError: a value that cannot be used.
        """
        unknown = [name for name in visualization_types if name not in PICTURES]
        if unknown:
            raise ConfigError(
                f"visualization_types={unknown!r} cannot be used: give some of {PICTURES}"
            )
        _note_unused(max_workers, tensorboard_log_dir, use_tensorboard=use_tensorboard)
        super().__init__(
            {
                "save_dir": save_dir,
                "visualize": tuple(visualization_types),
                "sample": batch_idx_to_visualize,
                "layers": layers_to_visualize,
                "heads": heads_to_visualize,
                "save_raw": save_raw_weights,
            },
            save_frequency=save_frequency,
            save_on_epochs=save_on_epochs,
        )


class LightweightAttentionMonitor(AttentionMonitor):
    """Statistics only: no pictures, no gradients of single parameters."""

    def __init__(
        self,
        save_dir: PathLike | None,
        save_frequency: int = 50,
        use_tensorboard: bool = True,  # noqa: FBT001, FBT002 - as in the guides
    ) -> None:
        """Take the settings; nothing happens before the first `log_attention`.

        Args:
            save_dir: the run's directory, None for ``./trackside_logs/<run>``.
            save_frequency: steps with ``step % save_frequency == 0`` are saved.
            use_tensorboard: False has no effect; the event files are part of a run.

        Raises:
            ConfigError: a value that cannot be used.
        """
        _note_unused(DEFAULT_MAX_WORKERS, None, use_tensorboard=use_tensorboard)
        super().__init__(
            {"save_dir": save_dir, "visualize": ("statistics",), "gradients": False},
            save_frequency=save_frequency,
        )


def monitor_from_config(
    config: Mapping[str, object],
) -> TrainingAttentionMonitor | LightweightAttentionMonitor:
    """Make a monitor from the ``attention_monitoring`` block of a configuration.

    The block holds the monitors' own keywords, ``enabled`` and ``lightweight_mode``. Keywords that
    the lightweight monitor does not have are left out there, so that one switch is enough.
    Without the block, or with ``enabled`` false, the monitor does nothing.

    Args:
        config: the whole configuration; other blocks are passed over.

    Raises:
        ConfigError: an unknown key, or a value that cannot be used.
    """
    settings = read_settings(config)
    monitor: TrainingAttentionMonitor | LightweightAttentionMonitor
    if settings.is_lightweight:
        monitor = LightweightAttentionMonitor(**settings.light)
        if settings.full_only:
            logger.info("trackside: lightweight_mode leaves out %s", ", ".join(settings.full_only))
    else:
        monitor = TrainingAttentionMonitor(**settings.full)
    if not settings.is_enabled:
        monitor.close()  # a closed one does nothing
    return monitor


def _note_unused(
    max_workers: int, tensorboard_log_dir: PathLike | None, *, use_tensorboard: bool
) -> None:
    """Say in one line which settings the daemon decides by itself."""
    unused = []
    if max_workers != DEFAULT_MAX_WORKERS:
        unused.append(f"max_workers={max_workers} (the daemon's settings bound its workers)")
    if not use_tensorboard:
        unused.append("use_tensorboard=False (event files are part of a run)")
    if tensorboard_log_dir is not None:
        unused.append(f"tensorboard_log_dir={tensorboard_log_dir} (it is <save_dir>/tensorboard)")
    if unused:
        logger.warning("trackside: without effect: %s", ", ".join(unused))
