"""``info``, ``diagnose``, ``memory``, ``gates``."""

import json
import os

import pytest
from command_line import EPOCHS, assert_refused

from ostinato import TextGenerator
from ostinato.training import storage

pytestmark = pytest.mark.filterwarnings("default::UserWarning")


@pytest.mark.parametrize("command", ["generate {} --length 3", "memory {} it", "info {}"])
def test_weights_are_compared_with_their_checksum_once(ostinato, run, command, monkeypatch):
    size, read = (run / "weights.safetensors").stat().st_size, []
    sha256, digest_of = storage.sha256, storage.digest_of

    def counted(data):
        read.append(len(data))
        return sha256(data)

    def counted_file(file):
        read.append(os.fstat(file.fileno()).st_size)
        return digest_of(file)

    monkeypatch.setattr(storage, "sha256", counted)
    monkeypatch.setattr(storage, "digest_of", counted_file)
    assert ostinato(command.format(run)).status == 0
    assert read.count(size) == 1


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "weights.safetensors"])
def test_a_damaged_model_is_one_line(name, ostinato, here, run):
    model = TextGenerator.load(run)
    model.save(here / "model")
    file = here / "model" / name
    file.write_bytes(file.read_bytes()[:-2])
    for command in ("generate model", "info model"):
        assert_refused(ostinato(command), f"model/{name}: ")


def test_info_on_no_model_is_one_line(ostinato, here):
    assert_refused(ostinato("info none"), "none: no such folder")
    assert_refused(ostinato("info taken"), "taken: holds no finished model")


def test_info_says_what_is_there(ostinato, run):
    result = ostinato(f"info {run}")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"{run}: TextGenerator"
    shown = {line.split()[0]: line.split()[-1] for line in lines[1:] if line.startswith("  ")}
    config = json.loads((run / "config.json").read_text())
    assert set(shown) == {*config["training"], *config["parameters"]}
    assert shown["hidden_size"] == "12"
    assert shown["characters"] == "1,680"
    assert float(shown["best_loss"]) == pytest.approx(config["training"]["best_loss"], rel=1e-3)


def test_a_run_is_diagnosed_in_text_measurements_and_plots(written, ostinato, tmp_path):
    result = ostinato(f"diagnose {written} --out {tmp_path}/seen")
    assert (result.status, result.err) == (0, "")
    assert "measurements\n  loss " in result.out and "  improvement " in result.out
    assert f"Page with plots: {tmp_path}/seen/index.html" in result.out
    assert {"index.html", "diagnosis.json", "input_influence.png", "learning_curve.png"} <= {
        file.name for file in (tmp_path / "seen").iterdir()
    }
    (tmp_path / "new.txt").write_text('and he left, "no".\n'.replace(",", "") * 3)
    result = ostinato(f"diagnose {written} {tmp_path}/new.txt --json")
    assert set(json.loads(result.out)) == {
        "healthy", "verdict", "findings", "candidates", "needs", "loss", "constant", "improvement",
        "held_out_improvement", "flow", "influence",
    }  # fmt: skip
    assert (written / "diagnosis" / "index.html").exists()
    tried = ostinato(f"diagnose {written} --try --out {tmp_path}/tried")
    assert tried.status == 0
    assert "=" not in "".join(line for line in tried.out.splitlines() if line.startswith("    --"))


def test_memory_is_measured_on_a_text_a_file_or_the_run(written, ostinato, tmp_path):
    result = ostinato(f"memory {written} --plot {tmp_path}/memory.png")
    assert result.out.startswith("A change of the input affects the output up to ")
    assert "\n  0  " in result.out and (tmp_path / "memory.png").exists()
    (tmp_path / "a.txt").write_text("he said and left.\n" * 5)
    by_file = json.loads(ostinato(f"memory {written} {tmp_path}/a.txt --steps 30 --json").out)
    assert by_file["contexts"][-1] == 30
    by_text = json.loads(ostinato("memory", written, "he said and left", "--json").out)
    assert by_text["contexts"][-1] == 15


def test_gates_are_shown_over_a_text(written, ostinato, tmp_path):
    text = 'he "said" no'
    result = ostinato("gates", written, text, "--label", "quotes", "--plot", tmp_path / "unit.png")
    assert result.out.startswith("layer 0: ")
    assert result.out.count("correlation") == 10
    assert text in result.out and (tmp_path / "unit.png").exists()
    found = json.loads(ostinato("gates", written, text, "--unit", "3", "--json").out)
    assert found["steps"] == len(found["values"]) == len(text)
    (tmp_path / "a.txt").write_text("he left.")
    assert (
        ostinato(f"gates {written} {tmp_path}/a.txt --gate f --plot {tmp_path}/f.png").status == 0
    )
    for wrong, message in {
        "--label vowels": "label 'vowels'; expected one of quotes, line",
        "--unit 12": "has no unit 12; expected 0 to 11",
        "--layer 1 --unit 0": "there is no layer 1",
        f"--plot {tmp_path}/x.png": "add --unit N, --gate LETTER or --label",
        f"--gate z --plot {tmp_path}/x.png": "has no gate 'z'",
    }.items():
        assert_refused(ostinato("gates", written, "he left", *wrong.split()), message)
    assert not (tmp_path / "x.png").exists()


def test_labelled_sequences_are_looked_at_too(data, ostinato):
    assert ostinato(f"train classify reviews.csv --out run {EPOCHS}").status == 0
    assert "measurements" in ostinato("diagnose run").out
    assert "measurements" in ostinato("diagnose run test.csv").out
    assert "steps back" in ostinato("memory run test.csv").out
    assert ostinato("gates run new.txt").out.startswith("layer 0: ")
    assert_refused(ostinato("diagnose none"), "none: no such folder")
    assert_refused(ostinato("diagnose run new.txt"), "new.txt")
