"""Find the copy of a checkpoint among many, without comparing it with each of them."""

from collections import defaultdict
from typing import TypeAlias

from tracksided.checkpoints.content import is_same_content, sample, stated_digest
from tracksided.checkpoints.formats.base import Checkpoint

_File: TypeAlias = tuple[int | str, int | str]
"""Device and inode."""


class Copies:
    """Checkpoints that fit together, by what a copy of each has in common with it."""

    def __init__(self) -> None:
        self._by_file: dict[_File, Checkpoint] = {}
        self._by_digest: dict[str, Checkpoint] = {}
        self._by_sample: defaultdict[bytes, list[Checkpoint]] = defaultdict(list)
        """Those without digest, and, once one of those was looked for, all."""

        self._is_all_sampled = False

    def add(self, checkpoint: Checkpoint) -> None:
        """Add one that is no copy of another; raises SourceRefused."""
        self._by_file[_file(checkpoint)] = checkpoint
        digest = stated_digest(checkpoint)
        if digest is not None:
            self._by_digest[digest] = checkpoint
        if digest is None or self._is_all_sampled:
            self._by_sample[sample(checkpoint)].append(checkpoint)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Forget one that was added; raises SourceRefused."""
        self._by_file.pop(_file(checkpoint))
        digest = stated_digest(checkpoint)
        if digest is not None:
            self._by_digest.pop(digest)
        if digest is None or self._is_all_sampled:
            self._by_sample[sample(checkpoint)].remove(checkpoint)

    def same_file(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Return the one that lies in the same file, under another name.

        Args:
            checkpoint: any.
        """
        return self._by_file.get(_file(checkpoint))

    def same_content(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """Return the one whose tensors are equal.

        Args:
            checkpoint: one that fits the others.

        Raises:
            SourceRefused: tensors without checksum cannot be read.
        """
        digest = stated_digest(checkpoint)
        if digest is None:
            self._sample_all()
        elif digest in self._by_digest:
            return self._by_digest[digest]
        if not self._by_sample:
            return None
        likely = self._by_sample.get(sample(checkpoint), ())
        return next((known for known in likely if is_same_content(known, checkpoint)), None)

    def _sample_all(self) -> None:
        if not self._is_all_sampled:
            self._is_all_sampled = True
            for checkpoint in self._by_digest.values():
                self._by_sample[sample(checkpoint)].append(checkpoint)


def _file(checkpoint: Checkpoint) -> _File:
    identity = checkpoint.sources[0].identity
    return identity.device, identity.inode
