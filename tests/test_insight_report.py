"""Pictures and the page: drawn into the axes given, whole, and in need of nothing else."""

import base64
import html.parser
import json
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from ostinato import diagnose
from ostinato.errors import MissingExtra, OstinatoError
from ostinato.insight import (
    gates,
    gradient_flow,
    input_influence,
    plot_curve,
    plot_flow,
    plot_gate,
    plot_influence,
    plot_layers,
    plot_unfolded,
    plot_unit,
    write_report,
)
from ostinato.networks.arrangements import ManyToMany, ManyToOne
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM, RNN


@pytest.fixture
def network():
    torch.manual_seed(0)
    layer = LSTM(3, 8, 2, batch_first=True)
    return ManyToMany(nn.Identity(), layer, Output(8, 2))


@pytest.fixture
def data():
    return torch.randn(4, 12, 3), torch.randint(2, (4, 12))


RECORDS = [
    {"step": i + 1, "loss": 1 / (i + 1), "gradient_norm": 100.0 if i == 60 else 1.0}
    for i in range(100)
] + [{"step": 50, "validation_loss": 0.3}, {"step": 100, "validation_loss": 0.2}]


def texts(axes):
    found = [text.get_text() for text in axes.texts]
    legend = axes.get_legend()
    found += [] if legend is None else [text.get_text() for text in legend.get_texts()]
    return " ".join([*found, axes.get_title(), axes.get_xlabel(), axes.get_ylabel()])


def axes_of_mine():
    from matplotlib.figure import Figure

    return Figure().subplots()


@pytest.mark.parametrize("given", [False, True], ids=["new axes", "my axes"])
def test_every_picture_is_drawn_and_says_what_it_shows(network, data, given):
    flow = gradient_flow(network, data)
    seen = gates(network, data[0][0])
    unit = seen.rank(np.arange(12))[0]
    pictures = {
        "layer 0: ": lambda axes: plot_flow(flow, axes),
        "Gradient by layer": lambda axes: plot_layers(flow, axes),
        "memory length": lambda axes: plot_influence(input_influence(network, data), axes),
        "gradient spikes (1)": lambda axes: plot_curve(RECORDS, axes, "nats"),
        "Gate f of layer 1": lambda axes: plot_gate(seen, "f", 1, axes),
        f"unit {unit.number}": lambda axes: plot_unit(seen, unit, axes),
        "W_hh (32, 8)": lambda axes: plot_unfolded(network, axes),
    }
    for said, draw in pictures.items():
        mine = axes_of_mine() if given else None
        axes = draw(mine)
        assert axes is mine or not given
        assert said in texts(axes)
        axes.figure.savefig("/dev/null", format="png")


def test_the_curve_of_a_gradient_is_its_share_of_the_largest(network, data):
    flow = gradient_flow(network, data)
    axes = plot_flow(flow)
    for line, layer in zip(axes.get_lines(), flow.layers, strict=True):
        largest = max(each.norms.max() for each in flow.layers)
        np.testing.assert_allclose(line.get_ydata(), layer.norms / largest)
    assert axes.get_yscale() == "log"


def test_a_text_stands_on_the_axis_of_its_gates():
    from ostinato import TextGenerator

    model = TextGenerator(hidden_size=6, steps=2).fit("the cat\nsat. " * 20)
    axes = plot_gate(gates(model, "cat\nsat"), "o")
    assert [label.get_text() for label in axes.get_xticklabels()] == list("cat⏎sat")
    with pytest.raises(OstinatoError, match="no gate 'z'; expected one of i, f, g, o"):
        plot_gate(gates(model, "cat"), "z")


def test_the_unfolded_network_shows_shapes_and_names_shared_weights(network):
    axes = plot_unfolded(network, steps=3)
    said = [text.get_text() for text in axes.texts]
    assert sum("shared W_hh" in each for each in said) == 4  # two layers, two further columns
    assert "x₁\n(B, 3)" in said and "y₃\n(B, 2)" in said
    assert "layer 1\nh (B, 8), c (B, 8)" in said
    once = ManyToOne(nn.Identity(), GRU(3, 4, batch_first=True), Output(4, 5))
    said = [text.get_text() for text in plot_unfolded(once).texts]
    assert "y₃\n(B, 5)" in said and "y₁\n(B, 5)" not in said
    with pytest.raises(OstinatoError, match="has no recurrent layer"):
        plot_unfolded(nn.Linear(2, 2))


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.open, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_holds_words_figures_and_pictures_and_needs_nothing(tmp_path):
    torch.manual_seed(0)
    network = ManyToOne(nn.Identity(), RNN(3, 8, 2, batch_first=True), Output(8, 2))
    found = diagnose(network, (torch.randn(8, 50, 3), torch.arange(8) % 2), history=RECORDS)
    files = write_report(found, network, tmp_path / "a" / "b", "Mine & <yours>")
    assert {file.name for file in files} == {
        "index.html", "diagnosis.json", "gradient_by_lag.png", "gradient_by_layer.png",
        "input_influence.png", "learning_curve.png", "unfolded.png",
    }  # fmt: skip
    page = Page()
    source = (tmp_path / "a" / "b" / "index.html").read_text()
    page.feed(source)
    assert page.open == []
    assert not re.search(r"https?:|src=\"(?!data:)|href|<script|<link", source)
    words = " ".join(page.words)
    assert "Mine & <yours>" in words and "vanishing over time" in words
    assert "nn.LSTM in place of nn.RNN" in words
    assert len(page.images) == 5
    for image in page.images:
        assert base64.b64decode(image.partition(",")[2])[:8] == b"\x89PNG\r\n\x1a\n"
    document = json.loads((tmp_path / "a" / "b" / "diagnosis.json").read_text())
    assert document["findings"][0]["issue"] == "vanishing over time"
    assert document["findings"][0]["remedies"][0]["flag"] == "--cell lstm"
    write_report(found, network, tmp_path / "a" / "b", "again")
    assert "again" in (tmp_path / "a" / "b" / "index.html").read_text()


def test_without_matplotlib_the_page_says_so_and_pictures_are_refused(
    tmp_path, network, data, monkeypatch
):
    found = diagnose(network, data)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    files = write_report(found, network, tmp_path, "Mine")
    assert {file.name for file in files} == {"index.html", "diagnosis.json"}
    assert "ostinato[plots]" in files[0].read_text()
    with pytest.raises(MissingExtra, match="plots"):
        plot_flow(found.flow)


def test_a_module_of_torch_has_a_page_too(tmp_path):
    module = nn.LSTM(3, 8, batch_first=True)

    def loss(model, x, y, lengths):
        return (model(x)[0][:, -1, 0] - y).square().mean()

    def cut(model, x, y, lengths):
        return (model(x)[0][:, -1, 0].detach() * torch.ones(1, requires_grad=True)).mean()

    for name, each in (("whole", loss), ("cut", cut)):
        found = diagnose(module, (torch.randn(8, 20, 3), torch.randn(8)), loss=each)
        files = write_report(found, module, tmp_path / name, "Mine")
        assert files[0].exists() and "unfolded.png" not in {file.name for file in files}
    assert found.first == "no gradient"
