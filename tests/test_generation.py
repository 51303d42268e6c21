"""`ostinato.tasks.generation`: laws of sampling, of judging, and of being an estimator."""

import copy
import inspect
import json
import math
import pickle
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch.optim.optimizer import register_optimizer_step_post_hook

from ostinato import OstinatoError, TextGenerator
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import word_tokens
from ostinato.errors import DataError
from ostinato.tasks import generation
from ostinato.tasks.generation import DegenerateTextWarning, degeneration, draw_token
from ostinato.training import distributed, storage

LAW = settings(max_examples=60, derandomize=True, deadline=None, database=None)
TEXT = "to be or not to be, that is the question:\nwhether 'tis nobler in the mind, é\n" * 30
SMALL = {"hidden_size": 12, "window": 12, "batch_size": 8, "learning_rate": 0.02}
LEVELS = ["char", "byte", "word", "bpe"]
CELLS = ["lstm", "gru", "gru-reset-before", "rnn", "rnn-relu"]


def small(steps=3, **more):
    return TextGenerator(**{**SMALL, "steps": steps, **more})


@pytest.fixture(scope="module")
def models():
    """One trained model of each level."""
    sizes = {"bpe": {"vocabulary_size": 280}}
    return {level: small(60, level=level, **sizes.get(level, {})).fit(TEXT) for level in LEVELS}


@pytest.fixture(scope="module")
def model(models):
    return models["char"]


@pytest.fixture(scope="module")
def model_with_unknown():
    return small(30, vocabulary_size=8, unknown="?").fit(TEXT)


# Drawing a token


def likeliest(probabilities, top_k=None, top_p=None):
    """The tokens that may be drawn, by their definition; and their chances."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:top_k]
    total = math.fsum(probabilities[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if top_p is not None and mass >= top_p:
            break
        kept.append(i)
        mass += probabilities[i] / total
    total = math.fsum(probabilities[i] for i in kept)
    return {i: probabilities[i] / total for i in kept}


def softmax(scores, temperature=1.0):
    powers = [math.exp((s - max(scores)) / temperature) for s in scores]
    return [power / math.fsum(powers) for power in powers]


def assert_drawn(scores, expected, draws=3000, **controls):
    """``draws`` tokens come from the tokens of ``expected`` alone, in its proportions."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.tensor(scores)
    counts = np.zeros(len(scores), int)
    for _ in range(draws):
        counts[draw_token(scores, generator, **controls)] += 1
    assert set(np.flatnonzero(counts)) == set(expected)
    wanted = np.array([draws * expected[i] for i in expected])
    error = ((counts[list(expected)] - wanted) ** 2 / wanted).sum()
    assert error < stats.chi2.isf(1e-3, max(1, len(expected) - 1))


SCORES = [0.3, -1.2, 1.9, 0.8, -0.1, 1.1, -2.0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_softmax_says(temperature):
    expected = dict(enumerate(softmax(SCORES, temperature)))
    assert_drawn(SCORES, expected, 6000, temperature=temperature)


@pytest.mark.parametrize("top_k", [1, 2, 5, 7, 100])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.9, 1.0])
def test_top_k_and_top_p_keep_exactly_the_likeliest(top_k, top_p):
    expected = likeliest(softmax(SCORES, 3.0), top_k, top_p)
    assert_drawn(SCORES, expected, 1500, temperature=3.0, top_k=top_k, top_p=top_p)


@LAW
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=30), st.data())
def test_only_what_is_kept_is_ever_drawn(scores, data):
    top_k = data.draw(st.none() | st.integers(1, 35))
    top_p = data.draw(st.none() | st.floats(0.01, 1.0))
    temperature = data.draw(st.floats(0.1, 10))
    probabilities = softmax(scores, temperature)
    kept = likeliest(probabilities, top_k, None if top_p is None else top_p + 1e-9)
    least = min(probabilities[i] for i in kept)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        token = draw_token(torch.tensor(scores), generator, temperature, top_k, top_p)
        assert probabilities[token] >= least * (1 - 1e-9)  # equal scores may change places


@LAW
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30))
def test_temperature_zero_takes_the_best(scores):
    token = draw_token(torch.tensor(scores), torch.Generator(), temperature=0)
    assert scores[token] == max(scores)


def test_top_k_keeps_k_where_scores_are_equal():
    generator = torch.Generator().manual_seed(0)
    drawn = {draw_token(torch.zeros(9), generator, top_k=3) for _ in range(300)}
    assert len(drawn) == 3


def test_top_p_ends_where_the_sum_is_reached_exactly():
    generator = torch.Generator().manual_seed(0)
    drawn = {draw_token(torch.zeros(8), generator, top_p=0.375) for _ in range(200)}
    assert len(drawn) == 3


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-8, 1e8, 1e308])
def test_no_temperature_breaks_the_arithmetic(temperature):
    scores = torch.tensor([3.0, -math.inf, 88.0, -1e4, 87.0])
    generator = torch.Generator().manual_seed(0)
    drawn = {draw_token(scores, generator, temperature) for _ in range(100)}
    assert drawn == ({2} if temperature < 1 else {0, 2, 3, 4})


def test_drawing_depends_on_its_generator_alone():
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return [draw_token(torch.zeros(50), generator) for _ in range(20)]

    torch.manual_seed(1)
    first = draw(5)
    torch.manual_seed(2)
    assert draw(5) == first != draw(6)


# Continuing a text


def scores_after(model, ids):
    """Scores ``(V,)`` after ``ids``, one step at a time."""
    state = None
    with torch.inference_mode():
        for i in ids:
            scores, state = model.network_.step(torch.tensor([i]), state)
    return scores[0].double()


def continued(model, prompt, length, penalty=1.0):
    """The likeliest continuation, each token from the whole text before it."""
    ids = model.vocabulary_.encode(prompt).tolist()
    start = len(ids)
    for _ in range(length):
        scores = scores_after(model, ids).tolist()
        if model.vocabulary_.unk_id is not None:
            scores[model.vocabulary_.unk_id] = -math.inf
        for seen in set(ids[-64:]):
            scores[seen] = scores[seen] / penalty if scores[seen] > 0 else scores[seen] * penalty
        ids.append(max(range(len(scores)), key=scores.__getitem__))
    return model.vocabulary_.decode(ids[start:])


@pytest.mark.filterwarnings("ignore::ostinato.tasks.generation.DegenerateTextWarning")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", [1.0, 1.3, 5.0, 0.7])
def test_temperature_zero_takes_the_likeliest_each_time(models, level, penalty):
    model = models[level]
    controls = {"temperature": 0, "repetition_penalty": penalty}
    text = model.generate("whether to be", 30, **controls)
    assert text == continued(model, "whether to be", 30, penalty)
    if penalty == 1:
        for controls in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-12}):
            assert model.generate("whether to be", 30, **controls) == text


@pytest.fixture
def listened(monkeypatch):
    """The scores that `draw_token` is given."""
    heard = []

    def listen(scores, generator, *controls):
        heard.append(scores.clone())
        return draw_token(scores, generator, *controls)

    monkeypatch.setattr(generation, "draw_token", listen)
    return heard


@pytest.mark.parametrize("level", ["char", "byte"])
def test_a_penalty_looks_at_the_latest_64_tokens(models, listened, level):
    q = models[level].vocabulary_.encode("q")
    for before, is_seen in [(62, True), (63, True), (64, False), (70, False)]:
        listened.clear()
        prompt = "q" + ("to be " * 20)[:before]
        models[level].generate(prompt, 1, seed=0)
        models[level].generate(prompt, 1, seed=0, repetition_penalty=3.0)
        plain, changed = listened
        assert torch.equal(plain[q], changed[q]) == (not is_seen)


def test_a_penalty_follows_its_formula_as_the_text_grows(model, listened):
    text = "q" + model.generate("q", 70, seed=1, repetition_penalty=3.0)
    ids = model.vocabulary_.encode(text).tolist()
    for n in (1, 30, 63, 64, 65, 70):
        wanted = scores_after(model, ids[:n])
        for i in set(ids[:n][-64:]):
            wanted[i] = wanted[i] / 3.0 if wanted[i] > 0 else wanted[i] * 3.0
        torch.testing.assert_close(listened[n - 1], wanted, rtol=0, atol=1e-4)


def test_a_penalty_makes_what_was_seen_no_likelier(model, listened):
    for prompt in ("t", "e", "to be", "whether 'tis", "question: "):
        seen = torch.zeros(len(model.vocabulary_), dtype=torch.bool)
        seen[model.vocabulary_.encode(prompt)] = True
        for penalty in (1.2, 3.0, 50.0):
            listened.clear()
            model.generate(prompt, 1, seed=0)
            model.generate(prompt, 1, repetition_penalty=penalty, seed=0)
            plain, changed = listened
            assert torch.equal(plain[~seen], changed[~seen])
            assert (changed[seen] <= plain[seen]).all()
            before, after = plain.softmax(0)[seen], changed.softmax(0)[seen]
            assert after.sum() <= before.sum()
            if seen.sum() == 1:
                assert after < before


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_seed_writes_the_same(models, level):
    write = models[level].generate
    first = write("to be", 80, seed=3)
    assert write("to be", 80, seed=3) == first
    assert write("to be", 80, seed=4) != first
    assert write("to be", 80) != write("to be", 80)
    assert write(length=80, seed=-1) == write("", 80, seed=-1)


@pytest.mark.parametrize("level", LEVELS)
def test_the_pieces_of_a_stream_are_the_text(models, level):
    model = models[level]
    pieces = list(model.stream("to be", 80, seed=3, temperature=1.5))
    assert "".join(pieces) == model.generate("to be", 80, seed=3, temperature=1.5)
    assert len(pieces) > 20
    if level == "char":
        assert [len(piece) for piece in pieces] == [1] * 80


def test_a_stream_writes_as_it_is_read(model, listened):
    stream = model.stream("to be", 50, seed=3)
    assert not listened
    next(stream)
    assert len(listened) == 1
    stream.close()
    one, other = model.stream("to", 30, seed=1), model.stream("or", 30, seed=2)
    mixed = list(zip(one, other, strict=True))
    assert "".join(a for a, _ in mixed) == model.generate("to", 30, seed=1)
    assert "".join(b for _, b in mixed) == model.generate("or", 30, seed=2)


def test_no_length_no_text(model):
    assert model.generate("to be", 0) == model.generate(length=0) == ""


def test_a_prompt_of_any_length_goes_in_at_once(model):
    long = TEXT[:-1] * 5
    assert len(model.generate(long, 3, seed=0)) == 3


# Stopping


def cut(text, stops):
    """The text before the first of ``stops`` to be complete."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@LAW
@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_text_ends_before_a_stop_however_it_is_cut(pieces, stops):
    text = "".join(pieces)
    assert "".join(generation._until(pieces, stops)) == cut(text, stops)
    assert "".join(generation._until(text, stops)) == cut(text, stops)


@pytest.mark.parametrize("level", LEVELS)
def test_generated_text_ends_before_a_stop(models, level):
    controls = {"prompt": "to be", "length": 120, "seed": 5}
    text = models[level].generate(**controls)
    for start, length in [(3, 1), (17, 2), (40, 6), (55, 15)]:
        stop = text[start : start + length]  # from within a token to within another
        assert models[level].generate(**controls, stop=stop) == text[: text.index(stop)]
        stops = ["never in it", text[50:60], stop]
        assert models[level].generate(**controls, stop=stops) == cut(text, stops)
    assert models[level].generate(**controls, stop="never in it") == text
    assert models[level].generate(**controls, stop=[]) == text


def test_a_stop_at_the_very_start_is_told(model):
    text = model.generate("to be", 30, seed=5)
    with pytest.warns(DegenerateTextWarning, match="it stopped at once; try"):
        assert model.generate("to be", 30, seed=5, stop=text[:2]) == ""


# Unknown tokens


def test_unknown_characters_in_a_prompt_are_named(model):
    with pytest.raises(DataError, match=r"'Ω' \(U\+03A9\) at position 3 .*unknown='<unk>'"):
        model.generate("to Ωbe")
    with pytest.raises(DataError, match="'Ω'"):
        model.log_probs("to Ωbe")
    with pytest.raises(OstinatoError, match="lone surrogate"):
        model.generate("to \udce9")


def test_a_declared_unknown_token_stands_for_them(model_with_unknown):
    write = model_with_unknown.generate
    assert write("Ω to be", 40, seed=1) == write("q to be", 40, seed=1)


@pytest.mark.filterwarnings("ignore::ostinato.tasks.generation.DegenerateTextWarning")
@pytest.mark.parametrize("controls", [{}, {"temperature": 1e6}, {"repetition_penalty": 0.01}])
def test_the_unknown_token_is_never_written(model_with_unknown, models, controls):
    text = model_with_unknown.generate("ΩΩΩΩ", 600, seed=0, **controls)
    assert len(text) == 600
    assert "?" not in text
    text = models["word"].generate("Ω unheard-of", 200, seed=0, **controls)
    assert "<unk>" not in text


def test_text_starts_where_a_line_starts(model, listened):
    spaces, letters = small().fit("a b " * 50), small().fit("abc" * 50)
    unknown = small(unknown="?").fit("abc" * 50)
    for writer, start in ((model, "\n"), (spaces, " "), (letters, "a"), (unknown, "a")):
        listened.clear()
        writer.generate(length=1, seed=1)
        writer.generate(start, 1, seed=1)
        assert torch.equal(*listened)


# Text gone wrong

SONNET = """\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date:
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance, or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall Death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe, or eyes can see,
So long lives this, and this gives life to thee.

ROMEO:
Good, good, good!

JULIET:
Tomorrow, and tomorrow, and tomorrow,
"""


@pytest.mark.parametrize("period", [1, 2, 3, 7, 39, 40, 41, 200])
@pytest.mark.parametrize("before", ["", "to be ", SONNET])
def test_a_loop_is_found_and_named(period, before):
    unit = "".join(chr(0x3B1 + i) for i in range(period))
    times = max(3, -(-40 // period))
    named = degeneration(before + unit * times, 500)
    shown = unit if period <= 40 else unit[:37] + "..."
    assert named == f"it repeats {shown!r} {times} times at its end"
    assert degeneration(before + (unit * times)[1:], 500) is None or times * period > 40
    assert degeneration(before + unit * times + unit[: period // 2], 500) == named


def test_normal_text_is_no_loop():
    for text in (SONNET, TEXT[:78], "-" * 39 + "\n" + "=" * 39, "ha" * 19):
        for end in range(len(text) + 1):
            assert degeneration(text[:end], 0) is None
    letters = random.Random(0)
    assert degeneration("".join(letters.choice("ab") for _ in range(3000)), 3000) is None


@pytest.mark.parametrize(
    ("text", "length", "what"),
    [
        ("", 5, "it stopped at once"),
        (" \n\n\t" * 3, 12, "it is all white space"),
        (" \n\n\t" * 20, 80, "it repeats ' \\n\\n\\t' 20 times at its end"),
        ("\n\n  ", 4, None),
        ("", 0, None),
        ("a", 1, None),
    ],
)
def test_nothing_and_white_space_are_told(text, length, what):
    assert degeneration(text, length) == what


def test_generated_loops_are_told_when_they_are_written():
    model = small(80, hidden_size=24).fit("abcd" * 500)
    with pytest.warns(DegenerateTextWarning, match="repeats '[abcd]{4}' 25 times at its end; try"):
        text = model.generate("abcd", 100, temperature=0)
    assert text == "abcd" * 25
    stream = model.stream("abcd", 100, temperature=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pieces = [next(stream) for _ in range(100)]
        with pytest.raises(DegenerateTextWarning):
            next(stream)
    assert "".join(pieces) == text
    with pytest.warns(DegenerateTextWarning, match="repeats"):
        model.generate("abcd", 4000, temperature=0)


# Judging a text


@pytest.mark.parametrize("level", LEVELS)
def test_log_probs_are_the_chain_of_steps(models, level):
    model, text = models[level], "whether to be or not to be é"
    ids = model.vocabulary_.encode(text).tolist()
    chain = [scores_after(model, ids[:t]).log_softmax(0)[ids[t]].item() for t in range(1, len(ids))]
    found = model.log_probs(text)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, chain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("length", [2, 1000, 1001, 1002, 2000, 2001, 2345])
def test_log_probs_do_not_depend_on_where_a_long_text_is_cut(model, length):
    text = (2 * TEXT)[:length]
    ids = torch.tensor(model.vocabulary_.encode(text))[None]
    with torch.inference_mode():
        scores, _ = model.network_(ids[:, :-1])
    whole = scores.double().log_softmax(-1).gather(2, ids[:, 1:, None]).flatten()
    found = model.log_probs(text)
    assert found.shape == (length - 1,)
    np.testing.assert_allclose(found, whole, rtol=0, atol=2e-5)


def test_chances_of_all_continuations_add_up_to_one(model):
    characters = model.vocabulary_.characters
    total = sum(math.exp(model.log_probs("to b" + c)[-1]) for c in characters)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_the_units_of_a_score_agree(models, level):
    text = "whether to be, or not to be: that is nobler"
    log_p = models[level].log_probs(text)
    nats, bits, perplexity = score = models[level].score(text)
    assert nats == score.nats == pytest.approx(-log_p.mean())
    assert perplexity == score.perplexity == pytest.approx(math.exp(nats))
    first = {"char": 1, "byte": 1, "word": len("whether")}.get(level)
    if first is None:
        first = len(models[level].vocabulary_.decode(models[level].vocabulary_.encode(text)[:1]))
    assert bits == pytest.approx(-log_p.sum() / math.log(2) / (len(text) - first))
    if level in ("char", "byte"):
        assert bits == pytest.approx(nats / math.log(2))


def test_an_unknown_start_counts_as_it_is_written(models, model_with_unknown):
    score = model_with_unknown.score("Ωto be")
    assert score.bits_per_character == pytest.approx(score.nats / math.log(2))
    text = "Unheard-of, that is"
    bits = -models["word"].log_probs(text).sum() / math.log(2)
    characters = len(text) - len(word_tokens(text)[0])
    assert models["word"].score(text).bits_per_character == pytest.approx(bits / characters)


def test_a_text_like_the_learnt_one_scores_better(model):
    assert model.score(TEXT[:78]).nats < 0.7 * model.score("ttttnnnnhhhhq").nats


@pytest.mark.parametrize("text", ["", "t"])
def test_a_text_too_short_to_judge_is_refused(model, text):
    with pytest.raises(OstinatoError, match=f"has {len(text)} tokens; at least two are needed"):
        model.score(text)


# Keeping


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_comes_back_as_it_was(models, level, tmp_path):
    model = models[level]
    model.save(tmp_path / "model")
    for other in (
        TextGenerator.load(tmp_path / "model"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
    ):
        assert other.get_params() == model.get_params()
        assert other.training_ == model.training_
        assert other.vocabulary_ == model.vocabulary_
        controls = {"seed": 1, "repetition_penalty": 1.1, "top_p": 0.9}
        assert other.generate("to be", 60, **controls) == model.generate("to be", 60, **controls)
        np.testing.assert_array_equal(other.log_probs(TEXT[:200]), model.log_probs(TEXT[:200]))
        assert other.score(TEXT[:200]) == model.score(TEXT[:200])


def test_a_model_takes_the_place_of_another(models, tmp_path):
    models["word"].save(tmp_path)
    models["char"].save(tmp_path)
    assert TextGenerator.load(tmp_path).generate("to", 30, seed=1) == models["char"].generate(
        "to", 30, seed=1
    )


def test_what_is_no_such_model_is_refused(model, tmp_path):
    with pytest.raises(OstinatoError, match="nowhere: no such folder"):
        TextGenerator.load(tmp_path / "nowhere")
    with pytest.raises(OstinatoError, match="holds no finished model"):
        TextGenerator.load(tmp_path)
    config = {"parameters": {}, "resolved": {}, "training": {}}
    storage.save_model(tmp_path, {"task": "Forecaster", **config}, storage.pack_tensors({}), {})
    with pytest.raises(OstinatoError, match=f"{tmp_path}: expected a model of"):
        TextGenerator.load(tmp_path)
    storage.save_model(tmp_path, {"task": "TextGenerator", **config}, storage.pack_tensors({}), {})
    with pytest.raises(OstinatoError, match=f"{tmp_path}: its parts do not fit together"):
        TextGenerator.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "weights.safetensors", "vocabulary.json", "SHA256SUMS"]
)
def test_a_damaged_file_is_named(model, tmp_path, name):
    model.save(tmp_path)
    file = tmp_path / name
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"", whole[:-3] + b"#" + whole[-2:]):
        file.write_bytes(damaged)
        with pytest.raises(OstinatoError, match=str(tmp_path if name == "SHA256SUMS" else file)):
            TextGenerator.load(tmp_path)
    file.unlink()
    with pytest.raises(OstinatoError, match=name):
        TextGenerator.load(tmp_path)


# As an estimator


def test_settings_are_stored_and_given_as_they_are():
    given = {"hidden_size": 7, "cell": "gru", "minutes": 0.5, "unknown": "?", "seed": 3}
    model = TextGenerator(**given)
    params = model.get_params()
    assert set(params) == set(inspect.signature(TextGenerator).parameters)
    assert {name: params[name] for name in given} == given
    assert model.set_params(hidden_size=9, level="word") is model
    assert (model.hidden_size, model.level) == (9, "word")
    with pytest.raises(ValueError, match="hiden_size"):
        model.set_params(hiden_size=3)
    with pytest.raises(TypeError, match="hiden_size"):
        TextGenerator(hiden_size=3)
    with pytest.raises(TypeError, match="positional"):
        TextGenerator("char")


def test_a_clone_has_the_settings_and_nothing_learnt(model):
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not hasattr(other, "network_")
    assert repr(other) == repr(model)
    assert repr(TextGenerator(hidden_size=7)) == "TextGenerator(hidden_size=7)"


def test_nothing_is_done_before_fit(tmp_path):
    for use in (
        lambda model: model.generate("a"),
        lambda model: model.stream("a"),
        lambda model: model.log_probs("ab"),
        lambda model: model.score("ab"),
        lambda model: model.save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError, match="TextGenerator"):
            use(TextGenerator())
    assert not list(tmp_path.iterdir())


def random_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_fit_returns_itself_and_changes_nothing_else(tmp_path):
    model = small(dropout=0.2, variational_dropout=0.2, weight_dropout=0.2)
    params, before = model.get_params(), random_states()
    assert model.fit(TEXT) is model
    assert model.fit(TEXT, out=tmp_path / "run") is model
    model.generate("to", 10)
    model.generate("to", 10, seed=1)
    model.score(TEXT[:50])
    TextGenerator.load(tmp_path / "run")
    assert model.get_params() == params
    assert random_states() == before


def test_learning_depends_on_the_seed_alone(tmp_path):
    def weights(seed, **more):
        model = small(seed=seed, dropout=0.1, weight_dropout=0.1).fit(TEXT, **more)
        return torch.cat([p.detach().flatten() for p in model.network_.parameters()])

    torch.manual_seed(1)
    first = weights(5)
    torch.manual_seed(2)
    assert torch.equal(weights(5), first)
    assert torch.equal(weights(5, out=tmp_path / "run"), first)
    assert not torch.equal(weights(6), first)


def test_fit_forgets_what_was_learnt_before():
    model = small().fit("something else entirely " * 20)
    assert model.fit(TEXT).score(TEXT[:99]) == small().fit(TEXT).score(TEXT[:99])


def test_any_form_of_a_text_is_learnt_the_same(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT[:1000], encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n" + TEXT[1000:], encoding="utf-8")
    (tmp_path / "c.md").write_text("something else", encoding="utf-8")
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    text = "".join(TextSource.from_paths(files))
    expected = small().fit(text).score(TEXT[:99])
    (tmp_path / "c.txt.bak").write_text(text, encoding="utf-8")
    for form, more in [
        (tmp_path, {}),
        (files, {}),
        ([str(file) for file in files], {}),
        (TextSource.from_paths(files), {}),
        (tmp_path / "c.txt.bak", {}),
        ([tmp_path], {"pattern": "*.bak"}),
    ]:
        model = small().fit(form, **more)
        assert model.score(TEXT[:99]) == expected
        assert model.training_["characters"] == len(text)


def test_the_name_of_a_file_is_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    for name in ("corpus.txt", str(tmp_path / "corpus.txt"), "."):
        with pytest.raises(OstinatoError, match="is the name of a file; give pathlib.Path"):
            small().fit(name)


@pytest.mark.parametrize("level", ["char", "byte", "word"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 10, 14, 15, 16, 20, 30])
def test_a_short_text_is_learnt_or_refused_in_a_line(tmp_path, level, length):
    text, run = "ab cd ef, gh ij kl mn op qr st"[:length], tmp_path / "run"
    for kept in ({}, {"out": run}):
        model = small(2, level=level)
        try:
            model.fit(text, **kept)
        except DataError as error:
            assert length < 15 or level == "word"
            assert "has 1 token; expected 2 or more: give more text" in str(error)
            assert not list(tmp_path.iterdir())
        else:
            assert length > 1
            assert len(model.generate(length=5, seed=0)) >= 5
            assert run.exists() == ("out" in kept)


def test_a_text_of_one_repeated_character_is_learnt():
    model = small(5, hidden_size=1).fit("a" * 60)
    assert model.score("aaa").perplexity == 1
    with pytest.warns(DegenerateTextWarning):
        assert model.generate(length=50) == "a" * 50


def test_any_character_is_learnt_and_written(tmp_path):
    text = "a\x00b\r\nc\u2028d\ud7ff\U0001f600\x1b[0m" * 20
    for level in ("char", "byte", "word"):
        out = tmp_path / level
        model = small(3, level=level).fit(text, out=out)
        assert set(model.generate(length=300, temperature=10, seed=0)) <= {*text, "\ufffd"} | {
            chr(code) for code in range(0x800) if level == "byte"
        }
        assert TextGenerator.load(out).score(text) == model.score(text)


def test_without_validation_the_training_loss_decides():
    model = small(20, validation_fraction=0).fit(TEXT)
    assert model.training_["held_out"] == 0
    assert model.training_["tokens"] == len(TEXT)
    assert model.training_["steps"] == 20


def test_the_last_part_is_held_out():
    model = small(validation_fraction=0.25).fit("ab" * 300 + "cd" * 100)
    assert (model.training_["held_out"], model.training_["tokens"]) == (200, 600)
    assert sorted(model.vocabulary_.characters) == list("abcd")  # met, though never learnt
    words = small(level="word", validation_fraction=0.25).fit("a b " * 150 + "c d " * 50)
    assert set("".join(words.vocabulary_.words)) == set(" ab")  # learnt from the rest alone


@pytest.mark.parametrize(
    ("cell", "num_layers"), [(cell, 1) for cell in CELLS] + [("lstm", 2), ("gru", 2)]
)
def test_every_cell_learns(cell, num_layers):
    text = "to be or not to be, that is the question. " * 40
    model = small(80, cell=cell, num_layers=num_layers, hidden_size=16, evaluations=2).fit(text)
    counts = np.unique(list(text), return_counts=True)[1] / len(text)
    entropy = -(counts * np.log(counts)).sum()
    assert model.score(text).nats < 0.8 * entropy  # better than counting letters
    # What was seen of the held-out text while learning is what the kept weights say of it.
    held_out = text[-model.training_["held_out"] :]
    assert model.training_["best_loss"] == pytest.approx(model.score(held_out).nats, abs=1e-4)


@pytest.mark.parametrize("init", ["pytorch", "orthogonal"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_initialisation_is_used(cell, init):
    one = small(1, cell=cell, init=init, learning_rate=1e-9).fit(TEXT)
    weight = dict(one.network_.recurrent.named_parameters())["weight_hh_l0"].detach()[:12]
    distance = (weight @ weight.T - torch.eye(12)).abs().max().item()
    assert (distance < 1e-4) == (init == "orthogonal" or cell == "rnn-relu")


def test_the_network_is_as_asked():
    settings = {"num_layers": 2, "dropout": 0.1, "variational_dropout": 0.2, "weight_dropout": 0.3}
    network = small(1, **settings, hidden_size=7, embedding_size=5).fit(TEXT).network_
    layers = network.recurrent
    assert {name: getattr(layers, name) for name in settings} == settings
    assert (layers.input_size, layers.hidden_size) == (5, 7)
    assert (network.dropout, network.output.dropout) == (0.2, 0.1)


@pytest.mark.parametrize("kind", ["dropout", "variational_dropout", "weight_dropout"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_dropout_acts_while_learning_and_never_after(kind, num_layers):
    settings = {"num_layers": num_layers, "validation_fraction": 0}
    without = small(10, **settings).fit(TEXT)
    model = small(10, **settings, **{kind: 0.5}).fit(TEXT)
    assert model.score(TEXT[:99]) != without.score(TEXT[:99])
    assert model.score(TEXT[:99]) == model.score(TEXT[:99])
    assert not any(module.training for module in model.network_.modules())
    assert model.score(TEXT[:99]).nats < math.log(len(model.vocabulary_))


def test_learning_stops_early_and_keeps_the_best():
    text = "ab" * 900 + "bbaa" * 50
    model = small(200, evaluations=50, patience=3, learning_rate=0.05, schedule="constant").fit(
        text
    )
    facts = model.training_
    assert facts["ended"] == "patience"
    assert facts["steps"] < 200
    assert facts["best_step"] == facts["steps"] - 3 * 4
    held_out = text[-facts["held_out"] :]
    assert facts["best_loss"] == pytest.approx(model.score(held_out).nats, abs=1e-4)


def test_a_budget_of_minutes_or_epochs_is_kept(monkeypatch):
    taken = []  # of every step, each of which takes a hundredth of a second
    clock = SimpleNamespace(perf_counter=lambda: len(taken) / 100)
    monkeypatch.setattr(distributed, "time", clock)
    counting = register_optimizer_step_post_hook(lambda *_: taken.append(None))
    try:
        model = small(None, minutes=0.01).fit(TEXT)
    finally:
        counting.remove()
    assert (model.training_["ended"], model.training_["steps"]) == ("budget", 60)
    assert model.training_["seconds"] == pytest.approx(0.6)
    monkeypatch.undo()
    once = small(None, epochs=1, validation_fraction=0).fit(TEXT)
    assert once.training_["steps"] == math.ceil((len(TEXT) - 1) // 8 / 12)


def test_a_run_leaves_a_model_and_can_be_resumed(tmp_path):
    out = tmp_path / "run"
    model = small(6).fit(TEXT, out=out)
    assert json.loads((out / "config.json").read_text())["training"] == model.training_
    again = TextGenerator.resume(out, steps=6)
    assert again.score(TEXT[:99]) == model.score(TEXT[:99])
    with pytest.raises(OstinatoError, match=r"steps=7 \(started with 6\)"):
        TextGenerator.resume(out, steps=7)
    with pytest.raises(OstinatoError, match="there is no run"):
        TextGenerator.resume(tmp_path / "nowhere")
    with pytest.raises(OstinatoError, match="already holds a run"):
        small(6).fit(TEXT, out=out)


# What cannot be meant

MISTAKES = [
    ({"level": "letter"}, "level='letter'; expected one of char, byte, word, bpe"),
    ({"cell": "LSTM"}, "cell='LSTM'; expected one of lstm, gru"),
    ({"init": "zero"}, "init='zero'; expected one of pytorch"),
    ({"hidden_size": 0}, "hidden_size=0; expected a whole number above zero"),
    ({"hidden_size": 2.5}, "hidden_size=2.5; expected a whole number"),
    ({"hidden_size": None}, "hidden_size=None; expected"),
    ({"hidden_size": True}, "hidden_size=True; expected"),
    ({"hidden_size": 10**13}, "hidden_size=10000000000000; expected"),
    ({"num_layers": -1}, "num_layers=-1; expected"),
    ({"embedding_size": 0}, "embedding_size=0; expected"),
    ({"vocabulary_size": "many"}, "vocabulary_size='many'; expected"),
    ({"window": 0}, "window=0; expected"),
    ({"min_count": 0}, "min_count=0; expected"),
    ({"dropout": 1}, "dropout=1; expected a share"),
    ({"weight_dropout": -0.1}, "weight_dropout=-0.1; expected a share"),
    ({"variational_dropout": math.nan}, "variational_dropout=nan; expected a finite"),
    ({"batch_size": 0.5}, "batch_size=0.5; expected a whole number"),
    ({"learning_rate": math.inf}, "learning_rate=inf; expected a finite number"),
    ({"validation_fraction": 1}, "validation_fraction=1; expected"),
    ({"validation_fraction": 0.99999}, "expected less, with a text of"),
    ({"seed": 2**70}, "seed=1180591620717411303424; expected"),
    ({"seed": "x"}, "seed='x'; expected"),
    ({"minutes": 1.0}, "expected one budget, got minutes and steps"),
    ({"device": "abacus"}, "device='abacus' cannot be used here"),
    ({"device": "meta"}, "device='meta' cannot be used here"),
    ({"cell": "lstm", "init": "identity"}, "'identity' is for RNNCell"),
    ({"level": "byte", "unknown": "?"}, "every text consists of bytes"),
    ({"vocabulary_size": 5}, "leave out"),
    ({"level": "bpe", "vocabulary_size": 5}, "expected 256 or more"),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES)
def test_a_setting_that_cannot_be_meant_leaves_nothing(tmp_path, settings, message):
    for kept in ({}, {"out": tmp_path / "run"}):
        with pytest.raises(OstinatoError) as caught:
            small(**settings).fit(TEXT, **kept)
        assert message in str(caught.value)
        assert not list(tmp_path.iterdir())


def test_every_choice_and_number_is_checked():
    """No setting is passed on unseen: of each, a wrong type is refused by its name."""
    free = {"unknown", "device"}
    for name in set(inspect.signature(TextGenerator).parameters) - free:
        with pytest.raises(OstinatoError, match=f"{name}="):
            TextGenerator(**{name: object()}).fit(TEXT)


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"length": -1}, "length=-1; expected a whole number"),
        ({"length": 2.5}, "length=2.5; expected a whole number"),
        ({"length": None}, "length=None; expected a whole number"),
        ({"temperature": -0.1}, "temperature=-0.1; expected zero or more"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": None}, "temperature=None"),
        ({"top_k": 0}, "top_k=0; expected a whole number, one or more"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_p": 0}, "top_p=0; expected above 0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"repetition_penalty": 0}, "repetition_penalty=0; expected 0.01 to 100"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"stop": ""}, "stop=''; expected texts that are not empty"),
        ({"stop": ["a", ""]}, "stop=''"),
        ({"stop": [1]}, "stop=1"),
    ],
)
def test_a_control_out_of_range_is_refused_at_once(model, controls, message):
    with pytest.raises(OstinatoError) as caught:
        model.stream("to be", **controls)
    assert f"TextGenerator.generate: {message}" in str(caught.value)
