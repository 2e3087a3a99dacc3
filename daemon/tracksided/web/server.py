"""The HTTP process: ``python -m tracksided.web.server REQUEST``, where REQUEST is a JSON object.

It reads files and answers requests, nothing else. It ends with its parent, the daemon.
"""

import asyncio
import errno
import json
import logging
import resource
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

from tracksided.listen_address import ListenAddress
from tracksided.printable import log_to_stderr
from tracksided.priority import become_idle, die_with, leave_terminal_to_parent
from tracksided.web.application import build_application
from tracksided.web.node import Node
from tracksided.web_process import EXIT_IN_USE, EXIT_NOT_ALLOWED

logger = logging.getLogger("tracksided.web.server")  # which runs as __main__

MEMORY_BYTES = 1 << 30
MAX_DESCRIPTORS = 1024
MAX_CONNECTIONS = 256  # beyond it requests are answered with 503
MAX_HEAD_BYTES = 16 << 10  # of a request
BACKLOG = 64
NUM_READERS = 48  # threads that read files; up to five of a run hang with its file server
END_GRACE_S = 1
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # what asyncio tries again


def main(arguments: list[str]) -> int:
    """Serve until the parent ends; return the exit code."""
    request = json.loads(arguments[0])
    become_idle()
    leave_terminal_to_parent()
    die_with(request["parent"])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, MAX_DESCRIPTORS))
    log_to_stderr(logging.WARNING, "%(name)s")
    # At lower levels each request that makes no sense is a line: a client could fill the log.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    address = ListenAddress(request["host"], request["port"])
    try:
        listener = _listen(address)
    except OSError as error:  # the parent says it, once
        return EXIT_IN_USE if error.errno == errno.EADDRINUSE else EXIT_NOT_ALLOWED
    names = (*request["hosts"], *_own_names()) if not address.is_loopback else request["hosts"]
    node = Node(Path(request["directory"]))
    application = build_application(node, names=names, only_loopback=address.is_loopback)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,  # asyncio tries to accept so many at a time, and tells of each failure
            limit_concurrency=MAX_CONNECTIONS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_graceful_shutdown=END_GRACE_S,
        )
    )
    asyncio.run(_serve(server, listener, node))
    return 0


async def _serve(server: uvicorn.Server, listener: socket.socket, node: Node) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(NUM_READERS, "reader"))
    loop.set_exception_handler(_Complaints().hear)
    looking = asyncio.create_task(node.keep_looking())
    await server.serve(sockets=[listener])
    looking.cancel()


class _Complaints:
    """What the event loop has to say, without what a client could fill the log with."""

    def __init__(self) -> None:
        self._has_told = False

    def hear(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in _SHORT:
            loop.default_exception_handler(context)
        elif not self._has_told:
            self._has_told = True
            logger.warning(
                "clients hold all connections that there can be (%s); others wait for one",
                error.strerror,
            )


def _listen(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)


def _own_names() -> tuple[str, str]:
    name = socket.gethostname()
    return name, name.partition(".")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
