"""What eight bits a weight cost a trained model: nats a character, streamed, beside all bits.

    python benchmarks/int8_accuracy.py book.txt     any text; without one, Python's own sources

Trains a character model, then lets it predict held-out text one character at a time, by a stream
with its weights as they are and by one with eight bits of each.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from end_to_end import own_sources
from speed import RESULTS, machine
from torch.nn.functional import cross_entropy

import ostinato


def streamed_nats(model: ostinato.TextGenerator, text: str, quantize: str | None) -> float:
    """Nats a character of a text after its first, its characters given one by one."""
    network = model.network_.eval()
    tokens = torch.tensor([int(i) for i in model.vocabulary_.encode(text)])
    with torch.no_grad():
        stream = ostinato.Stream(network.recurrent, quantize=quantize)  # type: ignore[arg-type]
        h = stream.run(network.encode(tokens[:-1]))  # (T, H)
        return cross_entropy(network.output(h), tokens[1:]).item()


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
            full, rounded = (streamed_nats(model, held_out, q) for q in (None, "int8"))
            rows.append({"cell": cell, "H": size, "float32": full, "int8": rounded})
            print(
                f"{cell} {size}: {full:.4f} nats a character in float32, {rounded:.4f} in int8 "
                f"({100 * math.expm1(rounded - full):+.2f} % perplexity)",
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
