"""A real training, a real daemon, a real browser."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, wait_until
from web_site import answers, free_port

pytestmark = pytest.mark.integration

TRAINER = Path(__file__).parents[2] / "support" / "real_trainer.py"


def test_a_training_is_followed_from_its_first_step_to_its_end(
    daemon: DaemonProcess, tmp_path: Path, open_page: Any
):
    port = free_port()
    config = tmp_path / "daemon.toml"
    config.write_text(f'[http]\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8")
    daemon.start("--config", str(config))
    wait_until(lambda: answers(port))
    page = open_page(port)
    page.locator("#empty").wait_for()

    trainer = subprocess.Popen(
        [
            *(sys.executable, str(TRAINER), "400", "pause_s=0.02", "every=10", "run='live'"),
            *(f"save_dir={str(tmp_path / 'run')!r}", "layers=None", "autostart=False"),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        page.get_by_role("heading", name="live", exact=True).wait_for()
        loss = page.locator("#chart-loss .readout")
        loss.filter(has_text=re.compile("step [0-9]+")).wait_for()
        first = int(re.findall("step ([0-9]+)", loss.inner_text())[0])
        page.wait_for_function(
            "(first) => Number(/step ([0-9]+)/.exec("
            "document.querySelector('#chart-loss .readout').textContent)[1]) >= first + 50",
            arg=first,
        )
        page.locator("#picture-list img").first.wait_for()
        page.wait_for_function("() => document.querySelector('#picture-list img').naturalWidth > 0")
        page.locator("#entropy summary").click()  # the table is filled where it is open
        page.locator("#entropy-table tbody tr").nth(1).wait_for()
    finally:
        trainer.wait()

    ended = page.locator("#run-list li").filter(has_text="finished")
    ended.wait_for()
    assert "step 400" in ended.inner_text()
    assert page.locator("#connection").inner_text() == "Live"
