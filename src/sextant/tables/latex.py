"""A table as a TeX float for the booktabs package."""

from __future__ import annotations

import re

from sextant.tables.table import Table
from sextant.tables.texts import (
    cell_text,
    column_note,
    footers,
    row_label,
    subtitle,
)

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\to$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": "--",
    "✓": r"\ensuremath{\surd}",
    "✗": r"\ensuremath{\times}",
}
_SPECIAL = re.compile("|".join(re.escape(character) for character in _ESCAPES))


def escape(text: str) -> str:
    """Text that TeX prints as it is, with the signs tables use."""
    return _SPECIAL.sub(lambda match: _ESCAPES[match.group()], text.replace("\n", " "))


def latex(table: Table) -> str:
    """The table as a `table` float: booktabs rules, one block for each point of the axis, the
    claims and footers in small print below."""
    definition, columns = table.definition, table.definition.all_columns
    width = len(columns) + 1
    out = [
        f"% Made from the ledger, tier {table.tier}; needs the booktabs package.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(definition.title)}. {escape(subtitle(table))}}}",
        rf"\label{{tab:{definition.id}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(escape(column.label) for column in columns)]) + r" \\",
        " & ".join(["", *(escape(column_note(column)) for column in columns)]) + r" \\",
    ]
    point: object = object()
    for line in definition.lines:
        if line.at != point:
            point = line.at
            out.append(r"\midrule")
            best = {column.key: table.best(column, line.at) for column in columns}
            if definition.axis is not None:
                name = "evaluated once" if point is None else f"{definition.axis} {point}"
                out.append(rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape(name)}}}}} \\")
        texts = [cell_text(table.cells[line.key, column.key], column) for column in columns]
        ours = [escape(row_label(line.row))]
        for column, text in zip(columns, texts, strict=True):
            number = escape(text.ours)
            number = rf"\textbf{{{number}}}" if line.key in best[column.key] else number
            ours.append(f"{number} {escape(text.mark)}".strip())
        out.append(" & ".join(ours) + r" \\")
        if any(text.printed for text in texts):
            small = [
                rf"{{\scriptsize {escape(text.printed)}}}" if text.printed else "" for text in texts
            ]
            out.append(" & ".join(["", *small]) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip", r"\footnotesize\raggedright"]
    for claim in table.claims:
        status = claim.status.replace("_", " ")
        out.append(
            rf"\textit{{{escape(claim.text)}}} \textbf{{{status}}}: {escape(claim.figure)}\par"
        )
    for heading, items in footers(table):
        out.append(rf"\textbf{{{escape(heading)}}}: {escape('; '.join(items))}\par")
    return "\n".join([*out, r"\end{table}", ""])
