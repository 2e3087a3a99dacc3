"""The `trackside` command where the daemon extra is missing, or only in part."""

import sys

import pytest

from tracksided.cli.entry import main


@pytest.mark.parametrize(
    ("missing", "module", "command"),
    [
        ("click", "tracksided.cli.group", "status"),
        ("rich", "tracksided.cli.status", "status"),
        ("psutil", "tracksided.doctor.gather", "doctor"),
    ],
)
def test_a_missing_package_of_the_extra_names_the_install_line(
    missing: str,
    module: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Other packages bring click along: then it is the subcommand that lacks something."""
    monkeypatch.setattr(sys, "argv", ["trackside", command])
    loaded = [name for name in sys.modules if name.startswith(f"{missing}.")]
    for name in (missing, *loaded):  # a submodule that is loaded already would still be found
        monkeypatch.setitem(sys.modules, name, None)
    for name in (module, f"tracksided.cli.{command}"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    assert main() == 1

    said = capsys.readouterr().err
    assert said.splitlines() == [
        f"trackside: the package {missing!r} is missing; install the daemon side with",
        "    pip install 'trackside[daemon]'",
        "or, in a clone of trackside, with",
        "    pip install '.[daemon]'",
    ]


def test_another_missing_module_is_no_matter_of_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["trackside", "status"])
    monkeypatch.delitem(sys.modules, "tracksided.cli.status", raising=False)
    monkeypatch.setitem(sys.modules, "tracksided.status_file", None)

    with pytest.raises(ModuleNotFoundError, match=r"tracksided\.status_file"):
        main()
