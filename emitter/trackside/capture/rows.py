"""Which query rows of a map are kept, and how they are cut out of a tensor."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rows:
    """``num_kept`` of ``num_rows`` rows, evenly spaced, first and last included.

    Row i is ``i * (num_rows - 1) // (num_kept - 1)``: ascending, each once. Everything follows
    from the two counts, so that no index is copied to or from a device.
    """

    num_rows: int
    num_kept: int

    @classmethod
    def spread(cls, num_rows: int, limit: int) -> "Rows":
        """Keep at most ``limit`` of ``num_rows`` rows; both at least 1."""
        return cls(num_rows, min(num_rows, limit))

    @property
    def indices(self) -> tuple[int, ...]:
        """The kept rows, ascending; one row alone is the first."""
        if self.num_kept == 1:
            return (0,)
        return tuple(i * (self.num_rows - 1) // (self.num_kept - 1) for i in range(self.num_kept))

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """Cut the rows out of the second last dimension; a view where that is possible.

        A dimension of size 1 stands for all rows and stays as it is.
        """
        if tensor.shape[-2] == 1 or self.num_kept == self.num_rows:
            return tensor
        if self.num_kept == 1:
            return tensor[..., :1, :]
        span, gaps = self.num_rows - 1, self.num_kept - 1
        if span % gaps == 0:
            return tensor[..., :: span // gaps, :]
        return tensor.index_select(-2, self.positions(tensor.device))

    def positions(self, device: torch.device) -> torch.Tensor:
        """Return the kept rows as a tensor that is made on the device."""
        counts = torch.arange(self.num_kept, device=device)
        if self.num_kept == 1:
            return counts
        gaps = self.num_kept - 1
        return counts.mul_(self.num_rows - 1).div_(gaps, rounding_mode="floor")
