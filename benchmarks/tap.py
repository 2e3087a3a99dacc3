"""What a step costs: the hooks of one that is not sampled, a sampled one, and other monitors.

    python benchmarks/tap.py [--steps 80] [--json FILE]

1. A tiny model takes turns with and without a session that never samples; the difference of the
   medians is the time of the hooks. Bare against bare again is the null control.
2. A GPT of 10 million parameters trains with AdamW and clipping under each monitor of
   `tap_peers.py`; every fourth step is sampled. In each group of four, two adjacent steps pay (the
   one that arms at its end and the one that is sampled) and two do not: their difference is the
   added time. The table shows its median over the groups and a bootstrap interval of 95 %. The
   same without a monitor, first and last, is the null control.

One thread trains. Beside the time on the wall stands the CPU time of that thread, which other
work on the machine disturbs less; a limit counts as kept where both keep it. No daemon runs.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tap_peers
import torch
from tap_peers import PERIOD
from torch import nn
from torch.nn import functional

import trackside
from trackside.wire import segment

HOOK_LIMIT_US = 15.0
SHARE_LIMITS = {10: 1.01, 100: 1.002}  # training time against bare, by `every`
SHOWN_EVERY = (1, 10, 100)
RATIO_LIMIT = 10.0  # added time of others against ours
HOOK_ROUNDS = 60
HOOK_STEPS = 60  # of a round and way
RESOLUTION_MS = 1.0  # less is lost in the noise, and a ratio to it says nothing
WARM_UP_STEPS = 2 * PERIOD
RESAMPLES = 4000
OURS = "trackside"
CONTROLS = ("none, first", "none, last")
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}

Times = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Milliseconds: monitor, clock, what."""

Seconds = list[tuple[float, ...]]
"""Of each step, by each clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=80, help="steps under each monitor")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    steps = max(2, arguments.steps // PERIOD) * PERIOD
    torch.set_num_threads(1)
    load_before = os.getloadavg()
    with directories() as directory:
        hooks = hook_times(directory)
        monitors = monitor_times(directory, steps)
    result = {
        "benchmark": "tap",
        "machine": machine(),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "steps": steps,
        "hooks_us": hooks,
        "monitors": monitors,
        "training_time": {every: share(hooks, monitors, every) for every in SHOWN_EVERY},
        "limits": limits(hooks, monitors),
    }
    show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


@contextmanager
def directories() -> Iterator[Path]:
    """Give outputs a place, and segments one of their own in shared memory."""
    shm_dir = Path("/dev/shm") / f"ts-bench-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    shm_dir.mkdir(mode=0o700)
    os.environ["TRACKSIDE_SHM_DIR"] = str(shm_dir)
    logging.getLogger("trackside").setLevel(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="tap-") as directory:
            yield Path(directory)
    finally:
        shutil.rmtree(shm_dir)


def hook_times(directory: Path) -> dict[str, dict[str, float]]:
    """Return microseconds per step that the hooks add, and those of the control, by clock."""
    ways = ("bare", "bare again", "attached")
    medians: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for _ in range(HOOK_ROUNDS):
        for way in random.sample(ways, len(ways)):
            medians[way].append(np.median(tiny_training(way == "attached", directory), axis=0))
    for path in segment.scan(segment.node_directory(os.environ)):
        segment.remove(path)
    result = {}
    for name, way in (("hooks", "attached"), ("control", "bare again")):
        added = [
            with_it - bare for with_it, bare in zip(medians[way], medians["bare"], strict=True)
        ]
        result[name] = dict(zip(CLOCKS, np.median(added, axis=0) * 1e6, strict=True))
    result["step"] = dict(zip(CLOCKS, np.median(medians["bare"], axis=0) * 1e6, strict=True))
    return result


def tiny_training(is_attached: bool, directory: Path) -> Seconds:  # noqa: FBT001 - one of two
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.ones(1, 4)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    if not is_attached:
        return timed(step, HOOK_STEPS)
    with trackside.attach(
        model,
        optimizer,
        every=10**9,
        save_dir=directory / "hooks",
        ring_bytes=1 << 20,
        autostart=False,
    ):
        return timed(step, HOOK_STEPS)


def timed(step: Callable[[], None], count: int) -> Seconds:
    """Return the seconds of each step by each clock; the first steps warm up."""
    clocks = tuple(CLOCKS.values())
    seconds: Seconds = []
    for _ in range(count):
        begin = [clock() for clock in clocks]
        step()
        seconds.append(tuple(clock() - then for clock, then in zip(clocks, begin, strict=True)))
    return seconds[WARM_UP_STEPS:]


def monitor_times(directory: Path, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each monitor, by clock, what a sampled step adds and what a plain one takes."""
    first, last = CONTROLS
    monitors = {first: tap_peers.nothing, OURS: tap_peers.tap}
    if tap_peers.has_wandb():
        monitors["wandb.watch"] = tap_peers.wandb_watch
    monitors |= {"in-process": tap_peers.in_process, last: tap_peers.nothing}
    return {
        name: summary(train(monitor, directory, steps), steps) for name, monitor in monitors.items()
    }


def train(monitor: tap_peers.Monitor, directory: Path, steps: int) -> np.ndarray:
    """Train under a monitor; return seconds, [steps, clocks]."""
    torch.manual_seed(0)
    model = tap_peers.Gpt()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    count = 0
    with monitor(model, optimizer, directory, steps + WARM_UP_STEPS) as after_step:

        def step() -> None:
            nonlocal count
            count += 1
            batch = torch.randint(tap_peers.VOCABULARY, (tap_peers.BATCH, tap_peers.LENGTH + 1))
            tokens = batch[:, :-1]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(tokens).flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            after_step(count, tokens, loss.item())

        seconds = np.array(timed(step, steps + WARM_UP_STEPS))
    for name, parameter in model.named_parameters():
        assert parameter.grad.count_nonzero(), f"the gradient of {name} is zero"  # noqa: S101 - zeros would be cheap
    return seconds


def summary(seconds: np.ndarray, steps: int) -> dict[str, dict[str, float]]:
    """Take the two steps that pay for a sample against the two before them."""
    groups = seconds.reshape(steps // PERIOD, PERIOD, len(CLOCKS)) * 1e3
    # Steps 1 and 2 of a group are plain, 3 arms the sample, 4 is sampled.
    plain = np.median(groups[:, :2], axis=(0, 1))
    differences = groups[:, 2:].sum(axis=1) - groups[:, :2].sum(axis=1)  # [groups, clocks]
    rng = np.random.default_rng(0)
    picks = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.percentile(np.median(differences[picks], axis=1), (2.5, 97.5), axis=0)
    return {
        clock: {
            "step_ms": plain[i],
            "added_ms": np.median(differences[:, i]),
            "low_ms": low[i],
            "high_ms": high[i],
            "mean_ms": differences[:, i].mean(),
        }
        for i, clock in enumerate(CLOCKS)
    }


def limits(
    hooks: Mapping[str, Mapping[str, float]],
    monitors: Times,
) -> list[dict[str, object]]:
    """Return every limit with what was reached by each clock, and whether both keep it."""
    rows = [row("hooks of a plain step, us", "<=", HOOK_LIMIT_US, hooks["hooks"])]
    for every, limit in SHARE_LIMITS.items():
        rows.append(
            row(f"training time at every={every}", "<=", limit, share(hooks, monitors, every))
        )
    for name in monitors:
        if name not in {OURS, *CONTROLS}:
            ratio = {clock: against_ours(monitors, name, clock) for clock in CLOCKS}
            rows.append(row(f"added time of {name} against ours", ">=", RATIO_LIMIT, ratio))
    return rows


def row(what: str, sign: str, limit: float, reached: Mapping[str, float]) -> dict[str, object]:
    kept = all(value <= limit if sign == "<=" else value >= limit for value in reached.values())
    return {"what": what, "sign": sign, "limit": limit, **reached, "kept": kept}


def share(
    hooks: Mapping[str, Mapping[str, float]],
    monitors: Times,
    every: int,
) -> dict[str, float]:
    """Return training time against bare, by clock: a share of the sample, and hooks each step."""
    return {
        clock: 1
        + (monitors[OURS][clock]["added_ms"] / every + hooks["hooks"][clock] / 1e3)
        / monitors[OURS][clock]["step_ms"]
        for clock in CLOCKS
    }


def against_ours(monitors: Times, name: str, clock: str) -> float:
    """Return the ratio of added times."""
    ours = max(monitors[OURS][clock]["added_ms"], RESOLUTION_MS)
    return monitors[name][clock]["added_ms"] / ours


def machine() -> dict[str, object]:
    """Return what the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {}
    for package in ("torch", "numpy", "wandb", "tensorboard", "matplotlib"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": next(models, platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), **versions},
    }


def show(result: Mapping[str, Any]) -> None:
    facts = result["machine"]
    versions = ", ".join(f"{name} {found or 'absent'}" for name, found in facts["versions"].items())
    before, after = (f"{load[0]:.1f}" for load in result["load_average"].values())
    print(f"{facts['cpu']}, {facts['cores']} cores, one thread; {versions}")
    print(f"load average {before} before, {after} after; wall and CPU time of the thread\n")
    print(f"{'microseconds':<34}{'wall':>9}{'cpu':>9}")
    names = {"step": "tiny step, bare", "control": "bare again adds", "hooks": "session adds"}
    for name, label in names.items():
        print(f"{label:<34}" + "".join(f"{result['hooks_us'][name][c]:>9.1f}" for c in CLOCKS))
    print(f"\nadded by a sampled step, ms, median [95 %] of {result['steps'] // PERIOD} groups")
    print(f"{'monitor':<16}{'step':>8}{'wall':>28}{'cpu':>28}{'of a step':>11}")
    for name, clocks in result["monitors"].items():
        cells = "".join(
            f"{time['added_ms']:>10.1f} {interval(time):<17}" for time in clocks.values()
        )
        cpu = clocks["cpu"]
        part = cpu["added_ms"] / cpu["step_ms"]
        print(f"{name:<16}{clocks['wall']['step_ms']:>8.0f}{cells}{part:>11.1%}")
    if not tap_peers.has_wandb():
        print("wandb is not installed here: left out")
    print(f"\n{'training time against bare':<46}{'wall':>9}{'cpu':>9}")
    for every, shares in result["training_time"].items():
        label = f"every={every}"
        print(f"{label:<46}" + "".join(f"{shares[clock]:>9.4f}" for clock in CLOCKS))
    print(f"\n{'limit':<46}{'wall':>9}{'cpu':>9}  kept")
    for entry in result["limits"]:
        label = f"{entry['what']} {entry['sign']} {entry['limit']:g}"
        values = "".join(f"{entry[clock]:>9.4g}" for clock in CLOCKS)
        print(f"{label:<46}{values}  {'yes' if entry['kept'] else 'NO'}")


def interval(times: Mapping[str, float]) -> str:
    return f"[{times['low_ms']:.1f}, {times['high_ms']:.1f}]"


if __name__ == "__main__":
    main()
