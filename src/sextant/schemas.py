"""Schemas of the project's YAML files, and how everything wrong in a file becomes sentences.

A file is read through a pydantic model. What pydantic finds wrong becomes one line a fault, all
faults of a file at once: the file, the field, what was wrong, what is allowed or the nearest name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sextant.errors import UserError

Location = tuple[str | int, ...]
Fault = tuple[Location, str]


class Schema(BaseModel):
    """A mapping of a file: fields that are not declared are refused, values never converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


S = TypeVar("S", bound=Schema)


def _different(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"must be different numbers, got {list(values)}")
    return values


def _key(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError("is not a name of lower-case letters, digits and underscores")
    return name


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = tuple[Text, ...]
Key = Annotated[str, AfterValidator(_key)]
Flag = StrictBool
Whole = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Wholes = Annotated[tuple[Whole, ...], Field(min_length=1), AfterValidator(_different)]


def empty_as(kind: Callable[[], Any]) -> BeforeValidator:
    """Lets a file leave a list or mapping empty, which YAML reads as nothing."""
    return BeforeValidator(lambda value: kind() if value is None else value)


def refuse(faults: Iterable[Fault]) -> None:
    """Raises every fault a validator found, each at its place below the validator's own field."""
    lines = [
        InitErrorDetails(
            type=PydanticCustomError("fault", "{says}", {"says": says}), loc=place, input=None
        )
        for place, says in faults
    ]
    if lines:
        raise ValidationError.from_exception_data("faults", lines)


def unknown_name(what: str, got: object, allowed: Iterable[object]) -> str:
    """'names the column 'moon'; allowed: gaussians, moons; nearest match: moons'."""
    words = [str(word) for word in allowed]
    return f"{what} {got!r}; allowed: {', '.join(words) or 'none'}{nearest(got, words)}"


def nearest(word: object, allowed: Iterable[str]) -> str:
    """'; nearest match: x' for the allowed word most like `word`, or an empty text."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.5)
    return f"; nearest match: {close[0]}" if close else ""


def checked(
    schema: type[S],
    content: object,
    file: str | Callable[[Location], str],
    error: type[UserError] = UserError,
) -> S:
    """What a file says, as its schema.

    Args:
        content: the value that YAML gave.
        file: how messages name the file, or how they name the file of a place in it.
        error: what is raised.

    Raises:
        UserError: every fault, one line each.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as found:
        details = found.errors(include_url=False)
        spoilt = {detail["loc"][:-1] for detail in details}
        lines = []
        for detail in details:
            # a list is also called too short where entries of it are wrong
            if detail["type"] != "too_short" or detail["loc"] not in spoilt:
                where = file if isinstance(file, str) else file(detail["loc"])
                lines.append(f"{where}: {_sentence(schema, detail)}")
        raise error("\n".join(dict.fromkeys(lines))) from None


WANTED = {
    "string_type": "a text",
    "string_too_short": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
}


def _sentence(schema: type[Schema], detail: Mapping[str, Any]) -> str:
    """One fault: the field's path and what is wrong with it."""
    place, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    of_key = bool(place) and place[-1] == "[key]"
    place = place[:-1] if of_key else place
    path, got = _path(place), detail["input"]
    if kind == "missing":
        return f"{path} is missing"
    if kind == "extra_forbidden":
        words = _fields_at(schema, place[:-1])
        owner = _path(place[:-1]) if place[:-1] else "the file"
        return f"{path} " + _not_a_field(place[-1], owner, words)
    if kind == "literal_error":
        words = re.findall(r"'(.*?)'", context["expected"])
        return (
            f"{_path(place[:-1])} " + unknown_name("names", got, words)
            if of_key
            else (f"{path} " + unknown_name("is", got, words))
        )
    if kind == "fault":
        return f"{path} {context['says']}".strip()
    if kind == "value_error":
        return f"{path} {context['error']}".strip()
    if kind == "too_short":
        return f"{path} must have {context['min_length']} or more entries, got {_shown(got)}"
    if kind in WANTED:
        return f"{path or 'the file'} must be {WANTED[kind].format(**context)}, got {_shown(got)}"
    return f"{path} is refused: {detail['msg']}, got {_shown(got)}"


def _not_a_field(name: object, owner: str, words: list[str]) -> str:
    allowed = ", ".join(sorted(words))
    return f"is not a field of {owner}; allowed: {allowed}{nearest(name, words)}"


def _path(place: Location) -> str:
    """`columns.moons.at[1]` of a location; a name that dots would split stands in brackets."""
    path = ""
    for step in place:
        plain = isinstance(step, str) and re.fullmatch(r"[\w@-]+", step)
        path += (f".{step}" if path else str(step)) if plain else f"[{step!r}]"
    return path


def _fields_at(kind: Any, place: Location) -> list[str]:
    """The names a file may write at a place; none where no mapping is declared."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {field.alias or name: field for name, field in kind.model_fields.items()}
        if not place:
            return list(fields)
        return _fields_at(fields[str(place[0])].annotation, place[1:]) if place[0] in fields else []
    parts, origin = get_args(kind), get_origin(kind)
    if origin in (tuple, list):
        return _fields_at(parts[0], place[1:])
    if origin in (dict, Mapping):
        return _fields_at(parts[1], place[1:])
    found = (_fields_at(part, place) for part in parts)
    return next((names for names in found if names), [])


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return "a mapping" if isinstance(value, Mapping) else repr(value)
