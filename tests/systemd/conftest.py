"""One booted machine for all tests of the services."""

from collections.abc import Iterator

import pytest
from booted_machine import Machine, why_not


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a user `ada`, where no daemon is installed yet."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("machine")
    (directory / "base").mkdir()
    machine = Machine(directory)
    try:
        machine.boot()
        machine.run("useradd", "--create-home", "--shell", "/bin/bash", "ada")
        # The interpreter may lie below root's home: let users pass, not list.
        machine.run("chmod", "711", "/root")
        yield machine
    finally:
        machine.halt()
