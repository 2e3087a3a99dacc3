"""What is watched is not kept alive: nobody closes a session when he throws his model away."""

import weakref

from torch import nn


class UnheldModule:
    """An attribute: a module that lives only as long as others hold it, then an empty one."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{name} (unheld)"

    def __set__(self, instance: object, module: nn.Module) -> None:
        instance.__dict__[self._name] = weakref.ref(module)

    def __get__(self, instance: object, owner: type | None = None) -> nn.Module:
        module: nn.Module | None = instance.__dict__[self._name]()
        return nn.Module() if module is None else module
