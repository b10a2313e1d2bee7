"""The page of a table at one tier: claims, the table beside the paper's, plots, origins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sextant.runs.spec import PROGRAM
from sextant.tables.report.cell_view import Curves
from sextant.tables.report.charts import bar_chart
from sextant.tables.report.contents import fullness, page_stem
from sextant.tables.report.curves import Frame, Points, curve_chart
from sextant.tables.report.front import meter
from sextant.tables.report.grid import grid
from sextant.tables.report.markup import Markup, Shell, badge, command, join, tag
from sextant.tables.report.pairs import chooser
from sextant.tables.report.run_page import gallery
from sextant.tables.table import Table
from sextant.tables.texts import SYMBOLS, footers, guarded, subtitle, title

POINTS_ON_A_PAGE = 24_000
METRICS_SHOWN = 2
Pictures = Callable[[str], Sequence[tuple[str, int]]]


def table_page(
    shell: Shell,
    table: Table,
    tiers: Sequence[Table],
    curves: Curves,
    figures: Mapping[str, str],
    pictures: Pictures,
) -> Markup:
    """The page of a table.

    Args:
        tiers: the same table at every tier that has a page, this one among them.
        curves: gives the curves of a run by metric.
        figures: by key, the figures that are drawn, as files below the site's top folder.
        pictures: the pictures of a run as (file below the top folder, digest of its content).
    """
    stem = page_stem(table)
    parts = [("claims", "Claims"), ("table", "Table"), ("compare", "Compare"), ("scores", "Scores")]
    parts += [("curves", "Curves"), ("pictures", "Pictures"), ("behind", "What stands behind it")]
    contents = tag("nav", *(tag("a", t, href=f"#{k}") for k, t in parts), aria_label="Page")
    body = [
        tag("h1", title(table)),
        tag("p", subtitle(table), class_="about"),
        _tiers(table, tiers),
        tag("p", meter(fullness(table), " runs done")),
        tag("p", f"Data: {table.data}", class_="about"),
        contents,
        _claims(table),
        tag("section", tag("h2", "Table", id="table"), _tools(table), grid(table), _legend(table)),
        chooser(table),
        _scores(table),
        _curves(table, curves),
        _pictures(table, figures, pictures),
        _behind(table),
        _dialog(),
    ]
    return shell.page(
        f"{title(table)}, tier {table.tier}",
        tag("article", *body, data_scripts=stem),
        up="../",
    )


def _tiers(table: Table, tiers: Sequence[Table]) -> Markup:
    links = [
        tag(
            "a",
            other.tier,
            href=f"{page_stem(other)}.html",
            aria_current="page" if other.tier == table.tier else None,
        )
        for other in tiers
    ]
    others = [tier for tier in table.definition.seeds if tier not in {t.tier for t in tiers}]
    rest = f"no results at tier {', '.join(others)}" if others else None
    return tag(
        "nav", tag("span", "Tier"), *links, tag("small", rest), aria_label="Tier", class_="tiers"
    )


def _claims(table: Table) -> Markup:
    entries = [
        tag(
            "li",
            badge(claim.status, SYMBOLS[claim.status]),
            tag("span", claim.text, tag("small", claim.figure)),
        )
        for claim in table.claims
    ]
    shown = tag("ul", *entries, class_="claims") if entries else tag("p", "None is stated.")
    return tag("section", tag("h2", "Claims", id="claims"), shown)


def _tools(table: Table) -> Markup:
    words = tag("input", type="search", id="rows", autocomplete="off")
    said = tag("output", id="found", aria_live="polite")
    return tag("div", tag("label", "Rows with ", words), said, class_="tools")


def _legend(table: Table) -> Markup:
    """What the marks of this table mean."""
    notes = ["A cell opens its runs; heads sort; bold is the best of its group."]
    notes.append("k/N seeds are done of N planned, ! where some are lacking.")
    notes += [f"‡ has {meaning}." for meaning in guarded(table)]
    if any(cell.published for cell in table.cells.values()) and table.tier != "paper":
        notes.append("Printed values get a verdict at tier paper only.")
    return tag("p", " ".join(notes), class_="about")


def _scores(table: Table) -> Markup:
    charts = [bar_chart(table, column) for column in table.definition.all_columns]
    found = [chart for chart in charts if chart is not None]
    if not found:
        found = [tag("p", "Nothing is scored yet.")]
    legend = "Bars are means, dots seeds"
    if any(cell.published for cell in table.cells.values()):
        plain = "" if table.tier == "paper" else f", not comparable at tier {table.tier}"
        legend += f", open diamonds the paper's{plain}"
    shown = tag("div", *found, class_="wide")
    return tag(
        "section",
        tag("h2", "Scores", id="scores"),
        tag("p", f"{legend}.", class_="about"),
        shown,
    )


def _curves(table: Table, curves: Curves) -> Markup:
    """Small multiples: a chart a row, axes shared within a metric of a task."""
    tasks: dict[str, dict[str, Mapping[str, Points]]] = {}
    for (row, column), runs in table.planned.items():
        task = next(str(c.task) for c in table.definition.columns if c.key == column)
        first = next((run for _, run in runs if run in table.records), None)
        if first is not None and row not in tasks.setdefault(task, {}):
            tasks[task][row] = curves(first)
    drawn = sum(len(rows) for rows in tasks.values()) * METRICS_SHOWN
    most = max(8, min(48, POINTS_ON_A_PAGE // max(1, drawn)))
    groups = [_multiples(table, task, rows, most) for task, rows in tasks.items()]
    shown = [group for group in groups if group is not None]
    note = "Of the first seed in the ledger; a cell shows every seed and every metric."
    if not shown:
        note = "None here: curves stay on the machine that ran them, and not every task logs any."
    elif len(shown) < len(groups):
        note += " Tasks whose runs logged none, or on another machine, are left out."
    body = join((tag("p", note, class_="about"), *shown))
    return tag("section", tag("h2", "Curves", id="curves"), body)


def _multiples(
    table: Table, task: str, rows: Mapping[str, Mapping[str, Points]], most: int
) -> Markup | None:
    counts = Counter(metric for by_metric in rows.values() for metric in by_metric)
    labels = {row.key: row.label for row in table.definition.rows}
    parts = []
    for metric, _ in counts.most_common(METRICS_SHOWN):
        found = {row: points[metric] for row, points in rows.items() if metric in points}
        frame = Frame.around(list(found.values()))
        charts = [
            tag(
                "div",
                curve_chart(
                    [points], join((labels[row], tag("b", f"{points[-1][1]:.3g}"))), frame, most
                ),
                data_row=row,
                data_what=f"{task}, {metric}",
            )
            for row, points in found.items()
        ]
        parts.append(tag("h3", metric, tag("small", str(frame))))
        parts.append(tag("div", *charts, class_="multiples"))
    return tag("details", tag("summary", task), *parts, open=True) if parts else None


def _pictures(table: Table, figures: Mapping[str, str], pictures: Pictures) -> Markup:
    parts: list[Markup] = []
    for figure in table.definition.figures:
        if figure.key in figures:
            shown = gallery([(figures[figure.key], figure.caption)], "../")
            parts.append(tag("div", shown, class_="drawn"))
        else:
            call = f"{PROGRAM} figures {table.definition.number} tier={table.tier}"
            text = f"{figure.caption} Not drawn here; on the machine that holds the runs: "
            parts.append(tag("p", text, tag("code", call), class_="absent"))
    samples, seen = [], set()
    labels = {row.key: row.label for row in table.definition.rows}
    columns = {column.key: column.label for column in table.definition.columns}
    for (row, column), runs in table.planned.items():
        first = next((entry for entry in runs if entry[1] in table.records), None)
        for file, digest in pictures(first[1]) if first else ():
            if digest not in seen:
                seen.add(digest)
                name = file.rsplit("/", 1)[-1].removesuffix(".png")
                text = f"{labels[row]}, {columns[column]}, seed {first[0]}: {name}"
                samples.append((file, text))
    parts += [tag("h3", "Samples of runs"), gallery(samples, "../")] if samples else []
    if not parts:
        parts = [tag("p", "This table has no figures, and no run here saved pictures.")]
    return tag("section", tag("h2", "Pictures", id="pictures"), *parts)


def _behind(table: Table) -> Markup:
    entries = []
    for heading, items in footers(table):
        value = items[0] if len(items) == 1 else tag("ul", *(tag("li", item) for item in items))
        entries += [tag("dt", heading), tag("dd", value)]
    again = f"make reproduce-table-{table.definition.number} TIER={table.tier}"
    return tag(
        "section",
        tag("h2", "What stands behind it", id="behind"),
        tag("dl", *entries, class_="facts"),
        tag("h3", "The command that fills it"),
        command(again),
    )


def _dialog() -> Markup:
    close = tag("button", "Close", type="button", id="close")
    head = tag("div", tag("h2", id="cell-name"), close, class_="head")
    return tag("dialog", head, tag("div", id="cell-body"), id="cell", aria_labelledby="cell-name")
