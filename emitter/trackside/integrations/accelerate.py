"""A tracker for the `accelerate.Accelerator`."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from trackside.config import show_keywords
from trackside.integrations.attachment import Attachment

try:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise ImportError(
        "trackside.integrations.accelerate needs Accelerate: pip install accelerate"
    ) from error

if TYPE_CHECKING:
    from types import FrameType

    import torch
    from torch import nn

    from trackside.config import AttachKeywords
    from trackside.session import Session

logger = logging.getLogger(__name__)

_EPOCH = "epoch"
_SETTINGS = "Config/Training_Settings"


class TracksideTracker(GeneralTracker):  # type: ignore[misc]  # accelerate is not typed here
    """``Accelerator(log_with=TracksideTracker())``, then ``tracker.attach(model, optimizer)``.

    On every rank, since gradients come from all of them.
    """

    name = "trackside"
    requires_logging_directory = False
    main_process_only = False

    @show_keywords
    def __init__(self, **keywords: Unpack["AttachKeywords"]) -> None:
        """Take the keywords of `trackside.attach`.

        If not given here, ``config`` is what `Accelerator.init_trackers` was given, and
        ``checkpoints`` the directory in which the `Accelerator` names its checkpoints itself
        (``automatic_checkpoint_naming``).

        Raises:
            ConfigError: a keyword cannot be used.
        """
        super().__init__()
        self._attachment = Attachment(keywords)
        self._settings: dict[str, object] | None = None
        self._checkpoints: str | None = None
        self._has_warned = False

    @property
    def tracker(self) -> "Session | None":
        """The session, None before `attach` and after the end."""
        return self._attachment.session

    def attach(
        self, model: "nn.Module", optimizer: "torch.optim.Optimizer | None" = None
    ) -> "Session":
        """Watch a model and its optimizer, before or after `Accelerator.prepare`.

        Args:
            model: what is trained.
            optimizer: None to take the first that steps a parameter of the model.
        """
        session = self._attachment.open(
            model, optimizer, config=self._settings, checkpoints=self._checkpoints
        )
        session.sum_micro_batches()
        return session

    def start(self) -> None:
        """Find out where checkpoints go. Called by `Accelerator.init_trackers`."""
        self._checkpoints = _checkpoints_of_caller()

    def store_init_configuration(self, values: Mapping[str, object]) -> None:
        """Keep the settings for `attach`; after it they are logged as a text.

        Args:
            values: as given to `Accelerator.init_trackers`.
        """
        self._settings = dict(values)
        if self.tracker is not None:
            self.tracker.text(_SETTINGS, json.dumps(self._settings, indent=2, default=str))

    def log(self, values: Mapping[str, object], step: int | None = None, **_: object) -> None:
        """Log numbers and texts.

        ``epoch`` is also told to the session. The loss of a step comes from ``backward``; a
        logged one is a curve of its own.

        Args:
            values: by name.
            step: where the values stand in the curves, whatever it counts; None for the number of
                optimizer steps.
        """
        session = self.tracker
        if session is None:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("trackside: log() before tracker.attach(model, optimizer) is lost")
            return
        epoch = values.get(_EPOCH)
        if isinstance(epoch, int | float):
            session.log(epoch=epoch)
        texts = {name: value for name, value in values.items() if isinstance(value, str)}
        for name, value in texts.items():
            session.text(name, value)
        numbers = {name: value for name, value in values.items() if name not in texts}
        session.log_at(session.step if step is None else step, numbers)

    def finish(self) -> None:
        """Close the session. Called by `Accelerator.end_training`."""
        self._attachment.close()


def _checkpoints_of_caller() -> str | None:
    """Return where the `Accelerator` that calls names checkpoints; None where it names none.

    A tracker is given neither the accelerator nor its project; the one that calls is on the stack.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no public way to this frame
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Accelerator):
            project = caller.project_configuration
            is_known = isinstance(project.project_dir, str | os.PathLike)
            if not (project.automatic_checkpoint_naming and is_known):
                return None
            return os.path.join(project.project_dir, "checkpoints")  # noqa: PTH118 - as Accelerate does
        frame = frame.f_back
    return None
