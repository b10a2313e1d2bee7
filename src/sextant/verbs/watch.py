"""sextant watch: a live view of what runs now."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sextant.errors import UserError
from sextant.paths import Project, find_project
from sextant.runs.watching import Active, Ended, Pace, active, ended
from sextant.verbs.arguments import read
from sextant.words import duration

USAGE = """usage: sextant watch [minutes=10] [--once]

Shows what runs now, from the run folders: who carries it out, the step, its pace, the time left and
the curve of its metric; and what ended in the last minutes, with its first score or why it failed.
Shows the runs of every process and host that writes to these folders. q quits.

  minutes  how far back ended runs are shown
  --once   print it once and end, for pipes

example: sextant watch minutes=30"""
BARS = "▁▂▃▄▅▆▇█"
COLOURS = {"done": "green", "failed": "red", "stopped": "yellow"}
SHOWN = 15  # ended runs; a screen has room for no more
WIDE = 120


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, [], ("minutes",), ["--once"])
    if asked is None:
        return 0
    text = asked.options.get("minutes", "10")
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"minutes must be a whole number of at least 1, not {text!r}")
    view = View(find_project(), 60.0 * int(text))
    from rich.console import Console

    console = Console()
    if "--once" in asked.flags or not console.is_terminal:
        view.look()
        if view.runs:
            time.sleep(1.2)  # states are written twice a second; two of them give the pace
            view.look()
        console.print(view.render(console.width))
        return 0
    _live(view, console)
    return 0


def _live(view: View, console: Any) -> None:
    from rich.live import Live

    view.look()
    with (
        _keys() as pressed,
        Live(view.render(console.width), console=console, screen=True, auto_refresh=False) as live,
    ):
        while pressed(1.0) not in ("q", "Q"):
            view.look()
            live.update(view.render(console.width), refresh=True)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits for a key: it returns it, or an empty string when the time is over."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds) or ""
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)

    def pressed(seconds: float) -> str:
        return sys.stdin.read(1) if select.select([sys.stdin], [], [], seconds)[0] else ""

    try:
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class View:
    """What is shown, and the readings it is computed from."""

    def __init__(self, project: Project, window: float) -> None:
        self.project, self.window, self.pace = project, window, Pace()
        self.runs: list[Active] = []
        self.past: list[Ended] = []

    def look(self) -> None:
        """Reads the run folders."""
        self.runs = active(self.project.runs)
        self.past = ended(self.project.runs, time.time() - self.window)
        self.pace.look(self.runs)

    def render(self, width: int) -> Any:
        """The view as something rich prints."""
        from rich.console import Group
        from rich.text import Text

        counts = dict.fromkeys(COLOURS, 0)
        for run in self.past:
            counts[run.status] += 1
        head = Text(f"{len(self.runs)} running", style="bold")
        for status, count in counts.items():
            if count:
                head.append(f" · {count} {status}", style=COLOURS[status])
        head.append(f" in the last {duration(self.window)}" if self.past else "", style="dim")
        parts: list[Any] = [head]
        if self.runs:
            parts.append(self._running(width))
        else:
            parts.append(Text("nothing runs here now; `sextant status` says what is missing"))
        if self.past:
            parts.append(self._ended())
        return Group(*parts)

    def _running(self, width: int) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        wide = width >= WIDE
        names = ["run", "where", "step", "metric"] if wide else ["run", "step"]
        for name in names:
            table.add_column(name, overflow="fold")
        for name in ("a second", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("curve", no_wrap=True)
        for run in self.runs:
            pace, left = self.pace.of(run), self.pace.left(run)
            name, value = next(iter(run.metrics.items()), ("", None))
            metric = "" if value is None else f"{name} {value:.4g}"
            where, seeded = run.owner.replace("process ", ""), f"{run.method} seed {run.seed}"
            if wide:
                cells = [f"{run.task} {seeded}", where, _stage(run), metric]
            else:
                cells = [f"{run.task}\n{seeded}\n{where}", f"{_stage(run)}\n{metric}"]
            cells.append("" if pace is None else f"{pace:.3g}")
            cells.append("" if left is None else duration(left))
            table.add_row(*cells, sparkline(run.curve, 24 if wide else 12))
        return table

    def _ended(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False, expand=False)
        for name in ("ago", "status", "run", "said"):
            table.add_column(name, overflow="fold", no_wrap=name in ("ago", "status"))
        now = time.time()
        for run in self.past[:SHOWN]:
            table.add_row(
                f"{duration(max(0.0, now - run.at))} ago",
                Text(run.status, style=COLOURS[run.status]),
                Text(f"{run.task} {run.method} seed {run.seed}"),
                Text(run.said),
            )
        if len(self.past) > SHOWN:
            table.add_row("", "", f"and {len(self.past) - SHOWN} more", "")
        return table


def _stage(run: Active) -> str:
    if not run.seen:
        waited = duration(max(0.0, time.time() - run.since))
        return f"begun {waited} ago, no step yet" if run.first_attempt else f"resuming for {waited}"
    if run.step >= run.steps:
        return f"{run.steps} steps, examined now"
    return f"{run.step}/{run.steps} ({100 * run.step // run.steps}%)"


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of bars, averaged down to `width`; those that are not finite are ×."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    means = [sum(group) / len(group) for group in groups]
    finite = [value for value in means if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(
        BARS[round((value - low) * scale)] if abs(value) < float("inf") else "×" for value in means
    )
