"""Random networks to export, and files to import: those of ONNX's own tests, and hostile ones.

The tests take a few of them. Run as a program, it takes as many as it is told, and counts:

    python tests/exchange.py --networks 300 --nodes --hostile 500 --seed 1
    python tests/exchange.py --networks 100 --first 200 --precision int8
    python tests/exchange.py --keras FOLDER
"""

import argparse
import io
import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from keras_files import write_h5, write_keras
from torch import nn

import ostinato
from ostinato import networks
from ostinato.cells import HigherOrderCell, JordanCell, LSTMCell, ZoneoutCell
from ostinato.deploy.onnx import write_onnx
from ostinato.deploy.onnx_layers import INPUTS, from_onnx
from ostinato.deploy.read import READERS, read_layers
from ostinato.errors import OstinatoError
from ostinato.networks.convolution import Convolutions
from ostinato.networks.ctc import CTC
from ostinato.networks.image import ImageEncoder
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder
from ostinato.recurrence.cells.base import cell_named
from ostinato.recurrence.cells.variants import CellName
from ostinato.recurrence.layers import Recurrent
from ostinato.tasks.captioning import Pictures

NAMES = CellName.__args__
SECONDS, BYTES = 10, 1 << 30
"""What a hostile file may take: time, and memory beyond what the libraries themselves take."""


# Networks


def cell(rng, I, H):
    kind = rng.choice([*NAMES, *NAMES, "projected", "higher-order", "jordan", "zoneout"])
    if kind == "projected":
        return LSTMCell(I, H + 1, proj_size=H)
    if kind == "higher-order":
        return HigherOrderCell(I, H, order=rng.choice([2, 3]))
    if kind == "jordan":
        return JordanCell(I, H + 1, outputs=H, elman=rng.random() < 0.5)
    make, options = cell_named("gru" if kind == "zoneout" else kind)
    options = {"heads": 1} if kind in ("mlstm", "slstm") else options
    made = make(I, H, rng.random() < 0.85, **options)
    return ZoneoutCell(made, 0.2) if kind == "zoneout" else made


def layers(rng, I, bidirectional=None, most=3):
    """Random layers on ``I`` features, their weights larger than usual."""
    H, count = rng.choice([1, 3, 6]), rng.randint(1, most)
    bidirectional = rng.random() < 0.4 if bidirectional is None else bidirectional
    first = cell(rng, I, H)
    above = first.with_input((1 + bidirectional) * first.output_size)
    stack = [first, *[above] * (count - 1)]
    if rng.random() < 0.25:
        stack.append(cell(rng, (1 + bidirectional) * above.output_size, rng.choice([2, 5])))
    fits = all(c.input_size == (1 + bidirectional) * c.output_size for c in stack[1:])
    residual = fits and rng.random() < 0.2
    made = Recurrent(stack, batch_first=True, bidirectional=bidirectional, residual=residual)
    # Without bounds an activation grows from step to step, and with it what rounding changes.
    bounded = all(getattr(c, "activation", "tanh") in ("tanh", "sigmoid") for c in stack)
    scale = 1.0 if bounded else 0.4
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(scale * torch.randn(weight.shape) / weight.shape[-1] ** 0.5)
    return made


def network(seed):
    """A random network in eval mode, and options of its export."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind = rng.choice(["layers", "many", "many", "one", "one", "plain", "ctc", "pairs", "image"])
    I = rng.choice([1, 2, 5])
    encode = rng.choice([
        lambda: nn.Identity(),
        lambda: nn.Embedding(9, I),
        lambda: networks.Standardize(torch.randn(I), torch.rand(I) + 0.5),
    ])()  # fmt: skip
    output = rng.choice(["category", "number", "probability"])
    K = rng.choice([1, 4])
    if kind == "layers":
        made = layers(rng, I)
    elif kind == "many":
        stack = layers(rng, I)
        made = networks.ManyToMany(encode, stack, networks.Output(stack.output_size, K, output))
    elif kind == "one":
        stack, beside, size = layers(rng, I), None, 0
        if not isinstance(encode, nn.Embedding) and rng.random() < 0.4:
            beside = Convolutions(I, 4, (3, 5), (1, 2), causal=not stack.bidirectional)
            size = beside.output_size
        pooling = rng.choice(["last", "mean", "max", "attention"])
        head = networks.Output(stack.output_size + size, K, output)
        made = networks.ManyToOne(encode, stack, head, pooling, convolutions=beside)
    elif kind == "plain":
        head = networks.Output(6, K, output)
        made = networks.OneToOne(encode, I, [4, 6], head, pooled=rng.random() < 0.5)
    elif kind == "ctc":
        n = rng.choice([1, 2, 3])
        encode = nn.Identity() if isinstance(encode, nn.Embedding) else encode
        made = CTC(encode, layers(rng, n * I), 5, n)
    else:
        attention = rng.choice(["additive", "multiplicative", None])
        more = {} if attention is None else {
            "coverage": attention == "additive" and rng.random() < 0.5,
            "copying": kind == "pairs" and rng.random() < 0.4,
        }  # fmt: skip
        feeds, width = rng.random() < 0.5, 4
        if kind == "pairs":
            encoder = RecurrentEncoder(nn.Embedding(7, I), layers(rng, I), tied=True)
        else:
            encoder = Pictures((9, 7, 1), ImageEncoder(1, 6, 2))
        for _ in range(99):  # until the width fits
            stack = layers(rng, width + 3 * feeds, bidirectional=False, most=2)
            if not feeds or stack.output_size == 3:
                break
        decoder = Decoder(
            7, stack, encoder.output_size, width, attention, input_feeding=feeds,
            tied=rng.random() < 0.5, **more,
        )  # fmt: skip
        made = EncoderDecoder(encoder, decoder)
    for norm in made.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return made.eval()


def export_one(seed, folder, precision="float32"):
    """Export a random network; return what it is and the largest difference."""
    made = network(seed)
    found = write_onnx(made, folder / f"{seed}.onnx", precision)
    return made, found


# ONNX's own cases


def node_cases():
    """Name, node, inputs and outputs of the cases that ONNX has for its recurrent nodes."""
    from onnx.backend.test.case.node import gru, lstm, rnn

    found = []
    for module, name in ((gru, "GRU"), (lstm, "LSTM"), (rnn, "RNN")):
        before = module.expect
        module.expect = lambda node, inputs, outputs, name: found.append(
            (name, node, inputs, outputs)
        )
        try:
            for method in dir(getattr(module, name)):
                if method.startswith("export"):
                    getattr(getattr(module, name), method)()
        finally:
            module.expect = before
    return found


def run_node(node, inputs, outputs):
    """The largest difference of our layer from a node's expected outputs."""
    from onnx import helper

    names = [name for name in node.input if name]
    feeds = dict(zip(names, inputs, strict=True))
    graph = helper.make_graph([node], "case", [], [])
    layer = next(from_onnx(helper.make_model(graph), given=feeds).module.children())
    given = dict(zip(INPUTS, node.input, strict=False))
    values = {key: torch.from_numpy(np.asarray(feeds[n])) for key, n in given.items() if n}
    states = [values[key] for key in ("initial_h", "initial_c") if key in values]
    with torch.no_grad():
        found = layer(values["X"].float(), values.get("sequence_lens"), states or None)
    pairs = [(f, n) for f, n in zip(found, node.output, strict=False) if n]
    assert len(pairs) == len(outputs)
    for (mine, _), theirs in zip(pairs, outputs, strict=True):
        assert mine.shape == theirs.shape, (mine.shape, theirs.shape)
    return max(float(np.abs(m.numpy() - t).max()) for (m, _), t in zip(pairs, outputs, strict=True))


# Hostile files


def whole_files():
    """Small files that are read, by suffix."""
    from safetensors.torch import save

    torch.manual_seed(0)
    parts = nn.ModuleDict({"rnn": nn.LSTM(3, 4, 2, bidirectional=True), "fc": nn.Linear(8, 2)})
    weights = {name: value.clone() for name, value in parts.state_dict().items()}
    for document, suffix in ((weights, ".pt"), ({"state_dict": weights, "epoch": 3}, ".ckpt")):
        out = io.BytesIO()
        torch.save(document, out)
        yield suffix, out.getvalue()
    yield ".safetensors", save(weights)
    yield ".keras", write_keras(random.Random(1))[0]
    yield ".h5", write_h5(random.Random(2))[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.onnx"
        write_onnx(ostinato.GRU(3, 4, batch_first=True), path)
        yield ".onnx", path.read_bytes()


def damaged(suffix, data, rng):
    """A file in which something is wrong."""
    how = rng.choice(["cut", "flip", "huge", "number", "empty", "noise", "text", "swap"])
    data = bytearray(data)
    if how == "cut":
        return bytes(data[: rng.randrange(len(data))])
    if how == "empty":
        return b""
    if how == "noise":
        return rng.randbytes(rng.randrange(1, 5000))
    if how == "flip":
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    if how == "swap":
        at, size = rng.randrange(len(data)), rng.randrange(1, 300)
        data[at : at + size] = data[: len(data[at : at + size])]
    if how in ("huge", "number"):  # a size, somewhere
        at = rng.randrange(max(1, len(data) - 8))
        value = rng.choice([2**31 - 1, 2**40, 2**63 - 1, 0, 2**32 - 1, 10**6])
        data[at : at + 8] = struct.pack("<Q", value)
    if how == "text":  # a number of JSON, or of a shape
        found = list(re.finditer(rb"\d+", bytes(data)))
        m = rng.choice(found) if found else None
        if m:
            data[m.start() : m.end()] = rng.choice([b"99999999999", b"-1", b"0", b"1e300", b"{}"])
    return bytes(data)


def bombs(folder):
    """Files that would take memory, run code, or read other files."""
    import h5py
    import onnx
    from onnx import TensorProto, helper

    with zipfile.ZipFile(folder / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", b" " * (1 << 28))
        file.writestr("model.weights.h5", b"\0" * (1 << 28))
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", b"\0" * (1 << 28))
    (folder / "code.pt").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("a/data.pkl", b"cos\nsystem\n(S'touch executed'\ntR.")
        file.writestr("a/version", b"3")
    (folder / "code2.pt").write_bytes(out.getvalue())
    huge = torch.zeros(1).expand(1 << 40, 3)
    torch.save({"weight_ih_l0": huge, "weight_hh_l0": huge}, folder / "strides.pt")
    meta = torch.empty(4 << 20, 1 << 20, device="meta")
    torch.save({"weight_ih_l0": meta, "weight_hh_l0": meta}, folder / "meta.pt")
    torch.save({"weight_ih_l0": torch.zeros(8, 3)}, folder / "half.pt")
    torch.save([1, 2, 3], folder / "list.pt")
    config = {
        "class_name": "Sequential",
        "config": {"layers": [{"class_name": "LSTM", "config": {"units": 4, "name": "lstm"}}]},
    }
    with h5py.File(folder / "external.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights/lstm")
        group.attrs["weight_names"] = ["k", "r", "b"]
        group["k"] = h5py.ExternalLink("/etc/passwd", "/x")
    with h5py.File(folder / "huge.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights/lstm")
        group.attrs["weight_names"] = ["k", "r", "b"]
        for name in "krb":
            group.create_dataset(name, (1 << 20, 1 << 14), np.float32, chunks=(1 << 10, 1 << 6))
    with h5py.File(folder / "zip.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights/lstm")
        group.attrs["weight_names"] = ["k", "r", "b"]
        for name in "krb":
            group.create_dataset(name, data=np.zeros((1000, 1000), "f4"), compression="gzip")

    def node(**more):
        made = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4, **more)
        w = helper.make_tensor("w", TensorProto.FLOAT, (1, 16, 3), np.zeros(48, "f4"))
        r = helper.make_tensor("r", TensorProto.FLOAT, (1, 16, 4), np.zeros(64, "f4"))
        return helper.make_model(helper.make_graph([made], "g", [], [], [w, r]))

    outside = node()
    w = outside.graph.initializer[0]
    w.ClearField("raw_data")
    w.ClearField("float_data")
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="../../../../etc/passwd")
    onnx.save(outside, folder / "outside.onnx")
    large = node()
    large.graph.initializer[0].dims[:] = [1 << 20, 1 << 20, 1 << 20]
    onnx.save(large, folder / "large.onnx")
    negative = node()
    negative.graph.initializer[0].dims[:] = [-1, 16, 3]
    onnx.save(negative, folder / "negative.onnx")
    onnx.save(node(clip=1.0), folder / "clip.onnx")
    onnx.save(node(direction="sideways"), folder / "direction.onnx")
    big = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    (folder / "big.safetensors").write_bytes(struct.pack("<Q", len(big)) + big.encode())
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 1 << 60))
    return sorted(path for path in folder.iterdir() if path.suffix in READERS)


def read_hostile(path):
    """Read a file: "read", "refused", or what is wrong with the way it failed."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_layers(path)
        verdict = "read"
    except OstinatoError as error:
        verdict = "refused" if "\n" not in str(error) else f"several lines: {error}"
    except BaseException as error:
        verdict = f"{type(error).__name__}: {error}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if time.monotonic() - begin > SECONDS or grown > BYTES:
        verdict = f"took {time.monotonic() - begin:.0f} s and {grown:,} bytes"
    return verdict


def hostile(count, seed, folder):
    """Read hostile files; return how many ended how, and what failed."""
    counts, failed = Counter(), []
    wholes = list(whole_files())
    for path in bombs(folder):
        verdict = read_hostile(path)
        counts["bombs refused" if verdict == "refused" else verdict] += 1
        if verdict != "refused":
            failed.append((path.name, verdict))
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        suffix, data = rng.choice(wholes)
        path = folder / f"{i}{suffix}"
        path.write_bytes(damaged(suffix, data, rng))
        verdict = read_hostile(path)
        counts[verdict if verdict in ("read", "refused") else "failed"] += 1
        if verdict not in ("read", "refused"):
            failed.append((path.name, verdict))
    if (Path.cwd() / "executed").exists() or (folder / "executed").exists():
        failed.append(("a pickle", "was executed"))
    return counts, failed


def check_keras(folder):
    """Read networks that Keras stored, with inputs and outputs beside each; return differences."""
    found = []
    for arrays in sorted(folder.glob("*.npz")):
        (path,) = (p for p in folder.glob(f"{arrays.stem}.*") if p.suffix != ".npz")
        data = np.load(arrays)
        try:
            with torch.no_grad():
                y = read_layers(path).module(torch.from_numpy(data["x"])).numpy()
            found.append((path.name, float(np.abs(y - data["y"]).max())))
        except OstinatoError as error:
            found.append((path.name, str(error)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--nodes", action="store_true")
    parser.add_argument("--hostile", type=int, default=0)
    parser.add_argument("--keras", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worst, counts, losses = 0.0, Counter(), []
        for i in range(args.networks):
            seed = 1000 * args.seed + args.first + i
            try:
                _, found = export_one(seed, folder, args.precision)
                worst = max(worst, found.facts["largest_difference"])
                losses.append(found.facts["rounding"])
                counts["exported"] += 1
            except OstinatoError as error:
                counts["refused"] += 1
                print(f"  network {seed}: {error}")
            except Exception as error:
                counts["failed"] += 1
                print(f"  network {seed}: {type(error).__name__}: {error}")
            if (i + 1) % 50 == 0:
                print(f"  {i + 1} networks: {dict(counts)}, {worst:.1e}", flush=True)
        if args.networks:
            print(f"networks: {dict(counts)}; largest difference {worst:.1e} of a scale; "
                  f"rounding {max(losses):.1e}")  # fmt: skip
            bad += counts["failed"] + counts["refused"]
        if args.nodes:
            for name, node, inputs, outputs in node_cases():
                try:
                    print(f"  {name}: {run_node(node, inputs, outputs):.1e}")
                except OstinatoError as error:
                    print(f"  {name}: refused: {error}")
        if args.hostile:
            counts, failed = hostile(args.hostile, args.seed, folder)
            print(f"hostile files: {dict(counts)}")
            for path, verdict in failed:
                print(f"  {path}: {verdict}")
            bad += len(failed)
        if args.keras:
            found = check_keras(args.keras)
            close = [d for _, d in found if isinstance(d, float) and d < 1e-5]
            print(f"Keras: {len(close)} of {len(found)} within 1e-5, largest {max(close):.1e}")
            for path, d in found:
                if not (isinstance(d, float) and d < 1e-5):
                    print(f"  {path}: {d}")
            bad += len(found) - len(close)
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    main()
