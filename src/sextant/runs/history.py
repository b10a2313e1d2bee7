"""The versions of the code that git holds: which commit has the modules that made a result."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from sextant.errors import UserError
from sextant.runs.code import Modules, digest_and_imports

FOLDERS = {"src/sextant": "sextant", "tasks": "tasks"}


class History:
    """The commits of a checkout, newest first.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._trees: dict[str, dict[str, str]] = {}
        self._digests: dict[str, str] = {}

    @cached_property
    def commits(self) -> list[str]:
        """Every commit that leads to the present one."""
        return self._git("log", "--format=%H").split()

    def holds(self, commit: str, modules: Modules) -> bool:
        """Whether a commit has all these modules with these digests."""
        tree = self._tree(commit)
        return all(
            name in tree and self._digest(tree[name]) == digest for name, digest in modules.items()
        )

    def cover(self, wanted: Mapping[str, Modules]) -> dict[str, str]:
        """A commit for each wanted code, as few different ones as a greedy choice finds.

        Returns:
            Commits by code; a code that no commit holds is left out.
        """
        holders = {
            commit: {code for code, modules in wanted.items() if self.holds(commit, modules)}
            for commit in self.commits
        }
        chosen: dict[str, str] = {}
        while True:
            best = max(self.commits, key=lambda commit: len(holders[commit] - chosen.keys()))
            new = holders[best] - chosen.keys()
            if not new:
                return chosen
            chosen |= dict.fromkeys(new, best)

    @contextmanager
    def checked_out(self, commit: str) -> Iterator[Path]:
        """The files of a commit in a folder of their own, for as long as they are needed."""
        with TemporaryDirectory(prefix="sextant-") as folder:
            tree = Path(folder) / "tree"
            self._git("worktree", "add", "--detach", "--force", str(tree), commit)
            try:
                yield tree
            finally:
                self._git("worktree", "remove", "--force", str(tree))

    def _tree(self, commit: str) -> dict[str, str]:
        if commit not in self._trees:
            blobs = {}
            for line in self._git("ls-tree", "-r", commit, "--", *FOLDERS).splitlines():
                description, _, path = line.partition("\t")
                if path.endswith(".py"):
                    blobs[_module(path)] = description.split()[2]
            self._trees[commit] = blobs
        return self._trees[commit]

    def _digest(self, blob: str) -> str:
        if blob not in self._digests:
            self._digests[blob] = digest_and_imports(self._git("cat-file", "blob", blob))[0]
        return self._digests[blob]

    def _git(self, *arguments: str) -> str:
        answer = subprocess.run(
            ["git", "-C", str(self.root), *arguments], capture_output=True, text=True
        )
        if answer.returncode:
            raise UserError(
                f"git {arguments[0]} in {self.root} said: {answer.stderr.strip()}; "
                "verifying needs the history in which results were made"
            )
        return answer.stdout


def _module(path: str) -> str:
    for folder, package in FOLDERS.items():
        if path.startswith(f"{folder}/"):
            inside = path.removeprefix(f"{folder}/").removesuffix(".py")
            return ".".join((package, *inside.split("/"))).removesuffix(".__init__")
    return path
