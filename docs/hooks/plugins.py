"""The page of all plug-ins, made of the catalogs."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.overrides import resolve_name

from trackside.capture.sources import catalog as sources
from tracksided import catalog
from tracksided.alerts.catalog import AlertSettings
from tracksided.checkpoints.formats.catalog import DIRECTORY_FORMATS, FILE_FORMATS
from tracksided.checkpoints.weights import METHODS
from tracksided.monitors.catalog import make_monitors

_HEAD = """# Plug-ins

Everything that runs, as the catalogs list it; made from the code when this site is built.
[Stages](../stages.md) has the formulas, the pictures and the TensorBoard tags,
[alerts](../alerts.md) the rules, [averaging](../averaging.md) methods and formats.
[Extending](../extending.md) shows how to add one of each.
"""


def plugin_page() -> str:
    """Return the page in Markdown."""
    alerts = AlertSettings()
    kinds: Sequence[tuple[str, Sequence[Any]]] = (
        ("Statistics of an attention map", catalog.ATTENTION_STATISTICS),
        ("Statistics of a parameter", catalog.PARAMETER_STATISTICS),
        ("Pictures of a step", catalog.RENDERERS),
        ("Pictures of a run", catalog.RUN_RENDERERS),
        ("Alert rules of a step", alerts.step_rules),
        ("Alert rules of the machine", alerts.host_rules),
        ("Alert rules of events", alerts.event_rules),
        ("Monitors", make_monitors()),
        ("Checkpoint formats", (*FILE_FORMATS, *DIRECTORY_FORMATS)),
    )
    lines = [_HEAD]
    for title, plugins in kinds:
        lines += [f"\n## {title}\n", "| name | what it is | file |", "|---|---|---|"]
        lines += [_row(plugin.name, _summary(type(plugin)), type(plugin)) for plugin in plugins]
    lines += ["\n## Averaging methods\n", ", ".join(f"`{name}`" for name in METHODS)]
    lines += ["\n## Attention calls\n", "| function | what reads it | file |", "|---|---|---|"]
    lines += _sources()
    return "\n".join(lines) + "\n"


def _sources() -> Iterator[str]:
    for function, source in sources.SOURCES.items():
        yield _row(resolve_name(function), _summary(source), source)
    for name, source in sources.OPERATOR_SOURCES.items():
        yield _row(name, _summary(source), source)


def _row(name: str, summary: str, where: type | Callable[..., Any]) -> str:
    module = where.__module__
    root = "daemon" if module.startswith("tracksided.") else "emitter"
    path = f"{root}/{module.replace('.', '/')}.py"
    return f"| `{name}` | {summary} | [{path.rpartition('/')[2]}](../../{path}) |"


def _summary(documented: object) -> str:
    text = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())
