"""Faces, one class a person: which person is to be forgotten.

Which people are in use and which of a person's photos are for testing is fixed by `split_seed`,
never by the run's seed, which chooses the person to forget as in every module of the family.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from sextant.contracts import Streams
from sextant.data import DataNotFound, locate
from sextant.data.folders import cache_folder
from sextant.ranges import at_least, within
from tasks.shared.cache import cached
from tasks.shared.pictures import Pictures
from tasks.unlearning.data import ForgettingData

if TYPE_CHECKING:
    from PIL import Image

SEED = 2311
VERSION = 1  # counts changes of what is made from VGGFace2's files
FILES = {"extended_yale_b": "extended_yale_b_96x84.npz", "orl": "orl_faces.npz"}
SUFFIXES = (".jpg", ".jpeg", ".png")


class PeopleForgetting(ForgettingData):
    """Photos of people, a share of every person's held out for testing.

    Labels 0..people-1 follow the order of the people's numbers. A person's photos are put in a
    random order, the same in every run; the first `test_share` of them are for testing, the next
    `validation_each` for validation, the rest for training, so no photo is in two parts.

    Args:
        batch_size, steps: of training.
        people: how many are in use, drawn without replacement; more people include fewer.
        side: pixels; every photo is stretched to this square.
        channels: 3, in which grey photos are repeated, or 1, grey.
        test_share: of every person's photos; `test_each` then counts from these.
        split_seed: fixes the people and the order of their photos.
        settings: as `ForgettingData`.

    Raises:
        ValueError: for fewer than 2 people, a side below 1, other channels or a share out of range.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        people: int = 10,
        side: int = 64,
        channels: Literal[1, 3] = 3,
        test_share: float = 0.2,
        split_seed: int = SEED,
        **settings: object,
    ) -> None:
        super().__init__(batch_size, steps, **settings)
        at_least(2, people=people)
        at_least(1, side=side)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels}")
        within("(0, 1)", test_share=test_share)
        self.people, self.side, self.channels = people, side, channels
        self.test_share, self.split_seed = test_share, split_seed

    def photos(self, fixed: Streams) -> Pictures:
        """All photos in use; names what it read in `self._fingerprints`.

        Args:
            fixed: streams of `split_seed`, which draw the people.
        """
        raise NotImplementedError

    def read(self) -> tuple[Pictures, Pictures]:
        """The photos, divided person by person."""
        fixed = Streams(self.split_seed)
        photos = self.photos(fixed)
        train, test = [], []
        for person in range(self.people):
            rows = (photos.labels == person).nonzero()[:, 0]
            rows = rows[torch.randperm(len(rows), generator=fixed.generator("photos", person))]
            held = min(max(1, round(self.test_share * len(rows))), len(rows) - 1)
            test.append(rows[:held])
            train.append(rows[held:])
        return photos.rows(torch.cat(train)), photos.rows(torch.cat(test))


class FacesForgetting(PeopleForgetting):
    """Grey faces: Extended Yale B (38 people, 59 to 64 lights each, one pose) or ORL (40 people, 10
    photos each, several poses).

    Some sixty of the 2,414 Yale photos are nearly black; they stay in, as in the release.

    Args:
        collection: "extended_yale_b" or "orl".
        settings: as `PeopleForgetting`.

    Raises:
        ValueError: for another collection.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        collection: Literal["extended_yale_b", "orl"] = "extended_yale_b",
        **settings: object,
    ) -> None:
        super().__init__(batch_size, steps, **settings)
        if collection not in FILES:
            raise ValueError(f"collection must be one of {', '.join(FILES)}, got {collection!r}")
        self.collection = collection

    def photos(self, fixed: Streams) -> Pictures:
        """Of the data set "faces".

        Raises:
            ValueError: where the collection has fewer people.
        """
        from PIL import Image

        folder = locate("faces")
        self._fingerprints["faces"] = folder.fingerprint
        with np.load(folder.path / FILES[self.collection]) as content:
            images, identities = content["images"], content["identity"]
        known = np.unique(identities)
        if self.people > len(known):
            raise ValueError(f"people must be at most {len(known)}, got {self.people}")
        drawn = torch.randperm(len(known), generator=fixed.generator("people"))[: self.people]
        chosen = known[np.sort(drawn.numpy())]
        rows = np.isin(identities, chosen).nonzero()[0]
        pictures = (Image.fromarray(images[row]) for row in rows)
        labels = np.searchsorted(chosen, identities[rows]).astype(np.int64)
        return Pictures(
            torch.from_numpy(squares(pictures, self.side, self.channels)),
            torch.from_numpy(labels),
        )


class VggFace2Forgetting(PeopleForgetting):
    """VGGFace2 (arXiv 1710.08092) as in Lacuna-10 (arXiv 1911.04933): people with many photos, as
    many of each, the whole photo stretched to a small square, no alignment.

    With the defaults 500 photos of each of 10 people are divided into 400 and 100. Validation is
    taken out of the 400. The script known for making Lacuna draws people and photos with
    replacement, so that a photo may be in both of its parts; here all are drawn without.

    Nothing fetches this data set; the user supplies it. What is read is the folder
    `$SEXTANT_DATA/vggface2`, or `vggface2` in the cache: one folder a person, named n000002 and so
    on, with that person's photos, as in the release's folder `train`. The squares are kept in the
    cache; the fingerprint is that of the names of the files in use and of the squares.
    Photos that differ in name alone count as two, and may be in two parts.

    Args:
        least: photos a person must have to be in use.
        each: photos of every person.
        settings: as `PeopleForgetting`.

    Raises:
        ValueError: where `each` is below 2 or above `least`.
    """

    def __init__(
        self,
        batch_size: int,
        steps: int,
        side: int = 32,
        least: int = 500,
        each: int = 500,
        **settings: object,
    ) -> None:
        super().__init__(batch_size, steps, side=side, **settings)
        if not 2 <= each <= least:
            raise ValueError(f"each must lie in 2..least = {least}, got {each}")
        self.least, self.each = least, each

    def photos(self, fixed: Streams) -> Pictures:
        """Of the supplied folder; about a millisecond a photo, the first time.

        Raises:
            DataNotFound: where nobody supplied it.
            ValueError: where fewer people have `least` photos.
        """
        files = self.files(_supplied(), fixed)
        names = [f"{path.parent.name}/{path.name}" for path in files]
        states = [f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
        law = {"version": VERSION, "files": _digest([*names, *states])}
        law |= {"side": self.side, "channels": self.channels}

        def make() -> dict[str, np.ndarray]:
            return {
                "squares": squares(_opened(files), self.side, self.channels),
                "names": np.array(names),
            }

        made = cached("vggface2", law, make)
        self._fingerprints["vggface2"] = f"files={_digest(names)} content={made.content}"
        labels = torch.arange(self.people).repeat_interleave(self.each)
        # Copied, because the array is mapped and may not be written to.
        return Pictures(torch.from_numpy(np.array(made.arrays["squares"])), labels)

    def files(self, folder: Path, fixed: Streams) -> list[Path]:
        """The photos in use, person by person.

        People are looked at in a random order until enough have `least` photos, which draws evenly
        from all who have, and leaves most of the folders unlisted.

        Raises:
            ValueError: where too few have.
        """
        people = [path for path in sorted(folder.iterdir()) if re.fullmatch(r"n\d{6}", path.name)]
        chosen: dict[str, list[Path]] = {}
        for row in torch.randperm(len(people), generator=fixed.generator("people")).tolist():
            found = sorted(path for path in people[row].iterdir() if _is_photo(path))
            if len(found) >= self.least:
                generator = fixed.generator(f"photos of {people[row].name}")
                drawn = torch.randperm(len(found), generator=generator)[: self.each]
                chosen[people[row].name] = [found[place] for place in drawn.tolist()]
            if len(chosen) == self.people:
                return [path for name in sorted(chosen) for path in chosen[name]]
        raise ValueError(
            f"{folder} must hold at least {self.people} folders named like n000002 with at least "
            f"{self.least} photos each, got {len(chosen)} among {len(people)}"
        )


def squares(pictures: Iterable[Image.Image], side: int, channels: int) -> np.ndarray:
    """Pictures of any sizes as uint8 (n, channels, side, side), stretched by Pillow's bicubic
    filter, which averages where it makes smaller."""
    from PIL import Image

    mode = "L" if channels == 1 else "RGB"
    found = [
        np.asarray(picture.convert(mode).resize((side, side), Image.Resampling.BICUBIC))
        for picture in pictures
    ]
    return np.ascontiguousarray(
        np.stack(found).reshape(len(found), side, side, channels).transpose(0, 3, 1, 2)
    )


def _supplied() -> Path:
    """The folder the user supplied."""
    supplied = os.environ.get("SEXTANT_DATA")
    places = [Path(supplied).expanduser() / "vggface2"] if supplied else []
    places.append(cache_folder() / "vggface2")
    for place in places:
        if place.is_dir():
            return place
    raise DataNotFound(
        "data set 'vggface2' (VGGFace2) was not found and cannot be fetched: put one folder a "
        "person (n000002, ...) with that person's photos, as in the release's folder train, into "
        f"$SEXTANT_DATA/vggface2 or {places[-1]}"
    )


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _opened(files: Iterable[Path]) -> Iterable[Image.Image]:
    """The photos, one at a time.

    Raises:
        ValueError: for a file that is no picture, or only the beginning of one.
    """
    from PIL import Image

    for path in files:
        try:
            with Image.open(path) as picture:
                picture.load()
        except OSError:
            raise ValueError(f"{path} must be a picture, whole and readable, and is not") from None
        yield picture


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
