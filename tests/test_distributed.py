"""Training on several ranks: what it computes is what one process computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import Witness, network, same, tokens, trainer, weights
from small_runs import output_of
from torch import nn

import ostinato
from ostinato.data.batches import ContiguousBatches, SequenceBatches
from ostinato.data.ragged import Examples, Ragged
from ostinato.errors import OstinatoError
from ostinato.launch import Launch, launch
from ostinato.training.callbacks import read_metrics
from ostinato.training.distributed import (
    ALONE,
    joined_rows,
    noticing_lost_peers,
    own_rows,
    threads_of,
)
from ostinato.training.loop import Trainer

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process for every rank")


def cases(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    """What tests/ranks.py says of some cases."""
    return {found["case"]: found for found in output_of("ranks.py", folder, *names)}


# One process and several


@forks
@pytest.mark.slow
def test_ranks_compute_what_one_process_computes_of_the_joined_batch(tmp_path: Path) -> None:
    """In float64, with a last batch of fewer rows than ranks; losses, norms, metrics, weights."""
    found = cases(tmp_path, "classify:3", "text:2:2", "forecast:2")
    assert len(found) == 3
    for name, each in found.items():
        assert each["records"] < 1e-10 and each["weights"] < 1e-10, name
        assert each["across"] == 0, name


@forks
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_compute_what_one_process_computes_in_every_task(tmp_path: Path, ranks: int) -> None:
    names = ["text", "classify", "regress", "tag", "translate", "transcribe", "forecast", "music"]
    for name, each in cases(tmp_path, *(f"{name}:{ranks}" for name in names)).items():
        assert each["records"] < 1e-10 and each["weights"] < 1e-10, name
        assert each["across"] == 0, name


@forks
@pytest.mark.thorough
def test_a_stopped_run_goes_on_on_as_many_ranks_bit_for_bit_and_on_others(tmp_path: Path) -> None:
    found = cases(tmp_path, "resume:3:3", "resume:2:1")
    for name, each in found.items():
        assert 5 <= each["step"] < 12
        if name == "resume:3:3":  # with dropout
            assert (each["records"], each["weights"], each["notes"]) == (0, 0, [])
        else:
            assert max(each["records"], each["weights"]) < 1e-10
            assert "carried states, are divided again" in each["notes"][0]


@forks
@pytest.mark.thorough
def test_ranks_that_train_apart_and_average_equal_a_loop(tmp_path: Path) -> None:
    """With rows of unequal number, carried states, clipping, and averages at evaluations."""
    for name, each in cases(tmp_path, "apart:2:3", "apart:3:4").items():
        assert each["weights"] < 1e-12 and each["across"], name
        for loss, steps in each["told"]:
            assert loss < 1e-12 and steps == 0


@forks
@pytest.mark.thorough
def test_a_run_of_averages_goes_on_bit_for_bit(tmp_path: Path) -> None:
    (each,) = cases(tmp_path, "resume:2:2:4").values()
    assert each["step"] == 8  # the stop at step 5 is heard of when they average
    assert (each["records"], each["weights"], each["notes"]) == (0, 0, [])


@forks
@pytest.mark.thorough
def test_a_loss_of_one_rank_that_is_not_finite_is_heard_of_at_the_average(tmp_path: Path) -> None:
    stop, back, skip, uneven = cases(
        tmp_path, "nonfinite:stop:2", "nonfinite:rollback:2", "nonfinite:skip:2", "uneven"
    ).values()
    assert len(set(stop["told"])) == 1
    assert "step 4: not finite on some processes: " in stop["told"][0]
    assert back["told"] == skip["told"] == ["budget"] * 3
    assert uneven["steps"] == [[8], [8]]


@forks
@pytest.mark.thorough
def test_what_happens_on_one_rank_ends_or_changes_the_run_of_all(tmp_path: Path) -> None:
    remedies = ("stop", "rollback")
    found = cases(tmp_path, "fails", "interrupted", *(f"nonfinite:{each}" for each in remedies))
    stopped = found["nonfinite:stop"]["told"]
    assert len(set(stopped)) == 1 and "NonFiniteError: step 3: loss not finite" in stopped[0]
    for remedy in remedies[1:]:
        assert found[f"nonfinite:{remedy}"]["told"] == ["budget"] * 3
    ended = found["interrupted"]["told"]
    assert ended[0] == ended[1] and ended[0][0] == "interrupt" and 4 <= ended[0][1] < 9
    step, data = found["fails"]["step"], found["fails"]["data"]
    assert step[1] == "OstinatoError: a problem of rank 1"
    for each in (step[0], step[2]):
        assert each.startswith("PeerError: another process of the run has ended")
        assert "--resume" in each
    problem = data[0].partition(": ")[2]
    assert data[0].startswith("OstinatoError") or data[0].startswith("DataError")
    assert data[1:] == [f"PeerError: {problem}"] * 2


# torchrun

KILLED = """
import os, signal, sys
from ostinato import TextGenerator
from ostinato.training.loop import Trainer

real = Trainer.train_step

def train_step(self):
    real(self)
    if self.step == 7 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "10":
        os.kill(os.getpid(), signal.SIGKILL)

Trainer.train_step = train_step
model = TextGenerator(hidden_size=6, window=8, steps=12, checkpoint_minutes=1e-9, dropout=0.2)
model.fit("to be or not to be, that is the question " * 9, out=sys.argv[1])
assert model.training_["steps"] == 12 and model.folder_ is not None
assert len(model.generate(length=5)) == 5
"""


def torchrun(count: int, *words: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         "--max-restarts", str(restarts), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_brings_a_killed_rank_back_and_the_run_goes_on(tmp_path: Path) -> None:
    script, out = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED)
    done = torchrun(2, script, out, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr
    steps = [record["step"] for record in read_metrics(out / "metrics.jsonl") if "loss" in record]
    assert steps == list(range(1, 13))
    whole = tmp_path / "whole"
    text = script.read_text().replace("self.step == 7", "False")
    script.write_text(text)
    assert torchrun(2, script, whole).returncode == 0
    files = [folder / "weights.safetensors" for folder in (out, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_the_command_trains_prints_once_and_is_refused_where_it_shares_nothing(
    tmp_path: Path,
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question " * 20)
    command = ("-m", "ostinato", "train", "text", text, "--out", tmp_path / "run")
    done = torchrun(2, *command, "--steps", 6, "--hidden-size", 6)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Next:") == 1 and "2 processes" in done.stdout
    assert "warning" not in done.stderr.lower()
    again = torchrun(2, *command)
    assert again.returncode != 0
    assert again.stderr.count("already holds a run") == 1
    other = torchrun(2, "-m", "ostinato", "generate", tmp_path / "run")
    assert other.returncode != 0
    assert other.stderr.count("generate: torchrun launched 2 processes") == 1


# How it was launched


def set_place(monkeypatch: pytest.MonkeyPatch, **names: object) -> None:
    usual = {"RANK": 1, "WORLD_SIZE": 4, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in (usual | names).items():
        monkeypatch.setenv(name, str(value))


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch() == Launch()
    set_place(monkeypatch, RANK=3)
    assert launch() == Launch(3, 4, 3, 4, 0)
    set_place(monkeypatch, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2, TORCHELASTIC_RESTART_COUNT=5)
    assert launch() == Launch(1, 4, 0, 2, 5)
    set_place(monkeypatch, RANK=4)
    with pytest.raises(OstinatoError, match="RANK=4: expected 0 to 3"):
        launch()
    set_place(monkeypatch, RANK="first")
    with pytest.raises(OstinatoError, match="first.*; expected numbers"):
        launch()
    monkeypatch.delenv("MASTER_PORT")  # another's variables
    assert launch() == Launch()


def test_threads_of_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for given, local, expected in (("", 2, 4), ("1", 2, 4), ("3", 2, 3), ("1", 16, 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert threads_of(Launch(0, 16, 0, local)) == expected


def test_only_training_is_shared(ostinato: Any, monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    set_place(monkeypatch, RANK=0)
    found = ostinato(f"generate {run}")
    assert found.status == 2 and "generate: torchrun launched 4 processes" in found.err
    set_place(monkeypatch, RANK=1)
    monkeypatch.setattr("ostinato.cli.app.SAME", 0.0)
    found = ostinato(f"generate {run}")
    assert found.status == 2 and found.out == ""
    assert found.err.startswith("ostinato: rank 1: generate: torchrun")


def test_without_a_launcher_there_is_no_exchange() -> None:
    assert trainer().world is ALONE
    assert not torch.distributed.is_initialized()


def test_other_errors_than_of_the_exchange_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="not enough memory"), noticing_lost_peers():
        raise RuntimeError("not enough memory to restore it")
    with pytest.raises(OstinatoError, match="has ended"), noticing_lost_peers():
        raise RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer")


# Parts of a batch


def sequences(count: int = 11) -> Examples:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, count)
    rows = Ragged.of(random.normal(size=(n, 2)) for n in lengths)
    return Examples(rows, random.normal(size=(count, 1)))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_of_batches_are_all_of_their_rows(parts: int) -> None:
    def all_batches() -> list[Any]:
        return [
            ContiguousBatches(tokens(), 4, 5),
            SequenceBatches(sequences(), 4, seed=1),
            SequenceBatches(
                Examples(sequences().inputs, sequences().inputs), 4, window=3, shift=1, seed=1
            ),
        ]

    for whole, divided in zip(all_batches(), all_batches(), strict=True):
        pieces = [divided.split(part, parts) for part in range(parts)]
        for _ in range(2 * whole.windows):
            batch, found = whole.next_batch(), [piece.next_batch() for piece in pieces]
            assert len({(each.fresh, each.epoch) for each in [batch, *found]}) == 1
            rows = len(batch.lengths)
            assert [each.idle for each in found] == [part >= rows for part in range(parts)]
            for row in range(rows):
                part, at = found[row % parts], row // parts
                n = int(batch.lengths[row])
                assert int(part.lengths[at]) == n
                assert part.inputs[at, :n].equal(batch.inputs[row, :n])
                assert part.targets[at][:n].equal(batch.targets[row][:n])
            counts = [len(each.lengths) for each in found if not each.idle]
            assert sum(counts) == rows and max(counts) - min(counts) <= 1


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_an_evaluation_are_all_of_it_once(parts: int) -> None:
    for whole in (ContiguousBatches(tokens(), 4, 5), SequenceBatches(sequences(), 2)):
        found = [list(whole.split(part, parts)) for part in range(parts)]
        steps = sum(batch.steps for several in found for batch in several)
        assert steps == sum(batch.steps for batch in whole)


def test_ranks_get_about_equal_work() -> None:
    random = np.random.default_rng(3)
    lengths = random.integers(1, 200, 1000)
    many = Examples(Ragged.of(np.zeros(n, "f4") for n in lengths), np.zeros(1000))
    parts = [SequenceBatches(many, 64, seed=1).split(part, 4) for part in range(4)]
    work = [sum(p.next_batch().inputs.numel() for _ in range(p.windows)) for p in parts]
    assert max(work) < 1.02 * min(work)


def test_rows_of_a_state_are_divided_and_joined() -> None:
    state = (ostinato.cells.LSTMState(torch.randn(2, 7, 3), torch.randn(2, 7, 3)), None)
    for parts in (1, 2, 3, 7):
        divided = [own_rows(state, part, parts) for part in range(parts)]
        (joined, nothing) = joined_rows(divided)
        assert joined.h.equal(state[0].h) and joined.c.equal(state[0].c) and nothing is None
    assert own_rows(state, 8, 9) is None


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_a_batch_in_parts_is_one_step_of_the_whole_batch(accumulate: int) -> None:
    """More parts than rows, too; with a carried state, clipping and a metric."""

    def run(parts: int) -> tuple[Trainer, Witness]:
        witness = Witness()
        made = trainer(
            network().double(), witness, steps=15, clip_norm=0.3, accumulate=parts,
            objective=lambda net, loss: loss,
        )  # fmt: skip
        made.objective.count = lambda batch: batch.steps
        made.run()
        return made, witness

    (one, expected), (other, found) = run(1), run(accumulate)
    assert np.allclose(found.losses, expected.losses, rtol=0, atol=1e-12)
    norms = [[r["gradient_norm"] for r in each.records] for each in (found, expected)]
    assert np.allclose(*norms, rtol=1e-10)
    assert [r["tokens"] for r in found.records] == [r["tokens"] for r in expected.records]
    for a, b in zip(weights(one.network).values(), weights(other.network).values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_a_run_in_parts_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def run(folder: Path, **more: Any) -> Trainer:
        torch.manual_seed(0)
        witness = Witness(more)
        made = trainer(network(dropout=0.3), witness, folder=folder, steps=12, accumulate=3)
        witness.at = {5: made.stop} if more else {}
        made.run(resume=(folder / "000001").exists())
        return made

    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop=True)
    rest = run(tmp_path / "stopped")
    assert rest.step == 12
    assert same(weights(whole.network), weights(rest.network))


def test_one_process_has_nothing_to_average() -> None:
    torch.manual_seed(0)
    plain, other, witness = trainer(network()), network(), Witness()
    plain.run()
    trainer(other, witness, average_every=4).run()
    assert witness.notes == ["average_every: there is one process, and nothing to average"]
    assert same(weights(plain.network), weights(other))
    with pytest.raises(OstinatoError, match="average_every=0; expected a number above zero"):
        trainer(average_every=0)


def test_batches_that_cannot_be_divided_are_refused() -> None:
    class Own:
        windows = 1

    with pytest.raises(OstinatoError, match=r"Own cannot be divided .* into 2 parts"):
        trainer(batches=Own(), accumulate=2)


def test_batch_normalisation_by_parts_is_said() -> None:
    net = network()
    net.norm = nn.BatchNorm1d(2)
    witness = Witness()
    trainer(net, witness, steps=2, accumulate=2).run()
    assert witness.notes == ["batch normalisation: by the rows of each part of a batch alone"]
