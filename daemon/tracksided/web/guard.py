"""What every request passes: who may ask, how, and what browsers are told about the answer.

There is no password. Two things keep other web sites from reading what a browser on this machine
can reach: the Host header must be a name of this machine (a rebound DNS name is not), and requests
that a foreign page makes are refused.
"""

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "HEAD")
_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FOREIGN = {"cross-site", "same-site"}  # another port of this host is another site's page, too


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, names: Iterable[str], only_loopback: bool) -> None:
        """Set who may ask.

        Args:
            app: what is guarded.
            names: by which this server may be asked for, besides ``localhost`` and addresses.
            only_loopback: whether addresses must be loopback ones. An address cannot be rebound,
                so with remote access any is fine.
        """
        self._app = app
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        refusal = self._refusal(scope["method"], Headers(scope=scope))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        await (self._app if refusal is None else refusal)(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        if method not in METHODS:
            text = f"only {' and '.join(METHODS)} are answered\n"
            return PlainTextResponse(text, 405, {"Allow": ", ".join(METHODS)})
        if not self._is_ours(headers.get("host", "")):
            return PlainTextResponse(
                "this name is not one of this server; use its address, or add the name to "
                "hosts in the section [http] of daemon.toml\n",
                421,
            )
        is_navigation = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in _FOREIGN and not is_navigation:
            return PlainTextResponse("requests from other sites are not answered\n", 403)
        return None

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._only_loopback


def host_name(host: str) -> str:
    """Return the name or address in a Host header, without port; empty where it makes no sense."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        return name if bracket and (rest == "" or rest.startswith(":")) else ""
    name, _, port = host.partition(":")
    return name.lower().rstrip(".") if port.isdigit() or not port else ""
