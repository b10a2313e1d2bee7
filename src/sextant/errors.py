"""The one exception that reaches a user as a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sextant.printable import printable


class UserError(Exception):
    """Something the user can mend; its message is one sentence, the exit code is 2.

    What the sentence quotes (a file's words, an argument) cannot command the terminal.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def unknown(kind: str, name: object, allowed: Iterable[object]) -> UserError:
    """The sentence for a name that is not known: the nearest match, then what is allowed."""
    choices = sorted(str(choice) for choice in allowed)
    spelled = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(str(name).lower(), spelled, n=1)
    hint = f"; did you mean {spelled[nearest[0]]!r}?" if nearest else ""
    listed = ", ".join(choices) if len(choices) <= 40 else f"{', '.join(choices[:40])}, ..."
    return UserError(f"unknown {kind} {str(name)!r}{hint} (known: {listed or 'none'})")
