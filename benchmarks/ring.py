"""Publish records through the ring, against memcpy, a ZeroMQ payload and torch's own queue.

    python benchmarks/ring.py [--rounds 15] [--json FILE]

All ways move the same bytes. `memcpy` is one copy into warm shared memory, the limit of any
copying transport; the others are timed from the call to the moment when a consumer in another
process has the bytes, or for the ring and memcpy until the call returns, as the trainer feels it.
Rounds are interleaved; the table shows medians and ratios to memcpy.
"""

import argparse
import json
import mmap
import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
import zmq
from torch import multiprocessing

from trackside.wire.records import RecordKind
from trackside.wire.ring import PublishResult, RingReader, RingWriter
from trackside.wire.segment import SegmentName

SIZES = (4 << 10, 256 << 10, 4 << 20, 64 << 20)
RING_BYTES = 256 << 20
BATCH_BYTES = 64 << 20  # moved per measurement, so that small records are not lost in the clock
MAX_BATCH = 2000

Send = Callable[[memoryview], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    directory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    directory.mkdir(mode=0o700)
    try:
        with ExitStack() as stack:
            ways: dict[str, Send] = {
                "memcpy": stack.enter_context(memcpy(directory)),
                "ring": stack.enter_context(ring(directory)),
                "zeromq payload": stack.enter_context(zeromq(directory)),
                "torch queue": stack.enter_context(torch_queue()),
            }
            for size in SIZES:
                results[size] = measure(ways, size, arguments.rounds)
    finally:
        shutil.rmtree(directory)
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(ways: Mapping[str, Send], size: int, rounds: int) -> dict[str, float]:
    """Return microseconds per record, medians of interleaved rounds."""
    source = memoryview(np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)).cast("B")
    count = max(1, min(MAX_BATCH, BATCH_BYTES // size))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way(source)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(count):
                way(source)
            times[name].append((time.perf_counter() - start) / count * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def memcpy(directory: Path) -> Iterator[Send]:
    """Copy into a warm mapping of the ring's size, place after place."""
    path = directory / "plain"
    with path.open("w+b") as file:
        file.truncate(RING_BYTES)
        target = mmap.mmap(file.fileno(), RING_BYTES, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    view = memoryview(target)
    place = 0

    def send(source: memoryview) -> None:
        nonlocal place
        if place + len(source) > RING_BYTES:
            place = 0
        view[place : place + len(source)] = source
        place += len(source)

    yield send
    view.release()
    target.close()


@contextmanager
def ring(directory: Path) -> Iterator[Send]:
    """Publish, with checksums; the reader frees room as a daemon would, outside of the record."""
    writer = RingWriter.create(directory, SegmentName("bench", 0, 1, "a"), ring_bytes=RING_BYTES)
    reader = RingReader.open(writer.path)
    metadata = bytes(1000)

    def send(source: memoryview) -> None:
        if writer.free_bytes < 2 * len(source) + (1 << 16):
            # What a daemon does in its own process: the read cursor moves to the end.
            reader._move_read_cursor(reader._check_cursors())  # noqa: SLF001 - no time for polling
        result = writer.publish(RecordKind.STEP, 1, metadata, [(0, source)], len(source))
        assert result is PublishResult.PUBLISHED  # noqa: S101 - a drop would look fast

    yield send
    reader.close()
    writer.close()


@contextmanager
def zeromq(directory: Path) -> Iterator[Send]:
    """Send the bytes themselves and wait until the consumer has them."""
    address = f"ipc://{directory}/bench.sock"
    process = multiprocessing.get_context("spawn").Process(target=serve_zeromq, args=(address,))
    process.start()
    context = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(address)

    def send(source: memoryview) -> None:
        socket.send(source, copy=False)
        socket.recv()

    yield send
    socket.send(b"")
    socket.recv()
    context.destroy(linger=0)
    process.join()


def serve_zeromq(address: str) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.REP)
    socket.bind(address)
    while True:
        size = len(socket.recv(copy=False).buffer)
        socket.send(b"")
        if not size:
            context.destroy(linger=1000)
            return


@contextmanager
def torch_queue() -> Iterator[Send]:
    """Put a tensor on torch's shared-memory queue and wait until the consumer has it."""
    context = multiprocessing.get_context("spawn")
    queue, answers = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=serve_queue, args=(queue, answers))
    process.start()

    def send(source: memoryview) -> None:
        # The queue moves a tensor's storage; the copy is the one that a running trainer needs.
        queue.put(torch.frombuffer(bytearray(source), dtype=torch.uint8))
        answers.get()

    yield send
    queue.put(None)
    process.join()


def serve_queue(
    queue: "multiprocessing.SimpleQueue", answers: "multiprocessing.SimpleQueue"
) -> None:
    while True:
        tensor = queue.get()
        if tensor is None:
            return
        answers.put(tensor.numel())


def show(results: Mapping[int, Mapping[str, float]]) -> None:
    names = list(next(iter(results.values())))
    print(f"{'bytes':>10}" + "".join(f"{name:>18}" for name in names) + f"{'ring/memcpy':>14}")
    for size, row in results.items():
        cells = "".join(f"{row[name]:>15.1f} us" for name in names)
        print(f"{size:>10}{cells}{row['memcpy'] / row['ring']:>14.2f}")
    print("ring/memcpy is bandwidth: 1 is the limit")


if __name__ == "__main__":
    main()
