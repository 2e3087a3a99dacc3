"""Average five large checkpoints, against the machine's limit and other projects' own scripts.

    python benchmarks/averaging.py [--gigabytes 1.0] [--rounds 5] [--kinds pt bf16 optimizer]
        [--timm SCRIPT] [--fairseq SCRIPT] [--peer-path DIR ...] [--json FILE] [--directory DIR]

SCRIPT is timm's avg_checkpoints.py and fairseq's scripts/average_checkpoints.py, unchanged; DIR is
where they find what they import. Contestants run interleaved, each in a process of its own, with
the inputs in the page cache. The limit reads the bytes that an average needs and writes as many as
it has, with fsync. The table shows medians; memory is peak resident memory, shared pages included.
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
from dataclasses import dataclass, field
from pathlib import Path

NUM_CHECKPOINTS = 5
PYTHON = sys.executable

TRACKSIDE = """
import sys; from pathlib import Path
from tracksided.checkpoints.job import AverageRequest, run_average
if len(sys.argv) > 1:
    run_average(AverageRequest(directory=Path(sys.argv[1]), patterns=("step_*",)))
"""
LIMIT = """
import os, sys; from pathlib import Path
BLOCK = 1 << 20
directory, nbytes = Path(sys.argv[1]), int(sys.argv[2])
buffer = bytearray(BLOCK)
for path in sorted(directory.glob("step_*")):
    source, offset = os.open(path, os.O_RDONLY), 0
    while offset < nbytes and (count := os.preadv(source, [buffer], offset)):
        offset += count
out = os.open(directory / "averaged_limit", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(out, 0, nbytes)
for start in range(0, nbytes, BLOCK):
    os.pwrite(out, buffer[: min(BLOCK, nbytes - start)], start)
os.fsync(out)
"""
MAKE = """
import sys, torch; from safetensors.torch import save_file
directory, kind, num_layers, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dtype = torch.bfloat16 if kind == "bf16" else torch.float32
for step in range(count):
    torch.manual_seed(step)
    names = [f"layers.{layer}.weight" for layer in range(num_layers)]
    state = {name: torch.randn(4096, 1024).to(dtype) for name in names}
    path = f"{directory}/step_{step}"
    if kind == "bf16":
        save_file(state, path + ".safetensors")
    elif kind == "optimizer":
        moments = {n: {k: torch.rand(4096, 1024) for k in ("exp_avg", "exp_avg_sq")} for n in names}
        torch.save({"model": state, "optimizer": {"state": moments}}, path + ".pt")
    else:
        torch.save({"model": state}, path + ".pt")
"""
COMPARE = """
import json, sys, torch; from safetensors.torch import load_file
def load(path):
    if path.endswith(".safetensors"):
        return load_file(path)
    found = torch.load(path, weights_only=True, mmap=True)
    return found.get("model", found)
ours, theirs = load(sys.argv[1]), load(sys.argv[2])
assert ours.keys() == theirs.keys()
different = total = 0
for name, tensor in ours.items():
    other = theirs[name].to(tensor.dtype)
    assert torch.allclose(tensor.double(), other.double(), rtol=2**-6, atol=1e-6), name
    different += int((tensor != other).sum()); total += tensor.numel()
print(json.dumps({"elements": total, "different": different}))
"""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to make an average."""

    command: Sequence[str]
    start: Sequence[str]
    """Starts and imports the same, and does no work."""

    output: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def main() -> None:
    arguments = parse()
    results = {}
    for kind in arguments.kinds:
        directory = Path(tempfile.mkdtemp(prefix="averaging-", dir=arguments.directory))
        try:
            nbytes = make_checkpoints(directory, kind, arguments.gigabytes)
            found = contestants(directory, kind, nbytes, arguments)
            rows = measure(directory, found, arguments.rounds)
            results[kind] = {"rows": rows, "checks": check(directory, kind, found)}
        finally:
            shutil.rmtree(directory)
        show(kind, results[kind]["rows"], results[kind]["checks"])
    if arguments.json:
        document = {"gigabytes": arguments.gigabytes, "rounds": arguments.rounds, **results}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=["pt", "bf16", "optimizer"],
        default=["pt", "bf16", "optimizer"],
        help="float32 .pt, bfloat16 .safetensors, float32 .pt with Adam's moments",
    )
    parser.add_argument("--directory", type=Path, help="where to work; a real disk")
    parser.add_argument("--fairseq", type=Path, help="path of average_checkpoints.py")
    parser.add_argument("--timm", type=Path, help="path of avg_checkpoints.py")
    parser.add_argument(
        "--peer-path", nargs="+", default=[], help="PYTHONPATH of the two scripts, for them alone"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_checkpoints(directory: Path, kind: str, gigabytes: float) -> int:
    """Write files in the shapes of a transformer; return the bytes of one file's model.

    In a process of its own: a child's peak memory counts that of the parent it was forked from.
    """
    layer_bytes = 4096 * 1024 * (2 if kind == "bf16" else 4)
    copies = 3 if kind == "optimizer" else 1
    num_layers = max(1, round(gigabytes * 1e9 / (layer_bytes * copies)))
    place = [str(directory), kind, str(num_layers), str(NUM_CHECKPOINTS)]
    subprocess.run([PYTHON, "-c", MAKE, *place], check=True)
    return num_layers * layer_bytes


def contestants(
    directory: Path, kind: str, nbytes: int, arguments: argparse.Namespace
) -> dict[str, Contestant]:
    """Return who takes part; a script that is not there is left out, aloud."""
    place, suffix = str(directory), ".safetensors" if kind == "bf16" else ".pt"
    found = {
        "limit": Contestant(
            [PYTHON, "-c", LIMIT, place, str(nbytes)], [PYTHON, "-c", "pass"], "averaged_limit"
        ),
        "trackside": Contestant(
            [PYTHON, "-c", TRACKSIDE, place],
            [PYTHON, "-c", TRACKSIDE],
            f"averaged_model{suffix}",
        ),
    }
    out = {name: directory / f"averaged_{name}{suffix}" for name in ("timm", "fairseq")}
    inputs = [str(directory / f"step_{step}{suffix}") for step in range(NUM_CHECKPOINTS)]
    options = {
        "timm": ["--input", place, "--filter", "step_*", "--no-sort", "--output", str(out["timm"])],
        "fairseq": ["--inputs", *inputs, "--output", str(out["fairseq"])],
    }
    if kind == "bf16":
        options["timm"].append("--safetensors")
        del options["fairseq"]
        print("fairseq: skipped, it reads no safetensors")
    for name, words in options.items():
        script = getattr(arguments, name)
        if script is None or not script.exists():
            print(f"{name}: skipped, --{name} SCRIPT was not given or does not exist")
            continue
        command = [PYTHON, str(script)]
        found[name] = Contestant(
            [*command, *words],
            [*command, "--help"],
            out[name].name,
            {**os.environ, "PYTHONPATH": os.pathsep.join(arguments.peer_path)},
        )
    return found


def measure(
    directory: Path, found: Mapping[str, Contestant], rounds: int
) -> dict[str, dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in found}
    starts: dict[str, list[float]] = {name: [] for name in found}
    peak_mb: dict[str, float] = dict.fromkeys(found, 0.0)
    for _ in range(rounds):
        for name, contestant in found.items():
            for output in directory.glob(f"{Path(contestant.output).stem}*"):
                output.unlink()
            starts[name].append(run(contestant.start, contestant.environment)[0])
            elapsed, megabytes = run(contestant.command, contestant.environment)
            seconds[name].append(elapsed)
            peak_mb[name] = max(peak_mb[name], megabytes)
    return {
        name: {
            "median_seconds": statistics.median(times),
            "best_seconds": min(times),
            "start_seconds": statistics.median(starts[name]),
            "of_limit": _median_ratio(seconds["limit"], times),
            "times_trackside": _median_ratio(times, seconds["trackside"]),
            "peak_rss_mb": peak_mb[name],
        }
        for name, times in seconds.items()
    }


def _median_ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """Compare round by round: what slows a whole round cancels out."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def run(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run a command on a quiet disk; return seconds and peak resident megabytes."""
    os.sync()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"failed with status {status}: {command}")
    return elapsed, usage.ru_maxrss / 1024


def check(
    directory: Path, kind: str, found: Mapping[str, Contestant]
) -> dict[str, dict[str, int | bool]]:
    """Compare the outputs, and ask the provenance whether the inputs' checksums were checked."""
    ours = str(directory / found["trackside"].output)
    described = json.loads((directory / "averaged_model.json").read_text(encoding="utf-8"))
    verified = [source["verified"] for source in described["sources"]]
    if len(verified) != NUM_CHECKPOINTS or all(verified) != (kind != "bf16"):
        sys.exit(f"{kind}: sources verified: {verified}")
    checks: dict[str, dict[str, int | bool]] = {"inputs": {"verified": all(verified)}}
    for name in ("timm", "fairseq"):
        if name in found:
            command = [PYTHON, "-c", COMPARE, ours, str(directory / found[name].output)]
            answer = subprocess.run(command, check=True, capture_output=True)
            checks[name] = json.loads(answer.stdout)
    return checks


def show(kind: str, rows: Mapping[str, Mapping[str, float]], checks: Mapping[str, object]) -> None:
    titles = ("median s", "best s", "start s", "of limit", "x trackside", "peak MB")
    print(f"\n{kind:<12}" + "".join(f"{title:>13}" for title in titles))
    for name, row in rows.items():
        digits = (2, 2, 2, 2, 1, 0)
        print(
            f"{name:<12}"
            + "".join(f"{value:>13.{n}f}" for value, n in zip(row.values(), digits, strict=True))
        )
    print(f"checks: {json.dumps(checks)}")


if __name__ == "__main__":
    main()
