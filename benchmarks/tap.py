"""What a step costs: the hooks of one that is not sampled, a sampled one, and other monitors.

    python benchmarks/tap.py [--steps 80] [--hook-rounds 60]

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
import logging
import os
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
from figures import BOOTSTRAP, Spread, bootstrap
from frame import Benchmark, Findings
from tables import Column, Limit, Table
from tap_peers import PERIOD
from torch import nn
from torch.nn import functional

import trackside
from trackside.wire import segment

HOOK_LIMIT_US = 15.0
SHARE_LIMITS = {10: 1.01, 100: 1.002}  # training time against bare, by `every`
SHOWN_EVERY = (1, 10, 100)
RATIO_LIMIT = 10.0  # added time of others against ours
HOOK_STEPS = 60  # of a round and way
RESOLUTION_MS = 1.0  # less is lost in the noise, and a ratio to it says nothing
WARM_UP_STEPS = 2 * PERIOD
OURS = "trackside"
WANDB = '`wandb.watch(log="all")`'
IN_PROCESS = "in-process histograms and pictures"
NO_WANDB = "wandb is not installed; make peers does"
HOOKS = "a session adds"
CONTROLS = ("no monitor, first (control)", "no monitor, last (control)")
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "CPU": time.thread_time}

Times = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Milliseconds: monitor, clock, what."""

Seconds = list[tuple[float, ...]]
"""Of each step, by each clock."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=80, help="steps under each monitor")
    parser.add_argument("--hook-rounds", type=int, default=60, help="rounds of the tiny model")


def measure(arguments: argparse.Namespace) -> Findings:
    torch.set_num_threads(1)
    steps = max(2, arguments.steps // PERIOD) * PERIOD
    with directories() as directory:
        hooks = hook_times(directory, arguments.hook_rounds)
        monitors = monitor_times(directory, steps)
    return Findings(
        {
            "hooks": hooks_table(hooks),
            "monitors": monitors_table(monitors),
            "training_time": training_time_table(hooks, monitors),
        },
        limits(hooks, monitors),
    )


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


def hook_times(directory: Path, rounds: int) -> dict[str, dict[str, Spread]]:
    """Return microseconds of a bare step, and what the control and the hooks add, by clock."""
    ways = ("bare", "bare again", "attached")
    medians: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in random.sample(ways, len(ways)):
            medians[way].append(np.median(tiny_training(way == "attached", directory), axis=0))
    for path in segment.scan(segment.node_directory(os.environ)):
        segment.remove(path)
    bare = np.array(medians["bare"])  # [rounds, clocks]
    columns = {
        "the step itself, bare": bare,
        "bare again adds (control)": np.array(medians["bare again"]) - bare,
        HOOKS: np.array(medians["attached"]) - bare,
    }
    return {
        name: {clock: bootstrap(values[:, i] * 1e6) for i, clock in enumerate(CLOCKS)}
        for name, values in columns.items()
    }


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


def monitor_times(directory: Path, steps: int) -> Times:
    """Return for each monitor what a sampled step adds and what a plain one takes, by clock."""
    first, last = CONTROLS
    monitors = {first: tap_peers.nothing, OURS: tap_peers.tap}
    if tap_peers.has_wandb():
        monitors[WANDB] = tap_peers.wandb_watch
    monitors |= {IN_PROCESS: tap_peers.in_process, last: tap_peers.nothing}
    return {name: summary(train(way, directory, steps)) for name, way in monitors.items()}


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


def summary(seconds: np.ndarray) -> dict[str, dict[str, Any]]:
    """Take the two steps that pay for a sample against the two before them."""
    groups = seconds.reshape(-1, PERIOD, len(CLOCKS)) * 1e3
    # Steps 1 and 2 of a group are plain, 3 arms the sample, 4 is sampled.
    plain = np.median(groups[:, :2], axis=(0, 1))
    differences = groups[:, 2:].sum(axis=1) - groups[:, :2].sum(axis=1)  # [groups, clocks]
    return {
        clock: {"step_ms": float(plain[i]), "added_ms": bootstrap(differences[:, i])}
        for i, clock in enumerate(CLOCKS)
    }


def limits(hooks: Mapping[str, Mapping[str, Spread]], monitors: Times) -> list[Limit]:
    """Return every limit with what was reached by each clock."""
    found = [Limit("hooks of a step that is not sampled, us", "<=", HOOK_LIMIT_US, hooks[HOOKS])]
    for every, bound in SHARE_LIMITS.items():
        reached = share(hooks, monitors, every)
        found.append(Limit(f"training time at `every={every}` against bare", "<=", bound, reached))
    for name in (WANDB, IN_PROCESS):
        clocks = CLOCKS if name in monitors else ()
        reached = {clock: against_ours(monitors, name, clock) for clock in clocks}
        what = f"added time of {name}, times ours"
        found.append(Limit(what, ">=", RATIO_LIMIT, reached, "" if clocks else NO_WANDB))
    return found


def share(
    hooks: Mapping[str, Mapping[str, Spread]], monitors: Times, every: int
) -> dict[str, Spread]:
    """Return training time against bare, by clock: a share of the sample, and hooks each step."""

    def against_bare(clock: str, added_ms: float) -> float:
        hooks_ms = hooks[HOOKS][clock].median / 1e3
        return 1 + (added_ms / every + hooks_ms) / monitors[OURS][clock]["step_ms"]

    found = {}
    for clock in CLOCKS:
        added = monitors[OURS][clock]["added_ms"]
        found[clock] = Spread(
            *(against_bare(clock, value) for value in (added.median, added.low, added.high))
        )
    return found


def against_ours(monitors: Times, name: str, clock: str) -> float:
    """Return the ratio of added times."""
    ours = max(monitors[OURS][clock]["added_ms"].median, RESOLUTION_MS)
    return monitors[name][clock]["added_ms"].median / ours


def hooks_table(hooks: Mapping[str, Mapping[str, Spread]]) -> Table:
    columns = [Column("what", "a step that is not sampled, microseconds")]
    columns += [Column(clock, clock, 1) for clock in CLOCKS]
    return Table(columns, [{"what": what, **clocks} for what, clocks in hooks.items()], BOOTSTRAP)


def monitors_table(monitors: Times) -> Table:
    columns = (
        Column("monitor", "a sampled step"),
        Column("step_ms", "a plain step, ms", 0),
        *(Column(clock, f"added, {clock}, ms", 1) for clock in CLOCKS),
        Column("percent", "CPU added, % of a step", 1),
    )
    rows = []
    for name, clocks in monitors.items():
        added = {clock: found["added_ms"] for clock, found in clocks.items()}
        percent = 100 * added["CPU"].median / clocks["CPU"]["step_ms"]
        step_ms = clocks["wall"]["step_ms"]
        rows.append({"monitor": name, "step_ms": step_ms, **added, "percent": percent})
    return Table(columns, rows, BOOTSTRAP)


def training_time_table(hooks: Mapping[str, Mapping[str, Spread]], monitors: Times) -> Table:
    columns = [Column("every", "training time against bare")]
    columns += [Column(clock, clock, 4) for clock in CLOCKS]
    rows = [{"every": f"`every={every}`", **share(hooks, monitors, every)} for every in SHOWN_EVERY]
    return Table(columns, rows, BOOTSTRAP)


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"steps": 16, "hook_rounds": 10},
    packages=("torch", "numpy", "wandb", "tensorboard", "matplotlib"),
)

if __name__ == "__main__":
    BENCHMARK.main()
