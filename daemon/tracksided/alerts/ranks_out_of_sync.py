"""Replicas whose weights have drifted apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tracksided.alerts.finding import Finding
from tracksided.observations import Observation

ADVICE = (
    "Gradients are averaged over different models now, and their norms do not show it. Stop, and "
    "load one checkpoint on all ranks. Look for a rank that changed weights by itself, skipped a "
    "step, or has a faulty GPU or network."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksOutOfSync:
    """Checksums of the weights differ between ranks that had equal ones before: critical.

    Ranks that never were equal hold different parts of a model; they are left alone.
    """

    name: ClassVar[str] = "ranks_out_of_sync"

    enabled: bool = True

    def check(self, now: Observation, before: Sequence[Observation]) -> Finding | None:
        """Compare the checksums of one step."""
        checksums = _checksums(now)
        counts = Counter(checksums.values())
        if len(counts) < 2:  # noqa: PLR2004 - different from another one
            return None
        together = _groups_before(before, frozenset(checksums))
        broken = next((ranks for ranks in together if len({checksums[r] for r in ranks}) > 1), None)
        if broken is None:
            return None
        usual = Counter(checksums[rank] for rank in sorted(broken)).most_common(1)[0][0]
        strays = sorted(rank for rank in broken if checksums[rank] != usual)
        others = sorted(rank for rank in broken if checksums[rank] == usual)
        return Finding(
            severity="critical",
            value=float(len({checksums[rank] for rank in broken})),
            threshold=1.0,
            message=(
                f"weights of rank {_listed(strays)} differ from those of rank {_listed(others)} "
                f"at step {now.step}"
            ),
            advice=ADVICE,
            rank=strays[0] if len(strays) == 1 and len(others) > 1 else None,
        )


def _checksums(entry: Observation) -> dict[int, int | str]:
    return {
        rank.rank: rank.weight_checksum for rank in entry.ranks if rank.weight_checksum is not None
    }


def _groups_before(before: Sequence[Observation], ranks: frozenset[int]) -> list[frozenset[int]]:
    """Return the groups of ranks that were equal when they were compared first."""
    for entry in before:
        checksums = _checksums(entry)
        groups: dict[int | str, set[int]] = {}
        for rank in ranks & checksums.keys():
            groups.setdefault(checksums[rank], set()).add(rank)
        if len(checksums) > 1:
            return [frozenset(group) for group in groups.values() if len(group) > 1]
    return []


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
