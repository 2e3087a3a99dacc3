"""A real TensorBoard over HTTP, with either of its two loaders."""

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from daemon_process import wait_until

# "false": Python's own. "true": the data server, written in Rust.
Loader = Literal["false", "true"]
REQUEST_S = 60.0


class TensorBoardServer:
    """``tensorboard --logdir DIRECTORY``, from `__enter__` to `__exit__`."""

    def __init__(self, logdir: Path, log: Path, loader: Loader) -> None:
        self._log = log
        self._options = ["--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
        self._options += ["--load_fast", loader, "--reload_interval", "1"]
        self._options += ["--samples_per_plugin", "images=100,text=100"]

    def __enter__(self) -> Self:
        command = [sys.executable, "-W", "ignore", "-m", "tensorboard.main", *self._options]
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_until(self._is_up)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def get(self, route: str, **query: str | int) -> Any:
        """Return JSON, or the bytes of anything else, of ``/data/<route>``."""
        address = f"{self._base}/data/{route}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=REQUEST_S) as response:  # noqa: S310 - ours
            content = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        return json.loads(content) if is_json else content

    def tags(self, plugin: str, run: str) -> set[str]:
        """Return the tags that a plugin has of a run."""
        return set(self.get(f"plugin/{plugin}/tags").get(run, ()))

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Return step and value of every point."""
        points = self.get("plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in points]

    def _is_up(self) -> bool:
        text = self._log.read_text(encoding="utf-8")
        assert self._process.poll() is None, text
        found = re.search(r"http://127\.0\.0\.1:\d+", text)
        if found is not None:
            self._base = found[0]
        return found is not None

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(REQUEST_S)
