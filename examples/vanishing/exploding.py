"""Gradients that explode: named, clipped, and learnt all the same.

A network whose recurrent weights are nearly twice too large is to say which of four waves it hears.
Without clipping it is thrown to where it learns nothing any more. The diagnosis names it and the
remedy before the first step, and with that remedy alone, gradients clipped to a norm of 1, the very
same network learns.

    python examples/vanishing/exploding.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ostinato import RNN, diagnose
from ostinato.insight import Diagnosis
from ostinato.networks import ManyToOne, Output
from ostinato.training.optimization import clip_gradients

STEPS = 50
TOO_LARGE = 1.8


def waves(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy waves of four speeds, ``(rows, STEPS, 1)``, and which."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (rows,), generator=random)
    t = torch.arange(STEPS)[None] * (0.1 + 0.1 * y[:, None])
    phase = 6.28 * torch.rand(rows, 1, generator=random)
    x = torch.sin(t + phase) + 0.1 * torch.randn(rows, STEPS, generator=random)
    return x[..., None], y


def made() -> ManyToOne:
    """A network with recurrent weights so many times too large."""
    torch.manual_seed(0)
    layer = RNN(1, 64, init="orthogonal", batch_first=True)
    with torch.no_grad():
        layer.weight_hh_l0 *= TOO_LARGE
    return ManyToOne(nn.Identity(), layer, Output(64, 4))


def train(network: ManyToOne, clip_norm: float) -> list[dict[str, Any]]:
    """Records of 2,000 steps."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    records: list[dict[str, Any]] = []
    for step in range(1, 2001):
        optimizer.zero_grad()
        loss, _ = network.loss(*waves(64, seed=step))
        torch.autograd.backward(loss)
        norm = clip_gradients(list(network.parameters()), clip_norm, 0.0)
        optimizer.step()
        records.append({"step": step, "loss": loss.item(), "gradient_norm": norm})
    return records


def right(network: ManyToOne) -> float:
    """The share of new waves that is told right."""
    x, y = waves(500, seed=0)
    with torch.no_grad():
        return float((network(x)[0].argmax(-1) == y).float().mean())


def main() -> tuple[Diagnosis, float, float]:
    """The diagnosis, and what is right without the remedy and with it."""
    data = waves(32, seed=0)
    found = diagnose(made(), data)
    print(f"{found.findings[0]}\n")
    shares = []
    for clip_norm in (0.0, 1.0):
        print(f"clipped to {clip_norm:g}" if clip_norm else "not clipped")
        network = made()
        records = train(network, clip_norm)
        shares.append(right(network))
        worst = max(record["gradient_norm"] for record in records)
        after = diagnose(network, data, history=records)
        print(
            f"  largest gradient {worst:.3g}; last loss {records[-1]['loss']:.3f}; "
            f"{shares[-1]:.1%} of new waves told right; diagnosis: {after.first or 'healthy'}\n"
        )
    return found, *shares


if __name__ == "__main__":
    main()
