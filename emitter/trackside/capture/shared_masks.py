"""Masks that several layers of a forward have in common: kept once, and so sent once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.weak import TensorWeakRef

from trackside.capture.sources.call import AttentionCall

_Source = tuple[int, torch.Size, tuple[int, ...], torch.dtype, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A mask that was kept, and from what."""

    owners: tuple[TensorWeakRef, ...]
    """Who holds the memory: a mask made later could lie at the address of one that is gone."""

    sources: tuple[_Source, ...]
    sizes: tuple[int, ...]
    mask: torch.Tensor

    def is_of(self, owners: Sequence[torch.Tensor]) -> bool:
        return all(ref() is owner for ref, owner in zip(self.owners, owners, strict=True))


def own_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor into contiguous storage, away from autograd."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


class SharedMasks:
    """The masks of one forward. No value is compared: on a GPU that would wait for the device."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    def own(self, call: AttentionCall, mask: torch.Tensor) -> torch.Tensor:
        """Return the kept part of a call's mask with a storage of its own.

        It is the very tensor returned before if the same memory, unchanged since, was passed to a
        call of the same sizes.

        Args:
            call: whose mask it is.
            mask: the part of it that is kept, [1 or heads, rows, keys]; which part that is
                follows from the call's sizes alone.
        """
        if not call.masks or any(source.is_inference() for source in call.masks):  # no version
            return own_copy(mask)
        owners, sources = _owners(call.masks), tuple(map(_source, call.masks))
        sizes = (call.batch_size, call.num_heads, call.num_queries, call.num_keys)
        for kept in self._kept:
            is_same = kept.sources == sources and kept.sizes == sizes and kept.is_of(owners)
            if is_same and kept.mask.dtype is mask.dtype:
                return kept.mask
        own = own_copy(mask)
        self._kept.append(_Kept(tuple(map(TensorWeakRef, owners)), sources, sizes, own))
        return own


def _owners(masks: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return tuple(mask if mask._base is None else mask._base for mask in masks)  # noqa: SLF001 - public in all but name


def _source(mask: torch.Tensor) -> _Source:
    return mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, mask._version  # noqa: SLF001 - public in all but name
