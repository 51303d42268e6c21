"""The arrangements: which steps count, and that a stream is the whole."""

from typing import get_args

import pytest
import torch
from laws import leaves, random, with_gradients
from test_network_inputs import words_of_a_batch
from test_outputs import KIND, KINDS, K, loss_of_step, targets_of
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import (
    CellName,
    ManyToMany,
    ManyToOne,
    OneToOne,
    recurrent_layers,
)
from ostinato.networks.inputs import WordEncoder
from ostinato.networks.outputs import Output
from ostinato.recurrence.cells import GRUCell, LSTMCell, ZoneoutCell, cell_named
from ostinato.recurrence.dropin import GRU, LSTM, RNN
from ostinato.recurrence.layers import Recurrent

I, H, T, B = 3, 4, 6, 4
LENGTHS = [6, 0, 3, 1]


def network(kind="category", bidirectional=False, cell=LSTM, **more):
    torch.manual_seed(0)
    recurrent = cell(I, H, 2, batch_first=True, bidirectional=bidirectional)
    output = Output(recurrent.output_size, K, kind)
    return ManyToMany(nn.Identity(), recurrent, output, **more).double()


def sequences():
    return random(B, T, I, seed=1)


# Many to many.


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["even", "ragged"])
def test_an_output_for_every_step(bidirectional, lengths):
    net, x = network(bidirectional=bidirectional), sequences()
    y, state = net(x, lengths=lengths)
    h, last = net.recurrent(x, lengths=lengths)
    assert_same([y, *leaves(state)], [net.output(h), *leaves(last)])
    assert_same([net.hidden(x, lengths=lengths)[0]], [h])


@pytest.mark.parametrize("cell", [RNN, LSTM, GRU])
def test_steps_of_a_stream_are_the_whole(cell):
    net, x = network(cell=cell), sequences()
    whole, last = net(x)
    outputs, state = [], None
    for t in range(T):
        y_t, state = net.step(x[:, t], state)
        outputs.append(y_t)
    assert_same([torch.stack(outputs, 1), *leaves(state)], [whole, *leaves(last)])


def test_tokens_stream_through_an_embedding():
    net = ManyToMany(nn.Embedding(7, I), GRU(I, H, batch_first=True), Output(H, K))
    tokens = torch.tensor([[1, 2, 3], [6, 5, 0]])
    whole, _ = net(tokens)
    first, state = net.step(tokens[:, 0])
    second, _ = net.step(tokens[:, 1], state)
    assert_same([first, second], [whole[:, 0], whole[:, 1]])


def test_a_stream_has_no_future():
    with pytest.raises(OstinatoError, match="a bidirectional layer needs the future"):
        network(bidirectional=True).step(torch.zeros(B, I).double())


def looped(net, x, targets, lengths, counted):
    """Mean over the counted steps, each row run alone over its own steps."""
    losses = []
    for row, n in enumerate(lengths or [T] * B):
        if n == 0:
            continue
        y = net(x[row : row + 1, :n])[0][0]
        losses += [
            loss_of_step(net.output.kind, y[t], targets[row, t]) for t in counted(n) if 0 <= t < n
        ]
    return sum(losses) / len(losses)


STEPS = {
    "all": ("all", range),
    "last": ("last", lambda n: [n - 1]),
    "chosen": ([0, 4, 2], lambda n: [0, 4, 2]),
    "a range": (range(1, 5), lambda n: range(1, 5)),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["even", "ragged"])
@pytest.mark.parametrize("steps", STEPS)
@KIND
def test_the_loss_is_the_mean_over_the_steps_that_count(kind, steps, lengths):
    net, x, targets = network(kind), sequences(), targets_of(kind, B, T)
    given, counted = STEPS[steps]
    loss, state = net.loss(x, targets, lengths=lengths, steps=given)
    wanted = looped(net, x, targets, lengths, counted)
    parameters = list(net.parameters())
    assert_same(with_gradients(loss, parameters), with_gradients(wanted, parameters))
    assert_same(leaves(state), leaves(net(x, lengths=lengths)[1]))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["even", "ragged"])
@KIND
def test_the_last_step_may_have_one_target_a_row(kind, lengths):
    net, x, targets = network(kind), sequences(), targets_of(kind, B)
    everywhere = targets[:, None].expand(B, T, *targets.shape[1:])
    ours = net.loss(x, targets, lengths=lengths, steps="last")[0]
    assert_same([ours], [net.loss(x, everywhere, lengths=lengths, steps="last")[0]])


def test_the_loss_starts_from_the_state_it_is_given():
    net, x, targets = network(), sequences(), targets_of("category", B, T)
    _, state = net(x)
    again, last = net.loss(x, targets, state)
    assert_same([again], [net.output.loss(net(x, state)[0], targets).mean()])
    assert_same(leaves(last), leaves(net(x, state)[1]))
    assert (again - net.loss(x, targets)[0]).abs() > 1e-4


RUBBISH = {"category": [-1, -100, 99], "number": [torch.nan], "probability": [torch.nan]}


@pytest.mark.parametrize("steps", ["all", "last", [0, 4]], ids=str)
@pytest.mark.parametrize(("kind", "rubbish"), [(k, r) for k in KINDS for r in RUBBISH[k]])
def test_nothing_in_the_padding_reaches_the_loss_or_a_gradient(kind, rubbish, steps):
    net, x, targets = network(kind), sequences(), targets_of(kind, B, T)
    clean = net.loss(x, targets, lengths=LENGTHS, steps=steps)[0]
    foul_x, foul_targets = x.clone(), targets.clone()
    for row, n in enumerate(LENGTHS):
        foul_x[row, n:] = torch.nan
        foul_targets[row, n:] = rubbish
    foul = net.loss(foul_x, foul_targets, lengths=LENGTHS, steps=steps)[0]
    parameters = list(net.parameters())
    assert_same(with_gradients(foul, parameters), with_gradients(clean, parameters))


def test_rows_without_steps_cost_nothing_and_teach_nothing():
    net, x, targets = network(), sequences(), targets_of("category", B, T)
    loss, _ = net.loss(x, targets, lengths=[0] * B)
    loss.backward()
    assert loss.item() == 0
    assert not any(w.grad.any() for w in net.parameters())


def test_dropout_of_the_input_stays_over_time():
    torch.manual_seed(0)
    seen = []
    net = network(dropout=0.5)
    net.recurrent.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(torch.ones(B, T, I).double())
    mask = seen[0]
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(mask, mask[:, :1].expand_as(mask))
    assert len({tuple(row.tolist()) for row in mask[:, 0]}) > 1
    net.eval()(torch.ones(B, T, I).double())
    assert torch.equal(seen[1], torch.ones_like(mask))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: ManyToMany(nn.Identity(), LSTM(I, H), Output(H, K)),
            "ManyToMany: recurrent has batch_first=False; expected True",
        ),
        (
            lambda: ManyToMany(
                nn.Identity(), LSTM(I, H, batch_first=True, bidirectional=True), Output(H, K)
            ),
            "ManyToMany: output has 4 input features; expected 8",
        ),
        (
            lambda: recurrent_layers("elman", I, H),
            "cell='elman'; expected one of .*rnn-relu, rnn, lstm",
        ),
    ],
)
def test_errors_name_what_came_and_what_was_wanted(mistake, message):
    with pytest.raises(OstinatoError, match=message):
        mistake()


def test_layers_by_the_name_of_their_cell():
    for name in get_args(CellName):
        kind, _ = cell_named(name)
        for zoneout in (0.0, 0.2):
            (made,) = recurrent_layers(name, I, H, zoneout=zoneout).cells
            assert type(made) is (ZoneoutCell if zoneout else kind)
            assert type(getattr(made, "inner", made)) is kind
    for name in ("lstm", "gru", "gru-reset-before", "rnn", "rnn-relu"):
        layer = recurrent_layers(name, I, [H, 6])
        assert layer.batch_first
        assert [cell.hidden_size for cell in layer.cells] == [H, 6]
    assert recurrent_layers("gru", I, H).cells == (GRUCell(I, H),)
    assert recurrent_layers("gru-reset-before", I, H).cells == (GRUCell(I, H, reset_after=False),)
    assert recurrent_layers("lstm", I, H, proj_size=2).cells == (LSTMCell(I, H, proj_size=2),)
    relu = recurrent_layers("rnn-relu", I, H)
    assert relu.cells[0].activation == "relu"
    assert torch.equal(relu.weight_hh_l0, torch.eye(H))
    assert recurrent_layers("rnn", I, H).cells[0].activation == "tanh"
    assert isinstance(recurrent_layers("rnn", I, H, bidirectional=True), Recurrent)


# Many to one.

POOLINGS = ["last", "mean", "max", "attention"]
POOLING = pytest.mark.parametrize("pooling", POOLINGS)


def many_to_one(pooling, bidirectional=False, sizes=(H, H), encode=None, **more):
    torch.manual_seed(0)
    recurrent = LSTM(I, list(sizes), batch_first=True, bidirectional=bidirectional)
    output = Output(recurrent.output_size, K)
    encode = nn.Identity() if encode is None else encode
    return ManyToOne(encode, recurrent, output, pooling, **more).double()


def pooled_by_hand(net, h):
    """What stands for one sequence of hidden states ``(T, H)``, from the definition."""
    if net.pooling == "mean":
        return sum(h) / len(h)
    if net.pooling == "max":
        return torch.stack([max(column) for column in h.T])
    first, _, last = net.attention
    weights = [(last.weight @ torch.tanh(first.weight @ h_t + first.bias)).exp() for h_t in h]
    return sum(w * h_t for w, h_t in zip(weights, h, strict=True)) / sum(weights)


@POOLING
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "two"])
@pytest.mark.parametrize("sizes", [(H,), (H, H), (H, 3)], ids=str)
def test_a_row_of_a_batch_is_answered_as_if_alone(pooling, bidirectional, sizes):
    net, x = many_to_one(pooling, bidirectional, sizes), sequences()
    found, _ = net(x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        if length == 0:
            nothing = torch.zeros(net.recurrent.output_size, dtype=torch.float64)
            assert_same([found[row]], [net.output(nothing)])
            continue
        h, _ = net.hidden(x[row : row + 1, :length])
        if pooling == "last":
            half = net.recurrent.output_size // (1 + bidirectional)
            pooled = torch.cat([h[0, -1, :half], h[0, 0, half:]])
        else:
            pooled = pooled_by_hand(net, h[0])
        assert_same([found[row]], [net.output(pooled)])


@POOLING
def test_the_padding_of_a_pooled_sequence_reaches_nothing(pooling):
    net, x, targets = many_to_one(pooling, True), sequences(), torch.tensor([0, 4, 2, 1])
    there = torch.arange(T) < torch.tensor(LENGTHS)[:, None]

    def gradients(x):
        x = x.clone().requires_grad_()
        loss, _ = net.loss(x, targets, lengths=LENGTHS)
        return loss, *torch.autograd.grad(loss, [x, *net.parameters()])

    spoilt = torch.where(there[..., None], x, torch.nan)
    for a, b in zip(gradients(x), gradients(spoilt), strict=True):
        assert a.isfinite().all() and a.equal(b)


@POOLING
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_a_stream_is_answered_step_by_step(pooling, residual):
    net, x, memory = many_to_one(pooling), sequences(), None
    if residual:
        net.recurrent = GRU(I, H, 2, batch_first=True, residual=True).double()
    for t in range(T):
        y, memory = net.step(x[:, t], memory)
        assert_same([y], [net(x[:, : t + 1])[0]])
    with pytest.raises(OstinatoError, match="needs the future"):
        many_to_one(pooling, bidirectional=True).step(x[:, 0])


def test_a_pooling_that_is_none_is_refused():
    with pytest.raises(OstinatoError, match="pooling='first'; expected one of last, mean"):
        many_to_one("first")


# One to one.


def test_without_recurrence_each_step_stands_alone():
    torch.manual_seed(0)
    net = OneToOne(nn.Identity(), I, [7, 6], Output(6, K)).double()
    x = sequences()
    order = torch.randperm(T)
    assert_same([net(x)[0][:, order]], [net(x[:, order])[0]])
    a, b = net.layers
    h = ((x @ a.weight.T + a.bias).relu() @ b.weight.T + b.bias).relu()
    assert_same([net(x)[0]], [net.output(h)])
    targets = targets_of("category", B, T)
    wanted = [
        loss_of_step("category", net(x)[0][b, t], targets[b, t])
        for b, length in enumerate(LENGTHS)
        for t in range(length)
    ]
    found, _ = net.loss(x, targets, lengths=LENGTHS)
    assert_same([found], [sum(wanted) / len(wanted)])


def test_without_recurrence_a_sequence_is_the_mean_of_its_steps():
    torch.manual_seed(0)
    net = OneToOne(nn.Identity(), I, [7], Output(7, K), pooled=True).double()
    x, (layer,) = sequences(), net.layers
    found, _ = net(x, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):
        h = (x[row, :length] @ layer.weight.T + layer.bias).relu()
        pooled = h.mean(0) if length else torch.zeros(7, dtype=torch.float64)
        assert_same([found[row]], [net.output(pooled)])
    with pytest.raises(OstinatoError, match="output has 8 input features; expected 7"):
        OneToOne(nn.Identity(), I, [7], Output(8, K))


# Words.


def test_words_go_through_the_arrangements():
    torch.manual_seed(0)
    encode = WordEncoder(3, 2, 6, spelling_width=2)
    recurrent = LSTM(4, H, batch_first=True)
    words, lengths = words_of_a_batch([[0, 2, 0], [1, 0, 0]]), [3, 1]
    one = ManyToOne(encode, recurrent, Output(H, K), dropout=0.5).eval()
    assert_same([one(words, lengths=lengths)[0][1]], [one(words_of_a_batch([[1]]))[0][0]])
    many = ManyToMany(encode, recurrent, Output(H, K)).eval()
    assert_same([many(words, lengths=lengths)[0][1, :1]], [many(words_of_a_batch([[1]]))[0][0]])
