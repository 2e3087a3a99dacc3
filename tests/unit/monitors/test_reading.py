"""A run sees its own ranks only."""

from tracksided.monitors.reading import HostReading, ProcessReading, of_ranks


def test_a_run_is_handed_its_own_processes_under_its_own_ranks() -> None:
    ours, theirs = ProcessReading(rank=0, rss_bytes=5), ProcessReading(rank=3, rss_bytes=7)
    reading = HostReading(timestamp=1.0, cpu_percent=20.0, processes={10: ours, 11: theirs})

    narrowed = of_ranks(reading, {11: 1, 12: 2})

    assert narrowed == HostReading(
        timestamp=1.0, cpu_percent=20.0, processes={11: ProcessReading(rank=1, rss_bytes=7)}
    )
