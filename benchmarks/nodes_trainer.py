"""A rank of `nodes.py`, started by torchrun: ``python nodes_trainer.py EVERY SAVE_DIR``; 0 is bare.

Rank 0 reads lines; each is a number of steps that all ranks train. It answers with the milliseconds
of a mean step: on the clock, and of its thread's CPU time. All end with its input.
"""

import contextlib
import sys
import time

import torch
import torch.distributed as dist
from blocking_trainer import LAYERS, LENGTH, VOCABULARY, make_model, step
from torch import nn

BATCH = 4


def main(every: int, save_dir: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(make_model(LAYERS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(1 + dist.get_rank())
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH + 1))
    with contextlib.ExitStack() as stack:
        if every:
            import trackside  # noqa: PLC0415 - the bare trainer must not know it

            settings = {"every": every, "save_dir": save_dir, "autostart": False}
            session = trackside.attach(model, optimizer, ring_bytes=8 << 20, **settings)
            stack.enter_context(session)
        if dist.get_rank() == 0:
            print("ready", flush=True)
        while count := next_count():
            start = time.thread_time()
            wall_ms = sum(step(model, optimizer, tokens) for _ in range(count)) / count
            cpu_ms = 1e3 * (time.thread_time() - start) / count
            if dist.get_rank() == 0:
                print(wall_ms, cpu_ms, flush=True)
    dist.destroy_process_group()


def next_count() -> int:
    """Tell all ranks what rank 0 reads; 0 is the end."""
    line = sys.stdin.readline() if dist.get_rank() == 0 else ""
    count = torch.tensor(int(line or 0))
    dist.broadcast(count, src=0)
    return int(count)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
