"""`ostinato.data.text`: the pieces are the text, whatever it is read from."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import pickle
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ostinato.data import text as text_module
from ostinato.data.text import TextSource
from ostinato.data.textfiles import PACKED
from ostinato.errors import DataError, OstinatoError

LAW = settings(max_examples=100, derandomize=True, deadline=None, database=None)
PIECES = st.integers(3, 9)  # bytes read at a time: characters of 2 to 4 bytes lie across cuts
BOM = codecs.BOM_UTF8
MARKS = (*(magic for magic, _ in PACKED.values()), codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def pieces_of(n_bytes: int) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    with patch.context() as here:
        here.setattr(text_module, "PIECE_BYTES", n_bytes)
        yield


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "scratch.txt"


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# The pieces are the text.


@LAW
@given(st.text(min_size=1), PIECES)
@example("a\r\nb\rc\u2028\x00\ufeff\U0001f600é", 3)
@example("\ufeff\ufeffx", 3)
def test_a_string_comes_back(text: str, size: int) -> None:
    with pieces_of(size):
        source = TextSource.from_text(text)
        pieces = list(source)
        assert "".join(pieces) == text
        assert list(source) == pieces, "a second pass is the same"
        assert all(0 < len(piece) <= size for piece in pieces)
        assert source.characters() == len(text)


@LAW
@given(st.text(min_size=1), PIECES, st.booleans())
@example("a\r\nb\rc\u2028\x00\U0001f600é", 4, True)
def test_a_file_comes_back(scratch: Path, text: str, size: int, mark: bool) -> None:
    assume(mark or not text.encode().startswith(MARKS))
    scratch.write_bytes((BOM if mark else b"") + text.encode())
    with pieces_of(size):
        if not mark and text.startswith("\ufeff"):
            text = text[1:]  # it is a byte order mark
            if not text:
                return
        source = TextSource.from_paths(scratch)
        pieces = list(source)
        assert "".join(pieces) == text
        assert list(source) == pieces
        assert all(pieces)
        assert source.characters() == len(text)


@LAW
@given(st.lists(st.text(alphabet="ab\n\réé\ufeff", max_size=9), min_size=1, max_size=5), PIECES)
def test_files_are_joined_by_a_newline_where_one_is_missing(
    scratch: Path, texts: list[str], size: int
) -> None:
    paths = [scratch.with_name(f"joined{i}") for i in range(len(texts))]
    expected = ""
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
        text = text.removeprefix("\ufeff")
        if text and expected and not expected.endswith("\n"):
            expected += "\n"
        expected += text
    with pieces_of(size):
        if expected:
            assert "".join(TextSource.from_paths(paths)) == expected
        else:
            with pytest.raises(DataError, match="the text is empty"):
                TextSource.from_paths(paths)


def test_two_passes_at_once_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "".join(f"{i} é\n" for i in range(50))
    path = write(tmp_path / "a.txt", content.encode())
    standard_input(monkeypatch, content.encode())
    with pieces_of(7):
        for source in (
            TextSource.from_text(content),
            TextSource.from_paths(path),
            TextSource.from_paths("-"),
        ):
            pairs = list(zip(source, source, strict=True))
            assert "".join(a for a, _ in pairs) == content
            assert all(a == b for a, b in pairs)


def test_a_source_of_files_can_go_to_another_process(tmp_path: Path) -> None:
    source = TextSource.from_paths(write(tmp_path / "a.txt", b"abc")).slice(1)
    assert "".join(pickle.loads(pickle.dumps(source))) == "bc"


# Slices.


@LAW
@given(st.text(min_size=1, max_size=40), st.data(), PIECES)
def test_a_slice_is_the_slice_of_the_string(text: str, data: st.DataObject, size: int) -> None:
    bound = st.integers(0, len(text) + 3)
    start, stop = data.draw(bound), data.draw(st.none() | bound)
    inner, outer = data.draw(bound), data.draw(st.none() | bound)
    with pieces_of(size):
        source = TextSource.from_text(text)
        part = source.slice(start, stop)
        assert "".join(part) == text[start:stop]
        assert part.characters() == len(text[start:stop])
        assert "".join(part.slice(inner, outer)) == text[start:stop][inner:outer]
        assert "".join(source.head(inner)) == text[:inner]


def test_a_slice_reads_no_further_than_its_end() -> None:
    def read() -> Iterator[str]:
        yield "abc"
        yield "def"
        raise AssertionError("read beyond the end of the slice")

    assert "".join(TextSource(read).slice(1, 6)) == "bcdef"


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, -1)])
def test_a_negative_bound_is_refused(start: int, stop: int | None) -> None:
    with pytest.raises(OstinatoError, match="cannot be negative"):
        TextSource.from_text("abc").slice(start, stop)


# Invalid UTF-8: Python's own decoder, on the whole file at once, says where.


@LAW
@given(
    st.lists(
        st.binary(max_size=4) | st.text(max_size=4).map(str.encode) | st.just(b"\n"), max_size=8
    ).map(b"".join),
    PIECES,
)
@example(b"ab\xff", 3)
@example(b"abcd\xc3", 3)  # cut short at the end of the file
@example(b"ab\xe2\x82", 3)
@example(b"a\xe2\x82(", 3)
@example(b"\xed\xa0\x80", 3)  # a surrogate
@example(b"\xc0\x80", 3)  # an overlong NUL
@example(b"\xf4\x90\x80\x80", 3)  # beyond U+10FFFF
@example(BOM + b"\n\nabc\xe9", 3)
@example(BOM + b"\xff", 9)
def test_an_invalid_byte_is_named_exactly(scratch: Path, content: bytes, size: int) -> None:
    assume(not content.startswith(MARKS))
    scratch.write_bytes(content)
    try:
        expected, where = content.decode("utf-8").removeprefix("\ufeff"), None
    except UnicodeDecodeError as error:
        expected, where = "", error.start
    with pieces_of(size):
        if where is None:
            if expected:
                assert "".join(TextSource.from_paths(scratch)) == expected
            return
        with pytest.raises(DataError) as caught:
            "".join(TextSource.from_paths(scratch))
    line = content[:where].count(b"\n") + 1
    assert (caught.value.path, caught.value.offset, caught.value.line) == (
        str(scratch),
        where,
        line,
    )
    assert f"{scratch}: line {line}, byte {where}: 0x{content[where]:02X} " in str(caught.value)


def test_the_offset_counts_within_its_own_file_and_not_the_first_piece(tmp_path: Path) -> None:
    good = write(tmp_path / "good.txt", b"good\n" * 10)
    bad = write(tmp_path / "bad.txt", b"x" * 1_500_000 + b"\xe9!")
    source = TextSource.from_paths([good, bad])
    with pytest.raises(DataError) as caught:
        source.characters()
    assert (caught.value.path, caught.value.offset) == (str(bad), 1_500_000)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("naïve".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a\x00", "not valid UTF-16"),
        (b"\x1f\x8b\x08\x00", "cannot be read: Compressed file ended before the end"),
    ],
)
def test_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, advice: str
) -> None:
    path = write(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=advice):
        TextSource.from_paths(path)
    standard_input(monkeypatch, content)
    with pytest.raises(DataError, match=f"^<standard input>: .*{advice}"):
        TextSource.from_paths("-")


@LAW
@given(st.text(min_size=1).filter(lambda text: text.encode()[:1] != b"\xef"), PIECES)
def test_compressed_and_utf_16_files_hold_the_same_text(
    scratch: Path, text: str, size: int
) -> None:
    data = text.encode()
    packed = {".gz": gzip.compress(data), ".bz2": bz2.compress(data), ".xz": lzma.compress(data)}
    for content in (*packed.values(), BOM + data, text.encode("utf-16")):
        scratch.write_bytes(content)
        with pieces_of(size):
            assert "".join(TextSource.from_paths(scratch)) == text


# Files and folders.


def test_a_folder_gives_its_matching_files_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b.txt", "a/2.txt", "a/1.txt", "c.md", "a/.hidden.txt", ".git/x.txt", "B.txt"):
        write(tmp_path / name, f"{name}\n".encode())
    assert "".join(TextSource.from_paths(tmp_path)).split() == [
        "B.txt",
        "a/1.txt",
        "a/2.txt",
        "b.txt",
    ]
    assert "".join(TextSource.from_paths(tmp_path, pattern="*.md")) == "c.md\n"
    several = [tmp_path / "c.md", str(tmp_path / "a")]
    assert "".join(TextSource.from_paths(several)).split() == ["c.md", "a/1.txt", "a/2.txt"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.txt", b"linked\n")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "link").symlink_to(tmp_path / "elsewhere")
    (corpus / "second.txt").symlink_to(tmp_path / "elsewhere/a.txt")
    (corpus / "third").symlink_to(tmp_path / "elsewhere")  # twice, but not in itself
    assert "".join(TextSource.from_paths(corpus)) == "linked\n" * 3


def test_a_folder_that_contains_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "corpus/a.txt")
    (tmp_path / "corpus/deep").mkdir()
    (tmp_path / "corpus/deep/loop").symlink_to(tmp_path / "corpus")
    with pytest.raises(DataError, match=r"deep/loop: is a link back to .*corpus, a folder it lies"):
        TextSource.from_paths(tmp_path)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "loop.txt"
    link.symlink_to(link)
    for path in (link, tmp_path):
        with pytest.raises(DataError, match=r"loop\.txt: cannot be read: .*symbolic links"):
            TextSource.from_paths(path)


def test_a_link_to_nothing_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read: No such file"):
        TextSource.from_paths(tmp_path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt: no such file or folder"):
        TextSource.from_paths(tmp_path / "nowhere.txt")


def test_a_folder_without_a_match_names_folder_and_pattern(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    with pytest.raises(DataError, match=r"no file below this folder matches '\*\.txt'") as caught:
        TextSource.from_paths(tmp_path)
    assert caught.value.path == str(tmp_path)


def test_a_pattern_with_a_folder_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OstinatoError, match="give the sub-folder as a path"):
        TextSource.from_paths(tmp_path, pattern="**/*.txt")


def test_no_path_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no path was given"):
        TextSource.from_paths([])


def test_a_device_is_refused() -> None:
    with pytest.raises(DataError, match="/dev/zero: is neither a file nor a folder"):
        TextSource.from_paths("/dev/zero")


@pytest.mark.parametrize("name", ["closed.txt", "closed"])
def test_what_may_not_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "closed.txt") if name == "closed.txt" else tmp_path / "closed"
    if name == "closed":
        write(path / "a.txt")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=r"closed.*: cannot be read: Permission denied"):
            TextSource.from_paths(path)
    finally:
        os.seteuid(user)
        path.chmod(0o700)


@pytest.mark.parametrize("content", [b"", BOM])
def test_an_empty_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    path = write(tmp_path / "a.txt", content)
    standard_input(monkeypatch, content)
    for source in (path, [path, path], "-"):
        with pytest.raises(DataError, match="the text is empty"):
            TextSource.from_paths(source)
    with pytest.raises(DataError, match="the text is empty"):
        TextSource.from_text("")


def test_a_string_is_wanted() -> None:
    with pytest.raises(OstinatoError, match="text is bytes; expected str"):
        TextSource.from_text(b"abc")  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["grown", "removed"])
def test_a_file_that_changes_between_passes_is_noticed(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.txt", b"before")
    source = TextSource.from_paths(path)
    if change == "removed":
        path.unlink()
    else:
        path.write_bytes(b"before and after")
    with pytest.raises(DataError, match=r"has changed|cannot be read: No such file") as caught:
        list(source)
    assert caught.value.path == str(path)


# Streams that can be read only once.


def test_standard_input_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (BOM + "naïve\r\n".encode(), gzip.compress("naïve\r\n".encode())):
        standard_input(monkeypatch, content)
        source = TextSource.from_paths("-")
        assert "".join(source) == "".join(source) == "naïve\r\n"


def test_standard_input_and_files_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, b"two")
    one = write(tmp_path / "a.txt", b"one")
    assert "".join(TextSource.from_paths([one, "-"])) == "one\ntwo"


def test_standard_input_twice_or_closed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="can be read only once"):
        TextSource.from_paths(["-", "-"])
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="<standard input>: is closed"):
        TextSource.from_paths("-")


def test_a_named_pipe_can_be_read_again(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"through a pipe",))
    writer.start()
    source = TextSource.from_paths(pipe)
    writer.join()
    assert "".join(source) == "".join(source) == "through a pipe"


def test_no_room_for_the_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    standard_input(monkeypatch, b"text")
    monkeypatch.setattr(text_module.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match=r"<standard input>: .*No space left on device; set TMPDIR"):
        TextSource.from_paths("-")


# Memory.


@pytest.mark.parametrize("through", ["file", "pipe"])
def test_memory_does_not_grow_with_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    path = write(tmp_path / "large.txt", "eine große Menge Text\n".encode() * 1_500_000)
    assert path.stat().st_size > 30 << 20
    tracemalloc.start()
    try:
        if through == "pipe":
            with path.open("rb") as stream:
                monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
                source = TextSource.from_paths("-")
        else:
            source = TextSource.from_paths(path)
        n = source.characters()
        assert n == len("eine große Menge Text\n") * 1_500_000
        assert source.slice(n // 2).characters() == n - n // 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
