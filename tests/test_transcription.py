"""CTC: its likelihood against all alignments; what was said, written down and found."""

import math
from itertools import groupby, product

import numpy as np
import pytest
import torch
from laws import random
from tolerances import assert_same
from torch import nn

from ostinato import TextGenerator, Transcriber, load
from ostinato.errors import OstinatoError, ShapeError
from ostinato.recurrence.ctc import CTC
from ostinato.recurrence.layers import GRU

V, I = 2, 3


def network(stacked=1, bidirectional=False, **more):
    torch.manual_seed(0)
    layer = GRU(stacked * I, 4, batch_first=True, bidirectional=bidirectional)
    return CTC(nn.Identity(), layer, V, stacked, **more).double()


@pytest.mark.parametrize("stacked", [1, 2])
def test_the_loss_is_minus_the_log_of_all_alignments(stacked):
    net = network(stacked).eval()
    x = random(3, 5, I, seed=1)
    lengths, target_lengths = torch.tensor([5, 4, 2]), torch.tensor([2, 0, 1])
    y = torch.tensor([[0, 1], [1, 1], [1, 0]])
    with torch.no_grad():
        scores, _ = net(x, lengths=lengths)
        loss, _ = net.loss(x, y, lengths=lengths, target_lengths=target_lengths)
        likely = net.likelihoods(x, y, lengths=lengths, target_lengths=target_lengths)
    total = 0.0
    for row in range(3):
        T = math.ceil(int(lengths[row]) / stacked)
        p = scores[row, :T].softmax(-1).numpy()
        wanted = y[row, : target_lengths[row]].tolist()
        share = sum(
            np.prod([p[t, token] for t, token in enumerate(path)])
            for path in product(range(V + 1), repeat=T)
            if [token for token, _ in groupby(path) if token != net.blank] == wanted
        )
        assert likely[row].item() == pytest.approx(math.log(share), rel=1e-9)
        total -= math.log(share)
    assert loss.item() == pytest.approx(total / 3)


def test_padding_reaches_nothing_and_frames_are_stacked():
    net = network(2, bidirectional=True)
    x = random(2, 5, I, seed=2)
    other = x.clone()
    other[1, 3:] = torch.nan
    lengths = torch.tensor([5, 3])
    ours, _ = net(x, lengths=lengths)
    theirs, _ = net(other, lengths=lengths)
    assert ours.shape == (2, 3, V + 1)
    assert_same([ours[0], ours[1, :2]], [theirs[0], theirs[1, :2]])
    alone, _ = net(x[1:, :3])
    assert_same([alone[0]], [ours[1, :2]])


def test_a_stream_of_frames_says_the_same():
    net = network(2).eval()
    x = random(1, 12, I, seed=3)
    whole, _ = net(x)
    state, parts = None, []
    for begin in range(0, 12, 4):
        y, state = net(x[:, begin : begin + 4], state)
        parts.append(y)
    assert_same([torch.cat(parts, 1)], [whole])


def test_a_target_that_cannot_be_spelled_takes_no_part():
    net = network()
    x, y = random(2, 2, I, seed=4), torch.tensor([[0, 0], [1, 0]])
    loss, _ = net.loss(x, y)  # "00" needs three frames
    assert torch.isfinite(loss)
    torch.autograd.backward(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.likelihoods(x, y)[0] == -torch.inf


def test_what_does_not_fit_is_refused():
    with pytest.raises(OstinatoError, match="stacked=2; expected batch_first=True and an input"):
        CTC(nn.Identity(), GRU(3, 4, batch_first=True), V, 2)
    with pytest.raises(ShapeError, match=r"CTC.loss: targets are torch.int64 \(3,\)"):
        network().loss(random(3, 4, I, seed=1), torch.tensor([0, 1, 0]))


SHAPES = {"a": [3.0, 0.0], "b": [0.0, 3.0], "c": [-3.0, 0.0], " ": [0.0, -3.0]}


def spoken(text, seed=0):
    rng = np.random.default_rng(seed)
    rows = [[SHAPES[c]] * rng.integers(2, 5) + [[0.0, 0.0]] * rng.integers(1, 3) for c in text]
    return np.concatenate(rows) + 0.2 * rng.normal(size=(sum(map(len, rows)), 2))


TEXTS = ["abc", "cab", "a b", "b c a", "cc", "bab", "ca", "c b"]


@pytest.fixture(scope="module")
def model():
    y = TEXTS * 30
    X = [spoken(text, seed) for seed, text in enumerate(y)]
    settings = {"hidden_size": 24, "stacked": 1, "epochs": 12, "learning_rate": 0.02}
    return Transcriber(bidirectional=False, **settings).fit(X, y)


def test_new_recordings_are_written_down(model):
    y = ["acb", "b a", "cab", "bb"]
    X = [spoken(text, 1000 + seed) for seed, text in enumerate(y)]
    found = model.evaluate(X, y)
    assert found["cer"] < 0.15 and found["recordings"] == 4
    assert model.score(X, y) == pytest.approx(1 - found["cer"])
    assert model.transcribe(X, beam=1)[0] == "acb"


def test_a_text_is_found_among_others(model):
    wanted = ["abc", "b c a", "cc"]
    X = [spoken(text, 2000 + seed) for seed, text in enumerate(wanted)]
    found = model.find(X, TEXTS)
    assert [text for text, _ in found] == wanted
    assert all(0.9 < share <= 1 for _, share in found)
    with pytest.raises(OstinatoError, match="texts is empty"):
        model.find(X, [])


def test_a_language_model_settles_what_is_heard_badly(model):
    X = [spoken("ab", 5) * 0.0]  # nothing but noise is heard
    size = len(model.vocabulary_)

    def only(text):
        log_p = np.full(size, -50.0)
        log_p[model.vocabulary_.encode("c")[0]] = 0.0
        return log_p

    assert set(model.transcribe(X, language=only, weight=2.0)[0]) <= {"c"}
    lines = "ca b\n" * 200
    letters = TextGenerator(hidden_size=24, steps=150, learning_rate=0.02, window=16).fit(lines)
    after = letters.next_log_probs("ca")
    assert max(after, key=after.get) == " "
    assert sum(map(math.exp, after.values())) == pytest.approx(1)
    x = spoken("ca b", 8)
    assert model.transcribe([x], language=letters, weight=0.3) == ["ca b"]


def test_a_stored_model_writes_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    X = [spoken(text, 3000) for text in TEXTS]
    assert load(tmp_path / "model").predict(X) == model.predict(X)
    (answer, *_) = model.answers(X)
    assert answer.to_json()["text"] == model.predict(X)[0]


def test_words_can_be_written_too():
    y = ["a b", "b a", "a a", "b b"] * 20
    X = [spoken(text, seed) for seed, text in enumerate(y)]
    settings = {"hidden_size": 16, "stacked": 1, "epochs": 10, "learning_rate": 0.02}
    model = Transcriber(level="word", **settings).fit(X, y)
    assert model.evaluate(X, y)["wer"] < 0.3


def test_data_that_cannot_be_are_refused():
    X = [spoken("ab"), spoken("b")]
    with pytest.raises(OstinatoError, match="has no text; what is said in it must be known"):
        Transcriber(validation_fraction=0).fit(X, ["ab", " "])
    with pytest.raises(OstinatoError, match="has the label .*; expected a text"):
        Transcriber(validation_fraction=0).fit(X, [["a"], ["b"]])
    with pytest.raises(OstinatoError, match="expected recordings or series"):
        Transcriber(validation_fraction=0).fit(["some text", "more"], ["a", "b"])
    with pytest.raises(OstinatoError, match="it has no form without recurrence"):
        Transcriber(memory="none").fit(X, ["ab", "b"])
