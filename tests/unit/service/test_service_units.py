import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracksided.errors import SettingsError
from tracksided.listen_address import ListenAddress
from tracksided.service_units import (
    HttpOpening,
    Program,
    Service,
    quoted,
    restart_command,
    system_service,
    units_directory,
    user_service,
)

PYTHON = Path("/opt/trackside/bin/python")
PROGRAM = Program(python=PYTHON, code=(PYTHON.parents[1],))
HOME = Path("/home/ada")
# Nothing is made in these places.
SHARED = ("/tmp", "/var/tmp")  # noqa: S108 - names only
BELOW_TMP = f"{SHARED[0]}/runs"
MOVED = "/dev/shm/mine"  # noqa: S108 - a name only


def service_for(*read_write: str, user: str = "ada", shm_dir: str | None = None) -> Service:
    directories = [Path(path) for path in read_write]
    moved = None if shm_dir is None else Path(shm_dir)
    return system_service(user, HOME, PROGRAM, directories, moved)


def settings_of(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def drop_in(service: Service, name: str = "paths.conf") -> str:
    (text,) = (file.text for file in service.files if file.path.name == name)
    return text


def read_back(value: str) -> list[str]:
    # Within what `quoted` writes, systemd splits as a shell does; then specifiers are resolved.
    return [word.replace("%%", "%") for word in shlex.split(value)]


def test_the_system_unit_runs_this_interpreter_as_the_instance_user():
    service = service_for()

    unit = service.files[0]

    assert service.name == "trackside@ada.service"
    assert unit.path == Path("/etc/systemd/system/trackside@.service")
    assert settings_of(drop_in(service, "command.conf"), "ExecStart") == [
        "",
        f':"{PYTHON}" -P -m tracksided daemon',
    ]
    assert settings_of(unit.text, "User") == ["%i"]


def test_the_template_of_all_users_names_the_interpreter_of_none():
    other = Program(python=Path("/home/bob/venv/bin/python"))

    of_ada, of_bob = service_for(), system_service("bob", Path("/home/bob"), other)

    assert [file for file in of_ada.files if file.shared] == [
        file for file in of_bob.files if file.shared
    ]
    assert str(PYTHON) not in of_ada.files[0].text
    assert {file.path for file in of_ada.files if not file.shared}.isdisjoint(
        file.path for file in of_bob.files
    )


def test_a_command_of_the_administrator_wins_over_all_that_the_install_writes():
    http = HttpOpening(address=ListenAddress("127.0.0.1", 9470), is_option=True)

    service = system_service("ada", HOME, PROGRAM, http=http)

    # systemd.unit(5): drop-ins are read in the order of their names; `systemctl edit` writes
    # override.conf.
    with_command = [
        file.path.name
        for file in service.files
        if settings_of(file.text, "ExecStart") and not file.shared
    ]
    assert sorted([*with_command, "override.conf"]) == [
        "command.conf",
        "http.conf",
        "override.conf",
    ]


def test_the_slice_of_the_system_unit_is_installed_with_it():
    service = service_for()

    names = [file.path.name for file in service.files if file.shared]

    assert names == ["trackside@.service", "trackside.slice"]
    assert settings_of(service.files[0].text, "Slice") == ["trackside.slice"]


def test_the_drop_in_opens_the_home_and_the_named_directories():
    text = drop_in(service_for("/data/my runs", "/scratch"))

    assert [read_back(value) for value in settings_of(text, "ReadWritePaths")] == [
        ["-/home/ada"],
        ["-/data/my runs"],
        ["-/scratch"],
    ]


def test_a_directory_below_tmp_is_bound_into_the_private_one():
    text = drop_in(service_for(BELOW_TMP))

    assert [read_back(value) for value in settings_of(text, "BindPaths")] == [[f"-{BELOW_TMP}"]]
    assert BELOW_TMP not in "".join(settings_of(text, "ReadWritePaths"))


def test_an_installation_below_tmp_is_bound_into_the_private_one():
    clone = Path(BELOW_TMP)
    program = Program(python=clone / "bin/python", code=(clone, Path("/usr"), clone))

    text = drop_in(system_service("ada", HOME, program))

    assert [read_back(value) for value in settings_of(text, "BindReadOnlyPaths")] == [[f"-{clone}"]]


def http_drop_in(service: Service) -> str:
    return drop_in(service, "http.conf")


def test_without_http_no_network_is_opened_and_an_old_opening_goes():
    service = service_for()

    assert "AF_INET" not in "".join(file.text for file in service.files)
    assert [path.name for path in service.obsolete] == ["http.conf"]


def test_http_opens_loopback_and_nothing_else():
    http = HttpOpening(address=ListenAddress("127.0.0.1", 9470), is_option=False)

    service = system_service("ada", HOME, PROGRAM, http=http)

    assert re.findall(r"^[A-Z]\w+=.*$", http_drop_in(service), re.MULTILINE) == [
        "RestrictAddressFamilies=AF_INET AF_INET6",
        "PrivateNetwork=no",
        "IPAddressAllow=localhost",
    ]
    assert settings_of(service.files[0].text, "IPAddressDeny") == ["any"]
    assert service.obsolete == ()


def test_an_address_that_is_asked_for_goes_into_the_command():
    http = HttpOpening(address=ListenAddress("::1", 9471), is_option=True)

    commands = settings_of(http_drop_in(user_service(HOME, PROGRAM, http=http)), "ExecStart")

    assert commands == ["", f':"{PYTHON}" -P -m tracksided daemon --http [::1]:9471']


def test_an_address_that_others_reach_is_opened_to_them():
    http = HttpOpening(address=ListenAddress("10.0.0.7", 9470), is_option=False)

    text = http_drop_in(system_service("ada", HOME, PROGRAM, http=http))

    assert settings_of(text, "IPAddressAllow") == ["any"]


def test_root_may_write_in_its_home():
    service = system_service("root", Path("/root"), PROGRAM)

    assert settings_of(drop_in(service), "ProtectHome") == ["no"]
    assert settings_of(drop_in(service_for()), "ProtectHome") == []


@pytest.mark.parametrize("path", [*SHARED, f"{BELOW_TMP}:b", "runs", "/data\nUser=root"])
def test_a_directory_that_cannot_be_opened_is_refused(path: str):
    with pytest.raises(SettingsError, match=re.escape(path.partition("\n")[0])):
        service_for(path)


@pytest.mark.parametrize("user", ["", "a/b", "a b", "../ada", "%i", "ada\n", "-ada"])
def test_a_user_name_that_would_change_the_unit_is_refused(user: str):
    with pytest.raises(SettingsError, match="user name"):
        service_for(user=user)


def test_a_moved_node_local_directory_is_handed_on():
    text = drop_in(service_for(shm_dir=MOVED))

    assert settings_of(text, "Environment") == [f'"TRACKSIDE_SHM_DIR={MOVED}"']
    assert f'"-{MOVED}"' in settings_of(text, "ReadWritePaths")


def test_the_user_unit_goes_where_the_users_systemd_looks():
    service = user_service(HOME, PROGRAM)

    assert [str(file.path) for file in service.files] == [
        "/home/ada/.config/systemd/user/trackside.service"
    ]
    assert settings_of(service.files[0].text, "ExecStart") == [
        f':"{PYTHON}" -P -m tracksided daemon'
    ]


def test_the_user_unit_hands_on_a_moved_node_local_directory():
    service = user_service(HOME, PROGRAM, Path(MOVED))

    assert service.files[1].path.parent.name == "trackside.service.d"
    assert f"TRACKSIDE_SHM_DIR={MOVED}" in service.files[1].text


def test_a_user_unit_without_a_moved_directory_drops_the_one_of_an_earlier_installation():
    moved, default = user_service(HOME, PROGRAM, Path(MOVED)), user_service(HOME, PROGRAM)

    (left,) = {file.path for file in moved.files} - {file.path for file in default.files}

    assert left in default.obsolete
    assert left not in moved.obsolete


BELOW_USER = "/user.slice/user-1001.slice/user@1001.service"


@pytest.mark.parametrize(
    ("place", "command"),
    [
        (f"{BELOW_USER}/background.slice/trackside.service", "systemctl --user restart trackside."),
        ("/trackside.slice/trackside@ada.service", "sudo systemctl restart trackside@ada."),
        (f"{BELOW_USER}/app.slice/run-r1.scope", None),
        ("/", None),
    ],
)
def test_the_service_of_a_daemon_is_restarted_as_such(place: str, command: str | None):
    # As a kernel with both hierarchies shows it.
    found = restart_command(f"12:pids:/\n1:name=systemd:/\n0::{place}\n")

    assert found == (None if command is None else f"{command}service")


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f")))
def test_a_quoted_value_is_one_word_that_reads_back(value: str):
    assert read_back(quoted(value)) == [value]


@given(st.text(), st.characters(max_codepoint=31))
def test_a_control_character_is_refused(value: str, control: str):
    with pytest.raises(SettingsError, match="control character"):
        quoted(value + control)


@pytest.mark.parametrize("name", ["trackside@.service", "user/trackside.service"])
def test_the_units_watch_the_daemon_and_start_it_again(name: str):
    text = (units_directory() / name).read_text(encoding="ascii")

    assert settings_of(text, "Type") == ["notify"]
    assert settings_of(text, "NotifyAccess") == ["main"]
    assert settings_of(text, "Restart") == ["on-failure"]
    (watchdog,) = settings_of(text, "WatchdogSec")
    assert int(watchdog.removesuffix("s")) >= 60
    (stop,) = settings_of(text, "TimeoutStopSec")
    assert int(stop.removesuffix("s")) > 10


@pytest.mark.parametrize("name", ["trackside@.service", "user/trackside.service"])
def test_the_units_keep_the_segments_when_they_stop(name: str):
    text = (units_directory() / name).read_text(encoding="ascii")

    assert "yes" not in settings_of(text, "RemoveIPC")
    assert not settings_of(text, "DynamicUser")
    assert not settings_of(text, "PrivateDevices")
