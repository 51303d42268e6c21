"""Dropout: the share that it is told, at all places alike."""

import pytest
import torch

from ostinato.networks.functional import drop


@pytest.mark.parametrize("p", [2**-16, 0.1, 0.5, 0.9, 1 - 2**-16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1000, 801)])
def test_dropout_zeroes_the_share_it_is_told_and_scales_the_rest(p, shape):
    x = torch.full(shape, 2.0, requires_grad=True)
    torch.manual_seed(3)
    y = drop(x, p)
    y.sum().backward()
    kept = y != 0
    rounded = round(p * 2**16) / 2**16
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 2 / (1 - rounded)))
    torch.testing.assert_close(x.grad, y / 2)
    n = x.numel()
    assert abs(int((~kept).sum()) - p * n) <= 6 * (p * (1 - p) * n) ** 0.5 + 1
    torch.manual_seed(3)
    assert torch.equal(drop(x, p), y), "the seed decides"


def test_dropout_treats_all_places_alike_and_neighbours_independently():
    torch.manual_seed(1)
    kept = (drop(torch.ones(200_000, 4), 0.3) != 0).double()
    torch.testing.assert_close(kept.mean(0), torch.full((4,), 0.7).double(), atol=0.006, rtol=0)
    off_diagonal = torch.corrcoef(kept.T) - torch.eye(4)
    assert off_diagonal.abs().max() < 0.012


def test_dropout_of_nothing_and_of_all():
    x = torch.randn(4, 5)
    assert torch.equal(drop(x, 0.0), x)
    assert not drop(x, 1.0).any()
