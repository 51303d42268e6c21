"""`ostinato.training.health`: what ails is named, and what is well is left in peace."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from learning import V, network, tokens
from torch import Tensor, nn

from ostinato.training.health import STEPS, Monitor, first_nonfinite

# Runs that go wrong.


def said(losses: list[float], norms: list[float] | None = None, **settings: float) -> Any:
    """What a monitor says of a run, with the steps it says it at."""
    monitor = Monitor(**settings)
    norms = norms or [1.0] * len(losses)
    return [
        (step, message)
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
        for message in monitor.observe(step, loss, norm)
    ]


def risen(step: int, steps: int, by: float = 1.0) -> list[float]:
    """A loss of one that rises at a step."""
    return [1.0] * step + [1.0 + by] * (steps - step)


def test_a_spike_after_which_the_loss_rises_is_said_with_what_bounds_it() -> None:
    norms = [1.0, 3.0] * 30 + [25.0] + [2.0] * 60
    ((step, message),) = said(risen(61, 121), norms)
    assert step == 61 + STEPS
    assert message == (
        "exploding gradients: of norm 25, 12 times the usual 2, at step 61, and the loss rose from "
        "1 to 2; clip_norm=3 bounds them"
    )
    ((_, message),) = said(risen(61, 121), norms, clip_norm=0.5)
    assert message.endswith("; try a clip_norm below 0.5, or a lower learning rate")


def test_a_spike_that_does_no_harm_is_not_said() -> None:
    norms = [1.0] * 60 + [50.0] + [1.0] * 60
    assert not said([1.0] * 121, norms)
    assert not said(risen(61, 121, by=0.09), norms)
    assert said(risen(61, 121, by=0.11), norms)


def test_a_spike_is_said_once() -> None:
    norms = [100.0 if step % 50 == 30 else 1.0 for step in range(1, 401)]
    losses = [1.0 + step // 50 for step in range(400)]
    assert [step for step, _ in said(losses, norms)] == [30 + STEPS]
    monitor = Monitor()
    found = 0
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        found += len(monitor.observe(step, loss, norm))
        if step == 200:
            monitor.forget()
    assert found == 2, "again where it was taken back"


def test_ten_times_the_usual_is_the_bound() -> None:
    losses = risen(60, 110)
    assert not said(losses, [1.0] * 59 + [10.0] + [1.0] * 50)
    assert said(losses, [1.0] * 59 + [10.1] + [1.0] * 50)
    assert not said(losses, [1.0] * 59 + [10.1] + [1.0] * 50, spike=20.0)


def test_rare_large_gradients_of_what_is_learnt_are_no_explosion() -> None:
    norms, losses = [2.0] * 30 + [0.01] * 100 + [3.0] + [0.01] * 100, risen(131, 231)
    assert not said(losses, norms)
    assert said(losses, [*norms[:130], 21.0, *norms[131:]])


def test_a_loss_that_has_fallen_to_nothing_may_swing() -> None:
    falling = [1.0 * 0.9**step for step in range(80)]
    swinging = [0.02 if step % 2 else 0.002 for step in range(120)]
    assert not said(falling + swinging, [1.0] * 200)
    assert said(falling + [50 * loss for loss in swinging], [1.0] * 200)


def test_the_first_steps_are_no_measure() -> None:
    losses = risen(21, 71)
    assert not said(losses, [1.0] * 19 + [1000.0] + [1.0] * 51)
    assert said(losses, [1.0] * 20 + [1000.0] + [1.0] * 50)
    assert not said(risen(100, 150), [0.0] * 99 + [1.0] * 51), "no gradient at all is no measure"


def test_a_loss_that_oscillates_is_said_once() -> None:
    losses = [3 * 0.97**step + 1 for step in range(150)]
    losses += [4.0 if step % 2 else 1.2 for step in range(200)]
    ((step, message),) = said(losses)
    assert 155 <= step - STEPS // 2 + 1 <= 165
    assert re.match(r"the loss oscillates: it swings by [12]\.\d+ a step around ", message)
    assert message.endswith("and was at 1.06; try a lower learning rate or clip_norm")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch_size", "window"), [(8, 16), (1, 4)])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_rate_much_too_high_is_heard_in_a_real_run(
    kind: str, batch_size: int, window: int, seed: int
) -> None:
    losses = real_losses(kind, 150, 300, batch_size, window, seed)
    found = [step for step, message in said(losses) if "oscillates" in message]
    assert found and found[0] > 150, "healthy before, said after"


def real_losses(
    kind: str, healthy: int, steps: int, batch_size: int, window: int, seed: int
) -> list[float]:
    """Losses of an LSTM whose learning rate is raised far too high after the healthy steps."""
    torch.manual_seed(seed)
    ids = torch.from_numpy(tokens(2000))
    embedding, lstm = nn.Embedding(V, 8), nn.LSTM(8, 16, batch_first=True)
    output = nn.Linear(16, V)
    weights = [p for module in (embedding, lstm, output) for p in module.parameters()]
    low, high = (0.1, 20.0) if kind == "sgd" else (0.01, 2.0)
    optimizer = (
        torch.optim.SGD(weights, lr=low, momentum=0.9)
        if kind == "sgd"
        else torch.optim.Adam(weights, lr=low)
    )
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = low if step < healthy else high
        starts = torch.randint(len(ids) - window, (batch_size, 1))
        text = ids[starts + torch.arange(window + 1)]
        scores = output(lstm(embedding(text[:, :-1]))[0])
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Runs that are well.

LEVELS: dict[str, Callable[[int], float]] = {
    "falls": lambda step: 1.5 + 2 * math.exp(-step / 300),
    "falls to nothing": lambda step: 3 * math.exp(-step / 200),
    "stands": lambda step: 2.0,
    "falls below zero": lambda step: 2 - 5 * (1 - math.exp(-step / 300)),
    "stands at zero": lambda step: 0.0,
    "jumps down": lambda step: 3.0 if step < 400 else 0.5,
}


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_noise_is_not_taken_for_an_illness(level: Callable[[int], float], noise: float) -> None:
    for seed in range(4):
        draw = random.Random(seed)
        # Both as losses are: above zero with noise that grows with them, and anywhere.
        for kind in ("gamma", "normal"):
            losses, norms = [], []
            for step in range(1, 1201):
                at = level(step)
                if not noise:
                    losses.append(at)
                elif kind == "gamma":
                    losses.append(at * draw.gammavariate(noise**-2, noise**2))
                else:
                    losses.append(at + noise * draw.gauss(0, 1))
                norms.append((1 + math.exp(-step / 300)) * draw.lognormvariate(0, noise))
            assert said(losses, norms) == []


def test_harder_data_are_no_oscillation() -> None:
    """The loss rises, and swings no more than it did."""
    for seed in range(8):
        draw = random.Random(seed)
        losses = [(1.0 if step < 500 else 1.9) + draw.gauss(0, 0.38) for step in range(1000)]
        assert said(losses) == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_tiny_batches_are_no_illness(kind: str, seed: int) -> None:
    losses = real_losses(kind, 400, 400, batch_size=2, window=8, seed=seed)
    swing = sum(abs(b - a) for a, b in pairwise(losses[-100:])) / 99
    assert swing > 0.2 * sum(losses[-100:]) / 100, "noisy indeed"
    assert said(losses) == []


# What is not finite.


def ailing(plant: Callable[[nn.Module], object]) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A network with something wrong in it, after a backward pass, and its forward pass."""
    net = network(num_layers=2)
    ids = torch.from_numpy(tokens(22)).view(2, 11)

    def forward() -> Tensor:
        return net.loss(ids[:, :-1], ids[:, 1:])[0]

    forward().backward()
    plant(net)
    return net, forward


def spoil(module: nn.Module, bad: float) -> None:
    """Let one number of what a module gives be bad."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        first = first.clone()
        first[0, 0, 0] = bad
        return (first, *output[1:]) if isinstance(output, tuple) else first

    module.register_forward_hook(hook)


def plant_weight(name: str, bad: float) -> Callable[[nn.Module], None]:
    def plant(net: nn.Module) -> None:
        with torch.no_grad():
            net.get_parameter(name).view(-1)[-1] = bad

    return plant


def plant_gradient(name: str, bad: float) -> Callable[[nn.Module], None]:
    def plant(net: nn.Module) -> None:
        gradient = net.get_parameter(name).grad
        assert gradient is not None
        gradient.view(-1)[-1] = bad

    return plant


PLANTS: dict[str, Callable[[float], Callable[[nn.Module], object]]] = {
    **{
        f"weight {name}": lambda bad, name=name: plant_weight(name, bad)
        for name, _ in network(num_layers=2).named_parameters()
    },
    "output of encode": lambda bad: lambda net: spoil(net.encode, bad),
    "output of recurrent": lambda bad: lambda net: spoil(net.recurrent, bad),
    "output of output.linear": lambda bad: lambda net: spoil(net.output.linear, bad),
    **{
        f"gradient of {name}": lambda bad, name=name: plant_gradient(name, bad)
        for name, _ in network(num_layers=2).named_parameters()
    },
    "the norm of the gradients": lambda bad: lambda net: None,
}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", PLANTS)
def test_the_first_that_is_not_finite_is_named(name: str, bad: float) -> None:
    net, forward = ailing(PLANTS[name](bad))
    hooks = [len(module._forward_hooks) for module in net.modules()]
    torch.manual_seed(5)
    random_state = torch.get_rng_state()

    def drawing() -> Tensor:
        torch.rand(3)
        return forward()

    assert first_nonfinite(net, drawing) == name
    assert torch.get_rng_state().equal(random_state)
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert torch.is_grad_enabled()


def test_the_loss_and_the_input_are_named() -> None:
    net, forward = ailing(lambda net: None)
    assert first_nonfinite(net, lambda: forward() * math.nan) == "the loss"
    vectors = nn.Linear(2, 2)
    x = torch.tensor([[1.0, math.inf]])
    assert first_nonfinite(vectors, lambda: vectors(x).sum()) == "input of the network"
    both = nn.Sequential(nn.Tanh(), vectors)
    assert first_nonfinite(both, lambda: both(x).sum()) == "input of 0"


def test_the_search_moves_no_statistics() -> None:
    net, x = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.randn(5, 2)
    before = [buffer.clone() for buffer in net.buffers()]
    assert first_nonfinite(net, lambda: net(x).sum() * math.nan) == "the loss"
    assert all(map(torch.equal, net.buffers(), before))


def test_a_state_that_is_not_finite_is_an_input() -> None:
    net = network()
    ids = torch.from_numpy(tokens(12)).view(2, 6)
    _, state = net(ids)
    state.c[..., 0] = math.nan
    name = first_nonfinite(net, lambda: net.loss(ids[:, 1:], ids[:, :-1], state)[0])
    assert name == "input of recurrent"


def test_of_several_gradients_the_one_nearest_to_the_loss_is_named() -> None:
    def plant(net: nn.Module) -> None:
        for p in net.parameters():
            assert p.grad is not None
            p.grad.fill_(math.nan)

    assert first_nonfinite(*ailing(plant)) == "gradient of output.linear.bias"


def test_hooks_are_removed_and_the_random_state_kept_though_the_forward_pass_fails() -> None:
    net, _ = ailing(lambda net: None)
    random_state = torch.get_rng_state()

    def fails() -> Tensor:
        torch.rand(1)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        first_nonfinite(net, fails)
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.get_rng_state().equal(random_state)
    assert torch.is_grad_enabled()
