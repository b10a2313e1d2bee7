"""Enough of GraphQL to answer a client strictly: parses a document, checks variables, projects.

A field that the answering data do not have is an error, so a client that asks for something the
stand-in does not model is noticed instead of being fed nulls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = re.compile(r'[\s,]+|#[^\n]*|(\.\.\.|"(?:\\.|[^"\\])*"|-?\d+(?:\.\d+)?|\w+|[!$()\[\]{}:=@])')


class Refused(Exception):
    """The request is not one that a server with this schema would answer."""


@dataclass
class Selection:
    name: str
    key: str
    arguments: dict[str, Any] = field(default_factory=dict)
    directives: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: list[Selection] | None = None


@dataclass
class Operation:
    kind: str
    name: str
    variables: dict[str, tuple[str, Any]]  # type as written, default
    selections: list[Selection]


class Variable(str):
    """A `$name` inside an argument."""


class Parser:
    def __init__(self, text: str) -> None:
        self.tokens, position = [], 0
        while position < len(text):
            match = TOKEN.match(text, position)
            if match is None:
                raise Refused(f"cannot read {text[position : position + 20]!r}")
            if match[1]:
                self.tokens.append(match[1])
            position = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self, wanted: str | None = None) -> str:
        token = self.peek()
        if wanted is not None and token != wanted:
            raise Refused(f"expected {wanted!r}, got {token!r}")
        self.at += 1
        return token

    def document(self) -> tuple[Operation, dict[str, list[Selection]]]:
        operation, fragments = None, {}
        while self.peek():
            if self.peek() == "fragment":
                self.next()
                name = self.next()
                self.next("on")
                self.next()
                fragments[name] = self.selections()
            elif operation is None:
                operation = self.operation()
            else:
                raise Refused("a document with two operations")
        if operation is None:
            raise Refused("a document without an operation")
        return operation, fragments

    def operation(self) -> Operation:
        kind = self.next()
        if kind not in ("query", "mutation"):
            raise Refused(f"an operation of kind {kind!r}")
        name = self.next() if self.peek() not in ("(", "{") else ""
        variables = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                self.next("$")
                variable = self.next()
                self.next(":")
                written, default = self.type(), None
                if self.peek() == "=":
                    self.next()
                    default = self.value()
                variables[variable] = (written, default)
            self.next()
        return Operation(kind, name, variables, self.selections())

    def type(self) -> str:
        if self.peek() == "[":
            self.next()
            written = f"[{self.type()}]"
            self.next("]")
        else:
            written = self.next()
        if self.peek() == "!":
            written += self.next()
        return written

    def selections(self) -> list[Selection]:
        found = []
        self.next("{")
        while self.peek() != "}":
            if self.peek() == "...":
                self.next()
                if self.peek() == "on":
                    self.next()
                    found.append(Selection("...", self.next(), children=self.selections()))
                else:
                    found.append(Selection("...", self.next()))
                continue
            key = name = self.next()
            if self.peek() == ":":
                self.next()
                name = self.next()
            selection = Selection(name, key, self.arguments())
            while self.peek() == "@":
                self.next()
                directive = self.next()
                selection.directives[directive] = self.arguments()
            if self.peek() == "{":
                selection.children = self.selections()
            found.append(selection)
        self.next("}")
        return found

    def arguments(self) -> dict[str, Any]:
        found = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                name = self.next()
                self.next(":")
                found[name] = self.value()
            self.next()
        return found

    def value(self) -> Any:
        token = self.next()
        if token == "$":
            return Variable(self.next())
        if token == "[":
            items = []
            while self.peek() != "]":
                items.append(self.value())
            self.next()
            return items
        if token == "{":
            content = {}
            while self.peek() != "}":
                name = self.next()
                self.next(":")
                content[name] = self.value()
            self.next()
            return content
        known = {"true": True, "false": False, "null": None}
        if token in known:
            return known[token]
        if token[0] == '"' or token[0] == "-" or token[0].isdigit():
            return json.loads(token)
        return token  # an enum's value


def check_variables(operation: Operation, given: Mapping[str, Any]) -> dict[str, Any]:
    """The variables with defaults; refuses one that is missing or of another type."""
    values = {}
    for name, (written, default) in operation.variables.items():
        value = given.get(name, default)
        problem = mismatch(written, value)
        if problem:
            raise Refused(f"{operation.name}: variable ${name} of type {written} {problem}")
        values[name] = value
    return values


def mismatch(written: str, value: Any) -> str | None:
    required, bare = written.endswith("!"), written.rstrip("!")
    if value is None:
        return "is missing" if required else None
    if bare.startswith("["):
        if not isinstance(value, list):
            return f"is {value!r}"
        return next(filter(None, (mismatch(bare[1:-1], item) for item in value)), None)
    kinds = {"String": str, "Boolean": bool, "Int": int, "Int64": int, "ID": (str, int)}
    if bare in kinds and not isinstance(value, kinds[bare]):
        return f"is {value!r}"
    if bare == "JSONString":
        try:
            json.loads(value)
        except (TypeError, ValueError):
            return f"is no JSON: {value!r}"
    return None


def filled(value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, Variable):
        if value not in variables:
            raise Refused(f"${value} is used and not declared")
        return variables[value]
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    return value


def project(
    selections: list[Selection],
    data: Any,
    variables: Mapping[str, Any],
    fragments: Mapping[str, list[Selection]],
    where: str,
) -> Any:
    """What the selections ask of `data`: mappings whose values may be functions of arguments."""
    if data is None:
        return None
    if isinstance(data, list):
        return [project(selections, item, variables, fragments, where) for item in data]
    answer: dict[str, Any] = {}
    for selection in selections:
        if selection.name == "...":
            inner = selection.children or fragments.get(selection.key)
            if inner is None:
                raise Refused(f"{where}: fragment {selection.key} is not defined")
            answer |= project(inner, data, variables, fragments, where)
            continue
        include = selection.directives.get("include")
        if include is not None and not filled(include["if"], variables):
            continue
        path = f"{where}.{selection.name}"
        if selection.name == "__typename":
            answer[selection.key] = data.get("__typename", "Any")
            continue
        if selection.name not in data:
            raise Refused(f"{path} is not in the schema of the stand-in")
        value = data[selection.name]
        if callable(value):
            value = value(**filled(selection.arguments, variables))
        if selection.children is not None:
            value = project(selection.children, value, variables, fragments, path)
        elif isinstance(value, dict):
            raise Refused(f"{path} is an object and nothing of it was asked")
        answer[selection.key] = value
    return answer
