"""Which column means what: every way to read one wrongly, and what is asked instead."""

import re

import numpy as np
import pandas
import pytest

from ostinato.data.columns import numbers_rows
from ostinato.data.corpus import ReadingSettings
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.data.tables import table_of
from ostinato.errors import DataError


@pytest.fixture
def read(tmp_path):
    """Reads a text as the file of some name."""

    def make(text, name="a.csv", by_step=False, labelled=True, **settings):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_corpus([path], ReadingSettings(**settings), by_step=by_step, labelled=labelled)

    return make


def table(names, rows):
    return "\n".join([names, *(",".join(map(str, row)) for row in rows)])


# Columns that number the rows

MEASURED = [(0.5 + i, 3 - i * i, "ab"[i % 2]) for i in range(12)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("", range(12)),  # as pandas writes its index
        ("Unnamed: 0", range(12)),
        ("Unnamed: 0", [0, 1, 5, 6, 7, 9, 10, 20, 21, 30, 31, 40]),  # of rows that were chosen
        ("id", range(100, 112)),
        ("id", [7, 3, 9, 1, 20, 4, 5, 6, 8, 30, 2, 11]),
        ("id", [f"case-{i}" for i in range(12)]),
        ("sample_id", np.random.default_rng(0).permutation(12)),
        ("PassengerId", range(1, 13)),
        ("row", range(12)),
    ],
)
def test_a_column_that_numbers_the_rows_is_no_measurement(read, name, numbers):
    rows = [(n, *row) for n, row in zip(numbers, MEASURED, strict=True)]
    corpus = read(table(f"{name},x,y,label", rows), header=True)
    assert corpus.kind == "series"
    assert [x[:, 0].tolist() for x in corpus.inputs] == [[x, y] for x, y, _ in MEASURED]
    (note,) = corpus.notes
    assert note == f"variables: x, y; label: label; not used: {name or 'Unnamed: 0'}"


def test_a_column_that_numbers_the_rows_is_read_where_it_is_named(read):
    rows = [(i, *row) for i, row in enumerate(MEASURED)]
    corpus = read(table("id,x,y,label", rows), variables="id,x")
    assert [x[:, 0].tolist() for x in corpus.inputs][3] == [3, 3.5]
    with pytest.raises(DataError, match=r"has no columns of measurements; column 'id' numbers the"):
        read(table("id,label", [(i, "ab"[i % 2]) for i in range(12)]), label="label")


def test_row_numbers_beside_texts_leave_two_columns(read):
    rows = [(i, f"text number {i}", "ab"[i % 2]) for i in range(12)]
    corpus = read(table(",said,mood", rows))
    assert (corpus.kind, corpus.inputs[3], corpus.targets[3]) == ("text", "text number 3", "b")
    assert corpus.notes == ["text: said; label: mood; not used: Unnamed: 0"]
    frame = pandas.DataFrame(rows, columns=["i", "said", "mood"]).set_index("i")
    assert corpus_of(frame).targets[3] == "b"


@pytest.mark.parametrize(
    "numbers", [range(1, 13), np.random.default_rng(0).permutation(12), np.arange(12) ** 2]
)
def test_a_column_that_may_number_the_rows_is_asked_about(read, numbers):
    rows = [(k, *row) for k, row in zip(numbers, MEASURED, strict=True)]
    with pytest.raises(DataError, match="'k' may number the rows, or measure .* with variables"):
        read(table("k,x,y,label", rows))
    assert len(read(table("k,x,y,label", rows), variables="k,x,y").inputs[0]) == 3


def test_what_numbers_rows():
    shuffled = np.random.default_rng(0).permutation(50)
    for cells, wanted in ((shuffled, True), (shuffled + 0.5, False), (shuffled // 2, False)):
        assert numbers_rows(table_of(pandas.DataFrame({"x": cells})), 0) is wanted


# Ids of sequences

LONG = [(f"p{i}", t, i + t / 10, "ab"[i % 2]) for i in range(4) for t in range(3)]


@pytest.mark.parametrize("name", ["id", "series_id", "unique_id", "patient_id", "patientId"])
def test_a_long_table_is_told_by_its_id(read, name):
    corpus = read(table(f"{name},time,x,label", LONG))
    assert [x[:, 0].tolist() for x in corpus.inputs] == [
        [i + t / 10 for t in range(3)] for i in range(4)
    ]
    assert list(corpus.targets) == ["a", "b", "a", "b"]
    assert corpus.notes == [f"id: {name}; time: time; variables: x; label: label"]


def test_what_may_tell_sequences_apart_is_asked_about(read):
    runs = [(i, 0.5 + i + t / 10, "ab"[i % 2]) for i in range(4) for t in range(3)]
    with pytest.raises(DataError, match="'patient' may tell sequences apart, .* with id, or"):
        read(table("patient,x,label", runs))
    assert len(read(table("patient,x,label", runs), id="patient")) == 4
    assert len(read(table("patient,x,label", runs), variables="patient,x")) == 12
    words = [(f"p{i}", x, label) for i, x, label in runs]
    with pytest.raises(DataError, match="'patient' holds the texts, or the others the"):
        read(table("patient,x,label", words))
    several = [(i % 3, 0.5 * i, i % 5, "ab"[i % 2]) for i in range(12)]
    with pytest.raises(DataError, match="'store_id', whose rows have several labels, .* variables"):
        read(table("store_id,x,y,label", several))


def test_booleans_and_weekdays_are_no_ids(read):
    rows = [
        (i, t, 0.5 * t + i, ["true", "false"][t % 2], "ab"[i % 2])
        for i in range(4) for t in range(4)
    ]  # fmt: skip
    corpus = read(table("id,t,x,promo,label", rows))
    assert len(corpus) == 4 and list(corpus.variables) == ["x", "promo"]
    assert corpus.inputs[0][:, 1].tolist() == [1, 0, 1, 0]


# Steps

WORDS = [["the", "dog", "barks"], ["yes"], ["it", "is"]]
TAGS = [["D", "N", "V"], ["I"], ["P", "V"]]
STEPS = [(s, w, t) for s in range(3) for w, t in zip(WORDS[s], TAGS[s], strict=True)]


def firsts(spell):
    """Rows with a sentence's number at its first word alone."""
    return [
        (spell(s) if i == 0 or STEPS[i - 1][0] != s else "", w, t)
        for i, (s, w, t) in enumerate(STEPS)
    ]


SENTENCES = {
    "sentence,word,tag": STEPS,
    "sentence_id,token,label": STEPS,
    "Sentence #,Word,Tag": firsts(lambda s: f"Sentence: {s + 1}"),
    "sentence,form,tags": firsts(str),
    "id,word,tag": [
        (i + 1, w, t)
        for words, tags in zip(WORDS, TAGS, strict=True)
        for i, (w, t) in enumerate(zip(words, tags, strict=True))
    ],
    "doc,text,tag": STEPS,
}  # fmt: skip


@pytest.mark.parametrize("names", SENTENCES)
def test_words_are_told_into_sentences(read, names):
    corpus = read(table(names, SENTENCES[names]), by_step=True)
    assert corpus.kind == "words"
    assert list(corpus.inputs) == WORDS and list(corpus.targets) == TAGS
    first, text, label = names.split(",")
    role = "position" if first == "id" else "id"
    assert corpus.notes == [f"{role}: {first}; text: {text}; label: {label}"]


def test_blank_lines_part_sentences_of_a_table(read):
    text = "word,tag\nthe,D\ndog,N\nbarks,V\n\nyes,I\n\n\nit,P\nis,V\n"
    corpus = read(text, by_step=True)
    assert list(corpus.inputs) == WORDS
    assert [list(lines) for lines in corpus.step_lines] == [[2, 3, 4], [6], [9, 10]]
    assert [place.line for place in corpus.places] == [2, 6, 9]


def test_sentences_that_may_be_meant_are_asked_about(read):
    rows = [(f"x{s}", s, w, t) for s, w, t in STEPS]
    with pytest.raises(DataError, match="'sentence' or 'doc_id' tells sequences apart is not"):
        read(table("sentence,doc_id,word,tag", [(s, d, w, t) for d, s, w, t in rows]), by_step=True)
    with pytest.raises(DataError, match="'part' may tell sequences apart"):
        read(table("part,word,tag", STEPS), by_step=True)
    assert list(read(table("part,word,tag", STEPS), by_step=True, id="part").inputs) == WORDS


def test_newest_first_is_sorted_and_said(read):
    corpus = read(table("id,time,x,label", reversed(LONG)))
    assert corpus.inputs[0][:, 0].tolist() == [3.0, 3.1, 3.2]
    assert corpus.notes[1] == "rows are sorted by time"


@pytest.mark.parametrize(
    "times",
    [
        ["2024-01-31 12:00:00.001", "2024-01-31 12:00:00.002"],
        ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"],  # a clock put back
        ["2024-01-31", "2024-02-01 00:30"],
        ["202012", "202101"],
        ["0.25", "0.5"],
    ],
)
def test_steps_are_ordered_by_any_time(read, times):
    rows = [("a", times[1], 2, "u"), ("a", times[0], 1, "u"), ("b", times[0], 3, "d")]
    assert read(table("id,time,x,label", rows)).inputs[0][:, 0].tolist() == [1, 2]


# Labels

ODD = ["NA", "007", "1,234", "nan", "None", "TRUE", "1.50", "1e5", "?", " x "]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "xlsx"])
def test_labels_are_never_rewritten(tmp_path, ending):
    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(40)], "label": ODD * 4})
    path = tmp_path / f"a.{ending}"
    {
        "csv": lambda: frame.to_csv(path, index=False),
        "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        "parquet": lambda: frame.to_parquet(path),
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "xlsx": lambda: frame.to_excel(path, index=False),
    }[ending]()
    corpus = read_corpus([path], ReadingSettings())
    assert list(corpus.targets) == [label.strip() for label in ODD] * 4
    assert list(corpus_of(frame).targets) == list(corpus.targets)


def test_numbers_as_labels_keep_their_digits(read):
    rows = [(f"text {i}", f"{i % 3:03d}") for i in range(60)] + [("last", "1.0")]
    assert list(read(table("text,label", rows)).targets)[:3] == ["000", "001", "002"]
    assert list(read(table("text,label", rows)).targets)[-1] == "1.0"


def test_na_is_a_label_among_several_and_a_mistake_nowhere_else(read):
    corpus = read("text,label\na b,NA;x\nc d,\ne f,NA\n", separator=";")
    assert list(corpus.targets) == [["NA", "x"], [], ["NA"]]
    with pytest.raises(DataError, match="line 3: 'label' is empty"):
        read("text,label\na b,NA\nc d,\n")
    with pytest.raises(DataError, match="line 3: 'x' is missing"):
        read("id,time,x,label\na,0,1,u\na,1,NA,u\nb,0,2,d\n")


def test_lists_of_labels_are_read_from_any_format(tmp_path):
    frame = pandas.DataFrame({"text": ["a b", "c d"], "label": [["x", "y"], []]})
    frame.to_parquet(tmp_path / "a.parquet")
    for corpus in (read_corpus([tmp_path / "a.parquet"], ReadingSettings()), corpus_of(frame)):
        assert list(corpus.targets) == [["x", "y"], []]
    frame.loc[1, "label"] = "x"
    with pytest.raises(DataError, match="line 2: has the label 'x', and other rows have lists of"):
        corpus_of(frame)


def test_two_columns_of_labels_are_asked_about(read):
    rows = [(f"a text {i}", "ab"[i % 2], "cd"[i % 2]) for i in range(6)]
    with pytest.raises(DataError, match="which column holds the labels is not clear; name it with"):
        read(table("text,label,class", rows))
    corpus = read(table("text,label,class", rows), label="class")
    assert corpus.notes == ["text: text; label: class; not used: label"]


# Files by their content

CONLL = "EU B-ORG\nrejects O\n\nPeter B-PER\n"
CONLLU = "# text = yes\n1\tyes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_\n\n"
TS = "@problemName X\n@classLabel true a b\n@data\n1,2,3:a\n7:b\n"


@pytest.mark.parametrize(
    "name",
    [
        "a.annotated",
        "a.iob2",
        "a.bio",
        "a.txt",
        "a.data",
        "train",
        "a.b.c",
        "a.conll.gz",
        "a.txt.gz",
    ],
)
def test_tagged_words_are_known_by_what_a_file_holds(tmp_path, name):
    import gzip

    for text, wanted in ((CONLL, [["EU", "rejects"], ["Peter"]]), (CONLLU, [["yes"]])):
        if wanted == [["yes"]] and ("conll" in name or name.endswith(("iob2", "bio"))):
            continue
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        corpus = read_corpus([path], ReadingSettings(), by_step=True)
        assert list(corpus.inputs) == wanted


def test_other_files_are_known_by_what_they_hold(read):
    assert list(read(TS, "a.unknown").targets) == ["a", "b"]
    assert list(read("text,label\na b,x\nc d,y\n", "a.data").targets) == ["x", "y"]
    assert list(read("word\ttag\na\tx\nb\ty\n", "a.data", by_step=True).inputs) == [["a", "b"]]
    assert list(read("a b\nc d\n", "a.txt", labelled=None).inputs) == ["a b", "c d"]
    assert list(read("a,b\nc,d\n", "a.csv", labelled=None, format="lines").inputs) == ["a,b", "c,d"]
    corpus = read("a\tx\n\nb\ty\n", "a.csv", by_step=True, format="conll")
    assert list(corpus.inputs) == [["a"], ["b"]]
    with pytest.raises(DataError, match="has a label for every word, not for a whole text: tag"):
        read(CONLL, "a.iob2")


def test_spaces_that_do_not_break_are_part_of_a_word(read):
    corpus = read("10\u00a0000 NUM\nis V\n\nx N\n", "a.conll", by_step=True)
    assert list(corpus.inputs) == [["10\u00a0000", "is"], ["x"]]


# What is in memory


class Column(list):
    """A column that is only a sequence."""


def test_frames_of_any_library_are_tables():
    polars = pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    cells = {"text": ["a b", "c d", "e f"], "label": ["NA", "007", "NA"]}
    for frame in (cells, pandas.DataFrame(cells), polars.DataFrame(cells), arrow.table(cells)):
        corpus = corpus_of(frame)
        assert (corpus.kind, list(corpus.inputs)) == ("text", cells["text"])
        assert list(corpus.targets) == cells["label"]
        alone = {"text": cells["text"]} if isinstance(frame, dict) else frame.select(["text"]) if (
            hasattr(frame, "select")) else frame[["text"]]  # fmt: skip
        for y in (cells["label"], pandas.Series(cells["label"]), polars.Series(cells["label"]),
                  arrow.chunked_array([cells["label"]]), np.array(cells["label"])):  # fmt: skip
            assert list(corpus_of(alone, y).targets) == cells["label"]
    for column in (pandas.Series(cells["text"], [5, 3, 1]), polars.Series(cells["text"]),
                   arrow.chunked_array([cells["text"]]), np.array(cells["text"])):  # fmt: skip
        assert list(corpus_of(column).inputs) == cells["text"]


def test_sequences_keep_what_their_library_says():
    from decimal import Decimal

    sequences = [
        pandas.Series([1.0, 2.0], pandas.date_range("2020", periods=2)),
        pandas.array([1, 2, 3], dtype="Int64"),
        [Decimal("1.5"), Decimal(2)],
        np.ma.masked_array([1.0, 2.0], [False, False]),
        pandas.Series([True, False]),
    ]
    found = corpus_of(sequences)
    assert [x[:, 0].tolist() for x in found.inputs] == [[1, 2], [1, 2, 3], [1.5, 2], [1, 2], [1, 0]]
    for missing in (
        np.ma.masked_array([1.0, 2.0], [False, True]),
        pandas.array([1, None], dtype="Int64"),
        [1, pandas.NA],
        [Decimal(1), None],
        pandas.Series([1, None]),
    ):
        with pytest.raises(DataError, match=r"X\[1\]: is nan at step 1, variable 0; fill it in"):
            corpus_of([[1.0], missing])
    both = corpus_of(np.ma.masked_array(np.ones((2, 3)), [[0, 0, 0], [0, 0, 0]]))
    assert [x.shape for x in both.inputs] == [(3, 1), (3, 1)]


def test_frames_as_sequences_share_their_columns():
    frames = [pandas.DataFrame({"x": [1, 2], "y": [3, 4]}) for _ in range(2)]
    corpus = corpus_of(frames, ["a", "b"])
    assert list(corpus.variables) == ["x", "y"] and corpus.inputs[1].tolist() == [[1, 3], [2, 4]]
    frames[1] = frames[1][["y", "x"]]
    with pytest.raises(DataError, match=re.escape("X[1]: has the columns ['y', 'x']; expected")):
        corpus_of(frames)


def test_rows_of_a_frame_of_numbers_are_sequences():
    frame = pandas.DataFrame(np.arange(12.0).reshape(3, 4) ** 2)
    corpus = corpus_of(frame, ["a", "b", "a"])
    assert [x[:, 0].tolist() for x in corpus.inputs] == frame.to_numpy().tolist()


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, pandas.NaT, np.ma.masked])
def test_a_label_that_is_missing_is_a_mistake(missing):
    y = np.ma.masked_array(["a", "b"], [0, 1]) if missing is np.ma.masked else ["a", missing]
    with pytest.raises(DataError, match=r"y\[1\]: is missing; fill it in"):
        corpus_of(["one", "two"], y)
    assert list(corpus_of(["one", "two"], ["NA", "nan"]).targets) == ["NA", "nan"]
