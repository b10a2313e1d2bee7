"""How quantities are said, the same in the terminal and on pages."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`0.42 s`, `46 s`, `12 min` or `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
