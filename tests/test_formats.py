"""Tables of every format: cells as they were written, however a file is cut, packed or held."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re
import zipfile

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.data import textfiles
from ostinato.data.formats import read_table
from ostinato.data.tables import TableSettings
from ostinato.data.textfiles import library_errors, numbered_lines
from ostinato.errors import DataError, MissingExtra, OstinatoError


@pytest.fixture
def write(tmp_path):
    """Writes a file; gives its path."""

    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def cells(table):
    return [
        list(row) for row in zip(*(table.texts(i) for i in range(len(table.names))), strict=True)
    ]


# Laws


@st.composite
def texts_of_tables(draw):
    """Rows, and the text of a CSV file that holds them."""
    width = draw(st.integers(2, 4))
    cell = st.one_of(
        st.sampled_from(["NA", "007", "1,234", "1.5", "-3", "1e5", "", "true", "nan", " x ", "ü"]),
        st.integers(-1000, 1000).map(str),
        st.text(alphabet='ab ",;\n\t1.é', max_size=5),
    )
    rows = draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=1, max_size=30))
    rows = [[f"{i}x", *row[1:]] for i, row in enumerate(rows)] * draw(st.sampled_from([1, 1, 50]))
    out = io.StringIO()
    delimiter = draw(st.sampled_from(",;\t"))
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(
        [["one", *"abc"[: width - 1]], *rows]
    )
    return rows, delimiter, out.getvalue()


@settings(deadline=None, max_examples=150)
@given(texts_of_tables(), st.integers(1, 60))
def test_every_cell_is_what_was_written(tmp_path_factory, drawn, piece):
    """However the text is cut into pieces, and whatever pandas would make of a cell."""
    rows, delimiter, text = drawn
    path = tmp_path_factory.mktemp("t") / "a.csv"
    path.write_text(f"sep={delimiter}\n{text}", encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfiles, "PIECE", piece)
        table = read_table(path, TableSettings(header=True))
        # Lines end in \n, also within cells.
        assert cells(table) == [[cell.replace("\r\n", "\n") for cell in row] for row in rows]
        lines = path.read_text(encoding="utf-8").split("\n")
        for row in (0, len(rows) // 2, len(rows) - 1):
            assert lines[table.place(row).line - 1].lstrip('"').startswith(rows[row][0])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40),
    st.sampled_from([1, 60]),
)
def test_numbers_are_those_of_python_however_they_are_held(tmp_path_factory, numbers, times):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    rows = [(f"{x!r}", f"{int(x) % 7}", str(i)) for i, x in enumerate(numbers * times)]
    path.write_text("\n".join([",".join("xyz"), *map(",".join, rows)]))
    table = read_table(path)
    assert table.numbers([0, 1, 2]).tolist() == [[float(c) for c in row] for row in rows]
    assert cells(table) == [list(row) for row in rows]


# Formats

FRAME = pandas.DataFrame(
    {"text": ["a b", "c", "d"], "label": ["007", "NA", "1,234"], "n": [1.5, 2, 3]}
)
WANTED = [["a b", "007", "1.5"], ["c", "NA", "2.0"], ["d", "1,234", "3.0"]]
WRITERS = {
    "a.csv": lambda path: FRAME.to_csv(path, index=False),
    "a.tsv": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "a.tab": lambda path: FRAME.to_csv(path, index=False, sep="\t"),
    "semicolons.csv": lambda path: FRAME.to_csv(path, index=False, sep=";"),
    "pipes.txt": lambda path: FRAME.to_csv(path, index=False, sep="|"),
    "a.jsonl": lambda path: FRAME.to_json(path, orient="records", lines=True),
    "records.json": lambda path: FRAME.to_json(path, orient="records"),
    "columns.json": lambda path: FRAME.to_json(path),
    "split.json": lambda path: FRAME.to_json(path, orient="split"),
    "table.json": lambda path: FRAME.to_json(path, orient="table", index=False),
    "lists.json": lambda path: path.write_text(json.dumps(FRAME.to_dict("list"))),
    "a.parquet": FRAME.to_parquet,
    "a.feather": FRAME.to_feather,
    "a.xlsx": lambda path: FRAME.to_excel(path, index=False),
}  # fmt: skip


def packed(data, suffix):
    if suffix == ".zip":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("inside", data)
        return out.getvalue()
    if suffix == ".zst":
        return pytest.importorskip("zstandard").ZstdCompressor().compress(data)
    return {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].compress(data)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zip", ".zst"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_read_packed_or_not_and_under_any_name(tmp_path, name, suffix):
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    if suffix:
        path = tmp_path / (name + suffix)
        path.write_bytes(packed(data, suffix))
    wanted = [[*row[:2], row[2].removesuffix(".0")] for row in WANTED]

    def read(path, **given):
        found = cells(read_table(path, TableSettings(**given)))
        return [[*row[:2], row[2].removesuffix(".0")] for row in found]

    assert read(path) == wanted
    if not suffix or name.endswith((".csv", ".tsv", ".tab")):  # named by its content alone
        other = path.rename(tmp_path / "data.unknown")
        assert read(other) == wanted
        kind = {"tab": "tsv", "txt": "csv", "xlsx": "excel"}
        ending = name.partition(".")[2]
        assert read(other, format=kind.get(ending, ending)) == wanted


def test_columns_of_json_have_any_name(write):
    table = read_table(write("a.json", '{"data": [1, 2], "columns": [null, 3]}'))
    assert table.names == ["data", "columns"] and cells(table) == [["1", ""], ["2", "3"]]
    for mixed in ('{"a": [1], "b": 2}', '{"a": [1], "b": [1, 2]}', "[1]", '[{"a": 1}, 2]'):
        with pytest.raises(DataError, match="holds no table; expected a list of objects"):
            read_table(write("a.json", mixed))


def test_a_folder_is_refused_in_words(tmp_path):
    with pytest.raises(DataError, match=r"is a folder; expected a file with a table \(\.csv, "):
        read_table(tmp_path)
    with pytest.raises(DataError, match="is a folder; expected a file"):
        next(numbered_lines(tmp_path))


def test_an_unknown_format_is_refused(write):
    with pytest.raises(OstinatoError, match="format='arff'; expected one of csv, tsv, jsonl, json"):
        read_table(write("a.csv", "a,b\n1,2\n"), TableSettings(format="arff"))


def test_a_missing_package_is_one_clear_line(write, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        MissingExtra, match=r"reading a.parquet needs pyarrow: .*ostinato\[tables\]"
    ):
        read_table(write("a.parquet", b"PAR1"))


DAMAGED = {
    "empty.csv": (b"", "is empty"),
    "blank.tsv": (b"\n \n", "is empty"),
    "empty.json": (b"[]", "is empty"),
    "a.parquet": (b"PAR1 but no more", "cannot be read as Parquet: "),
    "a.feather": (b"ARROW1", "cannot be read as Feather: "),
    "a.xlsx": (b"PK\x03\x04", "cannot be read"),
    "b.xlsx": (b"a,b", "cannot be read"),
    "a.csv.gz": (b"a,b\n1,2\n", "is no .gz file; rename it"),
    "b.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 999)[:40], "cannot be read"),
    "a.csv.zip": (b"PK\x03\x04", "cannot be read"),
    "a.json": (b'[{"a": 1', "cannot be read as JSON: "),
    "deep.json": (b"[" * 10**5, "cannot be read as JSON: maximum recursion depth"),
    "deep.jsonl": (b'{"a":' * 10**5, "line 1: cannot be read as JSON: maximum recursion depth"),
    "half.json": (b'[{"a": "\\ud83d"}]', "cannot be read as JSON: 'utf-8' codec can't encode"),
    "c.csv.gz": (b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 20, "cannot be read: Error -3"),
    "b.json": (b'"text"', "holds no table; expected a list of objects"),
    "a.jsonl": (b'{"a": 1}\n{"a"\n', "line 2: cannot be read as JSON: "),
    "b.jsonl": (b"[1, 2]\n", "line 1: is no JSON object"),
    "latin.csv": (b"a,b\n\n\xfc,2\n", "line 3, byte 5: 0xFC is not valid UTF-8"),
    "wide.txt": ("a,b\n1,é\n".encode("utf-16-le"), "line 1: holds a zero byte: no text file, or"),
    "escaped.csv": (b'a,b\n"x \\"y\\"",2\n', "line 2: ',' expected after"),
    "zero.csv": (b"a,b\n1,2\n1,\0\n", "line 3: holds a zero byte"),
    "wide.csv": (b"a,b\n1,2\n\n3,4,5\n", "line 4: has 3 cells, and line 1 has 2"),
    "short.csv": (b"a,b\n1,2\n3\n", "line 3: has 1 cells, and line 1 has 2"),
    "short.tsv": (b"a\tb\n1\t2\n3\n", "line 3: has 1 cells, and line 1 has 2"),
    "quoted.csv": (b'a,b\n"1\n1",2\n3\n', "line 4: has 1 cells, and line 1 has 2"),
    "stray.csv": (b'a,b\nx,y\n"1" z,2\n', "line 3: "),
    "open.csv": (b'a,b\n1,2\n"3,4\n', "line 3: "),
    "swallowed.csv": (b'a,b\n"no,1\n2,3\n"yes,4\n', "line 2: "),
    "twice.csv": (b"a,a\n1,2\n", "line 1: names two columns 'a'"),
    "names.csv": (b"text,label\n", "has a line of names, and no rows after it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line_with_its_place(write, name):
    content, message = DAMAGED[name]
    with pytest.raises(DataError) as caught:
        read_table(write(name, content))
    said = str(caught.value)
    assert message in said and name in said and "\n" not in said


LATE = {
    "short": ("3", "has 1 cells, and line 1 has 2"),
    "wide": ("3,4,5", "has 3 cells, and line 1 has 2"),
    "short beside quotes": ('"1,5",2\n3', "has 1 cells, and line 1 has 2"),
    "stray": ('"1" z,2', "',' expected after"),
    "swallowed": ('"no,1\n2,3\n"yes,4', "',' expected after"),
    "open": ('"3,4', "unexpected end of data"),
}


@pytest.mark.parametrize("name", LATE)
def test_a_mistake_far_down_is_found_too(write, name):
    bad, message = LATE[name]
    rows = [f"{i},{i / 7!r}" for i in range(4000)]
    path = write("a.csv", "\n".join(["a,b", *rows, bad, "7,8\n"]))
    line = 4002 + bad.startswith('"1,5"')
    with pytest.raises(DataError, match=f"line {line}: {re.escape(message)}"):
        read_table(path)


def test_two_sheets_or_two_files_are_too_many(tmp_path):
    with pandas.ExcelWriter(tmp_path / "a.xlsx") as writer:
        FRAME.to_excel(writer, sheet_name="one")
        FRAME.to_excel(writer, sheet_name="two")
    with pytest.raises(DataError, match="a.xlsx: has 2 sheets with cells .'one', 'two'.; save"):
        read_table(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "a,b\n1,2\n")
        archive.writestr("b.csv", "a,b\n1,2\n")
    with pytest.raises(DataError, match="a.zip: holds 2 files .a.csv, b.csv.; expected one"):
        read_table(tmp_path / "a.zip")


# Text files as programs write them

PLAIN = "text,label\na b,x\nc d,y\n"
SPELLED = {
    "bom": ("\ufeff" + PLAIN).encode(),
    "crlf": PLAIN.replace("\n", "\r\n").encode(),
    "cr": PLAIN.replace("\n", "\r").encode(),
    "utf-16": PLAIN.encode("utf-16"),
    "sep": b"sep=,\n" + PLAIN.encode(),
    "quoted sep": b'"sep=,"\r\n' + PLAIN.encode(),
    "sep of another": b"sep=:\n" + PLAIN.replace(",", ":").encode(),
    "no end": PLAIN.rstrip().encode(),
    "blank lines": PLAIN.replace("\n", "\n\n").encode() + b"\n \n",
    "spaces in names": PLAIN.replace("text", "\u00a0text ").encode(),
    "delimiters at the end": b"text,label,\na b,x,\nc d,y,\n",
    "empty columns": b"text;label;;\na b;x;;\nc d;y;;\n",
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLED)
def test_a_text_file_is_read_however_it_is_spelled(write, name):
    table = read_table(write("a.csv", SPELLED[name]))
    assert table.names == ["text", "label"] and table.named
    assert cells(table) == [["a b", "x"], ["c d", "y"]]


def test_quotes_of_a_tab_separated_text_are_its_own(write):
    rows = ['" so he said\tgood', 'a "fine" film\tbad', 'plain "\tgood']
    table = read_table(write("a.tsv", "\n".join(rows)))
    assert cells(table) == [row.split("\t") for row in rows]
    table = read_table(write("b.tsv", 'text\tlabel\n"a\tb"\tx\n"say ""no"""\ty\n'))
    assert cells(table) == [["a\tb", "x"], ['say "no"', "y"]]


def test_a_lone_carriage_return_is_text_in_a_file_of_other_lines(write):
    table = read_table(write("a.tsv", "a\tb\nx\ry\tz\n"), TableSettings(header=True))
    assert cells(table) == [["x\ry", "z"]]
    assert list(numbered_lines(write("b.txt", "one\rmore\ntwo\n"))) == [
        (1, "one\rmore"),
        (2, "two"),
    ]
    assert list(numbered_lines(write("c.txt", "one\r\rtwo"))) == [(1, "one"), (2, ""), (3, "two")]


def test_columns_without_names_are_numbered_and_row_numbers_may_lack_one(write):
    table = read_table(write("a.csv", "1,x\n2,y\n"))
    assert not table.named and table.names == ["1", "2"]
    path = write("b.csv", "")
    FRAME.to_csv(path)
    table = read_table(path)
    assert table.names == ["Unnamed: 0", "text", "label", "n"]


def test_a_column_that_later_holds_something_else_is_text_again(write):
    for odd in ("x", "True", "1,234", "0x10", "1_000"):
        rows = [f"{i}.5,{i}" for i in range(3000)]
        table = read_table(write("a.csv", "\n".join(["x,y", *rows, f'"{odd}",7'])))
        assert table.texts(0)[-1] == odd and table.texts(0)[7] == "7.5"
        assert table.texts(1)[-1] == "7"


def test_names_over_several_lines_and_nameless_ends_are_read(write):
    table = read_table(write("a.csv", '"a\nb",c\n1,x\n2,y\n'))
    assert table.names == ["a b", "c"] and cells(table) == [["1", "x"], ["2", "y"]]
    assert [table.place(row).line for row in (0, 1)] == [3, 4]
    table = read_table(write("b.csv", "1,x,\n2,y,\n3,z,\n"))
    assert cells(table) == [["1", "x"], ["2", "y"], ["3", "z"]]


def test_large_files_are_cut_as_small_ones_are(write):
    """pandas reads files above some megabytes in parallel."""
    rows = [
        (f"{i}", 'say "no",\nthen' if i % 1000 == 7 else "a b", f"{i / 7!r}")
        for i in range(300_000)
    ]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("n", "text", "x"), *rows])
    path = write("a.csv", out.getvalue())
    assert path.stat().st_size > 6 << 20
    table = read_table(path)
    assert [table.texts(i).tolist() for i in range(3)] == [
        list(column) for column in zip(*rows, strict=True)
    ]
    assert table.numbers([2])[:, 0].tolist() == [i / 7 for i in range(300_000)]
    assert table.place(299_999).line == 300_001 + 300


def test_long_cells_are_read(write):
    text = "word " * 100_000
    table = read_table(write("a.csv", f'text,label\n"{text}",x\nb,y\n'))
    assert cells(table) == [[text, "x"], ["b", "y"]]


def test_numbers_of_parquet_keep_their_types(tmp_path):
    frame = pandas.DataFrame(
        {
            "whole": pandas.array([1, None, 3], dtype="Int64"),
            "flag": [True, False, True],
            "day": pandas.date_range("2020-01-31", periods=3),
            "word": pandas.Categorical(["b", "a", "b"]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert [list(table.texts(i)) for i in (0, 1, 3)] == [
        ["1", "", "3"],
        ["true", "false", "true"],
        ["b", "a", "b"],
    ]
    found = table.numbers([0, 1], missing=True)
    assert np.array_equal(found, [[1, 1], [np.nan, 0], [3, 1]], equal_nan=True)
    with pytest.raises(DataError, match=r"a.parquet: line 2: 'whole' is missing"):
        table.numbers([0])
    assert str(table.series(2).iloc[0]) == "2020-01-31 00:00:00"
    frame.set_index("day").to_parquet(tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet").names == ["day", "whole", "flag", "word"]


def workbook(change):
    """A workbook, its sheet changed."""
    out, changed = io.BytesIO(), io.BytesIO()
    pandas.DataFrame({"a": [1, 2], "b": [3, 4]}).to_excel(out, index=False)
    with zipfile.ZipFile(out) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if "sheet1" in name else content)
    return changed.getvalue()


def far(content):
    return content.replace(b'r="3"', b'r="1048576"').replace(b'r="B3"', b'r="XFD1048576"')


def many_rows():
    out = io.BytesIO()
    pandas.DataFrame({"a": np.zeros(10**8, np.int8)}).to_parquet(out)
    return out.getvalue()


BOMBS = {
    "far.xlsx": lambda: workbook(far),
    "wide.xlsx": lambda: workbook(
        lambda c: c.replace(b"</worksheet>", b" " * 10**8 + b"</worksheet>")
    ),
    "packed.csv.gz": lambda: gzip.compress(b"a,b\n" + b"1,2\n" * 2 * 10**7),
    "packed.json.xz": lambda: lzma.compress(b"[" + b"1," * 35 * 10**6 + b"1]"),
    "rows.parquet": many_rows,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_take_far_more_memory_than_its_size_is_refused(write, name):
    with pytest.raises(DataError, match=rf"{name}: would take [\d,]+ MB of memory, and has"):
        read_table(write(name, BOMBS[name]()))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.xlsx", "a.parquet", "a"])
def test_a_pipe_is_refused_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: is neither a file nor a folder"):
        read_table(tmp_path / name)


def test_a_mistake_of_ours_is_not_taken_for_one_of_the_file(tmp_path, monkeypatch):
    for error in (AttributeError, NameError, AssertionError):
        with pytest.raises(error), library_errors(tmp_path, "JSON"):
            exec("raise error", {"error": error, "__name__": "ostinato.data"})
        with pytest.raises(DataError), library_errors(tmp_path, "JSON"):
            exec("raise error", {"error": error, "__name__": "json"})
