"""Do two documents belong together? Pairs of manual pages, and the pairs of the release.

Two pages belong together when one names the other under SEE ALSO. That section is taken out of the
texts; pages are split before pairs are made, so that no page is in two parts.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Generator, Tensor

from sextant.data.sources import open_debian
from tasks.lra.documents import Documents, as_documents

VERSION = 1
LEAST_CHARACTERS = 800
PAGE = re.compile(r"\./usr/share/man/man(\d)/(.+)\.\1\w*\.gz")
LINK = re.compile(r"^\.[BIR]{1,2}\s+(\S+)\s+\((\d)\w*\)", re.MULTILINE)
SEE_ALSO = re.compile(r'^\.SH\s+"?SEE ALSO"?[^\n]*\n(.*?)(?=^\.SH\b|\Z)', re.MULTILINE | re.DOTALL)
ARGUMENT = re.compile(r'"([^"]*)"?|(\S+)')
ESCAPE = re.compile(r"\\(?:f\(..|f\[\w*\]|f.|s[+-]?\d|\(..|\[\w+\]|.)")
MEANING = {"\\-": "-", "\\e": "\\", "\\ ": " ", "\\~": " ", "\\(aq": "'", "\\(dq": '"',
           "\\(bu": "*", "\\(em": "--", "\\(en": "-", "\\(ha": "^", "\\(ti": "~", "\\(lq": '"',
           "\\(rq": '"', "\\(co": "(C)", "\\(rs": "\\", "\\'": "'", "\\`": "`"}  # fmt: skip


@dataclass(frozen=True)
class ManualPage:
    """One page.

    Args:
        name: with its section, such as "open(2)".
        section: "1" to "8".
        text: plain, without SEE ALSO and without the title line.
        links: names of the pages under SEE ALSO, resolved and sorted, itself left out.
    """

    name: str
    section: str
    text: str
    links: tuple[str, ...]


def plain(source: str) -> str:
    """The text of a page without the typesetting: requests, comments and escapes.

    Words of requests that switch fonts are joined as they are printed, so `.BR open (2)` reads
    `open(2)`.
    """
    lines = []
    for line in source.replace("\\\n", "").splitlines():
        if re.match(r"[.'](\\\"|TH\b)", line):
            continue
        if line[:1] in (".", "'"):
            request, _, rest = line[1:].lstrip().partition(" ")
            words = [quoted or bare for quoted, bare in ARGUMENT.findall(rest)]
            line = ("" if request in ("BR", "RB", "BI", "IB", "IR", "RI") else " ").join(words)
            if request not in (
                "SH",
                "SS",
                "B",
                "I",
                "BR",
                "RB",
                "BI",
                "IB",
                "IR",
                "RI",
                "SM",
                "SB",
            ):
                continue
        line = ESCAPE.sub(_meant, line).rstrip()
        if line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _meant(escape: re.Match[str]) -> str:
    written = escape.group()
    # \\[em] is another writing of \\(em.
    short = f"\\({written[2:-1]}" if written.startswith("\\[") else written
    return MEANING.get(short, "")


def read_pages(folder: Path, least: int = LEAST_CHARACTERS) -> list[ManualPage]:
    """The pages of all Debian packages in `folder` with `least` characters or more, by name.

    Links to other names of a page are links to it; links to pages that are not kept are left out.
    """
    sources: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for package in sorted(folder.glob("*.deb")):
        with open_debian(package) as archive:
            for member in archive:
                found = PAGE.fullmatch(member.name)
                if not found:
                    continue
                section, stem = found.groups()
                name = f"{stem}({section})"
                if member.issym():
                    target = str(PurePosixPath(member.name).parent / member.linkname)
                    if found := PAGE.search("./" + _straight(target)):
                        aliases[name] = f"{found.group(2)}({found.group(1)})"
                    continue
                source = gzip.decompress(archive.extractfile(member).read()).decode("utf8")
                if other := re.match(r"\.so (?:man\d/)?(\S+)\.(\d)", source):
                    aliases[name] = f"{other.group(1)}({other.group(2)})"
                else:
                    sources[name] = source
    texts = {name: plain(SEE_ALSO.sub("", source)) for name, source in sources.items()}
    kept = {name for name, text in texts.items() if len(text) >= least}
    pages = []
    for name in sorted(kept):
        named = (
            f"{target}({section})"
            for passage in SEE_ALSO.findall(sources[name])
            for target, section in LINK.findall(passage.replace("\\-", "-"))
        )
        links = {aliases.get(link, link) for link in named} & kept - {name}
        pages.append(ManualPage(name, name[-2], texts[name], tuple(sorted(links))))
    return pages


def _straight(path: str) -> str:
    """A path with every `..` worked out and no leading dot."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def neighbours(pages: Sequence[ManualPage]) -> list[set[int]]:
    """For each page the numbers of the pages it is linked with, in either direction."""
    number = {page.name: place for place, page in enumerate(pages)}
    linked: list[set[int]] = [set() for _ in pages]
    for place, page in enumerate(pages):
        for link in page.links:
            linked[place].add(number[link])
            linked[number[link]].add(place)
    return linked


def split_pages(
    linked: Sequence[set[int]], shares: Sequence[float], generator: Generator
) -> list[list[int]]:
    """Disjoint parts of the pages: first the rest, then one part for each of `shares`; sorted.

    A part grows from one page by taking, again and again, the page with the largest share of its
    links inside the part, so that few links are cut. Time is quadratic in the pages.

    Raises:
        ValueError: for shares that leave nothing.
    """
    n = len(linked)
    sizes = [round(share * n) for share in shares]
    if min(sizes, default=0) < 2 or sum(sizes) > n - 2:
        raise ValueError(f"shares of {n} pages must leave two pages or more in every part")
    free = set(range(n))
    order = torch.randperm(n, generator=generator).tolist()
    parts = []
    for size in sizes:
        part: set[int] = set()
        while len(part) < size:
            edge = sorted({other for page in part for other in linked[page]} & free)
            if edge:
                chosen = max(edge, key=lambda page: len(linked[page] & part) / len(linked[page]))
            else:
                chosen = next(page for page in order if page in free)
            part.add(chosen)
            free.remove(chosen)
        parts.append(sorted(part))
    return [sorted(free), *parts]


def draw_pairs(
    pages: Sequence[ManualPage],
    linked: Sequence[set[int]],
    part: Sequence[int],
    generator: Generator,
) -> tuple[Tensor, Tensor]:
    """All linked pairs of a part and as many unlinked ones: (pairs int64 (n, 2), labels (n,)).

    Every unlinked pair takes the first page of a linked pair and draws, among the pages of the
    part in the section of its second page, one that is not linked with the first; so neither the
    sections nor the first page tell the label. A linked pair for which there is none is dropped.
    No pair comes twice; the order in a pair is drawn.
    """
    members = set(part)
    of_section: dict[str, list[int]] = {}
    for page in part:
        of_section.setdefault(pages[page].section, []).append(page)
    positive, negative, taken = [], [], set()
    for first in part:
        for second in sorted(linked[first] & members):
            if first > second:
                continue
            pair = (first, second) if _coin(generator) else (second, first)
            choices = [
                page
                for page in of_section[pages[pair[1]].section]
                if page != pair[0]
                and page not in linked[pair[0]]
                and frozenset((pair[0], page)) not in taken
            ]
            if not choices:
                continue
            other = choices[int(torch.randint(len(choices), (1,), generator=generator))]
            taken.add(frozenset((pair[0], other)))
            positive.append(pair)
            negative.append((pair[0], other) if _coin(generator) else (other, pair[0]))
    pairs = torch.tensor(positive + negative, dtype=torch.int64).reshape(-1, 2)
    labels = torch.cat((torch.ones(len(positive)), torch.zeros(len(negative)))).long()
    return pairs, labels


def make_pairs(
    folder: Path, shares: Sequence[float], generator: Generator
) -> dict[str, np.ndarray]:
    """Everything from the packages in `folder`: `values` and `ends` of the documents, and for each
    part (train, validation, test) `<part>_pairs` (n, 2) and `<part>_labels` (n,)."""
    pages = read_pages(folder)
    linked = neighbours(pages)
    documents = as_documents(page.text.encode() for page in pages)
    arrays = {"values": documents.values, "ends": documents.ends}
    parts = split_pages(linked, shares, generator)
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        pairs, labels = draw_pairs(pages, linked, part, generator)
        arrays |= {f"{name}_pairs": pairs.numpy(), f"{name}_labels": labels.numpy()}
    return arrays


def _coin(generator: Generator) -> bool:
    return bool(torch.randint(2, (1,), generator=generator))


def read_release(path: Path) -> tuple[Documents, Tensor, Tensor]:
    """The pairs of a release file `new_aan_pairs.{train,eval,test}.tsv`.

    Its rows are label, id1, id2, text1, text2 without header and without quoting; the label is 0
    or 1, also written 0.0 or 1.0. Rows share the text of an id.

    Returns:
        The documents, the pairs int64 (n, 2) of document numbers, the labels int64 (n,).

    Raises:
        ValueError: for a row of another form, or a file without rows.
    """
    texts: dict[tuple[bytes, bytes], int] = {}
    pairs, labels = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip(b"\r\n").split(b"\t")
            if len(fields) != 5 or fields[0] not in (b"0", b"1", b"0.0", b"1.0"):
                raise ValueError(f"{path} line {number} must be label, id1, id2, text1, text2")
            labels.append(int(float(fields[0])))
            keys = zip(fields[1:3], fields[3:5], strict=True)
            pairs.append([texts.setdefault(key, len(texts)) for key in keys])
    if not pairs:
        raise ValueError(f"{path} holds no pair")
    documents = as_documents(text for _, text in texts)
    return documents, torch.tensor(pairs), torch.tensor(labels)
