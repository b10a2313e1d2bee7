"""Manual pages of Debian packages: their names, their plain texts and their links."""

import gzip
import io
import shutil
import subprocess
import tarfile
from collections import Counter

import pytest

from sextant import data
from sextant.data.sources import open_debian
from tasks.lra.manuals import SEE_ALSO, named_links, plain, read_pages

BODY = "said again and again. " * 45


def page(name, see_also, section=2, body=BODY):
    return (
        f'.\\" a comment\n.TH {name} {section} 2023-02-05 "Linux"\n.SH NAME\n{name} \\- does it\n'
        f".SH SEE ALSO\n{see_also}\n.SH DESCRIPTION\n.BR {name} ()\n{name} {body}\n"
    )


def package(path, pages, links=()):
    """A Debian package: an ar archive of three members with an xz tar inside."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, text in pages.items():
            content = gzip.compress(text.encode("latin1"))
            member = tarfile.TarInfo(_place(name))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(_place(name))
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


def _place(name):
    return f"./usr/share/man/man{name.rpartition('.')[2][0]}/{name}.gz"


def links(pages):
    return {page.name: tuple(pages[other].name for other in page.links) for page in pages}


@pytest.fixture
def pages(tmp_path):
    package(
        tmp_path / "one_1.deb",
        {
            "open.2": page("open", ".BR close (2),\n.BR creat (2),\n.BR gone (3),\n.BR fopen (3)"),
            "close.2": page("close", ""),
            "read.2": page("read", ".BR open64 (2),\n.BR read (2)"),
            "tiny.2": page("tiny", ".BR open (2)", body="short"),
            "creat.2": ".so man2/close.2\n",
        },
        links=[("open64.2", "open.2"), ("far.3", "../man2/read.2")],
    )
    package(tmp_path / "two_1.deb", {"fopen.3": page("fopen", ".BR far (3)", section=3)})
    return read_pages(tmp_path)


def test_pages_their_texts_and_their_links(pages):
    assert [p.name for p in pages] == ["close(2)", "open(2)", "read(2)", "fopen(3)"]
    assert [p.section for p in pages] == ["2", "2", "2", "3"]
    assert [p.package for p in pages] == ["one", "one", "one", "two"]
    # A page's other names are resolved; what is missing, too short or the page itself is dropped.
    assert links(pages) == {
        "close(2)": (),
        "open(2)": ("close(2)", "fopen(3)"),
        "read(2)": ("open(2)",),
        "fopen(3)": ("read(2)",),
    }
    text = pages[1].text
    assert text.startswith("NAME\nopen - does it\nDESCRIPTION\nopen()\nopen said")
    assert "SEE ALSO" not in text
    assert "fopen" not in text
    assert "comment" not in text


def test_a_name_means_the_page_of_its_own_package_first(tmp_path):
    body = "MPI \xe9 " + BODY
    package(
        tmp_path / "mpich-doc_1.deb",
        {
            "MPI_Put.mpich.3": page("MPI_Put", "MPI_Get", body="one " + body),
            "MPI_Get.mpich.3": page("MPI_Get", "", body="two " + body),
        },
    )
    package(
        tmp_path / "openmpi-doc_1.deb",
        {
            "MPI_Put.openmpi.3": page("MPI_Put", "MPI_Get(3), MPI_Win(3)", body="three " + body),
            "MPI_Rget.openmpi.3": ".so man3/MPI_Get.openmpi.3\n",
            "MPI_Get.openmpi.3": page("MPI_Get", "", body="four " + body),
            "MPI_Win.openmpi.3": page("MPI_Win", "MPI_Rget(3), SSL(3)", body="five " + body),
            "MPI_Copy.openmpi.3": page("MPI_Win", "MPI_Put(3)", body="five " + body),
        },
    )
    package(
        tmp_path / "libssl-doc_1.deb",
        {"SSL_new.3ssl": page("SSL_new", "", section="3ssl")},
        links=[("SSL.3ssl", "SSL_new.3ssl"), ("SSL_old.3ssl", "SSL.3ssl")],
    )
    pages = read_pages(tmp_path)
    named = [(p.package, p.name, tuple(pages[k].package for k in p.links)) for p in pages]
    assert named == [
        ("libssl-doc", "SSL_new(3)", ()),
        ("mpich-doc", "MPI_Get(3)", ()),
        ("mpich-doc", "MPI_Put(3)", ("mpich-doc",)),
        # MPI_Copy has the text of MPI_Win, so they are one page under its first name.
        ("openmpi-doc", "MPI_Copy(3)", ("openmpi-doc",)),
        ("openmpi-doc", "MPI_Get(3)", ()),
        ("openmpi-doc", "MPI_Put(3)", ("openmpi-doc", "openmpi-doc")),
    ]


@pytest.mark.parametrize(
    ("passage", "found"),
    [
        # man-pages
        (
            ".BR chmod (2),\n.BR capabilities (7)\nand\n.BR re\\-open (3p).",
            "chmod 2 capabilities 7 re-open 3",
        ),
        # mdoc: freebsd-manpages
        (".Xr abort 3 ,\n.Xr exit 3 ,\n.Rs\n.%T \"A book\"\n.Re", "abort 3 exit 3"),
        # pod2man: libssl-doc
        (
            '.IX Header "SEE ALSO"\n\\&\\fBERR_get_error\\fR\\|(3), \\fBd2i_X509\\fR\\|(3),\n'
            "\\&\\fBopenssl\\-verify\\fR\\|(1)",
            "ERR_get_error 3 d2i_X509 3 openssl-verify 1",
        ),
        # ncurses-doc, allegro4-doc, libcurl4-doc
        ("\\fBaddstr\\fP(3NCURSES),\n\\fBadd_wch\\fP(3NCURSES).", "addstr 3 add_wch 3"),
        (".BR al_assert (3alleg4),\n.BR TRACE (3alleg4)", "al_assert 3 TRACE 3"),
        (
            '.BR CURLINFO_CAPATH "(3), "\n.BR curl_easy_getinfo "(3), " curl_easy_setopt "(3), "',
            "CURLINFO_CAPATH 3 curl_easy_getinfo 3 curl_easy_setopt 3",
        ),
        # erlang-manpages
        (".LP\n\\fIfilename(3erl)\\fR\\&, \\fIcompile(3erl)\\fR\\&", "filename 3 compile 3"),
        # git-man
        (".sp\n\\fBgit-am\\fR(1)\\&.", "git-am 1"),
        # libx11-doc
        ("AllPlanes(3),\nXFree(3)\n.br\n\\fI\\*(xL\\fP", "AllPlanes 3 XFree 3"),
        # Without sections, openmpi-doc, inventor-doc and tk8.6-doc: words that are pages.
        (".ft R\n.sp\nMPI_Put\nMPI_Reduce\nMPI_None", "MPI_Put 3 MPI_Reduce 3"),
        ("Ttk_Layout, ttk::button or others", "Ttk_Layout 3 ttk::button 3"),
        # ... but not beside links that have one.
        ("MPI_Put and\n.BR MPI_Reduce (3)", "MPI_Reduce 3"),
    ],
)  # fmt: skip
def test_links_are_read_in_the_forms_that_packages_write(passage, found):
    known = dict.fromkeys(["MPI_Put(3)", "MPI_Reduce(3)", "Ttk_Layout(3)", "ttk::button(3)"])
    heading = ".Sh" if ".Xr" in passage else ".SH"
    source = f'{heading} NAME\nx\n{heading} "SEE ALSO"\n{passage}\n{heading} BUGS\n.BR none (3)\n'
    names = named_links(source, "3", known)
    assert names == [f"{a}({b})" for a, b in zip(*[iter(found.split())] * 2, strict=True)]


@pytest.mark.parametrize(
    "heading",
    [".SH SEE ALSO", '.SH "SEE ALSO"', ".Sh SEE ALSO", ".SH See Also", '.SH "See also" \\" x'],
)  # fmt: skip
def test_the_whole_section_goes(heading):
    section = heading[:3]
    inner = section[:2] + ("S" if section == ".SH" else "s")
    source = f"{section} NAME\na\n{heading}\nb\n{inner} c\nd\n{section} LAST\ne\n"
    rest = plain(SEE_ALSO.sub("", source))
    assert rest.split()[:2] == ["NAME", "a"]
    assert rest.split()[-2:] == ["LAST", "e"]
    assert "also" not in rest.lower()
    assert "b" not in rest.split()


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
        ('text \\" a remark\n.B bold \\" too', "text\nbold\n"),
        ("\\*(L\"a\\*(R\" \\h'-04'b\\m[blue]c\\m[]", "a bc\n"),
        ('.de VS\n.ds x\nleft\n..\n.de1 QW "a"\nleft\n..\nkept', "kept\n"),
        (".Dd May\n.Nm open , openat\n.Nd it\n.Nm\nis", "open, openat\nit\nopen\nis\n"),
        (".Nm open\n.Xr read 2 ,\nand\n.Fl a Ar file .", "open\nread(2),\nand\na file.\n"),
    ],
)  # fmt: skip
def test_typesetting_goes_and_words_stay(source, text):
    assert plain(source) == text


def test_what_is_no_package_is_refused(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"no archive")
    with pytest.raises(data.SourceFailed, match="no Debian package"):
        open_debian(tmp_path / "x.deb")
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(data.SourceFailed, match="no data archive"):
        open_debian(tmp_path / "x.deb")


@pytest.mark.parametrize(
    ("package", "names", "kind"),
    [
        ("manpages-dev_6.03-2_all.deb", ("man2/open.2", "man3/qsort.3", "man2/fork.2"), "-man"),
        ("libssl-doc_3.0.20-1~deb12u2_all.deb", ("man3/SSL_read.3ssl", "man3/BN_add.3ssl"), "-man"),
        ("freebsd-manpages_12.2-1_all.deb", ("man2/open.2freebsd", "man9/mutex.9freebsd"), "-mdoc"),
    ],
)
def test_the_real_pages_read_as_groff_prints_them(package, names, kind):
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    try:
        folder = data.verify("manuals").path
    except data.DataNotFound:
        pytest.skip("the manual pages are not in the cache")
    # groff marks the options of mdoc with a dash and its arguments with brackets.
    least = 0.9 if kind == "-man" else 0.75
    with open_debian(folder / package) as archive:
        for name in names:
            packed = archive.extractfile(f"./usr/share/man/{name}.gz").read()
            source = gzip.decompress(packed).decode()
            command = ["groff", kind, "-Tascii", "-P-cbou", "-rLL=1000n", "-rHY=0"]
            printed = subprocess.run(
                command, input=source.encode(), capture_output=True, check=True
            ).stdout.decode()
            theirs, mine = Counter(printed.split()), Counter(plain(source).split())
            common = (theirs & mine).total()
            assert common > least * max(theirs.total(), mine.total()), name
