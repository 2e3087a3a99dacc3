"""Griffe extension: shows `trackside.attach` and its like with their keywords, as `help` does.

They cannot stand in the function itself, which must know which ones were given.
"""

import inspect
from typing import Any

import griffe
from annotations import annotation

import trackside


class AttachKeywords(griffe.Extension):
    """Puts the keywords with their defaults where the source has ``**keywords``."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Change the signature of a function that shows them to `help`."""
        if not any("show_keywords" in str(decorator.value) for decorator in func.decorators):
            return
        shown = inspect.signature(trackside.attach).parameters.values()
        fixed = [p for p in func.parameters if p.kind is not griffe.ParameterKind.var_keyword]
        func.parameters = griffe.Parameters(*fixed, *(_keyword(p) for p in shown if _is_keyword(p)))


def _is_keyword(parameter: inspect.Parameter) -> bool:
    return parameter.kind is inspect.Parameter.KEYWORD_ONLY


def _keyword(parameter: inspect.Parameter) -> griffe.Parameter:
    return griffe.Parameter(
        parameter.name,
        annotation=annotation(parameter.annotation),
        kind=griffe.ParameterKind.keyword_only,
        default=repr(parameter.default),
    )
