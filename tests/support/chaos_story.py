"""One story of chaos from its first fault to its verdict."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from chaos_check import Verdict, check_site
from chaos_faults import HOSTILE_PREFIX, possible
from chaos_site import Site

DRAIN_LIMIT_S = 900.0
LIMIT_OF_PAUSE_S = 0.8


@dataclass
class Story:
    """What happened."""

    faults: Counter[str]
    tries: int
    trainings: int
    daemons: int
    seconds: float
    verdict: Verdict


def play(
    root: Path, *, faults: int, seed: int, with_real: bool, say: Callable[[str], None]
) -> Story:
    """Do that many random faults to trainers and daemon, let them end, and check."""
    random = Random(seed)
    site = Site(root, random, with_real=with_real)
    started = time.monotonic()
    done: Counter[str] = Counter()
    crashes: list[str] = []
    daemons = 1
    try:
        site.start_daemon()
        choices = possible(site)
        weights = [weight for _, weight in choices.values()]
        for number in range(faults):
            site.tend()
            time.sleep(random.uniform(0, LIMIT_OF_PAUSE_S))
            code = site.daemon.code
            if code is not None:
                crashes.append(f"the daemon ended by itself with {code} before fault {number}")
                site.start_daemon()
            (name,) = random.choices(list(choices), weights)
            before = site.daemon.pid
            choices[name][0](site)
            daemons += site.daemon.pid != before
            done[name] += 1
            say(f"{number + 1}/{faults} {name}")
        _settle(site)
        verdict = check_site(site)
        for crash in crashes:
            verdict.note(crash)
        return Story(
            faults=done,
            tries=sum(len(run.tries) for run in site.runs),
            trainings=len(site.real),
            daemons=daemons,
            seconds=time.monotonic() - started,
            verdict=verdict,
        )
    finally:
        site.close()


def _settle(site: Site) -> None:
    """Wait until all that was published is written, then end the daemon in order."""
    site.wind_down()
    deadline = time.monotonic() + DRAIN_LIMIT_S
    while any(not path.name.startswith(HOSTILE_PREFIX) for path in site.node.glob("*.ring")):
        if time.monotonic() > deadline or site.daemon.code is not None:
            break  # the check tells what is left
        time.sleep(0.05)
    site.daemon_codes.append(site.daemon.stop())
