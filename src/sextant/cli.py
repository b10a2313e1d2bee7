"""The command `sextant`: one module a verb, importing what it needs only when it is called."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from sextant import __version__
from sextant.errors import UserError, unknown

VERBS = {
    "run": "one run, with plain Hydra overrides",
    "plan": "what would run for a table, why, and how long it takes",
    "reproduce": "run what a table lacks, then print it beside its claims",
    "table": "print a table from the ledger alone",
    "explain": "a cell's runs: settings, commit, data, and the command that makes it again",
    "status": "how full each table is and what runs now",
    "watch": "a live view of what runs now",
    "figures": "draw a table's figures from the saved samples",
    "report": "write results/report/index.html: every table, its claims, plots and runs",
    "verify": "show that changed code still makes the results, so that they are not stale",
    "wandb": "send offline runs to W&B, or make a table's report there",
    "ledger": "rebuild the ledger from a W&B project",
    "data": "list, fetch or verify data sets",
}
EXAMPLES = """examples:
  sextant reproduce 12                               refill table 12 at tier small
  sextant plan 12 tier=paper                         what that would take
  sextant run task=generation/normal_to_eight_gaussians method=flow/mean_flow tier=smoke seed=0
  sextant table 12 format=md                         the table as markdown
  sextant explain 12 ot_exact@1/moons                where a cell comes from
  sextant data list                                  which data sets are here
`sextant VERB --help` says more about each."""


def help_text() -> str:
    lines = ["usage: sextant VERB [ARGUMENT ...] [key=value ...]", ""]
    lines += ["Reruns the experiments of six papers and refills their tables.", "", "verbs:"]
    lines += [f"  {verb:<10} {meaning}" for verb, meaning in VERBS.items()]
    return "\n".join([*lines, "", EXAMPLES])


def main(arguments: list[str] | None = None) -> int:
    """Runs a verb; a mistake of the user is one sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ± or ↓ shows ?
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run_verb(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as left:
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        return 0  # how rich leaves where nobody reads on
    except BrokenPipeError:
        # whoever read this has seen enough; what is left to be flushed goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run_verb(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] == "--version":
        print(f"sextant {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise unknown("verb", verb, VERBS)
        from importlib import import_module

        return import_module(f"sextant.verbs.{verb}").main(rest)
    except UserError as error:
        print(f"sextant: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sextant: stopped; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
