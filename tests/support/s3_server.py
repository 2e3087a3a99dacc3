"""A server of the S3 protocol on loopback, whose requests a test can watch and spoil."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
REGION = "us-east-1"


class S3Server:
    """Moto behind werkzeug. `hook` sees every request first; what it returns is the answer."""

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="s3", daemon=True)
        self.hook: Callable[[Environ], tuple[int, str] | None] = lambda _: None
        self.requests: list[tuple[str, str, str, str]] = []
        """(method, path, query, range) of each."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment must hold."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = environ.get("QUERY_STRING", "")
        self.requests.append((method, path, query, environ.get("HTTP_RANGE", "")))
        answer = self.hook(environ)
        if answer is None:
            response: Iterable[bytes] = self._application(environ, start_response)
            return response
        status, code = answer
        body = f"<Error><Code>{code}</Code><Message>{code} on purpose</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        _drain(environ)
        start_response(f"{status} {code}", headers)
        return [body]


def _drain(environ: Environ) -> None:
    """Read the body: a client that still sends would see a broken connection, not the answer."""
    if environ.get("wsgi.input_terminated"):
        environ["wsgi.input"].read()
    elif environ.get("CONTENT_LENGTH"):
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
