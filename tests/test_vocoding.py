"""A vocoder: its loss equals its equations, its stream draws from what it learnt."""

import math

import numpy as np
import pytest
import soundfile
import torch
from command_line import assert_refused
from test_features import write_wav

from ostinato import Speaker, Vocoder, load
from ostinato.data.synthesis import ORDER, SoundFrames, linear_prediction
from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.inputs import Standardize
from ostinato.networks.vocoder import VocoderNetwork, companded, logistic_loss
from ostinato.recurrence.dropin import GRU
from ostinato.tasks.vocoding import VocoderStream

pytestmark = pytest.mark.filterwarnings("ignore::ostinato.tasks.speaking.SpeechWarning")

FRAMES = SoundFrames(8000, 12)
QUICK = {"bands": 12, "hidden_size": 12, "batch_size": 8}


def hum(pitch, seconds=0.4, seed=0):
    t = np.arange(int(8000 * seconds)) / 8000
    tone = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in (1, 2, 3))
    return 0.3 * tone + 0.01 * np.random.default_rng(seed).normal(size=len(t))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hums")
    for i in range(24):
        write_wav(made / f"{i}.wav", hum(150 + 20 * (i % 6), seed=i), 8000)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return Vocoder(steps=60, evaluations=2, learning_rate=0.01, **QUICK).fit(folder)


def network(m=2, seed=0):
    torch.manual_seed(seed)
    encode = Standardize(torch.randn(5), torch.rand(5) + 0.5)
    layers = GRU(2 * m + 1 + 3, 6, batch_first=True)
    return VocoderNetwork(encode, 5, 4, 6, m, layers, 3).double().eval()


def frames(B=2, N=4):
    torch.manual_seed(1)
    coefficients = 0.3 * torch.randn(B, N, 4)
    return torch.cat([torch.randn(B, N, 5), coefficients, torch.rand(B, N, 1) + 0.5], 2).double()


def test_linear_prediction_is_that_of_the_sound():
    rng = np.random.default_rng(0)
    truth = np.array([1.2, -0.6])
    x = np.zeros(8000)
    for t in range(2, 8000):
        x[t] = x[t - 2 : t][::-1] @ truth + 0.02 * rng.normal()
    fine = SoundFrames(8000, 128)
    mel = fine(x.astype("f4"))
    a, left = linear_prediction(fine, mel)
    past = np.lib.stride_tricks.sliding_window_view(x, ORDER)[3984:7984, ::-1]
    errors = x[4000:8000] - np.einsum("tp,tp->t", past, a[40:80].repeat(100, 0))
    assert errors.std() < 1.15 * 0.02 and errors.std() < 0.6 * x.std()
    assert np.median(left) == pytest.approx(0.02, rel=0.3)
    predicted = np.abs(np.fft.rfft(np.concatenate([[1], -np.median(a, 0)]), 64)) ** -1
    true = np.abs(np.fft.rfft([1, *-truth], 64)) ** -1
    np.testing.assert_allclose(np.log(predicted), np.log(true), atol=0.7)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_loss_equals_its_equations_step_by_step(m):
    net, x = network(m), frames()
    samples = 0.5 * torch.randn(2, 4, 6).double()
    lengths = torch.tensor([4, 3])
    losses = []
    c = net.conditions(x)
    for b in range(2):
        s = samples[b].flatten()
        state, u = None, torch.zeros(24).double()
        for i in range(24 // m):
            t, w = i * m // 6, (i * m % 6) / 6

            def predicted(k, b=b, s=s):
                a = x[b, k // 6, 5:9]
                return sum(a[j] * s[k - 1 - j] for j in range(4) if k - 1 - j >= 0) + torch.zeros(
                    ()
                )

            before = range(i * m - m, i * m)
            known = [u[k].clamp(-8, 8) / 4 if k >= 0 else torch.zeros(()) for k in before]
            known += [companded(s[k]) if k >= 0 else torch.zeros(()) for k in before]
            known.append(companded(predicted(i * m).double()))
            feature = (1 - w) * c[b, t] + w * c[b, min(t + 1, 3)]
            row = torch.cat([torch.stack([k.double() for k in known]), feature])
            h, state = net.recurrent(row[None, None], state)
            y = net.output(h).view(m, 2)
            for j in range(m):
                k = i * m + j
                u[k] = (s[k] - predicted(k)) / x[b, k // 6, 9]
                if 1 <= k // 6 < lengths[b] - 1:
                    z = (u[k] - y[j, 0]) / y[j, 1].exp()
                    losses.append(z + y[j, 1] + 2 * torch.log1p((-z).exp()))
    found, _ = net.loss(x, samples, lengths=lengths)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_the_density_is_one_in_all():
    u = torch.linspace(-60, 60, 100_001).double()
    p = (-logistic_loss(u, torch.tensor(0.7), torch.tensor(0.4))).exp()
    assert float(torch.trapezoid(p, u)) == pytest.approx(1, abs=1e-6)
    deviation = torch.trapezoid(p * (u - 0.7) ** 2, u).sqrt()
    assert float(deviation) == pytest.approx(math.exp(0.4) * math.pi / math.sqrt(3), rel=1e-4)


def test_gradients_are_those_of_differences():
    net, x = network(), frames()
    samples = 0.5 * torch.randn(2, 4, 6).double()
    weights = [net.around.weight, net.output.weight, net.recurrent.weight_hh_l0]
    assert torch.autograd.gradcheck(lambda *_: net.loss(x, samples)[0], weights, atol=1e-5)


def test_the_stream_draws_from_what_the_loss_measures(model):
    """Given its own sound, the network says of every draw what the stream drew it from."""
    mel = FRAMES(FRAMES.prepare(hum(190).astype("f4"), 8000))
    stream = model.stream(seed=3)
    drawn = np.concatenate([stream.feed(mel), stream.finish()])
    random = np.random.default_rng(3)
    noise = np.concatenate([random.logistic(size=100) for _ in range(len(mel) - 1)])
    x = torch.from_numpy(model.inputs_.features(mel))[None]
    samples = torch.from_numpy(np.append(drawn, np.zeros(100, "f4")))[None].view(1, len(mel), 100)
    with torch.no_grad():
        y, found = model.network_.eval()(x, samples)
    mean, log_scale = y.view(-1, 2)[: len(drawn)].unbind(-1)
    expected = mean + log_scale.clamp(-7, 3).exp() * torch.from_numpy(noise)
    heard = found.left.flatten()[: len(drawn)]
    free = np.abs(drawn) < 1  # where it was not clipped
    np.testing.assert_allclose(heard[free], expected[free], atol=2e-2, rtol=2e-2)


def test_chunks_of_any_size_are_the_whole(model):
    mel = FRAMES(FRAMES.prepare(hum(170).astype("f4"), 8000))
    whole = model.synthesize(mel, seed=1)
    assert len(whole) == 100 * (len(mel) - 1)
    for sizes in ([1] * (len(mel) - 1), [5, 9], [len(mel) - 1]):
        stream = model.stream(seed=1)
        parts = [stream.feed(part) for part in np.split(mel, np.cumsum(sizes))]
        found = np.concatenate([*parts, stream.finish()])
        np.testing.assert_allclose(found, whole, atol=1e-3)
    assert not np.array_equal(whole, model.synthesize(mel, seed=2))


def test_training_lowers_the_loss_and_sound_has_its_frames(model, folder):
    untrained = model.untrained({})
    batches = model._sequences().batches(model._sequences().labelled(model._read(folder)), 4)
    from ostinato.training.evaluation import evaluate

    before = evaluate(untrained, model.targets_, batches)["loss"]
    found = model.evaluate(folder)
    assert found["nll_per_sample"] < before - 0.15 and found["recordings"] == 24
    assert found["decibels"] < 8 and model.score(folder) == -found["decibels"]


def test_a_run_is_stored_and_loaded_and_speaks(folder, tmp_path):
    model = Vocoder(steps=2, evaluations=1, **QUICK).fit(folder, out=tmp_path / "vocoder")
    stored = load(tmp_path / "vocoder")
    mel = FRAMES(hum(160).astype("f4"))
    np.testing.assert_array_equal(stored.synthesize(mel), model.synthesize(mel))
    files = sorted(folder.iterdir())
    speaker = Speaker(bands=12, hidden_size=8, steps=2, evaluations=1)
    speaker.fit(files, ["ab", "ba"] * 12)
    speech = speaker.speak("ab", vocoder=stored, seed=0)
    chunks = list(speaker.stream("ab", vocoder=stored, seed=0))
    np.testing.assert_allclose(np.concatenate(chunks), speech.samples, atol=1e-3)
    other = Speaker(bands=13, hidden_size=8, steps=2, evaluations=1).fit(files, ["ab", "ba"] * 12)
    with pytest.raises(OstinatoError, match="train it with the same rate and bands"):
        other.speak("ab", vocoder=stored)


def test_short_recordings_teach_nothing_and_break_nothing():
    net, x = network(), frames(2, 2)
    loss, _ = net.loss(x, torch.zeros(2, 2, 6).double())
    assert float(loss.detach()) == 0
    loss.backward()


def test_what_cannot_be_is_one_error(folder, model):
    with pytest.raises(OstinatoError, match="does not divide the 6 samples"):
        network(4)
    with pytest.raises(OstinatoError, match="does not divide the 100 samples"):
        Vocoder(samples_per_step=3, steps=1, **QUICK).fit(folder)
    with pytest.raises(ShapeError, match=r"expected \(N, 12\)"):
        model.stream().feed(np.zeros((3, 5), "f4"))
    with pytest.raises(ShapeError, match=r"expected \(B, N, 6\)"):
        network()(frames(), torch.zeros(2, 4, 5).double())
    with pytest.raises(OstinatoError, match="expected recordings"):
        Vocoder().fit(["a text"])
    for bad in ({"window": 2}, {"samples_per_step": 0}, {"bands": 0}):
        with pytest.raises(OstinatoError, match="expected"):
            Vocoder(**bad).fit(folder)
    assert isinstance(model.stream(), VocoderStream)


def test_the_command_makes_sound_again(folder, tmp_path, ostinato, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--steps 3 --evaluations 1 --hidden-size 8 --batch-size 8 --bands 12"
    assert ostinato(f"train vocode {folder} --out vocoder {small}").status == 0
    result = ostinato(f"vocode vocoder {folder / '0.wav'} --out again.wav --seed 1")
    assert result.status == 0 and "at 8,000 samples a second" in result.out
    samples, _ = soundfile.read("again.wav", dtype="float32")
    np.testing.assert_allclose(
        samples, load("vocoder").resynthesize(folder / "0.wav", seed=1), atol=1e-4
    )
    assert "nll per sample" in ostinato(f"evaluate vocoder {folder}").out
    assert_refused(ostinato("speak vocoder a --out x.wav"), "commands for it: evaluate, vocode")
