"""Networks as C files: they compile without a warning, and compute what the network computes."""

import shutil
import subprocess
import typing

import numpy as np
import pytest
import torch
from c_programs import STRICT, Compiled, differences, needs_gcc, results
from torch import nn

from ostinato import (
    GRU,
    LSTM,
    RNN,
    Forecaster,
    MusicModel,
    OstinatoError,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    Stream,
    TextGenerator,
)
from ostinato.cells import Cell, HigherOrderCell, JordanCell
from ostinato.deploy import c_export, c_source
from ostinato.deploy.c_export import program_of, texts_of, write_c
from ostinato.networks.arrangements import CellName, ManyToMany, ManyToOne, recurrent_layers
from ostinato.networks.convolution import Convolutions
from ostinato.networks.outputs import Output
from ostinato.recurrence.cells import RNNState
from ostinato.recurrence.layers import Recurrent

ARM = ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-O2"]


def drawn(module, seed=0):
    """A module with weights drawn at random, biases and statistics too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.uniform_(-0.5, 0.5)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_mean.uniform_(-0.3, 0.3)
                norm.running_var.uniform_(0.5, 2)
    return module.eval()


class Fancy(Cell):
    """A cell of many operations, which nothing but its graph tells of."""

    state_type = RNNState

    def weight_shapes(self):
        H = self.hidden_size
        return {"weight_ih": (2 * H, self.input_size), "weight_hh": (2 * H, H), "gain": (H,)}

    def step(self, w, x_t, state):
        a, b = (x_t @ w["weight_ih"].T + state.h @ w["weight_hh"].T).chunk(2, dim=-1)
        share = torch.where(a > 0, a.exp().clamp(max=3.0), torch.nn.functional.softplus(b))
        share = share / (1 + share.abs().sum(-1, keepdim=True))
        outer = (a.unsqueeze(-1) @ b.unsqueeze(-2)).mean(-1)  # (B, H)
        mixed = torch.cat([share[..., 1:], share[..., :1]], dim=-1) - 0.5 * outer.tanh()
        return RNNState(w["gain"] * mixed + state.h**2 / 4 - torch.maximum(a, b).sigmoid())


def networks():
    """Small networks of every cell, pooling, and input, by name."""
    made = {
        name.replace("-", "_"): recurrent_layers(name, 3, 20, num_layers=1 + (name == "gru"))
        for name in typing.get_args(CellName)
        if name != "gru-d"  # refused, see below
    }
    for pooling in ("last", "mean", "max", "attention"):
        layers = GRU(3, 18, batch_first=True)
        made[pooling] = ManyToOne(nn.Identity(), layers, Output(18, 4), pooling)
    beside, layers = Convolutions(3, 8, causal=True), LSTM(3, 6, batch_first=True)
    made["convolved"] = ManyToOne(nn.Identity(), layers, Output(14, 4), "mean", convolutions=beside)
    layers = LSTM(8, 8, 3, batch_first=True, residual=True)
    made["residual"] = ManyToMany(nn.Embedding(11, 8), layers, Output(8, 11))
    made["residual_last"] = ManyToOne(
        nn.Identity(), GRU(5, 5, 2, batch_first=True, residual=True), Output(5, 3)
    )
    made["projected"] = LSTM(5, 70, 2, proj_size=17)  # blocks of 64 and 16 rows, and a rest
    made["zoneout"] = recurrent_layers("gru", 3, 10, zoneout=0.2)
    made["unread_gate"] = recurrent_layers("mgu", 3, 10, zoneout=0.2)
    made["higher"] = Recurrent(HigherOrderCell(3, 6, order=3))
    made["jordan"] = Recurrent(JordanCell(3, 6, outputs=4, elman=True))
    made["sigmoid"] = Recurrent([*RNN(3, 4).cells, *GRU(4, 5, bias=False).cells])
    made["fancy"] = Recurrent(Fancy(3, 5))
    return {name: drawn(module, i) for i, (name, module) in enumerate(made.items())}


NETWORKS = networks()


FAST = ("-O3", "-march=native")


@needs_gcc
@pytest.mark.parametrize(
    ("layer", "options"),
    [(RNN(5, 20, nonlinearity="relu"), ["-O1"]), (LSTM(5, 33, 2), ["-O1"]), (LSTM(5, 33, 2), FAST),
     (LSTM(5, 20, proj_size=7), ["-O1"]), (GRU(5, 33, 2), ["-O1"]), (GRU(5, 33, 2), FAST),
     (GRU(5, 20, reset_after=False), ["-O1"]), (recurrent_layers("mgu", 5, 9), ["-O1"]),
     (recurrent_layers("lstm-coupled", 5, 9), ["-O1"])],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::ostinato.recurrence.streams.SlowQuantizationWarning")
def test_8_bits_equal_the_stream_bit_for_bit(layer, options, tmp_path):
    layer = drawn(layer)
    x = torch.randn(60, 5)
    x[20:23] = 0
    x[30] *= 1e4
    expected = Stream(layer, quantize="int8").run(x).numpy()
    found = Compiled(layer, tmp_path, "int8", options).run(x.numpy())
    found[np.abs(found) < np.finfo(np.float32).tiny] = 0  # denormals, which the core flushes
    assert np.array_equal(found, expected)


@needs_gcc
def test_float32_follows_the_layer_over_a_long_sequence(tmp_path):
    layer = drawn(GRU(5, 33, 2))
    x = torch.randn(300, 5)
    with torch.no_grad():
        expected = layer(x)[0].numpy()
    assert np.allclose(Compiled(layer, tmp_path).run(x.numpy()), expected, rtol=0, atol=1e-5)


SERIES = [np.random.default_rng(i).normal(size=(4 + i % 9, 2)) + i % 2 for i in range(60)]
HOW = {"hidden_size": 8, "epochs": 2, "bidirectional": False}


@needs_gcc
@pytest.mark.parametrize("settings", [{}, {"convolutions": False}, {"pooling": "last"}])
def test_a_classifier_in_c_has_the_probabilities_of_predict_proba(tmp_path, settings):
    model = SequenceClassifier(**HOW, **settings).fit(SERIES, ["low", "high"] * 30)
    c, expected = Compiled(model, tmp_path), model.predict_proba(SERIES[:9])
    found = [c.run(x)[-1] for x in SERIES[:9]]
    assert np.allclose(found, expected, rtol=0, atol=1e-5)


@needs_gcc
def test_labels_and_numbers_come_out_as_the_task_gives_them(tmp_path):
    several = SequenceClassifier(**HOW).fit(SERIES, [["a"], ["a", "b"], []] * 20)
    numbers = SequenceRegressor(**HOW).fit(SERIES, [[100 * x.mean(), len(x)] for x in SERIES])
    for model, expected in (
        (several, several.predict_proba(SERIES[:5])),
        (numbers, numbers.predict(SERIES[:5])),
    ):
        c = Compiled(model, tmp_path)
        found = np.stack([c.run(x)[-1] for x in SERIES[:5]])
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_gcc
def test_a_tagger_in_c_tags_as_the_model_does(tmp_path):
    labels = [["B-X" if v > 0.5 else "I-X" if v > 0 else "O" for v in x[:, 0]] for x in SERIES]
    plain = SequenceTagger(**HOW, crf=False).fit(SERIES, labels)
    c, expected = Compiled(plain, tmp_path), plain.predict_proba(SERIES[:4])
    for x, p in zip(SERIES[:4], expected, strict=True):
        assert np.allclose(c.run(x), p, rtol=0, atol=1e-5)
    joint = SequenceTagger(**HOW, crf=True).fit(SERIES, labels)
    with torch.no_grad():  # so that neighbours matter
        joint.network_.output.follows.normal_()
        joint.network_.output.first.normal_()
        joint.network_.output.last.normal_()
    c = Compiled(joint, tmp_path)
    K = len(joint.classes_)
    for x, expected in zip(SERIES, joint.predict(SERIES), strict=True):
        scores, T = c.run(x), len(x)
        tags, origin, total = (
            np.zeros(T, np.int32),
            np.zeros(T * K, np.uint8),
            np.zeros(2 * K, "f4"),
        )
        c.call("tags", np.ascontiguousarray(scores), T, tags, origin, total)
        assert joint.classes_[tags].tolist() == expected


@needs_gcc
def test_words_without_letters_are_read_by_their_numbers(tmp_path):
    texts = ["good film", "bad film", "very good", "very bad"] * 10
    how = {**HOW, "spelling_size": 0, "blend": False}
    model = SequenceClassifier(**how).fit(texts, ["p", "n"] * 20)
    lexicon = model.inputs_.lexicon
    ids = [lexicon.words.index(word) + 1 for word in ("very", "good")]
    found = Compiled(model, tmp_path).run([*ids, 0])
    expected = model.predict_proba(["very good", "very good unheard"])
    assert np.allclose(found[1:], expected, rtol=0, atol=1e-5)


@needs_gcc
def test_a_language_model_and_a_music_model_in_c_predict_what_follows(tmp_path):
    text = "to be or not to be, that is ?the question\n" * 10
    model = TextGenerator(hidden_size=16, steps=5).fit(text)
    c = Compiled(model, tmp_path)
    ids = model.vocabulary_.encode("to be or")
    found = c.run(ids[:-1])[np.arange(len(ids) - 1), ids[1:]]
    assert np.allclose(np.log(found), model.log_probs("to be or"), rtol=0, atol=1e-5)
    (tokens,) = {
        line for line in (tmp_path / "m0.c").read_text().splitlines() if '"\\012",' in line
    }
    assert '"\\077"' in (tmp_path / "m0.c").read_text(), f"{tokens}: no trigraphs"
    music = MusicModel(hidden_size=16, epochs=1, validation_fraction=0).fit([[[60], [62]] * 9] * 8)
    keys = np.zeros((5, 88), np.float32)
    keys[range(5), [39, 41, 39, 41, 39]] = 1
    with torch.no_grad():
        expected = music.network_(torch.from_numpy(keys)[None])[0][0].sigmoid().numpy()
    assert np.allclose(Compiled(music, tmp_path).run(keys), expected, rtol=0, atol=1e-5)


@needs_gcc
def test_a_recording_is_heard_sample_by_sample(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "ab"[i % 2]
        folder.mkdir(exist_ok=True)
        tone = np.sin(np.arange(2000 + 37 * i) * (0.1 + 0.3 * (i % 2)))
        soundfile.write(folder / f"{i}.wav", 0.3 * tone * rng.random(len(tone)), 8000)
    files = sorted(tmp_path.glob("?/*.wav"))
    model = SequenceClassifier(**HOW).fit(tmp_path)
    c = Compiled(model, tmp_path)
    for file, expected in zip(files[:6], model.predict_proba(files[:6]), strict=True):
        samples, _ = soundfile.read(file, dtype="int16")
        c.call("reset", c.state)
        begin, news = 0, 0
        for count in [*rng.integers(0, 81, len(samples) // 20), *[80] * len(samples)]:
            part = np.ascontiguousarray(samples[begin : begin + int(count)])
            news += c.call("step", c.state, part, len(part), c.y)
            begin += int(count)
        news += c.call("finish", c.state, c.y)
        assert news >= 2000 // 80
        assert np.allclose(c.y, expected, rtol=0, atol=1e-4)


@needs_gcc
@pytest.mark.parametrize(
    ("output", "method", "center"),
    [("student", "autoregressive", 0), ("negative-binomial", "autoregressive", 0),
     ("quantiles", "direct", 6)],
)  # fmt: skip
def test_a_forecaster_in_c_predicts_in_the_units_of_the_data(tmp_path, output, method, center):
    t = np.arange(100)
    y = np.round(50 + 0.1 * t + 9 * np.sin(2 * np.pi * t / 12))
    how = {"horizon": 2, "season": 4, "long_season": 12, "hidden_size": 8, "epochs": 1}
    model = Forecaster(**how, output=output, method=method, ensemble_size=2).fit(y)
    y[90] = np.nan
    c = Compiled(model, tmp_path)
    n = model._history + model.resolved("context")
    past = np.ascontiguousarray(y[-n:], np.float32)
    work, location, scale = np.zeros(n, "f4"), np.zeros(1, "f4"), np.zeros(1, "f4")
    c.call("units", np.ascontiguousarray(past[-model.resolved("context") :]),
           model.resolved("context"), work, location, scale)  # fmt: skip
    windows = model._windows(model._panel(y))
    window, _, units = windows.take([(0, len(y))])
    assert np.allclose([location[0], scale[0]], [units.location[0], units.scale[0]], rtol=1e-5)
    c.call("begin", c.state, float(location[0]), float(scale[0]))
    news = sum(c.call("step", c.state, float(value), c.y) for value in past)
    assert news == n - model._history
    members = list(model.network_)
    with torch.no_grad():
        points = [member.distribution.point(member(window)[0])[0].numpy() for member in members]
    expected = units.location[0] + units.scale[0] * np.stack(points)
    found = c.y.reshape(2, len(points[0]), -1)[:, :, center]
    assert np.allclose(found, expected, rtol=1e-5)


def classifier(**settings):
    how = {"hidden_size": 4, "epochs": 1, **settings}
    return SequenceClassifier(**how).fit(SERIES, ["a", "b"] * 30)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: GRU(3, 4, bidirectional=True), "bidirectional=False"),
        (lambda: classifier(), "bidirectional=False"),
        (lambda: classifier(recurrent=False), "no recurrent layers"),
        (
            lambda: SequenceClassifier(hidden_size=4, epochs=1).fit(
                ["a good one", "so bad"] * 20, ["good", "bad"] * 20
            ),
            "--no-bidirectional --spelling-size 0 --affix-size 0 --no-blend",
        ),
        (lambda: SequenceTagger(**HOW).fit([["a"]] * 20, [["X"], ["Y"]] * 10), "spelling_size=0"),
        (lambda: nn.Linear(2, 3), "Linear has no form in C"),
    ],
)  # fmt: skip
def test_what_has_no_form_in_c_is_refused_by_name_and_nothing_is_written(tmp_path, model, told):
    with pytest.raises(OstinatoError, match=told):
        write_c(model(), tmp_path / "model.c")
    assert not [*tmp_path.iterdir()]


def test_a_cell_with_an_unknown_operation_is_refused_by_its_name():
    class Odd(Fancy):
        def step(self, w, x_t, state):
            return RNNState(torch.cumsum(state.h + x_t @ w["weight_ih"][:4].T, dim=-1))

    with pytest.raises(OstinatoError, match="step of Odd uses cumsum"):
        program_of(Recurrent(Odd(3, 4)))


def test_precisions_and_prefixes_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(OstinatoError, match="float16"):
        write_c(GRU(2, 3), tmp_path / "model.c", "float16")
    with pytest.raises(OstinatoError, match="prefix='a b'"):
        write_c(GRU(2, 3), tmp_path / "model.c", prefix="a b")
    layer = GRU(2, 3)
    with torch.no_grad():
        layer.weight_ih_l0[0, 0] = torch.inf
    with pytest.raises(OstinatoError, match="not finite"):
        write_c(layer, tmp_path / "model.c")


@needs_gcc
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(c_source, "blocks", lambda w: w.ravel())  # rows, not columns
    with pytest.raises(OstinatoError, match="differ"):
        write_c(drawn(GRU(3, 18)), tmp_path / "model.c")
    assert not [*tmp_path.iterdir()]


@needs_gcc
def test_names_follow_from_the_file_and_the_text_is_the_same_each_time(tmp_path):
    layer = drawn(GRU(2, 3))
    first = write_c(layer, tmp_path / "1 ü-x.c")
    text = (tmp_path / "1 ü-x.c").read_text()
    assert "void m1___x_step(m1___x_state *s, const float *x, float *y)" in text
    assert [file.name for file in first.files] == ["1 ü-x.c", "1 ü-x.h"]
    assert "compiled by cc and compared" in first.summary
    write_c(layer, tmp_path / "1 ü-x.c")
    assert (tmp_path / "1 ü-x.c").read_text() == text


def test_without_a_compiler_a_file_says_that_it_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(c_export, "COMPILERS", ())
    made = write_c(drawn(GRU(2, 3)), tmp_path / "model.c")
    assert "was not run" in made.summary
    assert (tmp_path / "model.c").exists()


def test_the_comment_tells_sizes_and_work():
    text = texts_of(program_of(drawn(GRU(2, 4))), "m", int8=True, header="m.h").source
    # 12 x (2 + 4) weights of 8 bits, 24 scales and 16 biases.
    assert f"flash  {12 * 6 + 4 * (24 + 16)} bytes of constants" in text
    assert "RAM    16 bytes of state" in text
    assert "work   72 multiply-adds" in text


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the tests of all networks say, compiled under the sanitizers."""
    folder = tmp_path_factory.mktemp("c")
    with torch.no_grad():
        programs = {
            f"{name}_{precision}": (program_of(module), precision == "int8")
            for name, module in NETWORKS.items()
            for precision in ("float32", "int8")
        }
        sanitizers = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        differences(programs, folder, ["gcc"], sanitizers)
    ran = subprocess.run([folder / "all"], capture_output=True, text=True)
    assert ran.stdout and not ran.stderr, ran.stderr
    if shutil.which("clang"):
        subprocess.run(["clang", *STRICT, "-fsyntax-only", "all.c"], cwd=folder, check=True)
    return results(ran.stdout)


@needs_gcc
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_test_in_a_file_finds_no_difference(found, name, precision):
    """Of float32 from the network itself; of 8 bits none at all from the quantized reference."""
    difference, allowed = found[f"{name}_{precision}"]
    assert difference <= allowed
    # Sums of the others are not in PyTorch's order, and logarithms not PyTorch's.
    exact = precision == "int8" and name not in ("fancy", "mamba", "mlstm", "slstm")
    assert allowed == 0 if exact else 0 < allowed < 0.1


@needs_gcc
@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="gcc-arm-none-eabi or qemu-system-arm is not installed",
)
@pytest.mark.parametrize("name", ["lstm", "gru_reset_before", "fancy", "convolved", "projected"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_on_an_emulated_cortex_m4_the_test_passes(tmp_path, name, precision):
    with torch.no_grad():
        program = program_of(NETWORKS[name])
        written = texts_of(program, "m", int8=precision == "int8", header="m.h")
    (tmp_path / "m.h").write_text(written.header)
    (tmp_path / "m.c").write_text(written.source)
    (tmp_path / "start.c").write_text(START)
    build = ["arm-none-eabi-gcc", *ARM, *STRICT, "-DM_TEST", "m.c", "-c"]
    subprocess.run(build, cwd=tmp_path, check=True)
    link = ["arm-none-eabi-gcc", *ARM, "--specs=rdimon.specs", "-nostartfiles", "m.o", "start.c"]
    link += ["-Wl,-e,start,--section-start=.vectors=0,-Ttext=0x400,-Tdata=0x20000000"]
    link += ["-o", "m.elf", "-lm"]
    subprocess.run(link, cwd=tmp_path, check=True)
    emulator = ["qemu-system-arm", "-machine", "mps2-an386", "-nographic", "-monitor", "none"]
    emulator += ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
    emulator += ["-kernel", "m.elf"]
    ran = subprocess.run(emulator, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    said = ran.stdout + ran.stderr
    assert "largest difference" in said and ran.returncode == 0, said


START = """\
extern int main(void);
extern void initialise_monitor_handles(void);
extern void exit(int);
extern unsigned __bss_start__, __bss_end__;
void start(void);
void _init(void);
void _fini(void);
void _init(void) {}
void _fini(void) {}
void start(void)
{
    *(volatile unsigned *)0xE000ED88u |= 0xFu << 20; /* the floating-point unit */
    __asm volatile("dsb\\nisb");
    for (unsigned *p = &__bss_start__; p < &__bss_end__; ++p) *p = 0;
    initialise_monitor_handles();
    exit(main());
}
__attribute__((section(".vectors"), used)) void *const vectors[2] = {
    (void *)0x20080000u, (void *)start};
"""


def test_a_cell_that_reads_what_is_missing_is_refused_by_name():
    with pytest.raises(OstinatoError, match="the step of GRUDCell uses ones_like"):
        program_of(recurrent_layers("gru-d", 3, 20))
