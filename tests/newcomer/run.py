"""Follow the README on a Debian with nothing on it: ``python tests/newcomer/run.py bookworm``.

Needs root, debootstrap and the registries of Debian and Python. Takes the last commit, not what is
uncommitted. Where pip shall find packages is taken from the variables PIP_* of the caller. Exit
code 1 if a step failed; those that worked stand in the table. Where all worked, their times lie in
a JSON file beside the logs, which ``python benchmarks/keep.py`` takes over into the documentation.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import newcomers
from clean_debian import GIVEN, CleanDebian, CommandFailed, debian
from documents import ROOT
from machine import load_average
from readme_path import ADDRESS, ReadmePath, readme_path

USER = "newcomer"
SOURCE = "/srv/trackside.git"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Inside of the clone.
ASK_VERSIONS = (
    "import json, platform, torch; "
    "print(json.dumps({'python': platform.python_version(), 'torch': torch.__version__}))"
)
# The README's two lines, in a training of one's own, where no source tree is.
TRAINING = """
import torch
model = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{attach}
for _ in range(100):
    model(torch.randn(2, 5, 8)).square().mean().backward()
    optimizer.step()
"""


@dataclass
class Journey:
    """The steps of one newcomer, with their times."""

    machine: CleanDebian
    user: str
    logs: Path
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def step(self, name: str, command: str, *, as_root: bool = False) -> None:
        say(f"{name} ...")
        log = self.logs / f"{len(self.seconds) + 1}-{name.replace(' ', '-')}.log"
        user = "root" if as_root else self.user
        self.seconds[name] = self.machine.run(command, user=user, log=log)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", choices=list(newcomers.SUITES))
    parser.add_argument("--as-root", action="store_true", help="follow the README as root")
    parser.add_argument("--no-tests", action="store_true", help="leave out what takes longest")
    parser.add_argument("--pytest", default="", metavar="ARGUMENTS", help="for `make test`")
    parser.add_argument("--note", default="", help="what else the times depend on; is kept")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"))  # noqa: S108 - has room
    parser.add_argument("--out", type=Path, default=Path("build/newcomer"), help="logs, map, times")
    arguments = parser.parse_args()
    for number in ENDING:
        signal.signal(number, leave)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out.resolve()
    environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    paths = {name: Path(value) for name, value in environ.items() if Path(value).is_absolute()}
    files = {name: path for name, path in paths.items() if path.exists()}  # as pip, no others
    environ |= {name: f"{GIVEN}{path}" for name, path in files.items()}
    user = "root" if arguments.as_root else USER
    settings = settings_of(arguments, user)
    start, load_before = datetime.now(UTC), load_average()

    with debian(
        arguments.suite,
        scratch=arguments.scratch.resolve(),
        log=out / "0-debootstrap.log",
        environ=environ,
        files=tuple(files.values()),
    ) as machine:
        prepare(machine, user)
        journey, readme = Journey(machine, user, out), readme_path()
        try:
            to_the_map(journey, readme)
            if not arguments.no_tests:
                chosen = shlex.quote(f"PYTEST_ARGS={arguments.pytest}") if arguments.pytest else ""
                journey.step("make test", f"cd trackside && {readme.test} {chosen}")
            away_from_the_tree(journey, readme)
        except CommandFailed as error:
            say(str(error))
            return 1
        finally:
            sys.stdout.write(table(journey))
    document = newcomers.document(
        settings,
        journey.seconds,
        journey.versions,
        start=start,
        end=datetime.now(UTC),
        load_before=load_before,
    )
    kept = out / f"{document['benchmark']}.json"
    kept.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    say(f"{kept} has the times")
    return 0


def settings_of(arguments: argparse.Namespace, user: str) -> Mapping[str, str]:
    """Return what the times depend on; the commit is the one that is cloned."""
    asked = ["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    settings = {"suite": arguments.suite, "user": user, "commit": commit}
    chosen = {"pytest": arguments.pytest, "note": arguments.note}
    return settings | {name: value for name, value in chosen.items() if value}


def prepare(machine: CleanDebian, user: str) -> None:
    """Give the machine its user and something to clone; apt asks no questions."""
    (machine.root / "etc/apt/apt.conf.d/90yes").write_text('APT::Get::Assume-Yes "true";\n')
    source = machine.root / SOURCE.lstrip("/")
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, source], check=True)
    log = machine.root / "tmp/user.log"
    if user != "root":
        machine.run(f"useradd --create-home --shell /bin/bash {user}", user="root", log=log)
        machine.run(f"chown -R {user}: {SOURCE}", user="root", log=log)


def to_the_map(journey: Journey, readme: ReadmePath) -> None:
    """Follow the README from its first command to an attention map."""
    journey.step("packages", f"apt-get update && {readme.packages}", as_root=True)
    journey.step("clone", readme.clone.replace(ADDRESS, SOURCE))
    # `make` finds it installed: so its time, mostly the network's, is apart.
    journey.step(
        newcomers.TORCH,
        "cd trackside && python3 -m venv .venv && "
        ".venv/bin/python -m pip install --constraint constraints.txt torch",
    )
    journey.versions |= versions(journey)
    journey.step("make demo", f"cd trackside && {readme.demo}")
    journey.seconds[newcomers.MAP] = journey.seconds["clone"] + journey.seconds["make demo"]
    home = journey.machine.root / ("root" if journey.user == "root" else f"home/{journey.user}")
    maps = sorted(home.glob("trackside/**/decoder_layer*_self_attn.png"), key=os.path.getmtime)
    if not maps:
        raise CommandFailed("the demo left no attention map")
    (journey.logs / "map.png").write_bytes(maps[-1].read_bytes())


def versions(journey: Journey) -> dict[str, str]:
    """Ask the clone's environment."""
    log = journey.logs / "versions.log"
    command = f"trackside/.venv/bin/python -c {shlex.quote(ASK_VERSIONS)}"
    journey.machine.run(command, user=journey.user, log=log)
    return json.loads(log.read_text(encoding="utf-8").splitlines()[-1])


def away_from_the_tree(journey: Journey, readme: ReadmePath) -> None:
    """Build wheel and sdist, remove the source tree, and use what was built."""
    journey.step(
        "wheel and sdist",
        "cd trackside && make venv && .venv/bin/python -m hatchling build -d ~/dist && "
        "cp constraints.txt ~/dist",
    )
    journey.step("removal of the source tree", "rm -rf trackside")
    training = shlex.quote(TRAINING.format(attach=readme.attach))
    pip = "own/bin/python -m pip install --constraint dist/constraints.txt"
    run = "own/bin/trackside run -- own/bin/python train.py"
    map_of_step_100 = "trackside_logs/*/step_100/encoder_layer0_self_attn.png"
    look = f"{run} && ls {map_of_step_100} && rm -r trackside_logs"
    journey.step(
        "wheel in a project",
        f"python3 -m venv own && printf %s {training} >train.py && "
        f'{pip} "$(echo dist/*.whl)[daemon]" && own/bin/trackside --help && {look}',
    )
    journey.step("sdist in a project", f"{pip} --force-reinstall --no-deps dist/*.tar.gz && {look}")


def leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that what was made is removed; a second signal does not stop that."""
    del frame
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(128 + number)


def table(journey: Journey) -> str:
    rows = [f"| {name} | {seconds:.0f} |" for name, seconds in journey.seconds.items()]
    return "\n".join(["| step | seconds |", "|---|---|", *rows]) + "\n"


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
