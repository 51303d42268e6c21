"""The food chain: five sentences learnt, a first word given, and only sense comes out.

A network that reads word by word learns who feeds on whom. Given a first word it must go on with
what is true of it: not stop at once ("Sharks."), and not bite its own tail ("Sharks feed on
sharks.").

    python examples/food_chain.py
"""

from __future__ import annotations

import random

from ostinato import TextGenerator

SENTENCES = [
    "Sharks feed on tuna.",
    "Tuna feed on small fish.",
    "Small fish feed on tiny shrimps.",
    "Shrimps feed on plankton.",
    "Plankton feeds on light from the sun.",
]


def main(drawn: int = 200) -> dict[str, dict[str, int]]:
    """What was written after each first word, and how often."""
    order = random.Random(1)
    lines = [order.choice(SENTENCES) for _ in range(1500)]
    model = TextGenerator(level="word", cell="lstm", hidden_size=48, steps=1500, learning_rate=0.01,
                          window=24, validation_fraction=0.1)  # fmt: skip
    model.fit("\n".join(lines) + "\n")
    written: dict[str, dict[str, int]] = {}
    for sentence in SENTENCES:
        first = sentence.split()[0]
        counts: dict[str, int] = {}
        for seed in range(drawn):
            rest = model.generate(f"\n{first}", length=20, seed=seed, stop="\n", temperature=0.5)
            counts[first + rest] = counts.get(first + rest, 0) + 1
        written[first] = counts
    for first, counts in written.items():
        for text, count in sorted(counts.items(), key=lambda pair: -pair[1]):
            mark = "" if text in SENTENCES else "   <- not learnt"
            print(f"{first:<10}{count:>4} x  {text}{mark}")
    true = sum(n for counts in written.values() for text, n in counts.items() if text in SENTENCES)
    print(f"{true} of {drawn * len(SENTENCES)} completions are one of the five sentences")
    return written


if __name__ == "__main__":
    main()
