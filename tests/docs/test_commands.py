"""Every command line that the pages name is understood by the program it calls."""

import contextlib
import re
import shlex
import shutil
import subprocess

import click
import everything
import pytest
from documents import ROOT, blocks, command_lines, pages
from understood import parse

from trackside.config import unknown_variables

_LINES = command_lines("trackside")


def test_the_pages_name_commands() -> None:
    assert len(_LINES) > 20


@pytest.mark.parametrize("place", sorted(_LINES))
def test_a_documented_command_line_is_understood(place: str) -> None:
    with contextlib.suppress(click.exceptions.Exit):  # --help, --version
        parse(_LINES[place])


def test_a_command_line_with_an_unknown_option_is_not_understood() -> None:
    with pytest.raises(click.UsageError):
        parse(["average", "--no-such-option"])
    with pytest.raises(click.UsageError):
        parse(["no-such-command"])


_SCRIPTS = {
    place: words for place, words in command_lines("python").items() if words[0].endswith(".py")
}


@pytest.mark.parametrize("place", sorted(_SCRIPTS))
def test_a_documented_script_is_there_with_its_options(place: str) -> None:
    script, *words = (word.strip("[]") for word in _SCRIPTS[place])
    page = place.partition(":")[0]
    whole = {block.title: block.text for block in blocks() if block.page == page}

    source = whole.get(script) or (ROOT / script).read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and word not in source] == []


@pytest.mark.parametrize("place", sorted(_SCRIPTS))
def test_an_option_of_a_script_in_brackets_has_its_default(place: str) -> None:
    optional = re.findall(r"\[(--[\w-]+) ([^]]+)\]", " ".join(_SCRIPTS[place]))

    for option, said in optional:
        source = (ROOT / _SCRIPTS[place][0]).read_text(encoding="utf-8")
        (default,) = re.findall(rf'"{option}".*?default=(\[[^]]+\]|[^,)]+)', source)
        assert re.findall(r"[\d.]+", default) == said.split()


def test_every_variable_is_read() -> None:
    texts = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    named = set(re.findall(r"\bTRACKSIDE(?:_[A-Z]+)+", texts))

    assert len(named) > 10
    assert unknown_variables(dict.fromkeys(named, "")) == {}


_MAKE = command_lines("make")
_TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_alone_names_every_target_and_does_nothing() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)

    assert set(re.findall(r"^make (\w+) ", done.stdout, re.MULTILINE)) == {*_TARGETS} - {"help"}


@pytest.mark.parametrize("place", sorted(_MAKE))
def test_a_documented_target_of_make_is_there(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(word.split("=", 1) for word in _MAKE[place] if "=" in word)

    assert [word for word in _MAKE[place] if "=" not in word and word not in _TARGETS] == []
    monkeypatch.setattr("sys.argv", ["bench", *shlex.split(settings.get("BENCH_ARGS", ""))])
    everything.parse()


@pytest.mark.parametrize("place", sorted(_MAKE))
@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_knows_what_to_do_for_it(place: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", *_MAKE[place]], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
