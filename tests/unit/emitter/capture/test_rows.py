import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trackside.capture.rows import Rows


@given(num_rows=st.integers(1, 5000), limit=st.integers(1, 600))
def test_rows_ascend_and_hold_the_first_and_the_last(num_rows: int, limit: int) -> None:
    rows = Rows.spread(num_rows, limit).indices

    assert len(rows) == min(num_rows, limit)
    assert list(rows) == sorted(set(rows))
    assert rows[0] == 0
    assert limit == 1 or rows[-1] == num_rows - 1


@given(num_rows=st.integers(2, 5000), limit=st.integers(2, 600))
def test_rows_are_evenly_spaced(num_rows: int, limit: int) -> None:
    rows = Rows.spread(num_rows, limit)

    even = np.linspace(0, num_rows - 1, rows.num_kept)
    assert np.abs(np.array(rows.indices) - even).max() < 1


@pytest.mark.parametrize(("num_rows", "limit"), [(7, 7), (7, 9), (9, 5), (9, 4), (9, 2), (9, 1)])
def test_taking_rows_equals_indexing_with_their_numbers(num_rows: int, limit: int) -> None:
    tensor = torch.randn(3, num_rows, 2)
    rows = Rows.spread(num_rows, limit)

    assert torch.equal(rows.take(tensor), tensor[:, list(rows.indices)])


def test_a_single_row_stands_for_all() -> None:
    mask = torch.randn(1, 1, 6)

    assert Rows.spread(8, 3).take(mask).shape == (1, 1, 6)
