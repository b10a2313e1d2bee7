"""Peak memory of a call, for the benchmarks beside this file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path


def peak_megabytes(call: Callable[[], object]) -> float | None:
    """What a call needs at its peak beyond what the process held before (Linux), else None."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def held(field: str) -> int:
        return int(status.read_text().partition(field)[2].split()[0])

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed counts as free
        reset.write_text("5")
        before = held("VmRSS:")
        call()
        return max(0, held("VmHWM:") - before) / 1024
    except (OSError, IndexError, AttributeError):
        return None
