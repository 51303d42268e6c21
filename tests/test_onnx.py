"""Models as ONNX files: what ONNX Runtime computes of them is what the model computes."""

import json
import sys

import numpy as np
import pytest
import torch

import ostinato
from ostinato.errors import MissingExtra, OstinatoError

onnx = pytest.importorskip("onnx", reason="ostinato[onnx] is not installed")
runtime = pytest.importorskip("onnxruntime", reason="ostinato[onnx] is not installed")

from exchange import export_one  # noqa: E402
from laws import CELLS, VARIANTS  # noqa: E402
from test_features import sine, write_wav  # noqa: E402

from ostinato import (  # noqa: E402
    Captioner,
    Forecaster,
    MusicModel,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    Summarizer,
    TextGenerator,
    Transcriber,
    Translator,
)
from ostinato.data.features import Spectrogram  # noqa: E402
from ostinato.data.vocabulary import Vocabulary  # noqa: E402
from ostinato.deploy import nodes as writer  # noqa: E402
from ostinato.deploy.features import spectrogram_piece  # noqa: E402
from ostinato.deploy.graph import quantize  # noqa: E402
from ostinato.deploy.verify import session  # noqa: E402
from ostinato.recurrence.cells import Cell, LSTMCell, RNNState  # noqa: E402
from ostinato.recurrence.layers import Recurrent  # noqa: E402
from ostinato.tasks.linear import phrases, pieces  # noqa: E402
from ostinato.tasks.minirocket import MiniRocket  # noqa: E402

QUICK = {"hidden_size": 6, "steps": 2, "batch_size": 4, "evaluations": 1}
RNG = np.random.default_rng(0)
SERIES = [RNG.normal(5, 3, size=(RNG.integers(3, 9), 2)) for _ in range(20)]
HALVES = ["b", "a"] * 10
WORDS = [f"{a} {b}" for a in ("good", "bad", "fine") for b in ("day", "rain", "wind")] * 4
PAIRS = [word[::-1] for word in WORDS]
PIXELS = [np.full((8, 9), value, np.uint8) for value in (0, 255)] * 10
TAGS = [["the", "dog", "barks"], ["a", "cat", "sleeps"]] * 6


def run(path, feeds, name=None):
    """What ONNX Runtime computes: an output, or all of them by name."""
    running = session(runtime, path.read_bytes())
    names = [output.name for output in running.get_outputs()]
    inputs = {i.name for i in running.get_inputs()}
    found = dict(zip(names, running.run(names, {k: feeds[k] for k in inputs}), strict=True))
    return found if name is None else found[name]


def zeros(path, B=1):
    """States of zeros, as a file says."""
    ports = session(runtime, path.read_bytes()).get_inputs()
    return {
        p.name: np.zeros([B if n == "B" else n for n in p.shape], "f4")
        for p in ports
        if p.name.rpartition("_")[0] in ("h", "c") or p.name in ("h", "c")
    }


EVERY = {**CELLS, **VARIANTS}
# The first of each class, in one of the ways; the others where there is time.
FIRST = list({type(cell): name for name, cell in reversed(EVERY.items())}.values())
QUICK_ONES = {(name, i % 2 == 0) for i, name in enumerate(FIRST)}
WAYS = [
    pytest.param(name, two, id=f"{name}-{'two' if two else 'one'}-way",
                 marks=[pytest.mark.slow] * ((name, two) not in QUICK_ONES))
    for name in EVERY for two in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("name", "bidirectional"), WAYS)
def test_every_cell_has_a_form(tmp_path, name, bidirectional):
    cell = EVERY[name]
    D = 1 + bidirectional
    above = cell.with_input(D * cell.output_size)
    fits = above.output_size == cell.output_size
    cells = [cell, above] if fits else [cell]
    stack = Recurrent(cells, batch_first=True, bidirectional=bidirectional).eval()
    path = tmp_path / "cell.onnx"
    ostinato.export(stack, path)
    torch.manual_seed(1)
    lengths, L = torch.tensor([6, 0, 2]), len(cells)
    x = torch.randn(3, 6, cell.input_size)
    x[2, 2:] = torch.nan  # what is padding does not matter
    if cell.takes_missing:
        x[0, 1::2, 0], x[2, :2, 1] = torch.nan, torch.nan
    states = [c.state_type(*(torch.randn(D, 3, n) for n in c.state_sizes)) for c in cells]
    hidden = stack.join_state(states, False)
    with torch.no_grad():
        y, after = stack(x, hidden, lengths=lengths)
    feeds = {"x": x.numpy(), "lengths": lengths.numpy()}
    fields = cell.state_type._fields
    for i, field in enumerate(fields):
        if stack._is_even:
            feeds[field] = torch.cat([s[i] for s in states]).numpy()
        else:
            feeds |= {f"{field}_{k}": states[k][i].numpy() for k in range(L)}
    found = run(path, feeds)
    np.testing.assert_allclose(found["y"], y, atol=2e-6)
    assert not found["y"][1].any()
    groups = [after] if stack._is_even else after
    flat = [t for group in groups for t in (group if isinstance(group, tuple) else [group])]
    got = [found[f"next_{n}"] for n in feeds if n not in ("x", "lengths")]
    if not stack._is_even:
        got = [found[f"next_{field}_{k}"] for k in range(L) for field in fields]
    for mine, theirs in zip(flat, got, strict=True):
        np.testing.assert_allclose(theirs, mine, atol=2e-6)


@pytest.mark.parametrize("seed", range(10))
def test_random_networks_have_a_form(tmp_path, seed):
    _, found = export_one(seed, tmp_path)
    assert found.facts["largest_difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_many_random_networks_have_a_form(tmp_path, precision):
    refused = []
    for seed in range(300):
        try:
            export_one(seed, tmp_path, precision)
        except OstinatoError as error:  # a few amplify rounding
            assert "makes much of rounding" in str(error) or "changes an output" in str(error)
            refused.append(seed)
    assert len(refused) <= 9


def test_a_cell_of_ones_own_has_a_form_or_is_refused_by_name(tmp_path):
    class Mixed(Cell):
        state_type = RNNState

        def weight_shapes(self):
            return {"weight_ih": (self.hidden_size, self.input_size), "gain": (self.hidden_size,)}

        def step(self, w, x_t, state):
            a = torch.nn.functional.softplus(x_t @ w["weight_ih"].T).clamp(max=2) * w["gain"]
            return RNNState(torch.where(a > 0.3, (a - state.h).abs(), state.h.exp().log1p()))

    class Odd(Mixed):
        def step(self, w, x_t, state):
            return RNNState(torch.special.bessel_j0(state.h + x_t @ w["weight_ih"].T))

    ostinato.export(Recurrent(Mixed(3, 4)), tmp_path / "mixed.onnx")
    with pytest.raises(OstinatoError, match="Odd uses special_bessel_j0"):
        ostinato.export(Recurrent(Odd(3, 4)), tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


@pytest.mark.parametrize("fault", ["gates", "states", "lengths"])
def test_nothing_is_written_where_results_differ(tmp_path, monkeypatch, fault):
    if fault == "gates":
        monkeypatch.setattr(writer, "LSTM_ORDER", (0, 1, 2, 3))
    elif fault == "states":
        add = writer._add
        monkeypatch.setattr(writer, "_add", lambda g, n, x, t, s: add(g, n, x, t, s and s[::-1]))
    else:
        add = writer._add
        monkeypatch.setattr(writer, "_add", lambda g, n, x, t, s: add(g, n, x, None, s))
    layer = ostinato.LSTM(3, 4, batch_first=True)
    with pytest.raises(OstinatoError, match="otherwise than the network: by .*Nothing is written"):
        ostinato.export(layer, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_in_fewer_bits_take_less_and_say_what_they_cost(tmp_path):
    torch.manual_seed(0)
    layer, sizes = ostinato.GRU(64, 96, batch_first=True), {}
    for precision in ("float32", "float16", "int8"):
        path = tmp_path / f"{precision}.onnx"
        found = ostinato.export(layer, path, precision=precision)
        sizes[precision] = path.stat().st_size
        assert found.facts["largest_difference"] < 1e-5
        assert bool(found.facts["rounding"]) == (precision != "float32")
    assert sizes["float16"] < 0.55 * sizes["float32"] and sizes["int8"] < 0.33 * sizes["float32"]
    whole, scale = quantize(np.array([[0.5, -1.27]]))
    np.testing.assert_allclose(whole * scale[:, None], [[0.5, -1.27]], atol=0.005)


def padded(rows):
    lengths = np.array([len(row) for row in rows])
    x = np.full((len(rows), lengths.max(), rows[0].shape[1]), np.nan, "f4")
    for i, row in enumerate(rows):
        x[i, : len(row)] = row
    return {"x": x, "lengths": lengths}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bidirectional": False, "pooling": "last", "convolutions": False},
        {"pooling": "attention", "num_layers": 2, "residual": True, "cell": "lstm"},
        {"recurrent": False},
    ],
)
def test_a_classifier_of_series(tmp_path, settings):
    model = SequenceClassifier(**QUICK, **settings).fit(SERIES, HALVES)
    ostinato.export(model, tmp_path / "a.onnx")
    feeds = padded(SERIES) | zeros(tmp_path / "a.onnx", len(SERIES))
    p = run(tmp_path / "a.onnx", feeds, "probabilities")
    np.testing.assert_allclose(p, model.predict_proba(SERIES), atol=1e-5)
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    assert document["classes"] == ["a", "b"] and document["task"] == "SequenceClassifier"
    props = {p.key: p.value for p in onnx.load(tmp_path / "a.onnx").metadata_props}
    assert json.loads(props["ostinato"]) == document


def test_a_classifier_of_recordings(tmp_path):
    sounds = [tmp_path / f"{i}.wav" for i in range(12)]
    for i, sound in enumerate(sounds):
        write_wav(sound, sine((300, 900)[i % 2], 8000, 0.1 + 0.02 * i), 8000)
    model = SequenceClassifier(**QUICK, bands=10).fit(sounds, HALVES[:12])
    for norm in model.network_.front.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = [model.inputs_.encode(model._read([sound]))[0] for sound in sounds]
    feeds = padded([next(rows) for rows in x])
    expected = model.predict_proba(sounds)
    for precision, most in (("float32", 1e-5), ("int8", 0.1)):
        ostinato.export(model, tmp_path / "a.onnx", precision=precision)
        found = run(tmp_path / "a.onnx", feeds, "probabilities")
        np.testing.assert_allclose(found, expected, atol=most)


def word_feeds(document, sentences):
    """The inputs of a network of words, by what the document says."""
    lexicon = document["inputs"]["lexicon"]
    known = {w: i for i, w in enumerate(lexicon["words"], 1)}
    letters = {c: i for i, c in enumerate(lexicon["characters"], 1)}
    ends = {a: i for i, a in enumerate(lexicon["affixes"], 1)}
    rows = list(dict.fromkeys(w for s in sentences for w in s))
    T, C = max(map(len, sentences)), max(map(len, rows))
    words, spelled = np.zeros((2, len(sentences), T), np.int64)
    for i, sentence in enumerate(sentences):
        for t, word in enumerate(sentence):
            words[i, t] = known.get(word.lower(), 0)
            spelled[i, t] = rows.index(word)
    characters = np.zeros((len(rows), C), np.int64)
    affixes = np.zeros((len(rows), 10), np.int64)
    for i, word in enumerate(rows):
        characters[i, : len(word)] = [letters.get(c, 0) for c in word]
        pairs = [(f"{word[:n]}-", f"-{word[-n:]}") for n in range(1, 5) if n <= len(word)]
        flat = [end for pair in pairs for end in pair]
        for k, end in enumerate(flat):
            affixes[i, k] = ends.get(end, 0)
        affixes[i, 8] = ends.get("~x", 0)
        affixes[i, 9] = ends.get("=" + "x" * min(4, len(word)), 0)
    return {
        "words": words, "spelled": spelled, "characters": characters, "affixes": affixes,
        "sizes": np.array([len(w) for w in rows]), "lengths": np.array([len(s) for s in sentences]),
    }  # fmt: skip


def test_a_classifier_of_texts_blended_with_a_linear_one(tmp_path):
    model = SequenceClassifier(**QUICK).fit(WORDS, [text[0] for text in WORDS])
    assert model.linear_ is not None
    ostinato.export(model, tmp_path / "a.onnx")
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    texts = [*WORDS[:9], "good good wind"]
    sentences = [text.split() for text in texts]
    linear, rows = document["linear"], []
    for words in sentences:
        row, first = [], 0
        for kind, find in (("phrases", phrases), ("pieces", pieces)):
            terms = list(linear["terms"][kind])
            found = [t for t in find(words) if t in linear["terms"][kind]]
            some = [
                (
                    first + terms.index(t),
                    (1 + np.log(found.count(t)))
                    * (1 + np.log((1 + linear["texts"]) / (1 + linear["terms"][kind][t]))),
                )
                for t in dict.fromkeys(found)
            ]
            norm = sum(v * v for _, v in some) ** 0.5
            row += [(i, v / norm) for i, v in some]
            first += len(terms)
        rows.append(row)
    N = max(map(len, rows))
    feeds = word_feeds(document, sentences)
    feeds["terms"] = np.array([[i for i, _ in r] + [0] * (N - len(r)) for r in rows])
    feeds["values"] = np.array([[v for _, v in r] + [0] * (N - len(r)) for r in rows], "f4")
    p = run(tmp_path / "a.onnx", feeds, "probabilities")
    np.testing.assert_allclose(p, model.predict_proba(texts), atol=1e-5)


def test_a_classifier_of_series_blended_with_one_of_their_shapes(tmp_path):
    rng, t = np.random.default_rng(0), np.arange(30)
    X = [
        (np.sin(t * (0.3 + 0.2 * (i % 2)) + 6 * rng.random())[:, None] * [3, 9] + [5, 0]
         + rng.normal(size=(30, 2)))[: rng.integers(20, 31)] for i in range(40)
    ]  # fmt: skip
    model = SequenceClassifier(**QUICK).fit(X, HALVES * 2)
    assert isinstance(model.linear_, MiniRocket)
    ostinato.export(model, tmp_path / "a.onnx")
    p = run(tmp_path / "a.onnx", padded(X), "probabilities")
    np.testing.assert_allclose(p, model.predict_proba(X), atol=1e-4)


def test_a_regression_in_the_units_of_the_data(tmp_path):
    model = SequenceRegressor(**QUICK).fit(SERIES, [1000 + 50 * x.mean() for x in SERIES])
    ostinato.export(model, tmp_path / "a.onnx")
    found = run(tmp_path / "a.onnx", padded(SERIES), "numbers")
    np.testing.assert_allclose(found[:, 0], model.predict(SERIES), rtol=1e-5)


@pytest.mark.parametrize("crf", [False, True])
def test_a_tagger_and_its_crf(tmp_path, crf):
    labels = [["O", "B-N", "I-N"]] * len(TAGS)
    model = SequenceTagger(crf=crf, min_count=1, **QUICK).fit(TAGS, labels)
    ostinato.export(model, tmp_path / "a.onnx")
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    emissions = run(tmp_path / "a.onnx", word_feeds(document, TAGS[:2]), "emissions")
    names = document["labels"]
    if not crf:
        best = emissions.argmax(-1)
    else:
        c = {name: np.array(value) for name, value in document["crf"].items()}
        best = []
        for y in emissions:  # all sequences of labels, by their scores
            every = np.stack(np.meshgrid(*[range(len(names))] * 3, indexing="ij"), -1).reshape(
                -1, 3
            )
            scores = y[range(3), every].sum(1) + c["first"][every[:, 0]] + c["last"][every[:, 2]]
            scores = scores + c["barred"][-1][every[:, 0]]
            for t in (1, 2):
                pair = every[:, t - 1], every[:, t]
                scores = scores + c["follows"][pair] + c["barred"][:-1][pair]
            best.append(every[scores.argmax()])
    assert [[names[i] for i in row] for row in best] == model.predict(TAGS[:2])


def test_a_text_model_step_by_step_and_in_parts(tmp_path):
    model = TextGenerator(window=8, **QUICK).fit("to be or not to be, that is the question. " * 9)
    path = tmp_path / "a.onnx"
    ostinato.export(model, path)
    vocabulary = Vocabulary.from_json(
        json.loads((tmp_path / "a.onnx.json").read_text())["vocabulary"]
    )
    ids, text = vocabulary.encode("not to be"), "not to be"
    whole = run(path, {"tokens": ids[None], **zeros(path)}, "log_p")[0]
    gathered = whole[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(gathered, model.log_probs(text), atol=1e-5)
    state, steps = zeros(path), []
    for token in ids:
        found = run(path, {"tokens": np.array([[token]]), **state})
        state = {name: found[f"next_{name}"] for name in state}
        steps.append(found["log_p"][0, 0])
    np.testing.assert_allclose(steps, whole, atol=1e-6)


def test_music_speech_and_images(tmp_path):
    music = MusicModel(**QUICK).fit([[[60], [62], [64]] * 3] * 8)
    ostinato.export(music, tmp_path / "music.onnx")
    x = (np.random.default_rng(0).random((1, 5, 88)) < 0.1).astype("f4")
    with torch.no_grad():
        y, _ = music.network_(torch.from_numpy(x))
    path = tmp_path / "music.onnx"
    p = run(path, {"x": x, **zeros(path)}, "probabilities")
    np.testing.assert_allclose(p, y.sigmoid(), atol=1e-5)
    for two_ways in (True, False):
        model = Transcriber(stacked=3, bidirectional=two_ways, **QUICK).fit(SERIES, ["ab"] * 20)
        path = tmp_path / f"speech{two_ways}.onnx"
        ostinato.export(model, path)
        feeds = padded(SERIES) | zeros(path, len(SERIES))
        log_p = run(path, feeds, "log_p")
        with torch.no_grad():
            x = torch.from_numpy(np.nan_to_num(feeds["x"]))
            y, _ = model.network_(x, lengths=torch.from_numpy(feeds["lengths"]))
        np.testing.assert_allclose(log_p, y.log_softmax(-1), atol=1e-5)


def greedy(folder, document, feeds, tokens):
    """What encoder and decoder write, the likeliest token at every step."""
    encoder, decoder = folder / "a.encoder.onnx", folder / "a.decoder.onnx"
    held = run(encoder, feeds) | {k: v for k, v in feeds.items() if k == "tokens"}
    carried = document["files"]["a.decoder.onnx"]["carried"]
    written, token = [], tokens + 1
    while len(written) < 12 and token != tokens:
        found = run(decoder, {**held, "token": np.array([token])})
        held |= {into: found[name] for name, into in carried.items()}
        token = int(found["log_p"][0].argmax())
        written.append(token)
    return [t for t in written if t != tokens]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Translator, {"level": "char"}),
        (
            Translator,
            {"attention": "additive", "coverage": True, "copying": True, "input_feeding": True},
        ),
        (Summarizer, {"level": "word", "cell": "lstm"}),
        (Captioner, {"blocks": 2}),
    ],
    ids=["translate", "all", "summarize", "caption"],
)
def test_an_encoder_and_a_step_of_the_decoder(tmp_path, kind, settings):
    images = kind is Captioner
    X, y = (PIXELS, ["it is dark", "it is bright"] * 10) if images else (WORDS, PAIRS)
    model = kind(**{**QUICK, "steps": 20}, **settings).fit(X, y)
    found = ostinato.export(model, tmp_path / "a.onnx")
    assert [f.name for f in found.files] == ["a.encoder.onnx", "a.decoder.onnx", "a.onnx.json"]
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    V = len(model.vocabulary_)
    if images:
        feeds = {"x": X[1].reshape(1, 1, -1).astype("f4")}
        (best,) = model.caption([X[1]], beam=1, max_length=11)[0]
    else:
        ids = model.inputs_.encode_text(X[1])
        feeds = {"tokens": ids[None], "lengths": np.array([len(ids)])}
        best = next(model.write([X[1]], beam=1))[0].text
    written = model.vocabulary_.decode(greedy(tmp_path, document, feeds, V))
    assert written[: len(best)] == best[: len(written)]


@pytest.mark.parametrize("method", ["autoregressive", "direct"])
def test_a_forecaster_reads_a_window(tmp_path, method):
    series = 20 + 5 * np.sin(np.arange(80.0)) + np.arange(80.0) / 9
    model = Forecaster(horizon=3, season=6, method=method, ensemble_size=2, **QUICK).fit(series)
    path = tmp_path / "a.onnx"
    ostinato.export(model, path)
    from ostinato.tasks.forecasting.panel import Cutoff

    window, _, units = model._windows(model.panel_).take([Cutoff(0, 80)])
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    context = document["settings"]["context"]
    past = series[-document["history"] - context :]
    name = {i.name: i.shape for i in session(runtime, path.read_bytes()).get_inputs()}
    if method == "direct":
        values = past
    else:
        origin = int(str(name["values"][1]).split()[0])
        # The first step that is read is the second of the window.
        values = np.concatenate([np.full(origin - 1, units.location[0]), past])
    features = np.zeros((1, context, 3), "f4")
    features[..., 1] = 1
    features[0, :, 2] = np.arange(1, context + 1) >= 6
    feeds = {
        "values": values[None].astype("f4"), "location": units.location.astype("f4"),
        "scale": units.scale.astype("f4"), "features": features,
        "started": np.ones((1, context), "f4"),
    }  # fmt: skip
    feeds |= {
        k: np.zeros([n if isinstance(n, int) else 1 for n in shape], "f4")
        for k, shape in name.items()
        if k.startswith("member")
    }
    p = run(path, feeds, "parameters")
    with torch.no_grad():
        reference = model.network_(window)[0].numpy()
    p = p if method == "direct" else p[:, :, -1:]
    np.testing.assert_allclose(p, reference, atol=2e-5)


@pytest.mark.parametrize(("causal", "normalization"), [(0, "band"), (0, "level"), (1, "band")])
def test_features_of_sound(causal, normalization):
    range_ = 80.0 if normalization == "band" else 6.0  # less than there is
    how = Spectrogram(8000, causal=bool(causal), dynamic_range=range_, normalization=normalization)
    piece = spectrogram_piece(onnx, how)
    running = session(runtime, piece.graph.model("features", {}).SerializeToString())
    sound = (0.1 * np.random.default_rng(0).normal(size=4000)).astype("f4")
    if causal:
        given = {"samples": np.pad(sound, how.fft // 2)[None]}
        rows = running.run(["x"], given)[0][0]
    else:
        given = {"samples": np.pad(sound, (0, 999))[None], "lengths": np.array([4000])}
        x, ends = running.run(["x", "x_lengths"], given)
        rows = x[0, : ends[0]]
    np.testing.assert_allclose(rows, how(sound, 8000), atol=2e-5)


def test_the_command(ostinato, here, run):
    result = ostinato("export", run, "--out", "a.onnx")
    assert result.status == 0 and "ONNX Runtime computes the same" in result.out
    result = ostinato("export", run, "--out", "a.txt")
    assert result.status == 2 and "expected a name that ends in" in result.err
    result = ostinato("export", run, "--out", "none/a.onnx")
    assert result.status == 2 and "there is no none" in result.err


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_one_line_that_names_it(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"needs {module}: pip install 'ostinato\[onnx\]'"):
        ostinato.export(ostinato.GRU(2, 2), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_what_has_no_form_is_refused_in_one_line(tmp_path):
    for thing in (3, torch.nn.Linear(2, 2), SequenceClassifier(), LSTMCell(3, 4)):
        with pytest.raises(OstinatoError, match="export: .*expected") as caught:
            ostinato.export(thing, tmp_path / "a.onnx")
        assert "\n" not in str(caught.value)
    with pytest.raises(OstinatoError, match="precision='int4'"):
        ostinato.export(torch.nn.Linear(2, 2), tmp_path / "a.onnx", precision="int4")
