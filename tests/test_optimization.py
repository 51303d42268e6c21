"""`ostinato.training.optimization`: what moves the weights equals what is written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.training.optimization import Schedule, clip_gradients, make_optimizer
from ostinato.training.settings import TrainingSettings

OPTIMIZERS = ["sgd", "rmsprop", "adam", "adamw"]


class Affine(nn.Module):
    """A matrix, a bias and a scale."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.matrix = nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(3, generator=generator, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def gradient(step: int, p: Tensor) -> Tensor:
    """Something that changes from step to step and from weight to weight."""
    return torch.sin(step + torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape)


def trained(steps: int, **settings: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights before and after some steps along `gradient`."""
    network = Affine()
    before = weights(network)
    optimizer = make_optimizer(network, TrainingSettings(**settings))
    for step in range(steps):
        for p in network.parameters():
            p.grad = gradient(step, p)
        optimizer.step()
    return before, weights(network)


# The optimizers.


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_finds_the_bottom_of_a_bowl(name: Any) -> None:
    network = Affine()
    settings = TrainingSettings(optimizer=name, learning_rate=0.05, weight_decay=0.0)
    optimizer = make_optimizer(network, settings)
    schedule = Schedule(TrainingSettings(learning_rate=0.05, warmup_steps=0))

    def height() -> Tensor:
        # Ten times as steep along one axis as along another.
        return sum(
            ((p - 1) ** 2 * torch.linspace(0.5, 5, p.numel()).view(p.shape)).sum()
            for p in network.parameters()
        )

    begun = height().item()
    for step in range(1, 401):
        optimizer.zero_grad()
        height().backward()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, 400)
        optimizer.step()
    assert height().item() < 1e-4 * begun


def by_hand(name: str, p: Tensor, steps: int, lr: float, decay: float, momentum: float) -> Tensor:
    """The updates as their papers, and PyTorch's manual, write them."""
    p = p.clone()
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, steps + 1):
        g = gradient(t - 1, p)
        if name != "adamw":
            g = g + decay * p
        if name == "sgd":
            m = momentum * m + g
            p = p - lr * m
        elif name == "rmsprop":
            v = 0.99 * v + 0.01 * g**2
            m = momentum * m + g / (v.sqrt() + 1e-8)
            p = p - lr * m
        else:
            if name == "adamw":
                p = p - lr * decay * p
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g**2
            p = p - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return p


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_update_equals_its_equations(name: Any, decay: float, momentum: float) -> None:
    rates = {"learning_rate": 0.05, "weight_decay": decay, "momentum": momentum}
    before, after = trained(7, optimizer=name, **rates)
    for which, p in before.items():
        # Decay acts on matrices alone.
        expected = by_hand(name, p, 7, 0.05, decay if which == "matrix" else 0.0, momentum)
        torch.testing.assert_close(after[which], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_leaves_biases_alone(name: Any) -> None:
    _, without = trained(5, optimizer=name, learning_rate=0.1, weight_decay=0.0)
    _, decayed = trained(5, optimizer=name, learning_rate=0.1, weight_decay=0.5)
    assert decayed["bias"].equal(without["bias"])
    assert decayed["scale"].equal(without["scale"])
    assert (decayed["matrix"] - without["matrix"]).abs().min() > 1e-5


def test_frozen_weights_are_no_business_of_the_optimizer() -> None:
    network = Affine()
    network.bias.requires_grad_(False)
    optimizer = make_optimizer(network, TrainingSettings())
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(network.matrix), id(network.scale)}


# The learning rate.


def rates(total: int | None, steps: int | None = None, **settings: Any) -> list[float]:
    schedule = Schedule(TrainingSettings(**{"learning_rate": 0.5, **settings}))
    return [schedule.rate(step, total) for step in range(1, (steps or total or 0) + 1)]


def test_warm_up_is_a_straight_line_to_the_full_rate() -> None:
    found = rates(1000, schedule="constant", warmup_steps=40)
    assert found[:40] == pytest.approx([0.5 * step / 40 for step in range(1, 41)], rel=1e-15)
    assert set(found[40:]) == {0.5}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
@pytest.mark.parametrize(("total", "length"), [(300, 30), (1000, 100), (5000, 100), (9, 0)])
def test_warm_up_takes_a_tenth_of_the_run_at_most(schedule: Any, total: int, length: int) -> None:
    settings = {"schedule": schedule, "warmup_steps": 100, "decay_steps": 10**6}
    found = rates(total, **settings)
    peak = max(found)
    assert peak <= 0.5
    assert found.index(peak) == max(0, length - 1)
    if length:
        assert found[0] == 0.5 / length and peak == 0.5


def test_no_warm_up_begins_at_the_full_rate() -> None:
    assert rates(100, schedule="constant", warmup_steps=0) == [0.5] * 100
    assert rates(100, schedule="cosine", warmup_steps=0)[0] == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("total", [1, 2, 9, 10, 11, 77, 1000])
def test_cosine_is_half_a_wave_that_ends_at_a_hundredth(total: int) -> None:
    warmup = min(20, total // 10)
    found = rates(total, schedule="cosine", warmup_steps=20)
    assert found[-1] == pytest.approx(0.005, rel=1e-12)
    for step in range(warmup + 1, total + 1):
        angle = math.pi * (step - warmup) / (total - warmup)
        # The same in another form: cos² of the half angle.
        expected = 0.5 * (0.01 + 0.99 * math.cos(angle / 2) ** 2)
        assert found[step - 1] == pytest.approx(expected, rel=1e-12)
    assert all(a > b for a, b in zip(found[warmup:], found[warmup + 1 :], strict=False))


def test_step_decays_at_its_interval() -> None:
    found = rates(50, schedule="step", warmup_steps=0, decay_factor=0.1, decay_steps=20)
    expected = [0.5] * 19 + [0.05] * 20 + [0.005] * 11
    assert found == pytest.approx(expected, rel=1e-12)


def test_step_decays_each_quarter_if_not_told() -> None:
    found = rates(400, schedule="step", warmup_steps=0, decay_factor=0.5)
    assert [found[i] for i in (0, 98, 99, 198, 199, 298, 299, 398)] == [
        0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625,
    ]  # fmt: skip
    assert len(rates(3, schedule="step")) == 3, "a run shorter than four steps"


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
def test_the_rate_holds_while_the_length_of_the_run_is_unknown(schedule: Any) -> None:
    found = rates(None, 300, schedule=schedule, warmup_steps=100)
    assert found[:100] == pytest.approx([0.5 * step / 100 for step in range(1, 101)])
    assert found[100:] == [0.5] * 200


def plateau(losses: list[float], **settings: Any) -> list[float]:
    """The rate after each evaluation."""
    schedule = Schedule(TrainingSettings(learning_rate=1.0, warmup_steps=0, **settings))
    found = []
    for loss in losses:
        schedule.observe(loss)
        found.append(schedule.rate(5, 10))
    return found


def test_plateau_decays_when_it_has_waited_enough() -> None:
    losses = [3.0, 2.0, 2.0, 2.5, 2.5, 2.4, 1.0, 1.0, 1.1, 0.9]
    settings: dict[str, Any] = {"schedule": "plateau", "decay_factor": 0.5}
    waits = {
        0: [1, 1, 0.5, 0.25, 0.125, 0.0625, 0.0625, 0.03125, 0.015625, 0.015625],
        1: [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125],
        2: [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    }
    for patience, expected in waits.items():
        assert plateau(losses, decay_patience=patience, **settings) == expected
    assert plateau([math.nan] * 4, decay_patience=0, **settings) == [0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_the_other_schedules_do_not_listen(schedule: Any) -> None:
    assert len(set(plateau([1.0, 2.0, 3.0, math.nan, 9.0], schedule=schedule))) == 1


def test_a_schedule_goes_on_from_its_state() -> None:
    settings = TrainingSettings(schedule="plateau", decay_patience=1, learning_rate=1.0)
    losses = [3.0, 2.0, 2.1, 2.2, 2.3, 1.0, 1.1, 1.2, 1.3]
    for cut in range(len(losses)):
        whole, first, second = Schedule(settings), Schedule(settings), Schedule(settings)
        whole.scale = first.scale = 0.5
        for loss in losses[:cut]:
            whole.observe(loss)
            first.observe(loss)
        second.load_state_dict(first.state_dict())
        for loss in losses[cut:]:
            whole.observe(loss)
            second.observe(loss)
            assert second.rate(200, 1000) == whole.rate(200, 1000)
        assert second.state_dict() == whole.state_dict()


def test_scale_multiplies_every_rate() -> None:
    for name in ("constant", "cosine", "step", "plateau"):
        whole, halved = (Schedule(TrainingSettings(schedule=name)) for _ in range(2))
        halved.scale = 0.5
        for step in (1, 50, 100, 101, 500, 1000):
            assert halved.rate(step, 1000) == pytest.approx(whole.rate(step, 1000) / 2, rel=1e-14)


# Clipping.


def with_gradients(*lists: list[float] | None) -> list[Tensor]:
    parameters = []
    for numbers in lists:
        p = torch.zeros(1 if numbers is None else len(numbers), dtype=torch.float64)
        p.grad = None if numbers is None else torch.tensor(numbers, dtype=torch.float64)
        parameters.append(p)
    return parameters


def flat(parameters: list[Tensor]) -> Tensor:
    return torch.cat([p.grad for p in parameters if p.grad is not None])


def test_clipping_by_norm_keeps_the_direction() -> None:
    parameters = with_gradients([3.0, -4.0], None, [12.0])
    before = flat(parameters)
    assert clip_gradients(parameters, norm=2.0, value=0.0) == pytest.approx(13.0, rel=1e-12)
    after = flat(parameters)
    torch.testing.assert_close(after, before * 2 / 13, rtol=1e-6, atol=0)
    assert 2 * (1 - 1e-6) < after.norm() <= 2
    assert parameters[1].grad is None


def test_gradients_within_the_norm_are_left_as_they_are() -> None:
    for norm in (13.0, 14.0, 0.0):
        parameters = with_gradients([3.0, -4.0], [12.0])
        assert clip_gradients(parameters, norm, 0.0) == 13.0
        assert flat(parameters).tolist() == [3, -4, 12]


def test_clipping_by_value_cuts_elements() -> None:
    parameters = with_gradients([3.0, -4.0, 0.5], [12.0])
    assert clip_gradients(parameters, 0.0, 2.5) == pytest.approx(13.009611, rel=1e-6)
    assert flat(parameters).tolist() == [2.5, -2.5, 0.5, 2.5]


def test_the_norm_comes_before_the_value() -> None:
    parameters = with_gradients([3.0, -4.0])
    assert clip_gradients(parameters, 2.5, 1.8) == 5.0
    torch.testing.assert_close(
        flat(parameters), torch.tensor([1.5, -1.8]).double(), rtol=1e-6, atol=0
    )


def test_zero_is_off_and_nothing_is_nothing() -> None:
    parameters = with_gradients([1e30, -1e-30])
    assert clip_gradients(parameters, 0.0, 0.0) == 1e30
    assert flat(parameters).tolist() == [1e30, -1e-30]
    assert clip_gradients(with_gradients(None), 1.0, 1.0) == 0.0
    zeros = with_gradients([0.0, 0.0])
    assert clip_gradients(zeros, 1.0, 1.0) == 0.0
    assert flat(zeros).tolist() == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(bad: float) -> None:
    parameters = with_gradients([1.0, bad], [2.0])
    assert not math.isfinite(clip_gradients(parameters, 1.0, 0.0))
    assert parameters[1].grad is not None and parameters[1].grad.tolist() == [2.0], "as it was"


@pytest.mark.parametrize("norm", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("value", [0.01, 10.0])
def test_clipping_equals_torch(norm: float, value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = [[torch.zeros(shape) for shape in ((4, 3), (7,), ())] for _ in range(2)]
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    expected = nn.utils.clip_grad_norm_(theirs, norm)
    nn.utils.clip_grad_value_(theirs, value)
    assert clip_gradients(iter(ours), norm, value) == float(expected)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


def test_patience_without_validation_is_refused() -> None:
    settings = TrainingSettings(patience=2, validation_fraction=0)
    with pytest.raises(OstinatoError, match="patience=2 needs validation data"):
        settings.check_settings()
