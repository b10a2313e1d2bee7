"""Reads `12 tier=small seeds=0,1 --retry`: words, key=value options and flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from sextant.errors import UserError, unknown
from sextant.runs.spec import TIERS

# many shells export COLUMNS, the width of the terminal
SINGULAR_IN_MAKE = {"rows": "row", "columns": "column"}


@dataclass
class Arguments:
    """What a verb was called with."""

    words: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        value = self.options.get(name, default)
        if value not in allowed:
            raise unknown(name, value, allowed)
        return value

    def tier(self) -> str:
        return self.choice("tier", TIERS, "small")

    def seeds(self) -> list[int] | None:
        """seeds=0,1,2 or seeds=0-4; None leaves the table's own."""
        text = self.options.get("seeds")
        if text is None:
            return None
        seeds: list[int] = []
        try:
            for part in text.split(","):
                first, _, last = part.partition("-")
                seeds.extend(range(int(first), int(last or first) + 1))
        except ValueError:
            raise UserError(f"seeds must look like 0,1,2 or 0-4, not {text!r}") from None
        if not seeds:
            raise UserError(f"seeds={text} names no seed; write seeds=0,1,2 or seeds=0-4")
        return sorted(set(seeds))

    def names(self, option: str, allowed: Sequence[str]) -> list[str]:
        """The names in option=a,b; all that are allowed where it is not given."""
        if option not in self.options:
            return list(allowed)
        found = self.options[option].split(",")
        for name in found:
            if name not in allowed:
                raise unknown(option.removesuffix("s"), name, allowed)
        return found

    def retry(self) -> str:
        """What --retry asks for: `also` failed runs, failed runs `alone`, or nothing."""
        return self.options.get("--retry", "also" if "--retry" in self.flags else "")

    def workers(self) -> int:
        """workers=N, else one for each core this process may use."""
        text = self.options.get("workers", str(len(os.sched_getaffinity(0))))
        if not text.isdigit() or int(text) < 1:
            raise UserError(f"workers must be a whole number of at least 1, not {text!r}")
        return int(text)


def _as_make_spells(key: str, options: Sequence[str], flags: Sequence[str]) -> str:
    """The option that `make TARGET KEY=value` means.

    Raises:
        UserError: where the verb has none that make would call so.
    """
    spelled = {SINGULAR_IN_MAKE.get(option, option).upper(): option for option in options}
    spelled |= {flag.removeprefix("--").upper(): flag for flag in flags if flag == "--retry"}
    if key not in spelled:
        raise unknown("option", key, spelled)
    return spelled[key]


def read(
    arguments: Sequence[str],
    usage: str,
    words: Sequence[str],
    options: Sequence[str],
    flags: Sequence[str] = (),
) -> Arguments | None:
    """Sorts a verb's arguments; prints `usage` and returns None when help is asked for.

    Args:
        words: names of the positional arguments; those that begin with ? may be left out.
        options: the keys that key=value may use.
        flags: the --flags that are understood; --retry may be followed by the word failed.

    Raises:
        UserError: for an argument that is not understood or a word that is missing.
    """
    found = Arguments()
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument in ("-h", "--help"):
            print(usage)
            return None
        if argument.startswith("--"):
            if argument not in flags:
                raise unknown("flag", argument, [*flags, "--help"])
            found.flags.add(argument)
        elif before == "--retry" and argument == "failed":
            found.options["--retry"] = "alone"
        elif "=" in argument:
            key, _, value = argument.partition("=")
            if key != key.lower():
                key = _as_make_spells(key, options, flags)
            if key == "--retry":
                found.flags.add(key)
                if value == "failed":
                    found.options[key] = "alone"
                continue
            if key not in options:
                raise unknown("option", key, options)
            found.options[key] = value
        else:
            found.words.append(argument)
    needed = [word for word in words if not word.startswith("?")]
    if len(found.words) < len(needed):
        raise UserError(f"{needed[len(found.words)]} is missing; {usage.splitlines()[0]}")
    if len(found.words) > len(words):
        extra = found.words[len(words)]
        raise UserError(f"{extra!r} is one argument too many; {usage.splitlines()[0]}")
    return found
