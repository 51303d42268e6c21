"""The RNN transducer's loss: against the sum over every path, and the core against PyTorch."""

from itertools import combinations

import pytest
import torch
from laws import random
from layer_cases import threads
from tolerances import assert_same
from torch.autograd import grad, gradcheck, gradgradcheck

from ostinato.errors import ShapeError
from ostinato.networks import lattice
from ostinato.networks.lattice import (
    joint_log_probs,
    plain_joint_log_probs,
    plain_transducer_loss,
    transducer_loss,
)

PATHS = pytest.mark.parametrize(
    "loss", [transducer_loss, plain_transducer_loss], ids=["core", "plain"]
)


def by_enumeration(log_p, T, U):
    """Minus the log of the sum over paths of one row: where the labels stand among the blanks."""
    paths = []
    for chosen in combinations(range(T + U - 1), U):  # the last step is a blank
        t = u = 0
        steps = []
        for i in range(T + U):
            is_label = i in chosen
            steps.append(log_p[t, u, int(is_label)])
            t, u = (t, u + 1) if is_label else (t + 1, u)
        paths.append(torch.stack(steps).sum())
    return -torch.stack(paths).logsumexp(0)


LENGTHS = torch.tensor([4, 3, 1, 2, 1])
LABELS = torch.tensor([3, 1, 3, 0, 0])


def some(B=5, T=4, U=3, dtype=torch.float64, seed=0):
    """Log-probabilities at random; of blank and label together, less than one."""
    return -random(B, T, U + 1, 2, seed=seed, dtype=dtype).abs() - 0.1


@PATHS
def test_the_loss_is_minus_the_log_of_all_paths_in_value_and_gradient(loss):
    log_p, weights = some().requires_grad_(), random(5, seed=1)
    expected = torch.stack(
        [by_enumeration(log_p[b], int(LENGTHS[b]), int(LABELS[b])) for b in range(5)]
    )
    found = loss(log_p, LENGTHS, LABELS)
    assert_same([found], [expected])
    assert_same(grad(found @ weights, log_p), grad(expected @ weights, log_p))


@pytest.mark.parametrize("U", [0, 1, 5, 6, 7, 8, 9, 15, 16, 17, 30])
def test_the_core_equals_pytorch_whatever_the_vectors(U):
    log_p = some(3, 12, U, seed=U).requires_grad_()
    lengths, labels = torch.tensor([12, 5, 9]), torch.tensor([U, U // 2, max(0, U - 1)])
    ours, theirs = (f(log_p, lengths, labels) for f in (transducer_loss, plain_transducer_loss))
    assert_same([ours], [theirs])
    weights = random(3, seed=2)
    assert_same(grad(ours @ weights, log_p), grad(theirs @ weights, log_p))


def test_long_rows_in_float32_keep_their_digits():
    log_p = (some(2, 300, 80, torch.float64) * 3).float().requires_grad_()
    exact = log_p.detach().double().requires_grad_()
    ours, theirs = (
        transducer_loss(log_p),
        plain_transducer_loss(exact, torch.tensor([300, 300]), torch.tensor([80, 80])),
    )
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=0)
    (found,), (expected,) = grad(ours.sum(), log_p), grad(theirs.sum(), exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)


@PATHS
def test_padding_is_not_read_and_gets_no_gradient(loss):
    log_p = some()
    padded = log_p.clone()
    for b in range(5):
        padded[b, LENGTHS[b] :] = torch.nan
        padded[b, :, LABELS[b] + 1 :] = torch.nan
        padded[b, :, LABELS[b], 1] = torch.nan  # there is no next label
    log_p.requires_grad_(), padded.requires_grad_()
    ours, theirs = loss(padded, LENGTHS, LABELS), loss(log_p, LENGTHS, LABELS)
    assert torch.equal(ours, theirs)
    (found,), (expected,) = grad(ours.sum(), padded), grad(theirs.sum(), log_p)
    assert torch.equal(found, expected)
    for b in range(5):
        assert not found[b, LENGTHS[b] :].any() and not found[b, :, LABELS[b] + 1 :].any()


@PATHS
def test_what_is_impossible_takes_no_path(loss):
    log_p = some(3)
    log_p[0, 1, 0, 1] = log_p[0, 2, 2, 0] = -torch.inf  # some paths
    log_p[1, :, 1, 1] = -torch.inf  # all of them
    log_p.requires_grad_()
    full = torch.tensor([4, 4, 0]), torch.tensor([3, 3, 3])  # no frames, and labels
    found = loss(log_p, *full)
    expected = by_enumeration(log_p[0], 4, 3)
    assert_same([found[0]], [expected])
    assert found[1:].tolist() == [torch.inf, torch.inf]
    (ours,), (theirs,) = grad(found.sum(), log_p), grad(expected, log_p)
    assert_same([ours[0]], [torch.nan_to_num(theirs[0])])
    assert not ours[1:].any()
    assert loss(log_p[:1], torch.tensor([0]), torch.tensor([0])).tolist() == [0.0]


@PATHS
def test_what_is_no_number_is_not_hidden(loss):
    log_p = some(2)
    log_p[0, 2, 1, 0] = torch.nan
    full = torch.tensor([4, 4]), torch.tensor([3, 3])
    found = loss(log_p.requires_grad_(), *full)
    assert found[0].isnan() and found[1].isfinite()


def test_gradients_can_be_differentiated():
    log_p = some(2, 3, 2).requires_grad_()

    def loss(log_p):
        return transducer_loss(log_p, torch.tensor([3, 2]), torch.tensor([2, 1]))

    assert gradcheck(loss, log_p)
    assert gradgradcheck(loss, log_p)


def test_a_row_has_its_own_bits_and_threads_change_none():
    log_p = some(40, 30, 12, torch.float32).requires_grad_()
    lengths = torch.randint(1, 31, (40,), generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 13, (40,), generator=torch.Generator().manual_seed(1))

    def run(rows):
        found = transducer_loss(log_p[rows], lengths[rows], labels[rows])
        return found, grad(found.sum(), log_p)[0][rows]

    whole = run(slice(None))
    with threads(4):
        assert all(map(torch.equal, run(slice(None)), whole))
    for row in (0, 7, 39):
        alone = run(slice(row, row + 1))
        assert torch.equal(alone[0][0], whole[0][row])
        assert torch.equal(alone[1][0], whole[1][row])


class Joint:
    """Arguments of a joiner, drawn at random."""

    def __init__(self, B=3, T=6, U=4, J=5, V=3):
        shapes = [(B, T, J), (B, U + 1, J), (V + 1, J), (V + 1,)]
        self.leaves = [random(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
        self.targets = torch.randint(V, (B, U), generator=torch.Generator().manual_seed(0))
        self.lengths, self.labels = torch.tensor([6, 2, 4][:B]), torch.tensor([4, 0, 3][:B])
        self.rest = self.targets, self.lengths, self.labels


@pytest.mark.parametrize("chunk", [1, 60, 1 << 20])
def test_scores_in_chunks_are_those_of_the_whole(chunk, monkeypatch):
    monkeypatch.setattr(lattice, "CHUNK", chunk)
    j = Joint()
    ours, theirs = (f(*j.leaves, *j.rest) for f in (joint_log_probs, plain_joint_log_probs))
    assert_same([ours], [theirs])
    weights = random(*ours.shape, seed=9)
    for b in range(3):  # what the loss never asks for
        weights[b, j.lengths[b] :] = weights[b, :, j.labels[b] + 1 :] = 0
        weights[b, :, j.labels[b], 1] = 0
    gradients = [grad((y * weights).sum(), j.leaves) for y in (ours, theirs)]
    assert_same(*gradients)
    e, p, W, bias = (leaf.detach() for leaf in j.leaves)  # one number by hand
    log_p = (W @ (e[2, 1] + p[2, 2]).tanh() + bias).log_softmax(-1)
    assert_same([ours[2, 1, 2]], [torch.stack([log_p[-1], log_p[j.targets[2, 2]]])])


def test_padding_reaches_no_score_and_no_gradient():
    j = Joint()
    e, p, W, bias = (leaf.detach().clone() for leaf in j.leaves)
    for b in range(3):
        e[b, j.lengths[b] :], p[b, j.labels[b] + 1 :] = torch.nan, torch.nan
    targets = j.targets.clone()
    targets[1] = -1
    leaves = [t.requires_grad_() for t in (e, p, W, bias)]
    expected = transducer_loss(joint_log_probs(*j.leaves, *j.rest), *j.rest[1:])
    for joint in (joint_log_probs, plain_joint_log_probs):
        found = transducer_loss(joint(*leaves, targets, *j.rest[1:]), *j.rest[1:])
        assert_same([found], [expected])
        assert_same(grad(found.sum(), leaves), grad(expected.sum(), j.leaves, retain_graph=True))


def test_the_whole_loss_can_be_differentiated_twice():
    j = Joint(B=2, T=3, U=2, J=3, V=2)
    lengths, labels = torch.tensor([3, 2]), torch.tensor([2, 1])

    def loss(*leaves):
        log_p = joint_log_probs(*leaves, j.targets, lengths, labels)
        return transducer_loss(log_p, lengths, labels)

    assert gradcheck(loss, j.leaves)
    assert gradgradcheck(loss, j.leaves)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"log_p is torch.float64 of shape \(4, 4, 2\); expected"):
        transducer_loss(some()[0])
    with pytest.raises(ShapeError, match=r"lengths are \[5, 1, 1, 1, 1\]; expected 0 to 4"):
        transducer_loss(some(), torch.tensor([5, 1, 1, 1, 1]))
    with pytest.raises(ShapeError, match=r"target_lengths are .* expected whole numbers \(5,\)"):
        transducer_loss(some(), None, [1, 2])
    j = Joint()
    with pytest.raises(ShapeError, match="encoded, predicted, weight, bias and targets have"):
        joint_log_probs(*j.leaves, j.targets[:, 1:])
