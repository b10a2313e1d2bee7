"""Pairs of manual pages: reading, splitting, pairing; and the release's pairs."""

import gzip
import io
import shutil
import subprocess
import tarfile
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sextant import data
from sextant.data.sources import open_debian
from tasks.lra import retrieval
from tasks.lra.retrieval import draw_pairs, neighbours, plain, read_pages, split_pages

BODY = "A body long enough to be kept, said again and again. " * 20


def page(name, see_also, section=2, body=BODY):
    return (
        f'.\\" a comment\n.TH {name} {section} 2023-02-05 "Linux"\n.SH NAME\n{name} \\- does it\n'
        f".SH SEE ALSO\n{see_also}\n.SH DESCRIPTION\n.BR {name} ()\n{body}\n"
    )


def package(path, pages, links=()):
    """A Debian package: an ar archive of three members with an xz tar inside."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, text in pages.items():
            content = gzip.compress(text.encode())
            member = tarfile.TarInfo(f"./usr/share/man/man{name[-1]}/{name}.gz")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(f"./usr/share/man/man{name[-1]}/{name}.gz")
            member.type, member.linkname = tarfile.SYMTYPE, f"{target}.gz"
            archive.addfile(member)
    content = b"!<arch>\n"
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": packed.getvalue(),
    }
    for name, body in members.items():
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body
        content += b"\n" * (len(body) % 2)
    path.write_bytes(content)


@pytest.fixture
def pages(tmp_path):
    package(
        tmp_path / "one.deb",
        {
            "open.2": page("open", ".BR close (2),\n.BR creat (2),\n.BR gone (3),\n.BR fopen (3)"),
            "close.2": page("close", ""),
            "read.2": page("read", ".BR open64 (2),\n.BR read (2)"),
            "tiny.2": page("tiny", ".BR open (2)", body="short"),
            "creat.2": ".so man2/close.2\n",
        },
        links=[("open64.2", "open.2"), ("far.3", "../man2/read.2")],
    )
    package(tmp_path / "two.deb", {"fopen.3": page("fopen", ".BR far (3)", section=3)})
    return read_pages(tmp_path)


def test_pages_their_texts_and_their_links(pages):
    assert [p.name for p in pages] == ["close(2)", "fopen(3)", "open(2)", "read(2)"]
    assert [p.section for p in pages] == ["2", "3", "2", "2"]
    # A page's other names are resolved; what is missing, too short or the page itself is dropped.
    assert {p.name: p.links for p in pages} == {
        "close(2)": (),
        "fopen(3)": ("read(2)",),
        "open(2)": ("close(2)", "fopen(3)"),
        "read(2)": ("open(2)",),
    }
    text = pages[2].text
    assert text.startswith("NAME\nopen - does it\nDESCRIPTION\nopen()\nA body")
    assert "SEE ALSO" not in text
    assert "fopen" not in text
    assert "comment" not in text
    assert neighbours(pages) == [{2}, {2, 3}, {0, 1, 3}, {1, 2}]


def test_what_is_no_package_is_refused(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"no archive")
    with pytest.raises(data.SourceFailed, match="no Debian package"):
        open_debian(tmp_path / "x.deb")
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(data.SourceFailed, match="no data archive"):
        open_debian(tmp_path / "x.deb")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (".BR open (2),", "open(2),\n"),
        ('.RB ( read "(2), " write (2),', "(read(2), write(2),\n"),
        (".SM one two", "one two\n"),
        (".PP\n.nf\n.sp 1", "\n"),
        ("the \\fBname\\fP of\\f(CWx\\fR \\(aqy\\(aq \\- \\e0\\&.", "the name ofx 'y' - \\0.\n"),
        ("here\\[em]there \\[u2014]", "here--there\n"),
        ("joined \\\nlines", "joined lines\n"),
        ("'\\\" t\n.TH a b\ntext", "text\n"),
    ],
)
def test_typesetting_goes_and_words_stay(source, text):
    assert plain(source) == text


@st.composite
def graphs(draw):
    n = draw(st.integers(8, 30))
    edges = draw(st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=80))
    linked = [set() for _ in range(n)]
    for a, b in edges:
        if a != b:
            linked[a].add(b)
            linked[b].add(a)
    return linked


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 100))
def test_parts_share_no_page_and_pairs_are_what_their_labels_say(linked, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = split_pages(linked, (0.25, 0.25), generator)
    n = len(linked)
    assert sorted(page for part in parts for page in part) == list(range(n))
    assert [len(part) for part in parts[1:]] == [round(0.25 * n)] * 2
    sections = [str(1 + number % 2) for number in range(n)]
    some = [retrieval.ManualPage(str(k), section, "", ()) for k, section in enumerate(sections)]
    for part in parts:
        pairs, labels = draw_pairs(some, linked, part, generator)
        assert len({frozenset(pair) for pair in pairs.tolist()}) == len(pairs)
        for (a, b), label in zip(pairs.tolist(), labels.tolist(), strict=True):
            assert a != b
            assert {a, b} <= set(part)
            assert (b in linked[a]) == bool(label)
        assert 2 * labels.sum() == len(labels)
        kinds = [
            Counter(frozenset(Counter(sections[page] for page in pair).items()) for pair in chosen)
            for chosen in (pairs[labels == 1].tolist(), pairs[labels == 0].tolist())
        ]
        assert kinds[0] == kinds[1], "the sections tell nothing"


def test_a_part_grows_along_links():
    # Six groups of five pages: a part of five is one group, no link is cut.
    linked = [{5 * (k // 5) + j for j in range(5)} - {k} for k in range(30)]
    for seed in range(5):
        parts = split_pages(linked, (1 / 6, 1 / 6), torch.Generator().manual_seed(seed))
        assert all(len({page // 5 for page in part}) == 1 for part in parts[1:])
    with pytest.raises(ValueError, match="two pages or more"):
        split_pages(linked, (0.5, 0.5), torch.Generator())


def test_release_pairs_are_read(tmp_path):
    path = tmp_path / "new_aan_pairs.train.tsv"
    path.write_text('1.0\tA1\tB2\tfirst "text\tsecond\n0\tB2\tC3\tsecond\tthird ü\n')
    documents, pairs, labels = retrieval.read_release(path)
    assert labels.tolist() == [1, 0]
    assert pairs.tolist() == [[0, 1], [1, 2]]
    tokens, mask = documents.tokens(pairs, 16, 16)
    assert tokens.shape == mask.shape == (2, 2, 16)
    assert torch.equal(tokens[0, 1], tokens[1, 0])
    assert bytes((tokens[1, 1][mask[1, 1]] - 1).tolist()).decode() == "third ü"
    for text in ("1.0\tA\tB\tonly\n", "2\tA\tB\tx\ty\n", ""):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"must be label, id1|holds no pair"):
            retrieval.read_release(path)


def test_the_real_pages_read_as_groff_prints_them():
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    try:
        folder = data.verify("manpages").path
    except data.DataNotFound:
        pytest.skip("the manual pages are not in the cache")
    with open_debian(folder / "manpages-dev_6.03-2_all.deb") as archive:
        for name in ("man2/open.2", "man3/qsort.3", "man2/fork.2"):
            packed = archive.extractfile(f"./usr/share/man/{name}.gz").read()
            source = gzip.decompress(packed).decode()
            command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=1000n", "-rHY=0"]
            printed = subprocess.run(
                command, input=source.encode(), capture_output=True, check=True
            ).stdout.decode()
            theirs, mine = Counter(printed.split()), Counter(plain(source).split())
            common = (theirs & mine).total()
            assert common > 0.9 * max(theirs.total(), mine.total()), name
