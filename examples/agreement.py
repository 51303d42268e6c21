"""A unit that keeps the number of the subject until a new subject comes.

A small LSTM learns sentences such as "the dogs near the old house that my uncle built sleep .",
word by word. To write the verb it must remember whether the subject, many words before, was one or
many, whatever nouns came in between. The unit of its cell that does so is found by how well it
follows the number of the subject, and shown over sentences that it has not met.

    python examples/agreement.py
"""

from __future__ import annotations

import random
from math import nan

from ostinato import TextGenerator
from ostinato.insight import Gates, Unit, gates, overlay

NOUNS = [("dog", "dogs"), ("cat", "cats"), ("bird", "birds"), ("teacher", "teachers")]
VERBS = [("sleeps", "sleep"), ("sings", "sing"), ("waits", "wait"), ("laughs", "laugh")]
BETWEEN = ["near the {}", "behind the old {}", "next to some {}", "that knows the {}"]
ADVERBS = ["today", "again", "in peace", "all day long"]


def sentences(N: int, seed: int) -> tuple[list[list[str]], list[list[float]]]:
    """N sentences as words, and for each word the number of the subject: 0 one, 1 many.

    It counts from the subject to its verb; elsewhere it is NaN.
    """
    draw = random.Random(seed)
    found, labels = [], []
    for _ in range(N):
        many = draw.random() < 0.5
        words = ["the", draw.choice(NOUNS)[many]]
        for _ in range(draw.randrange(3)):
            other = draw.choice(NOUNS)[draw.random() < 0.5]
            phrase = draw.choice(BETWEEN).format(other)
            if many:
                phrase = phrase.replace("knows", "know")
            words += phrase.split()
        labels.append([nan, *[float(many)] * (len(words) - 1)])
        words += [draw.choice(VERBS)[many], *draw.choice(ADVERBS).split(), "."]
        labels[-1] += [nan] * (len(words) - len(labels[-1]))
        found.append(words)
    return found, labels


def main() -> tuple[float, Unit, Gates]:
    """The share of verbs that agree, the unit that remembers the number, and what it did."""
    text, _ = sentences(20_000, seed=1)
    model = TextGenerator(
        level="word",
        cell="lstm",
        hidden_size=48,
        weight_dropout=0.3,
        steps=3000,
        learning_rate=0.01,
        window=40,
    )
    model.fit("\n".join(" ".join(words) for words in text) + "\n")
    new, labels = sentences(200, seed=2)
    right = 0
    for words, numbers in zip(new, labels, strict=True):
        verb = max(t for t, number in enumerate(numbers) if number == number) + 1
        begun = " ".join(words[:verb]) + " "
        pair = next(pair for pair in VERBS if words[verb] in pair)
        one, many = (model.log_probs(begun + form)[-1] for form in pair)
        right += (many > one) == bool(numbers[verb - 1])
    seen = gates(model, " ".join(" ".join(words) for words in new[:60]))
    unit = seen.rank([number for numbers in labels[:60] for number in numbers])[0]
    print(f"verbs that agree with their subject: {right / len(new):.1%}")
    print(f"{unit.layer}, {unit.state} of unit {unit.number} follows the number of the subject, ")
    print(f"from the subject to its verb, with a correlation of {unit.correlation:+.2f}:\n")
    few = gates(model, " ".join(" ".join(words) for words in new[:6]))
    print(overlay(few, unit))
    return right / len(new), unit, seen


if __name__ == "__main__":
    main()
