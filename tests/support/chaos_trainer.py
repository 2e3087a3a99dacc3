"""A rank that publishes until it is told to stop, or killed. It says what it has published.

``python chaos_trainer.py DIRECTORY SAVE_DIR RUN ATTEMPT RANK WORLD_SIZE FIRST_STEP STOP_FILE``
prints its nonce, then sequence number and step of each record after it was published. Its loss
tells the records of one run apart; every 40 steps the training goes back by 5.
"""

import os
import sys
import time
from pathlib import Path

from fake_trainer import FakeRank, make_hello

from trackside.errors import SegmentNotCreated
from trackside.wire.ring import PublishResult

PERIOD_S = 0.15
LAP_STEPS, BACK_STEPS = 40, 5
RING_BYTES = 4 << 20
LOSSES_PER_ATTEMPT = 10_000  # float32 holds whole numbers up to 16 million


def loss_of(attempt: int, sequence: int) -> float:
    return float(attempt * LOSSES_PER_ATTEMPT + sequence)


def main(arguments: list[str]) -> int:
    directory, save_dir, run = Path(arguments[0]), Path(arguments[1]), arguments[2]
    attempt, rank, world_size, step = map(int, arguments[3:7])
    stop_file = Path(arguments[7])
    hello = make_hello(
        save_dir,
        run=run,
        attempt=attempt,
        rank=rank,
        world_size=world_size,
        local_world_size=world_size,
        visualize=("heatmap", "statistics") if world_size == 1 else ("statistics",),
    )
    nonce = f"a{attempt}r{rank}p{os.getpid()}"
    try:
        trainer = FakeRank(directory, hello, nonce=nonce, ring_bytes=RING_BYTES)
    except SegmentNotCreated:
        return 0  # shared memory is full: nothing is recorded of this try
    say(nonce)
    sequence = 0
    while not stop_file.exists():
        result = trainer.publish(step, loss=loss_of(attempt, sequence + 1))
        if result is PublishResult.PUBLISHED:
            sequence += 1
            say(f"{sequence} {step}")
        step += 1 if sequence % LAP_STEPS else 1 - BACK_STEPS
        step = max(step, 1)
        time.sleep(PERIOD_S)
    trainer.close(steps=step)
    return 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
