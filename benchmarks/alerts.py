"""Labelled runs: does every fault raise its alert, how late, and how often is it a false one?

    python benchmarks/alerts.py [--out DIR] [--seeds 3] [--cases CASE ...]

Real small trainings (`alerts_trainer.py`), healthy or with one fault, every step sampled. Where the
steps of one rank are all that is looked at, they go through the daemon's code from record to alert
in the trainer's process (`alerts_direct.py`); else a real daemon serves the run, with readings of
the machine every 0.2 s, a stall after 5 s, and nothing shed. All other settings are the defaults.
Results are kept in DIR, run by run: what is there is not run again. Alerts in healthy runs, and in
others before their fault, are false. The rules are also asked about 10,000 steps of lognormal AR(1)
gradient norms, with spread 0.3 and 0.6 and correlation 0 and 0.9, and a loss that falls like a
power of the steps.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from alerts_trainer import CASES
from figures import Figure
from frame import Benchmark, Findings
from tables import Column, Table

from tracksided.alerts.catalog import AlertSettings
from tracksided.observations import Observation
from tracksided.rule_evaluator import RuleEvaluator

HERE = Path(__file__).parent
HEALTHY_STEPS = 1000
FAULT_STEP = 100
SETTINGS = """
[workers]
shed_pictures_at = 1000000
shed_statistics_at = 1000000
[monitors]
every_seconds = 0.2
[alerts.stalled_trainer]
min_seconds = 5.0
"""
DEADLINE_S = 900.0
REPLAY_STEPS = 10_000
BURST = {
    "gradient_explosion",
    "gradient_volatility",
    "loss_spike",
    "loss_divergence",
    "nonfinite",
}


@dataclass(frozen=True)
class Label:
    """What a run is, and which rules may say so."""

    rules: frozenset[str] = frozenset()
    steps: int = 200
    fault_step: int = FAULT_STEP
    num_ranks: int = 1
    needs_daemon: bool = False
    """Whether more than the steps of one rank is looked at."""


def label(*rules: str, **others: int) -> Label:
    return Label(frozenset(rules), **others)


HEALTHY = Label(steps=HEALTHY_STEPS)
LABELS = {
    "exploding": Label(frozenset(BURST)),
    "exploding-gpt": Label(frozenset(BURST)),
    "vanishing": label("gradient_vanishing", fault_step=1, steps=60),
    "nan-batch": label("nonfinite"),
    "dead-layer": label("gradient_vanishing"),
    "frozen-layer": label("gradient_vanishing"),
    "entropy-collapse": label("attention_entropy_collapse", fault_step=1, steps=400),
    "growing-logits": label("attention_logit_growth", steps=400),
    "learning-rate-0": label("loss_stagnation", fault_step=1, steps=450),
    "swings": label("gradient_volatility"),
    "bad-batch": label("loss_spike"),
    "always-clipped": label("clip_rate", fault_step=1),
    "leak": label("memory_growth", steps=1200, needs_daemon=True),
    "straggler": label("straggler", num_ranks=2, needs_daemon=True),
    "desynchronised": label("ranks_out_of_sync", num_ranks=2, needs_daemon=True),
    "stalled-loader": label("stalled_trainer", needs_daemon=True),
    "gpt-two-ranks": Label(steps=200, num_ranks=2, needs_daemon=True),
}


@dataclass
class Result:
    """One run: its alerts, and what they are worth."""

    case: str
    seed: int
    steps: int
    alerts: list[dict[str, Any]]
    found_by: str | None
    delay: int | None
    false_alarms: list[str]
    healthy_steps: int
    also: list[str]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("alerts-benchmark"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")


def measure(arguments: argparse.Namespace) -> Findings:
    arguments.out.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    for case in arguments.cases:
        missing = [seed for seed in seeds if not place(arguments.out, case, seed).exists()]
        if missing:
            with Site(arguments.out.absolute()) as site:
                run = site.run_served if LABELS.get(case, HEALTHY).needs_daemon else site.run_direct
                for result in run(case, missing):
                    print(case, result.seed, result.found_by, result.delay, result.false_alarms)
                    place(arguments.out, case, result.seed).write_text(json.dumps(asdict(result)))
    files = [place(arguments.out, case, seed) for case in arguments.cases for seed in seeds]
    # Judged anew: a label may have changed since.
    kept = [Result(**json.loads(file.read_text())) for file in files]
    results = [judge(r.case, r.seed, r.steps, r.healthy_steps, r.alerts) for r in kept]
    replayed = [replay(spread, phi) for spread in (0.3, 0.6) for phi in (0.0, 0.9)]
    return Findings({"faults": faults(results), "healthy": healthy(results, replayed)})


def place(out: Path, case: str, seed: int) -> Path:
    return out / f"{case}.{seed}.json"


class Site:
    """A node-local directory of our own, and the trainings in it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.directory = Path("/dev/shm") / f"ts-alerts-{secrets.token_hex(3)}"  # noqa: S108 - the real thing
        self.environ = os.environ | {
            "TRACKSIDE_SHM_DIR": str(self.directory),
            "TRACKSIDE_AUTOSTART": "0",
            "OMP_NUM_THREADS": "1",
        }

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory)

    def run_direct(self, case: str, seeds: Sequence[int]) -> Iterator[Result]:
        """Judge the steps in the trainer's process."""
        wanted = LABELS.get(case, HEALTHY)
        words = map(str, (case, wanted.steps, wanted.fault_step, *seeds))
        script = str(HERE / "alerts_direct.py")
        done = subprocess.run(
            [sys.executable, script, *words], env=self.environ, check=True, stdout=subprocess.PIPE
        )
        for line in map(json.loads, done.stdout.splitlines()):
            num_steps = line["steps"]
            is_healthy = not wanted.rules
            num_healthy = num_steps if is_healthy else min(num_steps, wanted.fault_step - 1)
            yield judge(case, line["seed"], num_steps, num_healthy, line["alerts"])

    def run_served(self, case: str, seeds: Sequence[int]) -> Iterator[Result]:
        """Judge what a real daemon has written."""
        config = self.out / "daemon.toml"
        config.write_text(SETTINGS)
        with (self.out / "daemon.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "tracksided", "daemon", "--config", str(config)],
                env=self.environ,
                stdout=log,
                stderr=log,
            )
        try:
            for seed in seeds:
                yield self.run_one(case, seed)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()

    def run_one(self, case: str, seed: int) -> Result:
        wanted = LABELS[case]
        directory = self.out / f"{case}.{seed}"
        shutil.rmtree(directory, ignore_errors=True)
        words = [case, str(seed), str(wanted.steps), str(wanted.fault_step), str(directory)]
        launcher = [sys.executable]
        if wanted.num_ranks > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc-per-node={wanted.num_ranks}"]
        script = str(HERE / "alerts_trainer.py")
        subprocess.run([*launcher, script, *words], env=self.environ, check=True)
        deadline = time.monotonic() + DEADLINE_S
        while not (directory / "training_statistics.json").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{directory} is not finished")
            time.sleep(0.2)
        result = judge(case, seed, *written(directory, wanted))
        shutil.rmtree(directory)  # thousands of folders of steps
        return result


def written(directory: Path, wanted: Label) -> tuple[int, int, list[dict[str, Any]]]:
    """Return from a run's files: steps, healthy steps, alerts."""
    lines = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    file = directory / "alerts.jsonl"
    alerts = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for alert in alerts:
        if alert["step"] is None:  # of the machine: the step in progress
            before = [line["step"] for line in lines if line["timestamp"] <= alert["timestamp"]]
            alert["step"] = 1 + max(before, default=0)
    healthy = [line for line in lines if not wanted.rules or line["step"] < wanted.fault_step]
    return len(lines), len(healthy), alerts


def judge(
    case: str, seed: int, num_steps: int, num_healthy: int, alerts: list[dict[str, Any]]
) -> Result:
    """Compare the alerts of a run with its label."""
    wanted = LABELS.get(case, HEALTHY)
    late = [alert for alert in alerts if wanted.rules and alert["step"] >= wanted.fault_step]
    early = [alert for alert in alerts if alert not in late]
    first = next((alert for alert in late if alert["rule"] in wanted.rules), None)
    return Result(
        case=case,
        seed=seed,
        steps=num_steps,
        alerts=alerts,
        found_by=None if first is None else first["rule"],
        delay=None if first is None else first["step"] - wanted.fault_step,
        false_alarms=[alert["rule"] for alert in early],
        healthy_steps=num_healthy,
        also=sorted({alert["rule"] for alert in late} - wanted.rules),
    )


def replay(spread: float, phi: float) -> dict[str, Figure]:
    """Count alerts in a healthy series."""
    random = np.random.default_rng(round(100 * spread + 10 * phi))
    noise = random.normal(size=REPLAY_STEPS) * spread * np.sqrt(1 - phi**2)
    logs = np.zeros(REPLAY_STEPS)
    for n in range(1, REPLAY_STEPS):
        logs[n] = phi * logs[n - 1] + noise[n]
    n = np.arange(REPLAY_STEPS)
    losses = 1.5 + 2 * (1 + n / 50) ** -0.3 + random.normal(0, 0.05, REPLAY_STEPS)
    steps = [
        Observation(step=i + 1, timestamp=float(i), loss=loss, norm_before_clip=float(norm))
        for i, (loss, norm) in enumerate(zip(losses, np.exp(logs), strict=True))
    ]
    evaluator = RuleEvaluator("replay", AlertSettings())
    rules = Counter(alert.rule for step in steps for alert in evaluator.look(step))
    return false_alarms(f"replayed: s = {spread}, phi = {phi}", REPLAY_STEPS, rules)


def false_alarms(what: str, steps: int, rules: Mapping[str, int]) -> dict[str, Figure]:
    count = sum(rules.values())
    return {
        "what": what,
        "steps": steps,
        "count": count,
        "rate": 10_000 * count / steps if steps else 0.0,
        "by": listed(f"{rule} {number}" for rule, number in sorted(rules.items())),
    }


def healthy(results: Sequence[Result], replayed: Sequence[dict[str, Figure]]) -> Table:
    columns = (
        Column("what", "healthy steps"),
        Column("steps", "how many"),
        Column("count", "false alarms"),
        Column("rate", "for 10,000 steps", 2),
        Column("by", "by"),
    )
    false = Counter(rule for result in results for rule in result.false_alarms)
    steps = sum(result.healthy_steps for result in results)
    return Table(columns, [false_alarms("trained", steps, false), *replayed])


def faults(results: Sequence[Result]) -> Table:
    columns = (
        Column("fault", "fault"),
        Column("runs", "runs"),
        Column("found", "found"),
        Column("by", "by"),
        Column("delay", "delay, steps (median, worst)"),
        Column("also", "also raised"),
    )
    rows = []
    for case in dict.fromkeys(result.case for result in results):
        if not LABELS.get(case, HEALTHY).rules:
            continue
        runs = [result for result in results if result.case == case]
        delays = [result.delay for result in runs if result.delay is not None]
        rows.append(
            {
                "fault": case,
                "runs": len(runs),
                "found": len(delays),
                "by": listed(sorted({run.found_by for run in runs if run.found_by})),
                "delay": f"{np.median(delays):.0f}, {max(delays)}" if delays else None,
                "also": listed(sorted({rule for run in runs for rule in run.also})),
            }
        )
    return Table(columns, rows)


def listed(words: Iterable[str]) -> str | None:
    return ", ".join(words) or None


BENCHMARK = Benchmark(
    file=__file__,
    about=__doc__,
    add_options=add_options,
    measure=measure,
    quick={"seeds": 1, "cases": ["nan-batch", "mlp-adam-lr1e-3"]},
    packages=("torch", "numpy"),
)

if __name__ == "__main__":
    BENCHMARK.main()
