import http.client
import resource
import socket
import time
from contextlib import ExitStack, closing

import pytest
from daemon_process import wait_until
from web_site import EventReader, WebSite, append, free_port, get, make_line, make_run

from tracksided.web.served import run_key
from tracksided.web.server import MAX_DESCRIPTORS
from tracksided.web.stream import MAX_CLIENTS
from tracksided.web_process import EXIT_IN_USE, EXIT_NOT_ALLOWED

pytestmark = pytest.mark.integration

PNG = b"\x89PNG\r\n\x1a\n picture"


class Said:
    """What was written to standard error, by any process, from now on."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self._text = ""

    def so_far(self) -> str:
        self._text += self._capfd.readouterr().err
        return self._text


@pytest.fixture
def key(site: WebSite) -> str:
    """One served run with three steps, seen through a running server; its key."""
    directory = site.run_directory("run-a")
    append(directory / "history.jsonl", *(make_line("a", step) for step in (1, 2, 3)))
    folder = directory / "step_3"
    folder.mkdir()
    (folder / "decoder_layer0_self_attn.png").write_bytes(PNG)
    site.write_status(make_run("a", directory))
    site.start()
    return run_key("a", directory)


def test_a_fresh_status_is_healthy_and_a_stale_one_is_not(site: WebSite):
    site.start()
    absent = site.get("/health")
    site.write_status()
    fresh = site.get("/health")
    site.write_status(updated_at=time.time() - 3600)

    stale = site.get("/health")

    assert [absent.status, fresh.status, stale.status] == [503, 200, 503]
    assert fresh.json["status"] == "ok"
    assert "3600 s ago" in stale.json["reason"]


def test_metrics_show_the_newest_step(site: WebSite, key: str):
    del key
    answer = site.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert f'trackside_run_loss{{run="a"}} {4.0 / 3}' in answer.text.splitlines()

    append(site.root / "run-a" / "history.jsonl", make_line("a", 4))
    wait_until(lambda: 'trackside_run_loss{run="a"} 1.0' in site.get("/metrics").text)


def test_a_stream_begins_with_all_that_there_is_and_goes_on(site: WebSite, key: str):
    with closing(EventReader(site.port, key)) as events:
        overview = events.next("overview").data
        history = events.next("history").data
        run = events.next("run").data
        append(site.root / "run-a" / "history.jsonl", make_line("a", 4))
        rows = events.next("rows").data

    assert [entry["run"] for entry in overview["runs"]] == ["a"]
    assert history["columns"]["step"] == [1, 2, 3]
    assert run["key"] == key
    assert [(row["step"], row["loss"]) for row in rows["rows"]] == [(4, 1.0)]


def test_an_id_counts_no_rows_that_come_after_it(site: WebSite, key: str):
    with closing(EventReader(site.port, key)) as events:
        ids = [events.next("overview", "history").id for _ in range(2)]
        # All that one look finds is sent at once; a browser may leave after the first event of it.
        append(site.root / "run-a" / "history.jsonl", make_line("a", 4))
        site.write_status(make_run("a", site.root / "run-a", committed_step=4))
        found = [events.next("overview", "rows")]
        while found[-1].name != "rows":
            found.append(events.next("overview", "rows"))

    assert ids[0] == ""
    assert ids[1].startswith(f"{key}:")
    assert all(event.id == ids[1] for event in found[:-1])
    assert found[-1].id != ids[1]


def test_a_browser_that_comes_back_gets_what_it_missed_and_nothing_twice(site: WebSite, key: str):
    with closing(EventReader(site.port, key)) as events:
        last = events.next("history").id
    append(site.root / "run-a" / "history.jsonl", make_line("a", 4), make_line("a", 5))

    with closing(EventReader(site.port, key, last)) as events:
        again = events.next("history", "rows")

    assert again.name == "rows"
    assert [row["step"] for row in again.data["rows"]] == [4, 5]


def test_a_history_that_is_replaced_is_sent_anew(site: WebSite, key: str):
    history = site.root / "run-a" / "history.jsonl"
    with closing(EventReader(site.port, key)) as events:
        events.next("history")
        history.unlink()
        append(history, make_line("a", 7))
        columns = events.next("history").data["columns"]
        while not columns["step"]:  # between the two files there was none
            columns = events.next("history").data["columns"]

    assert columns["step"] == [7]


def test_the_newest_pictures_are_named_and_served(site: WebSite, key: str):
    with closing(EventReader(site.port, key)) as events:
        run = events.next("run").data
        while run["folder"] is None:
            run = events.next("run").data

    answer = site.get(f"/runs/{key}/{run['folder']}/{run['pictures'][0]}")
    again = site.get(
        f"/runs/{key}/{run['folder']}/{run['pictures'][0]}", If_None_Match=answer.headers["etag"]
    )

    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "image/png", PNG)
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/runs/{key}/step_3/statistics.json",
        "/runs/{key}/../../etc/passwd",
        "/runs/{key}/..%2f..%2fetc/passwd",
        "/runs/{key}/step_3/..%2f..%2fhistory.jsonl",
        "/runs/{key}/step_3/%2e%2e",
        "/runs/000000000000/step_3/decoder_layer0_self_attn.png",
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/",
        "/static/js",
        "/static/%2e%2e/server.py",
        "/run-a/history.jsonl",
    ],
)
def test_nothing_but_pictures_of_known_runs_is_served(site: WebSite, key: str, path: str):
    assert site.get(path.format(key=key)).status == 404


def test_a_run_that_is_over_stays_on_the_page_but_not_in_the_metrics(site: WebSite, key: str):
    with closing(EventReader(site.port, key)) as events:
        events.next("overview")
        site.write_status()
        overview = events.next("overview").data

    assert [(entry["run"], entry["state"]) for entry in overview["runs"]] == [("a", "ended")]
    assert 'run="a"' not in site.get("/metrics").text


def test_there_is_an_end_to_open_pages(site: WebSite, key: str):
    with ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            events = stack.enter_context(closing(EventReader(site.port, key)))
            events.next("overview")
        refused = stack.enter_context(closing(EventReader(site.port, key)))

        assert refused.status == 503
        assert site.get("/health").status == 200

    def is_let_in() -> bool:
        with closing(EventReader(site.port, key)) as events:
            return events.status == 200

    wait_until(is_let_in)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01 tls?\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1000,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_hostile_bytes_do_no_harm(site: WebSite, request_bytes: bytes):
    site.write_status()
    site.start()

    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as client:
        client.sendall(request_bytes)
        assert client.recv(100).startswith(b"HTTP/1.1 ")

    assert site.get("/health").status == 200
    assert site.is_running


def test_connections_that_say_nothing_do_not_keep_others_out(site: WebSite):
    site.write_status()
    site.start()

    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60))

        assert site.get("/health").status == 200


def test_connections_without_end_are_told_of_once(site: WebSite, capfd: pytest.CaptureFixture[str]):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * MAX_DESCRIPTORS:
        pytest.skip(f"this process may open {hard} files only")
    site.write_status()
    site.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MAX_DESCRIPTORS), hard))

    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(MAX_DESCRIPTORS + 50):
            silent = socket.create_connection(("127.0.0.1", site.port), timeout=60)
            stack.enter_context(silent)
        wait_until(lambda: site.num_open_files == MAX_DESCRIPTORS)
        said = Said(capfd)
        wait_until(lambda: "clients hold" in said.so_far())

    site.write_status()
    assert site.get("/health").status == 200
    (line,) = said.so_far().splitlines()
    assert "clients hold all connections that there can be (Too many open files)" in line


def test_an_address_that_cannot_be_had_is_an_exit_code(site: WebSite):
    with socket.create_server(("127.0.0.1", site.port)):
        site.start()
        assert site.exit_code() == EXIT_IN_USE

    site.start(host="192.0.2.1")  # for documentation only, RFC 5737: no machine has it
    assert site.exit_code() == EXIT_NOT_ALLOWED


def test_a_head_request_has_no_body(site: WebSite, key: str):
    for path in ("/", "/metrics", "/health", f"/events?runs={key}"):
        answer = site.get(path, method="HEAD")

        assert (answer.status, answer.body) == (200, b"")


def test_ipv6_is_served(site: WebSite):
    site.write_status()
    site.port = free_port()
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    site.start(host="::1")

    connection = http.client.HTTPConnection("::1", site.port, timeout=30)
    connection.request("GET", "/health")

    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        get(site.port, "/health")
