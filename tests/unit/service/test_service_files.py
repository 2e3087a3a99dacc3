from dataclasses import replace
from pathlib import Path

import pytest

from tracksided.errors import OutputError, SettingsError
from tracksided.service_manager import BOOTED_MARK, ServiceManager, remove_units, write_units
from tracksided.service_units import Service, UnitFile


def service_in(directory: Path, user: str) -> Service:
    name = f"trackside@{user}.service"
    return Service(
        scope="system",
        name=name,
        files=(
            UnitFile(directory / "trackside@.service", "[Service]\n", shared=True),
            UnitFile(directory / f"{name}.d" / "paths.conf", "[Service]\n"),
        ),
    )


def test_written_units_are_readable_by_all_and_leave_no_debris(tmp_path: Path):
    service = service_in(tmp_path / "system", "ada")

    write_units(service)
    write_units(service)

    found = [path for path in (tmp_path / "system").rglob("*") if path.is_file()]
    assert sorted(found) == sorted(file.path for file in service.files)
    assert {path.stat().st_mode & 0o777 for path in found} == {0o644}
    assert service.files[0].path.read_text(encoding="ascii") == "[Service]\n"


def test_removing_the_last_service_removes_everything(tmp_path: Path):
    service = service_in(tmp_path, "ada")
    write_units(service)

    removed = remove_units(service)

    assert set(removed) == {file.path for file in service.files}
    assert list(tmp_path.iterdir()) == []


def test_removing_a_service_keeps_what_another_user_needs(tmp_path: Path):
    ada, bob = service_in(tmp_path, "ada"), service_in(tmp_path, "bob")
    write_units(ada)
    write_units(bob)

    removed = remove_units(ada)

    assert removed == (ada.files[1].path,)
    assert all(file.path.is_file() for file in bob.files)


def test_what_an_earlier_installation_left_is_removed(tmp_path: Path):
    service = service_in(tmp_path, "ada")
    old = service.files[-1].path.with_name("http.conf")
    write_units(service)
    old.touch()

    write_units(replace(service, obsolete=(old,)))

    assert not old.exists()
    assert all(file.path.is_file() for file in service.files)


def test_an_own_file_beside_the_drop_in_is_kept(tmp_path: Path):
    service = service_in(tmp_path, "ada")
    write_units(service)
    own = tmp_path / "trackside@ada.service.d" / "own.conf"
    own.write_text("", encoding="ascii")

    remove_units(service)

    assert own.is_file()


def test_removing_what_is_not_there_removes_nothing(tmp_path: Path):
    assert remove_units(service_in(tmp_path, "ada")) == ()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "system").write_text("a file", encoding="ascii")
    service = service_in(tmp_path / "system", "ada")

    with pytest.raises(OutputError, match=r"cannot write .*trackside@\.service"):
        write_units(service)


def test_a_machine_without_systemd_is_refused():
    if BOOTED_MARK.is_dir():
        pytest.skip("systemd runs on this machine")

    with pytest.raises(SettingsError, match="systemd does not run on this machine"):
        ServiceManager("system", {})
