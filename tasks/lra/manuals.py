"""Manual pages of Debian packages: plain texts, and which page names which under SEE ALSO.

Read are the two macro packages `man` (also as pod2man and docbook write it) and `mdoc`.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sextant.data.sources import open_debian

LEAST_CHARACTERS = 800
PAGE = re.compile(r"\./usr/share/man/man(\d)/(.+)\.\1\w*\.gz")
# Debian tells the pages of the implementations of MPI apart by a suffix that no link writes.
VARIANT = re.compile(r"\.(?:openmpi|mpich)$")
HEADING = r'^\.S[Hh]\s+"?(?:\\f.)?SEE ALSO(?:\\f.)?"?[ \t]*(?:\\"[^\n]*)?\n'
SEE_ALSO = re.compile(HEADING + r"(.*?)(?=^\.S[Hh]\b|\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
LINK = re.compile(r"([^\s(),;]+)\s?\((\d)\w*\)")
BARE = re.compile(r"[A-Za-z_][\w:.+-]*\w")
INCLUDE = re.compile(r"\.so\s+(?:man\d/)?(\S+)\.(\d)\w*\s*$", re.MULTILINE)
DEFINITION = re.compile(r"^\.\s*de1?\s.*?^\.\.[ \t]*$\n?", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r'(?<!\\)\\["#].*')
ARGUMENT = re.compile(r'"([^"]*)"?|(\S+)')
ESCAPE = re.compile(
    r"\\(?:\*(?:\(..|\[[^\]]*\]|.)|[hvwlLDx]'[^']*'|[fmM](?:\(..|\[\w*\]|.)|s[+-]?\d|\(..|\[\w+\]|.)"
)
MEANING = {"\\-": "-", "\\e": "\\", "\\ ": " ", "\\~": " ", "\\(aq": "'", "\\(dq": '"',
           "\\(bu": "*", "\\(em": "--", "\\(en": "-", "\\(ha": "^", "\\(ti": "~", "\\(lq": '"',
           "\\(rq": '"', "\\(co": "(C)", "\\(rs": "\\", "\\'": "'", "\\`": "`"}  # fmt: skip
JOINED = {"BR", "RB", "BI", "IB", "IR", "RI"}
WORDS = {"SH", "SS", "B", "I", "SM", "SB", *JOINED}
# Of mdoc: what prints its words, and what may also stand among the words of another request.
MDOC = {"Sh", "Ss", "Nm", "Nd", "Fn", "Ft", "Fa", "Fo", "Ar", "Fl", "Dv", "Er", "Va", "Vt", "Em",
        "Sy", "Li", "Pa", "Cm", "Ic", "Ev", "In", "Cd", "Dq", "Sq", "Pq", "Qq", "Op", "Ql", "No",
        "Tn", "Ns", "Ad", "An", "Lb", "Do", "Po", "Oo", "Bq", "Brq", "Aq"}  # fmt: skip
CALLED = MDOC - {"Sh", "Ss"} | {"Xr", "Oc", "Dc", "Pc", "Ac", "Bc"}


@dataclass(frozen=True)
class ManualPage:
    """One page.

    Args:
        name: with its section, such as "open(2)".
        section: "1" to "9".
        text: plain, without SEE ALSO and without the title line.
        links: numbers, in the list of pages, of those under SEE ALSO; sorted, itself left out.
        package: the package it is from.
    """

    name: str
    section: str
    text: str
    links: tuple[int, ...]
    package: str = ""


def plain(source: str) -> str:
    """The text of a page without the typesetting: requests, comments and escapes.

    Words of requests that switch fonts are joined as they are printed, so `.BR open (2)` and
    `.Xr open 2` read `open(2)`.
    """
    lines = []
    own = ""  # what a bare .Nm prints
    for line in DEFINITION.sub("", source.replace("\\\n", "")).splitlines():
        if re.match(r"[.'](\\\"|TH\b)", line):
            continue
        line = COMMENT.sub("", line)
        if line[:1] in (".", "'"):
            request, _, rest = line[1:].lstrip().partition(" ")
            words = [quoted or bare for quoted, bare in ARGUMENT.findall(rest)]
            if request == "Nm":
                words = words if words and words[0][:1].isalnum() else [own, *words]
                own = own or words[0]
            if request == "Xr" and len(words) > 1:
                words[:2] = [f"{words[0]}({words[1]})"]
                line = words[0] + _mdoc_words(words[1:])
            elif request in MDOC:
                line = _mdoc_words(words).lstrip()
            elif request in WORDS:
                line = ("" if request in JOINED else " ").join(words)
            else:
                continue
        line = ESCAPE.sub(_meant, line).rstrip()
        if line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _mdoc_words(words: list[str]) -> str:
    """Words without the names of requests among them; marks stand close to the word before."""
    kept = (word for word in words if word not in CALLED)
    return "".join(word if re.fullmatch(r"[.,:;?!)\]]", word) else f" {word}" for word in kept)


def _meant(escape: re.Match[str]) -> str:
    written = escape.group()
    # \\[em] is another writing of \\(em.
    short = f"\\({written[2:-1]}" if written.startswith("\\[") else written
    return MEANING.get(short, "")


def named_links(source: str, section: str, known: Mapping[str, object]) -> list[str]:
    """Names, with their sections, of the pages under SEE ALSO.

    Some packages leave the sections out: in a passage without any, every word that is a page of
    this section in the same package (`known`) is a link.
    """
    passages = [plain(passage) for passage in SEE_ALSO.findall(source)]
    found = [f"{name}({part})" for text in passages for name, part in LINK.findall(text)]
    if found:
        return found
    words = (f"{word}({section})" for text in passages for word in BARE.findall(text))
    return [word for word in words if word in known]


def read_pages(folder: Path, least: int = LEAST_CHARACTERS) -> list[ManualPage]:
    """The pages of all Debian packages in `folder` with `least` characters or more, by package and
    name.

    Links to other names of a page are links to it; links to pages that are not kept are left out.
    A name that several packages have means the page of the same package, otherwise that of the
    first. Pages of one text are one page.
    """
    packages = {path.name.partition("_")[0]: path for path in sorted(folder.glob("*.deb"))}
    held = {package: _read_package(path) for package, path in packages.items()}
    # Every name of every page, as (package, the page's own name).
    meaning: dict[str, dict[str, tuple[str, str]]] = {}
    texts: dict[tuple[str, str], str] = {}
    first_with: dict[str, tuple[str, str]] = {}
    for package, (sources, aliases) in held.items():
        names = meaning[package] = {}
        for name in sorted(sources):
            text = plain(SEE_ALSO.sub("", sources[name]))
            names[name] = key = first_with.setdefault(text, (package, name))
            if key == (package, name) and len(text) >= least:
                texts[key] = text
        for alias, name in aliases.items():
            # An alias of an alias: two steps are all that occur.
            target = aliases.get(name, name)
            if target in sources:
                names.setdefault(alias, names[target])
    everywhere: dict[str, tuple[str, str]] = {}
    for names in meaning.values():
        for name, key in names.items():
            everywhere.setdefault(name, key)
    number = {key: place for place, key in enumerate(texts)}
    pages = []
    for (package, name), text in texts.items():
        own, section = meaning[package], name[-2]
        named = named_links(held[package][0][name], section, own)
        keys = {own.get(link) or everywhere.get(link) for link in named} - {(package, name), None}
        links = tuple(sorted(number[key] for key in keys if key in number))
        pages.append(ManualPage(name, section, text, links, package))
    return pages


def _read_package(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The sources of a package's pages by name, and the names that other names stand for."""
    sources: dict[str, str] = {}
    aliases: dict[str, str] = {}
    with open_debian(path) as archive:
        for member in archive:
            if not (name := _page_name(member.name)):
                continue
            if member.issym() or member.islnk():
                # A hard link names its target from the root, a symbolic one from its folder.
                folder = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
                if target := _page_name("./" + _straight(str(folder / member.linkname))):
                    aliases[name] = target
                continue
            # A few old pages are not UTF-8.
            source = gzip.decompress(archive.extractfile(member).read()).decode("utf8", "replace")
            if other := INCLUDE.match(source):
                aliases[name] = f"{VARIANT.sub('', other.group(1))}({other.group(2)})"
            else:
                sources[name] = source
    return sources, aliases


def _page_name(path: str) -> str | None:
    """The name of the page in a file, or None for another file."""
    found = PAGE.fullmatch(path)
    return f"{VARIANT.sub('', found.group(2))}({found.group(1)})" if found else None


def _straight(path: str) -> str:
    """A path with every `..` worked out and no leading dot."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
