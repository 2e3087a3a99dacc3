"""Fewer, larger cells: each shows the largest weight of its block.

The maximum keeps one-pixel diagonals, which means and nearest neighbours lose.
"""

from collections.abc import Iterator

import numpy as np

from tracksided.samples import FloatArray


def block_size(length: int, max_cells: int) -> int:
    """Return how many positions share a cell so that at most ``max_cells`` are drawn."""
    return -(-length // max_cells)


def pool(weights: FloatArray, row_block: int, column_block: int) -> FloatArray:
    """Take the maximum of each block; the last block of an axis may be smaller.

    Args:
        weights: [rows, columns].
        row_block: rows per cell.
        column_block: columns per cell.

    Returns:
        [ceil(rows / row_block), ceil(columns / column_block)]; NaN where a block holds one.
    """
    pooled = weights
    if row_block > 1:
        pooled = np.concatenate(list(_row_maxima(pooled, row_block)))
    if column_block > 1:
        strided = pooled[:, ::column_block].copy()
        for offset in range(1, column_block):
            column = pooled[:, offset::column_block]
            np.maximum(strided[:, : column.shape[1]], column, out=strided[:, : column.shape[1]])
        pooled = strided
    return pooled


def _row_maxima(weights: FloatArray, block: int) -> Iterator[FloatArray]:
    rows, columns = weights.shape
    whole = rows // block
    yield weights[: whole * block].reshape(whole, block, columns).max(axis=1)
    if rows % block:
        yield weights[whole * block :].max(axis=0, keepdims=True)
