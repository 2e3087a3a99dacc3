"""Records through the ring, against memcpy, ZeroMQ that carries the bytes, and torch's queue.

    python benchmarks/ring.py [--rounds 15]

Three tables over record sizes, medians of interleaved rounds in one run, ratios within each round:

- cost: microseconds of the calling thread until the call returns, which is what a trainer pays
  (CPU time: neither call waits, and other work on the machine disturbs it less). Of ring and
  memcpy, with nobody reading meanwhile; `memcpy` is one copy into warm shared memory, the limit
  of any transport that copies.
- latency: microseconds from the call until another process has read all the bytes; one record at
  a time, announced as the emitter announces it, by a doorbell.
- throughput: megabytes a second from the first call until the other process has read the bytes of
  all records of a batch.

Readers read every byte, without a copy of their own.
"""

import argparse
import mmap
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import zmq
from figures import QUARTILES, Figure, quartiles, ratios
from frame import Benchmark, Findings
from tables import Column, Limit, Table
from torch import multiprocessing

from trackside.wire.doorbell import Doorbell, Listener
from trackside.wire.records import RecordKind
from trackside.wire.ring import PublishResult, RingReader, RingWriter
from trackside.wire.segment import SegmentName

SIZES = (4 << 10, 256 << 10, 4 << 20, 64 << 20)
RING_BYTES = 256 << 20
BATCH_BYTES = 64 << 20  # moved per measurement, so that small records are not lost in the clock
MIN_BATCH, MAX_BATCH = 2, 2000
QUEUED = 8  # messages that ZeroMQ may hold on either side
MAX_LATENCIES = 20  # of each round
METADATA = bytes(1000)
LIMIT = "memcpy"
RING = "ring"
LIMIT_RATIO = 0.7
LIMIT_SIZES = (256 << 10, 4 << 20, 64 << 20)  # below, bookkeeping is what costs

Send = Callable[[memoryview], None]
Receive = Callable[[], memoryview]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15)


def measure(arguments: argparse.Namespace) -> Findings:
    torch.set_num_threads(1)
    times = Times()
    directory = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    directory.mkdir(mode=0o700)
    try:
        with ExitStack() as stack:
            alone = {
                LIMIT: stack.enter_context(memcpy(directory)),
                RING: stack.enter_context(unread_ring(directory)),
            }
            read = {
                RING: stack.enter_context(transport(directory, ring_sender, ring_receiver)),
                "ZeroMQ": stack.enter_context(transport(directory, zeromq_sender, zeromq_receiver)),
                "torch queue": stack.enter_context(torch_queue()),
            }
            for size in SIZES:
                measure_size(alone, read, size, arguments.rounds, times)
    finally:
        shutil.rmtree(directory)
    return Findings(times.tables(), times.limits())


@dataclass
class Times:
    """What was measured: for each size and way one number of each round."""

    cost: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    latency: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    throughput: dict[int, dict[str, list[float]]] = field(default_factory=dict)

    def tables(self) -> dict[str, Table]:
        return {
            "cost": with_ratios("cost to the caller, us of CPU; bytes", self.cost, LIMIT),
            "latency": with_ratios("latency, us; bytes", self.latency, RING),
            "throughput": with_ratios("throughput, MB/s; bytes", self.throughput, RING),
        }

    def limits(self) -> list[Limit]:
        return [
            Limit(
                f"publishing {size:,} bytes, of the bandwidth of memcpy",
                ">=",
                LIMIT_RATIO,
                {"": quartiles(ratios(self.cost[size][LIMIT], self.cost[size][RING]))},
            )
            for size in LIMIT_SIZES
            if size in self.cost
        ]


def measure_size(
    alone: Mapping[str, Send], read: Mapping[str, "Link"], size: int, rounds: int, times: Times
) -> None:
    source = memoryview(np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)).cast("B")
    count = max(MIN_BATCH, min(MAX_BATCH, BATCH_BYTES // size))
    for send in alone.values():
        send(source)
    for link in read.values():
        link.deliver(source, 1)
    for kept in (times.cost, times.latency, times.throughput):
        kept[size] = {}
    for _ in range(rounds):
        for name, send in alone.items():
            start = time.thread_time()
            for _ in range(count):
                send(source)
            note(times.cost[size], name, (time.thread_time() - start) / count * 1e6)
        for name, link in read.items():
            single = [link.deliver(source, 1) for _ in range(min(MAX_LATENCIES, count))]
            note(times.latency[size], name, float(np.median(single)) * 1e6)
        for name, link in read.items():
            note(times.throughput[size], name, count * size / link.deliver(source, count) / 1e6)


def note(row: dict[str, list[float]], name: str, value: float) -> None:
    row.setdefault(name, []).append(value)


def with_ratios(title: str, measured: Mapping[int, Mapping[str, list[float]]], base: str) -> Table:
    """Take medians over the rounds of each way, and the spread of its ratio to one of them."""
    ways = list(next(iter(measured.values())))
    others = [name for name in ways if name != base]
    columns = [
        Column("bytes", title, 0),
        *(Column(name, name, 1) for name in ways),
        *(Column(f"{name} / {base}", f"{name} / {base}", 2) for name in others),
    ]
    rows = []
    for size, times in measured.items():
        row: dict[str, Figure] = {"bytes": size}
        row |= {name: float(np.median(values)) for name, values in times.items()}
        row |= {f"{name} / {base}": quartiles(ratios(times[name], times[base])) for name in others}
        rows.append(row)
    return Table(columns, rows, QUARTILES)


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
def unread_ring(directory: Path) -> Iterator[Send]:
    """Publish; the read cursor is moved by hand where the ring is full."""
    writer = RingWriter.create(directory, SegmentName("alone", 0, 1, "a"), ring_bytes=RING_BYTES)
    reader = RingReader.open(writer.path)

    def send(source: memoryview) -> None:
        result = writer.publish(RecordKind.STEP, 1, METADATA, [(0, source)], len(source))
        while result is PublishResult.RING_FULL:
            # What a daemon does in its own process: the read cursor moves to the end.
            reader._move_read_cursor(reader._check_cursors())  # noqa: SLF001 - no time for polling
            result = writer.publish(RecordKind.STEP, 1, METADATA, [(0, source)], len(source))
        assert result is PublishResult.PUBLISHED  # noqa: S101 - a drop would look fast

    yield send
    reader.close()
    writer.close()


@dataclass
class Link:
    """A way to another process that reads what is sent."""

    send: Send
    reader: Connection

    def deliver(self, source: memoryview, count: int) -> float:
        """Send a record so often; return seconds from the first call to the last byte read."""
        self.reader.send(count)
        self.reader.recv()  # it waits now
        start = time.monotonic_ns()
        for _ in range(count):
            self.send(source)
        return (self.reader.recv() - start) / 1e9  # one clock for all processes of the machine


@contextmanager
def transport(
    directory: Path,
    make_sender: Callable[[Path], "tuple[Send, Callable[[], None]]"],
    make_receiver: Callable[[Path], Receive],
) -> Iterator[Link]:
    """Start a reading process for a transport whose ends meet in a directory."""
    send, close = make_sender(directory)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=read_from, args=(theirs, make_receiver, directory)
    )
    process.start()
    yield Link(send, ours)
    ours.send(0)
    process.join()
    close()


@contextmanager
def torch_queue() -> Iterator[Link]:
    """Put tensors on torch's queue: their bytes go through shared memory, a handle is pickled."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    ours, theirs = multiprocessing.Pipe()
    process = context.Process(target=read_from_queue, args=(theirs, queue))
    process.start()

    def send(source: memoryview) -> None:
        # The queue moves a tensor's storage; the copy is the one that a running trainer needs.
        queue.put(torch.frombuffer(bytearray(source), dtype=torch.uint8))

    yield Link(send, ours)
    ours.send(0)
    process.join()


def read_from(
    orders: Connection, make_receiver: Callable[[Path], Receive], directory: Path
) -> None:
    serve(orders, make_receiver(directory))


def read_from_queue(orders: Connection, queue: "multiprocessing.SimpleQueue") -> None:
    serve(orders, lambda: memoryview(queue.get().numpy()))


def serve(orders: Connection, receive: Receive) -> None:
    """Read as many records as each order says, and answer with the moment of the last byte."""
    while count := orders.recv():
        orders.send("ready")
        for _ in range(count):
            np.bitwise_xor.reduce(np.frombuffer(receive(), dtype=np.uint64))
        orders.send(time.monotonic_ns())


def ring_sender(directory: Path) -> tuple[Send, Callable[[], None]]:
    writer = RingWriter.create(directory, SegmentName("read", 0, 1, "a"), ring_bytes=RING_BYTES)
    doorbell = Doorbell(directory)

    def send(source: memoryview) -> None:
        arrays, size = [(0, source)], len(source)
        while (
            writer.publish(RecordKind.STEP, 1, METADATA, arrays, size)
            is not PublishResult.PUBLISHED
        ):
            time.sleep(0)  # full; a trainer would drop
        doorbell.ring()

    def close() -> None:
        writer.close()
        doorbell.close()

    return send, close


def ring_receiver(directory: Path) -> Receive:
    listener = Listener(directory)
    reader = RingReader.open(directory / SegmentName("read", 0, 1, "a").file_name)
    end = 0

    def receive() -> memoryview:
        nonlocal end
        if end:
            reader.commit(end)  # its bytes have been read
        while (record := reader.poll()) is None:
            listener.wait(1.0)
        end = record.end
        return record.payload

    return receive


def zeromq_sender(directory: Path) -> tuple[Send, Callable[[], None]]:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set_hwm(QUEUED)
    socket.connect(f"ipc://{directory}/bench.sock")
    return socket.send, lambda: context.destroy(linger=0)


def zeromq_receiver(directory: Path) -> Receive:
    socket = zmq.Context.instance().socket(zmq.PULL)
    socket.set_hwm(QUEUED)
    socket.bind(f"ipc://{directory}/bench.sock")
    return lambda: memoryview(socket.recv(copy=False).buffer)


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"rounds": 3},
    packages=("torch", "numpy", "pyzmq"),
)

if __name__ == "__main__":
    BENCHMARK.main()
