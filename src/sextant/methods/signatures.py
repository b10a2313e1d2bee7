"""Constructors that pass settings on: what they take is written once, and still seen by `inspect`.

A class whose `__init__` ends in `**settings` says with `@passes_on_to(other)` where these go. Its
signature then lists them, so that a misspelt setting is refused before anything is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made", bound=type)
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def passes_on_to(other: Callable[..., Any], *given: str) -> Callable[[Made], Made]:
    """A class decorator: `**settings` of the class are keyword arguments of `other`.

    Those that the class names itself, or gives `other` by itself, are not listed again.
    Arguments that a class without names of its own takes by position (`*parts`) are listed as
    `other` has them.
    """

    def listed(made: Made) -> Made:
        own = list(inspect.signature(made.__init__).parameters.values())
        named = [one for one in own if one.kind not in VARIABLE]
        taken = {one.name for one in named} | set(given)
        passed = [
            one
            for one in inspect.signature(other).parameters.values()
            if one.name not in taken and one.kind not in VARIABLE
        ]
        if inspect.Parameter.VAR_POSITIONAL not in {one.kind for one in own}:
            passed = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in passed]
        # Stable: what is taken by position keeps its place.
        parameters = sorted([*named, *passed], key=lambda one: one.kind)
        made.__init__.__signature__ = inspect.Signature(parameters)
        return made

    return listed
