"""Pairs of manual pages of many packages: a larger stand-in than the Linux manual alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Generator

from sextant.contracts import Streams
from sextant.data import locate
from tasks.lra.data import RetrievalData
from tasks.lra.documents import Documents, as_documents
from tasks.lra.manuals import ManualPage, read_pages
from tasks.lra.retrieval import draw_pairs, split_pages
from tasks.lra.sequences import PARTS, Part
from tasks.shared.cache import cached

VERSION = 1


class ManualPairs(RetrievalData):
    """Pairs of the manual pages of sixteen packages, the data set "manuals"; else as its base.

    Two pages belong together when one names the other under SEE ALSO. Every package is split by
    itself, so that all parts have all packages.
    """

    def read(self) -> dict[str, Part]:
        """The parts, from the data set "manuals" or from the release."""
        if self.release:
            return super().read()
        folder = locate("manuals")
        law = {"files": folder.fingerprint, "version": VERSION, "seed": self.split_seed}

        def make() -> dict[str, np.ndarray]:
            generator = Streams(self.split_seed).generator("pairs of pages")
            return make_pairs(folder.path, self.shares, generator)

        generated = cached("manual-pairs", law | {"shares": list(self.shares)}, make)
        arrays = generated.arrays
        self._fingerprints["manuals"] = f"{folder.fingerprint} pairs={generated.content}"
        documents = Documents(arrays["values"], arrays["ends"])
        return {
            name: Part(
                documents,
                torch.tensor(np.asarray(arrays[f"{name}_pairs"])),
                torch.tensor(np.asarray(arrays[f"{name}_labels"])),
            )
            for name in PARTS
        }


def make_pairs(
    folder: Path, shares: Sequence[float], generator: Generator
) -> dict[str, np.ndarray]:
    """Everything from the packages in `folder`: `values` and `ends` of the documents, and for each
    part (train, validation, test) `<part>_pairs` (n, 2) and `<part>_labels` (n,)."""
    pages = read_pages(folder)
    linked = neighbours(pages)
    documents = as_documents(page.text.encode() for page in pages)
    arrays = {"values": documents.values, "ends": documents.ends}
    parts = split_packages(pages, linked, shares, generator)
    for name, part in zip(PARTS, parts, strict=True):
        pairs, labels = draw_pairs(pages, linked, part, generator)
        arrays |= {f"{name}_pairs": pairs.numpy(), f"{name}_labels": labels.numpy()}
    return arrays


def neighbours(pages: Sequence[ManualPage]) -> list[set[int]]:
    """For each page the numbers of the pages it is linked with, in either direction."""
    linked: list[set[int]] = [set() for _ in pages]
    for place, page in enumerate(pages):
        for link in page.links:
            linked[place].add(link)
            linked[link].add(place)
    return linked


def split_packages(
    pages: Sequence[ManualPage],
    linked: Sequence[set[int]],
    shares: Sequence[float],
    generator: Generator,
) -> list[list[int]]:
    """`split_pages` of every package by itself, joined, so that all parts have all packages.

    Grown over all pages, a part would be two or three packages that no other part has.
    """
    of_package: dict[str, list[int]] = {}
    for place, page in enumerate(pages):
        of_package.setdefault(page.package, []).append(place)
    parts: list[list[int]] = [[] for _ in range(1 + len(shares))]
    for members in of_package.values():
        number = {page: place for place, page in enumerate(members)}
        within = [{number[other] for other in linked[page] if other in number} for page in members]
        for part, found in zip(parts, split_pages(within, shares, generator), strict=True):
            part.extend(members[place] for place in found)
    return [sorted(part) for part in parts]
