"""Device to host without waiting: the only file that knows CUDA.

Tensors on the CPU are ready at once and are not copied. From a CUDA device they are copied on a
side stream into a pinned buffer that is used again and again; an event tells when they are there.
Nothing here waits: a copy that is not done when its buffer is needed again costs the new sample.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from trackside.errors import DeviceNotSupported
from trackside.wire.layout import align
from trackside.wire.records import DTYPE_BYTES, widen_bfloat16

logger = logging.getLogger(__name__)

NUM_BUFFERS = 2  # one being published, one being filled
DRAIN_POLL_S = 0.001  # only at the very end of a session

_WIRE_DTYPES: Mapping[torch.dtype, str] = {getattr(torch, name): name for name in DTYPE_BYTES}


@dataclass(frozen=True, slots=True)
class HostArray:
    """An array in host memory, row-major. Its bytes stay valid as long as its `Staged` does."""

    dtype: str
    """A key of `trackside.wire.records.DTYPE_BYTES`."""

    shape: tuple[int, ...]
    raw: memoryview

    def number(self) -> float:
        """Return the value of an array with one element."""
        return self.numbers()[0]

    def numbers(self) -> list[float]:
        """Return all values, in order."""
        if self.dtype == "bfloat16":
            return [float(value) for value in widen_bfloat16(np.frombuffer(self.raw, np.uint16))]
        return [float(value) for value in np.frombuffer(self.raw, np.dtype(self.dtype))]


class Device(Protocol):
    """What staging asks of an accelerator; `Cuda` is the real one."""

    type: str
    """Of the tensors that it copies, as `torch.device.type`."""

    def can_copy(self) -> bool:
        """Whether copies may be started and asked about now."""

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Return pinned bytes."""

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], bool]:
        """Start copying each (host, device) pair; the answer tells whether all are done."""


class Staged:
    """Tensors on their way to the host."""

    def __init__(
        self,
        arrays: Mapping[str, HostArray],
        is_done: Callable[[], bool],
        sources: Sequence[torch.Tensor],
    ) -> None:
        """Keep ``sources`` alive until ``is_done`` says that they were read.

        Args:
            arrays: by name; their bytes are valid once ``is_done``.
            is_done: asked often; does not wait.
            sources: what is copied from.
        """
        self._arrays = arrays
        self._is_done = is_done
        self._sources = sources
        self._is_released = False

    @property
    def arrays(self) -> Mapping[str, HostArray]:
        """Name to array; only when ready, and not after `release`."""
        return self._arrays

    def is_ready(self) -> bool:
        """Whether `arrays` may be read."""
        return self._is_done()

    def release(self) -> None:
        """Say that the arrays have been read, or will never be: the memory may serve again."""
        self._is_released = True

    def is_over(self) -> bool:
        """Whether nobody reads or writes the memory any more."""
        return self._is_released and self._is_done()


@dataclass(slots=True)
class _Buffer:
    """Pinned memory that serves one `Staged` at a time."""

    memory: torch.Tensor | None = None
    user: Staged | None = None


class Staging:
    """Brings tensors to the host. One thread at a time."""

    def __init__(self, device: Device | None = None) -> None:
        self._device = device or Cuda()
        self._buffers = [_Buffer() for _ in range(NUM_BUFFERS)]
        self._next = 0

    def can_copy(self) -> bool:
        """Whether anything may be staged or asked about now (not while a graph is captured)."""
        return self._device.can_copy()

    def stage(self, tensors: Mapping[str, torch.Tensor]) -> Staged | None:
        """Start bringing detached tensors to the host; None where no buffer is free.

        Tensors on the CPU are viewed, not copied: nobody may write to them afterwards. One tensor
        under several names becomes one array.

        Raises:
            DeviceNotSupported: a tensor is neither on the CPU nor on the accelerator.
        """
        once = {id(tensor): _shippable(tensor) for tensor in tensors.values()}
        types = {tensor.device.type for tensor in once.values()}
        if types <= {"cpu"}:
            arrays = {key: _view(tensor) for key, tensor in once.items()}
            is_done: Callable[[], bool] = _always
        elif unknown := types - {"cpu", self._device.type}:
            raise DeviceNotSupported(
                f"tensors are on {' and '.join(sorted(unknown))}; only those on CPU and "
                f"{self._device.type} can be recorded"
            )
        else:
            buffer = self._buffers[self._next]
            if buffer.user is not None and not buffer.user.is_over():
                return None
            arrays, is_done = self._copy(once, buffer)
        named = {name: arrays[id(tensor)] for name, tensor in tensors.items()}
        staged = Staged(named, is_done, tuple(once.values()))
        if is_done is not _always:
            buffer.user = staged
            self._next = (self._next + 1) % NUM_BUFFERS
        return staged

    def drain(self, staged: Staged, timeout_s: float) -> bool:
        """Wait for copies at the end of a session; False where they were not done in time."""
        deadline = time.monotonic() + timeout_s
        while not staged.is_ready():
            if time.monotonic() >= deadline:
                return False
            time.sleep(DRAIN_POLL_S)
        return True

    def _copy(
        self, tensors: Mapping[int, torch.Tensor], buffer: _Buffer
    ) -> tuple[dict[int, HostArray], Callable[[], bool]]:
        """Start copying into a free buffer; return the arrays to be and whether they are."""
        total = sum(align(tensor.nbytes) for tensor in tensors.values())
        if buffer.memory is None or buffer.memory.nbytes < total:
            buffer.memory = self._device.allocate(total)
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        arrays: dict[int, HostArray] = {}
        offset = 0
        for key, tensor in tensors.items():
            raw = buffer.memory[offset : offset + tensor.nbytes]
            host = raw.view(tensor.dtype).view(tensor.shape)
            arrays[key] = _view(host)
            if tensor.device.type == "cpu":
                host.copy_(tensor)
            elif tensor.numel():
                pairs.append((host, tensor))
            offset += align(tensor.nbytes)
        return arrays, self._device.copy(pairs)


class Cuda:
    """Copies by CUDA, on one side stream per device."""

    type = "cuda"

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def can_copy(self) -> bool:
        """Whether no CUDA graph is being captured: a copy or a query would break it."""
        is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch's
        return not (is_initialized and torch.cuda.is_current_stream_capturing())

    def allocate(self, num_bytes: int) -> torch.Tensor:
        """Return page-locked bytes: only these are copied to without waiting."""
        return torch.empty(num_bytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], bool]:
        """Copy behind everything that the current streams have been given so far."""
        events: list[torch.cuda.Event] = []
        for device in {source.device for _, source in pairs}:
            stream = self._streams.get(device)
            if stream is None:
                stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
                self._streams[device] = stream
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for host, source in pairs:
                    if source.device == device:
                        host.copy_(source, non_blocking=True)
                        # The allocator must not give the memory away while it is being read.
                        source.record_stream(stream)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's
                event.record(stream)
                events.append(event)
        return lambda: all(map(_has_passed, events))


def _has_passed(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]  # torch's


def _always() -> bool:
    return True


def _shippable(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached, contiguous tensor of a dtype that the wire knows."""
    tensor = tensor.detach()
    if tensor.dtype not in _WIRE_DTYPES:
        is_float = tensor.dtype.is_floating_point
        tensor = tensor.to(torch.float32 if is_float else torch.int64)
    return tensor.contiguous()


def _view(tensor: torch.Tensor) -> HostArray:
    dtype = _WIRE_DTYPES[tensor.dtype]
    flat = tensor.reshape(-1)
    numbers = (flat.view(torch.int16) if tensor.dtype == torch.bfloat16 else flat).numpy()
    raw = memoryview(numbers.view(np.uint8).data)
    return HostArray(dtype, tuple(tensor.shape), raw.toreadonly())
