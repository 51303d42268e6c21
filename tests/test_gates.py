"""Gates and units: what they do on a sequence, and which follow a label."""

import numpy as np
import pytest
import torch
from torch import nn

from ostinato import SequenceTagger, TextGenerator
from ostinato.errors import OstinatoError
from ostinato.insight import gates, inside_quotes, labels_of, overlay, position_in_line
from ostinato.networks.arrangements import ManyToMany
from ostinato.networks.outputs import Output
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.scan import trace


@pytest.mark.parametrize("make", [LSTM, GRU], ids=["lstm", "gru"])
def test_gates_and_states_are_those_of_the_equations(make):
    torch.manual_seed(0)
    layer = make(3, 5, 2, batch_first=True, bidirectional=True).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    found = gates(ManyToMany(nn.Identity(), layer, Output(10, 2)).double(), x)
    names = ["layer 0", "layer 0 backward", "layer 1", "layer 1 backward"]
    assert [each.name for each in found.layers] == names
    for d in range(2):
        _, _, seen = trace(layer.cells[0], layer.weights_of(d), x[:, None], reverse=d == 1)
        for letter, values in seen.gates._asdict().items():
            np.testing.assert_allclose(found.layers[d].gates[letter], values[:, 0], atol=1e-12)
        for name, values in seen.states._asdict().items():
            np.testing.assert_allclose(found.layers[d].states[name], values[:, 0], atol=1e-12)


def test_layers_of_torch_are_looked_into_too():
    torch.manual_seed(0)

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = nn.LSTM(3, 5, batch_first=True)

        def forward(self, x):
            return self.memory(x)[0].sum()

    mine, x = Mine(), torch.randn(9, 3)
    (found,) = gates(mine, x).layers
    assert found.name == "memory.layer 0"
    y, _ = mine.memory(x[None])
    np.testing.assert_allclose(found.states["h"], y[0].detach(), atol=1e-6)
    assert set(found.gates) == {"i", "f", "g", "o"}


def counter():
    """A network whose first unit follows whether it is inside quotation marks, by hand."""
    layer = RNN(2, 3, nonlinearity="identity", bias=False, batch_first=True)
    with torch.no_grad():
        # Unit 0 sums +1 at an opening and -1 at a closing mark; unit 1 is noise; unit 2 is dead.
        layer.weight_ih_l0.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
        layer.weight_hh_l0.copy_(torch.diag(torch.tensor([1.0, 0, 0])))
    return ManyToMany(nn.Identity(), layer, Output(3, 2))


def test_the_unit_that_follows_a_label_is_found():
    marks = torch.tensor([0.0, 1, 0, 0, -1, 0, 1, 0, 0, 0, -1, 0])
    noise = torch.randn(12, generator=torch.Generator().manual_seed(1))
    found = gates(counter(), torch.stack([marks, noise], 1))
    inside = marks.cumsum(0)
    first, second, *_ = found.rank(inside)
    assert (first.layer, first.state, first.number) == ("layer 0", "h", 0)
    assert first.correlation == pytest.approx(1)
    assert abs(second.correlation) < 0.8
    assert found.rank(-inside)[0].correlation == pytest.approx(-1)
    np.testing.assert_array_equal(found.activations(first), inside)
    assert found.layers[0].dead().tolist() == [2]
    assert len(found.rank(inside, limit=1)) == 1
    half = torch.where(torch.arange(12) < 8, inside, torch.nan)
    wrong = torch.where(torch.arange(12) < 8, inside, -99.0)
    assert found.rank(half)[0].correlation == pytest.approx(1)
    assert abs(found.rank(wrong)[0].correlation) < 0.9


def test_saturation_is_the_share_of_steps_at_an_end():
    layer = GRU(1, 2, batch_first=True)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
        layer.bias_ih_l0[2:4] = torch.tensor([9.0, -9.0])  # z of unit 0 open, of unit 1 closed
    found = gates(ManyToMany(nn.Identity(), layer, Output(2, 2)), torch.randn(7, 1)).layers[0]
    closed, open_ = found.saturation()["z"]
    assert closed.tolist() == [0, 1]
    assert open_.tolist() == [1, 0]
    assert found.saturation()["r"][0].tolist() == [0, 0]


def test_labels_of_characters():
    text = 'he said "no".\nshe'
    assert [t for t, x in zip(text, inside_quotes(text), strict=True) if x] == list('"no"')
    assert position_in_line(text).tolist() == [*range(14), 0, 1, 2]
    assert labels_of("line", ["he ", "said", "\n", "x"]).tolist() == [0, 3, 7, 0]
    assert labels_of("quotes", ['"a', "b", '"', "c"]).tolist() == [True, True, True, False]
    with pytest.raises(OstinatoError, match="label 'x'; expected one of quotes, line"):
        labels_of("x", ["a"])


def test_a_text_is_read_by_its_tokens_and_shown_over_them():
    model = TextGenerator(hidden_size=6, steps=2, cell="gru").fit("the cat sat. " * 20)
    found = gates(model, "the cat")
    assert found.steps == list("the cat")
    assert found.layers[0].states["h"].shape == (7, 6)
    shown = overlay(found, found.unit(2), width=4).splitlines()
    assert shown[0] == "the " and shown[3] == "cat"
    assert len(shown[1]) == 4 and set(shown[1]) <= set("▁▂▃▄▅▆▇█")
    assert str(found).startswith("layer 0: 0 of 6 units dead; r 0.")
    assert set(found.to_json()["layer 0"]) == {"dead", "r", "z"}


def test_a_sentence_of_a_tagger_is_read_by_its_words():
    X, y = [["the", "dog"], ["a", "cat"]] * 10, [["D", "N"]] * 20
    model = SequenceTagger(hidden_size=4, epochs=1).fit(X, y)
    found = gates(model, ["the", "cat"])
    assert found.steps == ["the", "cat"]
    assert len(found.layers) == 2


def test_what_cannot_be_is_refused():
    found = gates(counter(), torch.randn(4, 2))
    with pytest.raises(OstinatoError, match=r"shape \(3,\); expected \(4,\), one for each step"):
        found.rank([0, 1, 2])
    with pytest.raises(OstinatoError, match="all labels are equal"):
        found.rank([1, 1, 1, 1])
    with pytest.raises(OstinatoError, match="no unit 3; expected 0 to 2"):
        found.unit(3)
    with pytest.raises(OstinatoError, match="no layer 1; expected 0 to 0"):
        found.unit(0, layer=1)
    with pytest.raises(OstinatoError, match="Linear has no recurrent layers"):
        gates(nn.Linear(2, 2), torch.randn(4, 2))
    with pytest.raises(OstinatoError, match="the sequence is empty"):
        gates(counter(), torch.randn(0, 2))
