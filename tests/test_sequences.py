"""From data as they were read to batches: split, encoded, sampled."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ostinato.data.corpus import Corpus
from ostinato.data.inputs import Inputs, InputSettings
from ostinato.data.places import Place
from ostinato.errors import DataError
from ostinato.tasks.sequences import (
    Sequences,
    check_groups,
    group_digests,
    prepare,
    resolve,
    split,
    split_groups,
)
from ostinato.tasks.targets import Classes, StepLabels
from ostinato.training.settings import TrainingSettings


def series(labels, seed=0, by_step=False):
    random = np.random.default_rng(seed)
    inputs = [random.normal(3.0, 2.0, size=(random.integers(1, 9), 2)) for _ in labels]
    targets = [[label] * len(x) for label, x in zip(labels, inputs, strict=True)]
    places = [Place(f"X[{i}]") for i in range(len(labels))]
    return Corpus("series", inputs, targets if by_step else labels, places, ["1", "2"])


def places(corpus):
    return [place.path for place in corpus.places]


@pytest.mark.parametrize(("fraction", "held"), [(None, 20), (0.3, 30), (0.001, 1)])
def test_a_split_parts_all_sequences_once(fraction, held):
    data = series(list("abcd") * 25)
    kept, out = split(data, fraction, seed=3)
    assert len(out) == held
    assert sorted(places(kept) + places(out)) == sorted(places(data))
    assert places(split(data, fraction, seed=3)[1]) == places(out)
    if held > 1:
        assert places(split(data, fraction, seed=4)[1]) != places(out)


def test_a_split_keeps_the_shares_of_labels_and_trains_on_lone_ones():
    labels = ["a"] * 60 + ["b"] * 40 + ["once"]
    kept, out = split(series(labels), 0.2, seed=0, strata=labels)
    assert [out.targets.count(label) for label in ("a", "b", "once")] == [12, 8, 0]
    assert kept.targets.count("once") == 1


def test_too_few_sequences_are_refused():
    with pytest.raises(DataError, match="Who: 1 sequences are too few to hold 1 out"):
        split(series(["a"]), None, 0, call="Who")


def test_what_is_given_is_not_resolved_and_more_data_are_gone_over_less_often():
    few, many = (resolve(TrainingSettings(), n) for n in (100, 100_000))
    assert few["epochs"] > many["epochs"] and few["batch_size"] < many["batch_size"]
    assert few["hidden_size"] < many["hidden_size"] and few["dropout"] > many["dropout"]
    given = resolve(TrainingSettings(steps=5, batch_size=3, validation_fraction=0), 100)
    assert (given["batch_size"], given["epochs"], given["patience"]) == (3, None, 0)


@pytest.mark.parametrize("by_step", [False, True])
def test_prepared_data_are_those_that_were_read(tmp_path, by_step):
    data = series(list("ab") * 10, by_step=by_step)
    targets = (StepLabels if by_step else Classes).learn(data)
    inputs = Inputs.learn(data, InputSettings())
    parts = {"training": data, "validation": series(["a", "b"], 1, by_step)}
    inputs, lengths, facts = prepare(tmp_path, parts, inputs, targets)
    assert lengths.tolist() == [len(x) for x in data.inputs]
    assert (facts["sequences"], facts["held_out"]) == (20, 2)
    values = np.concatenate(data.inputs)
    np.testing.assert_allclose(inputs.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(inputs.scale, values.std(0), rtol=1e-6)
    assert Inputs.from_json(inputs.to_json()).to_json() == inputs.to_json()

    sequences = Sequences(inputs, targets)
    problem = sequences.problem(tmp_path, facts, 7, "")
    seen = []
    for batch in problem.validation:
        for x, n in zip(batch.inputs, batch.lengths, strict=True):
            seen.append(x[:n].tolist())
    expected = [x.astype("f4").tolist() for x in parts["validation"].inputs]
    assert sorted(seen) == sorted(expected)
    sample = sequences.sample_of_run(tmp_path, 10, None)
    assert len(sample.inputs) == len(sample.targets) == 2
    torch.testing.assert_close(sample.encode(sample.inputs), sample.inputs.float())


def test_a_sample_takes_long_rows_of_steps_and_cuts_them():
    data = series(list("ab") * 20, by_step=True)
    sequences = Sequences(Inputs.learn(data, InputSettings()), StepLabels.learn(data), seed=1)
    sample = sequences.sample(sequences.labelled(data), 5, 3)
    assert sample.inputs.shape[:2] == sample.targets.shape == (5, 3)
    x, names = sequences.encode(data)
    torch.testing.assert_close(x[0], torch.from_numpy(data.inputs[0]).float())
    assert names == []


def test_words_name_their_steps():
    texts = Corpus("text", ["the dog barks", "a cat"], ["x", "y"], [Place("1"), Place("2")])
    sequences = Sequences(Inputs.learn(texts, InputSettings(min_count=1)), Classes.learn(texts))
    x, names = sequences.encode(texts)
    assert names == ["the", "dog", "barks"] and x.shape == (1, 3)


def test_a_sample_of_words_has_those_of_its_rows_alone():
    rng = np.random.default_rng(0)
    lines = [
        " ".join(f"w{k}" * (1 + k % 3) for k in rng.integers(0, 90, 1 + i % 5)) for i in range(60)
    ]
    texts = Corpus("text", lines, list("ab") * 30, [Place(str(i)) for i in range(60)])
    sequences = Sequences(Inputs.learn(texts, InputSettings(min_count=1)), Classes.learn(texts))
    every = sequences.labelled(texts)
    sample = sequences.sample(every, 7, None)
    drawn = np.random.default_rng(0).permutation(60)[:7].tolist()
    rows = torch.from_numpy(every.inputs.padded(drawn))
    ends = torch.tensor([len(every.inputs[i]) for i in drawn])

    def words_of(encoded, lengths):
        parts = [encoded.characters, encoded.sizes[:, None], encoded.affixes]
        told = torch.cat([F.pad(p, (0, 30 - p.shape[1])) for p in parts], 1)[encoded.spelled]
        every = torch.cat([encoded.ids[..., None], told], -1)
        return sorted(row[:n].tolist() for row, n in zip(every, lengths, strict=True))

    few = words_of(sample.encode(sample.inputs), sample.lengths)
    assert few == words_of(sequences._prepared(rows, every.words), ends)
    assert len(sample.encode.keywords["words"].ids) < len(every.words.ids)


def test_empty_sequences_and_folders_without_data_are_refused(tmp_path):
    data = series(["a", "b"])
    data.inputs = [np.zeros((0, 2))] * 2
    inputs, targets = Inputs.learn(data, InputSettings()), Classes.learn(data)
    with pytest.raises(DataError, match="all sequences are empty"):
        prepare(tmp_path, {"training": data}, inputs, targets)
    with pytest.raises(DataError, match="holds no data of a run"):
        Sequences(inputs, targets).sample_of_run(tmp_path / "nowhere", 1, None)


def of_groups(groups, seed=0):
    return replace(series(["x"] * len(groups), seed), groups=groups)


@pytest.mark.parametrize("fraction", [None, 0.5, 0.001, 0.999])
def test_groups_are_in_one_part_each(fraction):
    data = of_groups([f"speaker {i % 7}" for i in range(100)])
    kept, out = split_groups(data, fraction, seed=1)
    assert sorted(places(kept) + places(out)) == sorted(places(data))
    assert set(kept.groups) and set(out.groups) and not set(kept.groups) & set(out.groups)
    assert {len(set(part.groups)) for part in (kept, out)} == {
        None: {6, 1}, 0.5: {4, 3}, 0.001: {6, 1}, 0.999: {1, 6},
    }[fraction]  # fmt: skip
    named = ", ".join(sorted(set(out.groups)))
    assert (
        kept.notes[-1] == f"7 groups, of which {len(set(out.groups))} for validation alone: {named}"
    )
    assert places(split_groups(data, fraction, seed=1)[1]) == places(out)
    chosen = {tuple(set(split_groups(data, 0.1, seed=seed)[1].groups)) for seed in range(8)}
    assert len(chosen) > 2


def test_a_single_group_cannot_be_split():
    with pytest.raises(DataError, match="Who: all 4 sequences are of the group 'a'; expected two"):
        split_groups(of_groups(["a"] * 4), None, 0, call="Who")


def test_known_groups_are_refused_by_name():
    seen = group_digests(["a", "b"])
    assert len(set(seen)) == 2 and "a" not in seen
    check_groups(of_groups(["c", "d"]), seen, "Who", "leave")
    check_groups(series(["x"]), seen, "Who", "leave")
    with pytest.raises(DataError, match="Who: 2 of 3 sequences are of groups .*: 'a', 'b'; leave"):
        check_groups(of_groups(["c", "b", "a"]), seen, "Who", "leave")
