"""Trains on several ranks, as torchrun launches them, and compares with one process.

Prints a line of JSON for every case. A rank is a fork of this process, which has imported all that
takes time; it finds the variables of torchrun, and a store of its agent, which is this process.

    OMP_NUM_THREADS=1 python tests/ranks.py FOLDER [CASE ...]
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which an optimizer imports: once here, and not in every process
from learning import network, tokens, trainer, weights
from learning import same as same_bits
from torch import Tensor, distributed
from torch.utils import _pytree

import ostinato
from ostinato.data.batches import ContiguousBatches
from ostinato.errors import OstinatoError
from ostinato.training.callbacks import Callback, Run, read_metrics
from ostinato.training.distributed import join
from ostinato.training.loop import detach


class Failed(Exception):
    """Some ranks did not end well: the exit status of each, negative for a signal."""


def on_ranks(
    count: int,
    work: Callable[[], Any],
    *,
    seconds: float = 300,
    restarts: int = 0,
    agent: bool = False,
    watch: Callable[[list[int]], None] | None = None,
) -> list[Any]:
    """Return what some work returns on each of some ranks, which are processes of their own.

    Args:
        count: of the ranks.
        work: what each does.
        seconds: within which all must end; they are killed after that.
        restarts: how often they are said to have been launched again.
        agent: whether the others are asked to end by SIGTERM when one has failed, as torchrun does.
        watch: called with their process ids meanwhile.
    """
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, pids = [os.pipe() for _ in range(count)], []
    for rank, (_, writing) in enumerate(pipes):
        if pid := os.fork():
            pids.append(pid)
            os.close(writing)
            continue
        status = 1
        try:
            names = {
                "RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count,
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port,
                "TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_USE_AGENT_STORE": True,
            }  # fmt: skip
            os.environ |= {name: str(value) for name, value in names.items()}
            result = pickle.dumps(work())
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(result)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if watch is not None:
        watch(pids)
    end, ended = time.monotonic() + seconds, dict[int, int]()
    found = [bytearray() for _ in pids]
    for reading, _ in pipes:
        os.set_blocking(reading, False)
    while len(ended) < count:
        for rank, (reading, _) in enumerate(pipes):
            if rank in ended:
                continue
            pid, status = os.waitpid(pids[rank], os.WNOHANG)
            while part := _read(reading):  # a pipe holds no more than 64 kB
                found[rank] += part
            if pid:
                ended[rank] = status
                for other in {*range(count)} - {*ended} if status and agent else ():
                    os.kill(pids[other], signal.SIGTERM)
        if time.monotonic() > end:
            for rank in {*range(count)} - {*ended}:
                os.kill(pids[rank], signal.SIGKILL)
        time.sleep(0.002)
    for reading, _ in pipes:
        os.close(reading)
    if any(ended.values()):
        raise Failed([os.waitstatus_to_exitcode(ended[rank]) for rank in range(count)])
    return [pickle.loads(each) for each in found]


def _read(pipe: int) -> bytes:
    try:
        return os.read(pipe, 2**16)
    except BlockingIOError:
        return b""


# Six tasks and more, in float64, without random masks


def texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    words = ["good", "bad", "fine", "grey", "day", "rain", "wind", "sun"]
    return [" ".join(random.choice(words, random.integers(1, 9))) for _ in range(count)]


def series(count: int, seed: int = 0) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(random.integers(1, 12), 2)).astype("f4") for _ in range(count)]


USUAL: dict[str, Any] = {
    "hidden_size": 6, "dropout": 0.0, "steps": 9, "batch_size": 6, "evaluations": 3,
    "warmup_steps": 2, "learning_rate": 0.02, "health": False,
}  # fmt: skip


def text() -> tuple[Any, Any]:
    return ostinato.TextGenerator(**USUAL, window=8), (" ".join(texts(90)),)


def classify() -> tuple[Any, Any]:
    X = series(23)
    model = ostinato.SequenceClassifier(**USUAL, convolutions=False, blend=False)
    return model, (X, ["ab"[len(x) % 2] for x in X])


def regress() -> tuple[Any, Any]:
    X = series(23)
    return ostinato.SequenceRegressor(**USUAL), (X, [float(x.sum()) for x in X])


def tag() -> tuple[Any, Any]:
    X = [each.split() for each in texts(23)]
    model = ostinato.SequenceTagger(**USUAL, word_dropout=0.0)
    return model, (X, [[word[0] for word in words] for words in X])


def translate() -> tuple[Any, Any]:
    X = texts(23)
    return ostinato.Translator(**USUAL, level="char"), (X, [each[:5][::-1] for each in X])


def transcribe() -> tuple[Any, Any]:
    X = [np.repeat(x, 4, 0) for x in series(23)]
    y = ["ab"[len(x) % 2] + "c" * (len(x) % 3) for x in X]
    return ostinato.Transcriber(**USUAL, stacked=1), (X, y)


def forecast() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    X = [np.sin(np.arange(n)) + 0.1 * random.normal(size=n) for n in (40, 70, 55)]
    X[1][[3, 30, 31]] = np.nan
    return ostinato.Forecaster(**USUAL, horizon=3, season=1, ensemble_size=2), (X,)


def music() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    X = [[[60 + int(random.integers(9))] for _ in range(random.integers(2, 30))] for _ in range(9)]
    model = ostinato.MusicModel(**USUAL, weight_dropout=0.0, window=10, transpose=3)
    return model, (X,)


TASKS = {
    task.__name__: task
    for task in (text, classify, regress, tag, translate, transcribe, forecast, music)
}


class Doubled:
    """An objective whose batches are in float64; may do something with a loss, by step."""

    def __init__(self, objective: Any, change: dict[int, Callable[[Tensor], Tensor]]) -> None:
        self._objective, self._change = objective, change
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)

    def loss(self, network: Any, batch: Any, state: Any) -> Any:
        loss, state = self._objective.loss(network, doubled(batch), state)
        if network.training:
            self._calls += 1
            loss = self._change.get(self._calls, lambda loss: loss)(loss)
        return loss, state

    def metrics(self, network: Any, batch: Any, state: Any) -> Any:
        return self._objective.metrics(network, doubled(batch), state)


def doubled(batch: Any) -> Any:
    def double(part: Any) -> Any:
        is_float = isinstance(part, Tensor) and part.is_floating_point()
        return part.double() if is_float else part

    return _pytree.tree_map(double, batch)


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "seconds"}


class Losses(Callback):
    """Keeps what a run records and notes; may stop it after a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def on_begin(self, run: Run) -> None:
        self.run = run

    def on_step(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if record["step"] == self.stop_at:
            self.run.stop()

    def on_validation(self, record: dict[str, Any], sample: str | None) -> None:
        self.records.append(record)

    def note(self, message: str) -> None:
        self.notes.append(message)


def trained(
    task: str,
    out: Path | None = None,
    *,
    resume: bool = False,
    stop_at: int | None = None,
    change: dict[int, Callable[[Tensor], Tensor]] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a task in float64, on as many ranks as there are; return records and weights.

    Args:
        task: of `TASKS`.
        out: the run's folder.
        resume: whether to go on with it.
        stop_at: the step after which the first rank asks for an end.
        change: what becomes of this rank's losses, by the number of the batch.
        settings: other settings than the usual ones.
    """
    model, data = TASKS[task]()
    model.set_params(**settings)
    kind = type(model)
    built, problem = kind._build, kind._problem

    def doubled_problem(self: Any, *given: Any) -> Any:
        found = problem(self, *given)
        return found._replace(objective=Doubled(found.objective, change or {}))

    # In a process of its own, which ends after it.
    kind._build = lambda self, *given: built(self, *given).double()
    kind._problem = doubled_problem
    kind._final_facts = lambda self, problem: {}
    losses = Losses(stop_at)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if resume:
            model = kind.resume(out, callbacks=[losses])
        else:
            model.fit(*data, out=out, callbacks=[losses])
    return {
        "records": [without_times(record) for record in losses.records or model.history_],
        "weights": {n: t.numpy() for n, t in model.network_.state_dict().items()},
        "notes": losses.notes,
        "ended": model.training_["ended"],
    }


def difference(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, float]:
    """The largest difference of two results, of all numbers in their records and of weights."""
    assert len(found["records"]) == len(expected["records"])
    gaps = [0.0]
    for one, other in zip(found["records"], expected["records"], strict=True):
        assert one.keys() == other.keys(), (one, other)
        gaps += [abs(float(one[k]) - float(other[k])) for k in one]
    assert found["weights"].keys() == expected["weights"].keys()
    weights = [abs(found["weights"][n] - w).max() for n, w in expected["weights"].items()]
    return {"records": max(gaps), "weights": float(max(weights))}


@cache
def trained_alone(task: str) -> dict[str, Any]:
    alone, *_ = on_ranks(1, lambda: trained(task))
    return alone


def compare(task: str, count: int, **settings: Any) -> dict[str, Any]:
    """Compare a task on some ranks with one process that has the joined batch."""
    alone = trained_alone(task)
    ranks = on_ranks(count, lambda: trained(task, **settings))
    across = max(difference(each, ranks[0])["weights"] for each in ranks)
    return {"across": across, **difference(ranks[0], alone)}


def resume(folder: Path, before: int, after: int, **settings: Any) -> dict[str, Any]:
    """Compare a run that is stopped on some ranks, and goes on on others, with one that is not."""
    whole, *_ = on_ranks(before, lambda: trained("text", folder / "whole", **settings))
    out = folder / "stopped"
    stopped, *_ = on_ranks(before, lambda: trained("text", out, stop_at=5, **settings))
    assert stopped["ended"] == "interrupt"
    rest, *_ = on_ranks(after, lambda: trained("text", out, resume=True))
    joined = {**rest, "records": stopped["records"] + rest["records"]}
    last = stopped["records"][-1]["step"]
    return {"step": last, "notes": rest["notes"], **difference(joined, whole)}


def rank() -> int:
    return int(os.environ["RANK"])


def apart(count: int, every: int) -> dict[str, Any]:
    """Compare ranks that average every few steps with a loop over networks, in float64.

    Rows are of unequal number, and the ranks begin with other weights than the first.
    """

    def batches() -> ContiguousBatches:
        return ContiguousBatches(tokens(), 2 * count - 1, 5)

    def work() -> Any:
        made = trainer(
            network(seed=1 + rank()).double(), batches=batches(), world=join(), average_every=every,
            steps=9, evaluations=2, clip_norm=0.3, schedule="constant", optimizer="adam",
            weight_decay=0.0,
        )  # fmt: skip
        made.objective.count = lambda batch: batch.steps
        result = made.run()
        return weights(made.network), result.best_loss, made.tokens

    ranks = on_ranks(count, work)
    networks = [network().double() for _ in range(count)]
    optimizers = [torch.optim.Adam(net.parameters(), 0.02) for net in networks]
    parts, states = [batches().split(part, count) for part in range(count)], [None] * count
    items, losses, steps, last = [0] * count, 0.0, 0, 0.0
    for step in range(1, 10):
        for i, (net, part, optimizer) in enumerate(zip(networks, parts, optimizers, strict=True)):
            batch = part.next_batch()
            loss, state = net.loss(batch.inputs, batch.targets, None if batch.fresh else states[i])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.3)
            optimizer.step()
            states[i] = detach(state)
            items[i] += batch.steps
            losses += loss.item() * batch.steps
        if step % every and step not in (5, 9):  # the evaluations
            continue
        for copies in zip(*(net.parameters() for net in networks), strict=True):
            kept = [o.state[p] for p, o in zip(copies, optimizers, strict=True)]
            moments = [[each[name] for each in kept] for name in ("exp_avg", "exp_avg_sq")]
            for several in ([p.data for p in copies], *moments):
                mean = sum(n * each for n, each in zip(items, several, strict=True)) / sum(items)
                for each in several:
                    each.copy_(mean)
        steps, last, items, losses = steps + sum(items), losses / sum(items), [0] * count, 0.0
    gaps = [
        float((found[name] - tensor).abs().max())
        for found, _, _ in ranks
        for name, tensor in networks[0].state_dict().items()
    ]
    across = all(same_bits(found, ranks[0][0]) for found, _, _ in ranks)
    told = [(abs(loss - last), seen - steps) for _, loss, seen in ranks]
    return {"weights": max(gaps), "across": across, "told": told}


def uneven() -> dict[str, Any]:
    """Let a rank leave out its first four steps, and count those of each rank's optimizer."""

    def work() -> Any:
        made = trainer(
            network(), world=join(), average_every=4, steps=8, on_nonfinite="skip", evaluations=1
        )
        calls, loss = iter(range(99)), made.objective.loss

        def lost(*given: Any) -> Any:
            value, state = loss(*given)
            # Of each such step once more, to find the tensor.
            return value * (float("nan") if rank() and next(calls) < 8 else 1.0), state

        made.objective.loss = lost  # type: ignore[method-assign]
        made.run()
        return sorted({int(each["step"]) for each in made.optimizer.state.values()})

    return {"steps": on_ranks(2, work)}


def told(work: Callable[[], Any]) -> str:
    """Return the error of some work, or how a training ended."""
    try:
        return str(work()["ended"])
    except OstinatoError as error:
        return f"{type(error).__name__}: {error}"


def nonfinite(remedy: str, **settings: Any) -> dict[str, Any]:
    """Let the loss of the last of three ranks alone be no number in the third batch."""

    def work() -> Any:
        change = {3: lambda loss: loss * float("nan")} if rank() == 2 else {}
        return told(lambda: trained("text", change=change, on_nonfinite=remedy, **settings))

    return {"told": on_ranks(3, work)}


def fails() -> dict[str, Any]:
    """Let a rank fail by itself, in the third batch; and the first one, at its data."""

    def problem(loss: Tensor) -> Tensor:
        raise OstinatoError("a problem of rank 1")

    def work() -> Any:
        return told(lambda: trained("text", change={3: problem} if rank() == 1 else {}))

    def unreadable() -> Any:
        TASKS["text"] = lambda: (ostinato.TextGenerator(**USUAL), ("a",))
        return told(lambda: trained("text"))

    return {"step": on_ranks(3, work), "data": on_ranks(3, unreadable)}


def interrupted() -> dict[str, Any]:
    """Interrupt the last rank alone."""

    def work() -> Any:
        def interrupt(loss: Tensor) -> Tensor:
            os.kill(os.getpid(), signal.SIGINT)
            return loss

        change = {4: interrupt} if rank() == 1 else {}
        found = trained("text", change=change)
        return found["ended"], found["records"][-1]["step"]

    return {"told": on_ranks(2, work)}


# Killed

MANY: dict[str, Any] = {"dropout": 0.2, "steps": 30, "checkpoint_minutes": 1e-9}


def kill(out: Path, count: int, rank: int, after: float) -> dict[str, Any]:
    """Kill a rank after some seconds, and let all be launched again, as torchrun would.

    Returns:
        the exit status of each rank, and in how many seconds after it all had ended.
    """
    at = 0.0

    def work() -> dict[str, Any]:
        return trained("text", out, **MANY)

    def shoot(pids: list[int]) -> None:
        nonlocal at
        time.sleep(after)
        os.kill(pids[rank], signal.SIGKILL)
        at = time.monotonic()

    found: dict[str, Any] = {"ranks": count, "killed": rank, "after": round(after, 3)}
    try:
        on_ranks(count, work, watch=shoot, agent=True, seconds=300)
    except Failed as error:
        found |= {"exits": error.args[0], "ended_in": round(time.monotonic() - at, 2)}
        on_ranks(count, work, restarts=1, seconds=300)
    return found


def folder_result(out: Path) -> Any:
    """All that a run leaves, without times and what it measures when there is time for it."""
    records = [without_times(r) for r in read_metrics(out / "metrics.jsonl")]
    return records, (out / "weights.safetensors").read_bytes()


def kills(folder: Path, trials: int) -> None:
    """Kill random ranks at random moments; print each trial, compared with a run of no kill."""
    draw = np.random.default_rng(0)
    wholes: dict[int, tuple[Any, float]] = {}
    for trial in range(trials):
        count = (2, 4)[trial % 2]
        if count not in wholes:
            begun, whole = time.monotonic(), folder / f"whole {count}"
            on_ranks(count, lambda n=whole: trained("text", n, **MANY), seconds=300)
            wholes[count] = folder_result(whole), time.monotonic() - begun
        expected, seconds = wholes[count]
        out = folder / f"killed {trial}"
        found = kill(out, count, int(draw.integers(count)), float(draw.uniform(0.1, seconds)))
        same = folder_result(out) == expected
        print(json.dumps({"trial": trial, **found, "same": same}), flush=True)


def case(name: str, folder: Path) -> dict[str, Any]:
    """Run a case such as ``tag:2``, ``accumulate:3`` or ``resume:2:1``."""
    match name.split(":"):
        case ["resume", before, after]:
            equal = {"dropout": 0.2} if before == after else {}  # random masks are of each rank
            return resume(folder / name, int(before), int(after), steps=12, **equal)
        case ["resume", before, after, every]:
            settings = {"steps": 12, "dropout": 0.2, "average_every": int(every)}
            return resume(folder / name, int(before), int(after), **settings)
        case ["nonfinite", remedy]:
            return nonfinite(remedy)
        case ["nonfinite", remedy, every]:
            return nonfinite(remedy, average_every=int(every))
        case ["apart", count, every]:
            return apart(int(count), int(every))
        case ["uneven"]:
            return uneven()
        case ["fails"]:
            return fails()
        case ["interrupted"]:
            return interrupted()
        case [task, count, accumulate]:
            return compare(task, int(count), accumulate=int(accumulate))
        case [task, count]:
            return compare(task, int(count))
    raise ValueError(name)


def main(folder: Path, *asked: str) -> None:
    """Run ``kill 20``, ``again 50 tag:2``, or some cases, and print them."""
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # nothing here loses power
    if asked[:1] == ("kill",):
        return kills(folder, int(asked[1]))
    cases = asked or tuple(f"{task}:{count}" for task in TASKS for count in (2, 4))
    if asked[:1] == ("again",):
        cases = asked[2:] * int(asked[1])
    for name in cases:
        begun = time.monotonic()
        found = case(name, folder)
        seconds = round(time.monotonic() - begun, 1)
        print(json.dumps({"case": name, **found, "seconds": seconds}), flush=True)
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
