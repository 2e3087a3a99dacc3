"""One averaging by the ranks of several nodes, or by one process; for `nodes.py`."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from namespaces import Node, torchrun
from nodes_job import ENVIRON

FIRST_PORT = 29700
OUTPUT = "averaged_model"


@dataclass(frozen=True, slots=True)
class Average:
    """What one took."""

    seconds: float
    """From the first start to the last end."""

    working_seconds: float
    """Of these without starts and imports, by its own provenance."""

    digest: str
    """Of the bytes that were published."""


def average(directory: Path, nodes: Sequence[Node], port: int, log: Path) -> Average:
    """Average with one rank on each node; without nodes, by one process."""
    for output in directory.glob(f"{OUTPUT}*"):
        output.unlink()
    words = ["-m", "tracksided.average" if nodes else "tracksided", *([] if nodes else ["average"])]
    words += [str(directory), "--pattern", "step_*"]
    os.sync()
    start = time.perf_counter()
    if nodes:
        jobs = [
            node.start([*torchrun(nodes, index, port=port), *words], ENVIRON, log)
            for index, node in enumerate(nodes)
        ]
    else:
        with log.open("ab") as output:
            jobs = [subprocess.Popen([sys.executable, *words], stdout=output, stderr=output)]
    codes = [job.wait() for job in jobs]
    elapsed = time.perf_counter() - start
    if any(codes):
        sys.exit(f"averaging on {len(nodes)} nodes failed:\n{log.read_text(errors='replace')}")
    provenance = json.loads((directory / f"{OUTPUT}.json").read_text(encoding="utf-8"))
    with (directory / f"{OUTPUT}.pt").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Average(elapsed, provenance["seconds"], digest)
