"""After the chaos: what must hold, checked by means that are not the daemon's own."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_faults import HOSTILE_PREFIX
from chaos_site import REAL_EVERY, FakeRun, RealTry, Site
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from written import history, load

LOSS_TAG = "Training/Loss"
ALERT_TAG = "Alerts/"


@dataclass
class Verdict:
    """What was found."""

    published: int = 0
    written: int = 0
    lost: int = 0
    doubled: int = 0
    alerts: int = 0
    problems: list[str] | None = None

    def note(self, problem: str) -> None:
        self.problems = [*(self.problems or []), problem]

    def require(self, condition: object, problem: str) -> None:
        if not condition:
            self.note(problem)


def check_site(site: Site) -> Verdict:
    """Check everything; the daemon has been stopped."""
    verdict = Verdict()
    for run in site.runs:
        _check_fake(run, verdict)
    for number, real in enumerate(site.real):
        _check_real(f"real{number}", real, site.bare, verdict)
    _check_leftovers(site, verdict)
    log = site.daemon.output
    verdict.require("Traceback" not in log, "the daemon's log holds a traceback")
    slow = [code for code in site.daemon_codes if code != 0]
    verdict.require(not slow, f"daemons that were told to end exited {slow}")
    return verdict


def _check_fake(run: FakeRun, verdict: Verdict) -> None:
    lines = history(run.save_dir)
    written = Counter(
        (nonce, sequence) for line in lines for nonce, sequence in line["records"].values()
    )
    certain: set[tuple[str, int]] = set()
    possible: set[tuple[str, int]] = set()
    for rank in (rank for ranks in run.tries for rank in ranks):
        nonce, sequences = rank.published()
        certain |= {(nonce, sequence) for sequence in sequences}
        # A rank that was killed may have published one more than it could say.
        last = max(sequences, default=0)
        possible |= {(nonce, last + 1)} if rank.was_killed else set()
        verdict.require(rank.was_killed or rank.process.returncode == 0, f"{nonce} failed")
    _count(run.name, certain, possible, written, verdict)
    _check_tensorboard(run.name, run.save_dir, lines, verdict)
    verdict.alerts += _check_alerts(run.name, run.save_dir, lines, verdict)


def _check_real(name: str, real: RealTry, bare: list[str], verdict: Verdict) -> None:
    """Check losses bit by bit, and that what was sampled is there once and in order."""
    said = real.output.read_text().rpartition("\n")[0].splitlines()
    whole = bare if not real.was_killed else bare[: len(said)]
    verdict.require(said == whole, f"{name}: the losses differ from those of bare training")
    errors = real.errors.read_text()
    verdict.require("Traceback" not in errors, f"{name}: trainer: {errors[-600:]}")
    if not (real.save_dir / "run.json").exists():
        never_had_a_ring = "nothing will be recorded" in errors
        verdict.require(not said or real.was_killed or never_had_a_ring, f"{name}: no outputs")
        return
    lines = history(real.save_dir)
    steps = [line["step"] for line in lines]
    due = list(range(REAL_EVERY, len(bare), REAL_EVERY))
    verdict.require(steps == due[: len(steps)], f"{name}: steps {steps} are not those due")
    if real.was_killed:
        sure = [step for step in due if step < len(said)]  # a record may wait for the next forward
        verdict.published += len(sure)
        verdict.lost += len(set(sure) - set(steps))
    else:
        totals = load(real.save_dir / "training_statistics.json")
        published = totals["ranks"][0]["published"]
        verdict.published += published
        verdict.lost += published - len(steps)
    verdict.written += len(steps)
    losses = [float.fromhex(value) for value in bare[:-1]]
    same = all(line["loss"] == losses[line["step"] - 1] for line in lines)
    verdict.require(same, f"{name}: history holds other losses")
    _check_tensorboard(name, real.save_dir, lines, verdict)


def _count(
    name: str,
    certain: set[tuple[str, int]],
    possible: set[tuple[str, int]],
    written: Counter[tuple[str, int]],
    verdict: Verdict,
) -> None:
    verdict.published += len(certain)
    verdict.written += len(written)
    lost = certain - written.keys()
    doubled = [record for record, count in written.items() if count > 1]
    invented = written.keys() - certain - possible
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.require(not lost, f"{name}: lost {sorted(lost)[:5]}")
    verdict.require(not doubled, f"{name}: doubled {doubled[:5]}")
    verdict.require(not invented, f"{name}: invented {sorted(invented)[:5]}")


def _check_tensorboard(
    name: str, directory: Path, lines: list[dict[str, Any]], verdict: Verdict
) -> None:
    """Compare all loss events ever written, in order, with the lines of history."""
    written = [(line["step"], line["loss"]) for line in lines]
    events = list(loss_events(directory / "tensorboard"))
    same = len(written) == len(events) and all(
        step == event_step and math.isclose(loss, event_loss, rel_tol=1e-6)
        for (step, loss), (event_step, event_loss) in zip(written, events, strict=True)
    )
    verdict.require(
        same, f"{name}: TensorBoard has {len(events)} losses, history {len(written)}, or others"
    )
    folders = {path.name for path in directory.glob("step_*")}
    expected = {line["folder"] for line in lines}
    verdict.require(folders == expected, f"{name}: folders {sorted(folders ^ expected)[:5]}")
    _check_files(name, directory, verdict)
    debris = [path.name for path in directory.rglob("*.trackside-tmp")]
    verdict.require(not debris, f"{name}: temporary files {debris[:5]}")


def _check_alerts(name: str, directory: Path, lines: list[dict[str, Any]], verdict: Verdict) -> int:
    """Compare what was committed with ``alerts.jsonl`` and with TensorBoard's texts."""
    path = directory / "alerts.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    of_steps = [alert for line in lines for alert in line["alerts"]]
    of_no_step = load(directory / "run.json").get("alerts", []) if lines else []
    committed = Counter(alert["id"] for alert in (*of_steps, *of_no_step))
    found = Counter(alert["id"] for alert in told)
    verdict.require(committed == found, f"{name}: alerts {list(committed - found)[:3]} are missing")
    verdict.require(max(found.values(), default=1) == 1, f"{name}: an alert is there twice")
    infinite = sum("norm_before_clip" in line["nonfinite"] for line in lines)
    verdict.require(not infinite or told, f"{name}: no alert of {infinite} infinite gradients")
    tags = (tag for _, tag, _ in _events(directory / "tensorboard"))
    seen = Counter(tag.split("/")[1] for tag in tags if tag.startswith(ALERT_TAG))
    rules = Counter(alert["rule"] for alert in told)
    verdict.require(seen == rules, f"{name}: TensorBoard shows alerts {seen}, told are {rules}")
    return len(told)


def _check_files(name: str, directory: Path, verdict: Verdict) -> None:
    """Look into every JSON document and picture: each must be whole."""
    for path in directory.rglob("*"):
        try:
            if path.suffix == ".json":
                load(path)
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
        except (OSError, ValueError, SyntaxError) as error:
            verdict.note(f"{name}: {path.relative_to(directory)} is not whole: {error}")


def loss_events(directory: Path) -> Iterator[tuple[int, float]]:
    """Return step and value of all losses ever written, those that were abandoned included."""
    for step, tag, value in _events(directory):
        if tag == LOSS_TAG:
            yield step, value


def _events(directory: Path) -> Iterator[tuple[int, str, float]]:
    for path in sorted(directory.glob("events.out.tfevents.*")):
        for packed in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(packed)
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def _check_leftovers(site: Site, verdict: Verdict) -> None:
    for path in site.node.glob(f"{HOSTILE_PREFIX}.*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    left = {path.name for path in site.node.iterdir()} - {"daemon.lock"}
    verdict.require(not left, f"left in shared memory: {sorted(left)[:5]}")
    mark = f"TRACKSIDE_SHM_DIR={site.node}".encode()
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            is_ours = mark in entry.read_bytes().split(b"\0")
        except OSError:
            continue
        verdict.require(not is_ours or entry.parent.name == str(os.getpid()), f"alive: {entry}")
