"""The long form: ``python tests/chaos/run.py --faults 200 --seed 1``; see docs/chaos.md.

Exit code 1 if anything was lost, doubled, changed or left behind.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chaos_story import Story, play


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31))
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()

    def say(line: str) -> None:
        if not arguments.quiet:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        story = play(
            Path(root), faults=arguments.faults, seed=arguments.seed, with_real=True, say=say
        )
    sys.stdout.write(table(story, arguments.seed))
    return 1 if story.verdict.problems else 0


def table(story: Story, seed: int) -> str:
    verdict = story.verdict
    rows: list[tuple[str, object]] = [*sorted(story.faults.items())]
    rows += [("**all faults**", story.faults.total())]
    facts: list[tuple[str, object]] = [
        ("daemons started", story.daemons),
        ("tries of three light runs (11 ranks)", story.tries),
        ("real trainings", story.trainings),
        ("records published for certain", verdict.published),
        ("records written", verdict.written),
        ("lost", verdict.lost),
        ("written twice", verdict.doubled),
        ("alerts, each told once", verdict.alerts),
        ("seed", seed),
        ("seconds", round(story.seconds)),
    ]
    lines = ["| fault | times |", "|---|---|", *(f"| {name} | {count} |" for name, count in rows)]
    lines += ["", "| fact | number |", "|---|---|", *(f"| {name} | {n} |" for name, n in facts)]
    lines += ["", *(f"PROBLEM: {problem}" for problem in verdict.problems or ["none"])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
