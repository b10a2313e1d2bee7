"""The texts beside a table file: `<id>.md` says at length what deviates and what was assumed.

The file holds the headings `# Deviations` and `# Assumptions`, each over a list of `- text`, whose
further lines are indented. Pages quote the texts as they stand, each as one line.
"""

from __future__ import annotations

from pathlib import Path

from sextant.schemas import Schema, Texts, checked
from sextant.tables.reading import TableError


class Essay(Schema):
    """What differs from the paper, and what the paper leaves open and was chosen here."""

    deviations: Texts = ()
    assumptions: Texts = ()


def read_essay(path: Path, shown: str) -> Essay:
    """The texts of a file, none where it is missing; `shown` is how messages name it.

    Raises:
        TableError: a line for each fault.
    """
    sections: dict[str, list[str]] = {}
    texts: list[str] | None = None
    faults = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if line.startswith("# "):
            texts = sections.setdefault(line[2:].strip().lower(), [])
        elif line.startswith("- ") and texts is not None:
            texts.append(line[2:].strip())
        elif line.startswith("  ") and texts:
            texts[-1] += f" {line.strip()}"
        elif line.strip():
            faults.append(f"{shown}: line {number} is no heading, no '- text' and not indented")
    if faults:
        raise TableError("\n".join(faults))
    return checked(Essay, sections, shown, TableError)
