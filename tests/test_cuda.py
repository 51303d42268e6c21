"""On a GPU (`make test-gpu`): the reference's values and gradients, training, moving models."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from laws import CELLS, VARIANTS
from test_captioning import drawn
from test_transcription import TEXTS, spoken
from tolerances import TOLERANCES

import ostinato
from ostinato import GRU, LSTM, RNN, Recurrent, Stream, use_backend
from ostinato.training.callbacks import MetricsFile

if not torch.cuda.is_available():
    pytest.skip("no GPU here, or hidden: make test-gpu", allow_module_level=True)

T, B = 23, 4
LENGTHS = [T, 0, 11, 5]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Products in float32 keep all their bits."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def leaves(hx):
    return list(hx) if isinstance(hx, tuple) else [hx]


def results(layer, x, lengths):
    """Values, last states and gradients of everything, each weighted at random; on the CPU."""
    x = x.to(next(layer.parameters()).device).requires_grad_()
    y, hx = layer(x, lengths=lengths)
    outputs = [y, *leaves(hx)]
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype).to(x) for o in outputs]
    found = torch.autograd.grad(outputs, [x, *layer.parameters()], weights)
    return [o.detach().cpu() for o in (*outputs, *found)]


def assert_near(ours, theirs, within):
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(a, b, rtol=within, atol=within, msg=lambda m, k=k: f"[{k}]: {m}")


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("every", [0, 5])
@pytest.mark.parametrize("name", CELLS | VARIANTS)
def test_every_cell_computes_what_it_computes_on_the_cpu(name, every, ragged):
    torch.manual_seed(0)
    cell = (CELLS | VARIANTS)[name]
    layer = Recurrent(cell, num_layers=2, bidirectional=True, dtype=torch.float64).eval()
    x = torch.randn(T, B, cell.input_size, dtype=torch.float64)
    lengths = LENGTHS if ragged else None
    if ragged:
        x[11:, 2] = torch.nan
    with use_backend("reference"):
        expected = results(layer, x, lengths)
    layer.checkpoint_every = every
    # Layer normalization divides by small deviations.
    within = 1e-9 if "norm" in name else TOLERANCES[torch.float64]
    assert_near(results(layer.cuda(), x, lengths), expected, within)


@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_rows_of_one_length_run_on_cudnn(make, training):
    torch.manual_seed(0)
    layer = make(5, 16, num_layers=2, bidirectional=True).train(training)
    x = torch.randn(T, B, 5)
    expected = results(layer, x, None)
    layer.cuda()
    assert ostinato.backend(layer, x.cuda()) == "torch"
    assert ostinato.backend(layer, x.cuda(), lengths=LENGTHS) == "reference"
    assert_near(results(layer, x, None), expected, 2e-4)  # cuDNN's tanh is no exact one
    theirs = getattr(torch.nn, make.__name__)(5, 16, num_layers=2, bidirectional=True).cuda()
    theirs.load_state_dict(layer.state_dict())
    assert_near(leaves(layer(x.cuda())[0]), leaves(theirs(x.cuda())[0]), 1e-6)


@pytest.mark.filterwarnings("ignore:RNN module weights")  # of torch.nn's own bfloat16
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("make", [RNN, LSTM, GRU])
def test_half_precision_is_near_and_autocast_learns(make, ragged, dtype):
    torch.manual_seed(0)
    layer = make(5, 16).cuda()
    x = torch.randn(T, B, 5).cuda()
    lengths = LENGTHS if ragged else None
    expected = layer(x, lengths=lengths)[0]
    halved = copy.deepcopy(layer).to(dtype)(x.to(dtype), lengths=lengths)[0]
    assert halved.dtype == dtype
    assert_near([halved.float()], [expected], TOLERANCES[dtype])
    with torch.autocast("cuda", dtype=dtype):
        y = layer(x, lengths=lengths)[0]
    assert_near([y.float()], [expected], TOLERANCES[dtype])
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


def test_a_stream_says_that_it_computes_on_the_cpu():
    with pytest.raises(ostinato.OstinatoError, match="on a CPU, not in torch.float32 on cuda:0"):
        Stream(LSTM(5, 16).cuda())


# Estimators.

NUMBERS = np.random.default_rng(0)
WALKS = [NUMBERS.normal(size=(n, 3)).cumsum(0).astype(np.float32) for n in range(5, 45)]
WAVES = {name: 20 + np.arange(150) / 10 + 5 * np.sin(np.arange(150) / 2) for name in ("a", "b")}
SENTENCES = [["the", "dog", "barks"], ["a", "cat", "sleeps", "here"]] * 20
PAIRS = ["one two three", "three two", "two one two", "one"] * 15
PIECES = [[[int(k), int(k) + 4] for k in 60 + NUMBERS.integers(0, 8, 12)] for _ in range(12)]
SMALL = {"hidden_size": 16, "epochs": 2, "seed": 0}

# What is fitted, on what, and what it says of what.
ESTIMATORS = {
    "classify": (
        lambda: ostinato.SequenceClassifier(**SMALL),
        (WALKS, ["up" if walk[-1, 0] > 0 else "down" for walk in WALKS]),
        lambda model: model.predict_proba(WALKS),
    ),
    "classify texts": (
        lambda: ostinato.SequenceClassifier(**SMALL),
        ([" ".join(words) for words in SENTENCES], ["dog", "cat"] * 20),
        lambda model: model.predict_proba(["the dog", "a cat sleeps", "a bird"]),
    ),
    "regress": (
        lambda: ostinato.SequenceRegressor(**SMALL),
        (WALKS, [float(walk[:, 0].max()) for walk in WALKS]),
        lambda model: model.predict(WALKS),
    ),
    "tag": (
        lambda: ostinato.SequenceTagger(**SMALL),
        (SENTENCES, [[word.upper() for word in words] for words in SENTENCES]),
        lambda model: model.predict(SENTENCES[:2]),
    ),
    "translate": (
        lambda: ostinato.Translator(**SMALL),
        (PAIRS, [" ".join(reversed(text.split())) for text in PAIRS]),
        lambda model: model.translate(PAIRS[:4], beam=3),
    ),
    "caption": (
        lambda: ostinato.Captioner(**SMALL, blocks=2),
        drawn(30),
        lambda model: model.caption(drawn(4, seed=1)[0], beam=2),
    ),
    "transcribe": (
        lambda: ostinato.Transcriber(**SMALL, stacked=1),
        ([spoken(text, seed) for seed, text in enumerate(TEXTS * 4)], TEXTS * 4),
        lambda model: model.transcribe([spoken("abc", 99)]),
    ),
    "music": (
        lambda: ostinato.MusicModel(**SMALL),
        (PIECES,),
        lambda model: model.score(PIECES),
    ),
    "forecast": (
        lambda: ostinato.Forecaster(horizon=6, season=12, **SMALL),
        (WAVES,),
        lambda model: model.forecast().quantiles([0.1, 0.5, 0.9]),
    ),
    "text": (
        lambda: ostinato.TextGenerator(hidden_size=16, steps=20, seed=0),
        ("a rose is a rose is a rose, said the poet to the printer. " * 50,),
        lambda model: model.score("a rose is a rose").bits_per_character,
    ),
}


def assert_answers_agree(ours, theirs):
    """Texts and labels are equal, numbers near."""
    if isinstance(ours, list) and not isinstance(ours[0], float):
        assert ours == theirs
    else:
        ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_model_learns_on_the_gpu_and_says_the_same_on_the_cpu(tmp_path, name):
    make, data, answer = ESTIMATORS[name]
    model = make().fit(*data, out=tmp_path / "run")
    assert {p.device.type for p in model.network_.parameters()} == {"cuda"}
    on_the_gpu = answer(model)
    model = ostinato.load(tmp_path / "run", device="cpu")
    assert {p.device.type for p in model.network_.parameters()} == {"cpu"}
    on_the_cpu = answer(model)
    assert_answers_agree(on_the_gpu, on_the_cpu)
    assert (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.parametrize("name", ["text", "classify", "translate", "forecast"])
def test_an_interrupted_run_goes_on_on_the_gpu(tmp_path, name, monkeypatch):
    make, data, answer = ESTIMATORS[name]
    expected = answer(make().fit(*data, out=tmp_path / "whole"))
    real = MetricsFile.on_step

    def stop(self, record):
        real(self, record)
        if record["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "on_step", stop)
        with contextlib.suppress(KeyboardInterrupt):
            make().fit(*data, out=tmp_path / "run")
    model = type(make()).resume(tmp_path / "run")
    found = answer(model)
    assert_answers_agree(found, expected)


def test_a_network_on_the_gpu_is_diagnosed_as_on_the_cpu():
    torch.manual_seed(0)
    network = ostinato.networks.ManyToOne(
        torch.nn.Identity(),
        RNN(2, 16, batch_first=True),
        ostinato.networks.Output(16, 1, "number"),
    )
    x, y = torch.rand(16, 60, 2), torch.rand(16, 1)
    expected = ostinato.diagnose(network, (x, y))
    flow = ostinato.insight.gradient_flow(network, (x, y))
    network.cuda()
    found = ostinato.diagnose(network, (x.cuda(), y.cuda()))
    assert [f.issue for f in found.findings] == [f.issue for f in expected.findings]
    ours = ostinato.insight.gradient_flow(network, (x.cuda(), y.cuda()))
    factors = [f.layers[0].growth().factor for f in (ours, flow)]
    np.testing.assert_allclose(*factors, rtol=1e-3)
    ostinato.insight.input_influence(network, (x.cuda(), y.cuda()))
    ostinato.insight.gates(network, x[0].cuda())
