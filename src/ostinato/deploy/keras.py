"""Networks from Keras's files, read without Keras: ``.keras`` of version 3, and ``.h5``."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.deploy.graph import Array
from ostinato.deploy.imported import ACTIVATIONS, Dense, Imported, Layer, loaded, stack_of
from ostinato.deploy.weights import damage
from ostinato.errors import DataError, require
from ostinato.recurrence.cells import Cell, GRUCell, LSTMCell, RNNCell

LARGEST_CONFIG = 1 << 24
"""Bytes of the JSON of a network, at most."""

MAX_LAYERS = 1000
"""Layers of a network, at most."""

LEFT_OUT = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise",
    "InputLayer", "SpatialDropout1D",
}  # fmt: skip
"""Layers that do nothing outside training."""

LAYERS = (
    *("LSTM", "GRU", "SimpleRNN", "Bidirectional", "Embedding", "Dense", "TimeDistributed"),
    "Activation",
)
"""Layers that are read."""

_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_RNN_ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "linear": "identity"}


class Embedding(nn.Embedding):
    """Vectors of whole numbers, which may come as floating-point ones."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., width)``."""
        return super().forward(x.long())


class Activation(nn.Module):
    """An activation by its name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return ACTIVATIONS[self.name](x)


def read_keras(path: Path) -> Imported:
    """Read a file of Keras: a chain of layers, each mapped to ours or refused by name."""
    h5py = require("h5py", "keras", "reading files of Keras")
    with damage(path, "a file of Keras"):
        if zipfile.is_zipfile(path):
            config, weights = _unzipped(path)
            if path.suffix.lower() != ".keras":
                raise DataError("is a zip file; expected the suffix .keras.", path=path)
            with h5py.File(io.BytesIO(weights), "r") as file:
                return _network(config, _Zipped(h5py, file, len(weights), path), path)
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            if text is None:
                return _weights_alone(_Stored(h5py, file, path.stat().st_size, path))
            if not isinstance(text, str | bytes) or len(text) > LARGEST_CONFIG:
                raise DataError("its model_config is no text, or too long.", path=path)
            stored = _Legacy(h5py, file, path.stat().st_size, path)
            return _network(json.loads(text), stored, path)


def _unzipped(path: Path) -> tuple[Any, bytes]:
    """Return config and weights of a ``.keras`` file, neither much larger than the file."""
    with zipfile.ZipFile(path) as file:
        most = {"config.json": LARGEST_CONFIG, "model.weights.h5": 8 * path.stat().st_size + 65536}
        found = {}
        for name, limit in most.items():
            if file.getinfo(name).file_size > limit:
                raise DataError(f"{name} is packed to less than an eighth.", path=path)
            with file.open(name) as part:
                found[name] = part.read(limit + 1)
            if len(found[name]) > limit:
                raise DataError(f"{name} is larger than it says.", path=path)
    return json.loads(found["config.json"]), found["model.weights.h5"]


class _Stored:
    """Weights in an HDF5 file; nothing outside it is followed, and nothing larger is read."""

    def __init__(self, h5py: Any, file: Any, size: int, path: Path) -> None:
        self.h5py, self.file, self.size, self.path = h5py, file, size, path

    def group(self, *names: str) -> Any:
        """Return a group or dataset below the root; None if there is none."""
        at = self.file
        for name in [part for each in names for part in each.split("/") if part]:
            if not isinstance(at, self.h5py.Group) or name not in at:
                return None
            if not isinstance(at.get(name, getlink=True), self.h5py.HardLink):
                raise DataError(f"{name:.80} is a link; expected data.", path=self.path)
            at = at[name]
        return at

    def array(self, data: Any, name: str) -> Array:
        """Return a dataset, once its size is known to be what the file has."""
        if not isinstance(data, self.h5py.Dataset) or data.dtype.kind != "f":
            raise DataError(f"{name:.80} holds no numbers.", path=self.path)
        if data.external or data.is_virtual or data.compression is not None:
            raise DataError(f"{name:.80} is packed, or in another file.", path=self.path)
        if data.nbytes > self.size:
            raise DataError(f"{name:.80} is larger than the file.", path=self.path)
        return np.asarray(data[()], np.float32)

    def weights(self, k: int, kind: str, name: str, inner: str) -> list[Array]:
        """Return the weights of layer ``k`` in their order; ``inner`` is of a wrapped layer."""
        raise NotImplementedError

    def listed(self, at: str) -> list[str]:
        """Return the names of a layer's weights, as files before version 3 list them."""
        group = self.group(at)
        names = [] if group is None else list(group.attrs.get("weight_names", []))[:64]
        return [n.decode() if isinstance(n, bytes) else str(n) for n in names]


class _Zipped(_Stored):
    """Version 3: ``layers/<class>_<n>/<inner>/cell/vars/0``."""

    def __init__(self, h5py: Any, file: Any, size: int, path: Path) -> None:
        super().__init__(h5py, file, size, path)
        self._seen: Counter[str] = Counter()
        self._places: dict[int, str] = {}

    def place(self, k: int, kind: str) -> str:
        """Return the name of a layer: its class in snake case, and a number if it is not alone."""
        if k not in self._places:
            snake = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)
            snake = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", snake).lower()
            n = self._seen[snake]
            self._seen[snake] += 1
            self._places[k] = f"{snake}_{n}" if n else snake
        return self._places[k]

    def weights(self, k: int, kind: str, name: str, inner: str) -> list[Array]:
        at = f"layers/{self.place(k, kind)}/{inner}"
        for last in ("cell/vars", "vars"):
            found = self.group(at, last)
            if isinstance(found, self.h5py.Group) and len(found) <= 8:
                names = [f"{at}/{last}/{i}" for i in range(len(found))]
                return [self.array(self.group(each), each) for each in names]
        raise DataError(f"{name:.80}: no weights at {at:.80}.", path=self.path)


class _Legacy(_Stored):
    """Versions before: ``model_weights/<layer>`` lists its weights."""

    def place(self, k: int, kind: str) -> str:
        """Return nothing: layers are known by their names."""
        return ""

    def weights(self, k: int, kind: str, name: str, inner: str) -> list[Array]:
        names = self.listed(f"model_weights/{name}")
        side = {"forward_layer": 0, "backward_layer": 1}.get(inner)
        if side is not None:
            half = len(names) // 2
            names = names[half * side : half * (side + 1)]
        found = [self.array(self.group("model_weights", name, each), each) for each in names]
        if not found:
            raise DataError(f"{name:.80}: no weights at model_weights.", path=self.path)
        return found


def _weights_alone(stored: _Stored) -> Imported:
    """Return the layers of ``save_weights``, which tells neither options nor their order.

    Cells follow from the shapes; a GRU with two biases is one with ``reset_after``.
    """
    found = Imported(nn.Module())
    dense: list[Dense] = []
    rest = []

    def refuse(why: str) -> DataError:
        return DataError(f"{why}.", path=stored.path)

    for name, sides in _layers_alone(stored):
        kinds = [_kind_alone(arrays) for arrays in sides]
        if kinds[0] in _GATES and {*kinds} == {kinds[0]} and len(sides) <= 2:
            if kinds[0] == "GRU" and len(sides[0]) == 2:
                raise refuse(f"GRU {name:.80} has no bias, which would tell its reset_after")
            if sides[0][-1].shape == (2 * sides[0][0].shape[1],):
                raise refuse(f"CuDNN{kinds[0]} {name:.80} has weights in a layout that is not read")
            options = {"use_bias": len(sides[0]) == 3, "reset_after": sides[0][-1].ndim == 2}
            cells = [_cell(kinds[0], name, options, arrays, refuse) for arrays in sides]
            if cells[0][0] != cells[-1][0]:
                raise refuse(f"{name:.80} has directions that differ: {[c for c, _ in cells]}")
            stack = stack_of([cells[0][0]], len(sides) == 2)
            found.layers.append(loaded(stack, [[weights for _, weights in cells]]))
            layer: nn.Module = stack
        elif kinds == ["Dense"]:
            dense.append(_dense(sides[0], {}, f"Dense {name}"[:80], refuse))
            layer = dense[-1]
        else:
            rest.append(name)
            continue
        found.module.add_module(name.replace(".", "_").replace("/", "_"), layer)
    if not found.layers:
        raise refuse("holds no weights of an LSTM, a GRU or a SimpleRNN")
    if len(dense) == 1 and dense[0].in_features == found.layers[-1].output_size:
        found.output = dense[0]
    if len(found.layers) > 1:
        found.obstacles.append("there are several recurrent layers, in an order that is not told")
    if len(dense) > 1:
        rest.append("more than one Dense")
    if rest:
        found.obstacles.append(f"there are weights of other layers: {', '.join(rest):.99}")
    note = "the file holds weights alone: activations are taken for tanh and sigmoid"
    version = stored.file.attrs.get("keras_version", "")
    version = version.decode() if isinstance(version, bytes) else str(version)
    if re.match(r"(1|2\.[0-2])\.[\d.]*$", version):
        note += f"; Keras {version[:20]} took hard_sigmoid where nothing was said"
    found.notes.append(note)
    return found


def _layers_alone(stored: _Stored) -> Iterator[tuple[str, list[list[Array]]]]:
    """Yield each layer's name, and the weights of each of its directions."""
    names = stored.file.attrs.get("layer_names")
    if names is not None:  # before version 3
        for each in list(names)[:MAX_LAYERS]:
            name = each.decode() if isinstance(each, bytes) else str(each)
            listed = stored.listed(name)
            sides: dict[bool, list[Array]] = {}
            for part in listed:
                array = stored.array(stored.group(name, part), part)
                sides.setdefault("/backward" in part, []).append(array)
            if sides:
                yield name, [sides[side] for side in sorted(sides)]
        return
    root = stored.group("layers")
    if not isinstance(root, stored.h5py.Group):
        raise DataError("holds neither a model_config nor weights of layers.", path=stored.path)
    for name in sorted(root)[:MAX_LAYERS]:
        found = []
        for inner in ("", "forward_layer/", "backward_layer/"):
            for last in ("cell/vars", "vars"):
                at = f"layers/{name}/{inner}{last}"
                group = stored.group(at)
                if isinstance(group, stored.h5py.Group) and 0 < len(group) <= 8:
                    parts = [f"{at}/{i}" for i in range(len(group))]
                    found.append([stored.array(stored.group(part), part) for part in parts])
        if found:
            yield name, found


def _kind_alone(arrays: Sequence[Array]) -> str:
    """Return what layer has weights of these shapes; nothing if none that is known."""
    if len(arrays) == 2 and (arrays[0].ndim, arrays[1].ndim) == (2, 1):
        return "Dense"
    if len(arrays) in (2, 3) and arrays[0].ndim == arrays[1].ndim == 2 and arrays[1].shape[0]:
        gates = arrays[1].shape[1] / arrays[1].shape[0]
        return next((kind for kind, n in _GATES.items() if n == gates), "")
    return ""


def _network(config: Any, stored: _Zipped | _Legacy, path: Path) -> Imported:
    """Return the layers of a model, one after the other."""

    def refuse(why: str) -> DataError:
        return DataError(f"{why}.", path=path)

    kind = config.get("class_name") if isinstance(config, dict) else None
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else inside  # a list, long ago
    if kind not in ("Sequential", "Functional", "Model") or not isinstance(layers, list):
        raise refuse(f"holds a {kind!r:.40}; expected a Sequential or Functional model")
    if len(layers) > MAX_LAYERS:
        raise refuse(f"has {len(layers):,} layers; expected {MAX_LAYERS:,} at most")
    if kind != "Sequential":
        _check_chain(layers, refuse)
    found, parts, steps = Imported(nn.Module()), cast(list[nn.Module], []), True
    dense: list[Dense] = []
    for k, layer in enumerate(layers):
        kind, options = layer["class_name"], layer["config"]
        name = str(options.get("name", kind))
        stored.place(k, kind)
        what = f"{kind} {name}"[:80]
        if kind in LEFT_OUT:
            if kind != "InputLayer":
                found.notes.append(f"{what} is left out: it acts in training alone")
            continue
        inner, wrapped = "", kind
        if kind == "TimeDistributed":
            wrapped, options = options["layer"]["class_name"], options["layer"]["config"]
            inner = "layer"
            if wrapped != "Dense":
                raise refuse(f"{what} holds a {wrapped!r:.40}; expected Dense")
        if kind in ("LSTM", "GRU", "SimpleRNN", "Bidirectional"):
            part = _recurrent(k, kind, name, options, stored, refuse)
            found.layers.append(part.stack)
            steps = part.steps == "all"
            if part.reverse:
                found.obstacles.append(f"{what} reads in reverse alone")
            if part.merge != "concat":
                found.obstacles.append(f"{what} has merge_mode={part.merge!r}")
            rates = [options.get(n, 0) for n in ("dropout", "recurrent_dropout")]
            if any(rates):
                found.notes.append(f"dropout of {what} is left out: it acts in training alone")
            parts.append(part)
        elif kind == "Embedding":
            if options.get("mask_zero"):
                raise refuse(f"{what} has mask_zero=True, which is not read; give lengths instead")
            (table,) = stored.weights(k, kind, name, "")
            parts.append(Embedding(table.shape[0], table.shape[1]))
            with torch.no_grad():
                cast(Embedding, parts[-1]).weight.copy_(torch.from_numpy(table))
            found.obstacles.append("there is an Embedding, whose words the file does not tell")
        elif wrapped == "Dense":
            dense.append(_dense(stored.weights(k, kind, name, inner), options, what, refuse))
            parts.append(dense[-1])
        elif kind == "Activation":
            parts.append(Activation(_activation(options, what, refuse)))
        else:
            raise refuse(f"{what} has no layer of ours; expected {', '.join(LAYERS)}")
    if not found.layers:
        raise refuse("has no recurrent layer")
    found.by_step = steps
    head = parts[len(found.layers) :]  # where the recurrent layers come first
    if [type(part) for part in head] in ([Dense], [Dense, Activation]):
        names = [*{part.activation for part in head if isinstance(part, Dense)}]
        names += [part.name for part in head if isinstance(part, Activation)]
        shown = [name for name in names if name != "linear"] or ["linear"]
        found.output, found.activation = dense[0], shown[0]
        if len(shown) > 1 or shown[0] not in ("linear", "softmax", "sigmoid"):
            found.obstacles.append(f"its output has activation={', '.join(shown)}")
    else:
        found.obstacles.append("there is more than recurrent layers and one Dense after them")
    found.module = nn.Sequential(*parts).eval()
    return found


def _check_chain(layers: Sequence[Any], refuse: Any) -> None:
    """Refuse a graph in which layers do not follow each other one by one."""

    def sources(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            history = node.get("keras_history")
            if history:
                yield str(history[0])
                return
            node = list(node.values())
        if isinstance(node, list):
            if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
                yield node[0]
                return
            for each in node:
                yield from sources(each)

    for before, layer in zip([None, *layers[:-1]], layers, strict=True):
        found = list(sources(layer.get("inbound_nodes", [])))
        expected = [] if before is None else [before["config"].get("name", before.get("name"))]
        if found != expected:
            name = layer["config"].get("name")
            raise refuse(f"{name!r:.80} follows {found!r:.80}; expected a chain of layers")


def _activation(options: Mapping[str, Any], what: str, refuse: Any) -> str:
    name = options.get("activation", "linear")
    name = name.get("config", name) if isinstance(name, dict) else name
    name = "linear" if name is None else name
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise refuse(
            f"{what} has activation={name!r:.40}; expected one of {', '.join(ACTIVATIONS)}"
        )
    return name


def _dense(weights: Sequence[Array], options: Mapping[str, Any], what: str, refuse: Any) -> Dense:
    kernel = weights[0]
    bias = weights[1] if len(weights) > 1 else np.zeros(kernel.shape[-1:])
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or len(weights) > 2:
        raise refuse(f"{what} has weights {[w.shape for w in weights]}; expected (I, K) and (K,)")
    layer = Dense(kernel.shape[0], kernel.shape[1], _activation(options, what, refuse))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.T)))
        layer.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    return layer


def _recurrent(
    k: int, kind: str, name: str, options: Mapping[str, Any], stored: _Zipped | _Legacy, refuse: Any
) -> Layer:
    """Return an LSTM, GRU or SimpleRNN, or two of them in a Bidirectional."""
    if kind != "Bidirectional":
        cell, weights = _cell(kind, name, options, stored.weights(k, kind, name, ""), refuse)
        stack = loaded(stack_of([cell], False), [[weights]])
        steps = "all" if options.get("return_sequences") else "last"
        return Layer(stack, cast(Any, steps), bool(options.get("go_backwards")))
    merge = options.get("merge_mode", "concat")
    if merge not in ("concat", "sum", "mul", "ave"):
        raise refuse(f"Bidirectional {name} has merge_mode={merge!r:.40}; expected concat")
    forward = options["layer"]
    backward = options.get("backward_layer") or forward
    both = []
    for layer, side in ((forward, "forward_layer"), (backward, "backward_layer")):
        arrays = stored.weights(k, kind, name, side)
        both.append(_cell(layer["class_name"], name, layer["config"], arrays, refuse))
    (cell, first), (other, second) = both
    names = ("return_sequences",)
    if other != cell or any(
        bool(forward["config"].get(n)) != bool(backward["config"].get(n)) for n in names
    ):
        raise refuse(f"Bidirectional {name} has directions that differ: {cell} and {other}")
    if forward["config"].get("go_backwards"):
        raise refuse(f"Bidirectional {name} has a layer with go_backwards=True")
    stack = loaded(stack_of([cell], True), [[first, second]])
    steps = "all" if forward["config"].get("return_sequences") else "last"
    return Layer(stack, cast(Any, steps), merge=merge)


def _cell(
    kind: str, name: str, options: Mapping[str, Any], weights: Sequence[Array], refuse: Any
) -> tuple[Cell, dict[str, Array]]:
    """Return the cell of a layer, and its weights by our names."""
    what = f"{kind} {name}"[:80]
    gates = _GATES.get(kind)
    if gates is None:
        raise refuse(f"{what} has no layer of ours; expected LSTM, GRU or SimpleRNN")
    for option in ("return_state", "time_major"):
        if options.get(option):
            raise refuse(f"{what} has {option}=True, which is not read")
    activation = _activation({"activation": options.get("activation", "tanh")}, what, refuse)
    inner = options.get("recurrent_activation", "sigmoid")
    if kind != "SimpleRNN" and (activation != "tanh" or inner != "sigmoid"):
        raise refuse(
            f"{what} has activation={activation!r:.40}, recurrent_activation={inner!r:.40}; "
            "expected tanh and sigmoid"
        )
    if activation not in _RNN_ACTIVATIONS:
        raise refuse(f"{what} has activation={activation!r}; our RNNCell has not")
    shapes = [w.shape for w in weights]
    H = weights[1].shape[0] if len(weights) > 1 and weights[1].ndim == 2 else 0
    biased = bool(options.get("use_bias", True))
    after = kind == "GRU" and bool(options.get("reset_after", False))
    expected: list[tuple[int, ...]] = [(*(shapes[0] or (0,))[:1], gates * H), (H, gates * H)]
    expected += [((2, gates * H) if after else (gates * H,))] * biased
    if not H or shapes != expected:
        raise refuse(f"{what} has weights {shapes}; expected {expected}")
    if options.get("units", H) != H:
        raise refuse(f"{what} has units={options['units']!r:.40}; its weights have {H}")
    # z r h to r z n; i f c o are i f g o.
    order = (1, 0, 2) if kind == "GRU" else range(gates)

    def turned(value: Array) -> Array:
        blocks = np.split(value, gates, axis=-1)
        return np.concatenate([blocks[i] for i in order], axis=-1).T

    found = {"weight_ih": turned(weights[0]), "weight_hh": turned(weights[1])}
    if biased:
        bias = weights[2] if after else np.stack([weights[2], np.zeros_like(weights[2])])
        found |= {"bias_ih": turned(bias[0]), "bias_hh": turned(bias[1])}
    I = weights[0].shape[0]
    if kind == "LSTM":
        return LSTMCell(I, H, biased), found
    if kind == "GRU":
        return GRUCell(I, H, biased, after), found
    return RNNCell(I, H, biased, cast(Any, _RNN_ACTIVATIONS[activation])), found
