"""Attention: its equations by hand."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from laws import random

from ostinato.errors import OstinatoError
from ostinato.networks.attention import Attention


@pytest.mark.parametrize("kind", ["additive", "multiplicative"])
def test_attention_is_its_equation(kind):
    torch.manual_seed(0)
    attend = Attention(4, 3, kind).double()
    query, memory = random(2, 2, 4, seed=1), random(2, 5, 3, seed=2)
    there = torch.tensor([[True] * 5, [True, True, False, True, False]])
    context, weights = attend(query, attend.keys(memory), memory, there)
    Wm = attend.memory.weight.detach().numpy()
    for b, t in product(range(2), range(2)):
        q = query[b, t].numpy()
        e = []
        for s in range(5):
            m = memory[b, s].numpy()
            if kind == "additive":
                a = attend.query.weight.detach().numpy() @ q + attend.query.bias.detach().numpy()
                e.append(float(attend.score.weight.detach().numpy()[0] @ np.tanh(a + Wm @ m)))
            else:
                e.append(float(q @ (Wm @ m)) / math.sqrt(4))
        p = np.where(there[b], np.exp(e), 0)
        p = p / p.sum()
        np.testing.assert_allclose(weights[b, t].detach(), p, rtol=1e-10)
        np.testing.assert_allclose(context[b, t].detach(), p @ memory[b].numpy(), rtol=1e-10)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(OstinatoError, match="kind='dot'; expected one of additive, multipl"):
        Attention(3, 4, "dot")
