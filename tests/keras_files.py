"""Small files as Keras writes them, by their documented layout, and what they compute, in NumPy."""

import io
import json
import zipfile

import h5py
import numpy as np

INNER = {
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "linear": lambda a: a,
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True),
}
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def run_cell(kind, options, weights, x):
    """Every output of a layer, ``(B, T, H)``: the equations of Keras's documentation, by step."""
    kernel, recurrent, *bias = weights
    H, s = recurrent.shape[0], INNER["sigmoid"]
    h = c = np.zeros((len(x), H))
    b = bias[0] if bias else np.zeros(kernel.shape[1])
    found = []
    for t in range(x.shape[1]):
        if kind == "LSTM":
            i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + b, 4, -1)
            c = s(f) * c + s(i) * np.tanh(g)
            h = s(o) * np.tanh(c)
        elif kind == "GRU" and options["reset_after"]:
            outer, inner = b if bias else np.zeros((2, 3 * H))
            xz, xr, xh = np.split(x[:, t] @ kernel + outer, 3, -1)
            hz, hr, hh = np.split(h @ recurrent + inner, 3, -1)
            z, r = s(xz + hz), s(xr + hr)
            h = z * h + (1 - z) * np.tanh(xh + r * hh)
        elif kind == "GRU":
            xz, xr, xh = np.split(x[:, t] @ kernel + b, 3, -1)
            uz, ur, uh = np.split(recurrent, 3, -1)
            z, r = s(xz + h @ uz), s(xr + h @ ur)
            h = z * h + (1 - z) * np.tanh(xh + (r * h) @ uh)
        else:
            h = INNER[options["activation"]](x[:, t] @ kernel + h @ recurrent + b)
        found.append(h)
    return np.stack(found, 1)


def draw(rng, *shape):
    return np.array([rng.gauss(0, 0.7) for _ in range(int(np.prod(shape)))], "f4").reshape(shape)


def random_model(rng):
    """Layers as ``(kind, options, weights of each direction)``, and input features."""
    I = rng.choice([1, 3])
    layers, features, depth = [], I, rng.choice([1, 2])
    for k in range(depth):
        kind, H = rng.choice(["LSTM", "GRU", "SimpleRNN"]), rng.choice([2, 4])
        G = GATES[kind]
        options = {
            "units": H,
            "use_bias": rng.random() < 0.8,
            "return_sequences": k < depth - 1 or rng.random() < 0.5,
            "activation": "tanh" if kind != "SimpleRNN" else rng.choice(["tanh", "relu", "linear"]),
            "recurrent_activation": "sigmoid",
        }
        if kind == "GRU":
            options["reset_after"] = rng.random() < 0.5
        two = rng.random() < 0.4
        weights = []
        for _ in range(1 + two):
            bias = (2, G * H) if options.get("reset_after") else (G * H,)
            some = [draw(rng, features, G * H), draw(rng, H, G * H)]
            weights.append(some + ([draw(rng, *bias)] if options["use_bias"] else []))
        layers.append((kind, options, weights))
        features = H * (1 + two)
    K, activation = 3, rng.choice(["linear", "softmax", "sigmoid"])
    dense = {"units": K, "activation": activation, "use_bias": True}
    layers.append(("Dense", dense, [[draw(rng, features, K), draw(rng, K)]]))
    return layers, I


def expected(layers, x):
    """What the layers compute of ``x (B, T, I)``."""
    for kind, options, weights in layers:
        if kind == "Dense":
            x = INNER[options["activation"]](x @ weights[0][0] + weights[0][1])
            continue
        outputs = [run_cell(kind, options, weights[0], x)]
        if len(weights) == 2:
            outputs.append(run_cell(kind, options, weights[1], x[:, ::-1])[:, ::-1])
        if options["return_sequences"]:
            x = np.concatenate(outputs, -1)
        else:
            ends = [y[:, -i] for y, i in zip(outputs, (1, x.shape[1]), strict=False)]
            x = np.concatenate(ends, -1)
    return x


def config_of(layers):
    found = []
    for k, (kind, options, weights) in enumerate(layers):
        layer = {"class_name": kind, "config": {**options, "name": f"layer_{k}"}}
        if len(weights) == 2:
            inner = {"name": f"wrapped_{k}", "merge_mode": "concat", "layer": layer}
            layer = {"class_name": "Bidirectional", "config": inner}
        found.append(layer)
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": found}}


def write_keras(rng, layers=None, change=lambda config: None):
    """The bytes of a ``.keras`` file, its layers, and its input features."""
    made, I = random_model(rng) if layers is None else (layers, None)
    out, config = io.BytesIO(), config_of(made)
    change(config)
    seen = {}
    with h5py.File(out, "w") as file:
        for (kind, _, weights), layer in zip(made, config["config"]["layers"], strict=True):
            snake = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}.get(kind, "dense")
            snake = "bidirectional" if layer["class_name"] == "Bidirectional" else snake
            n = seen[snake] = seen.get(snake, -1) + 1
            place = f"layers/{snake}_{n}" if n else f"layers/{snake}"
            sides = ("forward_layer/", "backward_layer/") if len(weights) == 2 else ("",)
            for side, some in zip(sides, weights, strict=True):
                inner = "vars" if kind == "Dense" else "cell/vars"
                for i, array in enumerate(some):
                    file[f"{place}/{side}{inner}/{i}"] = array
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", out.getvalue())
    return whole.getvalue(), made, I


def write_h5(rng):
    """The bytes of a legacy ``.h5`` file, its layers, and its input features."""
    (made, I), out = random_model(rng), io.BytesIO()
    config = config_of(made)
    with h5py.File(out, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        for (kind, _, weights), layer in zip(made, config["config"]["layers"], strict=True):
            name = layer["config"]["name"]
            group, names = file.create_group(f"model_weights/{name}"), []
            sides = ("forward", "backward") if len(weights) == 2 else ("",)
            for side, some in zip(sides, weights, strict=True):
                known = (
                    ("kernel", "bias")
                    if kind == "Dense"
                    else ("kernel", "recurrent_kernel", "bias")
                )
                for each, array in zip(known, some, strict=False):
                    names.append(f"{name}/{side}/{each}".replace("//", "/"))
                    group[names[-1]] = array
            group.attrs["weight_names"] = names
    return out.getvalue(), made, I


def weights_alone(data):
    """What ``save_weights`` stores of the network in these bytes, and the suffix of its file."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as whole:
            return whole.read("model.weights.h5"), ".weights.h5"
    out = io.BytesIO()
    with h5py.File(io.BytesIO(data), "r") as file, h5py.File(out, "w") as alone:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        names = [layer["config"]["name"] for layer in layers]
        alone.attrs["layer_names"] = np.array(names, "S")
        alone.attrs["keras_version"] = np.bytes_("2.2.0")
        for name in names:
            file.copy(f"model_weights/{name}", alone)
    return out.getvalue(), ".h5"
