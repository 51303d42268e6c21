"""Pairs of texts from parallel files and tables, and every mistake in them by its line."""

import gzip
import json

import pandas
import pytest

from ostinato.data.pairs import PairSettings, pairs_of, read_pairs, read_sources
from ostinato.errors import DataError, OstinatoError


def write(folder, **files):
    paths = []
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def test_parallel_files_belong_together_line_by_line(tmp_path):
    paths = write(tmp_path, a__en="one\ntwo\n\nthree\n\n", a__de="eins\nzwei\n\ndrei\n")
    found = read_pairs(paths, PairSettings())
    assert list(found.inputs) == ["one", "two", "three"]
    assert list(found.targets) == [["eins"], ["zwei"], ["drei"]]
    assert [str(place) for place in found.places] == [f"{paths[0]}:{n}" for n in (1, 2, 4)]
    for path in paths:
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
    zipped = read_pairs([tmp_path / "a.en.gz", tmp_path / "a.de.gz"], PairSettings())
    assert list(zipped.inputs) == list(found.inputs)


TABLES = {
    "two.tsv": "one\teins\ntwo\tzwei\n",
    "named.csv": "id,target,source\n1,eins,one\n2,zwei,two\n",
    "asked.csv": "english,german,year\none,eins,1\ntwo,zwei,2\n",
    "some.jsonl": (
        '{"source": ["one"], "target": ["eins", "ein"]}\n{"source": "two", "target": "zwei"}\n'
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_a_column_of_each(tmp_path, name):
    path = tmp_path / name
    path.write_text(TABLES[name])
    settings = PairSettings()
    if name == "asked.csv":
        with pytest.raises(DataError, match=r"which column holds the source is not clear; .*engl"):
            read_pairs([path], settings)
        settings = PairSettings(source="english", target="2")
    found = read_pairs([path], settings)
    assert list(found.inputs) == ["one", "two"]
    assert [several[0] for several in found.targets] == ["eins", "zwei"]
    assert len(found.targets[0]) == (2 if name == "some.jsonl" else 1)
    assert list(read_sources([path], settings).inputs) == ["one", "two"]


def test_empty_lines_belong_to_their_partners(tmp_path):
    paths = write(tmp_path, a__en="one\n\nthree\n\n", a__de="eins\nzwei\ndrei\nvier\n\n\n")
    found = read_pairs(paths, PairSettings())
    assert list(found.inputs) == ["one", "three"]
    assert list(found.targets) == [["eins"], ["drei"]]
    assert found.notes == ["2 of 4 lines are empty on one side and left out"]


def test_which_column_is_what_is_said_and_row_numbers_are_neither(tmp_path):
    rows = "".join(f"{i},wort {i},word {i}\n" for i in range(12))
    (path,) = write(tmp_path, a__csv=",german,english\n" + rows)
    found = read_pairs([path], PairSettings())
    assert found.inputs[3] == "wort 3" and found.targets[3] == ["word 3"]
    assert found.notes == ["source: german; target: english"]
    frame = pandas.read_csv(path)
    assert pairs_of(frame).inputs[3] == "wort 3"
    assert read_sources([path], PairSettings(source="english")).inputs[0] == "word 0"


def test_sentences_of_a_document_are_joined(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"document": ["A b. ", "C d."], "summary": "e", "id": 3}) + "\n")
    assert list(read_pairs([path], PairSettings()).inputs) == ["A b. C d."]


def test_sources_alone_keep_their_empty_lines(tmp_path):
    (path,) = write(tmp_path, a__txt="one\n\ntwo\n")
    found = read_sources([path], PairSettings())
    assert list(found.inputs) == ["one", "", "two"]
    assert found.targets is None
    (path,) = write(tmp_path, b__txt="one\n\n\n")  # an answer for each line
    assert list(read_sources([path], PairSettings()).inputs) == ["one", "", ""]


def test_pairs_in_memory():
    found = pairs_of(["a", "b"], ["x", ["y", "z"]])
    assert list(found.targets) == [["x"], ["y", "z"]]
    assert found.take([1]).inputs == ["b"]
    assert pairs_of(["a"]).targets is None
    with pytest.raises(OstinatoError, match="X has 2 texts, and y has 1"):
        pairs_of(["a", "b"], ["x"])
    with pytest.raises(DataError, match=r"X\[1\]: is 3; expected a text"):
        pairs_of(["a", 3], ["x", "y"])
    with pytest.raises(DataError, match=r"X\[0\]: has the target ''; expected a text, or a list"):
        pairs_of(["a"], [""])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__en": "one\ntwo\n", "a__de": "eins\n"}, r"a.en: has 2 lines, and .*a.de has 1"),
        ({"a__en": "", "a__de": "eins\n"}, "a.en: is empty"),
        ({"a__en": "\none\n", "a__de": "eins\n\n \n"}, "has no line with text on both sides"),
        ({"a__en": "one\n\n", "a__de": "eins\n\n\nvier\n"}, "a.en: has 2 lines, and .*de has 4"),
        ({"a__en": "one\n"}, "expected two parallel files, first the sources"),
        ({"a__tsv": "one\teins\ntwo\n"}, "line 2: has 1 cells, and line 1 has 2"),
        ({"a__jsonl": '{"source": "a", "target": ""}\n'}, "line 1: has the target ''"),
        ({"a__jsonl": '{"source": null, "target": "b"}\n'}, "line 1: 'source' is empty"),
        ({"a__csv": "source,target\n1,\n"}, "line 2: has the target ''"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_mistakes_name_file_and_line(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_pairs(write(tmp_path, **files), PairSettings())


def test_a_column_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("source,target\na,b\n")
    with pytest.raises(DataError, match="has no column 'french' for the target"):
        read_pairs([path], PairSettings(target="french"))
