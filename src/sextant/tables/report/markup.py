"""HTML that cannot be injected: whatever is not Markup already is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

VOID = frozenset({"br", "circle", "img", "input", "line", "polyline", "rect"})


class Markup(str):
    """Text that is HTML already; what is cut or joined from it is plain text again."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; children that are no Markup are escaped, None and "" add nothing.

    Args:
        attributes: underscores become hyphens and a trailing one is dropped (`class_`,
            `data_line`); None and False leave an attribute out, True writes it without a value.
    """
    written = []
    for key, value in attributes.items():
        if value is not None and value is not False:
            own = "" if value is True else f'="{escape(str(value))}"'
            written.append(f" {_hyphened(key)}{own}")
    opened = f"<{name}{''.join(written)}>"
    return Markup(opened if name in VOID else f"{opened}{_inside(children)}</{name}>")


@cache
def _hyphened(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _inside(children: Iterable[object]) -> str:
    return "".join(
        [
            child if type(child) is Markup else escape(str(child))
            for child in children
            if child is not None
        ]
    )


def join(children: Iterable[object]) -> Markup:
    """One piece of HTML after the other."""
    return Markup(_inside(children))


def script_value(value: Any) -> str:
    """json that may stand in a script file or a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def badge(status: str, symbol: str, text: str | None = None) -> Markup:
    """A verdict as symbol and word; its colour only repeats what they say."""
    word = status.replace("_", " ") if text is None else text
    mark = tag("span", symbol, aria_hidden="true")
    return tag("span", mark, " ", word, class_=f"badge {status.replace(' ', '_')}")


def scrolled(table: Markup, label: str) -> Markup:
    """A wide table in a box that scrolls alone; the box takes the focus so that keys scroll it."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def command(text: str) -> Markup:
    """A command with a button that copies it."""
    button = tag("button", "Copy", type="button", class_="copy")
    return tag("div", tag("pre", tag("code", text), tabindex="0"), button, class_="command")


@dataclass(frozen=True)
class Shell:
    """What every page shares. `changes` says whether the site has a page of changes."""

    changes: bool

    def page(self, title: str, *body: object, up: str = "", current: str = "") -> Markup:
        """A whole page.

        Args:
            up: the way from the page to the top folder, "" or "../".
            current: the file of the navigation that this page is.
        """
        name = tag("title", f"{title} · Sextant")
        head = tag("head", _head(up), name)
        main = tag("main", *body, id="main", tabindex="-1")
        whole = tag("html", head, tag("body", _top(up, current, self.changes), main), lang="en")
        return Markup(f"<!doctype html>\n{whole}\n")


@cache
def _head(up: str) -> Markup:
    return Markup(
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="stylesheet" href="{up}style.css"><link rel="icon" href="data:,">'
        f'<script src="{up}script.js"></script>'
    )


@cache
def _top(up: str, current: str, changes: bool) -> Markup:
    links = [("index.html", "Tables"), ("runs.html", "Runs")]
    links += [("changes.html", "Changes")] if changes else []
    navigation = [
        tag("a", name, href=up + file, aria_current="page" if file == current else None)
        for file, name in links
    ]
    top = tag(
        "header",
        tag("a", "Sextant", href=f"{up}index.html", class_="home"),
        tag("nav", *navigation, aria_label="Site"),
        tag("button", "Theme", type="button", id="theme"),
        class_="top",
    )
    return join((tag("a", "Skip to the content", href="#main", class_="skip"), top))
