"""A character model as one writes it in PyTorch by hand: what `ostinato train text` is timed with.

    python benchmarks/plain_text.py book.txt --config examples/shakespeare.toml --out metrics.jsonl

The same network, batches, window, carried state, clipping and optimizer; one record a step.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import tomllib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """Embedding, one recurrent layer, dropout, output."""

    def __init__(self, cell: str, V: int, H: int, dropout: float) -> None:
        super().__init__()
        I = min(H, 16 * math.ceil(V / 16))
        self.embedding = nn.Embedding(V, I)
        self.recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](
            I, H, batch_first=True
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(H, V)

    def forward(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Scores ``(B, T, V)`` of tokens ``(B, T)``, and the state after them."""
        h, state = self.recurrent(self.embedding(x), state)
        return self.output(self.dropout(h)), state


def detached(state: Any) -> Any:
    """A state cut off from how it came about."""
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


def main() -> None:
    """Train until somebody ends it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the sizes")
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--out", type=Path, required=True, help="file for the records")
    a = parser.parse_args()
    settings = tomllib.loads(a.config.read_text(encoding="utf-8"))
    B, T, rate = settings["batch_size"], settings["window"], settings["learning_rate"]

    text = a.text.read_text(encoding="utf-8")
    places = {character: i for i, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([places[character] for character in text[: len(text) * 9 // 10]])
    n = (len(tokens) - 1) // B
    inputs, targets = tokens[: B * n].view(B, n), tokens[1 : B * n + 1].view(B, n)

    torch.manual_seed(0)
    model = Model(a.cell, len(places), settings["hidden_size"], settings["dropout"])
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    model.train()
    step, seen, start_time = 0, 0, time.perf_counter()
    with a.out.open("w", buffering=1, encoding="utf-8") as records:
        while True:
            state = None
            for start in range(0, n, T):
                x, y = inputs[:, start : start + T], targets[:, start : start + T]
                scores, state = model(x, state)
                loss = nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, (step + 1) / 100)
                optimizer.step()
                state = detached(state)
                step, seen = step + 1, seen + y.numel()
                seconds = time.perf_counter() - start_time
                record = {"step": step, "loss": loss.item(), "tokens": seen, "seconds": seconds}
                records.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
