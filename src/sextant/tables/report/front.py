"""The front page: every registered table at a glance, by paper."""

from __future__ import annotations

from collections import Counter

from sextant.runs.spec import PROGRAM
from sextant.tables.claims import STATUSES
from sextant.tables.pages import PRINTED
from sextant.tables.register import RegisterEntry
from sextant.tables.report.changes import count_changes
from sextant.tables.report.contents import Fullness, Report, fullness, page_stem
from sextant.tables.report.markup import Markup, Shell, badge, scrolled, tag
from sextant.tables.schema import TIERS
from sextant.tables.table import Table
from sextant.tables.texts import SYMBOLS


def front_page(report: Report, shell: Shell, empty: dict[int, Table]) -> Markup:
    """The front page.

    Args:
        empty: a table without runs for each number that is built and has no result yet.
    """
    register = report.register
    papers = {entry.paper: None for _, entry in sorted(register.entries.items())}
    sections = []
    for paper in papers:
        entries = [e for _, e in sorted(register.entries.items()) if e.paper == paper]
        rows = [row for entry in entries for row in _rows(report, entry, empty)]
        heads = ["Table", "Tier", "Runs done", "Claims"]
        heads += [f"Since {report.before.name}"] if report.before else []
        caption = tag("caption", f"Tables of {register.names[paper]}", class_="unseen")
        head = tag("thead", tag("tr", *(tag("th", word, scope="col") for word in heads)))
        whole = tag("table", caption, head, tag("tbody", *rows), class_="front")
        sections.append(
            tag(
                "section",
                tag("h2", register.names[paper], id=f"paper-{paper}"),
                tag("p", register.papers[paper], class_="about"),
                scrolled(whole, f"Tables of {register.names[paper]}"),
                aria_labelledby=f"paper-{paper}",
            )
        )
    return shell.page(
        "All tables",
        tag("h1", "Six papers, refilled from logged runs"),
        _summary(report),
        _filter(report),
        *sections,
        _how(report),
        current="index.html",
    )


def _summary(report: Report) -> Markup:
    """How much there is, counted at the highest tier that each table has."""
    highest = [tables[-1] for tables in report.tables.values() if tables]
    claims = Counter(claim.status for table in highest for claim in table.claims)
    failed = sum(record["status"] != "done" for record in report.records.values())
    facts = [
        ("Tables", f"{len(report.register.entries)}"),
        ("built", f"{len(report.definitions)}"),
        ("with results", f"{len(highest)}"),
        ("Runs in the ledger", f"{len(report.records):,}"),
        ("failed", f"{failed}"),
    ]
    counted = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts]
    judged = [
        tag("div", tag("dt", badge(status, SYMBOLS[status])), tag("dd", claims[status]))
        for status in STATUSES
    ]
    note = tag("p", "Claims are counted at the highest tier with results.", class_="about")
    return tag("div", tag("dl", *counted, *judged, class_="tally"), note)


def _filter(report: Report) -> Markup:
    found = {table.tier for tables in report.tables.values() for table in tables}
    choices = [("all", "all tiers"), *((t, t) for t in TIERS if t in found)]
    buttons = [
        tag(
            "label",
            tag("input", type="radio", name="tier", value=value, checked=value == "all"),
            " ",
            text,
        )
        for value, text in choices
    ]
    said = tag("output", id="shown", aria_live="polite")
    return tag("fieldset", tag("legend", "Tier"), *buttons, said, id="tiers", class_="tools")


def _rows(report: Report, entry: RegisterEntry, empty: dict[int, Table]) -> list[Markup]:
    """One row a tier with results; one row where there is none."""
    tables = report.tables.get(entry.number, ())
    if not tables:
        return [_idle_row(report, entry, empty.get(entry.number))]
    rows = []
    for table in tables:
        claims = Counter(claim.status for claim in table.claims)
        judged = [
            badge(status, SYMBOLS[status], f"{claims[status]} {status.replace('_', ' ')}")
            for status in STATUSES
            if claims[status]
        ]
        cells = [
            _name(entry, page_stem(table)),
            tag("td", table.tier),
            tag("td", meter(fullness(table))),
            tag("td", *judged) if judged else tag("td", "none stated", class_="absent"),
        ]
        if report.before:
            cells.append(tag("td", count_changes(report.before, table)))
        rows.append(tag("tr", *cells, data_tier=table.tier))
    return rows


def _idle_row(report: Report, entry: RegisterEntry, empty: Table | None) -> Markup:
    state = "not built yet" if empty is None else "built, nothing run yet"
    cells = [
        _name(entry, None if empty is None else page_stem(empty)),
        tag("td", "–"),
        tag("td", state, class_="absent"),
        tag("td", f"{len(empty.claims)} stated" if empty else "–", class_="absent"),
    ]
    if report.before:
        cells.append(tag("td", "–", class_="absent"))
    return tag("tr", *cells, class_="idle", data_tier="none")


def _name(entry: RegisterEntry, stem: str | None) -> Markup:
    title = f"{entry.title[0].upper()}{entry.title[1:]}"
    link = title if stem is None else tag("a", title, href=f"tables/{stem}.html")
    place = f"{entry.place}; printed values {PRINTED[entry.printed]}"
    number = tag("span", entry.number, class_="no")
    return tag("th", number, tag("span", link, tag("small", place)), scope="row")


def meter(full: Fullness, noun: str = "") -> Markup:
    """A bar of done and failed runs beside the same in words, such as `12 of 15, 1 failed`."""
    words = f"{full.done} of {full.planned}{noun}"
    words += f", {full.failed} failed" if full.failed else ""
    share = 100 / max(1, full.planned)
    drawing = Markup(
        f'<rect width="{full.done * share:.2f}%" height="8" class="done"></rect>'
        f'<rect x="{full.done * share:.2f}%" width="{full.failed * share:.2f}%" height="8" '
        'class="broken"></rect>'
    )
    bar = tag("svg", drawing, class_="meter", height=8, aria_hidden="true")
    return tag("span", bar, tag("span", words), class_="full")


def _how(report: Report) -> Markup:
    if report.before:
        what = f"Compared with {report.before.name}: "
        line = tag("p", what, tag("a", "what changed", href="changes.html"), ".")
    else:
        line = tag(
            "p",
            "Two states of the ledger side by side: ",
            tag("code", f"{PROGRAM} report against=HEAD~5"),
            " or ",
            tag("code", "against=<folder of another ledger>"),
            ".",
        )
    made = tag("p", "Made from the ledger by ", tag("code", f"{PROGRAM} report"), ".")
    return tag("footer", made, line)
