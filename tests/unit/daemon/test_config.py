"""Settings from TOML."""

import math
from pathlib import Path

import pytest

from tracksided.config import (
    SYSTEM_CONFIG,
    Settings,
    default_config_paths,
    home_directory,
    load_settings,
    parse_settings,
)
from tracksided.errors import SettingsError


def test_nothing_given_means_defaults() -> None:
    assert parse_settings([]) == Settings()


def test_later_document_wins_key_by_key() -> None:
    system = {"poll_seconds": 2, "workers": {"count": 2, "job_seconds": 60.0}}
    user = {"workers": {"count": 4}}

    settings = parse_settings([("system", system), ("user", user)])

    assert settings.poll_seconds == 2.0
    assert (settings.workers.count, settings.workers.job_seconds) == (4, 60.0)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"pol_seconds": 1}, "unknown key 'pol_seconds'; did you mean 'poll_seconds'"),
        ({"workers": {"cuont": 1}}, "unknown key 'cuont'; did you mean 'count'"),
        ({"zzz": 1}, "known: poll_seconds"),
        ({"poll_seconds": "1"}, "poll_seconds is '1', expected float"),
        ({"workers": 3}, "workers is 3, expected a table"),
        ({"workers": {"count": True}}, "count is True, expected int"),
        ({"workers": {"count": 0}}, "workers.count is 0, expected a number above 0"),
        ({"poll_seconds": math.nan}, "poll_seconds is nan, expected a number"),
        ({"poll_seconds": math.inf}, "poll_seconds is inf, expected at most 3600"),
        ({"poll_seconds": 10**400}, "poll_seconds is beyond 9223372036854775807"),
        ({"workers": {"memory_bytes": 2**63}}, "memory_bytes is beyond 9223372036854775807"),
        ({"alerts": {"cooldown_seconds": math.nan}}, "cooldown_seconds is nan, expected a number"),
        ({"checkpoints": {"directories": "a"}}, "expected a list of strings"),
        (
            {"checkpoints": {"directories": ["s3://b/x"]}},
            "'s3://b/x': the daemon watches directories",
        ),
        (
            {"checkpoints": {"directories": ["~no-such-user/x"]}},
            "'~no-such-user/x': nobody knows that home directory",
        ),
        ({"checkpoints": {"last": 2}}, "nothing would ever be averaged"),
    ],
)
def test_what_cannot_be_used_is_named(document: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings([("daemon.toml", document)])

    assert message in str(caught.value)


def test_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "daemon.toml"
    path.write_text("poll_seconds = ")

    with pytest.raises(SettingsError, match=r"daemon\.toml is not valid TOML"):
        load_settings(path, tmp_path)


def test_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load_settings(tmp_path / "no.toml", tmp_path)


def test_a_home_that_may_not_be_looked_into_is_named(tmp_path: Path) -> None:
    # Root may look everywhere; a name that no file system takes fails for everybody.
    home = tmp_path / ("x" * 300)

    with pytest.raises(SettingsError, match=r"cannot look for .*/daemon\.toml: File name too long"):
        load_settings(None, home)


def test_a_number_without_an_account_has_the_settings_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)

    home = home_directory()

    assert home is None
    assert default_config_paths(home) == (SYSTEM_CONFIG,)
    assert load_settings(None, home) == load_settings(None, Path("/nobody"))


def test_file_in_the_home_is_found(tmp_path: Path) -> None:
    path = tmp_path / ".config/trackside/daemon.toml"
    path.parent.mkdir(parents=True)
    path.write_text("join_grace_seconds = 5")

    assert load_settings(None, tmp_path).join_grace_seconds == 5.0
