import sys
from pathlib import Path

import pytest
from daemon_process import wait_until

from tracksided.config import HttpSettings
from tracksided.web_process import EXIT_IN_USE, EXIT_NOT_ALLOWED, MAX_BACKOFF_S, WebProcess

SETTINGS = HttpSettings(listen="127.0.0.1:9470")


def process(directory: Path, code: str, settings: HttpSettings = SETTINGS) -> WebProcess:
    """Run this code instead of the server."""
    return WebProcess(settings, directory, (sys.executable, "-S", "-c", code))


def ended(web: WebProcess, now: float) -> bool:
    web.poll(now)
    status = web.status()
    return status is not None and status["problem"] is not None


def test_nothing_is_started_where_http_is_off(tmp_path: Path):
    web = process(tmp_path, "raise SystemExit(1)", HttpSettings())

    web.poll(0.0)

    assert web.status() is None


def test_the_process_is_told_where_to_look_and_to_listen(tmp_path: Path):
    code = f"import sys; open('{tmp_path}/said', 'w').write(sys.argv[1]); sys.exit(1)"
    web = process(tmp_path, code)

    wait_until(lambda: ended(web, 0.0))

    said = (tmp_path / "said").read_text(encoding="utf-8")
    assert '"host": "127.0.0.1", "port": 9470' in said
    assert str(tmp_path) in said


@pytest.mark.parametrize(
    ("code", "mend"),
    [(EXIT_IN_USE, "choose another port"), (EXIT_NOT_ALLOWED, "trackside service install")],
)
def test_an_address_that_cannot_be_had_is_named(tmp_path: Path, code: int, mend: str):
    web = process(tmp_path, f"raise SystemExit({code})")

    wait_until(lambda: ended(web, 0.0))

    status = web.status()
    assert status is not None
    assert "cannot be served at 127.0.0.1:9470" in str(status["problem"])
    assert mend in str(status["problem"])


def test_it_is_started_again_later_and_later(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    web = process(tmp_path, f"open('{tmp_path}/starts', 'a').write('x'); raise SystemExit(3)")
    starts = tmp_path / "starts"

    def wait_for_end(now: float) -> None:
        def is_over() -> bool:
            web.poll(now)
            status = web.status()
            return status is not None and status["pid"] is None

        wait_until(is_over)

    moments = [0.0, 1.0, 3.0, 7.0]  # the waits are 1, 2, 4 s
    for moment in moments:
        wait_for_end(moment)
    wait_for_end(14.9)  # the next is 8 s

    assert starts.read_text(encoding="utf-8") == "xxxx"
    assert len([entry for entry in caplog.records if "exited 3" in entry.message]) == 1
    assert MAX_BACKOFF_S == 60.0


def test_other_settings_take_its_place_and_the_same_ones_leave_it(tmp_path: Path):
    web = process(tmp_path, "import time; time.sleep(1000)")
    web.poll(0.0)
    first = web.status()

    web.configure(HttpSettings(listen=SETTINGS.listen))
    same = web.status()
    web.configure(HttpSettings(listen="127.0.0.1:9471"))
    web.poll(0.0)
    other = web.status()
    web.configure(HttpSettings())

    assert first is not None
    assert same == first
    assert other is not None
    assert other["url"] == "http://127.0.0.1:9471/"
    assert other["pid"] not in {None, first["pid"]}
    assert web.status() is None
    assert not Path(f"/proc/{other['pid']}").exists()


def test_it_ends_with_the_daemon(tmp_path: Path):
    web = process(tmp_path, "import time; time.sleep(1000)")
    web.poll(0.0)
    status = web.status()
    assert status is not None
    pid = status["pid"]

    web.close()

    assert not Path(f"/proc/{pid}").exists()
