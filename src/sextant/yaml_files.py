"""How every YAML file of the project is read: conf/, tables, the register, data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sextant.errors import UserError
from sextant.printable import printable_texts


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML 1.1 as Hydra reads it (1e-3 is a number, dates stay text), every key written once."""


def _mapping_without_repeats(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_repeats)
_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] != "tag:yaml.org,2002:timestamp"]
    for first, entries in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path, shown: str = "") -> Any:
    """The content of a YAML file.

    Args:
        shown: how messages name the file; its path where empty.

    Raises:
        UserError: the file cannot be parsed or writes a key twice.
    """
    try:
        return printable_texts(yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader))
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        line = f" on line {mark.line + 1}" if mark else ""
        raise UserError(f"{shown or path}: the file is not valid YAML{line}: {problem}") from None
