"""The page of one run: what it scored, where it comes from, how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sextant.runs.spec import run_command
from sextant.tables.report.contents import (
    Report,
    duration,
    outcome,
    run_file,
)
from sextant.tables.report.curves import Points, curve_chart
from sextant.tables.report.markup import Markup, Shell, badge, command, join, scrolled, tag
from sextant.tables.texts import ARROWS


@dataclass(frozen=True)
class Use:
    """A cell of a table that asks for a run: the page, the cell's name there, what to call it, and
    the runs of its other seeds."""

    page: str
    cell: str
    text: str
    seeds: tuple[tuple[int, str], ...]


def run_page(
    report: Report,
    shell: Shell,
    record: Mapping[str, Any],
    uses: Sequence[Use],
    children: Sequence[str],
    curves: Mapping[str, Points],
    pictures: Sequence[str],
    settings: str,
) -> Markup:
    """The page of a run.

    Args:
        uses: the cells that ask for it.
        children: ids of runs that start from it.
        curves: its learning curves by metric, empty where they are not on this machine.
        pictures: its pictures as files below the site's top folder.
        settings: its settings without the seed, as text.
    """
    done = record["status"] == "done"
    state = badge(outcome(record), "✓" if done else "✗")
    name = f"{record['task']} by {record['method']}, seed {record['seed']}"
    message = record.get("message")
    stale = record["run_id"] in report.stale
    older = "Some of the code that computed this run has changed since; it is shown, not rerun."
    today = "" if uses else " No table asks for a run with these settings now."
    body = [
        tag("h1", name),
        tag("p", f"Run {record['run_id']}, tier {record['tier']} ", state, today),
        tag("p", message, class_="lack") if message else None,
        tag("p", older, class_="lack") if stale else None,
        _places(uses, record),
        tag("h2", "Scores"),
        _scores(record),
        tag("h2", "Where it comes from"),
        _origin(report, record, children),
        tag("h2", "The command that makes it again"),
        command(run_command(*(record[k] for k in ("task", "method", "tier", "seed")))),
        tag("h2", "Curves"),
        _curves(curves),
        tag("h2", "Pictures") if pictures else None,
        gallery([(picture, picture.rsplit("/", 1)[-1]) for picture in pictures], "../"),
        tag("h2", f"Settings, with seed {record['seed']}"),
        tag("pre", settings, tabindex="0"),
    ]
    return shell.page(name, *body, up="../")


def gallery(pictures: Sequence[tuple[str, str]], up: str) -> Markup | None:
    """Pictures with captions; each opens at full size."""
    if not pictures:
        return None
    shown = []
    for file, caption in pictures:
        source = up + quote(file)
        image = tag("img", src=source, alt=caption, loading="lazy")
        shown.append(
            tag("figure", tag("a", image, href=source), tag("figcaption", caption), class_="shot")
        )
    return tag("div", *shown, class_="charts")


def _places(uses: Sequence[Use], record: Mapping[str, Any]) -> Markup | None:
    if not uses:
        return None
    cells = [tag("li", tag("a", u.text, href=f"../tables/{u.page}#{u.cell}")) for u in uses]
    others = [
        join((" ", tag("a", f"seed {seed}", href=run_file(run_id))))
        for seed, run_id in uses[0].seeds
        if run_id != record["run_id"]
    ]
    siblings = tag("p", "The same with other seeds:", *others) if others else None
    return tag("div", tag("p", "Stands in:"), tag("ul", *cells), siblings)


def _scores(record: Mapping[str, Any]) -> Markup:
    scores = record.get("scores") or {}
    if not scores:
        return tag("p", "It has none.")
    head = [tag("th", word, scope="col", class_="n") for word in ("Value", "SE", "On")]
    head.insert(0, tag("th", "Metric", scope="col"))
    rows = []
    for name, score in scores.items():
        error = score.get("standard_error")
        better = ARROWS.get(str(score.get("better")), "")
        rows.append(
            tag(
                "tr",
                tag("th", f"{name} {better}", scope="row"),
                tag("td", f"{score['value']:.6g}", class_="n"),
                tag("td", "–" if error is None else f"{error:.2g}", class_="n"),
                tag("td", score.get("n"), class_="n"),
            )
        )
    caption = tag("caption", "Scores of this run", class_="unseen")
    whole = tag(
        "table", caption, tag("thead", tag("tr", *head)), tag("tbody", *rows), class_="plain"
    )
    return scrolled(whole, "Scores")


def _origin(report: Report, record: Mapping[str, Any], children: Sequence[str]) -> Markup:
    provenance = record.get("provenance") or {}
    hardware = provenance.get("hardware") or {}
    packages = provenance.get("packages") or {}
    device = provenance.get("device") or "cpu"
    memory = record.get("peak_memory_mb")
    machine = hardware.get("gpu") if device == "gpu" else hardware.get("cpu")
    full = f"{provenance.get('commit') or 'unknown'}"
    full += ", with uncommitted changes" if provenance.get("dirty") else ""
    facts: list[tuple[str, object]] = [("Commit", tag("code", full))]
    facts += [(f"Data {n}", p) for n, p in sorted((provenance.get("data") or {}).items())]
    facts += [
        ("Time", f"{duration(float(record.get('seconds') or 0.0))} on {device}"),
        ("Machine", f"{machine or 'unknown'}, {hardware.get('cores', '?')} cores"),
        ("Memory", "not measured" if memory is None else f"{memory:.0f} MB at most"),
        ("Packages", ", ".join(f"{name} {packages[name]}" for name in sorted(packages))),
    ]
    for word, ids in (("Starts from", record.get("parents") or ()), ("Start from it", children)):
        if ids:
            facts.append((word, join(_run_link(report, str(run_id)) for run_id in ids)))
    entries = [part for name, value in facts for part in (tag("dt", name), tag("dd", value))]
    return tag("dl", *entries, class_="facts")


def _run_link(report: Report, run_id: str) -> Markup:
    """A link where the ledger has the run, else its id alone."""
    record = report.records.get(run_id)
    if record is None:
        return tag("span", f"{run_id} (not in this ledger) ")
    text = f"{record['task']} by {record['method']}, seed {record['seed']}"
    return tag("span", tag("a", text, href=run_file(run_id)), " ", class_="entry")


def _curves(curves: Mapping[str, Points]) -> Markup:
    if not curves:
        sentence = "None here: curves stay in the run folder of the machine that ran it."
        return tag("p", sentence, class_="absent")
    charts = [
        curve_chart([points], tag("span", tag("b", metric), f", last {points[-1][1]:.4g}"))
        for metric, points in curves.items()
    ]
    return tag("div", *charts, class_="charts")


def runs_page(report: Report, shell: Shell, asked: Mapping[str, Sequence[Use]]) -> Markup:
    """Every run of the ledger by task, method and tier; a seed is a link to its run."""
    groups: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for record in report.records.values():
        key = (str(record["method"]), str(record["tier"]))
        groups.setdefault(str(record["task"]), {}).setdefault(key, []).append(record)
    failed = sum(record["status"] != "done" for record in report.records.values())
    words = tag("input", type="search", id="runs", autocomplete="off")
    said = tag("output", id="found", aria_live="polite")
    body = [
        tag("h1", "Runs"),
        tag(
            "p",
            f"{len(report.records)} runs, {failed} failed. A seed opens its run; ✗ failed, "
            "° no table asks for it now: a run that others start from, or one of earlier settings.",
        ),
        tag("div", tag("label", "Task, method or tier with ", words), said, class_="tools"),
    ]
    for task in sorted(groups):
        rows = [
            tag(
                "tr",
                tag("th", method, scope="row"),
                tag("td", tier),
                tag("td", *(_seed(r, asked) for r in sorted(runs, key=lambda r: r["seed"]))),
            )
            for (method, tier), runs in sorted(groups[task].items())
        ]
        head = tag("tr", *(tag("th", w, scope="col") for w in ("Method", "Tier", "Seeds")))
        caption = tag("caption", task)
        whole = tag("table", caption, tag("thead", head), tag("tbody", *rows), class_="plain runs")
        body.append(scrolled(whole, f"Runs of {task}"))
    return shell.page("Runs", *body, current="runs.html")


def _seed(record: Mapping[str, Any], asked: Mapping[str, Sequence[Use]]) -> Markup:
    run_id = str(record["run_id"])
    mark = ("" if record["status"] == "done" else "✗") + ("" if run_id in asked else "°")
    said = [f"seed {record['seed']}", outcome(record)] + ["no table asks for it"] * ("°" in mark)
    name = f"{record['method']} on {record['task']}, tier {record['tier']}, {', '.join(said)}"
    address = f"runs/{run_file(run_id)}"
    return join((tag("a", f"{record['seed']}{mark}", href=address, aria_label=name), " "))
