"""Try what `wheel.py` built as a stranger would: installed, with no compiler at hand.

    python tools/release_check.py [--dist dist] [--torch torch==2.13.0] [--python PYTHON ...]

In a fresh environment for each wheel and interpreter, with a PATH that has nothing but Python: the
package is installed and imported, the command line answers, layers run on every instruction set of
this CPU with the numbers of PyTorch, and a model is trained and loaded again. The source
distribution is built with a compiler that fails. For interpreters named by --python only the core
is imported, which needs no PyTorch.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SETS = ("x86-64-v4", "x86-64-v3", "x86-64")

USE = """
import numpy as np, torch, ostinato
torch.manual_seed(0)
for ours, theirs in ((ostinato.LSTM, torch.nn.LSTM), (ostinato.GRU, torch.nn.GRU)):
    layer, plain = ours(17, 33), theirs(17, 33)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(20, 5, 17)
    for each in (layer, plain):
        each(x)[0].sin().sum().backward()
    torch.testing.assert_close(layer(x)[0], plain(x)[0])
    for a, b in zip(layer.parameters(), plain.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
print(ostinato.backend(ostinato.LSTM(3, 4), torch.zeros(2, 2, 3)))
"""

TRAIN = """
import sys, numpy as np, ostinato
X = [np.full((4, 2), i % 2, "f4") for i in range(60)]
model = ostinato.SequenceClassifier(hidden_size=8, epochs=5).fit(X, ["low", "high"] * 30)
model.save(sys.argv[1])
print(ostinato.load(sys.argv[1]).predict([np.ones((4, 2))])[0])
"""

IMPORT = "from ostinato import _core; print(_core.int8_products())"


def run(command: list[object], folder: Path, **environment: str) -> str:
    """Run a command with a PATH of one folder; return what it printed, or stop."""
    print("+", shlex.join(map(str, command))[:150], environment or "", flush=True)
    bare = {"PATH": str(folder), "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [str(c) for c in command],
        env=bare | environment,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed: {shlex.join(map(str, command))}")
    return done.stdout.strip()


def expect(found: str, expected: str) -> None:
    """Stop unless something was printed."""
    if expected not in found:
        sys.exit(f"expected {expected!r}, got {found!r}")


def check(wheel: Path, torch: str, compiled: bool) -> None:
    """Install a wheel with all that it needs, and use it."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        venv.create(home / "v", with_pip=True)
        python = home / "v/bin/python"
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run([*pip, torch], home)
        run([*pip, wheel], home)
        from_elsewhere = run([python, "-c", "import ostinato; print(ostinato.__file__)"], home)
        expect(from_elsewhere, made)
        expect(run([home / "v/bin/ostinato", "--version"], home), "ostinato ")
        known = _sets(python, home) if compiled else []
        for name in [s for s in SETS if s in known] or [""]:
            chosen = {"OSTINATO_ISA": name} if name else {}
            found = run([python, "-W", "ignore", "-c", USE], home, **chosen)
            expect(found, "compiled" if compiled else "torch")
            print(f"  layers hold on {name or 'PyTorch alone'}")
        expect(run([python, "-W", "ignore", "-c", TRAIN, home / "model"], home), "high")


def _sets(python: Path, home: Path) -> list[str]:
    """Return the instruction sets that this CPU can run."""
    code = (
        "import torch, json, ostinato\n"
        "try:\n    ostinato.LSTM(3, 4)(torch.zeros(2, 2, 3))\n"
        "except ValueError as error:\n    print(json.dumps(str(error)))\n"
    )
    said = json.loads(run([python, "-c", code], home, OSTINATO_ISA="none"))
    return str(said).partition("one of: ")[2].partition(".")[0].split(", ")


def check_import(wheel: Path, interpreter: str) -> None:
    """Install a wheel without what it needs, and import the core."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        run([interpreter, "-m", "venv", home / "v"], home, PATH=os.environ["PATH"])
        python = home / "v/bin/python"
        run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], home)
        run([python, "-c", IMPORT], home)
        print(f"  the core of {wheel.name} is imported by {interpreter}")


def check_source(source: Path) -> None:
    """Build a source distribution where the compiler fails: a wheel without the core."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        venv.create(home / "v", with_pip=True)
        run([home / "v/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps", source], home,
            PATH=os.environ["PATH"], CXX="/bin/false")  # fmt: skip
        expect(str([each.name for each in home.glob("*.whl")]), "-py3-none-any.whl")
        print(f"  {source.name} is built without a compiler")


def main() -> None:
    """Check all wheels of a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=Path("dist"))
    parser.add_argument("--torch", default="torch==2.13.0")
    parser.add_argument("--python", action="append", default=[], help="a later interpreter")
    a = parser.parse_args()
    own = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheels = sorted(a.dist.resolve().glob("*.whl"))
    here = [w for w in wheels if f"-{own}-" in w.name or "-py3-none-any" in w.name]
    if not here:
        parser.error(f"{a.dist} has no wheel for this interpreter; python tools/wheel.py")
    for wheel in here:
        check(wheel, a.torch, compiled="none-any" not in wheel.name)
    for source in a.dist.resolve().glob("*.tar.gz"):
        check_source(source)
    for interpreter in a.python:
        (later,) = (w for w in wheels if "-abi3-" in w.name)
        check_import(later, interpreter)
    print("all hold")


if __name__ == "__main__":
    main()
