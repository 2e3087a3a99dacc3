import pytest

from tracksided.config import HttpSettings, parse_settings
from tracksided.errors import SettingsError
from tracksided.listen_address import ListenAddress, parse_listen_address


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("127.0.0.1:9470", "127.0.0.1", 9470, "http://127.0.0.1:9470/"),
        ("localhost:80", "127.0.0.1", 80, "http://127.0.0.1:80/"),
        ("[::1]:65535", "::1", 65535, "http://[::1]:65535/"),
        ("0.0.0.0:1", "0.0.0.0", 1, "http://127.0.0.1:1/"),  # noqa: S104 - parsed only
        ("[::]:1", "::", 1, "http://[::1]:1/"),
        ("10.0.0.7:9470", "10.0.0.7", 9470, "http://10.0.0.7:9470/"),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int, url: str):
    address = parse_listen_address(text)

    assert address == ListenAddress(host, port)
    assert address.url == url


@pytest.mark.parametrize(
    "text",
    [
        "9470",
        ":9470",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "::1:9470",
        "node7:9470",
        "127.0.0.1:94 70",
        "[::1]",
        "127.0.0.1:-1",
        "127.0.0.1:\u0661",
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str):
    with pytest.raises(SettingsError, match=r"http\.listen is .* expected an address and a port"):
        parse_listen_address(text)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("::", False),
    ],
)
def test_loopback_is_told_from_addresses_that_others_reach(host: str, *, is_loopback: bool):
    assert ListenAddress(host, 1).is_loopback is is_loopback


def test_http_is_off_by_default():
    assert HttpSettings().listen == ""


def test_an_address_that_others_reach_needs_a_second_setting():
    document = {"http": {"listen": "0.0.0.0:9470"}}

    with pytest.raises(SettingsError, match=r"set http\.allow_remote"):
        parse_settings([("daemon.toml", document)])

    document["http"]["allow_remote"] = True
    assert parse_settings([("daemon.toml", document)]).http.allow_remote
