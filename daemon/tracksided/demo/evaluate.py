"""Held-out loss of checkpoint files: the same batches for each, printed as JSON.

python -m tracksided.demo.evaluate checkpoints/step_000600.pt checkpoints/averaged_model.pt

The numbers are nats per byte.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tracksided.demo.model import CONTEXT, GPT, next_byte_loss
from tracksided.demo.text import even_batches, load_corpus

NUM_BATCHES = 16
BATCH_SIZE = 32  # 16 * 32 * 128: 65,536 bytes are predicted


def held_out_loss(checkpoint: Path, batches: Iterable[NDArray[np.int64]]) -> float:
    """Return the mean cross-entropy of a checkpoint in nats per byte.

    Args:
        checkpoint: a plain state dict, as the demo's training script saves it.
        batches: tokens, each [batch, context + 1], all of one size.
    """
    model = GPT()
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.eval()
    losses = []
    with torch.inference_mode():
        for batch in batches:
            tokens = torch.from_numpy(batch)
            losses.append(next_byte_loss(model(tokens[:, :-1]), tokens[:, 1:]).item())
    return sum(losses) / len(losses)


def main() -> None:
    """Read the command line and print file names with their losses."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    options = parser.parse_args()
    batches = list(
        even_batches(
            load_corpus().held_out,
            num_batches=NUM_BATCHES,
            batch_size=BATCH_SIZE,
            length=CONTEXT + 1,
        )
    )
    losses = {str(path): held_out_loss(path, batches) for path in options.checkpoints}
    print(json.dumps(losses))  # noqa: T201 - the result of this command


if __name__ == "__main__":
    main()
