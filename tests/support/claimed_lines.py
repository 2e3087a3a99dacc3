"""Every shell line of the pages, and the test that types it or checks it: this table says which.

A line is one in a block of shell, or inline code that begins with one of `PROGRAMS` or with a
script. The first claim that fits counts. What can be typed in a test is typed; what needs another
machine, an index or a person is checked against what it names, and the test says how far.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from documents import ROOT, inline_code
from guide import numbered_shell_lines

PROGRAMS = (
    "trackside|python|make|pip|nox|mkdocs|pytest|pre-commit|git|cp|torchrun|tensorboard|docker|"
    "accelerate|bash|export|"
    "kubectl|sbatch|srun|scontrol|apt|ssh|systemctl|journalctl|loginctl|systemd-analyze|chmod|"
    "ulimit|kill|py-spy"
)
# A script alone is a line, too: nobody can type it without its interpreter.
_INLINE = re.compile(rf"(?:sudo )?(?:\.venv/bin/)?(?:{PROGRAMS}|\S+\.(?:py|sh)) .+")
TYPED = "docs/test_typed_lines.py"
CHECKED = "docs/test_checked_lines.py"
COMMANDS = "docs/test_commands.py"
FRAMEWORKS = "docs/test_framework_guides.py"
LAUNCHERS = "docs/test_launcher_guides.py"
QUICKSTART = "docs/test_quickstart_guides.py"
CONTAINERS = "docs/test_container_guides.py"
MADE = "docs/test_made_lines.py"
DEMO = "e2e/test_demo.py"
SITE = "integration/docs/test_site.py"
MERGED = "integration/checkpoints/test_accelerate_shards.py"
SERVICES = "systemd/test_lines_of_pages.py"


@dataclass(frozen=True)
class ShellLine:
    """One line, without its comment."""

    page: str
    number: int
    text: str
    is_inline: bool = False

    @property
    def place(self) -> str:
        return f"{self.page}:{self.number}"


@dataclass(frozen=True)
class Claim:
    """Which lines a test takes care of."""

    page: str
    """Expression for the whole name of the page."""

    line: str
    """Expression for the beginning of the line."""

    test: str
    """A file below ``tests``, or one of its tests: ``file::test``."""

    def holds(self, line: ShellLine) -> bool:
        is_here = re.fullmatch(self.page, line.page) is not None
        return is_here and re.match(self.line, line.text) is not None


ANY = r".*"
_SERVICE = r"(sudo )?(/path/to/venv/bin/)?trackside service "
# Lines in blocks, which a reader copies.
BLOCKS = (
    Claim("README.md", "git clone ", f"{TYPED}::test_the_repository_is_cloned"),
    Claim(
        "CONTRIBUTING.md", r"\.venv/bin/pre-commit install", f"{TYPED}::test_hooks_are_installed"
    ),
    Claim("docs/averaging.md", "trackside average s3:", f"{TYPED}::test_a_bucket_is_averaged"),
    Claim(
        "docs/averaging.md",
        "trackside average gs:",  # needs gcsfs, which few have
        "integration/checkpoints/object_store/test_google_storage.py",
    ),
    Claim(
        "docs/averaging.md",
        "trackside average |torchrun ",
        f"{TYPED}::test_checkpoints_are_averaged",
    ),
    Claim("docs/report.md", "trackside report", f"{TYPED}::test_a_training_is_reported"),
    Claim("docs/chaos.md", "pytest ", f"{CHECKED}::test_pytest_finds_the_tests"),
    Claim("docs/extending.md", "cp ", "support/extended_house.py"),
    Claim(
        "docs/extending.md",
        "python examples/extending/history_to_sqlite.py ",
        "integration/extending/test_extending.py",
    ),
    Claim(
        "docs/gallery.md",
        "python examples/gallery.py",
        "integration/integrations/test_gallery_example.py",
    ),
    Claim("docs/how-to/containers.md", "docker |install ", CONTAINERS),
    Claim(
        "docs/how-to/kubernetes.md", "kubectl ", f"{CHECKED}::test_kubectl_names_what_is_in_the_pod"
    ),
    Claim("docs/how-to/slurm.md", "sbatch ", LAUNCHERS),
    Claim("docs/how-to/slurm.md", "srun ", f"{TYPED}::test_a_job_is_asked_for_its_daemon"),
    Claim("docs/how-to/torchrun.md", "trackside run ", LAUNCHERS),
    Claim("docs/how-to/.*", "trackside run |trackside report |tensorboard ", FRAMEWORKS),
    Claim(
        "docs/quickstart.md", r"python3 -m venv |\. |pip |trackside |ls |tensorboard ", QUICKSTART
    ),
    Claim(ANY, "trackside daemon", f"{TYPED}::test_a_daemon_serves_until_it_is_asked_to_end"),
    Claim(ANY, "trackside (status|doctor)", f"{TYPED}::test_the_machine_is_looked_at"),
    Claim(ANY, f"{_SERVICE}show", f"{TYPED}::test_units_are_shown"),
    Claim(ANY, f"{_SERVICE}(un)?install", SERVICES),
)
# Lines in blocks and inline code alike.
EVERYWHERE = (
    Claim(ANY, r"(\.venv/bin/)?pip ", f"{CHECKED}::test_pip_is_asked_for_what_there_is"),
    Claim(ANY, "make venv", f"{MADE}::test_what_is_set_up_is_not_installed_again"),
    Claim(ANY, "make performance", f"{MADE}::test_pages_of_figures_are_made"),
    Claim(ANY, "make docs", SITE),
    Claim(ANY, "make demo", DEMO),
    Claim(ANY, "make$", f"{COMMANDS}::test_make_alone_names_every_target_and_does_nothing"),
    Claim(ANY, "(sudo )?make ", f"{COMMANDS}::test_a_documented_target_of_make_is_there"),
    Claim(
        ANY,
        r"(\.venv/bin/)?python \S+\.py",
        f"{COMMANDS}::test_a_documented_script_is_there_with_its_options",
    ),
    Claim(ANY, "nox ", f"{CHECKED}::test_nox_has_the_sessions"),
    Claim(ANY, "tensorboard ", f"{CHECKED}::test_tensorboard_takes_the_options"),
)
# Inline code: what is named in passing.
NAMED = (
    Claim(ANY, "trackside ", f"{COMMANDS}::test_a_documented_command_line_is_understood"),
    Claim("README.md", "apt install ", "docs/test_readme_path.py"),
    Claim("CONTRIBUTING.md", r"\.venv/bin/mkdocs ", f"{CHECKED}::test_mkdocs_has_the_command"),
    Claim("docs/averaging.md", "accelerate merge-weights ", MERGED),
    Claim(ANY, "export ", f"{COMMANDS}::test_every_variable_is_read"),
    Claim(ANY, "torchrun ", f"{TYPED}::test_checkpoints_are_averaged"),
    Claim("docs/how-to/containers.md", "docker stop", CONTAINERS),
    Claim(ANY, "kubectl ", f"{CHECKED}::test_kubectl_names_what_is_in_the_pod"),
    Claim(ANY, "srun --nodelist=", f"{LAUNCHERS}::test_what_a_job_left_on_a_node_is_written_later"),
    Claim(ANY, "srun ", f"{CHECKED}::test_srun_starts_commands_of_ours"),
    Claim(ANY, "journalctl |systemctl .*edit |loginctl enable-linger", SERVICES),
    Claim(
        ANY,
        "(systemctl|systemd-analyze|scontrol|chmod|ulimit|kill|ssh|py-spy|docker --gpus) ",
        f"{CHECKED}::test_a_line_for_the_system_names_what_is_ours",
    ),
)


def shell_lines() -> Iterator[ShellLine]:
    """Yield every shell line of all pages."""
    for page, number, text in numbered_shell_lines():
        yield ShellLine(page, number, text)
    for page, number, text in inline_code():
        if _INLINE.fullmatch(text):
            yield ShellLine(page, number, text, is_inline=True)


def claim_of(line: ShellLine) -> Claim | None:
    """Return the claim that takes care of a line; None if nobody does."""
    claims = (*EVERYWHERE, *NAMED) if line.is_inline else (*BLOCKS, *EVERYWHERE)
    return next((claim for claim in claims if claim.holds(line)), None)


def lines_of(test: str) -> list[ShellLine]:
    """Return the lines that a test takes care of."""
    lines = [line for line in shell_lines() if (claim := claim_of(line)) and claim.test == test]
    assert lines, f"no line is claimed by {test}"
    return lines


def claimed(test: str) -> pytest.MarkDecorator:
    """Run a test with each line that it takes care of, as ``line``."""
    lines = lines_of(test)
    return pytest.mark.parametrize("line", [pytest.param(line, id=line.place) for line in lines])


def is_there(test: str) -> bool:
    """Whether a claim names a file, or a test in one, that there is."""
    name, _, function = test.partition("::")
    path = ROOT / "tests" / name
    return path.is_file() and (not function or f"def {function}(" in path.read_text("utf-8"))
