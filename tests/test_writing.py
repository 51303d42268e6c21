"""Translation and summaries: from texts to texts, stored and resumed; and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ostinato import Summarizer, Translator, diagnose, load
from ostinato.data.batches import SequenceBatch
from ostinato.data.ragged import Ragged
from ostinato.errors import OstinatoError
from ostinato.networks.decoding import Hypothesis
from ostinato.tasks import writing
from ostinato.tasks.summarization import first_sentence, rouge
from ostinato.tasks.targets import vocabulary_of
from ostinato.tasks.writing import TargetTexts
from ostinato.training.evaluation import evaluate

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
SMALL = {"hidden_size": 32, "level": "word", "dropout": 0.0, "learning_rate": 0.01}


def sentences(N, seed=0):
    """Numbers in a random order, and their German in the reverse one."""
    rng = np.random.default_rng(seed)
    X = [" ".join(rng.choice(list(WORDS), size=rng.integers(1, 5))) for _ in range(N)]
    return X, [" ".join(WORDS[word] for word in reversed(text.split())) for text in X]


@pytest.fixture(scope="module")
def model():
    return Translator(epochs=12, label_smoothing=0.0, **SMALL).fit(*sentences(600))


def test_what_was_learnt_holds_for_new_sentences(model):
    X, y = sentences(60, seed=5)
    assert np.mean([a == b for a, b in zip(model.predict(X), y, strict=True)]) > 0.9
    found = model.evaluate(X, y)
    assert found["bleu"] > 80 and found["chrf"] > 80 and found["sentences"] == 60
    assert "version" in found["bleu_signature"]
    assert model.score(X, y) == found["bleu"]


def test_several_texts_come_best_first_with_their_probabilities(model):
    (several,) = model.write(["one two"], n_best=3, beam=4)
    assert several[0].text == "zwei eins"
    assert len({each.text for each in several}) == 3
    scores = [each.score for each in several]
    assert scores == sorted(scores, reverse=True)
    assert sum(np.exp(each.log_p) for each in several) <= 1
    assert several[0].attention.shape == (len(several[0].pieces), 2)
    np.testing.assert_allclose(several[0].attention.sum(1), 1, rtol=1e-5)
    # What is written last was read first.
    assert several[0].attention[0].argmax() == 1 or several[0].attention[-1].argmax() == 0


def test_the_order_and_the_company_of_texts_do_not_matter(model):
    X, _ = sentences(20, seed=7)
    alone = [model.translate([text])[0] for text in X]
    assert model.translate(X) == alone
    assert [w[0].text for w in model.write(X, batch_size=3)] == alone


def test_odd_sources_get_sensible_answers(model):
    long = " ".join(["one"] * 300)
    empty, unknown, far = model.translate(["", "five zzz", long])
    assert empty == ""
    assert isinstance(unknown, str) and 0 < len(far.split()) <= 2 * 300 + 20
    drawn = model.write(["one two"] * 3, sampling=True, seed=3)
    assert [w[0].text for w in drawn] == [
        w[0].text for w in model.write(["one two"] * 3, sampling=True, seed=3)
    ]


def test_a_stored_model_writes_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    X, _ = sentences(10, seed=9)
    assert again.translate(X) == model.translate(X)
    assert diagnose(again, sentences(20, seed=2)).flow.layers


@pytest.mark.parametrize(
    "more",
    [
        {"attention": "additive", "input_feeding": True},
        {"shared": False, "sampled": 0.3, "cell": "lstm", "num_layers": 2},
        {"level": "bpe", "attention": "additive", "coverage": True, "copying": True},
        {"level": "char", "label_smoothing": 0.0},
    ],
    ids=lambda more: "-".join(more),
)
def test_every_form_trains_stores_and_resumes_bit_for_bit(more, tmp_path):
    settings = {**SMALL, "hidden_size": 12, "epochs": 2, "seed": 3, **more}
    X, y = sentences(40)
    one = Translator(**settings).fit(X, y, out=tmp_path / "run")
    other = Translator(**settings).fit(X, y)
    weights = one.network_.state_dict(), other.network_.state_dict()
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))
    again = load(tmp_path / "run")
    assert again.predict(X[:5]) == one.predict(X[:5])
    resumed = Translator.resume(tmp_path / "run")
    assert resumed.predict(X[:5]) == one.predict(X[:5])


def test_a_summariser_copies_words_that_it_has_never_written():
    rng = np.random.default_rng(0)
    letters = list("bcdfghklmnprstvw")
    names = ["".join(rng.choice(letters, 3)) for _ in range(400)]
    X = [f"the one that counts is {name} and no other . it is so ." for name in names]
    y = [[f"{name} counts", f"{name} does"] for name in names]
    model = Summarizer(
        epochs=6, hidden_size=48, level="bpe", vocabulary_size=300, dropout=0.0, coverage=False,
        learning_rate=0.01,
    ).fit(X[:360], y[:360])  # fmt: skip
    found = model.evaluate(X[360:], y[360:])
    assert found["documents"] == 40
    assert found["rouge1"] > found["lead_rouge1"]
    assert set(found) >= {"rougeL", "lead_rouge2"}
    assert model.score(X[360:], y[360:]) == pytest.approx(found["rougeL"])


def test_rouge_is_its_definition():
    found = rouge("the cat sat on the mat", ["the cat lay on a mat"])
    assert found["rouge1"] == pytest.approx(2 * 4 / 12)  # the, cat, on, mat
    assert found["rouge2"] == pytest.approx(2 * 1 / 10)  # the cat
    assert found["rougeL"] == pytest.approx(2 * 4 / 12)
    assert rouge("", ["a"]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}
    assert rouge("A-b", ["a b"])["rouge2"] == 1
    assert rouge("b a", ["a b"])["rougeL"] == 0.5
    assert first_sentence("No end") == "No end"


def test_settings_and_data_that_cannot_be_are_refused():
    X, y = sentences(10)
    for settings, message in [
        ({"attention": "dot"}, "attention='dot'; expected one of additive, multiplicative"),
        ({"copying": True, "shared": False}, "copying=True needs shared=True"),
        ({"coverage": True}, "coverage=True needs attention='additive'"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0; expected a share"),
        ({"level": "line"}, "level='line'"),
    ]:
        with pytest.raises(OstinatoError, match=message):
            Translator(**settings).fit(X, y)
    with pytest.raises(OstinatoError, match="y is missing"):
        Translator().fit(X)
    with pytest.raises(OstinatoError, match="1 sequences are too few"):
        Translator().fit(X[:1], y[:1])
    with pytest.raises(OstinatoError, match="n_best=9; expected at most beam=5"):
        list(Translator(epochs=1, **SMALL).fit(X, y).write(X, n_best=9))


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 2, 2]])
def test_bleu_of_validation_is_that_of_sacrebleu(monkeypatch, sizes):
    """On the numbers of tokens, whatever the batches are."""
    sacrebleu = pytest.importorskip("sacrebleu")
    random = np.random.default_rng(3)
    truth = [random.integers(0, 4, n).tolist() for n in (5, 9, 12, 4, 1, 20, 7)]
    guess = [[*row[: len(row) // 2], *random.integers(0, 4, 3).tolist()] for row in truth]
    measure = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
    references = [[" ".join(map(str, row)) for row in truth]]
    expected = measure.corpus_score([" ".join(map(str, row)) for row in guess], references).score
    assert 5 < expected < 95

    written = iter(guess)
    targets = TargetTexts(vocabulary_of(["ab"], "char"))
    monkeypatch.setattr(
        writing,
        "beam_search",
        lambda net, x, *_: [[Hypothesis(next(written), 0.0, 0.0)] for _ in range(len(x))],
    )
    batches, rows = [], iter(truth)
    for size in sizes:
        some = [next(rows) for _ in range(size)]
        lengths = torch.tensor([len(row) for row in some])
        padded = torch.from_numpy(Ragged.of([np.array(row) for row in some]).padded(range(size)))
        batches.append(SequenceBatch(padded, lengths, padded, 0, target_lengths=lengths))
    loss = SimpleNamespace(loss=lambda *_, **__: (torch.tensor(1.5), None), modules=list)
    loss.eval = lambda: loss
    found = evaluate(loss, targets, batches)
    assert found == {"loss": pytest.approx(1.5), "token_bleu": pytest.approx(expected)}
    assert targets.judge == "token_bleu" and targets.higher_is_better
