"""Files of music: read as they were written, and refused by name where they are none."""

import json
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

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
    for steps in (1, 4, 5, 7, 11, 12, 64, 96):
        write_midi(roll, tmp_path / "a.mid", steps)
        found = read_music([tmp_path], steps)["all"]
        assert found[0][1].tolist() == roll.tolist()


def midi(kind, division, *tracks):
    """A file of tracks of (ticks waited, on or off, key), by the book."""

    def number(n):
        found = [n & 0x7F]
        while n := n >> 7:
            found.insert(0, n & 0x7F | 0x80)
        return bytes(found)

    def chunk(name, data):
        return name + struct.pack(">I", len(data)) + data

    events = [
        b"".join(
            number(wait) + (bytes([0xFF, 0x51, 3]) + on.to_bytes(3, "big") if key is None
                            else bytes([0x90 if on else 0x80, key, 64]))
            for wait, on, key in track
        )
        for track in tracks
    ]  # fmt: skip
    return chunk(b"MThd", struct.pack(">hhH", kind, len(tracks), division & 0xFFFF)) + b"".join(
        chunk(b"MTrk", track + b"\0\xff\x2f\0") for track in events
    )


ONE = [(0, 1, 60), (480, 0, 60), (0, 1, 62), (240, 0, 62)]
TWO = [(0, 1, 70), (240, 0, 70)]


def test_tracks_of_type_2_are_pieces_of_their_own(tmp_path):
    path = tmp_path / "a.mid"
    path.write_bytes(midi(1, 480, ONE, TWO))
    ((_, roll),) = read_music([path], 2)["all"]
    assert notes_of(roll) == [[60, 70], [60], [62]]
    path.write_bytes(midi(2, 480, ONE, [], TWO))
    found = read_music([path], 2)["all"]
    assert [name for name, _ in found] == [f"{path}: track 1", f"{path}: track 3"]
    assert [notes_of(roll) for _, roll in found] == [[[60], [60], [62]], [[70]]]


@pytest.mark.parametrize("frames", [24, 25, 29, 30])
def test_smpte_time_is_cut_into_beats_of_the_tempo(tmp_path, frames):
    rate = 30_000 / 1001 if frames == 29 else frames
    path = tmp_path / "a.mid"
    for tempo in (None, 500_000, 1_000_000):
        beat = rate * 40 * (tempo or 500_000) / 1e6  # ticks
        events = [] if tempo is None else [(0, tempo, None)]
        times = [(0, 1, 60), (1000 * beat, 0, 60), (0, 1, 62), (beat / 2, 0, 62)]
        events += [(round(wait), on, key) for wait, on, key in times]
        path.write_bytes(midi(1, (-frames << 8) | 40, events))
        ((_, roll),) = read_music([path], 2)["all"]
        assert notes_of(roll) == [[60]] * 2000 + [[62]]


@pytest.mark.parametrize("division", [0, -24 << 8])
def test_a_file_without_a_unit_of_time_is_refused(tmp_path, division):
    path = tmp_path / "a.mid"
    path.write_bytes(midi(1, division, ONE))
    with pytest.raises(DataError, match=rf"a.mid: has no unit of time: its division is {division}"):
        read_music([path])


@pytest.mark.parametrize(("division", "steps"), [(480, 7), (96, 5), (24, 7), (480, 13), (3, 2)])
def test_beats_that_steps_do_not_divide_keep_their_length(tmp_path, division, steps):
    beats = 40
    path = tmp_path / "a.mid"
    path.write_bytes(midi(0, division, [(0, 1, 60), (beats * division, 0, 60)]))
    ((_, roll),) = read_music([path], steps)["all"]
    assert notes_of(roll) == [[60]] * beats * steps


MISTAKES = {
    "none.json": (None, "none.json: no such file"),
    "a.json": ("{", "a.json: cannot be read as JSON"),
    "b.json": ('{"train": 3}', "'train' is no list of pieces"),
    "c.json": ("[[[200]]]", "c.json: all[0]: step 0 has the note 200; a piano has 21 to 108"),
    "d.json": ('[[["C"]]]', "step 0 has the note 'C'"),
    "e.json": ("[]", "there is no piece of music"),
    "f.json": ("[" * 10**5, "f.json: cannot be read as JSON: maximum recursion depth"),
    "g.json": ("[3]", "all[0]: is 3; expected a list of MIDI numbers for each step"),
    "h.json": ("[[60]]", "all[0]: is [60]; expected a list of MIDI numbers for each step"),
    "i.json": ("[[[1e999]]]", "step 0 has the note inf"),
    "j.json": ('["abc"]', "all[0]: is 'abc'; expected a list of MIDI numbers"),
    "a.mid": ("MThd", "a.mid: cannot be read as MIDI"),
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


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path, packed, dtype):
    cells = np.empty((2, 3), dtype=object)
    random = np.random.default_rng(0)
    for i, k in np.ndindex(2, 3):
        cells[i, k] = (random.random((4 + i, KEYS)) < 0.2).astype(dtype)
    savemat(tmp_path / "a.mat", {"traindata": cells, "x": cells[:1]}, do_compression=packed)
    expected = loadmat(tmp_path / "a.mat")
    found = read_music([tmp_path / "a.mat"])
    for part, name in (("training", "traindata"), ("all", "x")):
        rolls = [roll for _, roll in found[part]]
        for roll, cell in zip(rolls, expected[name].ravel(), strict=True):
            np.testing.assert_array_equal(roll, cell)


@pytest.mark.parametrize("packed", [False, True])
def test_a_matlab_file_cut_or_changed_anywhere_is_read_or_refused(tmp_path, packed):
    cells = np.empty((1, 2), dtype=object)
    cells[0, 0] = cells[0, 1] = roll_of([[60], [61]])
    path = tmp_path / "a.mat"
    savemat(path, {"train": cells}, do_compression=packed)
    whole = path.read_bytes()
    places = [*range(124, 330), len(whole) - 1]
    cuts = [whole[:at] for at in places]
    sizes = [whole[:at] + size + whole[at + 4 :] for at in places[::3]
             for size in (b"\xff\xff\xff\xff", b"\0\0\0\x7f", b"\0\0\0\0")]  # fmt: skip
    refused = 0
    for content in cuts + sizes:
        path.write_bytes(content)
        try:
            read_music([path])
        except DataError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 200


def test_times_that_no_piece_has_are_refused_before_they_take_memory(tmp_path):
    path = tmp_path / "a.mid"
    for kind, tracks in ((1, 1), (2, 300)):
        path.write_bytes(
            midi(kind, 1, *[[(0, 1, 60), (20_000 + (1 << 27) * (kind == 1), 0, 60)]] * tracks)
        )
        with pytest.raises(DataError, match=r"a.mid: has [\d,]+ steps; expected 1,048,576 at most"):
            read_music([path])
    path.write_bytes(midi(1, (-25 << 8) | 40, [(0, 0, None), (0, 1, 60), (1000, 0, 60)]))
    assert len(read_music([path], 2)["all"][0][1]) == 4  # a tempo of 0 is none: half a second
