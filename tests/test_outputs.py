"""Outputs: losses by their definition; the random field against all tag sequences one by one."""

from itertools import pairwise, product

import pytest
import torch
from laws import random
from tolerances import assert_same

from ostinato.errors import OstinatoError
from ostinato.networks.outputs import CRFOutput, Output

H, K, T = 4, 5, 4
LENGTHS = [4, 3, 1, 0]
KINDS = ["category", "number", "probability"]
KIND = pytest.mark.parametrize("kind", KINDS)


def targets_of(kind, *shape):
    if kind == "category":
        return torch.randint(K, shape, generator=torch.Generator().manual_seed(2))
    numbers = random(*shape, K, seed=2)
    return numbers if kind == "number" else (numbers > 0).double()


def loss_of_step(kind, y, target):
    """The loss of one step, from its definition."""
    if kind == "category":
        return -(y[target] - y.exp().sum().log())
    if kind == "number":
        return sum((y[k] - target[k]) ** 2 for k in range(K))
    p = 1 / (1 + (-y).exp())
    return -sum(target[k] * p[k].log() + (1 - target[k]) * (1 - p[k]).log() for k in range(K))


@KIND
def test_the_loss_of_every_step_is_its_definition(kind):
    output = Output(H, K, kind)
    y, targets = random(2, 3, K, seed=3), targets_of(kind, 2, 3)
    steps = [(b, t) for b in range(2) for t in range(3)]
    wanted = torch.stack([loss_of_step(kind, y[step], targets[step]) for step in steps])
    assert_same([output.loss(y, targets)], [wanted.view(2, 3)])
    assert_same([output.loss(y[0, 1], targets[0, 1])], [wanted[1]])


def test_predictions_are_what_the_kind_says():
    y = random(2, 3, K, seed=3)
    exp = y.exp()
    assert_same([Output(H, K).predict(y)], [exp / exp.sum(dim=-1, keepdim=True)])
    assert_same([Output(H, K, "number").predict(y)], [y])
    assert_same([Output(H, K, "probability").predict(y)], [exp / (1 + exp)])


def test_an_output_is_linear_and_drops_while_training():
    output = Output(H, K, dropout=0.5).double()
    h = random(7, H, seed=4)
    wanted = h @ output.linear.weight.T + output.linear.bias
    assert (output(h) - wanted).abs().max() > 1e-3
    assert_same([output.eval()(h)], [wanted])


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: Output(H, K, "word"), "Output: kind='word'; expected one of category, number"),
        (
            lambda: Output(H, K, "number").loss(torch.zeros(2, 3, K), torch.zeros(2, 3)),
            r"Output.loss: targets has shape \(2, 3\); expected \(2, 3, 5\)",
        ),
        (
            lambda: Output(H, K).loss(torch.zeros(2, 3, K), torch.zeros(3, 2).long()),
            r"Output.loss: targets has shape \(3, 2\); expected \(2, 3\)",
        ),
    ],
)
def test_errors_name_what_came_and_what_was_wanted(mistake, message):
    with pytest.raises(OstinatoError, match=message):
        mistake()


# The conditional random field.


def output(seed=0):
    torch.manual_seed(seed)
    crf = CRFOutput(H, K).double()
    for parameter in (crf.first, crf.follows, crf.last):
        torch.nn.init.normal_(parameter)
    return crf


def score(crf, y, tags):
    """The score of tags, from its definition."""
    total = crf.first[tags[0]] + crf.last[tags[-1]]
    total = total + sum(y[t, tag] for t, tag in enumerate(tags))
    return total + sum(crf.follows[a, b] for a, b in pairwise(tags))


def every(crf, y):
    """All tag sequences of the length of y, and their scores."""
    tags = list(product(range(K), repeat=len(y)))
    return tags, torch.stack([score(crf, y, each) for each in tags])


def test_the_loss_is_that_of_the_tags_among_all():
    crf, h = output(), random(4, T, H, seed=1)
    tags = torch.randint(K, (4, T), generator=torch.Generator().manual_seed(2))
    y = crf(h)
    total = 0.0
    for b, length in enumerate(LENGTHS):
        if length:
            _, scores = every(crf, y[b, :length])
            total = total - score(crf, y[b, :length], tags[b, :length]) + scores.logsumexp(0)
    wanted = total / sum(LENGTHS)
    found = crf.mean_loss(h, tags, LENGTHS)
    assert_same([found], [wanted])
    parameters = list(crf.parameters())
    assert_same(
        torch.autograd.grad(found, parameters, retain_graph=True),
        torch.autograd.grad(wanted, parameters),
    )


def test_probabilities_are_sums_over_all_tags():
    crf, y = output(), random(4, T, K, seed=3)
    found = crf.predict(y, LENGTHS)
    for b, length in enumerate(LENGTHS):
        wanted = torch.zeros(T, K, dtype=torch.float64)
        if length:
            tags, scores = every(crf, y[b, :length])
            for each, p in zip(tags, scores.softmax(0), strict=True):
                wanted[range(length), each] += p.detach()
        assert_same([found[b]], [wanted])


@pytest.mark.parametrize("seed", range(4, 12))
def test_the_best_tags_are_the_best_of_all(seed):
    crf, y = output(seed), random(4, T, K, seed=seed)
    found = crf.best(y, LENGTHS)
    for b, length in enumerate(LENGTHS):
        if length:
            tags, scores = every(crf, y[b, :length])
            assert found[b, :length].tolist() == list(tags[int(scores.argmax())])
        assert not found[b, length:].any()
    # What is best together differs from what is best alone, or nothing was tested.
    assert found.tolist() != y.argmax(-1).tolist()


def test_what_is_barred_is_never_predicted():
    barred = torch.zeros(K + 1, K, dtype=torch.bool)
    barred[[0, 1, 3, K], [1, 4, 3, 2]] = True
    differs = 0
    for seed in range(20):
        torch.manual_seed(seed)
        crf, free = CRFOutput(H, K, barred=barred).double(), CRFOutput(H, K).double()
        free.load_state_dict(crf.state_dict())
        y = 3 * random(1, T, K, seed=seed)
        tags, scores = every(crf, y[0])
        steps = torch.tensor(tags)
        allowed = ~barred[-1][steps[:, 0]] & ~barred[steps[:, :-1], steps[:, 1:]].any(1)
        best = tags[int(scores.masked_fill(~allowed, -torch.inf).argmax())]
        assert crf.best(y)[0].tolist() == list(best)
        differs += not crf.best(y).equal(free.best(y))
        h = random(1, T, H, seed=seed)
        assert crf.mean_loss(h, steps[:1]).equal(free.mean_loss(h, steps[:1]))
    assert differs


def test_without_steps_there_is_nothing_to_say():
    crf, y = output(), torch.zeros(2, 0, K, dtype=torch.float64)
    assert crf.best(y).shape == (2, 0)
    assert crf.predict(y).shape == (2, 0, K)
    assert crf.mean_loss(torch.zeros(2, 0, H).double(), torch.zeros(2, 0).long()) == 0


def test_padding_reaches_neither_loss_nor_gradient():
    crf, h = output(), random(4, T, H, seed=5)
    tags = torch.randint(K, (4, T), generator=torch.Generator().manual_seed(6))
    there = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    spoilt = torch.where(there, tags, 10**9)
    found = [crf.mean_loss(h, t, LENGTHS) for t in (tags, spoilt)]
    assert found[0].equal(found[1])


def test_inference_mode_has_probabilities_too():
    crf, y = output(), random(2, T, K, seed=7)
    wanted = crf.predict(y)
    with torch.inference_mode():
        assert crf.predict(y.clone()).equal(wanted)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda crf: crf.loss(torch.zeros(1, K), torch.zeros(1)), "mean_loss"),
        (lambda crf: crf.mean_loss(torch.zeros(1, T, H), torch.zeros(1, T), steps="last"), "'all'"),
        (lambda crf: crf.mean_loss(torch.zeros(1, T, H), torch.zeros(1, 3)), "(1, 4)"),
    ],
)
def test_what_it_cannot_do_is_said(call, message):
    with pytest.raises(OstinatoError, match=message.replace("(", r"\(").replace(")", r"\)")):
        call(CRFOutput(H, K))
