"""Files of music: read as they were written, and refused by name where they are none."""

import json

import numpy as np
import pytest
from scipy.io import savemat

from ostinato.data.midi import KEYS, LOWEST, read_music, roll_of, write_midi
from ostinato.errors import DataError

pytest.importorskip("mido")
SCALE = [[60, 64], [62, 65], [64, 67], [], [65, 69]]


def notes_of(roll):
    return [(np.flatnonzero(step) + LOWEST).tolist() for step in roll]


def test_json_and_matlab_files_are_read_by_their_parts(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"train": [SCALE] * 2, "test": [SCALE[:2]]}))
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0], cells[0, 1] = roll_of(SCALE), roll_of(SCALE)
    one = np.empty((1, 1), dtype=object)
    one[0, 0] = roll_of(SCALE[:2])
    savemat(tmp_path / "a.mat", {"traindata": cells, "testdata": one})
    for name in ("a.json", "a.mat"):
        found = read_music([tmp_path / name])
        assert {part: len(some) for part, some in found.items()} == {"training": 2, "test": 1}
        assert notes_of(found["training"][1][1]) == SCALE
        assert notes_of(found["test"][0][1]) == SCALE[:2]
    (tmp_path / "b.json").write_text(json.dumps([[[60, -1, 64], [-1, -1]]]))
    assert notes_of(read_music([tmp_path / "b.json"])["all"][0][1]) == [[60, 64], []]


def test_a_piece_written_as_midi_is_read_as_it_was(tmp_path):
    random = np.random.default_rng(0)
    roll = (random.random((40, KEYS)) < 0.05).astype(np.uint8)
    roll[0, 40] = roll[-1, 50] = 1
    for steps in (1, 4, 12):
        write_midi(roll, tmp_path / "a.mid", steps)
        found = read_music([tmp_path], steps)["all"]
        assert found[0][1].tolist() == roll.tolist()


MISTAKES = {
    "none.json": (None, "none.json: no such file"),
    "a.json": ("{", "a.json: is not JSON"),
    "b.json": ('{"train": 3}', "'train' is no list of pieces"),
    "c.json": ("[[[200]]]", "c.json: all[0]: step 0 has the note 200; a piano has 21 to 108"),
    "d.json": ('[[["C"]]]', "step 0 has the note 'C'"),
    "e.json": ("[]", "there is no piece of music"),
    "a.mid": ("MThd", "a.mid: is no MIDI file"),
    "a.mat": ("?", "a.mat: is no MATLAB file"),
    "a.txt": ("?", "expected .mat, .json, .mid"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_music_is_refused(tmp_path, name):
    content, message = MISTAKES[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_music([tmp_path / name])
    assert message in str(caught.value)
