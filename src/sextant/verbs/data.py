"""sextant data list|fetch|verify: the data sets."""

from __future__ import annotations

from sextant import data
from sextant.errors import unknown
from sextant.verbs.arguments import read

USAGE = """usage: sextant data list | fetch NAME | verify [NAME]

  list           every data set, where it is, its size and licence
  fetch NAME     brings it into the cache and checks every file's fingerprint
  verify [NAME]  checks the files of one data set, or of all that are here

A data set is looked for in $SEXTANT_DATA/NAME, then in the cache, then at its public source.

example: sextant data fetch mnist"""


def main(arguments: list[str]) -> int:
    asked = read(arguments, USAGE, ["list|fetch|verify", "?NAME"], ())
    if asked is None:
        return 0
    action = asked.words[0]
    if action not in ("list", "fetch", "verify"):
        raise unknown("data command", action, ["list", "fetch", "verify"])
    if action == "list":
        _list()
    elif action == "fetch":
        if len(asked.words) < 2:
            raise unknown("data set", "(none named)", [entry.name for entry in data.known()])
        found = data.fetch(asked.words[1])
        print(f"{found.name}: {found.path} (fingerprint {found.fingerprint})")
    else:
        here = [entry.name for entry in data.known() if entry.path is not None]
        for name in asked.words[1:] or here:
            print(f"{name}: whole (fingerprint {data.verify(name).fingerprint})")
    return 0


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "data", "here", "size", "licence", box=None, pad_edge=False)
    for entry in data.known():
        here = entry.where or "missing"
        table.add_row(entry.name, entry.title, here, f"{entry.bytes / 1e6:.0f} MB", entry.licence)
    Console().print(table)
