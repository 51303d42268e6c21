"""Says which data of the benchmarks are there, which are missing, and which differ.

    python benchmarks/data.py [--data FOLDER]

The list is docs/reference/data.md, which says where each set comes from.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "data.md"
DATA = Path("../shared/data")


def listed() -> dict[str, str]:
    """Return the checksum of each file, or folder, by its name; that of a folder ends in /.

    >>> len(listed()["tinyshakespeare/input.txt"])
    64
    """
    rows = re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", PAGE.read_text(), re.M)
    return dict(rows)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder, that of what `sha256sum` writes of its files."""
    if path.is_dir():
        files = sorted((each.relative_to(path).as_posix(), each) for each in path.rglob("*"))
        lines = (f"{checksum(file)}  {name}\n" for name, file in files if file.is_file())
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def states(data: Path) -> dict[str, str]:
    """Return for each file or folder of the list whether it is there, missing or different."""
    found = {}
    for name, digest in listed().items():
        path = data / name
        found[name] = "missing"
        if path.exists():
            found[name] = "there" if checksum(path) == digest else "different"
    return found


def main() -> int:
    """Print what is not as in the list; the status is 1 if anything is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    data = parser.parse_args().data
    found = states(data)
    for name, state in found.items():
        if state != "there":
            print(f"{state:<10}{data / name}")
    there = sum(state == "there" for state in found.values())
    print(f"{there} of {len(found)} are there and as listed in docs/reference/data.md")
    return int(there < len(found))


if __name__ == "__main__":
    sys.exit(main())
