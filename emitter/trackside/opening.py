"""Opens what a session captures with and publishes to.

Where shared memory or the doorbell cannot be had, one line says the mend, and training goes on.
"""

import logging
import platform
import secrets
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import zmq
from torch import nn

from trackside.capture.attention import AttentionTap
from trackside.capture.gradients import GradientTap
from trackside.config import EmitterConfig
from trackside.errors import WireError
from trackside.identity import Identity
from trackside.publisher import Publisher
from trackside.wire import segment
from trackside.wire.doorbell import Doorbell
from trackside.wire.records import Hello, encode
from trackside.wire.ring import RingWriter
from trackside.wire.segment import SegmentName

logger = logging.getLogger(__name__)

DEFAULT_SAVE_DIR = "trackside_logs"
NONCE_BYTES = 4  # tells the segments of one process apart


def output_directory(config: EmitterConfig, identity: Identity, working_dir: Path) -> Path:
    """Return the absolute directory that the daemon writes to."""
    chosen = config.save_dir or Path(DEFAULT_SAVE_DIR) / identity.run
    return working_dir / chosen


def open_publisher(
    directory: Path, config: EmitterConfig, identity: Identity, save_dir: Path
) -> Publisher:
    """Make the segment and the doorbell; a publisher without them counts what it drops."""
    ring = _open_ring(directory, config, identity, save_dir)
    return Publisher(ring, None if ring is None else _open_doorbell(directory))


def make_tap(
    root: nn.Module, config: EmitterConfig, on_error: Callable[[str, BaseException], None]
) -> AttentionTap:
    """Make the attention tap that the settings ask for; it is not installed yet.

    Args:
        root: whose forward it will hook.
        config: the settings.
        on_error: told of what went wrong in a hook, and where.
    """
    return AttentionTap(
        root,
        layers=config.layers,
        heads=(config.heads,) if isinstance(config.heads, int) else config.heads,
        sample=config.sample,
        max_queries=config.max_queries,
        on_error=on_error,
    )


def make_gradient_tap(root: nn.Module, config: EmitterConfig) -> GradientTap | None:
    """Make the gradient tap that the settings ask for; attention gets what it leaves."""
    if not config.gradients:
        return None
    return GradientTap(root, sample_bytes=config.step_budget_bytes // 2)


def _open_ring(
    directory: Path, config: EmitterConfig, identity: Identity, save_dir: Path
) -> RingWriter | None:
    try:
        segment.ensure_node_directory(directory)
        return RingWriter.create(
            directory,
            SegmentName(
                identity.run, identity.place.rank, identity.pid, secrets.token_hex(NONCE_BYTES)
            ),
            ring_bytes=config.ring_bytes,
            hello=encode(_hello(config, identity, save_dir)),
        )
    except (WireError, OSError) as error:
        logger.warning("trackside: nothing will be recorded: %s", error)
        return None


def _open_doorbell(directory: Path) -> Doorbell | None:
    try:
        return Doorbell(directory)
    except (WireError, zmq.ZMQError, OSError) as error:
        logger.warning("trackside: the daemon is not rung and will look by itself: %s", error)
        return None


def _hello(config: EmitterConfig, identity: Identity, save_dir: Path) -> Hello:
    place = identity.place
    return Hello(
        run=identity.run,
        rank=place.rank,
        local_rank=place.local_rank,
        world_size=place.world_size,
        local_world_size=place.local_world_size,
        node_rank=place.node_rank,
        hostname=identity.hostname,
        pid=identity.pid,
        attempt=place.attempt,
        started_at=time.time(),
        started_boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        save_dir=str(save_dir),
        checkpoints=tuple(str(Path.cwd() / path) for path in config.checkpoints),
        every=config.every,
        visualize=config.visualize,
        save_raw=config.save_raw,
        config=config.config,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "pyzmq": zmq.__version__,
            "trackside": _own_version(),
        },
    )


def _own_version() -> str:
    try:
        return version("trackside")
    except PackageNotFoundError:
        return "unknown"
