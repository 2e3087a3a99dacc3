"""A training that goes back writes anew."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracksided.progress.curve import Series
from tracksided.progress.rows import Rows

ROWS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.dictionaries(st.sampled_from(["loss", "eval_loss", "lr"]), st.floats(-1, 1)),
    ),
    max_size=60,
)


def pairs(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps.tolist(), series.values.tolist(), strict=True))


@given(ROWS)
def test_columns_hold_what_a_dictionary_of_steps_would(
    written: list[tuple[int, dict[str, float]]],
) -> None:
    rows = Rows()
    model: dict[int, dict[str, float]] = {}
    last = -1
    for step, values in written:
        rows.add(step, values)
        if step < last:
            model = {known: entry for known, entry in model.items() if known < step}
        model.setdefault(step, {}).update(values)
        last = step

    for name in ("loss", "eval_loss", "lr"):
        expected = [(step, model[step][name]) for step in sorted(model) if name in model[step]]
        assert pairs(rows.series(name)) == expected


def test_going_back_is_told_in_words() -> None:
    rows = Rows()
    for step in (10, 20, 30, 15, 20):
        rows.add(step, {"loss": float(step)})

    assert rows.notes() == ("training went back from step 30 to step 15; the later try counts",)
    assert pairs(rows.series("loss")) == [(10, 10.0), (15, 15.0), (20, 20.0)]


def test_unknown_column_is_an_empty_series() -> None:
    assert len(Rows().series("loss")) == 0


def test_series_leaves_out_what_is_not_finite() -> None:
    series = Series.of([1, 2, 3], [np.nan, 2.0, np.inf])

    assert pairs(series.finite) == [(2, 2.0)]


def test_growth_of_a_series_is_per_step_and_leaves_out_where_a_clock_began_anew() -> None:
    series = Series.of([10, 20, 25, 30, 40], [1.0, 3.0, np.nan, 0.5, 2.5])

    assert pairs(series.per_step()) == [(20, 0.2), (40, 0.2)]
    assert pairs(Series.of([10], [1.0]).per_step()) == []
    assert pairs(Series.of([], []).per_step()) == []
