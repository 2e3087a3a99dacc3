"""Start the command line, or say which install line is missing."""

import re
import sys

INSTALL_LINE = "pip install 'trackside[daemon]'"
INSTALL_LINE_IN_A_CLONE = "pip install '.[daemon]'"


def main() -> int:
    """Run the `trackside` command and return its exit code."""
    try:
        from tracksided.cli.group import group  # noqa: PLC0415 - the extra may be missing

        group(prog_name="trackside")  # imports what a subcommand needs, when it is used
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _extra_modules():
            raise
        sys.stderr.write(
            f"trackside: the package {package!r} is missing; install the daemon side with\n"
            f"    {INSTALL_LINE}\n"
            "or, in a clone of trackside, with\n"
            f"    {INSTALL_LINE_IN_A_CLONE}\n"
        )
        return 1
    return 0


def _extra_modules() -> set[str]:
    """Return import names of the daemon extra's distributions."""
    from importlib.metadata import requires  # noqa: PLC0415 - slow to load, and for a message only

    renamed = {"nvidia-ml-py": "pynvml"}
    names = {
        line.split(";")[0].strip().split(">")[0].split("=")[0]
        for line in requires("trackside") or ()
        if re.search(r"extra\s*==\s*.daemon\b", line)
    }
    return {renamed.get(name, name).replace("-", "_") for name in names}
