"""Data modules of the Arena: ListOps, Text, Retrieval, Image and Pathfinder.

Lengths, sizes and vocabularies default to the published protocol. `release` names a folder of the
Arena's own release; None generates the data or takes the data set named in the class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sextant.contracts import Streams
from sextant.data import locate
from tasks.lra import images as pictures
from tasks.lra import listops, pathfinder, retrieval, text
from tasks.lra.documents import Documents
from tasks.lra.sequences import PARTS, Part, SequenceData, content_fingerprint, slices
from tasks.shared import cifar10
from tasks.shared.cache import cached

SEED = 2512  # of generated data and of splits: the same for every run


class ListopsData(SequenceData):
    """ListOps: ten classes, fifteen symbols (digits 1..10, operators 11..14, bracket 15).

    Args:
        law: which expressions are drawn.
        train, validation, test: how many.
        drop_close_brackets: leave the closing brackets out, as some public pipelines do by
            accident; the expressions are ambiguous then.
        release: folder with `basic_{train,val,test}.tsv`; then law and sizes are not used.
        generation_seed: fixes the expressions.
        workers: processes that draw; None uses all cores.
        settings: as `SequenceData`, `length` 2048 and `vocabulary` 32 by default.
    """

    classes = listops.CLASSES
    least_vocabulary = len(listops.SYMBOLS)

    def __init__(
        self,
        batch_size: int,
        steps: int,
        law: listops.ListopsLaw | None = None,
        train: int = 96000,
        validation: int = 2000,
        test: int = 2000,
        drop_close_brackets: bool = False,
        release: str | Path | None = None,
        generation_seed: int = SEED,
        workers: int | None = None,
        length: int = 2048,
        vocabulary: int = 32,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size, steps, length, vocabulary, **settings)
        self.law = law or listops.ListopsLaw()
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.drop_close_brackets, self.release = drop_close_brackets, release
        self.generation_seed, self.workers = generation_seed, workers

    def read(self) -> dict[str, Part]:
        """The parts, drawn or from the release."""
        parts = self._released() if self.release else self._generated()
        stores = {id(part.documents): part.documents for part in parts.values()}
        if self.drop_close_brackets:
            stores = {key: store.without(listops.CLOSE) for key, store in stores.items()}
        for store in stores.values():
            self._must_fit(store)
        return {
            name: part._replace(documents=stores[id(part.documents)])
            for name, part in parts.items()
        }

    def _generated(self) -> dict[str, Part]:
        rows = slices(self.sizes)
        drawn, generated = listops.cached_expressions(
            self.law, self.generation_seed, sum(self.sizes.values()), self.workers
        )
        self._fingerprints["listops"] = (
            f"{self.law} seed={self.generation_seed} content={generated.content}"
        )
        documents = Documents(drawn.tokens, drawn.ends, shift=0)
        labels = torch.tensor(np.asarray(drawn.labels), dtype=torch.int64)
        return {name: Part(documents, rows[name], labels[rows[name]]) for name in PARTS}

    def _released(self) -> dict[str, Part]:
        parts = {}
        for name, short in zip(PARTS, ("train", "val", "test"), strict=True):
            found = listops.read_release(Path(self.release) / f"basic_{short}.tsv")
            labels = torch.tensor(found.labels, dtype=torch.int64)
            documents = Documents(found.tokens, found.ends, shift=0)
            parts[name] = Part(documents, torch.arange(len(labels)), labels)
        self._fingerprints["listops"] = f"release content={content_fingerprint(parts)}"
        return parts


class TextData(SequenceData):
    """IMDb reviews as bytes, token = byte + 1: is a review positive?

    Args:
        official_dev: train on all 25,000 training reviews and validate on the test reviews, as
            every public pipeline does; otherwise a tenth of the training reviews is held out.
        validation_share: the share held out.
        split_seed: fixes which.
        settings: as `SequenceData`, `length` 4096, `truncate` 4000 (or `length`, where that is
            shorter) and `vocabulary` 512 by default.
    """

    classes = 2
    least_vocabulary = 257

    def __init__(
        self,
        batch_size: int,
        steps: int,
        official_dev: bool = False,
        validation_share: float = 0.1,
        split_seed: int = SEED,
        length: int = 4096,
        vocabulary: int = 512,
        truncate: int | None = None,
        **settings: Any,
    ) -> None:
        truncate = min(4000, length) if truncate is None else truncate
        super().__init__(batch_size, steps, length, vocabulary, truncate, **settings)
        self.official_dev, self.validation_share = official_dev, validation_share
        self.split_seed = split_seed

    def read(self) -> dict[str, Part]:
        """The parts, from the data set "imdb"."""
        folder = locate("imdb")
        self._fingerprints["imdb"] = folder.fingerprint
        documents, labels = text.read_reviews(folder.path / "train.parquet")
        test_documents, test_labels = text.read_reviews(folder.path / "test.parquet")
        test = Part(test_documents, torch.arange(len(test_labels)), test_labels)
        if self.official_dev:
            train = Part(documents, torch.arange(len(labels)), labels)
            return {"train": train, "validation": test, "test": test}
        generator = Streams(self.split_seed).generator("held-out reviews")
        kept, held = text.held_out(labels, self.validation_share, generator)
        return {
            "train": Part(documents, kept, labels[kept]),
            "validation": Part(documents, held, labels[held]),
            "test": test,
        }


class RetrievalData(SequenceData):
    """Two documents as bytes, token = byte + 1: do they belong together?

    Args:
        release: folder with `new_aan_pairs.{train,eval,test}.tsv`; None takes pairs of manual
            pages, split by page.
        validation_share, test_share: of the pages.
        split_seed: fixes the split and the pairs.
        settings: as `SequenceData`, `length` 4096, `truncate` 4000 (or `length`, where that is
            shorter) and `vocabulary` 512 by default.
    """

    classes = 2
    least_vocabulary = 257
    two_documents = True

    def __init__(
        self,
        batch_size: int,
        steps: int,
        release: str | Path | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.15,
        split_seed: int = SEED,
        length: int = 4096,
        vocabulary: int = 512,
        truncate: int | None = None,
        **settings: Any,
    ) -> None:
        truncate = min(4000, length) if truncate is None else truncate
        super().__init__(batch_size, steps, length, vocabulary, truncate, **settings)
        self.release, self.split_seed = release, split_seed
        self.shares = (validation_share, test_share)

    def read(self) -> dict[str, Part]:
        """The parts, from the data set "manpages" or from the release."""
        if self.release:
            names = zip(PARTS, ("train", "eval", "test"), strict=True)
            parts = {
                name: Part(
                    *retrieval.read_release(Path(self.release) / f"new_aan_pairs.{short}.tsv")
                )
                for name, short in names
            }
            self._fingerprints["aan"] = f"release content={content_fingerprint(parts)}"
            return parts
        folder = locate("manpages")
        law = {"files": folder.fingerprint, "version": retrieval.VERSION, "seed": self.split_seed}

        def make() -> dict[str, np.ndarray]:
            generator = Streams(self.split_seed).generator("pairs of pages")
            return retrieval.make_pairs(folder.path, self.shares, generator)

        generated = cached("manual-pairs", law | {"shares": list(self.shares)}, make)
        arrays = generated.arrays
        self._fingerprints["manpages"] = f"{folder.fingerprint} pairs={generated.content}"
        documents = Documents(arrays["values"], arrays["ends"])
        return {
            name: Part(
                documents,
                torch.tensor(np.asarray(arrays[f"{name}_pairs"])),
                torch.tensor(np.asarray(arrays[f"{name}_labels"])),
            )
            for name in PARTS
        }


class ImageData(SequenceData):
    """CIFAR-10 in grey, pixels in reading order as tokens 0..255.

    The first nine tenths of the training images train, the last tenth validates.

    Args:
        side: of the images; 32, or a divisor of it, for which squares of pixels are averaged.
        settings: as `SequenceData`; `length` is the number of pixels, `vocabulary` 256 by default.
    """

    classes = cifar10.CLASSES
    least_vocabulary = 256

    def __init__(
        self,
        batch_size: int,
        steps: int,
        side: int = cifar10.SIDE,
        vocabulary: int = 256,
        **settings: Any,
    ) -> None:
        super().__init__(batch_size, steps, side * side, vocabulary, **settings)
        self.side = side

    def read(self) -> dict[str, Part]:
        """The parts, from the data set "cifar10"."""
        folder = locate("cifar10")
        self._fingerprints["cifar10"] = folder.fingerprint

        def make() -> dict[str, np.ndarray]:
            arrays = {}
            for part in ("train", "test"):
                colour, labels = cifar10.read_cifar10(folder.path, part)
                arrays |= {f"{part}_images": pictures.grey(colour), f"{part}_labels": labels}
            return arrays

        law = {"files": folder.fingerprint, "version": pictures.GREY_VERSION}
        arrays = cached("cifar10-grey", law, make).arrays
        train, test = (
            _pixels(pictures.shrunk(arrays[f"{part}_images"], self.side), arrays[f"{part}_labels"])
            for part in ("train", "test")
        )
        cut = len(train.labels) * 9 // 10
        return {
            "train": Part(train.documents, train.rows[:cut], train.labels[:cut]),
            "validation": Part(train.documents, train.rows[cut:], train.labels[cut:]),
            "test": test,
        }


class PathfinderData(SequenceData):
    """Pathfinder, pixels in reading order as tokens 0..255: do the discs stand on one path?

    Args:
        law: which images are drawn; the Arena's by `law_of_side(side)`, 32 pixels by default.
        train, validation, test: how many.
        release: folder of one split of the Arena's release; then its images are divided
            80/10/10 at random (fixed by the seed) and law and sizes are not used, but the law's
            `side` must be the images'.
        generation_seed: fixes the images.
        workers: processes that draw; None uses all cores.
        settings: as `SequenceData`; `length` is the number of pixels, `vocabulary` 512 by default.
    """

    classes = 2
    least_vocabulary = 256

    def __init__(
        self,
        batch_size: int,
        steps: int,
        law: pathfinder.PathfinderLaw | None = None,
        train: int = 160000,
        validation: int = 20000,
        test: int = 20000,
        release: str | Path | None = None,
        generation_seed: int = SEED,
        workers: int | None = None,
        vocabulary: int = 512,
        **settings: Any,
    ) -> None:
        self.law = law or pathfinder.PathfinderLaw()
        super().__init__(batch_size, steps, self.law.side**2, vocabulary, **settings)
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.release, self.generation_seed, self.workers = release, generation_seed, workers

    def read(self) -> dict[str, Part]:
        """The parts, drawn or from the release."""
        if self.release:
            return self._released()
        rows = slices(self.sizes)
        generated = pathfinder.cached_images(
            self.law, self.generation_seed, sum(self.sizes.values()), self.workers
        )
        self._fingerprints["pathfinder"] = (
            f"{self.law} seed={self.generation_seed} content={generated.content}"
        )
        whole = _pixels(generated.arrays["images"], generated.arrays["labels"])
        return {name: Part(whole.documents, rows[name], whole.labels[rows[name]]) for name in PARTS}

    def _released(self) -> dict[str, Part]:
        images, labels = pathfinder.read_release(Path(self.release))
        if images.shape[1] != self.law.side:
            raise ValueError(
                f"law must have the release's side {images.shape[1]}, got {self.law.side}"
            )
        whole = _pixels(images, labels)
        generator = Streams(self.generation_seed).generator("parts of the release")
        order = torch.randperm(len(labels), generator=generator)
        cuts = [0, len(labels) * 8 // 10, len(labels) * 9 // 10, len(labels)]
        parts = {}
        for place, name in enumerate(PARTS):
            rows = order[cuts[place] : cuts[place + 1]].sort().values
            parts[name] = Part(whole.documents, rows, whole.labels[rows])
        self._fingerprints["pathfinder"] = f"release content={content_fingerprint(parts)}"
        return parts


def _pixels(images: np.ndarray, labels: np.ndarray) -> Part:
    """Images uint8 (n, side, side) as documents of side^2 tokens 0..255, all of them examples."""
    ends = np.arange(1, len(images) + 1) * images[0].size
    documents = Documents(images.reshape(-1), ends, shift=0)
    rows = torch.arange(len(images))
    return Part(documents, rows, torch.tensor(np.asarray(labels), dtype=torch.int64))
