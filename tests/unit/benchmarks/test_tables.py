"""What benchmarks found, as tables and verdicts."""

from dataclasses import asdict

import pytest
from figures import Spread
from tables import Column, Limit, Table, markdown, markdown_of_limits


def test_a_table_shows_medians_with_their_interval() -> None:
    columns = (Column("who", "who"), Column("ms", "time, ms", 1), Column("kept", "kept"))
    rows = [
        {"who": "ours", "ms": Spread(1.25, 1.04, 1500.0), "kept": True},
        {"who": "theirs", "ms": 12345.678, "kept": False},
        {"who": "nobody", "ms": None},
    ]

    assert markdown(asdict(Table(columns, rows))).splitlines() == [
        "| who | time, ms | kept |",
        "| --- | --- | --- |",
        "| ours | 1.2 [1.0, 1,500.0] | yes |",
        "| theirs | 12,345.7 | NO |",
        "| nobody | - | - |",
    ]


@pytest.mark.parametrize(
    ("sign", "reached", "kept"),
    [
        ("<=", {"": 10.0}, True),
        ("<=", {"": 10.1}, False),
        (">=", {"": 10.0}, True),
        (">=", {"": 9.9}, False),
        ("<=", {"wall": 9.0, "CPU": 11.0}, False),
        ("<=", {"": Spread(9.0, 1.0, 99.0)}, True),
        (">=", {"": Spread(9.0, 1.0, 99.0)}, False),
        ("<=", {}, None),
    ],
)
def test_a_limit_is_judged_by_medians(sign: str, reached: dict, kept: object) -> None:
    assert Limit("what", sign, 10.0, reached).kept is kept


def test_limits_say_what_was_reached_or_why_not() -> None:
    limits = [
        Limit("time, us", "<=", 15, {"wall": Spread(12.9, 11.04, 14.449), "CPU": 12.8}),
        Limit("their time, times ours", ">=", 10.0, why_not="wandb is not installed"),
    ]

    assert markdown_of_limits([limit.document() for limit in limits]).splitlines()[2:] == [
        "| time, us <= 15 | 12.9 [11.04, 14.45] (wall), 12.8 (CPU) | yes |",
        "| their time, times ours >= 10 | not measured: wandb is not installed | - |",
    ]
