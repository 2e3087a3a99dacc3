"""What an open session is made of."""

import os
import weakref
from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from trackside import autostart
from trackside.config import EmitterConfig
from trackside.identity import identify, of_its_own
from trackside.opening import open_publisher, output_directory
from trackside.recorder import Recorder
from trackside.root_hook import unwrap
from trackside.wire import segment


class Parts:
    """One model's settings, names, publisher and recorder; a daemon is started if need be."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        config: EmitterConfig,
        recorder_type: type[Recorder],
        dirs_in_use: Collection[Path | None],
    ) -> None:
        """Make them; nothing is hooked yet.

        Args:
            model: wrapped or not.
            optimizer: None to take the first that steps a parameter of the model.
            config: the settings.
            recorder_type: the kind of session it is for.
            dirs_in_use: where other sessions of this process have their outputs.
        """
        directory = segment.node_directory(os.environ)
        self.config = config
        self.root = weakref.ref(unwrap(model))
        self.identity = of_its_own(identify(os.environ, run=config.run))
        self.save_dir = output_directory(config, self.identity, Path.cwd())
        if self.save_dir in dirs_in_use:
            # Two models that train side by side would write into each other's step folders.
            self.save_dir = self.save_dir / self.identity.run
        self.publisher = open_publisher(directory, config, self.identity, self.save_dir)
        try:
            is_asked = config.autostart and self.identity.place.local_rank == 0
            if is_asked and self.publisher.has_ring:
                autostart.ensure_daemon(directory, os.environ)
            self.recorder = recorder_type(
                model,
                optimizer,
                config=config,
                place=self.identity.place,
                publisher=self.publisher,
            )
        except BaseException:  # else a daemon would wait for as long as this process lives
            self.publisher.close()
            raise
