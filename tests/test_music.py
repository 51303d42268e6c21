"""Music: learnt, judged, written."""

import numpy as np
import pytest
import torch
from test_midi import MISTAKES, SCALE, notes_of

from ostinato import MusicModel, load
from ostinato.data.midi import KEYS, read_music, roll_of
from ostinato.errors import OstinatoError

pytest.importorskip("mido")
QUICK = {"hidden_size": 8, "epochs": 3, "batch_size": 4}


def pieces(N=12, seed=0):
    """Walks over the keys, two at a time."""
    random = np.random.default_rng(seed)
    return [[[int(k), int(k) + 4] for k in 60 + random.integers(0, 8, 12)] for _ in range(N)]


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_music_is_refused(tmp_path, name):
    content, _ = MISTAKES[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(OstinatoError):
        MusicModel(**QUICK).fit([tmp_path / name], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def model():
    return MusicModel(**QUICK).fit(pieces())


def test_nats_are_those_of_every_key_given_the_steps_before(model):
    some = [pieces(1, seed=3)[0], pieces(1, seed=4)[0][:5]]
    total, count = 0.0, 0
    for piece in some:
        roll = torch.from_numpy(roll_of(piece)).float()
        state, y = None, None
        for t in range(len(roll)):
            x = torch.zeros(KEYS) if t == 0 else roll[t - 1]
            with torch.no_grad():
                y, state = model.network_.step(x[None], state)
            p = y[0].double().sigmoid()
            if t:
                nats = torch.where(roll[t] > 0, -p.log(), -(1 - p).log())
                total, count = total + float(nats.sum()), count + 1
    found = model.evaluate(some)
    assert (found["steps"], found["pieces"]) == (count, 2)
    np.testing.assert_allclose(found["nll_per_step"], total / count, rtol=1e-5)
    assert model.score(some) == -found["nll_per_step"]


def test_what_follows_is_learnt():
    scale = [[60 + 2 * (t % 5)] for t in range(20)]
    model = MusicModel(
        hidden_size=48, steps=900, dropout=0.0, weight_dropout=0.0, validation_fraction=0
    )
    model.fit([scale[k:] for k in range(8)])
    assert model.evaluate([scale])["nll_per_step"] < 0.5
    assert notes_of(model.compose(scale[:6], 5, temperature=0)) == scale[6:11]


def test_a_piece_goes_on_the_same_with_the_same_seed(model, tmp_path):
    a, b, c = (model.compose(SCALE, 9, seed=s, out=tmp_path / f"{s}.mid") for s in (1, 1, 2))
    assert a.shape == (9, KEYS) and np.array_equal(a, b) and not np.array_equal(a, c)
    whole = read_music([tmp_path / "1.mid"])["all"][0][1]
    assert notes_of(whole[:5]) == SCALE
    assert np.array_equal(whole[5:], a[: len(whole) - 5]) and not a[len(whole) - 5 :].any()
    again = model.compose(tmp_path / "1.mid", 3, seed=1)
    assert np.array_equal(again, model.compose(notes_of(whole), 3, seed=1))
    with pytest.raises(OstinatoError, match="length=0"):
        model.compose(length=0)


def test_a_model_that_was_kept_is_the_same(model, tmp_path):
    model.save(tmp_path / "kept")
    again = load(tmp_path / "kept")
    assert np.array_equal(again.compose(length=20, seed=1), model.compose(length=20, seed=1))


@pytest.mark.parametrize(("window", "steps"), [(400, 1), (50, 5)])
def test_a_long_piece_is_as_many_examples_as_it_has_windows(window, steps):
    """Four pieces of 400 steps: of 50, eight whole windows each and two parts, 8 in a batch."""
    long = [roll_of(notes * 50) for notes in ([[60], [64]] * 4, [[62], [65]] * 4)] * 2
    model = MusicModel(hidden_size=4, window=window, epochs=1, validation_fraction=0).fit(long)
    assert model.training_["steps"] == steps


def test_other_keys_are_learnt_by_moving_pieces():
    still, moved = (MusicModel(transpose=n, **QUICK | {"epochs": 40}).fit(pieces()) for n in (0, 5))
    away = [[[note + 5 for note in step] for step in piece] for piece in pieces(5, seed=9)]
    assert moved.evaluate(away)["nll_per_step"] < still.evaluate(away)["nll_per_step"] - 0.5
