"""Targets: what they encode they decode, what they measure is what others measure."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn

from ostinato.data.batches import SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.places import Place
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import build_vocabulary
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import ManyToMany, ManyToOne, recurrent_layers
from ostinato.tasks.tagging import entities
from ostinato.tasks.targets import Classes, Numbers, StepLabels, TokenSequence, calibrate

FEATURES = 3


def corpus(targets, steps=4):
    inputs = [np.zeros((steps, FEATURES)) for _ in targets]
    places = [Place(f"X[{i}]") for i in range(len(targets))]
    return Corpus("series", inputs, targets, places, ["1", "2", "3"])


def restored(targets):
    """Return the targets as a stored model has them."""
    return type(targets).from_json(json.loads(json.dumps(targets.to_json())))


CASES = {
    "classes": (Classes, ["b", "a", "c", "a"]),
    "numbers as classes": (Classes, [3, 1, 1, 2]),
    "label sets": (Classes, [["b", "a"], [], ["c"], ["a"]]),
    "numbers": (Numbers, [1.0, 5.0, -2.5, 1e6]),
    "several numbers": (Numbers, [[1.0, 2.0], [0.1, -3.0], [4.0, 2.0], [7.0, 2.5]]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_encoded_is_decoded_also_after_storing(case):
    kind, labels = CASES[case]
    data = corpus(labels)
    targets = kind.learn(data)
    targets.check(data)
    for each in (targets, restored(targets)):
        encoded = each.encode(data)
        if kind is Numbers:
            np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-6)
            np.testing.assert_allclose(encoded.std(0), 1, rtol=1e-5)
            found = each.decode(encoded.astype(np.float64))
            np.testing.assert_allclose(found, np.array(labels), rtol=1e-5, atol=1e-1)
        elif case == "label sets":
            assert each.decode(encoded) == [sorted(some) for some in labels]
        else:
            assert each.decode(np.eye(len(each.names))[encoded]).tolist() == labels


def test_labels_of_steps_are_encoded_and_decoded():
    data = corpus([["N", "V", "N", "D"], ["D", "D", "N", "V"]])
    targets = restored(StepLabels.learn(data))
    rows = Ragged.of(targets.encode(data)).padded([0, 1])
    assert list(targets.decode(rows, [4, 2])) == [["N", "V", "N", "D"], ["D", "D"]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "all 2 sequences have the label 'a'"),
        (["a", 1], "some labels are text and some are numbers"),
        (["a", ["b"]], "others have lists of labels, or not"),
        (["a", None], "None is no label"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(OstinatoError, match=message):
        Classes.learn(corpus(labels))


def test_a_label_that_training_did_not_have_is_refused_with_its_place():
    with pytest.raises(DataError, match=r"X\[1\]: has the label 'x', which was not in"):
        Classes.learn(corpus(["a", "b"])).check(corpus(["a", "x"]))
    with pytest.raises(DataError, match=r"X\[0\]: has the label 'x', which was not in"):
        Classes.learn(corpus([["a"], []])).check(corpus([["x"]]))
    steps = StepLabels.learn(corpus([["a", "b", "a", "b"]]))
    with pytest.raises(DataError, match=r"X\[0\]: has the label 'x', which was not in"):
        steps.check(corpus([["a", "a", "x", "b"]]))
    with pytest.raises(DataError, match="has 4 steps, and 1 labels"):
        steps.check(corpus([["a"]]))
    with pytest.raises(DataError, match=r"X\[1\]: has 2 numbers; expected 1"):
        Numbers.learn(corpus([1.0, 2.0])).check(corpus([1.0, [1.0, 2.0]]))


def test_measures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), 50)
    truth = random.integers(0, 3, 50)
    found = Classes(np.array(["a", "b", "c"])).measure(truth, p)
    assert found["accuracy"] == accuracy_score(truth, p.argmax(1))
    np.testing.assert_allclose(found["log_loss"], log_loss(truth, p, labels=[0, 1, 2]))
    assert np.trace(found["confusion"]) == found["accuracy"] * 50
    truth = (random.random((50, 3)) < 0.4).astype(np.float32)
    p = random.uniform(size=(50, 3))
    found = Classes(np.array(["a", "b", "c"]), multilabel=True).measure(truth, p)
    assert found["micro_f1"] == f1_score(truth, p > 0.5, average="micro", zero_division=0)
    by_label = [log_loss(truth[:, k], p[:, k], labels=[0, 1]) for k in range(3)]
    np.testing.assert_allclose(found["log_loss"], sum(by_label))


# Entities.


ENTITIES = ["O", "B-A", "I-A", "B-B", "I-B"]


@pytest.mark.parametrize("names", [ENTITIES, ["O", "I-A", "E-A", "B-A", "S-A", "I-B", "X", "B-"]])
def test_entities_of_a_batch_are_counted_as_one_by_one(names):
    targets = StepLabels(np.array(sorted(names)))
    random = np.random.default_rng(0)
    lengths = torch.tensor([*range(9), 40])
    for _ in range(20):
        true = random.integers(len(names), size=(10, 40))
        best = np.where(random.random(true.shape) < 0.3, random.integers(len(names)), true)
        found = targets.count_entities(torch.tensor(best), torch.tensor(true), lengths)
        spans = [
            {
                (i, *span)
                for i, row in enumerate(targets.decode(of, lengths))
                for span in entities(row)
            }
            for of in (best, true)
        ]
        assert found == (len(spans[0] & spans[1]), len(spans[0]), len(spans[1]))


def labels_of(*rows):
    rows = [row.split() for row in rows]
    return Corpus("words", rows, rows, [Place("X", i) for i in range(len(rows))])


def test_entities_are_scored_jointly_and_keep_to_the_form_that_training_data_keep_to():
    clean = ["B-A I-A O", "O B-B B-A", "B-B I-B I-B"]
    assert StepLabels.learn(labels_of(*clean), crf=None).crf
    assert not StepLabels.learn(labels_of("DET NOUN"), crf=None).crf
    assert not StepLabels.learn(labels_of(*clean), crf=False).crf
    assert not StepLabels.learn(labels_of("DET NOUN"), crf=True).strict
    for broken in ("O I-A", "I-A", "B-B I-A", "B-A I-B"):
        assert not StepLabels.learn(labels_of(*clean, broken), crf=None).strict
    strict = StepLabels.learn(labels_of(*clean), crf=None)
    assert strict.strict
    torch.manual_seed(0)
    output = StepLabels.from_json(strict.to_json()).head(4, 0.0)
    best = output.best(9 * torch.randn(200, 6, 5))
    for row in strict.decode(best.numpy(), [6] * 200):
        for before, label in pairwise(["O", *row]):
            assert label[0] != "I" or before in (f"B-{label[2:]}", label)


# On batches.


def batches(encoded, batch_size=4, own_lengths=False):
    random = np.random.default_rng(1)
    rows = Ragged.of(random.normal(size=(n, FEATURES)).astype("f4") for n in (4, 2, 7, 3, 5))
    return SequenceBatches(Examples(rows, encoded(rows)), batch_size, own_lengths=own_lengths)


def network(kind, output):
    torch.manual_seed(0)
    return kind(nn.Identity(), recurrent_layers("gru", FEATURES, 6), output).eval()


def test_the_accuracy_of_a_batch_counts_sequences_or_steps():
    classes = Classes(np.array(["a", "b"]))
    net = network(ManyToOne, classes.head(6, 0.0)).requires_grad_(False)
    (batch,) = batches(lambda rows: np.array([0, 1, 1, 0, 1]), batch_size=5)
    found, _ = classes.metrics(net, batch, None)
    scores, _ = net(batch.inputs, lengths=batch.lengths)
    right = [int(row.argmax()) == int(t) for row, t in zip(scores, batch.targets, strict=True)]
    assert found["accuracy"] == np.mean(right) and classes.count(batch) == 5
    assert classes.loss(net, batch, None)[0].item() == pytest.approx(found["loss"])

    sets = Classes(np.array(["a", "b"]), multilabel=True)
    net = network(ManyToOne, sets.head(6, 0.0)).requires_grad_(False)
    truth = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]], dtype="f4")
    (batch,) = batches(lambda rows: truth, batch_size=5)
    scores, _ = net(batch.inputs, lengths=batch.lengths)
    found, _ = sets.metrics(net, batch._replace(targets=(scores > 0).float()), None)
    assert found["accuracy"] == 1
    one_wrong = (scores > 0).float()
    one_wrong[:2, 1] = 1 - one_wrong[:2, 1]
    found, _ = sets.metrics(net, batch._replace(targets=one_wrong), None)
    assert found["accuracy"] == pytest.approx(3 / 5)

    labels = StepLabels(np.array(["a", "b"]))
    net = network(ManyToMany, labels.head(6, 0.0)).requires_grad_(False)
    (batch,) = batches(lambda rows: Ragged.of(np.arange(n) % 2 for n in rows.lengths), batch_size=5)
    found, _ = labels.metrics(net, batch, None)
    right = []
    for row, n, t in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
        scores, _ = net(row[None, :n])
        right += (scores[0].argmax(-1) == t[:n]).tolist()
    assert len(right) == labels.count(batch) == 21
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_tokens_are_counted_with_the_ends_that_are_predicted():
    vocabulary = build_vocabulary("char", TextSource.from_text("abc"))
    targets = TokenSequence(vocabulary)
    texts = [vocabulary.encode(text) for text in ("a", "bc", "", "abc", "c")]
    (batch,) = batches(lambda rows: Ragged.of(texts), batch_size=5, own_lengths=True)
    assert targets.count(batch) == sum(map(len, texts)) + len(texts) == 12
    assert restored(targets).vocabulary.decode([0, 1, 2]) == "abc"


@pytest.mark.parametrize("factor", [0.25, 1.0, 8.0])
def test_calibration_undoes_what_scores_are_multiplied_by(factor):
    torch.manual_seed(0)
    scores = torch.randn(20_000, 3)
    truth = torch.multinomial(scores.softmax(-1), 1)[:, 0]
    loss = Classes(np.arange(3)).head(1, 0.0).loss
    assert calibrate(scores * factor, truth, loss) == pytest.approx(factor, rel=0.05)
