"""Groups, such as speakers: read with the data, whole in one part, not tested on after training."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from ostinato import SequenceClassifier, SequenceTagger, TextGenerator, Translator
from ostinato.data.corpus import Corpus, ReadingSettings
from ostinato.data.pairs import PairSettings, read_pairs
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.errors import DataError, OstinatoError
from ostinato.tasks.sequences import group_digests

LINES = ["text,label,who", "a b,x,ann", "c d,y,bob", "e f,x,ann"]
FRAMES = ["id,v,label,who", "1,0.5,x,ann", "1,0.7,x,ann", "2,0.1,y,bob", "2,0.3,y,bob"]
WORDS = ["sentence,word,tag,who", "1,the,D,ann", "1,dog,N,ann", "2,a,D,bob", "2,cat,N,bob"]


def read(path, by_step=False, labelled=True, **settings):
    return read_corpus([path], ReadingSettings(**settings), by_step=by_step, labelled=labelled)


@pytest.mark.parametrize(
    ("lines", "by_step", "groups"),
    [(LINES, False, ["ann", "bob", "ann"]), (FRAMES, False, ["ann", "bob"]),
     (WORDS, True, ["ann", "bob"])],
)  # fmt: skip
def test_a_column_of_a_table_holds_the_groups(tmp_path, lines, by_step, groups):
    file = tmp_path / "data.csv"
    file.write_text("\n".join(lines))
    corpus = read(file, by_step, group="who")
    assert corpus.groups == groups and "group: who" in corpus.notes[0]
    assert "who" not in corpus.variables
    assert corpus.take([1]).groups == ["bob"]
    assert Corpus.joined([corpus, corpus]).groups == 2 * groups
    assert Corpus.joined([corpus, replace(corpus, groups=None)]).groups is None
    with pytest.raises(DataError, match="has no column 'whom' for the groups"):
        read(file, by_step, group="whom")


def test_a_sequence_is_of_one_group(tmp_path):
    file = tmp_path / "data.csv"
    file.write_text("\n".join([*FRAMES[:2], "1,0.7,x,bob", *FRAMES[3:]]))
    with pytest.raises(DataError, match=r"line 3: is of the group 'bob', and line 2 of the same"):
        read(file, group="who")


def test_a_frame_and_pairs_have_columns_of_groups(tmp_path):
    frame = pd.DataFrame({"text": ["a b", "c"], "label": ["x", "y"], "who": [1, 2]})
    assert corpus_of(frame, settings=ReadingSettings(group="who")).groups == ["1", "2"]
    labels = corpus_of(frame[["text", "who"]], ["x", "y"], ReadingSettings(group="who"))
    assert labels.groups == ["1", "2"]
    file = tmp_path / "pairs.tsv"
    file.write_text("en\tde\tbook\na\tb\tone\nc\td\ttwo\n")
    assert read_pairs([file], PairSettings(group="book")).groups == ["one", "two"]
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(DataError, match="parallel files have no columns; expected a table"):
        read_pairs([tmp_path / "a.txt"] * 2, PairSettings(group="book"))


@pytest.fixture
def recordings(tmp_path):
    """Three speakers who say high or low, each at a height of their own."""
    random, t = np.random.default_rng(0), np.arange(1600) / 8000
    for i in range(24):
        word, who = ["high", "low"][i % 2], ["ann", "bob", "cem"][i % 3]
        f = {"high": 2000, "low": 300}[word] * (1 + 0.05 * (i % 3))
        sound = np.sin(2 * np.pi * f * t) + 0.01 * random.normal(size=len(t))
        soundfile.write(tmp_path / f"{word}_{who}_{i}.wav", 0.5 * sound, 8000)
    return tmp_path


def test_names_of_files_hold_the_groups(recordings):
    pattern = "{label}_{speaker}_{take}.wav"
    corpus = read(recordings, pattern=pattern, group="speaker")
    assert corpus.targets[:2] == ["high", "high"] and set(corpus.groups) == {"ann", "bob", "cem"}
    assert read(recordings, pattern="{label}_{group}_*").groups == corpus.groups
    assert read(recordings, pattern=pattern).groups is None
    with pytest.raises(OstinatoError, match=r"expected a field \{voice\} in the pattern"):
        read(recordings, pattern=pattern, group="voice")
    with pytest.raises(OstinatoError, match=r"expected \{speaker\} once"):
        read(recordings, pattern="{label}_{speaker}_{speaker}.wav", group="speaker")
    assert read(recordings, labelled=None, group="speaker").groups is None
    lines = recordings / "lines.ts"
    lines.write_text("@classLabel true\n@data\n1,2:x\n3,4:y\n")
    with pytest.raises(DataError, match="has no column 'speaker' for the groups; expected a table"):
        read(lines, group="speaker")


SMALL = {"hidden_size": 4, "epochs": 1}


def test_validation_and_test_data_share_no_group_with_training(recordings, tmp_path):
    how = {"pattern": "{label}_{speaker}_{take}.wav", "group": "speaker", **SMALL}
    corpus = read(recordings, pattern=how["pattern"], group="speaker")
    parts = {who: [path for path, group in zip(corpus.inputs, corpus.groups, strict=True)
                   if group == who] for who in ("ann", "bob", "cem")}  # fmt: skip
    known = [*parts["ann"], *parts["bob"]]
    notes = []
    model = SequenceClassifier(**how).fit(known)
    notes = model.training_["notes"]
    assert "2 groups, of which 1 for validation alone: " in notes[-1]
    assert model.training_["sequences"] == model.training_["held_out"] == 8
    assert model.training_["groups"] == group_digests(["ann", "bob"])
    assert model.evaluate(parts["cem"])["sequences"] == 8
    for shared in (parts["ann"], [*parts["cem"], *parts["bob"]]):
        with pytest.raises(
            DataError, match=r"evaluate: 8 of \d+ sequences are of groups that were"
        ):
            model.evaluate(shared)
        assert model.evaluate(shared, allow_shared_groups=True)["sequences"] == len(shared)
    with pytest.raises(DataError, match="fit: validation: 8 of 8 sequences are of groups .* 'ann'"):
        SequenceClassifier(**how).fit(known, validation=parts["ann"])
    whole = SequenceClassifier(**how).fit(known, validation=parts["cem"])
    assert whole.training_["groups"] == group_digests(["ann", "bob", "cem"])
    model.save(tmp_path / "model")
    with pytest.raises(DataError, match="'ann'"):
        SequenceClassifier.load(tmp_path / "model").evaluate(parts["ann"])


def test_groups_of_data_in_memory_are_an_array():
    random = np.random.default_rng(0)
    X = [random.normal(size=(5, 2)) for _ in range(30)]
    y, groups = ["a", "b"] * 15, np.arange(30) // 10
    model = SequenceClassifier(**SMALL).fit(X, y, groups=groups)
    assert model.training_["held_out"] == 10
    assert "SequenceClassifier" in str(model)
    with pytest.raises(DataError, match="10 of 10 sequences are of groups .* '2'"):
        model.evaluate(X[20:], y[20:], groups=groups[20:])
    assert model.evaluate(X[20:], y[20:], groups=["new"] * 10)["sequences"] == 10
    assert model.evaluate(X[20:], y[20:])["sequences"] == 10  # not known to be shared
    plan = SequenceClassifier(**SMALL).plan(X, y, groups=groups)
    assert "3 groups, of which 1 for validation alone" in plan.title
    with pytest.raises(OstinatoError, match="X has 30 sequences, and groups 3; expected the group"):
        SequenceClassifier().fit(X, y, groups=[1, 2, 3])
    with pytest.raises(DataError, match="all 30 sequences are of the group '1'"):
        SequenceClassifier().fit(X, y, groups=[1] * 30)
    alone = SequenceClassifier(**SMALL, validation_fraction=0).fit(X, y, groups=[1] * 30)
    assert alone.training_["groups"] == group_digests(["1"])


def test_other_tasks_split_by_group_too():
    X, y = [["the", "dog"], ["a", "cat"]] * 6, [["D", "N"]] * 12
    tagger = SequenceTagger(**SMALL).fit(X, y, groups=["a"] * 8 + ["b"] * 4)
    assert {tagger.training_["sequences"], tagger.training_["held_out"]} == {4, 8}
    texts = ["a b", "b a", "b b", "a a"] * 3
    translator = Translator(**SMALL, level="word").fit(texts, texts, groups=list("aabb") * 3)
    assert translator.training_["held_out"] == 6
    with pytest.raises(OstinatoError, match="groups are for sequences with a target each"):
        TextGenerator()._grouped("text", None, [1])
