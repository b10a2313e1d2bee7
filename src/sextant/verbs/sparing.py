"""A broken table file breaks itself alone: the other tables are shown, and the exit code tells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sextant.errors import UserError
from sextant.paths import Project
from sextant.tables.definition import TableDefinition, find_tables


class Spared:
    """Says what is wrong with single tables, and remembers that something was."""

    def __init__(self) -> None:
        self.exit_code = 0

    def tables(self, project: Project) -> list[TableDefinition]:
        """Every table whose file can be read, by number."""
        return find_tables(project.root, self.say)

    @contextmanager
    def table(self) -> Iterator[None]:
        """What is done with one table, and given up where its settings or results are wrong."""
        try:
            yield
        except UserError as error:
            self.say(error)

    def say(self, error: UserError) -> None:
        print(f"sextant: {error}", file=sys.stderr)
        self.exit_code = 2
