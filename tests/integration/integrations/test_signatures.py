"""`help` of an integration shows what `attach` takes."""

import importlib
import inspect

import pytest

from trackside.session import attach

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("accelerate", "TracksideTracker"),
        ("lightning", "TracksideCallback"),
        ("transformers", "TracksideCallback"),
    ],
)
def test_the_keywords_of_attach_are_shown_with_their_defaults(module: str, name: str) -> None:
    pytest.importorskip(module)
    integration = importlib.import_module(f"trackside.integrations.{module}")

    shown = inspect.signature(getattr(integration, name)).parameters

    # What comes before is what the framework hands over: model and optimizer.
    expected = dict(list(inspect.signature(attach).parameters.items())[2:])
    assert shown == expected
    assert shown["every"].default == 100
