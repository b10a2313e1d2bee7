"""Where a result came from: commit, packages, hardware, and the code that computed it."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pytorch-lightning", "numpy", "scipy", "POT", "hydra-core")

CARRIED_OUT_BY = ("sextant.runs.training",)
# Data are identified by their own fingerprints, whatever code found them.
WITHOUT_EFFECT = ("sextant.data", "sextant.errors")


def collect(root: Path, settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The provenance of a run with these settings, carried out now on this machine."""
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(_git(root, "status", "--porcelain", "--", "src", "tasks", "conf")),
        "python": platform.python_version(),
        "packages": _versions(),
        "hardware": hardware(),
        "device": device,
        "code": code_digests(root, settings),
    }


@cache
def hardware() -> dict[str, Any]:
    cpu = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {"cpu": cpu, "cores": os.cpu_count()}


def changed_code(root: Path, provenance: Mapping[str, Any]) -> list[str]:
    """The modules whose code is no longer what computed the result (comments do not count)."""
    recorded = provenance.get("code", {})
    return [name for name, digest in recorded.items() if module_digest(root, name) != digest]


def code_digests(root: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Digests of every project module that the settings' `_target_`s reach through imports."""
    waiting = sorted({target.rpartition(".")[0] for target in _targets(settings)})
    digests = {name: module_digest(root, name) or "" for name in CARRIED_OUT_BY}
    while waiting:
        name = waiting.pop()
        path = _path(root, name)
        if name in digests or path is None or name.startswith(WITHOUT_EFFECT):
            continue
        digests[name] = module_digest(root, name) or ""
        waiting.extend(_imports(path))
    return dict(sorted(digests.items()))


def module_digest(root: Path, name: str) -> str | None:
    """8 hexadecimal digits over a module's code without comments, layout and docstrings."""
    path = _path(root, name)
    return None if path is None else _file_digest(path, path.stat().st_mtime_ns)


@cache
def _file_digest(path: Path, _modified: int) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:8]


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _path(root: Path, name: str) -> Path | None:
    base = root / ("src" if name.split(".")[0] == "sextant" else "") / name.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and name.split(".")[0] in ("sextant", "tasks"):
            return path
    return None


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


@cache
def _versions() -> dict[str, str]:
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
