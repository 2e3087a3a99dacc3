"""Checks of limits, devices and versions."""

from collections.abc import Iterator

from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding, fail, ok, warn

FEWEST_OPEN_FILES = 256  # a trainer's own, 16 for the doorbell, 3 of the daemon for each rank
OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 6)
EMITTER_NEEDS = ("trackside", "numpy", "pyzmq", "msgpack")


def check_open_files(facts: Facts) -> Iterator[Finding]:
    """May trainer and daemon open enough files?"""
    check = "open files"
    found = f"limit {facts.soft_open_files}, can be raised to {facts.hard_open_files}"
    if facts.hard_open_files < FEWEST_OPEN_FILES:
        yield fail(check, found, "raise the hard limit: nofile in /etc/security/limits.conf")
    elif facts.soft_open_files < FEWEST_OPEN_FILES:
        yield warn(check, found, "in the trainer's shell: ulimit -n 4096")
    else:
        yield ok(check, found)


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """Can the daemon ask the GPUs how they are?"""
    check = "NVML"
    if facts.num_gpus:
        yield ok(check, f"{facts.num_gpus} GPUs")
    elif facts.has_gpu:
        yield warn(
            check,
            f"there is a GPU, and NVML does not speak: {facts.nvml_error or 'it counts none'}",
            "let the daemon see libnvidia-ml.so and /dev/nvidia* (docker: --gpus all)",
        )
    else:
        yield ok(check, "no NVIDIA GPU here")


def check_versions(facts: Facts) -> Iterator[Finding]:
    """Is everything there, and new enough?"""
    check = "versions"
    names = {"python": ".".join(map(str, facts.python)), **facts.versions}
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in names.items())
    torch = facts.versions.get("torch")
    missing = [name for name in EMITTER_NEEDS if facts.versions.get(name) is None]
    if facts.python < OLDEST_PYTHON:
        yield fail(check, found, "use Python 3.11 or newer")
    elif missing:
        yield fail(check, found, f"run: pip install {' '.join(missing)}")
    elif torch is not None and _release(torch) < OLDEST_TORCH:
        yield warn(check, found, "PyTorch older than 2.6 is not tested: upgrade it")
    else:
        yield ok(check, found)


def _release(version: str) -> tuple[int, ...]:
    """Read the leading numbers of a version: ``2.6.0+cpu`` gives (2, 6)."""
    numbers = version.split("+", maxsplit=1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdecimal())
