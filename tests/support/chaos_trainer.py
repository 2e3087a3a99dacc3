"""A rank that publishes until it is told to stop, or killed. It says what it has published.

``python chaos_trainer.py DIRECTORY SAVE_DIR RUN ATTEMPT RANK WORLD_SIZE FIRST_STEP LATE_S
STOP_FILE`` prints its nonce, then sequence number and step of each record after it was
published. Its loss tells the records of one run apart; every 40 steps the training goes back by
5, and every 13 steps a gradient is infinite, which raises an alert.
"""

import math
import os
import sys
import time
from pathlib import Path

from fake_trainer import FakeRank, make_hello

from trackside.errors import SegmentNotCreated
from trackside.wire.ring import PublishResult

PERIOD_S = 0.4
LARGE_PERIOD_S = 1.0  # of a rank among many
LARGE_WORLD = 4
LAP_STEPS, BACK_STEPS = 40, 5
ALERT_STEPS = 13
RING_BYTES = 4 << 20
ALL_PICTURES = ("heatmap", "statistics", "entropy")
LOSSES_PER_ATTEMPT = 10_000  # float32 holds whole numbers up to 16 million


def loss_of(attempt: int, sequence: int) -> float:
    return float(attempt * LOSSES_PER_ATTEMPT + sequence)


def main(arguments: list[str]) -> int:
    directory, save_dir, run = Path(arguments[0]), Path(arguments[1]), arguments[2]
    attempt, rank, world_size, step = map(int, arguments[3:7])
    late_s, stop_file = float(arguments[7]), Path(arguments[8])
    time.sleep(late_s)
    hello = make_hello(
        save_dir,
        run=run,
        attempt=attempt,
        rank=rank,
        world_size=world_size,
        local_world_size=world_size,
        visualize=ALL_PICTURES if world_size == 1 else ("statistics",),
    )
    nonce = f"a{attempt}r{rank}p{os.getpid()}"
    try:
        trainer = FakeRank(directory, hello, nonce=nonce, ring_bytes=RING_BYTES)
    except SegmentNotCreated:
        return 0  # shared memory is full: nothing is recorded of this try
    say(nonce)
    sequence = 0
    period_s = PERIOD_S if world_size < LARGE_WORLD else LARGE_PERIOD_S
    while not stop_file.exists():
        norm = math.inf if sequence % ALERT_STEPS == ALERT_STEPS - 1 else 2.0
        result = trainer.publish(
            step,
            timestamp=time.time(),
            loss=loss_of(attempt, sequence + 1),
            norm_before_clip=norm,
            norm_after_clip=norm,
        )
        if result is PublishResult.PUBLISHED:
            sequence += 1
            say(f"{sequence} {step}")
        step += 1 if sequence % LAP_STEPS else 1 - BACK_STEPS
        step = max(step, 1)
        time.sleep(period_s)
    trainer.close(steps=step)
    return 0


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
