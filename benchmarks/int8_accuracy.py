"""What eight bits a weight cost a trained model: nats a character, streamed, beside all bits.

    python benchmarks/int8_accuracy.py book.txt     any text; without one, Python's own sources

Trains a character model, then lets it predict held-out text one character at a time, by a stream
with its weights as they are and by one with eight bits of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from end_to_end import own_sources
from speed import RESULTS, machine
from torch import Tensor
from torch.nn.functional import cross_entropy

import ostinato


def streamed(
    model: ostinato.TextGenerator, text: str, quantize: str | None
) -> tuple[float, Tensor]:
    """Nats a character of a text after its first, given one by one, and all probabilities."""
    network = model.network_.eval()
    tokens = torch.tensor([int(i) for i in model.vocabulary_.encode(text)])
    with torch.no_grad():
        stream = ostinato.Stream(network.recurrent, quantize=quantize)  # type: ignore[arg-type]
        h = stream.run(network.encode(tokens[:-1]))  # (T, H)
        scores = network.output(h)
        return cross_entropy(scores, tokens[1:]).item(), scores.softmax(-1)


def main() -> None:
    """Train a model of each kind and size, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path, nargs="?", help="a text file")
    parser.add_argument("--steps", type=int, default=400, help="steps of training")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], help="hidden units")
    parser.add_argument("--out", type=Path, default=RESULTS / "int8_accuracy.json")
    arguments = parser.parse_args()
    if arguments.text is None:
        text, source = own_sources(), "Python's standard library"
    else:
        text, source = arguments.text.read_text(encoding="utf-8"), arguments.text.name
    seen, held_out = text[: -len(text) // 20], text[-len(text) // 20 :][:20_000]
    rows = []
    for cell in ("lstm", "gru"):
        for size in arguments.sizes:
            model = ostinato.TextGenerator(
                cell=cell, hidden_size=size, steps=arguments.steps, window=64, seed=0
            )
            model.fit(seen)
            (full, p), (rounded, q) = (streamed(model, held_out, how) for how in (None, "int8"))
            largest = (p - q).abs().max().item()
            row = {"float32": full, "int8": rounded, "largest": largest}
            rows.append({"cell": cell, "H": size} | row)
            print(
                f"{cell} {size}: {full:.4f} nats a character in float32, {rounded:.4f} in int8; "
                f"probabilities differ by up to {largest:.3f}",
                flush=True,
            )
    record = {
        "machine": machine(torch.get_num_threads()),
        "text": source,
        "steps": arguments.steps,
        "rows": rows,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
