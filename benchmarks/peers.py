"""Fetch the scripts of other projects that `averaging.py` is compared with, at the stated commits.

    python benchmarks/peers.py [--into build/peers]

Each command is printed before it runs; they are git's and pip's, and can be typed by hand. Of each
repository only what the script needs is checked out; the script's digest is checked, and whether it
starts. Nothing of it is committed here, and nothing is installed into this environment.
"""

import argparse
import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "build" / "peers"
PACKAGES = "packages"  # what scripts import besides, below PLACE
CHECKED = "checked"  # a file that says that all of them start
TORCHVISION = "torchvision==0.28.0"  # timm imports it; of the PyTorch in constraints.txt


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One script of another project."""

    name: str
    repository: str
    commit: str
    version: str
    """That the project states at this commit."""

    script: str
    sha256: str
    needs: Sequence[str]
    """What it imports of its own repository; a file without its package's __init__ is enough."""


PEERS = (
    Peer(
        name="timm",
        repository="https://github.com/huggingface/pytorch-image-models",
        commit="aa4b5850c1543fa488abf260f18390eda46cf85d",
        version="1.0.29.dev0",
        script="avg_checkpoints.py",
        sha256="97b7e3240dab64cabeef658ee468ab80bd246e5a268944b372f4cb1b90c27b50",
        needs=("timm",),
    ),
    Peer(
        name="fairseq",
        repository="https://github.com/facebookresearch/fairseq",
        commit="3d262bb25690e4eb2e7d3c1309b1e9c406ca4b99",
        version="0.12.2",
        script="scripts/average_checkpoints.py",
        sha256="e245d5a553caeddce495db04b3ccc8c6c5c374737bc4d19b85af5b08667ac4ba",
        needs=("fairseq/file_io.py",),
    ),
)


class PeerUnusable(Exception):
    """What was fetched is not what was measured, or does not start."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=PLACE, help="one folder for each below it")
    arguments = parser.parse_args()
    try:
        for peer in PEERS:
            print(f"{fetch(peer, arguments.into)}: {origin(peer)}", flush=True)
        install(arguments.into / PACKAGES)
        for peer in PEERS:
            start(peer, arguments.into)
        (arguments.into / CHECKED).touch()
    except PeerUnusable as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"exit status {error.returncode}: {shlex.join(map(str, error.cmd))}")


def fetch(peer: Peer, into: Path) -> Path:
    """Check its script out at its commit; what is there is used.

    Raises:
        PeerUnusable: the script has another digest.
        CalledProcessError: git failed.
    """
    clone = into / peer.name
    git = ["git", "-C", clone]
    if not clone.exists():
        source = ["--quiet", "--filter=blob:none", "--no-checkout", peer.repository]
        run(["git", "clone", *source, clone])
    patterns = [f"/{path}" for path in (peer.script, *peer.needs)]
    run([*git, "sparse-checkout", "set", "--no-cone", *patterns])
    run([*git, "checkout", "--quiet", peer.commit])
    script = clone / peer.script
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    if digest != peer.sha256:
        raise PeerUnusable(
            f"{script} has SHA-256 {digest}, {peer.sha256} was measured; remove {clone} "
            "and fetch again"
        )
    return script


def install(target: Path) -> None:
    """Put torchvision where only the scripts see it: a build that does not fit breaks others."""
    if not target.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*pip, "--target", target, TORCHVISION])


def start(peer: Peer, place: Path) -> None:
    """Let its script say its options.

    Raises:
        PeerUnusable: it does not start.
    """
    path = os.pathsep.join(map(str, search_path(place)))
    command = [sys.executable, place / peer.name / peer.script, "--help"]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1]
        raise PeerUnusable(
            f"{peer.name} does not start: {why}\n{TORCHVISION} has to be of the same build as "
            "PyTorch: let PIP_EXTRA_INDEX_URL name the index that PyTorch came from, remove "
            f"{place / PACKAGES}, and fetch again"
        )


def run(command: Sequence[str | Path]) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True)


def origin(peer: Peer) -> str:
    return f"{peer.script} of {peer.repository} at {peer.commit[:12]}"


def fetched(name: str) -> Path | None:
    """Return the script that `main` fetched, if it did."""
    (peer,) = (peer for peer in PEERS if peer.name == name)
    return PLACE / name / peer.script if (PLACE / CHECKED).exists() else None


def search_path(place: Path = PLACE) -> list[Path]:
    """Return where fetched scripts find their imports."""
    return [place / name for name in (*(peer.name for peer in PEERS), PACKAGES)]


def help_of(name: str) -> str:
    """Say where a script comes from, for the help of an option."""
    (peer,) = (peer for peer in PEERS if peer.name == name)
    return f"{origin(peer)}; by default what `make peers` fetched"


if __name__ == "__main__":
    main()
