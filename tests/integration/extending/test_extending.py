"""What docs/extending.md says is done to a copy of the project, and everything in it works."""

import json
import math
import secrets
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_process import DaemonProcess, wait_until
from documents import ROOT
from extended_house import House, build
from PIL import Image
from written import history, scalars

pytestmark = pytest.mark.integration

EXAMPLES = ROOT / "examples/extending"
STEPS = 40  # as in tests/support/extended_trainer.py
CONTRACTS = (
    "tests/unit/statistics",
    "tests/unit/analysis/test_analyse.py",
    "tests/unit/renderers/test_renderers.py",
    "tests/unit/checkpoints/test_weights.py",
    "tests/unit/checkpoints/test_methods.py",
    "tests/unit/monitors/test_document.py",
    "tests/unit/emitter/test_config.py",
    "tests/unit/test_architecture.py",
)


class _Hook(BaseHTTPRequestHandler):
    """A chat's web hook: keeps what is posted."""

    posted: list[dict[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return build(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def posted() -> Iterator[tuple[str, list[dict[str, str]]]]:
    handler = type("Hook", (_Hook,), {"posted": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", handler.posted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def out(
    house: House,
    posted: tuple[str, list[dict[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """Train in the house, beside its daemon; return where everything was written."""
    directory = tmp_path_factory.mktemp("out")
    shared = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    shared.mkdir(mode=0o700)
    config = directory / "daemon.toml"
    command = [sys.executable, str(EXAMPLES / "on_alert.py"), posted[0]]
    config.write_text(
        "[workers]\nshed_pictures_at = 1000\nshed_statistics_at = 1000\n"
        f"[monitors]\nevery_seconds = 0.2\n[alerts]\ncommand = {json.dumps(command)}\n"
    )
    environ = {**house.environ, "TRACKSIDE_SHM_DIR": str(shared)}
    daemon = DaemonProcess(shared, directory / "daemon.log", environ)
    daemon.start("--config", str(config))
    try:
        subprocess.run(
            [sys.executable, "tests/support/extended_trainer.py", str(directory)],
            cwd=house.root,
            env=environ,
            check=True,
        )
        wait_until((directory / "run/final_report.md").exists)
        wait_until(lambda: any("slow_steps" in entry["text"] for entry in posted[1]))
        assert daemon.stop() == 0
        yield directory
    finally:
        daemon.kill()
        shutil.rmtree(shared)


@pytest.fixture(scope="module")
def truth(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "truth.npz") as arrays:
        return dict(arrays)


def statistics_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / f"run/step_{STEPS}/statistics.json").read_text()))


def test_every_example_is_on_the_page() -> None:
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")

    names = [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"]
    assert len(names) > 10
    for name in names:
        assert f"(../examples/extending/{name})" in page


def test_the_contract_tests_take_the_plug_ins_in(house: House) -> None:
    done = house.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *CONTRACTS)

    assert done.returncode == 0, done.stdout
    rules = "tests/unit/alerts/test_contract.py"
    done = house.run("-m", "pytest", "-q", "-p", "no:cacheprovider", rules, "-k", "slow_steps")
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout


def test_the_page_of_files_has_the_new_keys(house: House) -> None:
    page = "tests/integration/docs/test_files_of_a_run.py"

    done = house.run("-m", "pytest", "-q", "-p", "no:cacheprovider", page, "-k", "on_the_page")

    assert done.returncode == 0, done.stdout


def test_the_house_keeps_its_style_and_its_layers(house: House) -> None:
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        done = house.run("-m", *command, "daemon", "emitter", "tests/unit")
        assert done.returncode == 0, done.stdout

    layers = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = house.run("-c", layers)
    assert done.returncode == 0, done.stdout


def test_the_kernel_of_the_family_is_seen_as_it_computes(
    out: Path, truth: dict[str, np.ndarray]
) -> None:
    with np.load(out / f"run/step_{STEPS}/raw/decoder_layer0_self_attn.npz") as raw:
        weights, module = raw["weights"], str(raw["module"])

    assert module == "blocks.0"
    assert np.abs(weights - truth["attention"]).max() <= 1e-5
    line = history(out / "run")[-1]
    assert [entry["layer"] for entry in line["attention"]["decoder"]] == [0, 1]


def test_the_statistic_of_a_map_is_written(out: Path, truth: dict[str, np.ndarray]) -> None:
    expected = [statistics.fmean(max(row) for row in head) for head in truth["attention"].tolist()]

    entry = statistics_of(out)["decoder"][0]
    assert entry["confidence_per_head"] == pytest.approx(expected, abs=1e-5)


def test_the_statistic_of_a_parameter_is_written(out: Path, truth: dict[str, np.ndarray]) -> None:
    found = {entry["name"]: entry for entry in statistics_of(out)["gradients"]["parameters"]}

    for name in ("head.bias", "blocks.0.out.bias", "blocks.1.qkv.bias"):
        elements = truth[name].astype(np.float64)  # all are sampled: they are few
        standard = (elements - elements.mean()) / elements.std()
        expected = np.mean(standard**4) - 3
        assert found[name]["kurtosis"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_picture_of_a_step_is_drawn(out: Path) -> None:
    folder = out / f"run/step_{STEPS}"

    names = sorted(path.name for path in folder.glob("*.png"))

    assert names == [f"decoder_layer{i}_self_attn_received.png" for i in (0, 1)]
    with Image.open(folder / names[0]) as image:
        assert image.width > 512


def test_the_picture_of_a_run_is_drawn(out: Path) -> None:
    with Image.open(out / "run/overview/gradient_share.png") as image:
        assert image.width > 512


def test_the_alert_is_raised_once_and_told_to_the_chat(
    out: Path, posted: tuple[str, list[dict[str, str]]]
) -> None:
    lines = (out / "run/alerts.jsonl").read_text().splitlines()

    (alert,) = [entry for entry in map(json.loads, lines) if entry["rule"] == "slow_steps"]
    times = [line["step_seconds"] for line in history(out / "run")][1:]  # the first has none
    medians = {
        step: (statistics.median(times[step - 6 : step - 1]), statistics.median(times[: step - 6]))
        for step in range(26, STEPS + 1)  # 20 samples, then 5 to compare
    }
    slow = [step for step, (recent, usual) in medians.items() if recent > 1.5 * usual]
    assert alert["step"] == slow[0]
    recent, usual = medians[alert["step"]]
    assert (alert["value"], alert["threshold"]) == pytest.approx((recent, 1.5 * usual))
    (message,) = [entry["text"] for entry in posted[1] if "slow_steps" in entry["text"]]
    assert message.startswith(f"warning: slow_steps in run {alert['run']} at step {alert['step']}")
    assert alert["advice"] in message


def test_the_reading_of_the_monitor_is_in_every_line_and_a_curve(out: Path) -> None:
    lines = history(out / "run")

    loads = [line["host"]["load_per_core"] for line in lines if line["host"]]
    assert loads
    assert all(math.isfinite(load) and load >= 0 for load in loads)
    drawn = [value for _, value in scalars(out / "run", "System/Load_Per_Core")]
    assert drawn == pytest.approx(loads)


def test_the_integration_tells_epochs_and_losses(out: Path) -> None:
    lines = history(out / "run")

    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["epoch"] for line in lines] == [1] * (STEPS // 2) + [2] * (STEPS // 2)
    assert all(line["loss"] > 0 for line in lines)


def test_the_format_and_the_method_average(house: House, out: Path) -> None:
    arguments = [str(out / "checkpoints"), "--pattern", "*.npz", "--method", "wsm-square"]

    done = house.run("-P", "-m", "tracksided", "average", *arguments)

    assert done.returncode == 0, done.stderr
    with np.load(out / "checkpoints/averaged_model.npz") as found:
        average = dict(found)
    sources = [dict(np.load(out / f"checkpoints/model_{step}.npz")) for step in (10, 20, 30, 40)]
    assert average.keys() == sources[0].keys()
    assert average["step"] == 40
    assert average["embedding.weight"].flags.f_contiguous
    # 1 - u^2 at 0, 1/4, 2/4, 3/4 and 1: the differences
    shares = [1 / 16, 3 / 16, 5 / 16, 7 / 16]
    for name in set(average) - {"step"}:
        pairs = zip(shares, sources, strict=True)
        expected = sum(share * source[name].astype(np.float64) for share, source in pairs)
        assert average[name].dtype == np.float32
        np.testing.assert_allclose(average[name], expected, rtol=1e-7, atol=1e-9)


def test_a_damaged_file_of_the_format_is_skipped_by_name(
    house: House, out: Path, tmp_path: Path
) -> None:
    for step in (10, 20, 30):
        shutil.copy(out / f"checkpoints/model_{step}.npz", tmp_path)
    whole = (tmp_path / "model_30.npz").read_bytes()
    (tmp_path / "model_30.npz").write_bytes(whole[: len(whole) // 2])
    with np.load(tmp_path / "model_20.npz") as arrays:
        np.savez_compressed(tmp_path / "model_40.npz", **arrays)

    arguments = ["average", str(tmp_path), "--pattern", "*.npz", "--json"]
    done = house.run("-P", "-m", "tracksided", *arguments)

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [source["name"] for source in document["sources"]] == ["model_10.npz", "model_20.npz"]
    skipped = {entry["name"]: entry["reason"] for entry in document["skipped"]}
    assert skipped.keys() == {"model_30.npz", "model_40.npz"}
    assert "compressed" in skipped["model_40.npz"]


def test_the_sink_follows_history_and_adds_nothing_twice(out: Path, tmp_path: Path) -> None:
    run, database = tmp_path / "run", tmp_path / "numbers.sqlite"
    run.mkdir()
    lines = (out / "run/history.jsonl").read_bytes().splitlines(keepends=True)
    sink = [sys.executable, str(EXAMPLES / "history_to_sqlite.py"), str(run), str(database)]
    torn = lines[25][:50]

    for content in (lines[:20], [*lines[:25], torn], lines, lines, [*lines, lines[29]]):
        with (run / "history.jsonl").open("wb") as file:  # the same file, as it grows
            file.writelines(content)
        subprocess.run(sink, check=True, capture_output=True)

    stored = sqlite3.connect(database)
    found = stored.execute("SELECT step, value FROM numbers WHERE name = 'loss' ORDER BY step")
    # the last line goes back to step 30: what lay ahead of it is gone
    assert found.fetchall() == [
        (line["step"], line["loss"]) for line in history(out / "run") if line["step"] <= 30
    ]
    stored.close()


@pytest.mark.parametrize("outcome", ["ends", "fails"])
def test_the_session_of_the_integration_ends_with_the_training(
    house: House, tmp_path: Path, outcome: str
) -> None:
    script = f"""
import torch
from ignite.engine import Engine
from trackside.integrations.ignite import TracksideHandler

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
seen = []

def update(engine, batch):
    seen.append(handler.session.run is not None)
    if {outcome == "fails"} and engine.state.iteration == 2:
        raise ZeroDivisionError
    model(batch).sum().backward()
    optimizer.step()

trainer = Engine(update)
handler = TracksideHandler(autostart=False, save_dir={str(tmp_path)!r}, ring_bytes=1 << 20)
handler.attach(trainer, model, optimizer)
try:
    trainer.run([torch.ones(3, 2)] * 3)
except ZeroDivisionError:
    print("raised", end=" ")
print(seen, handler.session)
"""
    shared = Path("/dev/shm") / f"ts-test-{secrets.token_hex(4)}"  # noqa: S108 - the real thing
    shared.mkdir(mode=0o700)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**house.environ, "TRACKSIDE_SHM_DIR": str(shared)},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(shared)

    expected = "[True, True, True] None" if outcome == "ends" else "raised [True, True] None"
    assert done.stdout.strip() == expected
