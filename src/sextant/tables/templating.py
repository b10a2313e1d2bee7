"""The templates of pages, Markdown and TeX, in one Jinja environment."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from sextant.runs.spec import PROGRAM
from sextant.tables import records, texts
from sextant.tables.claims import STATUSES

WORDS = {
    records: ("commit", "duration", "outcome", "run_file"),
    texts: (
        *("SYMBOLS", "ARROWS", "cell_text", "column_note", "footers", "groups", "line_name"),
        *("page_stem", "printed_text", "row_label", "seed_list", "subtitle", "title"),
    ),
}


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
    made.globals |= {"PROGRAM": PROGRAM, "STATUSES": STATUSES}
    return made


def render(template: str, **view: Any) -> str:
    """A template filled with a view."""
    return environment().get_template(template).render(view)


def script(key: str, value: Any) -> str:
    """A script file that hands a value to the page that asked for it under this key."""
    compact = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    written = [htmlsafe_json_dumps(part, **compact) for part in (key, value)]
    return f"sextant.receive({','.join(written)});\n"


def asset(name: str) -> str:
    """A file beside the templates that is no template."""
    return resources.files("sextant.tables").joinpath("templates", name).read_text("utf-8")
