"""Where HTTP is served: ``HOST:PORT`` as it stands in the settings."""

import ipaddress
from dataclasses import dataclass

from tracksided.errors import SettingsError

DEFAULT = "127.0.0.1:9470"
_MAX_PORT = 65535
_LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address of this machine and a port."""

    host: str
    """An IPv4 or IPv6 address, never a name."""

    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def text(self) -> str:
        """How it stands in the settings."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """What a browser on this machine is told."""
        loopbacks = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - all addresses, so these too
        host = loopbacks.get(self.host, self.host)
        return f"http://{ListenAddress(host, self.port).text}/"


def parse_listen_address(text: str) -> ListenAddress:
    """Read ``127.0.0.1:9470``, ``[::1]:9470`` or ``localhost:9470``.

    Raises:
        SettingsError: it is none of these.
    """
    host, separator, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # which colon is the port's, nobody can tell
    if host == _LOCALHOST:
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        separator = ""
    if not separator or not 0 < number <= _MAX_PORT:
        raise SettingsError(
            f"http.listen is {text!r}, expected an address and a port such as "
            f'"127.0.0.1:9470" or "[::1]:9470"'
        )
    return ListenAddress(str(address), number)
