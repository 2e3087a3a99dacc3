"""The checks of `make test` one by one, each in an environment of its own."""

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

PINNED = ("--constraint", "constraints.txt")


def install(session: nox.Session, *groups: str) -> None:
    session.install(*PINNED, "--upgrade", "pip")
    chosen = [argument for group in groups for argument in ("--group", group)]
    session.install(*PINNED, "--editable", ".[daemon]", *chosen)


@nox.session
def lint(session: nox.Session) -> None:
    """Run ruff and the import contracts."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Run mypy."""
    install(session, "types")
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run all tests but whole runs; arguments go to pytest: nox -s tests -- -k ring."""
    install(session, "test")
    session.run("pytest", "-m", "not e2e", *session.posargs)


@nox.session
def e2e(session: nox.Session) -> None:
    """Run the tests that are whole runs, as a user starts them."""
    install(session, "test")
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site."""
    install(session, "docs")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run all benchmarks, or some: nox -s bench -- --only ring tap."""
    install(session, "test", "peers")
    session.run("python", "benchmarks/everything.py", *session.posargs)
