"""The conditional random field, against all tag sequences one by one."""

from itertools import pairwise, product

import pytest
import torch
from laws import random
from tolerances import assert_same

from ostinato.errors import OstinatoError
from ostinato.networks.outputs import CRFOutput

H, K, T = 3, 4, 5
LENGTHS = [5, 3, 1, 0]


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
        (lambda crf: crf.mean_loss(torch.zeros(1, T, H), torch.zeros(1, 3)), "(1, 5)"),
    ],
)
def test_what_it_cannot_do_is_said(call, message):
    with pytest.raises(OstinatoError, match=message.replace("(", r"\(").replace(")", r"\)")):
        call(CRFOutput(H, K))
