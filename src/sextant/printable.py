"""Text of unknown origin, made safe to show: on a terminal, in Markdown, in TeX."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# What terminals take as commands: colours, titles, cursor moves.
_SEQUENCES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_TURNS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text without control characters, but for ends of lines and tabs.

    Characters that turn the direction of writing go too, and halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    kept = _SEQUENCES.sub("", text).replace("\r\n", "\n")
    return "".join(
        mark
        for mark in kept
        if mark in "\n\t" or (mark not in _TURNS and unicodedata.category(mark) not in ("Cc", "Cs"))
    )


def printable_texts(value: Any) -> Any:
    """The same for every text in lists and mappings, their keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_texts(key): printable_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable_texts(item) for item in value]
    return value
