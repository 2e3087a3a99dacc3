# ruff: noqa: INP001 - a script, not part of a package
"""Takes the picture of docs/page.md: two trainings of the demo's GPT on the live page.

    python examples/page_picture.py --out docs/images/page.png

Both train at once, with different learning rates, under a daemon of their own. Needs Debian's
`chromium`, and playwright, which `make venv` brings.
"""

import argparse
import contextlib
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import trackside
from tracksided.demo.model import CONTEXT, GPT, next_byte_loss
from tracksided.demo.text import load_corpus, random_batches
from tracksided.launch import running_daemon

LEARNING_RATES = {"gpt-lr-3e-3": 3e-3, "gpt-lr-8e-4": 8e-4}
STEPS = 400
WARMUP_STEPS = 30
SAMPLED_STEPS = 80
BATCH_SIZE = 8
WINDOW = {"width": 1280, "height": 1480}
DEADLINE_S = 300.0  # a busy machine draws late
# No sandbox: it may run as root. Nothing is asked of the network.
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
LOADED = """() => [...document.querySelectorAll("#picture-list img")]
    .every((image) => image.complete && image.naturalWidth > 0)"""


def train(out: Path, steps: int, peak: float) -> None:
    """Train one model, with warm-up and a cosine down to a tenth."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / WARMUP_STEPS, 0.55 + 0.45 * math.cos(math.pi * step / steps)),
    )
    batches = random_batches(
        load_corpus().train, batch_size=BATCH_SIZE, length=CONTEXT + 1, seed=(0, 0)
    )
    with trackside.attach(model, optimizer, every=sampled_every(steps), layers=None, save_dir=out):
        for _, batch in zip(range(steps), batches, strict=False):
            tokens = torch.from_numpy(batch)
            optimizer.zero_grad()
            next_byte_loss(model(tokens[:, :-1]), tokens[:, 1:]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        sys.stdin.read()  # a short one stays until the page has seen it


def sampled_every(steps: int) -> int:
    """Return the distance of samples, in steps."""
    return max(1, steps // SAMPLED_STEPS)


def photograph(
    url: str, picture: Path, trainings: Sequence["subprocess.Popen[bytes]"], num_samples: int
) -> None:
    """Open the page while all train, and take its picture when they are through."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(ARGUMENTS)
        )
        page = browser.new_page(viewport=WINDOW, locale="en-US")
        page.set_default_timeout(DEADLINE_S * 1000)
        page.goto(url)
        entries = [page.locator("#run-list li").filter(has_text=name) for name in LEARNING_RATES]
        for entry in entries:
            entry.wait_for()
        for training in trainings:
            if training.stdin is not None:
                training.stdin.close()
            if training.wait() != 0:
                sys.exit(f"a training ended with {training.returncode}")
        for entry in entries:
            entry.filter(has_text="finished").wait_for()
            entry.get_by_role("checkbox").check()
        entries[0].get_by_role("button").click()
        # One that ended first was not drawn any more, and lacks its last steps until now.
        whole = re.compile(rf"(over {num_samples} steps.*){{{len(entries)}}}")
        page.locator("#chart-loss-text").filter(has_text=whole).wait_for(state="attached")
        page.locator("#picture-list img").first.wait_for()
        page.wait_for_function(LOADED)
        page.screenshot(path=picture)
        browser.close()


def serve(memory: Path, outputs: Path, picture: Path, steps: int) -> None:
    """Train beside a daemon that serves the page."""
    port = free_port()
    with running_daemon(memory, "--http", f"127.0.0.1:{port}"):
        wait_for(port)
        trainings = []
        for name in LEARNING_RATES:
            command = [sys.executable, __file__, "--train", name, "--out", str(outputs / name)]
            environ = {"TRACKSIDE_SHM_DIR": str(memory), "TRACKSIDE_RUN": name}
            trainings.append(
                subprocess.Popen(
                    [*command, "--steps", str(steps)],
                    stdin=subprocess.PIPE,
                    env=os.environ | environ,
                )
            )
        try:
            num_samples = steps // sampled_every(steps)
            photograph(f"http://127.0.0.1:{port}/", picture, trainings, num_samples)
        finally:
            for training in trainings:
                training.kill()
                training.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(port: int) -> None:
    """Wait until the page is served: that process starts after the daemon."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if time.monotonic() > deadline:
            sys.exit(f"nothing is served at port {port} after {DEADLINE_S:g} s")
        time.sleep(0.1)


def main() -> None:
    """Train, or have two trainings made and take their picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--train", choices=LEARNING_RATES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train is not None:
        train(arguments.out, arguments.steps, LEARNING_RATES[arguments.train])
        return
    with (
        tempfile.TemporaryDirectory(prefix="trackside-", dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(prefix="trackside-") as outputs,
    ):
        serve(Path(memory), Path(outputs), arguments.out, arguments.steps)


if __name__ == "__main__":
    main()
