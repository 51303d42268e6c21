"""Layers swapped for ours and back, and read from files of other libraries."""

import importlib
import importlib.util
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import ostinato
from ostinato import as_estimator, convert, read_layers, to_torch
from ostinato.cells import CoupledLSTMCell, LSTMCell
from ostinato.errors import DataError, OstinatoError

pytest.importorskip("onnx", reason="ostinato[onnx] is not installed")
pytest.importorskip("h5py", reason="ostinato[keras] is not installed")

import h5py
import onnx
from exchange import hostile, node_cases, run_node
from keras_files import expected, weights_alone, write_h5, write_keras

from ostinato import networks
from ostinato.deploy.graph import Graph
from ostinato.deploy.pieces import pieces

LAYERS = {
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    "gru": lambda: nn.GRU(3, 4, batch_first=True, bias=False),
    "rnn": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "projected": lambda: nn.LSTM(3, 5, proj_size=2),
    "double": lambda: nn.GRU(3, 4).double(),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_swapped_and_swapped_back(name):
    layer = LAYERS[name]()
    module = nn.ModuleDict({"a": nn.Sequential(layer), "b": layer, "c": nn.Linear(4, 2)})
    ours = convert(module)
    assert isinstance(ours["b"], ostinato.Recurrent) and ours["a"][0] is ours["b"]
    assert list(ours.state_dict()) == list(module.state_dict())
    x = torch.randn(6, 3, 3, dtype=layer.weight_ih_l0.dtype)
    back = to_torch(ours)
    for other in (ours["b"], back["b"]):
        y, _ = other(x)
        torch.testing.assert_close(y, layer(x)[0], atol=2e-6, rtol=1e-5)
    assert type(back["b"]) is type(layer)
    ours["b"].weight_ih_l0.data.zero_()  # a copy
    assert layer.weight_ih_l0.any()
    y.sum().backward()


def test_what_cannot_be_swapped_is_refused_by_name():
    class Own(nn.LSTM):
        pass

    with pytest.raises(OstinatoError, match=r"Own\(3, 4\) is of a class derived"):
        convert(nn.Sequential(Own(3, 4)))
    hooked = nn.GRU(3, 4)
    hooked.register_forward_hook(print)
    with pytest.raises(OstinatoError, match="has hooks"):
        convert(hooked)
    normed = nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    with pytest.raises(OstinatoError, match="class derived|parametrizations"):
        convert(normed)
    for layer in (
        ostinato.GRU(3, 4, reset_after=False),
        ostinato.LSTM(3, [4, 5]),
        ostinato.RNN(3, 4, nonlinearity="sigmoid"),
        ostinato.LSTM(3, 4, 2, residual=False, variational_dropout=0.3),
    ):
        with pytest.raises(OstinatoError, match="which torch.nn's have not"):
            to_torch(layer)
    with pytest.raises(OstinatoError, match="expected a torch.nn.Module"):
        convert(3)


# Files of PyTorch


class Theirs(nn.Module):
    def __init__(self, kind, **more):
        super().__init__()
        self.body = kind(3, 4, batch_first=True, **more)
        self.head = nn.Linear(4 * (1 + self.body.bidirectional), 3)

    def forward(self, x):
        _, hidden = self.body(x)
        h = hidden[0] if isinstance(hidden, tuple) else hidden
        D = 1 + self.body.bidirectional
        return self.head(torch.cat(h[-D:].unbind(0), -1))


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_network_of_pytorch_becomes_a_run(tmp_path, ostinato, suffix, kind):
    from safetensors.torch import save_file

    theirs = Theirs(kind, num_layers=2, bidirectional=kind is not nn.RNN)
    weights, path = theirs.state_dict(), tmp_path / f"a{suffix}"
    if suffix == ".safetensors":
        save_file(weights, path)
    else:
        document = {"state_dict": weights, "epoch": 3} if suffix == ".ckpt" else weights
        torch.save(document, path)
    words = ("import", path, "--out", tmp_path / "run", "--task", "classify", "--labels", "z,a,m")
    result = ostinato(*words)
    assert result.status == 0, result.err
    import ostinato as package

    model = package.load(tmp_path / "run")
    x = torch.randn(5, 7, 3)
    p = theirs(x).softmax(-1).detach()[:, [1, 2, 0]]  # a, m, z
    found = model.predict_proba(list(x.numpy()))
    np.testing.assert_allclose(found, p, atol=1e-6)
    assert model.classes_.tolist() == ["a", "m", "z"]
    result = ostinato(*words)
    assert result.status == 2 and "not an empty folder" in result.err


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_of_pytorch_become_layers(tmp_path, kind):
    theirs = nn.ModuleDict({"step": kind(3, 4), "head": nn.Linear(4, 2)})
    torch.save(theirs.state_dict(), tmp_path / "a.pt")
    (layer,) = read_layers(tmp_path / "a.pt").layers
    x, state = torch.randn(2, 5, 3), None
    for t in range(5):
        state = theirs["step"](x[:, t], state)
        h = state[0] if kind is nn.LSTMCell else state
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0][:, -1], h, atol=1e-6, rtol=1e-5)


def test_a_file_of_pytorch_before_1_6_says_how_to_store_it_once_more(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.LSTM(3, 4).state_dict(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="before 1.6"):
        read_layers(path)
    torch.save(torch.load(path, weights_only=True), path)
    assert read_layers(path).layers[0].hidden_size == 4


def test_what_is_no_network_of_a_task_says_why(tmp_path):
    both = nn.ModuleDict({"a": nn.GRU(3, 4), "b": nn.GRU(4, 4), "c": nn.Linear(4, 2)})
    torch.save(both.state_dict(), tmp_path / "a.pt")
    found = read_layers(tmp_path / "a.pt")
    assert [layer.input_size for layer in found.layers] == [3, 4]
    with pytest.raises(OstinatoError, match="give --task"):
        as_estimator(found)
    with pytest.raises(OstinatoError, match="several recurrent layers"):
        as_estimator(found, "classify")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(DataError, match="its parts are packed"):
        read_layers(tmp_path / "packed.pt")
    torch.save(nn.Embedding(3, 2).state_dict(), tmp_path / "b.pt")
    with pytest.raises(DataError, match="no weights of recurrent layers"):
        read_layers(tmp_path / "b.pt")
    odd = {"state_dict": {**both.state_dict(), "d.weight": tmp_path}}
    torch.save(odd, tmp_path / "odd.ckpt")
    with pytest.raises(DataError, match=r"holds a pathlib\.\w+, which is not read"):
        read_layers(tmp_path / "odd.ckpt")
    torch.save(both, tmp_path / "whole.pt")
    with pytest.raises(DataError, match=r"holds a torch.nn.modules.*store the state_dict alone"):
        read_layers(tmp_path / "whole.pt")
    with pytest.raises(DataError, match="no such file"):
        read_layers(tmp_path / "none.pt")
    with pytest.raises(DataError, match=r"expected a name that ends in \.keras"):
        read_layers(tmp_path / "a.txt")


LIGHTNING = importlib.util.find_spec("lightning") or importlib.util.find_spec("pytorch_lightning")


@pytest.mark.skipif(not LIGHTNING, reason="Lightning is not installed: ostinato[lightning]")
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_lightning_becomes_a_run_and_its_module_trains_on(tmp_path, ostinato):
    name = LIGHTNING.name
    pl = importlib.import_module("lightning.pytorch" if name == "lightning" else name)

    class Module(pl.LightningModule):
        def __init__(self, hidden, **more):
            super().__init__()
            self.save_hyperparameters()
            self.body = nn.LSTM(3, hidden, 2, batch_first=True)
            self.head = nn.Linear(hidden, 2)

        def forward(self, x):
            return self.head(self.body(x)[0][:, -1])

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), 0.01)
            return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]

    def train(module):
        made = [(torch.randn(4, 5, 3), torch.tensor([0, 1, 1, 0])) for _ in range(3)]
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
            callbacks=[pl.callbacks.ModelCheckpoint(tmp_path, monitor="loss")],
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(made, batch_size=None))
        return trainer

    theirs = Module(6, folder=tmp_path, activation=nn.ReLU, given={"seed": 1})
    path = tmp_path / "a.ckpt"
    train(theirs).save_checkpoint(path)
    with pytest.raises(pickle.UnpicklingError):  # of a path and a class
        torch.load(path, weights_only=True)
    words = ("import", path, "--out", tmp_path / "run", "--task", "classify", "--labels", "a,b")
    result = ostinato(*words)
    assert result.status == 0, result.err
    import ostinato as package

    x = torch.randn(5, 7, 3)
    found = package.load(tmp_path / "run").predict_proba(list(x.numpy()))
    np.testing.assert_allclose(found, theirs(x).softmax(-1).detach(), atol=1e-6)

    ours = convert(theirs)
    assert isinstance(ours, Module) and isinstance(ours.body, package.LSTM)
    ours.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
    for module in (theirs, ours):
        torch.manual_seed(1)
        train(module)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours(x).softmax(-1), torch.from_numpy(found).float(), atol=1e-3)


# Keras


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_network_of_keras_computes_what_its_equations_say(tmp_path, seed, suffix):
    rng = random.Random(seed)
    data, layers, I = (write_keras if suffix == ".keras" else write_h5)(rng)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    x = np.random.default_rng(seed).normal(size=(3, 6, I)).astype("f4")
    found = read_layers(path)
    with torch.no_grad():
        y = found.module(torch.from_numpy(x))
    np.testing.assert_allclose(y, expected(layers, x), atol=2e-6)
    assert found.output is not None and found.activation == layers[-1][1]["activation"]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("write", [write_keras, write_h5])
def test_weights_alone_of_keras_are_layers_by_their_names(tmp_path, seed, write):
    whole, made, _ = write(random.Random(seed))
    data, suffix = weights_alone(whole)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    recurrent = [layer for layer in made if layer[0] != "Dense"]
    if any(kind == "GRU" and len(sides[0]) == 2 for kind, _, sides in recurrent):
        with pytest.raises(DataError, match="has no bias, which would tell its reset_after"):
            read_layers(path)
        return
    found = read_layers(path)
    assert any("hard_sigmoid" in note for note in found.notes) == (write is write_h5)
    by_name = sorted(recurrent, key=lambda layer: layer[0]) if write is write_keras else recurrent
    if write is write_keras and len({len(sides) for *_, sides in recurrent}) > 1:
        by_name = sorted(by_name, key=lambda layer: -len(layer[2]))  # bidirectional comes first
    for layer, (kind, options, sides) in zip(found.layers, by_name, strict=True):
        x = np.random.default_rng(seed).normal(size=(2, 5, layer.input_size)).astype("f4")
        told = {**options, "activation": "tanh", "return_sequences": True}
        with torch.no_grad():
            y, _ = layer(torch.from_numpy(x))
        np.testing.assert_allclose(y, expected([(kind, told, sides)], x), atol=2e-6)
    kernel, bias = made[-1][2][0]
    linear = list(found.module.children())[
        [type(each).__name__ for each in found.module.children()].index("Dense")
    ]
    torch.testing.assert_close(linear.weight, torch.from_numpy(kernel.T.copy()))
    torch.testing.assert_close(linear.bias, torch.from_numpy(bias))


def test_weights_of_cudnn_layers_are_refused_by_name(tmp_path):
    data, suffix = weights_alone(write_h5(random.Random(0))[0])
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with h5py.File(path, "a") as file:
        name = next(iter(file.attrs["layer_names"])).decode()
        kernel, recurrent, bias = (np.zeros(s, "f4") for s in ((3, 16), (4, 16), (32,)))
        del file[name]
        group = file.create_group(name)
        for each, array in zip("abc", (kernel, recurrent, bias), strict=True):
            group[each] = array
        group.attrs["weight_names"] = ["a", "b", "c"]
    with pytest.raises(DataError, match="CuDNNLSTM"):
        read_layers(path)


def test_a_run_of_a_network_of_keras(tmp_path):
    rng = random.Random(0)
    gru = {
        "units": 4, "return_sequences": True, "activation": "tanh", "reset_after": True,
        "recurrent_activation": "sigmoid", "use_bias": True,
    }  # fmt: skip
    last = {"units": 2, "activation": "softmax", "use_bias": True}

    def weights(I):
        return [np.array([[rng.gauss(0, 1) for _ in range(12)] for _ in range(n)], "f4")
                for n in (I, 4, 2)]  # fmt: skip

    dense = [np.array([[rng.gauss(0, 1)] * 2] * 4, "f4"), np.array([0.1, -0.2], "f4")]
    for by_step in (True, False):
        layers = [
            ("GRU", gru, [weights(3)]),
            ("GRU", {**gru, "return_sequences": by_step}, [weights(4)]),
            ("Dense", last, [dense]),
        ]
        path = tmp_path / "a.keras"
        path.write_bytes(write_keras(rng, layers)[0])
        model = as_estimator(read_layers(path))
        assert type(model).__name__ == ("SequenceTagger" if by_step else "SequenceClassifier")
        x = np.random.default_rng(0).normal(size=(5, 3)).astype("f4")
        p = model.predict_proba([x])[0]
        np.testing.assert_allclose(p, expected(layers, x[None])[0], atol=2e-6)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("recurrent_activation", "hard_sigmoid"),
        ("activation", "selu"),
        ("return_state", True),
        ("units", 9),
        ("class_name", "ConvLSTM1D"),
        ("merge_mode", None),
    ],
)
def test_an_option_that_no_layer_has_is_refused_by_name(tmp_path, option, value):
    def change(config):
        for layer in config["config"]["layers"]:
            (layer if option == "class_name" else layer["config"])[option] = value
            if option == "merge_mode":
                inner = {"class_name": layer["class_name"], "config": {**layer["config"]}}
                layer["class_name"], layer["config"]["layer"] = "Bidirectional", inner

    path = tmp_path / "a.keras"
    seed = next(s for s in range(99) if len(write_keras(random.Random(s))[1][0][2]) == 1)
    path.write_bytes(write_keras(random.Random(seed), change=change)[0])
    with pytest.raises(DataError, match=f"{option}=|{value}|weights") as caught:
        read_layers(path)
    assert "\n" not in str(caught.value)


# ONNX

CASES = node_cases()


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_recurrent_nodes_of_onnx(case):
    _, node, inputs, outputs = case
    assert run_node(node, inputs, outputs) < 1e-6


def lstm(**more):
    from onnx import TensorProto, helper

    rng = np.random.default_rng(0)
    D = 2 if more.get("direction") == "bidirectional" else 1
    shapes = {"W": (D, 16, 3), "R": (D, 16, 4), "B": (D, 32)}
    arrays = {k: rng.normal(size=s).astype("f4") for k, s in shapes.items()}
    constants = [helper.make_tensor(k, TensorProto.FLOAT, a.shape, a) for k, a in arrays.items()]
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=4, **more)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize(
    "more", [{"input_forget": 1}, {"direction": "reverse"}, {"direction": "bidirectional"}, {}]
)
def test_attributes_of_a_node_are_mapped(tmp_path, more):
    from onnxruntime import InferenceSession

    model = lstm(**more)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    found = read_layers(path)
    x = np.random.default_rng(1).normal(size=(6, 2, 3)).astype("f4")
    running = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        y = next(found.module.children())(torch.from_numpy(x))[0]
    np.testing.assert_allclose(y, running.run(["y"], {"x": x})[0], atol=1e-6)
    kind = CoupledLSTMCell if "input_forget" in more else LSTMCell
    assert type(found.layers[0].cells[0]) is kind


def test_weights_that_are_put_together_of_parts_are_read(tmp_path):
    """Of an LSTMCell PyTorch writes slices of its weights, gates in ONNX's order."""
    from onnx import helper, numpy_helper

    model = lstm()
    graph = model.graph
    reference = numpy_helper.to_array(graph.initializer[0])
    W = reference[0]
    ours = np.concatenate([W[:4], W[8:12], W[12:], W[4:8]])  # i f g o of i o f g
    del graph.initializer[0]
    numbers = {"axis": [0], "one": [1], "a": [0], "b": [4], "c": [8], "d": [12], "e": [1 << 62]}
    graph.initializer.extend(
        [numpy_helper.from_array(ours, "whole")]
        + [numpy_helper.from_array(np.array(v, "i8"), k) for k, v in numbers.items()]
    )
    cuts = [("a", "b"), ("d", "e"), ("b", "d")]  # i; o; f, g
    nodes = [
        helper.make_node("Slice", ["whole", *cut, "axis", "one"], [f"part{k}"])
        for k, cut in enumerate(cuts)
    ]
    nodes.append(helper.make_node("Concat", ["part0", "part1", "part2"], ["joined"], axis=0))
    nodes.append(helper.make_node("Unsqueeze", ["joined", "axis"], ["W"]))
    last = graph.node[0]
    del graph.node[:]
    graph.node.extend([*nodes, last])
    for name, model_ in (("a", model), ("b", lstm())):
        (tmp_path / f"{name}.onnx").write_bytes(model_.SerializeToString())
    (found,), (expected_,) = (read_layers(tmp_path / f"{n}.onnx").layers for n in "ab")
    for own, other in zip(found.parameters(), expected_.parameters(), strict=True):
        assert torch.equal(own, other)


def test_nodes_within_a_branch_are_not_read_and_said(tmp_path):
    from onnx import TensorProto, helper

    inside = lstm()
    graph = inside.graph
    branch = helper.make_graph(
        list(graph.node), "branch", [], list(graph.output), graph.initializer
    )
    node = helper.make_node("If", ["told"], ["y"], then_branch=branch, else_branch=branch)
    told = helper.make_tensor_value_info("told", TensorProto.BOOL, [])
    whole = helper.make_graph([node], "g", [told, *graph.input], list(graph.output))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match="no RNN, GRU or LSTM node outside the graphs within If"):
        read_layers(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"clip": 1.0}, "clip=1"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations"),
        ({"direction": "sideways"}, "direction='sideways'"),
        ({"hidden_size": 5}, "hidden_size=5"),
    ],
)
def test_attributes_that_no_cell_has_are_refused_by_name(tmp_path, more, why):
    model = lstm(**{k: v for k, v in more.items() if k != "hidden_size"})
    if "hidden_size" in more:
        (size,) = (a for a in model.graph.node[0].attribute if a.name == "hidden_size")
        size.i = 5
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=why):
        read_layers(tmp_path / "a.onnx")


def test_a_graph_of_more_than_a_task_has_is_no_run(tmp_path):
    recurrent, head = ostinato.GRU(3, 4, batch_first=True), networks.Output(4, 2)
    for encode, why in (
        (networks.Standardize(torch.ones(3), torch.ones(3)), "there is a node Sub"),
        (nn.Embedding(5, 3), "there is an embedding"),
        (nn.Identity(), ""),
    ):
        network = networks.ManyToMany(encode, recurrent, head).eval()
        (piece,) = pieces(network, lambda: Graph(onnx, "float32"), lengths=False)
        (tmp_path / "a.onnx").write_bytes(piece.graph.model("a", {}).SerializeToString())
        found = read_layers(tmp_path / "a.onnx")
        if why:
            with pytest.raises(OstinatoError, match=why):
                as_estimator(found, "tag")
            continue
        x = torch.randn(1, 6, 3)
        p = as_estimator(found, "tag", ["a", "b"]).predict_proba([x[0].numpy()])[0]
        with torch.no_grad():
            reference = network(x)[0][0].softmax(-1)
        np.testing.assert_allclose(p, reference, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_what_we_export_is_read_back(tmp_path, precision):
    layer = ostinato.LSTM(3, 4, 2, batch_first=True, bidirectional=True)
    ostinato.export(layer, tmp_path / "a.onnx", precision=precision)
    found = read_layers(tmp_path / "a.onnx")
    x = torch.randn(2, 5, 3)
    with torch.no_grad():
        y = x
        for each in found.layers:
            y, _ = each(y)
        reference = layer(x)[0]
    bound = {"float32": 1e-6, "float16": 1e-3, "int8": 0.03}[precision]
    torch.testing.assert_close(y, reference, atol=bound, rtol=0)


def test_hostile_files_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts, failed = hostile(60, 7, tmp_path)
    assert not failed and counts["bombs refused"] >= 15


@pytest.mark.slow
def test_many_hostile_files_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not hostile(500, 1, tmp_path)[1]
