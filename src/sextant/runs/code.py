"""Which code computed a result, and whether today's code still makes it.

A run's code is every module of the project that its settings reach through imports, as the running
process imports them. Its digest stands in the ledger's line; what the digest means stands once in
`code/modules.jsonl` of the ledger, and which digests were shown to compute the same in
`code/attested.jsonl` (see `sextant.runs.verify`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sextant.errors import UserError
from sextant.files import append_line, replace_file

CARRIED_OUT_BY = ("sextant.runs.training",)
# Data are identified by their own fingerprints, whatever code found them.
WITHOUT_EFFECT = ("sextant.data", "sextant.errors")
PACKAGES = ("sextant", "tasks")
CACHE = ".modules.json"

Modules = Mapping[str, str]
Edge = tuple[str, str]


class Sources:
    """The modules of the packages `sextant` and `tasks`.

    Args:
        cache: a file that keeps what was read of modules, so that nothing is parsed twice while it
            stays as it is; None reads them all.
        folders: the folder of each package; those the process imports where none are given.
    """

    def __init__(
        self, cache: Path | None = None, folders: Mapping[str, Path] | None = None
    ) -> None:
        self.folders = folders or imported_packages()
        self.cache = cache
        self._read: dict[str, Any] = _content(cache)
        self._fresh = True
        self._reached: dict[tuple[str, ...], Modules] = {}

    def path(self, name: str) -> Path | None:
        """The file of a module, or None where the project has no such module."""
        package, _, rest = name.partition(".")
        if package not in self.folders:
            return None
        base = self.folders[package].joinpath(*rest.split(".")) if rest else self.folders[package]
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        return None

    def of(self, settings: Mapping[str, Any]) -> Modules:
        """The digest of every module that the settings' `_target_`s reach through imports."""
        targets = tuple(sorted({target.rpartition(".")[0] for target in targets_of(settings)}))
        if targets not in self._reached:
            self._reached[targets] = self._reach([*targets, *CARRIED_OUT_BY])
        return self._reached[targets]

    def _reach(self, waiting: list[str]) -> Modules:
        digests: dict[str, str] = {}
        while waiting:
            name = waiting.pop()
            if name in digests or name.startswith(WITHOUT_EFFECT):
                continue
            path = self.path(name)
            if path is None:
                continue
            digests[name], imports = self._source(path)
            if name not in CARRIED_OUT_BY:
                waiting.extend(imports)
        return dict(sorted(digests.items()))

    def _source(self, path: Path) -> tuple[str, Sequence[str]]:
        status = path.stat()
        stamp = [status.st_mtime_ns, status.st_size]
        entry = self._read.get(str(path))
        if entry is None or entry["stamp"] != stamp:
            digest, imports = digest_and_imports(path.read_text(encoding="utf-8"))
            entry = {"stamp": stamp, "digest": digest, "imports": imports}
            self._read[str(path)] = entry
            self._fresh = False
        return entry["digest"], entry["imports"]

    def modules(self) -> Modules:
        """The digest of every file there is."""
        return {
            str(path): self._source(path)[0]
            for folder in self.folders.values()
            for path in sorted(folder.rglob("*.py"))
        }

    def save(self) -> None:
        """Writes the cache, where there is one that may be written."""
        if self.cache is not None and not self._fresh:
            with suppress(UserError, OSError):
                replace_file(self.cache, lambda path: path.write_text(json.dumps(self._read)))
            self._fresh = True


def _content(cache: Path | None) -> dict[str, Any]:
    try:
        return json.loads(cache.read_text()) if cache is not None else {}
    except (OSError, ValueError):
        return {}


def imported_packages() -> dict[str, Path]:
    """The folders of the packages that this process runs, wherever the checkout is."""
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found[name] = Path(spec.origin).resolve().parent
    return found


def digest_and_imports(text: str) -> tuple[str, tuple[str, ...]]:
    """8 hexadecimal digits over code without comments, layout and docstrings, and its imports."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:] = body[1:] or [ast.Pass()]
    digest = hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:8]
    return digest, tuple(_imports(tree))


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def targets_of(value: Any) -> Iterator[str]:
    """Every `_target_` in settings."""
    if isinstance(value, Mapping):
        if isinstance(value.get("_target_"), str):
            yield value["_target_"]
        for item in value.values():
            yield from targets_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from targets_of(item)


def digest_of(modules: Modules) -> str:
    """12 hexadecimal digits over the digests of modules."""
    text = json.dumps(dict(sorted(modules.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def remember(ledger: Path, modules: Modules) -> str:
    """Keeps what a digest means, once; returns the digest."""
    digest = digest_of(modules)
    if digest not in known(ledger):
        content = {"code": digest, "modules": dict(sorted(modules.items()))}
        append_line(ledger / "code" / "modules.jsonl", json.dumps(content))
    return digest


def known(ledger: Path) -> dict[str, Modules]:
    """What each digest in the ledger means."""
    found = _lines(ledger / "code" / "modules.jsonl", code=str, modules=dict)
    return {line["code"]: line["modules"] for line in found}


def attest(ledger: Path, attestation: Mapping[str, Any]) -> None:
    """Records that the code `from` and the code `to` compute the same."""
    append_line(ledger / "code" / "attested.jsonl", json.dumps(attestation))


def attested(ledger: Path) -> set[Edge]:
    """Every pair of digests that was shown to compute the same."""
    found = _lines(ledger / "code" / "attested.jsonl", **{"from": str, "to": str})
    return {(line["from"], line["to"]) for line in found}


def _lines(path: Path, **fields: type) -> Iterator[dict[str, Any]]:
    """The lines that have these fields; one that was cut off says nothing."""
    if not path.is_file():
        return
    for text in path.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and all(
                isinstance(line.get(name), kind) for name, kind in fields.items()
            ):
                yield line


def leads_to(old: str, new: str, edges: Iterable[Edge]) -> bool:
    """Whether attestations lead from one digest to another, over any number of steps."""
    onward: dict[str, set[str]] = {}
    for start, end in edges:
        onward.setdefault(start, set()).add(end)
    reached, waiting = {old}, [old]
    while waiting:
        for code in onward.get(waiting.pop(), set()) - reached:
            reached.add(code)
            waiting.append(code)
    return new in reached


def stale(records: Mapping[str, Mapping[str, Any]], ledger: Path) -> frozenset[str]:
    """The runs whose code differs from today's and was not shown to compute the same."""
    sources, edges = Sources(ledger.parent / CACHE), attested(ledger)
    answers: dict[Edge, bool] = {}
    found = set()
    for run_id, record in records.items():
        old = record["provenance"].get("code")
        if not old:
            continue
        pair = (old, digest_of(sources.of(record["spec"])))
        if pair not in answers:
            answers[pair] = pair[0] == pair[1] or leads_to(*pair, edges)
        if not answers[pair]:
            found.add(run_id)
    sources.save()
    return frozenset(found)
