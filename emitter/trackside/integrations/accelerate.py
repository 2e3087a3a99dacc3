"""A tracker for the `accelerate.Accelerator`."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from trackside.config import show_keywords
from trackside.integrations.attachment import Attachment

try:
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise ImportError(
        "trackside.integrations.accelerate needs Accelerate: pip install accelerate"
    ) from error

if TYPE_CHECKING:
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

        ``config`` is what `Accelerator.init_trackers` was given, if not given here.

        Raises:
            ConfigError: a keyword cannot be used.
        """
        super().__init__()
        self._attachment = Attachment(keywords)
        self._settings: dict[str, object] | None = None
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
        session = self._attachment.open(model, optimizer, config=self._settings)
        session.sum_micro_batches()
        return session

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
