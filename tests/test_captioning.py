"""Captions: what is said depends on what is to be seen, and on where."""

import numpy as np
import pytest
import torch
from PIL import Image

from ostinato import Captioner, load
from ostinato.errors import OstinatoError

COLORS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
SMALL = {"hidden_size": 32, "blocks": 3, "epochs": 25, "learning_rate": 0.005, "dropout": 0.0}


def drawn(N, seed=0):
    """A coloured square on the left or on the right, and what is said of it."""
    rng = np.random.default_rng(seed)
    X, y = [], []
    for _ in range(N):
        image = rng.integers(0, 30, (16, 32, 3), dtype=np.uint8)
        color, side = rng.choice(list(COLORS)), rng.choice(["left", "right"])
        row, column = rng.integers(0, 10), rng.integers(0, 8) + (16 if side == "right" else 0)
        image[row : row + 6, column : column + 6] = COLORS[color]
        X.append(image)
        y.append(f"a {color} square on the {side}")
    return X, y


@pytest.fixture(scope="module")
def model():
    return Captioner(**SMALL).fit(*drawn(240))


def test_captions_name_colour_and_place_of_new_images(model):
    X, y = drawn(70, seed=1)
    assert np.mean([a == b for a, b in zip(model.predict(X), y, strict=True)]) > 0.9
    found = model.evaluate(X, y)
    assert found["bleu"] > 85 and found["images"] == 70 and "version" in found["bleu_signature"]
    assert model.score(X, y) == found["bleu"]


def test_an_image_alone_gets_the_caption_it_gets_among_others(model):
    X, _ = drawn(70, seed=2)
    assert [model.predict([image])[0] for image in X[:3]] + model.predict(X[3:]) == model.predict(X)
    for several in model.caption(X[:3], n_best=3, beam=4):
        assert len(set(several)) == 3


def test_a_mirrored_image_is_learnt_only_where_asked_and_never_when_used():
    X, y = drawn(60, seed=5)
    settings = {**SMALL, "epochs": 1, "seed": 1}
    plain, mirrored = (Captioner(**settings, mirror=m).fit(X, y) for m in (False, True))
    pairs = zip(plain.network_.parameters(), mirrored.network_.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)
    pictures = mirrored.network_.encoder
    x = torch.rand(64, 1, 16 * 32 * 3) * 255
    seen = []
    pictures.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.no_grad():
        pictures.eval()(x), pictures.train()(x)
    straight, drawn_anew = seen
    turned = (drawn_anew == straight.flip(-1)).flatten(1).all(1)
    kept = (drawn_anew == straight).flatten(1).all(1)
    assert (turned ^ kept).all() and 10 < turned.sum() < 54
    assert torch.equal(straight[0], x[0].view(16, 32, 3).permute(2, 0, 1) / 255)


def test_files_and_their_captions_are_read_and_the_model_is_stored(tmp_path, model):
    X, y = drawn(24, seed=3)
    (tmp_path / "images").mkdir()
    lines = ["file,caption"]
    for i, (image, text) in enumerate(zip(X, y, strict=True)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{text}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.predict(X) == model.predict(X)
    found = again.evaluate(tmp_path / "captions.csv")
    assert found == model.evaluate(X, y)


def test_several_captions_of_an_image_are_learnt_and_counted_together():
    X, y = drawn(12, seed=4)
    both = [[text, text.replace("a ", "one ")] for text in y]
    model = Captioner(**{**SMALL, "epochs": 2}).fit(X, both)
    # Both captions of an image are on one side of the split.
    assert model.training_["sequences"] % 2 == 0 and model.training_["held_out"] % 2 == 0
    assert model.training_["sequences"] + model.training_["held_out"] == 24
    said = model.predict(X)
    assert model.evaluate(X, [[text, "x"] for text in said])["bleu"] == pytest.approx(100)


def test_what_cannot_be_captioned_is_refused():
    X, y = drawn(4)
    with pytest.raises(OstinatoError, match="y is missing"):
        Captioner(**SMALL).fit(X)
    with pytest.raises(OstinatoError, match="one image is too few"):
        Captioner(**SMALL).fit(X[:1], y[:1])
    with pytest.raises(OstinatoError, match="has the caption ''; expected a text"):
        Captioner(**SMALL).fit(X, [*y[:3], ""])
    with pytest.raises(OstinatoError, match="expected images"):
        Captioner(**SMALL).fit(["a text"] * 4, y)
    with pytest.raises(OstinatoError, match="blocks=0"):
        Captioner(blocks=0).fit(X, y)
