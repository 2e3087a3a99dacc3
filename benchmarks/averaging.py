"""Average five large checkpoints, against the machine's limit, torch, and other scripts.

    python benchmarks/averaging.py [--gigabytes 1.0] [--rounds 3] [--json FILE]
        [--fairseq SCRIPT] [--timm SCRIPT]

Contestants run interleaved, each in its own process; the table shows medians and ratios.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

NUM_CHECKPOINTS = 5
BLOCK_BYTES = 1 << 20
ROW = 1024

TRACKSIDE = """
import sys; from pathlib import Path
from tracksided.checkpoints.job import AverageRequest, run_average
run_average(AverageRequest(directory=Path(sys.argv[1])))
"""
TORCH = """
import sys, torch; from pathlib import Path
paths = sorted(Path(sys.argv[1]).glob("step_*.pt"))
total = {}
for path in paths:
    for key, value in torch.load(path, weights_only=True)["model"].items():
        total[key] = total[key] + value if key in total else value.double()
mean = {key: (value / len(paths)).float() for key, value in total.items()}
torch.save({"model": mean}, Path(sys.argv[1]) / "averaged_torch.pt")
"""
LIMIT = f"""
import os, sys; from pathlib import Path
directory = Path(sys.argv[1])
paths = sorted(directory.glob("step_*.pt"))
buffer = bytearray({BLOCK_BYTES})
for path in paths:
    source, offset = os.open(path, os.O_RDONLY), 0
    while count := os.preadv(source, [buffer], offset):
        offset += count
out = os.open(directory / "limit", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(out, 0, offset)
for start in range(0, offset, {BLOCK_BYTES}):
    os.pwrite(out, buffer[: min({BLOCK_BYTES}, offset - start)], start)
os.fsync(out)
"""
MAKE = f"""
import sys, torch
for step in range({NUM_CHECKPOINTS}):
    torch.manual_seed(step)
    names = [f"layers.{{layer}}.weight" for layer in range(int(sys.argv[2]))]
    state = {{name: torch.randn({4 * ROW}, {ROW}) for name in names}}
    torch.save({{"model": state}}, f"{{sys.argv[1]}}/step_{{step}}.pt")
"""


def main() -> None:
    arguments = parse()
    directory = Path(tempfile.mkdtemp(prefix="averaging-", dir=arguments.directory))
    try:
        make_checkpoints(directory, arguments.gigabytes)
        results = measure(directory, contestants(directory, arguments), arguments.rounds)
    finally:
        shutil.rmtree(directory)
    show(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where to work; a real disk")
    parser.add_argument("--fairseq", type=Path, help="path of average_checkpoints.py")
    parser.add_argument("--timm", type=Path, help="path of avg_checkpoints.py")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_checkpoints(directory: Path, gigabytes: float) -> None:
    """Write plain float32 state dicts in the shapes of a transformer.

    In a process of its own: a child's peak memory counts that of the parent it was forked from.
    """
    num_layers = max(1, round(gigabytes * 1e9 / (4 * 4 * ROW * ROW)))
    command = [sys.executable, "-c", MAKE, str(directory), str(num_layers)]
    subprocess.run(command, check=True)


def contestants(directory: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each contestant; a script that is not there is left out, aloud."""
    place = str(directory)
    commands = {
        "limit": [sys.executable, "-c", LIMIT, place],
        "trackside": [sys.executable, "-c", TRACKSIDE, place],
        "torch": [sys.executable, "-c", TORCH, place],
    }
    inputs = [str(directory / f"step_{step}.pt") for step in range(NUM_CHECKPOINTS)]
    peers = {
        "fairseq": ["--inputs", *inputs, "--output", str(directory / "averaged_fairseq.pt")],
        "timm": [
            "--input",
            place,
            "--filter",
            "step_*.pt",
            "--no-sort",
            "--output",
            str(directory / "averaged_timm.pth"),
        ],
    }  # fmt: skip - one line per peer
    for name, options in peers.items():
        script = getattr(arguments, name)
        if script is None or not script.exists():
            print(f"{name}: skipped, --{name} SCRIPT was not given or does not exist")
        else:
            commands[name] = [sys.executable, str(script), *options]
    return commands


def measure(
    directory: Path, commands: Mapping[str, list[str]], rounds: int
) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peak_mb: dict[str, float] = dict.fromkeys(commands, 0.0)
    for _ in range(rounds):
        for name, command in commands.items():
            for output in directory.glob("averaged_*"):
                output.unlink()
            elapsed, megabytes = run(command)
            seconds[name].append(elapsed)
            peak_mb[name] = max(peak_mb[name], megabytes)
    limit = statistics.median(seconds["limit"])
    ours = statistics.median(seconds["trackside"])
    return {
        name: {
            "median_seconds": statistics.median(times),
            "best_seconds": min(times),
            "share_of_limit": limit / statistics.median(times),
            "times_slower_than_trackside": statistics.median(times) / ours,
            "peak_rss_mb": peak_mb[name],
        }
        for name, times in seconds.items()
    }


def run(command: list[str]) -> tuple[float, float]:
    """Run one contestant on a quiet disk; return seconds and peak resident megabytes."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    if status:
        sys.exit(f"failed with status {status}: {command}")
    process.returncode = 0
    return elapsed, _megabytes(usage)


def _megabytes(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 1024


def show(results: Mapping[str, Mapping[str, float]]) -> None:
    line: Callable[..., str] = "{:<12}{:>10}{:>10}{:>12}{:>14}{:>10}".format
    print(line("", "median s", "best s", "of limit", "x trackside", "peak MB"))
    for name, row in results.items():
        print(
            line(
                name,
                f"{row['median_seconds']:.2f}",
                f"{row['best_seconds']:.2f}",
                f"{row['share_of_limit']:.2f}",
                f"{row['times_slower_than_trackside']:.1f}",
                f"{row['peak_rss_mb']:.0f}",
            )
        )


if __name__ == "__main__":
    main()
