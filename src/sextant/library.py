"""How the packages for users, such as `sextant.attention`, fetch a name when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, places: Mapping[str, str]) -> tuple[Callable, Callable, list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names live elsewhere.

    Args:
        package: the package's name, for messages.
        places: the module of every public name.
    """
    names = sorted(places)

    def fetch(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"{package} has no {name!r}; it has {', '.join(names)}")
        return getattr(import_module(places[name]), name)

    return fetch, lambda: names, names
