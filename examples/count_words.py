"""How many of the words that a model writes are words: they stand in its corpus or a word list.

python examples/count_words.py RUN CORPUS [--length 20000] [--temperature 0.7]
"""

import argparse
import re
from pathlib import Path

from ostinato import TextGenerator

WORD_LIST = Path("/usr/share/dict/words")


def words_of(text: str) -> list[str]:
    """Words of three letters or more, in lower case."""
    return re.findall(r"[^\W\d_]{3,}", text.lower())


def main() -> None:
    """Generate, count, and name the commonest inventions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained model")
    parser.add_argument("corpus", type=Path, help="text whose words count as words")
    parser.add_argument("--length", type=int, default=20_000, help="tokens to generate")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    known = set(words_of(arguments.corpus.read_text(encoding="utf-8")))
    if WORD_LIST.exists():
        known |= set(words_of(WORD_LIST.read_text(encoding="utf-8")))
    model = TextGenerator.load(arguments.run)
    text = model.generate(
        length=arguments.length, temperature=arguments.temperature, seed=arguments.seed
    )
    words = words_of(text)
    invented = [word for word in words if word not in known]
    share = 1 - len(invented) / max(1, len(words))
    print(f"{len(words):,} words of three letters or more, {share:.1%} of them real")
    print("invented:", ", ".join(sorted(set(invented))[:12]) or "none")


if __name__ == "__main__":
    main()
