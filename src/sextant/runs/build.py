"""Builds objects from settings: `{_target_: package.module.Name, argument: value, ...}`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from sextant.errors import UserError, unknown


def build(settings: Any) -> Any:
    """The object that settings describe; nested targets are built first, plain data stays plain.

    Raises:
        UserError: for a target that cannot be imported, or an argument it does not take.
    """
    if isinstance(settings, Mapping):
        arguments = {key: build(value) for key, value in settings.items() if key != "_target_"}
        if "_target_" not in settings:
            return arguments
        return _call(settings["_target_"], arguments)
    if isinstance(settings, (list, tuple)):
        return [build(item) for item in settings]
    return settings


def find(target: str) -> Any:
    """The function or class at a dotted path.

    Raises:
        UserError: where there is none.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"_target_ {target!r}: there is no module {error.name!r}") from None
    try:
        return getattr(module, name)
    except AttributeError:
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise unknown(f"name in {module_name}", name, public) from None


def _call(target: str, arguments: dict[str, Any]) -> Any:
    callable_ = find(target)
    try:
        inspect.signature(callable_).bind(**arguments)
    except TypeError as error:
        taken = ", ".join(inspect.signature(callable_).parameters)
        raise UserError(f"{target}: {error} (it takes: {taken or 'nothing'})") from None
    return callable_(**arguments)
