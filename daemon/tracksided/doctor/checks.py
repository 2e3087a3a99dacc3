"""All checks, in the order of the report."""

from collections.abc import Callable, Iterator

from tracksided.doctor.averages import check_averages
from tracksided.doctor.facts import Facts
from tracksided.doctor.finding import Finding
from tracksided.doctor.liveness import check_daemon, check_segments
from tracksided.doctor.logout import check_logout
from tracksided.doctor.losses import check_losses
from tracksided.doctor.memory import check_directory, check_socket_path, check_space
from tracksided.doctor.outputs import check_outputs
from tracksided.doctor.page import check_http, check_settings
from tracksided.doctor.software import check_gpus, check_open_files, check_versions

CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_space,
    check_directory,
    check_socket_path,
    check_daemon,
    check_segments,
    check_losses,
    check_averages,
    check_logout,
    check_outputs,
    check_gpus,
    check_open_files,
    check_versions,
    check_settings,
    check_http,
)


def examine(facts: Facts) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check(facts)]
