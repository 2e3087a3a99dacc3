"""The recipes for containers, followed with namespaces in the place of a container engine."""

import math
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from apart import REPOSITORY, as_user, why_not, with_own_pids
from containers import STATE
from daemon_process import DaemonProcess, wait_until
from fake_trainer import FakeRank, make_hello
from guide import BIN, Guide, file_text, shell_lines
from packaging.specifiers import SpecifierSet
from written import load, steps

pytestmark = pytest.mark.integration
needs_namespaces = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

SUPPORT = REPOSITORY / "tests" / "support"
DOCKER, POD = "docs/how-to/containers.md", "docs/how-to/kubernetes.md"
OLDEST_KUBERNETES = "1.29"

# What a daemon has to write before it is stopped: a busy machine may need longer than it drains.
WRITTEN = 'until [ "$(cat {run}/history.jsonl 2>/dev/null | wc -l)" = 5 ]; do sleep 0.1; done'

# Publishes five steps as a training does, and is quick: it needs no torch.
TRAIN = """
import os
from pathlib import Path
from fake_trainer import main
from trackside.wire.segment import ensure_node_directory, node_directory

directory = node_directory(os.environ)
ensure_node_directory(directory)
out = Path(os.environ.get("TRACKSIDE_SAVE_DIR", "trackside_logs/run")).absolute()
main([str(directory), str(out), "5"])
room = os.statvfs("/dev/shm")
print("shm", room.f_blocks * room.f_frsize, "pid", os.getpid())
"""


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guide:
    """The page about containers, with a `docker` that makes namespaces."""
    programs, reader = tmp_path / "programs", tmp_path / "reader"
    programs.mkdir()
    reader.mkdir()
    docker = programs / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {SUPPORT / "containers.py"} "$@"\n')
    docker.chmod(stat.S_IRWXU)
    (reader / "train.py").write_text(TRAIN)
    monkeypatch.setenv(STATE, str(programs))
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setenv("PATH", f"{programs}:{BIN}:{os.environ['PATH']}")
    monkeypatch.delenv("TRACKSIDE_SHM_DIR", raising=False)
    return Guide(DOCKER, reader)


def line_with(*words: str) -> str:
    """Return the only command line of the page about containers that has all these words."""
    (line,) = (line for line in shell_lines(DOCKER) if all(word in line for word in words))
    return line


def type_on_own_machine(guide: Guide, *lines: str) -> str:
    """Type lines where /dev/shm and process ids are the test's own; all ends with the last one."""
    script = "mount -t tmpfs -o mode=1777 tmpfs /dev/shm\n" + "\n".join(lines)
    done = guide.run(*with_own_pids("bash", "-ec", script))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def instructions() -> dict[str, list[list[str]]]:
    """Return the words of each instruction of the Dockerfile, by its first word."""
    found: dict[str, list[list[str]]] = {}
    for line in file_text(DOCKER, "Dockerfile").splitlines():
        first, *words = shlex.split(line)
        found.setdefault(first, []).append(words)
    return found


def test_the_image_holds_all_that_pip_needs(tmp_path: Path) -> None:
    """What COPY names is enough to install from; without the extra, which an index has."""
    of = instructions()
    root = tmp_path / "root"
    for *sources, target in of["COPY"]:
        place = Path(f"{root}{target}")
        for source in sources:
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place)
            else:
                assert target.endswith("/")
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / source, place)
    ((*pip, requirement),) = of["RUN"]
    directory, _, extra = requirement.partition("[")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]

    done = subprocess.run(
        [sys.executable, "-m", *pip, *options, "--target", tmp_path / "site", f"{root}{directory}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert set(of) == {"FROM", "COPY", "RUN"}
    assert pip == ["pip", "install"]
    metadata = next((tmp_path / "site").glob("trackside-*.dist-info")) / "METADATA"
    assert f"Provides-Extra: {extra.rstrip(']')}\n" in metadata.read_text()
    units = tmp_path / "site" / "tracksided" / "units"
    assert (units / "trackside@.service").is_file()


def test_the_image_has_a_python_that_is_new_enough() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    ((image,),) = instructions()["FROM"]
    name, _, tag = image.partition(":")

    assert name == "python"
    assert tag.partition("-")[0] in SpecifierSet(project["requires-python"])


def test_the_image_is_built_under_the_name_that_the_other_lines_use() -> None:
    *_, name, where = shlex.split(line_with("docker build"))

    assert where == "."
    runs = [line for line in shell_lines(DOCKER) if line.startswith("docker run")]
    assert runs
    assert all(f" {name} " in line for line in runs)


@needs_namespaces
def test_both_in_one_container(guide: Guide) -> None:
    said = type_on_own_machine(guide, line_with("docker run", "trackside run"))

    assert f"shm {1 << 30} pid" in said
    run = guide.directory / "trackside_logs" / "run"
    assert steps(run) == [1, 2, 3, 4, 5]
    assert load(run / "training_statistics.json")["state"] == "finished"


@needs_namespaces
def test_the_daemons_container_can_be_made_again(guide: Guide) -> None:
    daemon, stop = line_with("docker run -d"), line_with("docker stop")
    is_up = f"until {line_with('docker exec')} | grep serving; do sleep 0.1; done"

    said = type_on_own_machine(guide, daemon, is_up, stop, daemon, is_up, stop)

    assert said.count("serving /dev/shm/trackside-0") == 2


@needs_namespaces
def test_trainer_in_a_container_and_daemon_on_the_host(guide: Guide) -> None:
    lines = (line_with("install -d"), line_with("docker run", "$PWD", "shm/trackside-"))
    on_the_host = f"trackside run -- bash -ec {shlex.quote('; '.join(lines))}"

    said = type_on_own_machine(guide, on_the_host)

    assert f"shm {64 << 20} pid 1" in said  # a memory of its own, but for the one directory
    run = guide.directory / "trackside_logs" / "run"
    assert steps(run) == [1, 2, 3, 4, 5]
    assert load(run / "training_statistics.json")["state"] == "finished"


@needs_namespaces
def test_two_containers(guide: Guide) -> None:
    said = type_on_own_machine(
        guide,
        line_with("docker run -d"),
        line_with("--ipc=container:trackside"),
        f"until {line_with('docker exec')} | grep serving; do sleep 0.1; done",
        WRITTEN.format(run="trackside_logs/run"),
        line_with("docker stop"),
    )

    assert f"shm {1 << 30} pid 1" in said
    assert "serving /dev/shm/trackside-0" in said
    assert steps(guide.directory / "trackside_logs" / "run") == [1, 2, 3, 4, 5]


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file_text(POD, "pod.yaml"))
    return found


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_the_manifest_is_one_of_kubernetes(version: str) -> None:
    kubernetes_validate.validate(manifest(), version, strict=True)


def test_a_misspelled_key_in_the_manifest_is_noticed() -> None:
    spec = manifest()
    spec["spec"]["shareProcessNamspace"] = True

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spec, OLDEST_KUBERNETES, strict=True)


def test_both_containers_of_the_pod_see_the_same_places() -> None:
    spec = manifest()["spec"]
    side, train = spec["initContainers"][0], spec["containers"][0]

    assert side["restartPolicy"] == "Always"
    assert side["volumeMounts"] == train["volumeMounts"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in side["volumeMounts"]  # noqa: S108 - only compared
    assert side["securityContext"] == train["securityContext"]
    assert "runAsUser" not in side["securityContext"]  # the pod's, for both


def test_the_probe_asks_for_a_daemon_and_not_for_calm(tmp_path: Path, shm_dir: Path) -> None:
    """A daemon that was killed comes up with the alerts of its runs; nobody may end it for them."""
    probe = manifest()["spec"]["initContainers"][0]["startupProbe"]
    reader = Guide(POD, tmp_path)
    daemon = DaemonProcess(shm_dir, tmp_path / "daemon.log")

    without = reader.run(*probe["exec"]["command"])
    daemon.start()
    rank = FakeRank(shm_dir, make_hello(tmp_path / "out"))
    rank.publish(1, loss=math.nan)
    wait_until(lambda: any(run["alerts"] for run in status_of(daemon).get("runs", ())))
    with_alerts = reader.run(*probe["exec"]["command"])
    rank.close(steps=1)
    wait_until(lambda: not list(shm_dir.glob("*.ring")))

    assert daemon.stop() == 0
    assert without.returncode != 0
    assert "critical" in with_alerts.stdout
    assert with_alerts.returncode == 0
    assert probe["timeoutSeconds"] > 1  # the default, which a busy node needs for Python alone


def status_of(daemon: DaemonProcess) -> dict[str, Any]:
    """Return what a daemon wrote of itself; nothing where it has not yet."""
    return daemon.status if (daemon.directory / "status.json").exists() else {}


# $1: directory with the volumes. Mounts them at their places; the main container starts when the
# probe of the side container succeeds, and SIGTERM comes to the side container after the main one.
POD_LIFE = """
mount -t tmpfs mnt /mnt; mkdir /mnt/outputs
mount --bind "$1/outputs" /mnt/outputs
mount -t tmpfs -o size={size},mode=2777,gid={group} shm /dev/shm
side_container & side=$!
until (probe); do sleep 0.1; done
(main_container)
{written}
kill -TERM $side; wait $side
"""


@needs_namespaces
def test_the_pod_records_its_training(tmp_path: Path) -> None:
    spec = manifest()["spec"]
    uid, group = (spec["securityContext"][key] for key in ("runAsUser", "fsGroup"))
    (shm,) = (volume for volume in spec["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    os.chown(outputs, uid, group)
    (outputs / "train.py").write_text(TRAIN)

    side, main = spec["initContainers"][0], spec["containers"][0]
    probe = side | {"command": side["startupProbe"]["exec"]["command"]}
    named = {"side_container": side, "probe": probe, "main_container": main}
    functions = [f"{name}() {{\n{as_shell(uid, entry)}\n}}" for name, entry in named.items()]
    script = "\n".join(functions) + POD_LIFE.format(
        size="1g", group=group, written=WRITTEN.format(run="/mnt/outputs/run")
    )
    with_volumes = with_own_pids("bash", "-ec", script, "pod", tmp_path)
    done = subprocess.run(with_volumes, capture_output=True, text=True, timeout=150, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert steps(outputs / "run") == [1, 2, 3, 4, 5]
    assert (outputs / "run").stat().st_uid == uid


def as_shell(uid: int, container: dict[str, Any]) -> str:
    """Return what makes a shell the process of a container, as its user, in its environment."""
    environ = {entry["name"]: entry["value"] for entry in container.get("env", [])}
    variables = {"PATH": f"{BIN}:/usr/bin:/bin", "PYTHONPATH": str(SUPPORT), **environ}
    directory = container.get("workingDir", "/")
    clean = ["env", "-i", f"--chdir={directory}", *(f"{k}={v}" for k, v in variables.items())]
    return "exec " + shlex.join(as_user(uid, *clean, *container["command"]))
