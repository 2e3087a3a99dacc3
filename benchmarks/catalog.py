"""All benchmarks, in the order in which they are run and shown."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One benchmark."""

    name: str
    """Of its script."""

    is_default: bool = True
    """Whether it belongs to a full run, and so to the page; others run where they are named."""

    needs_root: bool = False
    """Whether others leave it out of a full run; pages do without its results."""

    takes_peers: bool = False
    """Whether it takes the options that say where others' scripts are."""


CATALOG = (
    Entry("tap"),
    Entry("blocking"),
    Entry("ring"),
    Entry("daemon"),
    Entry("rendering"),
    Entry("averaging", takes_peers=True),
    Entry("averaging_beside"),
    Entry("growth"),
    Entry("nodes", needs_root=True),
    Entry("averaging_helps", is_default=False),
    Entry("alerts", is_default=False),
    Entry("soak", is_default=False),
)
