"""The benchmarks count, draw and write what they should; how fast anything is, is not tested."""

import doctest
import importlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PEERS = all(importlib.util.find_spec(name) for name in ("jax", "onnx", "onnxruntime"))


@pytest.fixture(scope="module")
def bench():
    """A module of the benchmarks by its name; they are scripts, and import one another as such."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("module", ["settings", "report", "end_to_end", "busy", "scenes"])
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


def results(bench, *, speed=2.0):
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
        else:
            known["ostinato"]["note"] = "compiled"
        keys = ("name", "family", "cell", "B", "T", "H", "input_grad")
        facts = {key: getattr(s, key) for key in keys}
        return {**facts, "flops": settings.flops(s), "disturbance": 0.0, "contenders": known}

    rates = {"ostinato": times(3000.0), "torch": times(1000.0)}
    facts = {"cpu": "Some CPU", "threads": 2, "instruction_set": "x86-64-v4", "system": "Linux"}
    return {
        "kind": "quick",
        "machine": {**facts, "python": "3.12", "versions": {"torch": "2.9"}, "date": "2025-01-01"},
        "peak": {"torch": 1e11, "onednn": 2e11},
        "settings": [record(s) for s in settings.quick_settings()],
        "isolation": [{"in_turns": 1.1, "alone": 1.0}],
        "skipped": ["Something was not there."],
        "failures": [],
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
        "half the steps padding, against PyTorch": 4.0,
        "loss at the last of 256 steps, against PyTorch as it comes": 4.0,
        "streaming, up to 128 units, against ONNX Runtime": 4 / 1.5,
        "streaming with int8 weights, 256 and 512 units, against ONNX Runtime in float32": 3.0,
        "`ostinato train text`, LSTM, against plain PyTorch": 3.0,
    }
    assert {what: found[what] for what in expected} == pytest.approx(expected)
    assert found["`ostinato train text`, GRU, against plain PyTorch"] is None


def test_the_slowest_size_decides(bench):
    report, made = bench("report"), results(bench)
    (slow,) = [r for r in made["settings"] if r["name"] == "training/lstm/32x100/64/dx"]
    slow["contenders"]["ostinato"]["median"] = 6e-3
    (goal,) = [goal for goal in report.GOALS if "slowest" in goal.what]
    assert goal.measured(made) == pytest.approx(0.5)


def test_the_share_of_the_peak_is_that_of_the_highest(bench):
    report = bench("report")
    record = {"flops": 1e8, "contenders": {"ostinato": {"median": 1e-3}}}
    assert report.share_of_peak(record, {"torch": 1e11, "jax": 4e11}) == pytest.approx(0.25)


def test_a_page_and_a_picture_come_out(bench, tmp_path):
    report = bench("report")
    made, whole = results(bench), tmp_path / "results"
    whole.mkdir()
    (whole / "end_to_end.json").write_text(json.dumps(made.pop("end_to_end")))
    (whole / "quick.json").write_text(json.dumps(made))
    written = report.write(report.load(whole), tmp_path / "docs")
    assert [path.name for path in written] == ["performance.md", "performance.png"]
    page = written[0].read_text(encoding="utf-8")
    assert "| training, 32 rows x 100 steps, all cells | 2.4 × | 2.00 × |" in page
    assert "| LSTM | 128 | 1.50 ms | 6.00 ms | 3.00 ms | **2.00 ×** | 1678 | 839 % |" in page
    assert "| LSTM | 3,000 | 1,000 | **3.00 ×** |" in page
    assert "None" not in page
    assert "nan" not in page
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_what_was_not_measured_is_left_out(bench, tmp_path):
    report, made = bench("report"), results(bench)
    del made["end_to_end"]
    made["settings"] = [r for r in made["settings"] if r["family"] == "streaming"]
    for record in made["settings"]:
        del record["contenders"]["ostinato"]
    page = report.page(made)
    assert "not measured" in page
    assert "## Training" not in page
    report.picture(made, tmp_path / "empty.png")
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


def test_a_wrong_gate_order_is_noticed(bench, monkeypatch):
    if not PEERS:
        pytest.skip("ONNX Runtime is not installed")
    settings, peers, speed = bench("settings"), bench("peers"), bench("speed")
    monkeypatch.setitem(peers.ONNX_GATES, "lstm", [0, 1, 2, 3])
    groups = peers.contenders(settings.Setting("inference", "lstm", 2, 5, 4), 1, thorough=False)
    assert "onnxruntime: y" in speed.disagreements([each for g in groups for each in g])[0]


def test_every_contender_gets_its_turns(bench):
    peers, speed = bench("peers"), bench("speed")
    calls = {"quick": 0, "slow": 0}

    def contender(name, work):
        def call():
            calls[name] += 1
            sum(range(work))

        return peers.Contender(name, call, dict)

    both = [contender("quick", 10), contender("slow", 10_000)]
    times = speed.interleave(both, 0.02)
    assert all(len(each) >= speed.FEWEST for each in times)
    assert calls["quick"] > calls["slow"]
    summary = speed.summary(times[1])
    assert summary["low"] <= summary["median"] <= summary["high"]


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
