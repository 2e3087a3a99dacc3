"""Average five large checkpoints, against the machine's limit and other projects' own scripts.

    python benchmarks/averaging.py [--gigabytes 1.0] [--rounds 3] [--kinds pt bf16 optimizer]
        [--timm SCRIPT] [--fairseq SCRIPT] [--peer-path DIR ...] [--directory DIR]

SCRIPT is timm's avg_checkpoints.py and fairseq's scripts/average_checkpoints.py, unchanged; DIR is
where they find what they import. Without, those that `make peers` fetched take part; `peers.py` has
their repositories and commits. Contestants take turns, in a new random order each round, each in a
process of its own, with the inputs in the page cache. The limit reads the bytes that an average
needs and writes as many as it has, with fsync. The table shows medians; memory is peak resident
memory, shared pages included.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
from figures import QUARTILES, Figure, quartiles, ratios
from frame import Benchmark, Findings
from machine import script_version
from tables import Column, Limit, Table

NUM_CHECKPOINTS = 5
PYTHON = sys.executable
KINDS = {
    "pt": "float32 `.pt`",
    "bf16": "bfloat16 `.safetensors`",
    "optimizer": "float32 `.pt` with Adam's moments",
}
OURS, THE_LIMIT = "trackside", "reading and writing alone"
PEERS = tuple(peer.name for peer in peers.PEERS)
PEER_LIMIT = 8.0  # times our seconds
SPEED_LIMIT = 0.6  # of reading and writing alone
MEMORY_LIMIT_MB = 80.0
COLUMNS = (
    Column("kind", "kind"),
    Column("who", "who"),
    Column("seconds", "seconds", 2),
    Column("start_seconds", "of which its start", 2),
    Column("of_limit", "speed against reading and writing alone", 2),
    Column("times_ours", "seconds / ours", 1),
    Column("peak_rss_mb", "peak resident memory, MB", 0),
    Column("differing", "elements unlike ours, %", 1),
)

TRACKSIDE = """
import sys; from pathlib import Path
from tracksided.checkpoints.job import AverageRequest, run_average
if len(sys.argv) > 1:
    directory, count = Path(sys.argv[1]), int(sys.argv[2])
    run_average(AverageRequest(directory=directory, patterns=("step_*",), count=count))
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


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=list(KINDS),
        default=list(KINDS),
        help="float32 .pt, bfloat16 .safetensors, float32 .pt with Adam's moments",
    )
    parser.add_argument("--directory", type=Path, help="where to work; a real disk")
    for name in PEERS:
        script = peers.fetched(name)
        parser.add_argument(f"--{name}", type=Path, default=script, help=peers.help_of(name))
    parser.add_argument(
        "--peer-path",
        nargs="+",
        type=Path,
        default=[path for path in peers.search_path() if path.is_dir()],
        help="PYTHONPATH of the two scripts, for them alone",
    )


def measure(arguments: argparse.Namespace) -> Findings:
    scripts = given_scripts(arguments)
    peer_environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(place.absolute()) for place in arguments.peer_path),
    }
    rows: list[dict[str, Any]] = []
    for kind in arguments.kinds:
        directory = Path(tempfile.mkdtemp(prefix="averaging-", dir=arguments.directory))
        try:
            nbytes = make_checkpoints(directory, kind, arguments.gigabytes)
            found = contestants(directory, kind, nbytes, scripts, peer_environment)
            times = measure_kind(directory, found, arguments.rounds)
            differing = compare(directory, kind, found)
        finally:
            shutil.rmtree(directory)
        rows += [
            {"kind": KINDS[kind], **row, "differing": differing.get(str(row["who"]))}
            for row in times
        ]
    found_versions = {
        name: script_version(name, scripts[name], peer_environment) if name in scripts else None
        for name in PEERS
    }
    return Findings({"contestants": Table(COLUMNS, rows, QUARTILES)}, limits(rows), found_versions)


def given_scripts(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the peers that take part; one without a script is left out, aloud."""
    scripts = {}
    for name in PEERS:
        script = getattr(arguments, name)
        if script is None:
            print(f"{name}: left out; `make peers` fetches its script, or give --{name} SCRIPT")
        elif not script.is_file():
            sys.exit(f"--{name} {script}: there is no such file")
        else:
            scripts[name] = script.absolute()
    return scripts


def make_checkpoints(
    directory: Path, kind: str, gigabytes: float, count: int = NUM_CHECKPOINTS
) -> int:
    """Write files in the shapes of a transformer; return the bytes of one file's model.

    In a process of its own: a child's peak memory counts that of the parent it was forked from.
    """
    layer_bytes = 4096 * 1024 * (2 if kind == "bf16" else 4)
    copies = 3 if kind == "optimizer" else 1
    num_layers = max(1, round(gigabytes * 1e9 / (layer_bytes * copies)))
    place = [str(directory), kind, str(num_layers), str(count)]
    subprocess.run([PYTHON, "-c", MAKE, *place], check=True)
    return num_layers * layer_bytes


def contestants(
    directory: Path,
    kind: str,
    nbytes: int,
    scripts: Mapping[str, Path],
    peer_environment: Mapping[str, str],
) -> dict[str, Contestant]:
    """Return who takes part."""
    place, suffix = str(directory), ".safetensors" if kind == "bf16" else ".pt"
    found = {
        THE_LIMIT: Contestant(
            [PYTHON, "-c", LIMIT, place, str(nbytes)], [PYTHON, "-c", "pass"], "averaged_limit"
        ),
        OURS: Contestant(
            [PYTHON, "-c", TRACKSIDE, place, str(NUM_CHECKPOINTS)],
            [PYTHON, "-c", TRACKSIDE],
            f"averaged_model{suffix}",
        ),
    }
    out = {name: directory / f"averaged_{name}{suffix}" for name in PEERS}
    inputs = [str(directory / f"step_{step}{suffix}") for step in range(NUM_CHECKPOINTS)]
    options = {
        "timm": ["--input", place, "--filter", "step_*", "--no-sort", "--output", str(out["timm"])],
        "fairseq": ["--inputs", *inputs, "--output", str(out["fairseq"])],
    }
    if kind == "bf16":
        options["timm"].append("--safetensors")
        del options["fairseq"]
        print("fairseq: left out, it reads no safetensors")
    for name, words in options.items():
        if name not in scripts:
            continue
        command = [PYTHON, str(scripts[name])]
        found[name] = Contestant(
            [*command, *words], [*command, "--help"], out[name].name, peer_environment
        )
    return found


def measure_kind(
    directory: Path, found: Mapping[str, Contestant], rounds: int
) -> list[dict[str, Figure]]:
    seconds: dict[str, list[float]] = {name: [] for name in found}
    starts: dict[str, list[float]] = {name: [] for name in found}
    peak_mb: dict[str, float] = dict.fromkeys(found, 0.0)
    for _ in range(rounds):
        for name in random.sample(list(found), len(found)):
            contestant = found[name]
            for output in directory.glob(f"{Path(contestant.output).stem}*"):
                output.unlink()
            starts[name].append(run(contestant.start, contestant.environment)[0])
            elapsed, megabytes = run(contestant.command, contestant.environment)
            seconds[name].append(elapsed)
            peak_mb[name] = max(peak_mb[name], megabytes)
    return [
        {
            "who": name,
            "seconds": quartiles(times),
            "start_seconds": statistics.median(starts[name]),
            "of_limit": quartiles(ratios(seconds[THE_LIMIT], times)),
            "times_ours": quartiles(ratios(times, seconds[OURS])),
            "peak_rss_mb": peak_mb[name],
        }
        for name, times in seconds.items()
    ]


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


def compare(directory: Path, kind: str, found: Mapping[str, Contestant]) -> dict[str, float | None]:
    """Return what percentage of the elements of each peer's average differs from ours.

    The provenance says whether the inputs' checksums were checked; safetensors has none.
    """
    ours = str(directory / found[OURS].output)
    described = json.loads((directory / "averaged_model.json").read_text(encoding="utf-8"))
    verified = [source["verified"] for source in described["sources"]]
    if len(verified) != NUM_CHECKPOINTS or all(verified) != (kind != "bf16"):
        sys.exit(f"{kind}: sources verified: {verified}")
    differing: dict[str, float | None] = {}
    for name in (peer for peer in PEERS if peer in found):
        command = [PYTHON, "-c", COMPARE, ours, str(directory / found[name].output)]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        differing[name] = 100 * answer["different"] / answer["elements"]
    return differing


def limits(rows: Sequence[Mapping[str, Any]]) -> list[Limit]:
    """Return the limits of each kind; a peer that cannot read a kind has none."""
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = {row["who"]: row for row in rows if row["kind"] == kind}
        for name in PEERS:
            if name in of:
                reached = {"": of[name]["times_ours"]}
                found.append(
                    Limit(f"{kind}: seconds of {name}, times ours", ">=", PEER_LIMIT, reached)
                )
        speed, memory = {"": of[OURS]["of_limit"]}, {"": of[OURS]["peak_rss_mb"]}
        found.append(Limit(f"{kind}: speed of reading and writing alone", ">=", SPEED_LIMIT, speed))
        found.append(Limit(f"{kind}: peak resident memory, MB", "<=", MEMORY_LIMIT_MB, memory))
    names = {row["who"] for row in rows}
    found += [
        Limit(f"seconds of {name}, times ours", ">=", PEER_LIMIT, why_not="make peers fetches it")
        for name in PEERS
        if name not in names
    ]
    return found


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"gigabytes": 0.1, "rounds": 1},
    packages=("torch", "numpy", "safetensors"),
)

if __name__ == "__main__":
    BENCHMARK.main()
