"""The templates of pages, Markdown and TeX, in one Jinja environment."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from jinja2.utils import htmlsafe_json_dumps

from sextant.runs.spec import PROGRAM, TIERS
from sextant.tables import records, texts
from sextant.tables.claims import STATUSES

WORDS = {
    records: ("outcome", "run_file"),
    texts: (
        *("ARROWS", "SYMBOLS", "cell_text", "column_note", "footers", "groups", "line_name"),
        *("line_texts", "page_stem", "printed_text", "row_label", "seed_list", "subtitle", "title"),
    ),
}

TEX_TAGS = {
    **{"variable_start_string": "<<", "variable_end_string": ">>"},
    **{"block_start_string": "<%", "block_end_string": "%>"},
    **{"comment_start_string": "<#", "comment_end_string": "#>"},
}
TEX_SIGNS = {
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
TEX_SPECIAL = re.compile("|".join(re.escape(character) for character in TEX_SIGNS))


def tex(text: str) -> str:
    """Text that TeX prints as it is, with the signs tables use."""
    return TEX_SPECIAL.sub(lambda match: TEX_SIGNS[match.group()], text.replace("\n", " "))


def md(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\|*_<>`~$\[\]])", r"\\\1", text.replace("\n", " "))


@cache
def environment() -> Environment:
    """Names that a template does not know are errors; in .html whatever is shown is escaped."""
    made = Environment(
        loader=PackageLoader("sextant.tables"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for module, names in WORDS.items():
        made.globals |= {name: getattr(module, name) for name in names}
    made.globals |= {"PROGRAM": PROGRAM, "STATUSES": STATUSES, "TIERS": TIERS}
    made.filters |= {"md": md, "tex": tex}
    return made


def render(template: str, **view: Any) -> str:
    """A template filled with a view."""
    return _template(template).render(view)


@cache
def _template(name: str) -> Template:
    """TeX is full of braces, so its templates have tags of their own."""
    chosen = environment()
    if name.endswith(".tex"):
        chosen = chosen.overlay(**TEX_TAGS)
    return chosen.get_template(name)


def script(key: str, value: Any) -> str:
    """A script file that hands a value to the page that asked for it under this key."""
    compact = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    written = [htmlsafe_json_dumps(part, **compact) for part in (key, value)]
    return f"sextant.receive({','.join(written)});\n"


def asset(name: str) -> str:
    """A file beside the templates that is no template."""
    return resources.files("sextant.tables").joinpath("templates", name).read_text("utf-8")
