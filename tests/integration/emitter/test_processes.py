"""Real trainers: killed, exiting without close, importing the wire only, compiled."""

import gc
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from regression import make_regression, train_step

import trackside

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0

TRAINER = """
import sys, torch, trackside
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
optimizer = torch.optim.AdamW(model.parameters())
keywords = {"autostart": False, "attention": False, "ring_bytes": 1 << 20}
trackside.attach(model, optimizer, every=2, **keywords)
for step in range(int(sys.argv[1])):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
print("trained", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
"""


def _start(tmp_path: Path, steps: int, then: str) -> subprocess.Popen[str]:
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script), str(steps), then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


def test_what_a_killed_trainer_published_can_be_read(
    tmp_path: Path, receive_all: Callable[[], dict[int, Any]]
) -> None:
    with _start(tmp_path, 7, "wait") as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "trained\n"
        trainer.send_signal(signal.SIGKILL)

    (received,) = receive_all().values()
    assert [sample.step.step for sample in received.samples] == [2, 4, 6]
    assert received.close is None
    assert not received.is_alive
    assert received.torn_records == 0


def test_a_script_without_close_ends_in_order(
    tmp_path: Path, receive_all: Callable[[], dict[int, Any]]
) -> None:
    with _start(tmp_path, 3, "exit") as trainer:
        _, errors = trainer.communicate(timeout=DEADLINE_S)

    (received,) = receive_all().values()
    assert trainer.returncode == 0
    assert errors == ""
    assert received.close.steps == 3
    assert received.hello.run.startswith("trainer-")
    assert received.hello.save_dir == str(tmp_path / "trackside_logs" / received.hello.run)


def test_the_wire_costs_no_torch_and_public_names_load_late() -> None:
    code = (
        "import sys, trackside.wire.ring, trackside.wire.records, trackside.errors\n"
        "assert 'torch' not in sys.modules\n"
        "import trackside\n"
        "assert trackside.ConfigError.__name__ == 'ConfigError'\n"
        "assert trackside.__version__\n"
        "assert 'torch' not in sys.modules\n"
        "assert set(trackside.__all__) <= set(dir(trackside))\n"
        "from trackside import EmitterConfig, Session, attach\n"
        "assert 'torch' in sys.modules\n"
        "try:\n    trackside.nothing\nexcept AttributeError:\n    pass\n"
    )

    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_daemon_is_started_detached_and_leaves_no_zombie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    package = tmp_path / "fake" / "tracksided"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    seen = tmp_path / "seen"
    (package / "__main__.py").write_text(
        "import os, sys\n"
        f"path = {str(seen)!r}\n"
        "rank = os.environ.get('RANK')\n"
        "text = f'{sys.argv[1:]} {os.getcwd()} {rank} {os.getsid(0)}'\n"
        "open(path + '.tmp', 'w').write(text)\n"
        "os.rename(path + '.tmp', path)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from trackside.autostart import ensure_daemon\n"
        f"environ = {{**os.environ, 'XDG_STATE_HOME': {str(state)!r}, 'RANK': '0'}}\n"
        f"assert ensure_daemon(Path({str(tmp_path)!r}), environ)\n"
        "try:\n    os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError:\n    sys.exit(0)\n"
        "sys.exit(1)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)

    deadline = time.monotonic() + DEADLINE_S
    while not seen.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    arguments, working_dir, rank, session = seen.read_text().rsplit(" ", 3)
    assert arguments == "['daemon', '--idle-exit', '300', '--low-priority']"
    assert (working_dir, rank) == ("/", "None")
    assert int(session) != os.getsid(0)


def trained_like_in_a_cell(save_dir: Path) -> "weakref.ref[Any]":
    model, optimizer = make_regression()
    with trackside.attach(model, optimizer, every=1, autostart=False, save_dir=save_dir):
        train_step(model, optimizer)
    return weakref.ref(model)


@pytest.mark.usefixtures("receive_all")
def test_models_that_one_process_trains_after_another_do_not_pile_up(tmp_path: Path) -> None:
    models = [trained_like_in_a_cell(tmp_path / name) for name in ("first", "second")]

    gc.collect()

    assert [model() for model in models] == [None, None]
