"""From files to sequences: what is guessed, what is asked for, and every mistake with its line."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ostinato.data.corpus import ReadingSettings
from ostinato.data.formats import read_table
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.data.tables import TableSettings
from ostinato.errors import DataError, OstinatoError


@pytest.fixture
def write(tmp_path):
    """Writes a file; gives its path."""

    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def read(path, by_step=False, labelled=True, **settings):
    paths = path if isinstance(path, list) else [path]
    return read_corpus(paths, ReadingSettings(**settings), by_step=by_step, labelled=labelled)


# Texts in tables.

TEXTS = ["a fine film", "a dull, long film", "fine"]
LABELS = ["good", "bad", "good"]
CSV = 'a fine film,good\n"a dull, long film",bad\nfine,good\n'
TABLES = {
    "named.csv": "text,label\n" + CSV,
    "bare.csv": CSV,
    "swapped.csv": 'label,review\ngood,a fine film\nbad,"a dull, long film"\ngood,fine\n',
    "bare.tsv": "a fine film\tgood\na dull, long film\tbad\nfine\tgood\n",
    "semicolons.csv": 'text;label\na fine film;good\n"a dull, long film";bad\nfine;good\n',
    "more.csv": "id,text,n,label\n"
    '1,a fine film,3,good\n2,"a dull, long film",4,bad\n3,fine,1,good\n',
    "lines.jsonl": "\n".join(
        json.dumps({"label": label, "text": text})
        for text, label in zip(TEXTS, LABELS, strict=True)
    ),
    "bom.csv": "\ufefftext,label\n" + CSV,
    "crlf.csv": ("text,label\n" + CSV).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", TABLES)
def test_texts_and_labels_are_found(write, name):
    corpus = read(write(name, TABLES[name]))
    assert corpus.kind == "text"
    assert (list(corpus.inputs), list(corpus.targets)) == (TEXTS, LABELS)
    first = 1 if name in ("bare.csv", "bare.tsv", "lines.jsonl") else 2
    assert [place.line for place in corpus.places] == [first, first + 1, first + 2]


def test_a_compressed_table_is_read(write):
    path = write("named.csv.gz", gzip.compress(TABLES["named.csv"].encode()))
    assert list(read(path).inputs) == TEXTS


def test_a_cell_over_several_lines_keeps_its_line(write):
    corpus = read(write("a.csv", 'text,label\n"one\ntwo",x\nthree,y\n'))
    assert list(corpus.inputs) == ["one\ntwo", "three"]
    assert [place.line for place in corpus.places] == [2, 4]


def test_quotes_of_a_tab_separated_text_are_its_own(write):
    rows = ['" so he said\tgood', 'a "fine" film\tbad', 'plain "\tgood']
    corpus = read(write("a.tsv", "\n".join(rows)))
    assert list(corpus.inputs) == ['" so he said', 'a "fine" film', 'plain "']


def test_numbers_may_be_labels(write):
    corpus = read(write("a.tsv", "one film\t1\nanother film\t0\n"))
    assert list(corpus.targets) == ["1", "0"]


def test_several_labels(write):
    corpus = read(write("a.csv", "text,label\none,a;b\ntwo,\nthree,b\n"), separator=";")
    assert list(corpus.targets) == [["a", "b"], [], ["b"]]
    rows = [{"text": "one", "label": ["a"]}, {"text": "two", "label": []}]
    corpus = read(write("b.jsonl", "\n".join(map(json.dumps, rows))))
    assert list(corpus.targets) == [["a"], []]


def test_columns_by_name_or_number(write):
    path = write("a.csv", "one,two,three\na b,c d,e\nf g,h i,j\n")
    assert list(read(path, text="two", label="three").inputs) == ["c d", "h i"]
    assert list(read(path, text="2", label="-1", header=True).targets) == ["e", "j"]
    assert list(read(path, text="TWO", label="Three").inputs) == ["c d", "h i"]


def test_a_table_to_predict_needs_no_labels(write):
    assert read(write("a.csv", "text\na film\nanother film\n"), labelled=None).targets is None
    assert read(write("b.txt", "a film\n\nanother\n"), labelled=None).inputs == [
        "a film",
        "another",
    ]
    corpus = read(write("c.csv", "text,label\na film,x\n"), labelled=None)
    assert list(corpus.targets) == ["x"]


# Measurements.

LONG = "id,time,x,y,label\na,1,1,10,up\na,0,0,20,up\nb,0,5,30,down\n"


def test_a_long_table_is_a_series_an_id(write):
    corpus = read(write("a.csv", LONG))
    assert (corpus.kind, list(corpus.variables)) == ("series", ["x", "y"])
    assert [x.tolist() for x in corpus.inputs] == [[[0, 20], [1, 10]], [[5, 30]]]
    assert list(corpus.targets) == ["up", "down"]
    assert [list(lines) for lines in corpus.step_lines] == [[3, 2], [4]]
    few = read(write("a.csv", LONG), variables="y")
    assert [x.tolist() for x in few.inputs] == [[[20], [10]], [[30]]]


def test_dates_order_steps(write):
    rows = "id,date,x,label\na,2024-02-01,2,u\na,2024-01-31 12:30,1,u\nb,2024-01-01,3,d\n"
    assert read(write("a.csv", rows)).inputs[0].tolist() == [[1], [2]]


def test_the_only_words_again_and_again_are_labels(write):
    rows = [
        "id,time,x,doing",
        *[f"{i},{t},0.5,{'run' if i % 2 else 'sit'}" for i in range(4) for t in range(3)],
    ]
    corpus = read(write("a.csv", "\n".join(rows)))
    assert list(corpus.targets) == ["sit", "run", "sit", "run"]
    assert list(corpus.variables) == ["x"]


def test_a_row_of_numbers_is_a_series(write):
    corpus = read(write("a.csv", "1,2,3,up\n4,5,6,down\n7,8,9,up\n"))
    assert [x[:, 0].tolist() for x in corpus.inputs] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert list(corpus.targets) == ["up", "down", "up"]


TS = "#note\n@problemName X\n@classLabel true a b\n@data\n1,2,3:4,5,6:a\n7:8:b\n"


def test_ts_files(write):
    corpus = read(write("a.ts", TS))
    assert [x.tolist() for x in corpus.inputs] == [[[1, 4], [2, 5], [3, 6]], [[7, 8]]]
    assert list(corpus.targets) == ["a", "b"]
    assert [place.line for place in corpus.places] == [5, 6]
    gaps = write("gaps.ts", TS.replace("2", "?").replace("5", "NaN"))
    values = read_corpus([gaps], ReadingSettings(), missing=True).inputs[0]
    assert np.isnan(values).tolist() == [[False, False], [True, True], [False, False]]
    bare = read(write("b.ts", "@classLabel false\n@data\n1,2\n3\n"), labelled=None)
    assert bare.targets is None and [len(x) for x in bare.inputs] == [2, 1]


# A label a step.

CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
CONLLU = (
    "# sent_id = 1\n# text = don't go\n"
    "1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tdo\tdo\tAUX\tVB\tMood=Imp\t3\taux\t_\t_\n"
    "2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_\n"
    "3\tgo\tgo\tVERB\tVB\tMood=Imp\t0\troot\t_\tSpaceAfter=No\n"
    "3.1\twent\tgo\tVERB\tVB\t_\t_\t_\t_\t_\n\n"
    "# text = yes\n1\tyes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_\n\n"
)


def test_conll(write):
    corpus = read(write("a.conll", CONLL), by_step=True)
    assert corpus.kind == "words"
    assert list(corpus.inputs) == [["EU", "rejects"], ["Peter"]]
    assert list(corpus.targets) == [["B-ORG", "O"], ["B-PER"]]
    assert [list(lines) for lines in corpus.step_lines] == [[3, 4], [6]]
    second = read(write("a.conll", CONLL), by_step=True, label="2")
    assert list(second.targets) == [["NNP", "VBZ"], ["NNP"]]


def test_conllu_leaves_out_surface_forms_and_empty_nodes(write):
    corpus = read(write("a.conllu", CONLLU), by_step=True)
    assert list(corpus.inputs) == [["do", "n't", "go"], ["yes"]]
    assert list(corpus.targets) == [["AUX", "PART", "VERB"], ["INTJ"]]
    assert [list(lines) for lines in corpus.step_lines] == [[4, 5, 6], [10]]
    moods = read(write("a.conllu", CONLLU), by_step=True, label="Mood")
    assert list(moods.targets) == [["Imp", "_", "Imp"], ["_"]]


def test_a_table_of_frames(write):
    corpus = read(write("a.csv", "0.5,1,D\n0.6,2,D\n0.7,3,S\n"), by_step=True)
    assert corpus.kind == "series" and len(corpus) == 1
    assert corpus.inputs[0].tolist() == [[0.5, 1], [0.6, 2], [0.7, 3]]
    assert list(corpus.targets) == [["D", "D", "S"]]
    rows = "sequence,word,tag\n1,the,D\n1,dog,N\n2,yes,I\n2,no,I\n"
    words = read(write("b.csv", rows), by_step=True)
    assert list(words.inputs) == [["the", "dog"], ["yes", "no"]]
    assert list(words.targets) == [["D", "N"], ["I", "I"]]


# Recordings and images.


def test_folders_and_patterns_give_labels(write, tmp_path):
    for name in ("yes/a_1.wav", "yes/b_2.wav", "no/a_3.WAV", "no/.hidden.wav", "no/notes.txt"):
        write(f"folder/{name}", b"")
    corpus = read(tmp_path / "folder")
    assert corpus.kind == "sound"
    assert [path.name for path in corpus.inputs] == ["a_3.WAV", "a_1.wav", "b_2.wav"]
    assert list(corpus.targets) == ["no", "yes", "yes"]
    by_name = read(tmp_path / "folder", pattern="{label}_{}")
    assert list(by_name.targets) == ["a", "a", "b"]
    assert read(tmp_path / "folder" / "yes", labelled=None).targets is None


def test_folders_of_texts(write, tmp_path):
    for name, text in (("pos/1.txt", "a fine film\n"), ("neg/2.txt", "dull\nand long")):
        write(f"reviews/{name}", text)
    corpus = read(tmp_path / "reviews")
    assert (corpus.kind, list(corpus.inputs)) == ("text", ["dull\nand long", "a fine film"])
    assert list(corpus.targets) == ["neg", "pos"]


def test_a_table_may_name_files(write):
    write("sounds/a.wav", b"")
    write("sounds/b.wav", b"")
    corpus = read(write("list.csv", "file,label\nsounds/a.wav,x\nsounds/b.wav,y\n"))
    assert corpus.kind == "sound"
    assert [path.name for path in corpus.inputs] == ["a.wav", "b.wav"]


def idx(array):
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return b"\0\0\x08" + bytes([array.ndim]) + shape + array.astype(np.uint8).tobytes()


def test_idx_files_find_their_labels(write):
    images = np.arange(24).reshape(2, 3, 4)
    path = write("t-images-idx3-ubyte.gz", gzip.compress(idx(images)))
    labels = write("t-labels-idx1-ubyte.gz", gzip.compress(idx(np.array([7, 1]))))
    for paths in (path, [path, labels]):
        corpus = read(paths)
        assert corpus.kind == "image"
        assert np.array(corpus.inputs)[..., 0].tolist() == images.tolist()
        assert list(corpus.targets) == ["7", "1"]
    labels.unlink()
    with pytest.raises(DataError, match="no labels for it; expected t-labels-idx1-ubyte.gz"):
        read(path)
    assert read(path, labelled=None).targets is None


# Mistakes.

MISTAKES = {
    "empty.csv": ("", {}, "empty.csv: is empty"),
    "blank.csv": ("\n \n", {}, "is empty"),
    "names.csv": ("text,label\n", {"header": True}, "a line of names, and no rows"),
    "width.csv": ("text,label\na b,x\nc,d,y\n", {}, "line 3: has 3 cells, and line 1 has 2"),
    "twice.csv": ("text,text\na,b\n", {}, "line 1: names two columns 'text'"),
    "quote.csv": ('text,label\n"a" b,x\n', {}, "line 2: "),
    "latin.csv": (b"text,label\ncaf\xe9,x\n", {}, "line 2, byte 14: 0xE9 is not valid UTF-8"),
    "zero.csv": (b"text,label\na\0b,x\n", {}, "line 2: holds a zero byte"),
    "gone.csv": ("text,label\na b,x\nc d,\n", {}, "line 3: 'label' is empty"),
    "column.csv": ("text,label\na,x\n", {"label": "mood"}, "no column 'mood' for the labels; its"),
    "number.csv": ("1,2,x\n3,4,y\n", {"label": "9"}, "they are numbered, 1 to 3"),
    "unclear.csv": ("one,two,three\na b,c d,e f\n", {"header": True}, "name it with label"),
    "texts.csv": ("one,two,label\na b,c d,x\n", {}, "name it with text"),
    "nan.csv": (LONG.replace("0,0,20", "0,,20"), {}, "line 3: 'x' is missing"),
    "steps.csv": (
        "subject,t,x,label\n1,0,1,u\n1,1,2,u\n2,0,1,d\n2,1,2,d\n",
        {},
        "column 't' means that each row is a step; name the column",
    ),
    "word.csv": (LONG.replace("0,5,", "0,o,"), {}, "line 4: 'x' is 'o', no"),
    "inf.csv": (LONG.replace("0,5,", "0,inf,"), {}, "line 4: 'x' is 'inf'"),
    "labels.csv": ("id,t,x,label\na,0,1,u\na,1,2,d\n", {"id": "id"}, "line 3: has the label 'd'"),
    "again.csv": (LONG.replace("a,0", "a,1"), {}, "line 3: has the time of line 2 again: 1"),
    "time.csv": ("id,t,x,label\na,soon,1,u\na,now,2,u\n", {"id": "id"}, "is 'soon', no time"),
    "json.jsonl": ('{"text": "a", "label": "b"}\n{"text"\n', {}, "line 2: cannot be read as JSON"),
    "list.jsonl": ("[1, 2]\n", {}, "line 1: is no JSON object"),
    "file.csv": ("file,label\nnone.wav,x\nno.wav,y\n", {}, "line 2: names "),
    "mixed.ts": ("@data\n", {}, "holds no cases"),
    "words.ts": ("@classLabel true a\n@data\n1,b:a\n", {}, "line 3: 'b' is no number"),
    "missing.ts": ("@classLabel true a\n@data\n1,?:a\n", {}, "line 3: '?' is no number"),
    "ragged.ts": ("@classLabel true a\n@data\n1,2:3:a\n", {}, "line 3: variables of 1 and 2 steps"),
    "dims.ts": ("@classLabel true a\n@data\n1:2:a\n1:a\n", {}, "line 4: has 1 variables, and"),
    "bare.ts": ("1,2:a\n", {}, "line 1: expected a line that begins with @"),
    "long.csv": (f"file,label\n{'a' * 300}.wav,x\nno.wav,y\n", {}, "line 2: names "),
    "zero.jsonl": ('{"file": "a\\u0000.wav", "label": "x"}\n' * 2, {}, "line 1: names "),
    "at.ts": ("@\n1,2:a\n", {}, "line 2: expected a line that begins with @"),
    "note.xyz": ("?", {}, "a line of names, and no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_place(write, name):
    content, settings, message = MISTAKES[name]
    with pytest.raises(DataError) as caught:
        read(write(name, content), **settings)
    said = str(caught.value)
    assert message in said and name in said and "\n" not in said


TAG_MISTAKES = {
    "a.conll": ("one A\ntwo\n", "line 2: has 1 columns, and others 2"),
    "b.conll": ("one\ntwo\n", "line 1: has a single column"),
    "c.conll": ("\n\n", "holds no sentences"),
    "d.conllu": ("1\tgo\n\n", "line 1: has no upos"),
    "g.conllu": ("x\tgo\tgo\n\n", "line 1: cannot be read as CoNLL-U: "),
    "e.conllu": (CONLLU.replace("VERB", "_"), "line 6: has no upos"),
    "f.csv": ("0.5,D\nx,D\n0.7,S\n", "line 2: '1' is 'x', no number"),
}


@pytest.mark.parametrize("name", TAG_MISTAKES)
def test_a_mistake_in_tagged_steps_is_one_line_with_its_place(write, name):
    content, message = TAG_MISTAKES[name]
    with pytest.raises(DataError) as caught:
        read(write(name, content), by_step=True)
    assert message in str(caught.value) and name in str(caught.value)


def test_what_lies_in_folders_must_be_of_one_kind(write, tmp_path):
    write("one/a.wav", b"")
    with pytest.raises(DataError, match="all 1 files lie in one folder, 'one'"):
        read(tmp_path / "one")
    with pytest.raises(DataError, match=r"a.wav: its name does not match '\{label\}-1.wav'"):
        read(tmp_path / "one", pattern="{label}-1.wav")
    with pytest.raises(OstinatoError, match=r"expected \{label\} once"):
        read(tmp_path / "one", pattern="{speaker}.wav")
    write("two/b.png", b"")
    with pytest.raises(DataError, match="recordings and images lie together"):
        read([tmp_path / "one", tmp_path / "two"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no recordings, images or texts"):
        read(tmp_path / "none")
    with pytest.raises(DataError, match="none.csv: no such file"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no files were named"):
        read([])
    with pytest.raises(DataError, match=r"b.ts: holds series of 2 variables, and .*a.csv text"):
        read([write("a.csv", CSV), write("b.ts", TS)])


def test_damaged_idx_files_are_refused(write):
    cut = idx(np.zeros((2, 3, 4)))[:-1]
    with pytest.raises(DataError, match="holds 39 bytes, and its head says 40"):
        read(write("t-images-idx3-ubyte", cut))
    three = write("u-images-idx3-ubyte", idx(np.zeros((3, 2, 2))))
    write("u-labels-idx1-ubyte", idx(np.zeros(2)))
    with pytest.raises(DataError, match="holds 3 images, for 2 labels"):
        read(three)


# Headers.


@pytest.mark.parametrize(
    ("rows", "header"),
    [
        (["x,y", "1,2", "3,4"], True),
        (["1,2", "3,4"], False),
        (["text,mood", "a b,good", "c d,bad"], True),
        (["a b,good", "c d,bad", "e f,good", "g h,bad"], False),
        (["film,mood", *["a b,good", "c d,bad"] * 4], True),
        (["a b,good", *["c d,bad", "e f,good"] * 4], False),
        (["a,", "b,c"], False),
    ],
)
def test_whether_the_first_line_names_the_columns(write, rows, header):
    assert read_table(write("a.csv", "\n".join(rows))).named == header
    for told in (True, False):
        assert (
            read_table(
                write("a.csv", "\n".join([*rows[1:], "z,z"])), TableSettings(header=told)
            ).named
            == told
        )


# Objects.


def test_what_is_in_memory_is_taken_by_its_kind(tmp_path):
    assert corpus_of(["a b", "c"]).kind == "text"
    assert corpus_of([["a", "b"], ["c"]]).kind == "words"
    series = corpus_of([np.arange(3), [1.0, 2.0]], ["a", "b"])
    assert (series.kind, [x.shape for x in series.inputs]) == ("series", [(3, 1), (2, 1)])
    assert corpus_of(np.zeros((5, 4, 2))).inputs[0].shape == (4, 2)
    assert corpus_of(np.zeros((5, 4, 3), np.uint8)).inputs[0].shape == (4, 3, 1)
    path = tmp_path / "a.wav"
    path.touch()
    assert corpus_of([path]).kind == "sound"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The dog barks .\nA cat sleeps, too .\n", "words"),
        ("The dog barks .\n\nA cat sleeps .\nIt is late\n", "words"),
        ("Hello , world\nso it goes on\n", "words"),
        ("The\tDET\ndog\tNOUN\n\nIt\tPRON\n", "tags"),
        ("The DET\ndog NOUN\n\nIt PRON\n", "tags"),
    ],
)
def test_plain_sentences_are_read_from_a_file_of_any_name(tmp_path, text, kind):
    file = tmp_path / "new.txt"
    file.write_text(text)
    corpus = read_corpus([file], ReadingSettings(), by_step=True, labelled=None)
    assert (corpus.targets is None) == (kind == "words")
    if kind == "words":
        assert list(corpus.inputs) == [line.split() for line in text.splitlines() if line]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("a text", None, "got 'a text'; expected several items"),
        (Path("none.csv"), None, "expected several items"),
        (["ab", "cd"], "xy", "got 'xy'; expected several items"),
        ([], None, "X is empty"),
        (["a"], ["x", "y"], "X has 1 sequences, and y 2 labels"),
        (["a", 3], None, "X[1]: is 3; expected a text"),
        ([["a"], 3], None, "X[1]: is 3; expected a list of words"),
        ([[1.0], [np.nan]], None, "X[1]: is nan at step 0, variable 0"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], None, "X[1]: has shape (2, 4); expected (T, 3)"),
        ([np.zeros((2, 3, 4))], None, "X[0]: has shape (2, 3, 4)"),
        ([[1.0], ["x"]], None, "X[1]: cannot be read as numbers"),
        ([Path("none.wav")], None, "there is no such file"),
    ],
)
def test_what_cannot_be_a_sequence_is_refused(X, y, message):
    with pytest.raises(OstinatoError) as caught:
        corpus_of(X, y)
    assert message in str(caught.value)


def test_names_above_files_are_a_header_however_few_the_rows(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,caption number {i}" for i in range(4)]
    table = tmp_path / "captions.csv"
    table.write_text("\n".join(["image,caption", *rows]))
    corpus = read_corpus([table], ReadingSettings(), by_step=False, labelled=True)
    assert corpus.kind == "image" and len(corpus) == 4
    table.write_text("\n".join(rows))
    assert len(read_corpus([table], ReadingSettings(), by_step=False, labelled=True)) == 4


def test_a_word_above_sentences_is_a_name(write):
    rows = [f"klar ens {i},clear one {i}" for i in range(20)]
    for names, header in (
        ("klar,lang", True),
        ("klar ens,clear one", False),
        ("klar,one two", False),
    ):
        assert read_table(write("a.csv", "\n".join([names, *rows]))).named == header
    texts = [f"a text of {i} words" for i in range(20)]
    assert read_table(write("b.csv", "\n".join(["said", *texts]))).named


def test_idx_files_without_images_or_with_labels_that_are_none_are_refused(write):
    with pytest.raises(DataError, match="u-images-idx3-ubyte: is empty"):
        read(write("u-images-idx3-ubyte", idx(np.zeros((0, 2, 2)))))
    write("v-labels-idx1-ubyte", b"")
    with pytest.raises(DataError, match="v-labels-idx1-ubyte: cannot be read as idx"):
        read(write("v-images-idx3-ubyte", idx(np.zeros((1, 2, 2)))))
