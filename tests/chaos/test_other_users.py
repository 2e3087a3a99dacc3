"""Two users on one machine never see or disturb each other, whatever one of them tries."""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from apart import as_user, why_not
from daemon_process import wait_until
from written import steps

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

SUPPORT = Path(__file__).parents[1] / "support"
FIRST_UID, LAST_UID = 200_000, 2_000_000  # nobody's
TRACKSIDE = (sys.executable, "-P", "-m", "tracksided")


@dataclass
class User:
    """Somebody with a home and, at the default place, a node-local directory."""

    uid: int
    home: Path

    @property
    def node(self) -> Path:
        return Path("/dev/shm") / f"trackside-{self.uid}"  # noqa: S108 - the real thing

    def start(self, *command: str | Path, log: str = "log") -> "subprocess.Popen[bytes]":
        with (self.home / log).open("ab") as stream:
            return subprocess.Popen(
                as_user(self.uid, *command), env=self.environ, stdout=stream, stderr=stream
            )

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            as_user(self.uid, *command),
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, script: str) -> "subprocess.CompletedProcess[str]":
        return self.run(sys.executable, "-c", script)

    def train(self, out: Path, num_steps: int) -> "subprocess.CompletedProcess[str]":
        return self.run(
            *(sys.executable, SUPPORT / "real_trainer.py", str(num_steps), "every=1"),
            *(f"save_dir={str(out)!r}", "autostart=False", "ring_bytes=4194304"),
        )

    @property
    def environ(self) -> dict[str, str]:
        names = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return names | {"HOME": str(self.home), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def users() -> Iterator[tuple[User, User]]:
    uids = random.sample(range(FIRST_UID, LAST_UID), 2)
    made = [User(uid, Path(tempfile.mkdtemp(prefix="home-"))) for uid in uids]
    for user in made:
        os.chown(user.home, user.uid, user.uid)
    yield made[0], made[1]
    for user in made:
        shutil.rmtree(user.home)
        if user.node.is_symlink():
            user.node.unlink()
        left = sorted(path.name for path in user.node.glob("*.ring"))
        shutil.rmtree(user.node, ignore_errors=True)
        assert not left


@contextlib.contextmanager
def serving(user: User) -> Iterator["subprocess.Popen[bytes]"]:
    daemon = user.start(*TRACKSIDE, "daemon", log="daemon.log")
    try:
        wait_until(lambda: (user.node / "status.json").exists() or daemon.poll() is not None)
        assert daemon.poll() is None, (user.home / "daemon.log").read_text()
        yield daemon
        wait_until(lambda: not list(user.node.glob("*.ring")))  # its runs are over
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)
    assert "Traceback" not in (user.home / "daemon.log").read_text()


def test_each_user_has_a_daemon_of_their_own_and_sees_only_their_runs(
    users: tuple[User, User],
) -> None:
    with serving(users[0]), serving(users[1]):
        for user in users:
            done = user.train(user.home / "out", 4)
            assert done.returncode == 0, done.stderr
            assert "trackside" not in done.stderr, done.stderr  # nothing to complain of
        for user in users:
            wait_until(lambda user=user: steps(user.home / "out") == [1, 2, 3, 4])
            owners = {path.stat().st_uid for path in (user.home / "out").rglob("*")}
            assert owners == {user.uid}
        answers = [json.loads(user.run(*TRACKSIDE, "status", "--json").stdout) for user in users]

    assert answers[0]["daemon"]["pid"] != answers[1]["daemon"]["pid"]
    for user, answer in zip(users, answers, strict=True):
        assert answer["directory"] == str(user.node)
        assert (user.home / "daemon.log").read_text().count(" is over, see ") == 1


def test_a_stranger_can_neither_look_nor_ring_nor_write_nor_kill(users: tuple[User, User]) -> None:
    ada, eve = users
    attempts = {
        "list": f"import os; os.listdir({str(ada.node)!r})",
        "read": f"open({str(ada.node / 'status.json')!r})",
        "plant": f"open({str(ada.node / 'x.r0.1.a.ring')!r}, 'w')",
        "remove": f"import os; os.unlink({str(ada.node / 'daemon.sock')!r})",
        "replace": f"import os; os.rename({str(ada.node)!r}, {str(ada.node) + '-gone'!r})",
        "ring": (
            "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)"
            f".connect({str(ada.node / 'daemon.sock')!r})"
        ),
        "lock": (
            "import fcntl; fcntl.lockf("
            f"open({str(ada.node / 'daemon.lock')!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        ),
    }
    with serving(ada) as daemon:
        pid = json.loads(ada.run(*TRACKSIDE, "status", "--json").stdout)["daemon"]["pid"]
        attempts["kill"] = f"import os; os.kill({pid}, 9)"
        for name, script in attempts.items():
            done = eve.python(script)
            assert "PermissionError" in done.stderr, (name, done.stderr)
        moved = eve.run("env", f"TRACKSIDE_SHM_DIR={ada.node}", *TRACKSIDE, "daemon")
        assert moved.returncode != 0
        assert f"belongs to user {ada.uid}, not to user {eve.uid}" in moved.stderr
        assert daemon.poll() is None
        assert ada.train(ada.home / "out", 2).returncode == 0
        wait_until(lambda: steps(ada.home / "out") == [1, 2])


@functools.cache
def bare_training() -> str:
    command = [sys.executable, SUPPORT / "real_trainer.py", "3"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("kind", ["directory", "file", "link", "socket"])
def test_a_place_that_a_stranger_took_first_is_refused_by_name_and_training_goes_on(
    users: tuple[User, User], kind: str
) -> None:
    ada, eve = users
    place = str(ada.node)
    squat = {
        "directory": f"import os; os.mkdir({place!r}, 0o777); os.chmod({place!r}, 0o777)",
        "file": f"open({place!r}, 'w')",
        "link": f"import os; os.symlink({str(ada.home)!r}, {place!r})",
        "socket": f"import socket; socket.socket(socket.AF_UNIX).bind({place!r})",
    }
    done = eve.python(squat[kind])
    assert done.returncode == 0, done.stderr

    trained = ada.train(ada.home / "out", 3)
    daemon = ada.run(*TRACKSIDE, "daemon")
    doctor = ada.run(*TRACKSIDE, "doctor")

    wanted = "belongs to user" if kind == "directory" else "is a link or a file"
    assert trained.stdout == bare_training()  # the losses and the digest, bit by bit
    assert wanted in trained.stderr
    assert "TRACKSIDE_SHM_DIR" in trained.stderr
    assert (daemon.returncode != 0, wanted in daemon.stderr) == (True, True)
    assert "Traceback" not in daemon.stderr + trained.stderr
    assert (doctor.returncode, wanted.split(maxsplit=1)[1] in doctor.stdout) == (1, True)
    assert not (ada.home / "out").exists()
    with contextlib.suppress(NotADirectoryError):
        assert not [path for path in ada.node.iterdir() if path.suffix == ".ring"]
    if not ada.node.is_dir() or ada.node.is_symlink():
        ada.node.unlink()
