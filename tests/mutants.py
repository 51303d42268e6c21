"""Faults planted in the recurrence one at a time, and whether its laws notice.

``python tests/mutants.py [word ...]`` runs the laws against each fault whose description holds one
of the words, prints what became of it, and fails if a fault lives or the sound package dies. One
process imports PyTorch; a child forked from it serves the faulty source in place of its module.
"""

import difflib
import importlib.abc
import importlib.util
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src" / "ostinato" / "recurrence"
LAWS = ["cells", "scan", "kernels", "layers", "networks"]
AT_ONCE = 2
SECONDS = 120  # for one fault: one that makes the laws run for ever is no better noticed


class Mutant(NamedTuple):
    module: str
    fault: str
    sound: str
    faulty: str

    @property
    def path(self):
        return SOURCES / f"{self.module}.py"

    def source(self):
        """The faulty module; the place must be there, and only once."""
        text = self.path.read_text(encoding="utf-8")
        count = text.count(self.sound)
        assert count == 1, f"{self.path.name}, {self.fault}: {count} times {self.sound!r}"
        return text.replace(self.sound, self.faulty)

    def diff(self):
        before, after = self.path.read_text(encoding="utf-8"), self.source()
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
        return "\n".join(list(lines)[2:])


MUTANTS = [
    Mutant("cells", "LSTM: i and f swapped", "i, f, g, o = (x_t", "f, i, g, o = (x_t"),
    Mutant("cells", "LSTM: g and o swapped", "i, f, g, o = (x_t", "i, f, o, g = (x_t"),
    Mutant("cells", "LSTM: candidate without tanh", "g.tanh(), o.sigmoid()", "g, o.sigmoid()"),
    Mutant("cells", "LSTM: h without tanh", "h = o * c.tanh()", "h = o * c"),
    Mutant("cells", "LSTM: c is cut off", "cast(LSTMState, state).c", "state.c.detach()"),
    Mutant("cells", "LSTM: h is the cell", "if self.proj_size else h, c)", "if self.proj_size else c, c)"),
    Mutant(
        "cells",
        "LSTM: projection dropped",
        'linear(h, w["weight_hr"])',
        "h[..., : self.proj_size]",
    ),
    Mutant("cells", "LSTM: forget gate starts shut", "2 * self.hidden_size] = 1.0", "2] = 0.0"),
    Mutant("cells", "RNN: h is cut off", "f(x_t + linear(state.h,", "f(x_t + linear(state.h.detach(),"),
    Mutant("cells", "GRU: reset before for after", "if self.reset_after:", "if not self.reset_after:"),
    Mutant("cells", "GRU: z and 1 - z swapped", "(1 - z) * n + z * state.h", "z * n + (1 - z) * state.h"),
    Mutant("cells", "GRU: r and z swapped", "r, z = (x_rz", "z, r = (x_rz"),
    Mutant("cells", "GRU: bias_hh dropped", 'bias = w.get("bias_hh")', "bias = None"),
    Mutant("cells", "GRU: h is cut off in n", "x_n + r * linear(h,", "x_n + r * linear(h.detach(),"),
    Mutant("cells", "GRU: no reset", "linear(r * h, w_n, b_n)", "linear(h, w_n, b_n)"),
    Mutant("cells", "bias_ih dropped", 'w["weight_ih"], w.get("bias_ih"))', 'w["weight_ih"])'),
    Mutant("cells", "orthogonal as a whole", "return list(weight.split(rows))", "return [weight]"),
    Mutant("scan", "state not carried", "        state = new\n", ""),
    Mutant(
        "scan",
        "state cut off after every step",
        "        state = new\n",
        "        state = cell.state_type(*(s.detach() for s in new))\n",
    ),
    Mutant("scan", "initial state ignored", "if state is None else state", ""),
    Mutant("scan", "direction ignored", "    if reverse:\n", "    if False:\n"),
    Mutant("scan", "reverse ignores lengths", "        x = reverse_rows(x, lengths)", "        x = x.flip(0)"),
    Mutant("scan", "outputs stay reversed", "(reverse_rows(y, lengths) if reverse else y), state", "y, state"),
    Mutant("scan", "reversed rows off by one", "lengths - 1 - t, t)", "(lengths - t).clamp(max=len(x) - 1), t)"),
    Mutant("scan", "mask off by one", "[:, None] < lengths)[", "[:, None] <= lengths)["),
    Mutant("scan", "padding not cleared from x", "x = x.masked_fill(~running, 0.0)", "pass"),
    Mutant("scan", "padding not cleared from y", "y = torch.where(running, y, 0.0)", "pass"),
    Mutant("scan", "state runs on through padding", "torch.where(running[t], n, s)", "n"),
    Mutant("kernels", "h and c swapped", "(state.h[None], state.c[None])", "(state.c[None], state.h[None])"),
    Mutant("kernels", "outputs stay reversed", "return (y.flip(0) if reverse else y), state", "return y, state"),
    Mutant("kernels", "relu for tanh", 'if cell.activation == "tanh"', 'if cell.activation == "relu"'),
    Mutant("kernels", "padding sent to the fused path", "steps > 0 and not padded and", "steps > 0 and"),
    Mutant("kernels", "reset before sent to the fused path", "return cell.reset_after", "return True"),
    Mutant(
        "kernels",
        "derived cells taken for their parent",
        "return type(cell) is LSTMCell",
        "return isinstance(cell, LSTMCell)",
    ),
    Mutant(
        "layers",
        "second direction has the weights of the first",
        "w = self._weights(i)",
        "w = self._weights(layer * self._directions)",
    ),
    Mutant("layers", "both directions forward", "reverse=direction == 1", "reverse=False"),
    Mutant("layers", "directions change places", "torch.cat(outputs, dim", "torch.cat(outputs[::-1], dim"),
    Mutant("layers", "states of layers change places", "states[i], lengths,", "states[-1 - i], lengths,"),
    Mutant("layers", "lengths ignored", "self._checked_lengths(lengths, x))", "None)"),
    Mutant("layers", "packed rows out of order", "else 1, order)", "else 1, order.sort().values)"),
    Mutant("layers", "variational mask redrawn each step", "ones_like(x[:1])", "ones_like(x)"),
    Mutant("layers", "variational mask shared by rows", "ones_like(x[:1])", "ones_like(x[:1, :1])"),
    Mutant("layers", "dropout in evaluation", "if layer > 0 and self.training:", "if layer > 0:"),
    Mutant("layers", "dropout of the input", "if layer > 0 and self.training:", "if self.training:"),
    Mutant("layers", "weight dropout in evaluation", "if self.training and self.weight_dropout and", "if self.weight_dropout and"),
    Mutant("layers", "weight dropout cuts the gradient", 'dropout(w["weight_hh"],', 'dropout(w["weight_hh"].detach(),'),
    Mutant("layers", "own dropout lost on the fused path", "and not (self.training and drops)", ""),
    Mutant("layers", "identical layers told for ever", "        self._twins_sought = True\n", ""),
    Mutant("networks", "padding counts", "counts = t < ends", "counts = t < T"),
    Mutant("networks", "mean over padding too", "/ counts.sum().clamp(min=1)", "/ counts.numel()"),
    Mutant("networks", "targets in padding poison gradients", "wanted = wanted.masked_fill(", "wanted.masked_fill("),
    Mutant("networks", "last step is the first", "t = (ends - 1).clamp(min=0)", "t = (ends - ends)"),
]  # fmt: skip


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the faulty module ahead of the sound one."""

    def __init__(self, mutant):
        self.name = f"ostinato.recurrence.{mutant.module}"
        self.origin = str(mutant.path)
        self.code = compile(mutant.source(), f"{self.origin} ({mutant.fault})", "exec")

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self.origin)

    def exec_module(self, module):
        exec(self.code, module.__dict__)


def run_laws(mutant):
    """In a child: the laws, those of the faulty module first; the status that pytest gives."""
    import pytest

    signal.alarm(SECONDS)
    order = LAWS
    if mutant is not None:
        sys.meta_path.insert(0, Planted(mutant))
        order = sorted(LAWS, key=lambda name: name != mutant.module)
    for name in [name for name in sys.modules if name.partition(".")[0] == "ostinato"]:
        del sys.modules[name]
    files = [str(HERE / f"test_{name}.py") for name in order]
    return int(
        pytest.main(["-xqq", "--tb=no", "-rfE", "-pno:cacheprovider", "--assert=plain", *files])
    )


def main(words):
    import hypothesis  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.testing.assert_close(torch.ones(1), torch.ones(1))  # imports the rest of it, once
    waiting = [None, *(m for m in MUTANTS if not words or any(word in m.fault for word in words))]
    running, failures = {}, []
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            mutant, log = waiting.pop(0), tempfile.TemporaryFile("w+")
            pid = os.fork()
            if pid == 0:
                status = 70
                try:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                    status = run_laws(mutant)
                except BaseException:
                    traceback.print_exc()
                sys.stdout.flush()
                os._exit(status)
            running[pid] = mutant, log, time.monotonic()
        pid, wait_status = os.wait()
        mutant, log, since = running.pop(pid)
        status = os.waitstatus_to_exitcode(wait_status)
        log.seek(0)
        report = log.read()
        failed = [line for line in report.splitlines() if line.startswith("FAILED")]
        name = "the sound package" if mutant is None else f"{mutant.module}: {mutant.fault}"
        # 0: all laws hold, 1: one is broken. Anything else says nothing about the laws.
        fine = status == 0 if mutant is None else status == 1 and failed
        outcome = failed[0].split(" - ")[0] if failed else f"pytest's status is {status}"
        verdict = "as it should be" if fine else "WRONG"
        print(f"{time.monotonic() - since:5.1f} s  {verdict}  {name}: {outcome}", flush=True)
        if not fine:
            failures.append(f"{name}\n{report if mutant is None or status else mutant.diff()}")
    print(*failures, sep="\n\n")
    return len(failures)


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
