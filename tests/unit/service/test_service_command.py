import os
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tracksided.cli.group import group
from tracksided.service_manager import BOOTED_MARK


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TRACKSIDE_SHM_DIR", raising=False)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["service", *arguments])


def test_show_prints_the_users_unit_with_its_path(home: Path):
    result = run("show")

    assert result.exit_code == 0
    assert result.output.startswith(f"# {home}/.config/systemd/user/trackside.service\n")
    assert "-P -m tracksided daemon" in result.output


def test_show_prints_the_system_unit_and_the_drop_in(home: Path):
    name = pwd.getpwuid(os.getuid()).pw_name  # the settings of others may not be readable

    result = run("show", "--system", "--for", name, "--read-write", str(home / "runs"))

    assert result.exit_code == 0
    assert "# /etc/systemd/system/trackside@.service\n" in result.output
    assert f"# /etc/systemd/system/trackside@{name}.service.d/paths.conf\n" in result.output
    assert str(home / "runs") in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--system",), "--system needs --for USER"),
        (("--for", "root"), "--for belongs to --system"),
        (("--system", "--for", "no-such-user"), "there is no user 'no-such-user'"),
        (("--read-write", "/data"), "--read-write belongs to --system"),
    ],
)
@pytest.mark.usefixtures("home")
def test_options_that_do_not_fit_are_named(arguments: tuple[str, ...], message: str):
    result = run("show", *arguments)

    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize("action", ["install", "show", "uninstall"])
def test_a_number_without_an_account_is_told_what_to_do_instead(
    action: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)

    result = run(action)

    assert result.exit_code == 1
    assert "has no account on this machine" in result.output
    assert "`trackside daemon`" in result.output


def test_the_page_is_opened_as_asked_for_or_as_the_settings_say(home: Path):
    without = run("show").output
    asked = run("show", "--http").output
    config = home / ".config/trackside/daemon.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[http]\nlisten = "127.0.0.1:8000"\n', encoding="utf-8")

    written = run("show").output

    assert "http.conf" not in without
    assert "daemon --http 127.0.0.1:9470\n" in asked
    assert "trackside.service.d/http.conf\n" in written
    assert "--http" not in written


def test_a_page_for_other_machines_needs_the_second_setting():
    result = run("show", "--http", "10.0.0.7:9470")

    assert result.exit_code == 1
    assert "http.allow_remote" in result.output


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_without_systemd_nothing_is_written(home: Path, verb: str):
    if BOOTED_MARK.is_dir():
        pytest.skip("systemd runs on this machine")

    result = run(verb)

    assert result.exit_code == 1
    assert result.output.startswith("Error: systemd does not run on this machine")
    assert list(home.iterdir()) == []
