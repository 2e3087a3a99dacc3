"""What a training feels while its checkpoints are averaged beside it.

    python benchmarks/averaging_beside.py [--megabytes 300] [--rounds 5] [--threads N] [--json FILE]

A process computes steps and saves checkpoints with torch.save, as a trainer does, once with a
directory that nobody watches and once with the daemon's averaging service on it, in turn. The
table shows medians over rounds of a step's and a save's seconds, and the median ratio of a round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tracksided.checkpoints.service import CheckpointService

POLL_S = 0.1
TRAINER = """
import json, sys, time, torch; from pathlib import Path
directory, megabytes, num_saves, steps, threads = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.set_num_threads(threads)
a = torch.randn(384, 384)
state = {f"layer.{n}": torch.randn(1 << 20) for n in range(megabytes * 10**6 // (4 << 20))}
step_seconds, save_seconds = [], []
for save in range(1, num_saves + 1):
    for _ in range(steps):
        started = time.perf_counter()
        for _ in range(20):
            a = torch.tanh(a @ a)
        step_seconds.append(time.perf_counter() - started)
    for tensor in state.values():
        tensor += 1
    started = time.perf_counter()
    torch.save({"model": state}, directory / "half-written")
    (directory / "half-written").rename(directory / f"step_{save}.pt")
    save_seconds.append(time.perf_counter() - started)
print(json.dumps({"step": step_seconds, "save": save_seconds}))
"""
KEYS = ("step", "save")
Times = Mapping[str, Sequence[float]]


def main() -> None:
    arguments = parse()
    rows: list[dict[str, dict[str, float]]] = []
    averages = 0
    for number in range(arguments.rounds):
        modes = [False, True] if number % 2 == 0 else [True, False]
        row = {}
        for is_watched in modes:
            times, made = run(arguments, is_watched=is_watched)
            averages += made
            name = "with" if is_watched else "without"
            row[name] = {key: statistics.median(times[key]) for key in KEYS}
        rows.append(row)
    if not averages:
        sys.exit("nothing was averaged while the trainer ran: give it more --saves or --steps")
    results = summary(rows)
    print(f"averages made beside the trainer: {averages}")
    for key, values in results.items():
        cells = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{key:<6}{cells}")
    if arguments.json:
        document = {**vars(arguments), "json": None, "averages": averages, "results": results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300, help="of a checkpoint")
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--steps", type=int, default=60, help="between two saves")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of the trainer; all cores by default"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(arguments: argparse.Namespace, *, is_watched: bool) -> tuple[Times, int]:
    """Train once; return the trainer's times and the number of averages made meanwhile."""
    directory = Path(tempfile.mkdtemp(prefix="averaging-beside-"))
    service = CheckpointService(last=3, min_checkpoints=2, poll_seconds=0.2)
    if is_watched:
        service.watch(directory, run=None)
    words = [arguments.megabytes, arguments.saves, arguments.steps, arguments.threads]
    command = [sys.executable, "-c", TRAINER, str(directory), *map(str, words)]
    averages = 0
    try:
        with tempfile.TemporaryFile() as output:
            trainer = subprocess.Popen(command, stdout=output)
            while trainer.poll() is None:
                for event in service.poll(time.monotonic()):
                    if event.error is not None:
                        sys.exit(f"averaging failed: {event.error}")
                    averages += 1
                time.sleep(POLL_S)
            if trainer.returncode:
                sys.exit(f"the trainer failed with status {trainer.returncode}")
            output.seek(0)
            times: Times = json.loads(output.read())
            return times, averages
    finally:
        service.close()
        shutil.rmtree(directory)


def summary(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    results = {}
    for key in KEYS:
        ratios = [row["with"][key] / row["without"][key] for row in rows]
        results[key] = {
            "without": statistics.median(row["without"][key] for row in rows),
            "with": statistics.median(row["with"][key] for row in rows),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return results


if __name__ == "__main__":
    main()
