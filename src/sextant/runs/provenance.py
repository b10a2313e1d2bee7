"""Where a result came from: commit, packages, hardware, and the code that computed it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.runs import code

PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "POT", "hydra-core")
# Results differ between processors that execute different instructions, whatever their name.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")


def collect(root: Path, device: str) -> dict[str, Any]:
    """The provenance of a run carried out now on this machine, but for its code and data.

    Raises:
        UserError: where the code that runs is not that of the checkout at `root`.
    """
    refuse_foreign_code(root)
    changes = _git(root, "status", "--porcelain", "--", "src", "tasks", "conf")
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "python": platform.python_version(),
        "packages": versions(),
        "hardware": hardware(device),
        "device": device,
    }


def refuse_foreign_code(root: Path) -> None:
    """Results belong to the checkout whose code made them.

    Raises:
        UserError: where a package that the process imports lies outside the checkout at `root`.
    """
    for package, folder in code.imported_packages().items():
        if not folder.is_relative_to(root.resolve()):
            raise UserError(
                f"the checkout is {root}, but the package {package} that runs is {folder}; "
                f"call {root}/.venv/bin/sextant (`make setup` makes it), or work in that checkout"
            )


@cache
def hardware(device: str) -> dict[str, Any]:
    """The processor by name, instructions and cores, and the GPU of a run that used one."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    flags = fields.get("flags", fields.get("Features", "")).split()
    found: dict[str, Any] = {
        "cpu": fields.get("model name", platform.machine()),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
    }
    if "cpu family" in fields:
        found["model"] = f"{fields['cpu family']}/{fields.get('model')}/{fields.get('stepping')}"
    if device == "gpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


@cache
def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _git(root: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
