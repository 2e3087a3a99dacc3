"""Where a framework is missing, its integration says what to install."""

import importlib
import sys

import pytest

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("framework", "line"),
    [
        ("transformers", r"pip install 'transformers\[torch\]'"),
        ("accelerate.tracking", "pip install accelerate"),
    ],
)
def test_the_install_line_is_said(
    monkeypatch: pytest.MonkeyPatch, framework: str, line: str
) -> None:
    name = framework.split(".", maxsplit=1)[0]
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"trackside.integrations.{name}", raising=False)

    with pytest.raises(ImportError, match=line):
        importlib.import_module(f"trackside.integrations.{name}")
