"""What linear cells compute number by number, in one pass: each number as if it came alone."""

import math
from typing import ClassVar

import pytest
import torch
from laws import LINEAR, Case, with_gradients
from layer_cases import threads
from test_kernels import all_equal
from tolerances import assert_same
from torch.nn.functional import linear

from ostinato.recurrence.backends import run, use_backend
from ostinato.recurrence.backends.diagonal import (
    COMPILED,
    FUSED,
    compiled_recurrence,
    compiled_selection,
)
from ostinato.recurrence.backends.fused import Lazy, as_lazy, settled
from ostinato.recurrence.cells import PLAIN, LinearCell, Steps
from ostinato.recurrence.diagonal import scan_linear

TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
LENGTHS = torch.tensor([21, 0, 5, 21])


class Odd(LinearCell):
    """Features that overlap, wide and narrow ones, numbers, and functions that the core has not."""

    gates_type: ClassVar = None

    def weight_shapes(self):
        H = self.hidden_size
        shapes = {"weight_ih": (2 * H + 1, self.input_size), "gain": (H,), "scale": ()}
        return shapes | {"weight_o": (H, H)}

    def steps(self, w, seen, f=PLAIN):
        H, u = self.hidden_size, seen[-1]
        one, two, middle, narrow = u[..., :H], u[..., H : 2 * H], u[..., 1 : H + 1], u[..., 2 * H :]
        a = f.sigmoid(one) * torch.tanh(w["gain"]).square()
        b = (2 / (1 + f.exp(-two)) - 1) * w["scale"] + middle.square() * f.sigmoid(narrow)
        c = f.linear(f.silu(one) / (3 - f.tanh(two)), w["weight_o"])
        d = torch.cat([one[..., :2] + 1, f.softplus(two)[..., 2:]], dim=-1)
        return Steps(a, b + c.clamp_min(0.0) - d + f.sqrt(two * two + 0.5).flip(-1))


CELLS = LINEAR | {"odd": Odd(3, 6)}
NAMES = pytest.mark.parametrize("name", CELLS)


@TYPES
@NAMES
def test_a_pass_has_the_bits_of_function_after_function(name, dtype):
    cell = CELLS[name]
    case = Case(cell, T=21, B=4, dtype=dtype)
    for lengths in (None, LENGTHS):
        found = []
        for f in (COMPILED, FUSED):
            with use_backend("compiled"), torch.no_grad():
                if f is FUSED:
                    state = tuple(s[None] for s in case.state)
                    y, last = run(cell, [case.w], case.x, cell.state_type(*state), lengths)
                    found.append([y, *(s[0] for s in last)])
                    continue
                ways = compiled_recurrence, compiled_selection, f
                x = case.x if lengths is None else _without_padding(case.x, lengths)
                y, last = scan_linear(cell, case.w, x, case.state, lengths, *ways)
                found.append([y, *last])
        assert all_equal(*found)


def _without_padding(x, lengths):
    return torch.where((torch.arange(len(x))[:, None] < lengths)[..., None], x, 0.0)


@TYPES
@NAMES
def test_values_and_gradients_are_those_of_the_reference_on_any_number_of_threads(name, dtype):
    cell = CELLS[name]
    case = Case(cell, T=21, B=4, dtype=dtype)
    state = cell.state_type(*(s.detach()[None].requires_grad_() for s in case.state))

    def results():
        return with_gradients(
            run(cell, [case.w], case.x, state, LENGTHS), [case.x, *state, *case.w.values()]
        )

    found = []
    for count in (1, 3):
        with threads(count):
            found.append(results())
    assert all_equal(*found)
    with use_backend("reference"):
        assert_same(found[0], results())


@pytest.mark.parametrize("name", ["rg-lru", "sru", "odd"])
def test_gradients_have_gradients(name):
    cell = CELLS[name]
    case = Case(cell, T=5, B=2)

    def penalty():
        y, _ = run(cell, [case.w], case.x)
        (g,) = torch.autograd.grad(y.square().sum(), [case.x], create_graph=True)
        return torch.autograd.grad(g.square().sum(), [case.x, *case.w.values()], allow_unused=True)

    ours = [g for g in penalty() if g is not None]
    with use_backend("reference"):
        assert_same(ours, [g for g in penalty() if g is not None])


def test_only_what_needs_a_gradient_has_one():
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    gain = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (y,) = settled(FUSED.tanh(as_lazy(x) * gain))
    (g,) = torch.autograd.grad(y.sum(), [gain])
    torch.testing.assert_close(g, ((1 - (x * gain).tanh() ** 2) * x).sum((0, 1)))


def test_functions_are_computed_when_they_are_asked_for_and_once():
    x = torch.randn(3, 2, 4)
    y = FUSED.exp(as_lazy(x)) / 2
    assert isinstance(y, Lazy) and y.source is None and y.shape == (3, 2, 4)
    first, second = y.value, settled(y, -y)[0]
    assert first is second
    torch.testing.assert_close(first, x.exp() / 2)
    assert torch.equal(torch.cumsum(y, 0), torch.cumsum(first, 0))
    z = FUSED.linear(y, torch.eye(4)[:3])
    torch.testing.assert_close(z.value, linear(first, torch.eye(4)[:3]))


@TYPES
def test_a_function_has_its_slope_at_the_ends_of_its_range(dtype):
    numbers = [-math.inf, -200.0, -30.0, -1.0, 0.0, 1e-12, 1.0, 30.0, 200.0, math.inf, math.nan]
    x = torch.tensor(numbers, dtype=dtype).expand(2, 1, -1).clone().requires_grad_()
    for name in ("sigmoid", "tanh", "exp", "softplus", "silu", "sqrt"):
        found = []
        for f in (COMPILED, FUSED):
            y = getattr(f, name)(x)
            (y,) = settled(y)
            found.append([y, *torch.autograd.grad(y.sum(), [x])])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        some = torch.tensor([[[0.1, 0.7, 2.0]]], dtype=torch.float64, requires_grad=True)
        torch.autograd.gradgradcheck(lambda t, name=name: getattr(COMPILED, name)(t), [some])
    y = as_lazy(x).clamp_min(1.0).value
    (g,) = torch.autograd.grad(y.sum(), [x])
    (known,) = torch.autograd.grad(x.clamp_min(1.0).sum(), [x])
    assert torch.equal(g, known)
