"""A character LSTM learns Python from the standard library's own sources, and writes a function.

python examples/demo.py [--minutes 1.5] [--out runs/demo]
"""

import argparse
import sysconfig
import warnings
from pathlib import Path

from ostinato import TextGenerator
from ostinato.tasks.generation import DegenerateTextWarning


def free_folder(wanted: Path) -> Path:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3``, ... that is not there yet."""
    numbered = (wanted.with_name(f"{wanted.name}-{i}") for i in range(2, 10_000))
    return next(path for path in (wanted, *numbered) if not path.exists())


def main() -> None:
    """Train, write, and say what to do next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.5, help="time to train")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the model")
    arguments = parser.parse_args()
    out = free_folder(arguments.out)

    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    print(f"Learning Python from the {len(sources)} modules of its standard library.\n")
    # Small batches: in so short a time, many small steps teach more than few large ones.
    model = TextGenerator(cell="lstm", hidden_size=256, batch_size=16, minutes=arguments.minutes)
    model.fit(sources, out=out, progress="auto")

    start = "\ndef "
    ends = ["\n\n\n", "\ndef ", "\nclass "]
    with warnings.catch_warnings():
        # After 90 seconds it may well end in a long indent; that is no news here.
        warnings.simplefilter("ignore", DegenerateTextWarning)
        function = model.generate(start, 600, temperature=0.5, seed=4, stop=ends)
    print(f"\nA function that it wrote:\n{start}{function.rstrip()}\n")
    print(f"the model  {out}/\nits curve  {out}/learning_curve.png\nall steps  {out}/metrics.jsonl")
    print(f"\nNext:      .venv/bin/ostinato generate {out} --prompt 'class ' --temperature 0.7")
    print("           .venv/bin/ostinato train text YOUR_FILES --out runs/mine")


if __name__ == "__main__":
    main()
