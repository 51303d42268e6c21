"""The benchmarks count, draw and write what they should; how fast anything is, is not tested."""

import doctest
import hashlib
import importlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ostinato import _core
from ostinato.cells import RNNCell
from ostinato.recurrence.layers import Recurrent

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PEERS = all(importlib.util.find_spec(name) for name in ("jax", "onnx", "onnxruntime"))


@pytest.fixture(scope="module")
def bench():
    """A module of the benchmarks by its name; they are scripts, and import one another as such."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize(
    "module",
    ["settings", "report", "end_to_end", "busy", "scenes", "entities", "defaults", "data"],
)
def test_the_examples_in_docstrings_hold(bench, module):
    found = doctest.testmod(bench(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("input_grad", [False, True])
@pytest.mark.parametrize("family", ["training", "inference"])
@pytest.mark.parametrize(("cell", "G"), [("rnn", 1), ("lstm", 4), ("gru", 3)])
def test_flops_are_those_of_the_products_that_are_carried_out(bench, cell, G, family, input_grad):
    settings = bench("settings")
    T, B, H = 4, 3, 5
    s = settings.Setting(family, cell, B, T, H, input_grad and family == "training")
    x = torch.randn(T, B, H, requires_grad=s.input_grad)
    h = torch.randn(B, H, requires_grad=s.is_training)
    w_ih, w_hh = (torch.randn(H, G * H, requires_grad=s.is_training) for _ in "ih")
    with FlopCounterMode(display=False) as counter:
        for x_t in x:
            h = (x_t @ w_ih + h @ w_hh)[:, :H].tanh()
        if s.is_training:
            h.sum().backward()
    assert settings.flops(s) == counter.get_total_flops()


def test_padding_is_no_work(bench):
    settings = bench("settings")
    s = settings.Setting("lengths", "gru", 8, 50, 16, True)
    assert settings.flops(s, steps=200) * 2 == settings.flops(s)


@pytest.mark.parametrize(("B", "T"), [(32, 100), (8, 256), (64, 64), (500, 1000)])
def test_lengths_are_those_of_text(bench, B, T):
    lengths = bench("settings").text_lengths(B, T)
    assert lengths.shape == (B,)
    assert lengths[0] == T
    assert lengths.min() >= 1
    assert (np.diff(lengths) <= 0).all()
    assert lengths.mean() == pytest.approx(T / 2, rel=0.01)
    assert np.median(lengths) < lengths.mean()
    assert (lengths == bench("settings").text_lengths(B, T)).all()
    assert (lengths != bench("settings").text_lengths(B, T, seed=1)).any()


def test_every_setting_is_named_once_and_the_quick_ones_are_among_all(bench):
    settings = bench("settings")
    quick, full = settings.quick_settings(), settings.full_settings()
    names = [s.name for s in full]
    assert len(set(names)) == len(names)
    assert {s.name for s in quick} <= set(names)
    chosen = bench("speed").selected(full, ["=training/lstm/32x100/32/dx", "streaming/gru"])
    assert [s.family for s in chosen] == ["training"] + ["streaming"] * 5


def results(bench, *, speed=2.0, isa="avx512"):
    """Made-up results of the quick settings, in which Ostinato is ``speed`` times the best peer."""
    settings = bench("settings")

    def times(seconds, note=""):
        quartiles = {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
        return {**quartiles, "calls": 9, "note": note}

    def record(s):
        known = {"torch": times(6e-3), "jax": times(3e-3), "ostinato": times(3e-3 / speed)}
        if s.family == "lengths":
            known["torch packed"] = known.pop("torch")
        if s.family == "streaming":
            known |= {"onnxruntime": times(4e-3), "ostinato int8": times(4e-3 / 3)}
            known |= {"eigen loop": times(1e-6), "ostinato loop": times(1e-6 / 5)}
        else:
            known["ostinato"]["note"] = "compiled"
        keys = ("name", "family", "cell", "B", "T", "H", "input_grad")
        facts = {key: getattr(s, key) for key in keys}
        return {**facts, "flops": settings.flops(s), "disturbance": 0.0, "contenders": known}

    rates = {"ostinato": times(3000.0), "torch": times(1000.0)}
    core = {"avx2": "x86-64-v3", "avx512": "x86-64-v4"}[isa]
    facts = {
        "cpu": "Some CPU",
        "threads": 2,
        "instruction_set": core,
        "isa": isa,
        "system": "Linux",
    }
    kept = {
        "rnn": {"ostinato": 2, "torch.nn": 4, "checkpoints": 1},
        "lstm": {"ostinato": 3e6, "torch.nn": 4e6, "checkpoints": 1e6},
    }
    slower = {"rnn": 1.2, "lstm": 1.3}
    return {
        "kind": "quick",
        "machine": {**facts, "python": "3.12", "versions": {"torch": "2.9"}, "date": "2025-01-01"},
        "peak": {"FMA loop": 2e11},
        "settings": [record(s) for s in settings.quick_settings()],
        "isolation": [{"in_turns": 1.1, "alone": 1.0}],
        "skipped": ["Something was not there."],
        "failures": [],
        "instructions": {"ostinato": "AVX2", "torch": "ATen AVX2, oneDNN Intel AVX2"},
        "memory": {"B": 32, "T": 1000, "H": 256, "kept": kept, "every": 32, "slower": slower},
        "busy": {"ratio_to_one_thread": 0.95},
        "limits": {
            "half_rows": {"lstm": {"32": 0.5, "64": 0.72}},
            "gates": {"lstm": 2.0},
            "products": {"lstm": {"32": 0.001, "64": 0.003, "128": 0.012583}},
            "empty_function": {"an empty function": 45.4, "ostinato": 120.0},
            "reads": {"0.5": 100.0, "2.0": 60.0},
        },
        "end_to_end": {"runs": [{"cell": "lstm", "contenders": rates}], "model": "hidden_size 8"},
    }


def test_goals_are_read_off_the_results(bench):
    report = bench("report")
    goals = {goal.what: goal for goal in report.GOALS}
    found = {what: goal.measured(results(bench)) for what, goal in goals.items()}
    expected = {
        "training, 32 rows x 100 steps, all cells": 2.0,
        "the same, LSTM, its slowest size": 2.0,
        "training, 1 row x 100 steps, all cells": 2.0,
        "the same, the slowest cell and size": 2.0,
        "half the steps padding, against the better of PyTorch packed and padded": 4.0,
        "loss at the last of 256 steps, against PyTorch with default settings": 4.0,
        "streaming, up to 128 units, against ONNX Runtime": 4 / 1.5,
        "streaming, 256 and 512 units, against ONNX Runtime": 4 / 1.5,
        "the same with int8 weights, against ONNX Runtime in float32": 3.0,
        "busy machine: two threads beside two busy loops, against one thread there": 0.95,
        "memory that a training step keeps, 32 rows x 1,000 steps, 256 units, the worst cell, "
        "against PyTorch": 0.75,
        "`ostinato train text`, LSTM, against plain PyTorch": 3.0,
    }
    assert {what: found[what] for what in expected} == pytest.approx(expected)
    assert found["`ostinato train text`, GRU, against plain PyTorch"] is None


def test_the_slowest_size_decides(bench):
    report, made = bench("report"), results(bench)
    (slow,) = [r for r in made["settings"] if r["name"] == "training/lstm/32x100/64/dx"]
    slow["contenders"]["ostinato"]["median"] = 6e-3
    (goal,) = [goal for goal in report.GOALS if "LSTM, its slowest" in goal.what]
    assert goal.measured(made) == pytest.approx(0.5)


def test_each_instruction_set_has_its_own_goal(bench):
    report = bench("report")
    goal = report.Goal("this", 2.0, 3.0, lambda results: 2.5)
    cells = {isa: goal.cells(results(bench, isa=isa)) for isa in ("avx2", "avx512")}
    assert cells == {"avx2": ("2 ×", "2.50 ×"), "avx512": ("3 ×", "2.50 ×")}


def test_a_loop_in_compiled_code_is_compared_with_such_alone(bench):
    report = bench("report")
    record = next(r for r in results(bench)["settings"] if r["family"] == "streaming")
    assert report.speed_up(record) == pytest.approx(2.0)
    assert report.speed_up(record, "eigen loop", "ostinato loop") == pytest.approx(5.0)
    assert report.best_peer(record) == "jax"


def test_the_share_of_the_peak_is_that_of_the_highest(bench):
    report = bench("report")
    record = {"flops": 1e8, "contenders": {"ostinato": {"median": 1e-3}}}
    assert report.share_of_peak(record, {"torch": 1e11, "jax": 4e11}) == pytest.approx(0.25)


def test_a_page_and_a_picture_come_out(bench, tmp_path):
    report, folder = bench("report"), tmp_path / "results"
    folder.mkdir()
    for isa, speed in [("avx512", 2.0), ("avx2", 4.0)]:
        made = results(bench, speed=speed, isa=isa)
        for part in ("end_to_end", "busy", "limits"):
            (folder / f"{part}-{isa}.json").write_text(json.dumps(made.pop(part)))
        (folder / f"quick-{isa}.json").write_text(json.dumps(made))
    written = report.write(report.load(folder), tmp_path / "docs")
    assert [path.name for path in written] == ["performance.md", "performance.png"]
    page = written[0].read_text(encoding="utf-8")
    assert "|  | goal, AVX2 | AVX2, Some CPU | goal, AVX-512 | AVX-512, Some CPU |" in page
    all_cells = "| training, 32 rows x 100 steps, all cells | 2 × | 4.00 × | 2.2 × | 2.00 × |"
    assert all_cells in page
    assert "| LSTM | 128 | 1.50 ms | 6.00 ms | 3.00 ms | **2.00 ×** | 1678 | 839 % |" in page
    assert "| LSTM | 128 | 750 µs | 6.00 ms | 3.00 ms | **4.00 ×** | 3355 | 1678 % |" in page
    assert "32 rows × 100 steps, dx; AVX2, Some CPU:" in page
    assert "| 0.200 µs | 1.00 µs | **5.00 ×** |" in page
    assert "| LSTM | AVX2, Some CPU | 3 MB (0.4) | 4 MB (0.5) | **0.75** |" in page
    assert "| LSTM | AVX2, Some CPU | 3,000 | 1,000 | **3.00 ×** |" in page
    assert "| torch | ATen AVX2, oneDNN Intel AVX2 | ATen AVX2, oneDNN Intel AVX2 |" in page
    assert "takes 45 µs per training step, Ostinato's 120 µs" in page
    assert "of full length a training step takes 0.60 of the time (0.50 to 0.72" in page
    # Products of 12.58 ms, 2 ns a unit on two threads and 45.4 us: 13.04 ms, beside 1.5 and 3 ms
    # of the peer.
    assert "869 %, 0.23 × (128)" in page
    assert "100 at 0.5 MB, 60 at 2.0 MB" in page
    assert "None" not in page
    assert "nan" not in page
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_is_left_out(bench, tmp_path):
    report, made = bench("report"), results(bench)
    for part in ("end_to_end", "busy", "memory", "instructions", "limits"):
        del made[part]
    made["settings"] = [r for r in made["settings"] if r["family"] == "streaming"]
    for record in made["settings"]:
        del record["contenders"]["ostinato"]
    page = report.page([made])
    assert "not measured" in page
    assert "## Training" not in page
    report.picture([made], tmp_path / "empty.png")
    assert "-" in report.line(made["settings"][0], made["peak"])


def test_contenders_that_disagree_are_found(bench):
    peers, speed = bench("peers"), bench("speed")

    def contender(name, **found):
        return peers.Contender(name, lambda: None, lambda: found)

    y = np.linspace(-1, 1, 6, dtype=np.float32)
    same = [contender("a", y=y), contender("b", y=y + 1e-5)]
    assert speed.disagreements(same) == []
    assert "y differs by 1.0e-03" in speed.disagreements([*same, contender("c", y=y + 1e-3)])[0]
    assert speed.disagreements([*same, contender("c", y=y * np.nan)])
    assert speed.disagreements([*same, contender("c", y=y[:, None])])
    assert speed.disagreements([*same, contender("c", y=y, dx=y)])


@pytest.mark.parametrize("family", ["training", "inference", "lengths", "last", "streaming"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_all_who_are_installed_agree(bench, cell, family):
    settings, peers, speed = bench("settings"), bench("peers"), bench("speed")
    B, T = (1, 1) if family == "streaming" else (4, 6)
    dx = family not in ("inference", "streaming")
    setting = settings.Setting(family, cell, B, T, 8, dx)
    groups = peers.contenders(setting, 1, thorough=False)
    assert {"torch", "torch padded"} & {group[0].name for group in groups}
    assert speed.disagreements([each for group in groups for each in group]) == []


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_compiled_layer_agrees_with_the_layer(bench, cell):
    settings, peers, speed = bench("settings"), bench("peers"), bench("speed")
    setting = settings.Setting("training", cell, 2, 100, 8, True)
    problem = settings.Problem.of(setting)
    (compiled,) = peers._compiled_modules(setting, problem)  # unrolled at other sizes
    layer = peers._modules(setting, problem)[0][0]
    assert speed.disagreements([layer, compiled]) == []


def test_a_wrong_gate_order_is_noticed(bench, monkeypatch):
    if not PEERS:
        pytest.skip("ONNX Runtime is not installed")
    settings, peers, speed = bench("settings"), bench("peers"), bench("speed")
    monkeypatch.setitem(peers.ONNX_GATES, "lstm", [0, 1, 2, 3])
    groups = peers.contenders(settings.Setting("inference", "lstm", 2, 5, 4), 1, thorough=False)
    assert "onnxruntime: y" in speed.disagreements([each for g in groups for each in g])[0]


def test_every_contender_gets_its_turns(bench, monkeypatch):
    peers, speed = bench("peers"), bench("speed")
    calls, now = {"quick": 0, "slow": 0}, [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def contender(name, seconds):
        def call():
            calls[name] += 1
            now[0] += seconds

        return peers.Contender(name, call, dict)

    both = [contender("quick", 1e-5), contender("slow", 1e-3)]
    times = speed.interleave(both, 0.02)
    for each, seconds in zip(times, (1e-5, 1e-3), strict=True):
        assert len(each) >= speed.FEWEST
        assert each == pytest.approx([seconds] * len(each))
    assert calls["quick"] > 5 * calls["slow"]
    summary = speed.summary(times[1])
    assert summary["low"] <= summary["median"] <= summary["high"]


def test_a_call_of_many_steps_counts_as_many(bench, monkeypatch):
    peers, speed = bench("peers"), bench("speed")
    clock = itertools.count()
    monkeypatch.setattr(speed, "settle", lambda: None)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(clock)))
    times = speed.turn(peers.Contender("loop", lambda: None, dict, steps=10), 5.0)
    assert times and set(times) == {0.1}


def in_a_process(code, **environment):
    """What a process prints that imports the benchmarks."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n{code}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, check=True, timeout=600
    )
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_everybody_is_held_to_avx2():
    if _core.instruction_set() not in ("x86-64-v3", "x86-64-v4"):
        pytest.skip("this CPU has no AVX2")
    found = in_a_process(
        "import instructions, json\n"
        "instructions.hold('avx2')\n"
        "import peers\n"
        "print(json.dumps(instructions.in_use(peers.PRESENT)))"
    )
    assert found["ostinato"] == "AVX2"
    assert {"torch", "torch.compile"} <= found.keys()
    found.pop("onnxruntime", None)  # nothing can hold it
    for name, isa in found.items():
        assert "512" not in isa, (name, isa)


@pytest.mark.thorough
@pytest.mark.parametrize("cell", ["rnn", "gru"])  # oneDNN's LSTM does not touch all that it takes
def test_what_torch_keeps_is_what_autograd_saves(bench, cell):
    memory = bench("memory")
    if not memory.STATUS.exists():
        pytest.skip("this system does not tell the memory of a process")
    B, T, H = 64, 100, 256
    layer = getattr(torch.nn, cell.upper())(H, H)
    x = torch.randn(T, B, H, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, _ = layer(x)
    given = {each.untyped_storage().data_ptr() for each in (x, *layer.parameters())}
    storages = {s.data_ptr(): s for s in (each.untyped_storage() for each in (*saved, y))}
    expected = sum(s.nbytes() for at, s in storages.items() if at not in given)
    kept = in_a_process(
        f"import memory\nmemory.B, memory.T, memory.H = {B}, {T}, {H}\n"
        f"print(memory.kept('torch.nn', {cell!r}))",
        **memory.ENVIRONMENT,
    )
    assert kept == pytest.approx(expected, rel=0.1)


WORKER = """
import json, sys, time
begun = time.perf_counter()
with open(sys.argv[1], "w", buffering=1) as file:
    for step in range(1, 10**6):
        time.sleep(0.01)
        seconds = time.perf_counter() - begun
        file.write(json.dumps({"tokens": int(sys.argv[2]) * step, "seconds": seconds}) + "\\n")
"""


def test_beside_busy_loops_every_contender_gets_its_turns_and_nobody_is_left(
    bench, tmp_path, monkeypatch
):
    busy, children = bench("busy"), []

    class Popen(busy.subprocess.Popen):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            children.append(self)

    monkeypatch.setattr(busy.subprocess, "Popen", Popen)
    who = []
    for tokens in (7, 21):
        records = tmp_path / f"{tokens}.jsonl"
        command = [sys.executable, "-c", WORKER, str(records), str(tokens)]
        who.append(busy.Contender(f"side{tokens}", 1, False, command, records, {}))
    found = busy.take_turns(who, 1, tmp_path, turns=2, seconds=0.3)
    assert found.keys() == {"busy", "quiet"}
    for rates in found.values():
        assert list(rates) == [each.name for each in who]
        assert all(len(each) == 2 and min(each) > 0 for each in rates.values())
    assert len(children) == 3
    assert all(child.returncode is not None for child in children)


def test_a_contender_that_ends_by_itself_is_named(bench, tmp_path):
    busy = bench("busy")
    lame = busy.Contender("torch", 2, True, [sys.executable, "-c", ""], tmp_path / "none", {})
    with pytest.raises(RuntimeError, match="torch/2/calm ended by itself"):
        busy.take_turns([lame], 1, tmp_path, turns=1, seconds=0.1)


def test_ratios_beside_busy_loops_are_to_each_sides_better_environment(bench):
    found = {
        "ostinato/2/calm": [8.0, 8.0, 4.0],
        "ostinato/2/default": [2.0, 2.0, 2.0],
        "ostinato/1/calm": [5.0, 4.0, 4.0],
        "ostinato/1/default": [9.0, 9.0, 9.0],
        "torch/2/calm": [1.0, 2.0, 4.0],
        "torch/2/default": [0.0, 0.0, 9.0],
        "torch/1/calm": [4.0, 4.0, 4.0],
        "torch/1/default": [8.0, 8.0, 8.0],
    }
    ratios = {name: s["median"] for name, s in bench("busy").ratios(found, 2).items()}
    assert ratios == {
        "one_thread": 1.6, "default_environment": 4.0, "torch": 4.0, "torch_one_thread": 1.0
    }  # fmt: skip


def test_the_plain_loop_translates_as_the_library_does(bench):
    from ostinato import Translator

    words = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier"}
    rng = np.random.default_rng(0)
    X = [" ".join(rng.choice(list(words), rng.integers(1, 6))) for _ in range(120)]
    y = [" ".join(words[word] for word in reversed(text.split())) for text in X]
    model = Translator(
        cell="lstm", hidden_size=48, level="word", epochs=8, learning_rate=0.02, dropout=0.0
    ).fit(X, y)
    sides = bench("translation").sides(model, X[:40], 8)
    said = {name: run() for name, run in sides.items()}
    assert len(said) == 3 and len(set(said["ostinato"])) > 5
    assert all(texts == said["ostinato"] for texts in said.values())
    taken = bench("translation").measure(sides, turns=1)
    assert all(len(seconds) == 1 for seconds in taken.values())
    with pytest.raises(RuntimeError, match="says 40 of 40 sentences otherwise"):
        bench("translation").measure({**sides, "other": lambda: ["?"] * 40}, turns=1)


def test_sentences_about_scenes_are_judged_as_people_judged_them(bench):
    judge = bench("scenes").judge
    files = sorted((BENCHMARKS.parent.parent / "shared/data/nlvr").glob("*/*.json"))
    if not files:
        pytest.skip("there is no ../shared/data/nlvr")
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip()]
    agree = []
    for example in map(json.loads, lines):
        found = judge(example["sentence"], example["structured_rep"])
        if found is not None:
            agree.append(found == (str(example["label"]).lower() == "true"))
    assert len(agree) > 0.45 * len(lines) and np.mean(agree) > 0.98


def test_series_are_divided_in_time_and_rules_know_how_far_they_are_off(bench, monkeypatch):
    sets, rule = bench("forecast_sets"), bench("forecast_sets").Blend("naive")
    walks = {f"{i}": np.random.default_rng(i).normal(size=400).cumsum() for i in range(30)}
    of = sets.SeriesSet(lambda data: walks, horizon=3, cutoffs=4)
    division = sets.Division.of_set(of, Path())
    assert [len(series.values) for series in division.known.series] == [388] * 30
    pasts, futures, known = division.pasts_and_futures()
    assert [len(past) for past in pasts[:5]] == [388, 391, 394, 397, 388]
    assert len(known) == 120 and all(len(values) == 388 for values in known)
    np.testing.assert_array_equal(futures[4], walks["1"][388:391])
    quantiles = division.by_rule(rule)
    median = quantiles[..., sets.LEVELS.index(0.5)]
    np.testing.assert_array_equal(median, [[past[-1]] * 3 for past in pasts])
    found = division.scores(quantiles)
    scale = np.array([np.abs(np.diff(past)).mean() for past in known])[:, None]
    assert found["MASE"] == pytest.approx(np.mean(np.abs(futures - median) / scale))
    assert found["coverage"] == pytest.approx(80, abs=8)
    sure = division.scores(np.repeat(futures[..., None], len(sets.LEVELS), -1))
    assert (sure["MASE"], sure["sMAPE"], sure["CRPS"], sure["coverage"]) == (0, 0, 0, 100)
    problems = []

    def answer(command, **named):
        problem = json.loads(Path(command[3]).read_text())
        problems.append(problem)
        Path(command[4]).write_text(json.dumps({"quantiles": quantiles.tolist()}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", answer)
    assert sets.by_peer("any", division)["quantiles"] == quantiles.tolist()
    assert problems[0]["learnt"] == [388] * 30 and problems[0]["levels"] == list(sets.LEVELS)
    assert problems[0]["moments"] == [[388, 391, 394, 397]] * 30


def test_the_table_of_gradients_has_the_growth_of_a_linear_network(bench, monkeypatch):
    """Its Jacobian is its recurrent matrix: nine tenths of an orthogonal one."""

    def linear(I, H):
        cell = RNNCell(I, H, activation="identity")
        layer = Recurrent(cell, batch_first=True, init="orthogonal")
        with torch.no_grad():
            layer.weight_hh_l0 *= 0.9
        return layer

    figures = bench("figures")
    monkeypatch.setattr(figures, "LAYERS", {"linear": linear})
    table = figures.table_of(figures.gradient_flows(seeds=2, steps=12, H=4), lag=5)
    assert table.splitlines()[2:] == ["| linear | 0.59 | 0.900 |"]


def test_data_are_there_missing_or_different(bench, tmp_path, monkeypatch):
    data = bench("data")
    text = b"some bytes"
    listed = {"a/x": hashlib.sha256(text).hexdigest(), "a/y": "0" * 64, "b/": "", "c/z": "1" * 64}
    (tmp_path / "b" / "inner").mkdir(parents=True)
    for name in ("a/x", "a/y", "b/2", "b/inner/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    both = f"{listed['a/x']}  2\n{listed['a/x']}  inner/1\n"  # as sha256sum writes them
    listed["b/"] = hashlib.sha256(both.encode()).hexdigest()
    monkeypatch.setattr(data, "listed", lambda: listed)
    states = {"a/x": "there", "a/y": "different", "b/": "there", "c/z": "missing"}
    assert data.states(tmp_path) == states


def test_the_page_of_data_says_where_each_file_comes_from(bench):
    folders = {name.split("/")[0] for name in bench("data").listed()}
    page = (BENCHMARKS.parent / "docs" / "reference" / "data.md").read_text()
    assert len(folders) > 15
    for folder in folders:
        assert len(re.findall(rf"^\| `{folder}` \| .* @ `[0-9a-f]{{40}}`", page, re.M)) == 1, folder
