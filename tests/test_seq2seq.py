"""Encoders, attention and decoders: the equations by hand, step by step as all at once."""

from itertools import product

import numpy as np
import pytest
import torch
from tolerances import assert_same
from torch import nn

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder, VectorEncoder
from ostinato.recurrence.dropin import GRU, LSTM

V, S, B, W, H = 7, 5, 3, 4, 6
LENGTHS = torch.tensor([5, 1, 3])
TARGET_LENGTHS = torch.tensor([2, 4, 0])

KINDS = {
    "plain": {"attention": None},
    "multiplicative": {"attention": "multiplicative"},
    "additive": {"attention": "additive"},
    "fed": {"attention": "multiplicative", "input_feeding": True},
    "covering": {"attention": "additive", "coverage": True},
    "copying": {"attention": "additive", "copying": True},
    "all": {"attention": "additive", "coverage": True, "copying": True, "input_feeding": True},
    "untied": {"attention": "multiplicative", "tied": False},
}
EACH = pytest.mark.parametrize("kind", KINDS)


def network(kind="multiplicative", layer=LSTM, layers=2, **more):
    torch.manual_seed(0)
    settings = KINDS[kind]
    reader = layer(W, 4, batch_first=True, bidirectional=True)
    encoder = RecurrentEncoder(nn.Embedding(V, W), reader, tied=True)
    fed = H if settings.get("input_feeding") else 0
    writer = layer(W + fed, H, layers, batch_first=True)
    decoder = Decoder(V, writer, encoder.output_size, W, **settings)
    return EncoderDecoder(encoder, decoder, **more).double()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(V, (B, S), generator=generator)
    y = torch.randint(V, (B, 4), generator=generator)
    return x, y


@pytest.mark.parametrize("layer", [GRU, LSTM])
@EACH
def test_step_by_step_is_all_at_once(kind, layer):
    net = network(kind, layer).eval()
    x, y = batch()
    inputs = torch.cat([torch.full((B, 1), net.decoder.begin), y], 1)
    written, _ = net(x, inputs, lengths=LENGTHS)
    encoded, state = net.start(x, LENGTHS)
    for t in range(inputs.shape[1]):
        log_p, state, weights = net.step(inputs[:, t], encoded, state)
        assert_same([log_p], [written.log_p[:, t]])
        if weights is not None:
            assert_same([weights], [written.weights[:, t]])
    assert_same([state.fed, state.coverage], [written.state.fed, written.state.coverage])


@EACH
def test_probabilities_are_of_all_tokens_and_the_end(kind):
    net = network(kind)
    x, y = batch()
    written, _ = net(x, y, lengths=LENGTHS)
    assert written.log_p.shape == (B, 4, V + 1)
    assert_same([written.log_p.exp().sum(-1)], [torch.ones(B, 4).double()])


@EACH
def test_what_stands_in_padding_matters_to_nothing(kind):
    net = network(kind)
    x, y = batch()
    other_x, other_y = x.clone(), y.clone()
    for row in range(B):
        other_x[row, LENGTHS[row] :] = 1 + (x[row, LENGTHS[row] :] + 2) % (V - 1)
        other_y[row, TARGET_LENGTHS[row] :] = (y[row, TARGET_LENGTHS[row] :] + 3) % V
    more = {"lengths": LENGTHS, "target_lengths": TARGET_LENGTHS}
    parameters = [p for p in net.parameters() if p.requires_grad]
    found = []
    for a, b in ((x, y), (other_x, other_y)):
        loss, _ = net.loss(a, b, **more)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append([loss, *(g for g in gradients if g is not None)])
    assert_same(*found)
    # And a row alone is the row in the batch.
    for row in range(B):
        n, m = int(LENGTHS[row]), int(TARGET_LENGTHS[row])
        alone, _ = net(x[row : row + 1, :n], y[row : row + 1, : max(1, m)])
        together, _ = net(x, y, lengths=LENGTHS)
        assert_same([alone.log_p[0]], [together.log_p[row, : max(1, m)]])


@EACH
def test_the_loss_is_the_mean_over_tokens_and_ends(kind):
    net = network(kind).eval()
    x, y = batch()
    loss, _ = net.loss(x, y, lengths=LENGTHS, target_lengths=TARGET_LENGTHS)
    total, count = 0.0, 0
    for row in range(B):
        n, m = int(LENGTHS[row]), int(TARGET_LENGTHS[row])
        encoded, state = net.start(x[row : row + 1, :n])
        token = torch.tensor([net.decoder.begin])
        for wanted in [*y[row, :m].tolist(), net.decoder.end]:
            log_p, state, _ = net.step(token, encoded, state)
            total -= log_p[0, wanted].item()
            count += 1
            token = torch.tensor([wanted])
    assert loss.item() == pytest.approx(total / count, rel=1e-10)
    wanted = torch.full((B,), 4)
    assert_same([net.loss(x, y)[0]], [net.loss(x, y, target_lengths=wanted)[0]])


def test_smoothed_labels_are_those_of_pytorch():
    net = network(label_smoothing=0.2).train()
    x, y = batch()
    loss, _ = net.loss(x, y)
    inputs = torch.cat([torch.full((B, 1), net.decoder.begin), y], 1)
    wanted = torch.cat([y, torch.full((B, 1), net.decoder.end)], 1)
    log_p = net(x, inputs)[0].log_p
    theirs = nn.functional.cross_entropy(log_p.flatten(0, 1), wanted.flatten(), label_smoothing=0.2)
    assert_same([loss], [theirs])
    assert net.eval().loss(x, y)[0].item() != pytest.approx(loss.item())


def test_attending_twice_costs_in_training():
    net = network("covering", coverage_weight=0.5).train()
    x, y = batch()
    with_cost = net.loss(x, y)[0].item()
    net.coverage_weight = 0.0
    without = net.loss(x, y)[0].item()
    inputs = torch.cat([torch.full((B, 1), net.decoder.begin), y], 1)
    weights = net(x, inputs)[0].weights
    covered = torch.zeros(B, S).double()
    cost = 0.0
    for t in range(5):
        cost += torch.minimum(weights[:, t], covered).sum().item()
        covered += weights[:, t]
    assert with_cost - without == pytest.approx(0.5 * cost / (5 * B), rel=1e-9)
    assert cost > 0


def test_a_source_without_steps_is_attended_to_by_zeros():
    net = network()
    x, y = batch()
    loss, _ = net.loss(x, y, lengths=torch.tensor([5, 0, 3]))
    gradients = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_copying_puts_the_attention_on_the_sources_tokens():
    net = network("copying").eval()
    with torch.no_grad():
        net.decoder.copying.bias.fill_(-30.0)  # copies only
    x, y = batch()
    written, _ = net(x, y, lengths=LENGTHS)
    for b, t in product(range(B), range(4)):
        wanted = np.zeros(V + 1)
        for s in range(int(LENGTHS[b])):
            wanted[x[b, s]] += written.weights[b, t, s].item()
        np.testing.assert_allclose(written.log_p[b, t].exp().detach(), wanted, atol=1e-9)


def test_what_is_fed_is_the_attentional_vector_of_the_step_before():
    net = network("fed", GRU, 1).eval()
    decoder = net.decoder
    x, y = batch(6)
    with torch.no_grad():
        written, encoded = net(x, y, lengths=LENGTHS)
        keys, hidden = decoder.prepare(encoded).keys, decoder.initial_state(encoded).hidden
        fed = torch.zeros(B, H, dtype=torch.float64)
        for t in range(4):
            v = torch.cat([decoder.embedding(y[:, t]), fed], -1)
            h, hidden = decoder.recurrent(v[:, None], hidden)
            context, _ = decoder.attention(h, keys, encoded.memory, encoded.mask)
            both = torch.cat([h[:, 0], context[:, 0]], -1)
            fed = (both @ decoder.combine.weight.T + decoder.combine.bias).tanh()
            scores = decoder.shape(fed) @ decoder.embedding.weight[: V + 1].T + decoder.output.bias
            assert_same([written.log_p[:, t]], [scores.log_softmax(-1)])


def test_scheduled_sampling_feeds_the_networks_own_words():
    net = network().train()
    x, y = batch()
    torch.manual_seed(1)
    none = net.loss(x, y)[0].item()
    assert net.loss(x, y, sampled=0.0)[0].item() == none
    own = net.loss(x, y, sampled=1.0 - 1e-12)[0].item()
    inputs = torch.cat([torch.full((B, 1), net.decoder.begin), y], 1)
    said = net(x, inputs)[0].log_p.argmax(-1)[:, :-1]
    said[said == net.decoder.end] = 0
    log_p = net(x, torch.cat([inputs[:, :1], said], 1))[0].log_p
    wanted = torch.cat([y, torch.full((B, 1), net.decoder.end)], 1)
    theirs = nn.functional.cross_entropy(log_p.flatten(0, 1), wanted.flatten())
    assert own == pytest.approx(theirs.item())
    assert net.eval().loss(x, y, sampled=0.5)[0].item() == pytest.approx(none)


@pytest.mark.parametrize("kind", ["all", "plain", "multiplicative"])
def test_every_weight_learns(kind):
    net = network(kind).train()
    x, y = batch()
    loss, _ = net.loss(x, y, lengths=LENGTHS)
    torch.autograd.backward(loss)
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


def test_one_to_many_starts_from_a_vector():
    torch.manual_seed(0)
    vector = VectorEncoder(9)
    decoder = Decoder(V, GRU(W, H, batch_first=True), 9, W, None)
    net = EncoderDecoder(vector, decoder)
    y = torch.randint(V, (B, 4))
    x = torch.randn(B, 9)
    loss, _ = net.loss(x, y)
    assert loss.item() != pytest.approx(net.loss(x + 1, y)[0].item())


def test_what_does_not_fit_is_refused():
    reader = GRU(W, H, batch_first=True)
    with pytest.raises(OstinatoError, match="expected batch_first=True, one direction, and 4"):
        Decoder(V, GRU(W, H, batch_first=True, bidirectional=True), 8, W)
    with pytest.raises(OstinatoError, match="and 10 input features: width and H, for input feed"):
        Decoder(V, GRU(W, H, batch_first=True), 8, W, input_feeding=True)
    with pytest.raises(OstinatoError, match="coverage and copying need attention"):
        Decoder(V, reader, 8, W, None, copying=True)
    with pytest.raises(OstinatoError, match="coverage needs kind='additive'"):
        Decoder(V, reader, 8, W, "multiplicative", coverage=True)
    with pytest.raises(OstinatoError, match="label_smoothing=1; expected 0 to below 1"):
        network(label_smoothing=1)
    net = network()
    with pytest.raises(ShapeError, match=r"targets are torch.float64 \(3, 5\)"):
        net.loss(batch()[0], torch.randn(3, 5).double())
    net = network("copying")
    net.encoder.tied = False
    with pytest.raises(OstinatoError, match="build the encoder with tied=True"):
        net.loss(*batch())
