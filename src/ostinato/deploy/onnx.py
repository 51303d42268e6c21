"""A trained network as ONNX files, with its state as inputs and outputs.

What is written has been run by ONNX Runtime and compared with the network; beside the files lies a
JSON document that says how to feed them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.data.inputs import Inputs
from ostinato.deploy import forecasting  # noqa: F401 adds the form of forecasters
from ostinato.deploy.base import Exported, Precision
from ostinato.deploy.beside import rocket_beside, words_beside
from ostinato.deploy.features import spectrogram_piece
from ostinato.deploy.graph import OPSET, Graph, quantize
from ostinato.deploy.pieces import (
    LOG_P,
    SCORES,
    Feeds,
    Head,
    Piece,
    Port,
    likelihoods,
    pieces,
)
from ostinato.deploy.verify import check, difference, expected, session, trials
from ostinato.errors import OstinatoError, require
from ostinato.files import atomic_file
from ostinato.networks.outputs import CRFOutput
from ostinato.networks.transducer import Transducer
from ostinato.tasks.captioning import Captioner
from ostinato.tasks.classification import SequenceClassifier
from ostinato.tasks.forecasting.forecaster import Forecaster
from ostinato.tasks.generation import TextGenerator
from ostinato.tasks.linear import LinearClassifier
from ostinato.tasks.minirocket import MiniRocket
from ostinato.tasks.music import MusicModel
from ostinato.tasks.regression import SequenceRegressor
from ostinato.tasks.tagging import SequenceTagger
from ostinato.tasks.transcription import Transcriber
from ostinato.tasks.writing import WritingEstimator
from ostinato.training.storage import to_json

TOLERANCES = {"float16": 0.01, "int8": 0.25}
"""How far rounded weights may move an output on random inputs, as a share of its scale."""

LARGEST_METADATA = 1 << 20
"""Bytes of the JSON document, up to which it is in the ONNX file as well."""

N = TypeVar("N", bound=nn.Module)


@dataclass
class Plan:
    """How a model is exported.

    Attributes:
        network: what is exported.
        heads: what is made of its scores.
        options: of `pieces`.
        facts: for the JSON document.
        more: makes further pieces, of the module onnx.
    """

    network: nn.Module
    heads: tuple[Head, ...] = ()
    options: dict[str, bool] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    more: Callable[[Any], list[Piece]] = lambda onnx: []


def write_onnx(model: Any, path: Path, precision: Precision = "float32") -> Exported:
    """Write a model as ONNX files, once ONNX Runtime has shown that they compute the same.

    Args:
        model: a fitted estimator; or a network or recurrent layers of Ostinato.
        path: file to write. What takes several graphs, such as an encoder and a decoder, becomes
            several files, with the name of each graph before the suffix; JSON is beside them.
        precision: how weights are stored. They are used as float32: it is the file that shrinks.

    Raises:
        OstinatoError: a part has no ONNX form, or computes something else there.
        MissingExtra: ``ostinato[onnx]`` is not installed.
    """
    onnx = require("onnx", "onnx", "export to ONNX")
    runtime = require("onnxruntime", "onnx", "export to ONNX")
    plan = plan_of(model)
    exact = copy.deepcopy(plan.network).cpu().float().eval()
    rounded = exact if precision == "float32" else with_rounded_weights(exact, precision)
    found = pieces(rounded, lambda: Graph(onnx, precision), *plan.heads, **plan.options)
    more, document = plan.more(onnx), {"format": 1, "precision": precision, **plan.facts}
    names = [path.with_suffix(f".{p.name}.onnx") if p.name else path for p in [*found, *more]]
    document["files"] = {
        name.name: described(p) for name, p in zip(names, [*found, *more], strict=True)
    }
    text = to_json(document)
    facts = {"task": str(document.get("task", type(model).__name__))}
    if len(text) <= LARGEST_METADATA:
        facts["ostinato"] = json.dumps(document)
    files, worst, loss = {}, 0.0, 0.0
    for name, piece in zip(names, [*found, *more], strict=True):
        data = piece.graph.model(piece.name or "network", facts).SerializeToString()
        worst = max(worst, check(piece, session(runtime, data)))
        files[name] = data
    if precision != "float32":
        whole = pieces(exact, lambda: Graph(onnx, "float32"), *plan.heads, **plan.options)
        loss = max(loss_of(a, b) for a, b in zip(whole, found, strict=True))
        if loss > TOLERANCES[precision]:
            raise OstinatoError(
                f"export: precision={precision!r} changes an output by {loss:.2g} of its scale, "
                f"more than {TOLERANCES[precision]:g}: choose float32. Nothing is written."
            )
    files[path.with_name(f"{path.name}.json")] = text
    with ExitStack() as stack:
        for name, data in files.items():
            stack.enter_context(atomic_file(name)).write(data)
    return Exported([*files], *_report(files, document, worst, loss, precision))


def _report(
    files: dict[Path, bytes],
    document: dict[str, Any],
    worst: float,
    loss: float,
    precision: Precision,
) -> tuple[str, dict[str, Any]]:
    lines = []
    for name, data in files.items():
        about = document["files"].get(name.name, {"about": "how to feed it, and what it knows"})
        lines.append(f"{name}  {len(data):,} bytes: {about['about']}")
    lines.append(
        f"ONNX Runtime computes the same; the largest difference is {worst:.1e} of a scale"
    )
    if loss:
        lines.append(f"weights in {precision} move outputs by up to {loss:.1e} of their scale")
    return "\n".join(lines), {"largest_difference": worst, "rounding": loss, "opset": OPSET}


def described(piece: Piece) -> dict[str, Any]:
    """Return what a piece takes and gives, as JSON."""

    def ports(several: list[Port]) -> list[dict[str, Any]]:
        return [
            {
                "name": port.name, "shape": [*port.shape], "type": np.dtype(port.dtype).name,
                "about": port.about,
            }
            for port in several
        ]  # fmt: skip

    return {
        "about": piece.about,
        "inputs": ports(piece.inputs),
        "outputs": ports(piece.outputs),
        "carried": piece.carried,
    }


def with_rounded_weights(network: N, precision: Precision) -> N:
    """Return a copy whose matrices are rounded to what is stored."""
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        for weight in rounded.parameters():
            if weight.dim() < 2:
                continue
            if precision == "float16":
                weight.copy_(weight.half().float())
                continue
            whole, scale = quantize(weight.numpy())
            weight.copy_(torch.from_numpy(whole * scale.reshape(-1, *[1] * (weight.dim() - 1))))
    return rounded


def loss_of(exact: Piece, rounded: Piece) -> float:
    """Return the largest difference that rounding makes, as a share of an output's scale."""
    return max(difference(expected(rounded, f), expected(exact, f))[0] for f in trials(exact))


# Tasks


def plan_of(model: Any) -> Plan:
    """Return how a model is exported; an `OstinatoError` names what cannot be."""
    if not isinstance(getattr(model, "network_", model), nn.Module):
        raise OstinatoError(
            f"export: model is {model!r:.99}; expected a fitted estimator, or a network or layers "
            "of Ostinato."
        )
    if isinstance(model, nn.Module):
        return Plan(model)
    network, task = model.network_, {"task": type(model).__name__}
    match model:
        case SequenceClassifier():
            head = _classes(model)
            facts: dict[str, Any] = {"classes": model.classes_.tolist()}
            linear = model.linear_
            if isinstance(linear, LinearClassifier) and "blend" in model.training_:
                facts["linear"] = {"texts": linear.texts, "terms": linear.terms, "how": LINEAR}
            plan = Plan(network, (head, SCORES), {}, facts)
        case SequenceRegressor():
            plan = Plan(network, (_numbers(model),))
        case SequenceTagger():
            joint = isinstance(network.output, CRFOutput)
            shares = () if joint else (likelihoods(network.output),)
            emissions = SCORES._replace(name="emissions")
            plan = Plan(network, (emissions, *shares), {}, _labels(model))
        case TextGenerator():
            facts = {"vocabulary": model.vocabulary_.to_json(), "how": TOKENS}
            return Plan(network, (LOG_P,), {"lengths": False}, task | facts)
        case MusicModel():
            head = likelihoods(network.output)
            facts = {"how": MUSIC, "steps_per_beat": model.steps_per_beat}
            return Plan(network, (head,), {"lengths": False}, task | facts)
        case Transcriber():
            if isinstance(network, Transducer):
                raise OstinatoError(
                    "export: an RNN transducer has no ONNX form; train with criterion='ctc' "
                    "(--criterion ctc)."
                )
            vocabulary = {"vocabulary": model.vocabulary_.to_json(), "decode": BLANKS}
            plan = Plan(network, (LOG_P,), {}, vocabulary)
        case Captioner():
            facts = {"vocabulary": model.vocabulary_.to_json(), "decode": DECODING}
            plan = Plan(network, (), {}, facts)
        case WritingEstimator():
            both = model.vocabulary_.to_json(), model.source_vocabulary_.to_json()
            facts = {"vocabulary": both[0], "how": TOKENS, "decode": DECODING}
            facts |= {} if model.shared else {"source_vocabulary": both[1]}
            return Plan(network, (), {}, task | facts | {"longest": model.longest})
        case Forecaster():
            return Plan(network, (), {}, task | _series(model))
        case _:
            raise OstinatoError(f"export: a {type(model).__name__} has no ONNX form yet.")
    inputs = model.inputs_
    assert isinstance(inputs, Inputs)
    plan.facts = task | {"inputs": inputs.to_json(), "how": HOW[inputs.kind]} | plan.facts
    if inputs.spectrogram is not None:
        sound = inputs.spectrogram
        plan.more = lambda onnx: [spectrogram_piece(onnx, sound)]
        plan.facts["how"] += f" It works on {sound.rate} samples a second."
        if sound.causal:
            plan.facts["how"] += CAUSAL.format(fft=sound.fft, half=sound.fft // 2, step=sound.step)
    return plan


def _classes(model: SequenceClassifier) -> Head:
    """Return calibrated probabilities, blended with those of the classifier beside the network."""
    linear, output = model.linear_, model.network_.output
    facts, beside = model.training_, None
    if linear is None or "blend" not in facts:
        weight = 1 / facts.get("temperature", 1.0)
    else:
        weight = facts["blend"]["network"]
        if isinstance(linear, MiniRocket):
            beside = rocket_beside(linear, model.inputs_)
        else:
            beside = words_beside(linear)
    op = "Sigmoid" if output.kind == "probability" else "Softmax"

    def add(piece: Piece, y: str) -> str:
        g = piece.graph
        y = g.add("Mul", y, g.constant(weight))
        return g.add(op, y if beside is None else g.add("Add", y, beside.add(piece)))

    def run(y: Tensor, feeds: Feeds) -> Tensor:
        y = y.double() * weight
        return output.predict(y if beside is None else y + beside.run(feeds)).float()

    return Head("probabilities", "calibrated probability of each class, in their order", add, run)


def _numbers(model: SequenceRegressor) -> Head:
    """Return numbers in the scale of the data."""
    mean, scale = model.targets_.mean, model.targets_.scale
    return Head(
        "numbers",
        "predicted numbers",
        lambda piece, y: piece.graph.add(
            "Add",
            piece.graph.add("Mul", y, piece.graph.constant(scale)),
            piece.graph.constant(mean),
        ),
        lambda y, feeds: (y.double() * torch.from_numpy(scale) + torch.from_numpy(mean)).float(),
    )


def _labels(model: SequenceTagger) -> dict[str, Any]:
    """Return the labels, and the parameters of a CRF."""
    facts: dict[str, Any] = {"labels": model.classes_.tolist()}
    output = model.network_.output
    if isinstance(output, CRFOutput):
        names = ("first", "follows", "last", "barred")
        facts["crf"] = {n: getattr(output, n).detach().cpu().tolist() for n in names}
        facts["decode"] = CRF
    return facts


def _series(model: Forecaster) -> dict[str, Any]:
    """Return what is needed to feed a forecaster, and to read what it gives."""
    first = next(iter(model.network_))
    names = ("context", "horizon", "season", "long_season")
    return {
        "how": SERIES[model.method],
        "distribution": model.output,
        "parameters": PARAMETERS[model.output],
        "seasons": [*first.seasons],
        "history": first.history,
        "reach": first.reach,
        "covariates": model.inputs_.encoding.to_json(),
        "columns": model.panel_.columns._asdict(),
        "calendar": model.calendar,
        "settings": {name: model.resolved(name) for name in names},
        "blend": model.training_.get("blend"),
        "calibration": model.training_.get("calibration"),
    }


FEATURES = (
    "features of a step hold: 1 if the value before it is missing; 1 if the series had begun "
    "before it; for each of seasons, 1 if it had begun so many steps before; the future covariates "
    "of the step, first those of the calendar, less their mean and divided by their scale, which "
    "covariates.future holds; and, if there are past covariates, those of the step before, scaled "
    "likewise, and 1 if its value was observed. location and scale are of the last context values: "
    "the median of the last season, or of 4 values, and the mean distance from it, no distance "
    "counting for more than ten times the median one. What is forecast after this graph, blend "
    "and calibration with it, is in the document and not in the graph."
)
SERIES = {
    "autoregressive": (
        "values hold the latest values, the last of them that before the last step; each step is "
        "read and the distribution of its own value predicted. A missing value is replaced by the "
        "center that was predicted for it. What a call gives as next_h is h of the next, with all "
        "that follows; location and scale stay. "
    )
    + FEATURES,
    "direct": (
        "values hold history + context values; all are read, and the distributions of all steps "
        "ahead predicted. Missing values are to be filled. "
    )
    + FEATURES,
}
"""How a forecaster is fed."""
_SPREAD = "scale s, where s^2 = (log(1 + e^p[1]) + 1e-4)^2 + (resolution / 8 / scale)^2"
PARAMETERS = {
    "gaussian": f"mean location + scale p[0]; deviation {_SPREAD}",
    "student": (
        f"Student's t at location + scale p[0], its unit {_SPREAD}; degrees of freedom 2 + "
        "log(1 + e^p[2]) + 1e-4"
    ),
    "negative-binomial": (
        "mean scale (log(1 + e^p[0]) + 1e-4); variance mean + mean^2 / (log(1 + e^p[1]) + 1e-4)"
    ),
    "quantiles": (
        "location + scale q, of q = p[0] at level 0.5; below it, at 0.4, 0.3, 0.2, 0.1, 0.05, "
        "0.02, each less by (log(1 + e^p[k]) + 1e-4) / 4 of k = 1 to 6; above it, at 0.6, "
        "0.7, 0.8, 0.9, 0.95, 0.98, each more by that of k = 7 to 12"
    ),
}
"""What the outputs of a distribution stand for."""
LINEAR = (
    "terms holds, for each text, the numbers of those of its terms that are in linear.terms: first "
    "all of phrases, then all of pieces, in their order, from 0; behind the last any number with "
    "value 0. phrases are words and pairs of words with a blank between; pieces are 3 to 5 "
    "characters of a word between < and >. Words are as in inputs.lexicon, unknown ones as they "
    "are, in lower case if inputs.lexicon.lowercase. A value is (1 + ln n) (1 + ln((1 + texts) / "
    "(1 + count))), of n times in the text and the term's count; those of phrases and those of "
    "pieces are each divided by the root of the sum of their squares."
)
TOKENS = (
    "Tokens are numbered as in vocabulary. States are zeros at first; what a call gives as next_h "
    "is h of the next."
)
MUSIC = (
    "x holds, of each step, 1 for each of 88 keys (MIDI notes 21 to 108) that sounded in the step "
    "before, silence at first; probabilities are of the keys of this step. What a call gives as "
    "next_h is h of the next."
)
BLANKS = (
    "The likeliest token of each step, one for a run of equal ones, and blanks, the last number, "
    "left out, make the text. What a call gives as next_h is h of the next, where there is one."
)
DECODING = (
    "Run the encoder once. Then run the decoder, with all that the encoder gave and the token "
    "before, until the end is likeliest; what a call gives as next_h is h of the next call."
)
CRF = (
    "The score of labels is the sum of emissions, of first[label] at the first step, of "
    "follows[label before][label] + barred[label before][label] at the others, where the last row "
    "of barred is of the first label, and of last[label] at the last step; Viterbi's algorithm "
    "finds the best."
)
CAUSAL = (
    " To follow a stream, put {half} zeros before the first sample and give {fft} samples or more; "
    "of n rows that come out, the next call begins {step} n samples later."
)
HOW = {
    "series": "x holds the variables of each step as they were measured; scaling is inside.",
    "image": "x holds pixels from 0 to 255, as inputs.form says; scaling is inside.",
    "sound": "The graph features makes x of samples, and x_lengths, which is lengths.",
    "text": "A text is cut into words and marks; see words.",
    "words": (
        "words holds the number of each word, its place in inputs.lexicon.words from 1, 0 if it is "
        "not there (looked up in lower case if inputs.lexicon.lowercase). spelled holds the row of "
        "each word in characters, sizes and affixes, which have a row for each distinct word: the "
        "places of its characters in inputs.lexicon.characters from 1 (of more than 24 the first "
        "and last 12), how many they are, and the places in inputs.lexicon.affixes from 1, 0 if "
        "not there, of prefix and suffix of 1, 2, 3, 4 letters in lower case, such as a- and -a, "
        "then of its shape: X, x, d for upper case, lower case, digits, without repeats after ~, "
        "and with at most four after =."
    ),
}
"""How inputs of each kind are fed."""
HOW["text"] = "A text is cut into words and punctuation marks, without white space. " + HOW["words"]
