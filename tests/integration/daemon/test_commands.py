"""`trackside status` and `trackside run`, as a user types them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from psutil import Process
from written import load, steps

from trackside.wire.locks import daemon_pid
from trackside.wire.segment import remove, scan

pytestmark = pytest.mark.integration

TRAINER = Path(__file__).parents[2] / "support" / "fake_trainer.py"
TRACKSIDE = [sys.executable, "-m", "tracksided"]

# A rank that says with which modes things lie beside its ring while a daemon serves it.
NEIGHBOUR = """
import json, os, stat, sys
from pathlib import Path
from daemon_process import wait_until
from fake_trainer import FakeRank, make_hello
directory, out = map(Path, sys.argv[1:])
rank = FakeRank(directory, make_hello(out))
rank.publish(1)
wait_until((directory / "status.json").exists)
entries = {entry.name: entry for entry in directory.iterdir()}
print(json.dumps({name: stat.S_IMODE(e.lstat().st_mode) for name, e in entries.items()}))
rank.close()
"""


def trackside(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TRACKSIDE, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_command_loads_nothing_that_only_an_error_needs(shm_dir: Path) -> None:
    code = (
        "import sys\n"
        "from tracksided.cli.entry import main\n"
        "sys.argv = ['trackside', 'status']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 3, ended.code\n"
        "assert {'importlib.metadata', 'torch', 'matplotlib'}.isdisjoint(sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert f"no daemon serves {shm_dir}" in done.stdout


def test_status_without_a_daemon_says_what_to_do(shm_dir: Path, tmp_path: Path) -> None:
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    rank.publish(1)

    shown = trackside("status")
    answer = json.loads(trackside("status", "--json").stdout)

    assert shown.returncode == 3
    assert "; 1 segment left there" in shown.stdout
    assert "trackside daemon" in shown.stdout
    assert answer["daemon"] is None
    assert answer["segments"] == [rank.writer.path.name]
    rank.abandon()
    remove(rank.writer.path)


def test_status_shows_runs_ranks_and_drops(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"), ring_bytes=1 << 14)
    rank.publish(3)
    wait_until(lambda: steps(tmp_path / "out") == [3])
    while rank.publish(4).value == "published":
        pass

    def is_shown() -> bool:
        runs = load(shm_dir / "status.json")["runs"]
        return bool(runs) and runs[0]["committed_step"] == 4 and bool(runs[0]["ranks"][0]["drops"])

    wait_until(is_shown)
    answer = json.loads(trackside("status", "--json").stdout)
    shown = trackside("status")

    assert answer["daemon"]["pid"] == daemon.pid
    (run,) = answer["runs"]
    assert (run["run"], run["state"], run["committed_step"]) == ("fake-run", "running", 4)
    assert run["ranks"][0]["alive"] is True
    assert run["ranks"][0]["drops"] == {"ring_full": 1}
    assert shown.returncode == 0
    assert "fake-run" in shown.stdout
    assert "ring_full 1" in shown.stdout
    # Paths of tests are longer than the 80 columns of what is no terminal.
    assert f" waiting, in {tmp_path / 'out'}\n" in shown.stdout
    rank.close()
    wait_until(lambda: not rank.writer.path.exists())


def test_run_serves_a_command_and_returns_its_exit_code(shm_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"import runpy, sys; sys.argv[1:] = [{str(shm_dir)!r}, {str(out)!r}, '3']; "
    script += f"runpy.run_path({str(TRAINER)!r}, run_name='__main__'); sys.exit(7)"

    done = trackside("run", "--", sys.executable, "-c", script)

    assert done.returncode == 7, done.stderr
    assert steps(out) == [1, 2, 3]
    assert daemon_pid(shm_dir) is None
    assert not list(shm_dir.glob("*.ring"))


def test_daemon_of_a_run_says_nothing_to_the_service_manager_of_that(
    shm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken as said by the command: STOPPING=1 ends a unit that takes all messages."""
    address = str(shm_dir / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(address)

        done = trackside("run", "--", sys.executable, TRAINER, shm_dir, tmp_path / "out", "3")

        assert done.returncode == 0, done.stderr
        with pytest.raises(BlockingIOError):
            manager.recv(1)
    Path(address).unlink()


def test_all_in_the_node_directory_is_for_its_owner_alone(shm_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", NEIGHBOUR, shm_dir, tmp_path / "out"]
    environ = os.environ | {"PYTHONPATH": str(TRAINER.parent)}

    done = subprocess.run(
        [*TRACKSIDE, "run", "--", *command],
        env=environ,
        umask=0,
        capture_output=True,
        text=True,
        check=True,
    )

    modes = json.loads(done.stdout.splitlines()[0])
    assert set(modes) >= {"daemon.lock", "daemon.log", "daemon.sock", "status.json"}
    assert {Path(name).suffix for name in modes} >= {".ring", ".alive"}
    assert {name: oct(mode) for name, mode in modes.items() if mode != 0o600} == {}


def test_run_uses_the_daemon_that_serves_already(
    shm_dir: Path, tmp_path: Path, daemon: DaemonProcess
) -> None:
    daemon.start()

    done = trackside("run", "--", sys.executable, TRAINER, shm_dir, tmp_path / "out", "2")

    assert done.returncode == 0, done.stderr
    assert daemon_pid(shm_dir) == daemon.pid
    assert steps(tmp_path / "out") == [1, 2]


def test_run_does_not_wait_for_what_others_left_and_says_why_it_waits(
    shm_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    stuck = FakeRank(shm_dir, make_hello(tmp_path / "file" / "out"))
    stuck.publish(1)
    stuck.abandon()
    script = (
        f"import runpy, sys; sys.argv[1:] = [{str(shm_dir)!r}, {str(tmp_path / 'file')!r}, '1']"
    )
    script += f"; runpy.run_path({str(TRAINER)!r}, run_name='__main__')"

    apart = trackside("run", "--", sys.executable, "-c", "pass")
    with subprocess.Popen(
        # What starts in the background of a script has SIGINT ignored, and hands that on.
        ["env", "--default-signal=INT", *TRACKSIDE, "run", "--", sys.executable, "-c", script],
        stderr=subprocess.PIPE,
        text=True,
    ) as own:
        assert own.stderr is not None
        line = own.stderr.readline()
        own.send_signal(signal.SIGINT)
        own.communicate(timeout=60)

    assert (apart.returncode, apart.stderr) == (0, "")
    assert line.startswith("trackside: waiting up to 120 s for outputs")
    assert str(tmp_path / "file") in line
    for path in scan(shm_dir):
        remove(path)


def test_run_does_not_wait_for_a_daemon_that_died_under_it(shm_dir: Path, tmp_path: Path) -> None:
    script = (
        "import os, runpy, signal, sys; from pathlib import Path; "
        "from trackside.wire.locks import daemon_pid; "
        f"sys.argv[1:] = [{str(shm_dir)!r}, {str(tmp_path / 'out')!r}, '3']; "
        "pid = daemon_pid(Path(sys.argv[1])); os.kill(pid, signal.SIGKILL); print(pid, flush=True);"
        f"runpy.run_path({str(TRAINER)!r}, run_name='__main__'); sys.exit(7)"
    )

    done = trackside("run", "--", sys.executable, "-c", script)

    (line,) = done.stderr.splitlines()
    (left,) = scan(shm_dir)
    assert done.returncode == 7
    assert line.startswith(
        f"trackside: the daemon (pid {done.stdout.split()[0]}) was ended by SIGKILL"
    )
    assert f"its log is {shm_dir}/daemon.log; 1 segment left in {shm_dir}" in line
    remove(left)


def test_run_goes_without_a_daemon_where_none_can_be_started(shm_dir: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = home / ".config/trackside/daemon.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("pol_seconds = 1\n", encoding="utf-8")
    train = f"import sys; sys.argv[1:] = [{str(shm_dir)!r}, {str(tmp_path / 'out')!r}, '3']; "
    train += f"import runpy; runpy.run_path({str(TRAINER)!r}, run_name='__main__'); sys.exit(7)"

    done = subprocess.run(
        [*TRACKSIDE, "run", "--", sys.executable, "-c", train],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 7
    assert done.stdout.splitlines() == ["1 published", "2 published", "3 published"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("trackside: the command runs without a daemon: the daemon ended at once")
    assert "unknown key 'pol_seconds'; did you mean 'poll_seconds'?" in line
    (left,) = scan(shm_dir)
    remove(left)


def test_run_of_a_command_that_is_not_there_is_a_clear_error(shm_dir: Path) -> None:
    done = trackside("run", "--", "no-such-command")

    assert done.returncode == 1
    assert "cannot run 'no-such-command'" in done.stderr
    assert "Traceback" not in done.stderr
    assert daemon_pid(shm_dir) is None


@contextmanager
def running_command() -> Iterator[subprocess.Popen[str]]:
    """`trackside run` of a command that is up, and waits."""
    with subprocess.Popen(
        [*TRACKSIDE, "run", "--", sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as outer:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        yield outer


def test_run_hands_a_termination_on_to_the_command(shm_dir: Path) -> None:
    with running_command() as outer:
        os.kill(outer.pid, signal.SIGTERM)
        code = outer.wait(60)

    assert code == 128 + signal.SIGTERM
    assert daemon_pid(shm_dir) is None


def training_of(shm_dir: Path, out: Path, first: str) -> str:
    """Code that trains three steps, after statements about the daemon, whose id is `pid`."""
    return (
        "import os, runpy, signal, sys; from pathlib import Path; "
        "from trackside.wire.locks import daemon_pid; "
        f"sys.argv[1:] = [{str(shm_dir)!r}, {str(out)!r}, '3']; "
        f"pid = daemon_pid(Path(sys.argv[1])); {first}; "
        f"runpy.run_path({str(TRAINER)!r}, run_name='__main__')"
    )


def test_run_writes_what_is_left_where_it_is_terminated_meanwhile(
    shm_dir: Path, tmp_path: Path
) -> None:
    """SLURM sends SIGTERM to a job more than once, and kills what its first process leaves."""
    script = training_of(shm_dir, tmp_path / "out", "os.kill(pid, signal.SIGSTOP)")
    with subprocess.Popen([*TRACKSIDE, "run", "--", sys.executable, "-c", script]) as outer:
        wait_until(lambda: bool(scan(shm_dir)))
        stopped = daemon_pid(shm_dir)
        assert stopped is not None
        wait_until(lambda: [child.pid for child in Process(outer.pid).children()] == [stopped])

        outer.send_signal(signal.SIGTERM)
        os.kill(stopped, signal.SIGCONT)
        code = outer.wait(60)

    assert code == 0
    assert steps(tmp_path / "out") == [1, 2, 3]
    assert scan(shm_dir) == ()


def test_daemon_of_a_run_ends_with_it_even_when_that_is_killed(shm_dir: Path) -> None:
    with running_command() as outer:
        assert daemon_pid(shm_dir) is not None
        outer.kill()

    wait_until(lambda: daemon_pid(shm_dir) is None)


def test_daemon_of_a_run_outlives_a_termination_of_the_whole_job(
    shm_dir: Path, tmp_path: Path
) -> None:
    terminate = "os.kill(pid, signal.SIGTERM); os.kill(pid, signal.SIGTERM)"
    training = training_of(shm_dir, tmp_path / "out", terminate)
    script = f"{training}; assert daemon_pid(Path(sys.argv[1])) == pid"

    done = trackside("run", "--", sys.executable, "-c", script)

    assert done.returncode == 0, done.stderr
    assert steps(tmp_path / "out") == [1, 2, 3]
    assert scan(shm_dir) == ()
    assert daemon_pid(shm_dir) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["daemon", "--confg", "x"], "No such option"),
        (["daemon", "--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["stauts"], "No such command 'stauts'. Did you mean 'status'?"),
    ],
)
def test_what_is_mistyped_is_named(shm_dir: Path, arguments: list[str], message: str) -> None:
    done = trackside(*arguments)

    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(shm_dir.glob("*.sock"))
