"""The ranks of a job that torchrun started, over torch.distributed's gloo."""

import datetime as dt
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from tracksided.errors import RankLost

# Shares are equal in bytes: whoever is ready waits only for slower disks, hours on huge models.
# A rank that dies closes its connections, which the others notice at once.
TIMEOUT = dt.timedelta(hours=6)

LOST = "another rank ended or cannot be reached"

_Result = TypeVar("_Result")


class GlooGroup:
    """The default process group, made of torchrun's environment.

    Bytes travel as uint8 tensors: the object collectives of torch.distributed pickle.
    States: found -> joined. `is_first` may be asked in both, all else needs `join`.
    """

    def __init__(self) -> None:
        """Find torchrun's store.

        Raises:
            RankLost: it cannot be reached, or the environment does not name it.
        """
        try:
            self._rendezvous, self.rank, self.size = next(rendezvous("env://", timeout=TIMEOUT))
        except (RuntimeError, ValueError) as error:
            raise RankLost(f"the ranks do not find each other: {error}") from error
        self._store = dist.PrefixStore(  # type: ignore[attr-defined] # documented, not in __all__
            "tracksided.average", self._rendezvous
        )
        self._is_ending = False

    def join(self) -> None:
        """Connect to all ranks. They come out one by one: some may still connect to each other.

        Raises:
            RankLost: some did not come, or ended meanwhile.
        """
        try:
            dist.init_process_group(
                "gloo",
                store=self._rendezvous,
                rank=self.rank,
                world_size=self.size,
                timeout=TIMEOUT,
            )
        except (RuntimeError, ValueError) as error:
            raise RankLost(f"{LOST}: {error}") from error

    def broadcast(self, content: bytes | None) -> bytes:
        """Give what rank 0 has to all."""
        size = torch.tensor([len(content or b"")])
        _reached(lambda: dist.broadcast(size, src=0))
        tensor = _tensor(content or b"", int(size))
        _reached(lambda: dist.broadcast(tensor, src=0))
        return _bytes(tensor)

    def gather(self, content: bytes) -> tuple[bytes, ...]:
        """Give what each has to rank 0; the others get nothing."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        _reached(lambda: dist.all_gather(sizes, torch.tensor([len(content)])))
        room = int(max(sizes))
        mine = _tensor(content, room)
        if self.rank != 0:
            _reached(lambda: dist.gather(mine, dst=0))
            return ()
        parts = [torch.zeros(room, dtype=torch.uint8) for _ in sizes]
        _reached(lambda: dist.gather(mine, parts, dst=0))
        return tuple(_bytes(part[: int(size)]) for part, size in zip(parts, sizes, strict=True))

    def raise_alarm(self, number: int) -> None:
        """Leave a word in torchrun's store."""
        _reached(lambda: self._store.set(_alarm(number), "1"))

    def is_alarmed(self, number: int) -> bool:
        """Ask torchrun's store."""
        return self._is_ending or _reached(lambda: self._store.check([_alarm(number)]))

    def end_soon(self) -> None:
        """Count every round as alarmed from now on, at this rank; for signal handlers."""
        self._is_ending = True

    def is_first(self) -> bool:
        """Whether no other rank asked this before: one message is enough of a lost rank."""
        try:
            return int(self._store.add("first", 1)) == 1
        except RuntimeError:
            return True  # the store is gone, too: better twice than never


def _alarm(number: int) -> str:
    return f"alarm/{number}"


def _tensor(content: bytes, room: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(content.ljust(max(room, 1), b"\0")), dtype=torch.uint8)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def _reached(call: Callable[[], _Result]) -> _Result:
    """Run a call that reaches other ranks."""
    try:
        return call()
    except RuntimeError as error:
        raise RankLost(LOST) from error
