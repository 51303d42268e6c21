"""A trained network as one C99 file and a header, for programs and microcontrollers without Python.

A program is a row of parts, from the input of a step to its output. Each part writes itself in C;
with 8 bits it also computes, in NumPy, what the C code must compute to the last bit. The float32
reference is the network itself.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ostinato.deploy.base import Exported, Precision
from ostinato.deploy.c_forecast import Forecasting, describe, units
from ostinato.deploy.c_graph import number
from ostinato.deploy.c_layers import Part, layers_of
from ostinato.deploy.c_parts import (
    Activation,
    CausalConvolutions,
    Dense,
    Embedding,
    LogMel,
    Pooling,
    Scaled,
    Stateless,
)
from ostinato.deploy.c_runtime import HELPERS, Array
from ostinato.deploy.c_source import Function, Source, strings
from ostinato.errors import OstinatoError
from ostinato.files import atomic_file, check_new_file
from ostinato.networks.arrangements import ManyToMany, ManyToOne, OneToOne
from ostinato.networks.convolution import Convolutions
from ostinato.networks.inputs import Standardize, WordEncoder
from ostinato.networks.outputs import CRFOutput
from ostinato.recurrence.backends.core import core
from ostinato.recurrence.layers import Recurrent
from ostinato.tasks.classification import SequenceClassifier
from ostinato.tasks.forecasting.forecaster import Forecaster
from ostinato.tasks.generation import TextGenerator
from ostinato.tasks.music import MusicModel
from ostinato.tasks.regression import SequenceRegressor
from ostinato.tasks.tagging import SequenceTagger

NetworkT = TypeVar("NetworkT", bound=nn.Module)

Kind = Literal["vector", "token", "sound", "forecast"]

TOLERANCE = 1e-5
"""How far a number may be from the network's, of the largest or of 1; with 8 bits not at all."""

ROUNDED = 1e-2
"""The same with 8 bits where what is rounded comes from functions of the C library."""

STEPS = 12
"""Steps of the test in the file, at least."""

COMPILERS = ("cc", "gcc", "clang")


@dataclass
class Program:
    """A network as parts, and how it is called.

    Args:
        parts: from the input of a step to its output.
        kind: of a step's input: a vector, the number of a token, or samples of sound.
        inputs: features of a step, tokens, or samples.
        reference: the float32 outputs ``(T, K)`` of inputs ``(T, ...)``, NaN where a step has none.
        draw: inputs ``(T, ...)`` of so many steps, for the test.
        input_words: the input of a step, in words.
        output_words: the output of a step, in words.
        labels: names of the outputs.
        more: adds further functions, and returns their prototypes.
        steps: of the test.
    """

    parts: Sequence[Part]
    kind: Kind
    inputs: int
    reference: Callable[[NDArray[Any]], NDArray[Any]]
    draw: Callable[[np.random.Generator, int], NDArray[Any]]
    input_words: str
    output_words: str
    labels: Sequence[bytes] = ()
    more: Callable[[Source], str] | None = None
    steps: int = STEPS

    @property
    def outputs(self) -> int:
        """Numbers of a step's output."""
        return self.parts[-1].size

    def quantized_reference(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return what the C code must compute with 8 bits, as `reference`."""
        for part in self.parts:
            part.reset()
        rows = []
        for x in inputs:
            for part in self.parts:
                x = part.step(x)
                if x is None:
                    break
            rows.append(np.full(self.outputs, np.nan, np.float32) if x is None else x)
        return np.stack(rows)


def write_c(
    model: Any, path: Path, precision: Precision = "float32", prefix: str | None = None
) -> Exported:
    """Write a model as a C file and a header beside it.

    Where there is a C compiler, the file's own test is compiled and run first, and nothing is
    written if a number differs.

    Args:
        model: a fitted estimator; or a `ManyToMany`, a `ManyToOne` or recurrent layers.
        path: the C file; the header has the suffix .h.
        precision: float32, or int8: every matrix in 8 bits, as `Stream` quantizes it.
        prefix: what all names begin with; if not given, the name of the file.

    Raises:
        OstinatoError: the model, or a part of it, has no form in C; nothing is written.
    """
    path, header = check_new_file(path, [".c"]), check_new_file(path.with_suffix(".h"))
    if set(header.name) & set('"\\\n'):
        raise OstinatoError(f"export: C cannot include {header.name!r}; give another name.")
    if precision == "float16":
        raise OstinatoError("export: a C file has precision float32 or int8, not float16.")
    if precision == "int8" and core is None:
        raise OstinatoError("export: precision='int8' needs the compiled core, to compare with.")
    prefix = prefix or re.sub(r"\W", "_", path.stem, flags=re.ASCII).strip("_") or "model"
    prefix = f"m{prefix}" if prefix[0].isdigit() else prefix
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", prefix):
        raise OstinatoError(f"export: prefix={prefix!r}; expected a C identifier.")
    program = program_of(model)
    written = texts_of(program, prefix, int8=precision == "int8", header=header.name)
    checked = check(written, path.name, header.name)
    for at, text in ((path, written.source), (header, written.header)):
        with atomic_file(at) as file:
            file.write(text.encode())
    facts = {
        "precision": precision,
        "flash_bytes": written.flash,
        "ram_bytes": written.ram,
        "stack_bytes": written.stack,
        "multiply_adds": written.products,
        "checked": checked,
    }
    summary = (
        f"{path} and {header}: {written.flash:,} bytes of constants, {written.ram:,} bytes of "
        f"state, {written.products:,} multiply-adds a step\n"
        + (checked or "no C compiler here (cc, gcc or clang): its test was not run")
    )
    return Exported([path, header], summary, facts)


# From a model to a program


@torch.no_grad()
def program_of(model: Any) -> Program:
    """Return the parts of a model; an `OstinatoError` if one of them has no form in C."""
    if isinstance(model, Recurrent | ManyToMany | ManyToOne):
        return _network_program(_plain(model))
    if isinstance(model, SequenceClassifier | SequenceRegressor | SequenceTagger):
        return _corpus_program(model)
    if isinstance(model, TextGenerator):
        return _text_program(model)
    if isinstance(model, MusicModel):
        return _music_program(model)
    if isinstance(model, Forecaster):
        return _forecast_program(model)
    raise OstinatoError(
        f"export: a {type(model).__name__} has no form in C; a SequenceClassifier, "
        "SequenceRegressor, SequenceTagger, TextGenerator, MusicModel or Forecaster has."
    )


def _plain(network: NetworkT) -> NetworkT:
    """Return a copy in float32 on the CPU, in eval mode."""
    return copy.deepcopy(network).cpu().float().eval()


class _Beside:
    """Recurrent layers, and convolutions beside them whose features follow theirs."""

    def __init__(self, layers: Sequence[Part], convolutions: CausalConvolutions) -> None:
        self.layers, self.convolutions = layers, convolutions
        self.size = layers[-1].size + convolutions.size

    def emit(self, c: Source, f: Function, x: str) -> str:
        h = x
        for layer in self.layers:
            h = layer.emit(c, f, h)
        beside, y, n = (
            self.convolutions.emit(c, f, x),
            f.local("both", self.size),
            self.layers[-1].size,
        )
        f.loop(n, f"{y}[i] = {h}[i];")
        f.loop(self.convolutions.size, f"{y}[{n} + i] = {beside}[i];")
        return y

    def reset(self) -> None:
        for part in (*self.layers, self.convolutions):
            part.reset()

    def step(self, x: Array) -> Array:
        h = x
        for layer in self.layers:
            h = layer.step(h)
        return np.concatenate([h, self.convolutions.step(x)])


class _Output(Stateless):
    """An output layer, which writes to the caller's array."""

    def __init__(self, linear: nn.Linear) -> None:
        self.dense = Dense(linear, "output")
        self.size = self.dense.size

    def emit(self, c: Source, f: Function, x: str) -> str:
        return self.dense.emit(c, f, x, "y")

    def step(self, x: Array) -> Array:
        return self.dense.step(x)


class _Copied(Stateless):
    """The last layer's state, as output."""

    def __init__(self, size: int) -> None:
        self.size = size

    def emit(self, c: Source, f: Function, x: str) -> str:
        f.loop(self.size, f"y[i] = {x}[i];")
        return "y"

    def step(self, x: Array) -> Array:
        return np.array(x)


def _encoder(encode: nn.Module, size: int) -> list[Part]:
    """Return the parts that make vectors of inputs."""
    if isinstance(encode, nn.Embedding):
        return [Embedding(_numpy(encode.weight))]
    if isinstance(encode, Standardize):
        return [Scaled(_numpy(encode.mean), _numpy(encode.scale), size, name="input")]
    if isinstance(encode, nn.Identity):
        return []
    if isinstance(encode, WordEncoder):
        if encode.characters is not None or encode.affixes is not None:
            raise OstinatoError(
                "export: the network reads the letters of words, which has no form in C; train it "
                "with spelling_size=0 and affix_size=0 (--spelling-size 0 --affix-size 0)."
            )
        return [Embedding(_numpy(encode.words.weight))]
    raise OstinatoError(f"export: an encoder {type(encode).__name__} has no form in C.")


def _network_parts(network: ManyToMany | ManyToOne) -> list[Part]:
    """Return the parts of a network, up to the scores."""
    layers = layers_of(network.recurrent)
    if isinstance(network, ManyToOne) and network.pooling == "last":
        layers[-1].residual = False
    parts: list[Part] = _encoder(network.encode, network.recurrent.input_size)
    if isinstance(network.convolutions, Convolutions):
        if not network.convolutions.causal:
            raise OstinatoError("export: the network's convolutions read later steps.")
        parts.append(_Beside(layers, CausalConvolutions(network.convolutions)))
    else:
        parts += layers
    if isinstance(network, ManyToOne):
        attention = network.attention if network.pooling == "attention" else None
        parts.append(Pooling(network.pooling, parts[-1].size, attention))
    return [*parts, _Output(network.output.linear)]


def _network_program(network: Recurrent | ManyToMany | ManyToOne) -> Program:
    """Return the program of a bare network: its scores, of encoded inputs."""
    if isinstance(network, Recurrent):
        layers = layers_of(network)
        parts: list[Part] = [*layers, _Copied(layers[-1].size)]
        words = "the output of the last layer"
        inputs, token, steps = network.input_size, False, STEPS

        def run(x: Tensor) -> Tensor:
            y: Tensor = network(x[None] if network.batch_first else x[:, None])[0]
            return y.reshape(len(x), -1)
    else:
        parts, words, steps = _network_parts(network), "scores", _steps(network)
        token = isinstance(parts[0], Embedding)
        inputs = len(parts[0].table) if isinstance(parts[0], Embedding) else parts[0].size
        inputs = inputs if token else network.recurrent.input_size

        def run(x: Tensor) -> Tensor:
            return _scores(network, x)

    def reference(x: NDArray[Any]) -> NDArray[Any]:
        return _numpy(run(torch.from_numpy(x)))

    if token:
        return Program(
            parts, "token", inputs, reference, lambda r, T: r.integers(0, inputs, T),
            f"the number of a token, 0 to {inputs - 1}", words, steps=steps,
        )  # fmt: skip
    return Program(
        parts, "vector", inputs, reference, _normal(inputs), f"{inputs} numbers", words, steps=steps
    )  # fmt: skip


def _corpus_program(
    model: SequenceClassifier | SequenceRegressor | SequenceTagger,
) -> Program:
    """Return the program of a task on sequences with labels."""
    network, inputs, name = _plain(model.network_), model.inputs_, type(model).__name__
    if isinstance(network, OneToOne):
        raise OstinatoError(
            f"export: this {name} has no recurrent layers (recurrent=False, or an image as one "
            "step); train it with them."
        )
    _check_settings(model, network)
    parts, more = _network_parts(network), None
    steps = _steps(network)
    size = parts[-1].size
    if isinstance(model, SequenceRegressor):
        targets = model.targets_
        parts.append(Scaled(targets.mean, targets.scale, size, name="target", back=True))
        labels: list[bytes] = []
        words = "the predicted number" if size == 1 else f"{size} predicted numbers"

        def decode(scores: Tensor) -> Tensor:
            return scores * torch.from_numpy(targets.scale) + torch.from_numpy(targets.mean)
    else:
        labels = [str(label).encode() for label in model.targets_.names]
        temperature = 1.0
        if isinstance(model, SequenceClassifier):
            temperature = model.training_.get("temperature", 1.0)
        output = network.output
        if isinstance(output, CRFOutput):
            words, more = "a score for each label; @tags finds the best ones", _viterbi(output)
        else:
            parts.append(Activation(size, output.kind, temperature))
            words = f"the probability of each of {size} labels, in the order of @labels"

        def decode(scores: Tensor) -> Tensor:
            return scores if more is not None else output.predict(scores / temperature)

    what = "so far" if isinstance(network, ManyToOne) else "at the step"
    words = f"{words}, {what}"
    if inputs.spectrogram is not None:
        how = inputs.spectrogram
        mel = LogMel(how)

        def heard(x: NDArray[Any]) -> NDArray[Any]:
            mel.reset()
            rows = [mel.step(each) for each in x]
            found = [row for row in rows if row is not None]
            scores = decode(_scores(network, torch.from_numpy(np.stack(found))).double())
            result = np.full((len(rows), size), np.nan)
            result[[i for i, row in enumerate(rows) if row is not None]] = _numpy(scores)
            return result

        return Program(
            [mel, *parts], "sound", how.step, heard,
            lambda r, T: np.clip(3000 * r.normal(size=(T, how.step)), -32768, 32767).astype("i2"),
            f"up to {how.step} samples, {how.rate} a second", words, labels, more, steps,
        )  # fmt: skip

    def reference(x: NDArray[Any]) -> NDArray[Any]:
        return _numpy(decode(_scores(network, torch.from_numpy(x)).double()))

    if inputs.lexicon is not None:
        V = len(inputs.lexicon.words) + 1
        case = ", in lower case" if inputs.lexicon.lowercase else ""
        told = f"the number of a word{case}, 0 for an unknown one; @words has them"

        def with_words(c: Source) -> str:
            known = [b"", *(word.encode() for word in inputs.lexicon.words)]  # type: ignore[union-attr]
            c.tables.append(strings(f"{c.prefix}_words", known))
            c.flash += sum(len(word) + 5 for word in known)
            also = more(c) if more is not None else ""
            return f"extern const char *const {c.prefix}_words[{V}];\n{also}"

        return Program(
            parts, "token", V, reference, lambda r, T: r.integers(0, V, T), told, words, labels,
            with_words,
        )  # fmt: skip
    mean, scale = (
        np.broadcast_to(np.asarray(v), inputs.features) for v in (inputs.mean, inputs.scale)
    )
    rows = f": the pixels of a row of an image, {inputs.form}" if inputs.kind == "image" else ""
    return Program(
        parts, "vector", inputs.features, reference, _normal(inputs.features, mean, scale),
        f"{inputs.features} numbers as they were trained on{rows}", words, labels, more, steps,
    )  # fmt: skip


def _check_settings(
    model: SequenceClassifier | SequenceRegressor | SequenceTagger, network: ManyToMany | ManyToOne
) -> None:
    """Refuse what was trained in ways that have no form in C, all of them in one error."""
    encode = network.encode
    found: list[tuple[str, str, str]] = []
    if network.recurrent.bidirectional:
        found.append(("reads in both directions", "bidirectional=False", "--no-bidirectional"))
    if isinstance(encode, WordEncoder) and (encode.characters or encode.affixes) is not None:
        zero = "spelling_size=0, affix_size=0", "--spelling-size 0 --affix-size 0"
        found.append(("reads the letters of words", *zero))
    if isinstance(model, SequenceClassifier) and model.linear_ is not None:
        found.append(("is blended with a linear classifier", "blend=False", "--no-blend"))
    if found:
        reasons, settings, flags = zip(*found, strict=True)
        raise OstinatoError(
            f"export: the network {', '.join(reasons)}, which has no form in C; train it with "
            f"{', '.join(settings)} ({' '.join(flags)})."
        )


def _text_program(model: TextGenerator) -> Program:
    """Return the program of a language model: the probabilities of the next token."""
    network, vocabulary = _plain(model.network_), model.vocabulary_
    V = len(vocabulary)
    parts = [*_network_parts(network), Activation(V, "category")]

    def reference(x: NDArray[Any]) -> NDArray[Any]:
        return _numpy(_scores(network, torch.from_numpy(x)).double().softmax(-1))

    return Program(
        parts, "token", V, reference, lambda r, T: r.integers(0, V, T),
        "the number of a token in @labels", f"the probability of each of {V} tokens to follow",
        [vocabulary.bytes_of(i) for i in range(V)],
    )  # fmt: skip


def _music_program(model: MusicModel) -> Program:
    """Return the program of a music model: the probabilities of the keys of the next step."""
    network = _plain(model.network_)
    parts = _network_parts(network)
    keys = parts[-1].size

    def reference(x: NDArray[Any]) -> NDArray[Any]:
        return _numpy(_scores(network, torch.from_numpy(x)).double().sigmoid())

    return Program(
        [*parts, Activation(keys, "probability")], "vector", keys, reference,
        lambda r, T: (r.random((T, keys)) < 0.1).astype(np.float32),
        f"1 for each of {keys} keys, from the lowest of a piano, that sounds at a step, else 0",
        "the probability that each key sounds at the next step",
    )  # fmt: skip


def _forecast_program(model: Forecaster) -> Program:
    """Return the program of a forecaster: the distribution of the next value, after each."""
    network = Forecasting(model)
    F, count = network.ahead * network.covariates, len(network.members)
    first = network.members[0].network

    def draw(r: np.random.Generator, T: int) -> NDArray[np.float32]:
        x = r.normal(size=(T, 1 + F)).astype(np.float32)
        x[r.random(T) < 0.1, 0] = np.nan
        x[-1, 0] = 1.0
        return x

    steps = "the next value" if network.ahead == 1 else f"each of the next {network.ahead} values"
    covariates = "; known are the covariates of the steps that are predicted" if F else ""
    members = f", of each of {count} networks" if count > 1 else ""
    return Program(
        [network], "forecast", 1 + F, network.reference, draw,
        f"the latest value, NaN where it is missing{covariates}",
        f"the distribution of {steps}: {describe(first.distribution)}{members}",
        more=lambda c: units(model, c), steps=first.history + STEPS,
    )  # fmt: skip


def _scores(network: ManyToMany | ManyToOne, x: Tensor) -> Tensor:
    """Return the scores after every step of ``x (T, ...)``, ``(T, K)``."""
    x = x.long() if not x.is_floating_point() and _reads_tokens(network) else x
    if isinstance(network, ManyToMany):
        h, _ = network.hidden(_words(network, x)[None])
        scores: Tensor = network.output(h)[0]
        return scores
    rows = [network(_words(network, x[: t + 1])[None])[0][0] for t in range(len(x))]
    return torch.stack(rows)


def _steps(network: ManyToMany | ManyToOne) -> int:
    """Return the steps of a test in which convolutions have all they read, and go on."""
    convolutions = network.convolutions
    return STEPS + (convolutions.reach if isinstance(convolutions, Convolutions) else 0)


def _reads_tokens(network: ManyToMany | ManyToOne) -> bool:
    return isinstance(network.encode, nn.Embedding | WordEncoder)


class _Ids:
    """Numbers of words without letters, as a `WordEncoder` takes them."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.shape, self.device = ids.shape, ids.device

    def __getitem__(self, key: None) -> _Ids:
        return _Ids(self.ids[None])


def _words(network: ManyToMany | ManyToOne, x: Tensor) -> Any:
    return _Ids(x) if isinstance(network.encode, WordEncoder) else x


def _normal(
    size: int, mean: Any = 0.0, scale: Any = 1.0
) -> Callable[[np.random.Generator, int], NDArray[Any]]:
    """Return what draws inputs like those of training."""
    return lambda r, T: (mean + scale * r.normal(size=(T, size))).astype(np.float32)


def _numpy(t: Tensor) -> NDArray[Any]:
    return t.detach().cpu().numpy()


def _viterbi(output: CRFOutput) -> Callable[[Source], str]:
    """Return what adds the search for the best labels of a sequence."""

    def add(c: Source) -> str:
        K = len(output.first)
        first, follows = output.first + output.barred[-1], output.follows + output.barred[:-1]
        for name, values in (("first", first), ("follows", follows), ("last", output.last)):
            c.table(name, _numpy(values))
        kind = "uint8_t" if K <= 256 else "uint16_t"
        head = c.named(
            f"void @tags(const float *scores, int steps, int *tags, {kind} *from, float *total)"
        )
        c.functions.append(
            c.named(_VITERBI.replace("@HEAD", head).replace("@TYPE", kind).replace("@K", str(K)))
        )
        return (
            f"/* The best labels of a sequence of scores (steps x {K}), and room for steps x {K} "
            f"numbers and for {2 * K}. */\n{head};\n"
        )

    return add


_VITERBI = """\
@HEAD
{
    float *next = total + @K;
    if (steps < 1) return;
    for (int j = 0; j < @K; ++j) total[j] = @first[j] + scores[j];
    for (int t = 1; t < steps; ++t) {
        for (int j = 0; j < @K; ++j) {
            int best = 0;
            float most = total[0] + @follows[j];
            for (int i = 1; i < @K; ++i) {
                const float value = total[i] + @follows[i * @K + j];
                if (value > most) {
                    most = value;
                    best = i;
                }
            }
            from[t * @K + j] = (@TYPE)best;
            next[j] = most + scores[t * @K + j];
        }
        for (int j = 0; j < @K; ++j) total[j] = next[j];
    }
    tags[steps - 1] = 0;
    for (int j = 0; j < @K; ++j) {
        total[j] += @last[j];
        if (total[j] > total[tags[steps - 1]]) tags[steps - 1] = j;
    }
    for (int t = steps - 1; t > 0; --t) tags[t - 1] = from[t * @K + tags[t]];
}
"""


# From a program to files


@dataclass(frozen=True)
class Written:
    """The texts of a program, and its sizes in bytes and multiply-adds."""

    source: str
    header: str
    prefix: str
    flash: int
    ram: int
    stack: int
    products: int


_INPUT = {
    "vector": "const float *x",
    "token": "int x",
    "sound": "const int16_t *x, int count",
    "forecast": "float x",
}
_GIVEN = {"vector": "x", "token": "x", "sound": "x, count", "forecast": "x"}


@torch.no_grad()
def texts_of(program: Program, prefix: str, *, int8: bool, header: str) -> Written:
    """Return the C file and the header of a program."""
    c = Source(prefix, int8)
    returns = "int" if program.kind in ("sound", "forecast") else "void"
    known = ", const float *known" if program.kind == "forecast" and program.inputs > 1 else ""
    head = c.named(f"{returns} @step(@state *s, {_INPUT[program.kind]}{known}, float *y)")
    if program.kind == "sound":
        f = c.function(f"static int @advance(@state *s, {_INPUT['sound']}, float *y)")
    else:
        f = c.function(head)
    x = "x"
    for part in program.parts:
        x = part.emit(c, f, x)
    own = f.bytes
    prototypes = [head]
    if program.kind == "sound":
        f.add("return 1;")
        c.functions.append(f.text())
        c.functions.append(
            c.named(_SOUND_STEP.replace("@HEAD", head).replace("@HOP", str(program.inputs)))
        )
        prototypes.append(c.named("int @finish(@state *s, float *y)"))
        c.functions.append(_finish(program, c, prototypes[-1]))
    else:
        f.lines += ["return 1;"] * (returns == "int")
        c.functions.append(f.text())
    more = program.more(c) if program.more is not None else ""
    if program.labels:
        c.tables.append(strings(f"{prefix}_labels", program.labels))
        c.flash += sum(len(label) + 5 for label in program.labels)
        more = f"extern const char *const {prefix}_labels[{len(program.labels)}];\n{more}"
    reset = _reset(c)
    stack = own + c.stack
    about = _about(program, c, stack)
    macros = {"INPUTS": program.inputs, "OUTPUTS": program.outputs}
    guard = f"{prefix.upper()}_H"
    fields = "".join(f"    {kind} {name}[{size}];\n" for name, size, kind, _ in c.fields)
    states = f"void {prefix}_init({prefix}_state *s);\nvoid {prefix}_reset({prefix}_state *s);\n"
    top = (
        f"{about}#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
        '#ifdef __cplusplus\nextern "C" {\n#endif\n\n'
        + "".join(f"#define {prefix.upper()}_{n} {v}\n" for n, v in macros.items())
        + f"\ntypedef struct {{\n{fields}}} {prefix}_state;\n\n{states}"
        + "".join(f"{each};\n" for each in prototypes)
        + f"{more}\n#ifdef __cplusplus\n}}\n#endif\n#endif\n"
    )
    if int8 and "fma" in c.helpers:
        c.helpers.add("exact_fma")
        c.helpers.remove("fma")
    helpers = [c.named(helper.text) for name, helper in HELPERS.items() if name in c.helpers]
    body = "\n".join([*helpers, *c.tables, reset, *c.functions])
    text = (
        f'{about}#include <math.h>\n#include <stdint.h>\n#include "{header}"\n\n'
        f"{_STRICT if int8 else ''}{body}\n{_test(program, c)}"
    )
    return Written(text, top, prefix, c.flash, c.ram(), stack, c.products)


_STRICT = """\
/* Nothing may be fused but what says so, or last bits differ. */
#if defined __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined __GNUC__
#pragma GCC optimize ("fp-contract=off")
#endif

"""

_SOUND_STEP = """\
@HEAD
{
    return @advance(s, x, count < 0 ? 0 : count > @HOP ? @HOP : count, y);
}
"""


def _finish(program: Program, c: Source, head: str) -> str:
    """Return the function that ends a recording, with silence after it."""
    mel = program.parts[0]
    assert isinstance(mel, LogMel)
    hop, rest = mel.how.step, mel.how.fft // 2
    calls = [min(hop, rest - begin) for begin in range(0, rest, hop)]
    lines = [c.named(f"    if (@advance(s, 0, {n}, y)) found = 1;") for n in calls]
    return "\n".join([head, "{", "    int found = 0;", *lines, "    return found;", "}"]) + "\n"


def _reset(c: Source) -> str:
    """Return the functions that begin a sequence."""
    lines = [
        f"    for (int i = 0; i < {size}; ++i) s->{name}[i] = "
        f"{number(initial) if kind == 'float' else int(initial)};"
        for name, size, kind, initial in c.fields
    ]
    body = "\n".join(lines)
    return c.named(
        f"void @reset(@state *s)\n{{\n{body}\n}}\n\nvoid @init(@state *s)\n{{\n    @reset(s);\n}}\n"
    )


def _about(program: Program, c: Source, stack: int) -> str:
    """Return the comment at the top."""
    p, has_known = c.prefix, program.kind == "forecast" and program.inputs > 1
    call = {
        "vector": f"const float x[{program.inputs}]",
        "token": "int x",
        "sound": "const int16_t *x, int count",
        "forecast": "float x" + (f", const float known[{program.inputs - 1}]" * has_known),
    }[program.kind]
    ends = {
        "sound": "A step returns 1 where the samples complete a row and y is new, else 0.",
        "forecast": "A step returns 1 where y is new; 0 for the values before a season.",
    }.get(program.kind, "")
    given = _GIVEN[program.kind] + (", known" if has_known else "")
    matrices = "8 bits, with a scale for each row" if c.int8 else "float32"
    lines = [
        f"A recurrent network, exported by Ostinato. Matrices: {matrices}.",
        "",
        f"flash  {c.flash} bytes of constants, and the code (some kilobytes)",
        f"RAM    {c.ram()} bytes of state; {stack} bytes of stack at most, and return addresses",
        f"work   {c.products} multiply-adds a step, and the activations",
        "",
        f"    {p}_state s;",
        f"    {p}_init(&s);",
        f"    {p}_step(&s, {given}, y);  for every step",
        f"    {p}_reset(&s);  before another sequence",
        *(
            [f"    {p}_finish(&s, y);  at the end of a recording"]
            if program.kind == "sound"
            else []
        ),
        "",
        c.named(f"Input   {call}: {program.input_words}."),
        c.named(f"Output  float y[{program.outputs}]: {program.output_words}."),
        *([ends] if ends else []),
        "",
        "No memory is allocated; a state serves one thread. Needs C99, 32-bit int and math.h.",
        f"Test: cc -D{p.upper()}_TEST THIS_FILE -lm && ./a.out",
    ]
    return "/*\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"


_TEST = """\
#ifdef $TEST
#include <stdio.h>
{tables}
int main(void)
{{
    static @state s;
    static float y[{K}];
    double worst = 0.0;
    for (int turn = 0; turn < 2; ++turn) {{
        if (turn == 0) @init(&s);
        else @reset(&s);
        for (int t = 0; t < {T}; ++t) {{
            {step}
            for (int j = 0; j < {K}; ++j) {{
                const double error = fabs((double)y[j] - (double)@test_y[t * {K} + j]);
                if (!(error <= worst)) worst = error;
            }}
        }}
    }}
    printf("largest difference %g, allowed %g\\n", worst, {allowed});
    return worst <= {allowed} ? 0 : 1;
}}
#endif
"""


def _test(program: Program, of: Source) -> str:
    """Return the test in the file: inputs, expected outputs, and a main function."""
    c, int8 = Source(of.prefix), of.int8
    inputs = program.draw(np.random.default_rng(0), program.steps)
    expected = (program.quantized_reference if int8 else program.reference)(inputs)
    there = np.isfinite(expected).all(1)
    late = program.kind in ("sound", "forecast")
    if not there.any() or (not late and not there.all()):
        raise OstinatoError("export: the network's outputs are not finite.")
    kinds = {"token": "int", "sound": "int16_t"}
    c.table("test_x", inputs, kinds.get(program.kind, "float"), missing=True)
    c.table("test_y", np.where(there[:, None], expected, 0.0))
    n, K = program.inputs, program.outputs
    known = f", @test_x + t * {n} + 1" if n > 1 else ""
    step = {
        "vector": f"@step(&s, @test_x + t * {n}, y);",
        "token": "@step(&s, @test_x[t], y);",
        "sound": f"if (!@step(&s, @test_x + t * {n}, {n}, y)) continue;",
        "forecast": f"if (!@step(&s, @test_x[t * {n}]{known}, y)) continue;",
    }[program.kind]
    # The number of a sound's rows shows in what they hold: a row too early or late differs.
    scale = max(1.0, float(np.abs(expected[there]).max()))
    allowed = (0.0 if of.exact else ROUNDED) if int8 else TOLERANCE
    allowed *= scale
    return c.named(
        _TEST.format(T=len(inputs), K=K, step=step, allowed=repr(allowed), tables="%TABLES%")
    ).replace("%TABLES%", "".join(c.tables))


def check(written: Written, source: str, header: str) -> str:
    """Compile and run the test of a program; return what it says, or nothing without a compiler.

    Raises an `OstinatoError` if a number differs.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return ""
    with tempfile.TemporaryDirectory(prefix="ostinato-") as folder:
        at = Path(folder)
        (at / source).write_text(written.source, encoding="utf-8")
        (at / header).write_text(written.header, encoding="utf-8")
        build = [compiler, "-std=c99", "-O1", f"-D{written.prefix.upper()}_TEST"]
        made = subprocess.run(
            [*build, f"./{source}", "-o", "test", "-lm"], cwd=at, capture_output=True, text=True
        )
        if made.returncode:
            raise OstinatoError(f"export: {compiler} does not compile the file: {made.stderr:.300}")
        ran = subprocess.run([at / "test"], capture_output=True, text=True)
    if ran.returncode:
        raise OstinatoError(
            f"export: the C code and the network differ ({ran.stdout.strip()}); nothing is written."
        )
    return f"compiled by {Path(compiler).name} and compared: {ran.stdout.strip()}"
