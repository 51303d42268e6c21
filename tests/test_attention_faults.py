"""Faults of an alignment are named, and only those that are there."""

import numpy as np
import pytest

from ostinato.networks.attention_faults import REMEDIES, faults_of, shaded

TEXT = "the red house."


def along(places, softness=0.0):
    """Attention at some positions of the text, one a step."""
    S = len(TEXT)
    apart = np.abs(np.arange(S) - np.array(places)[:, None])
    if not softness:  # shared between the two nearest
        return np.maximum(0, 1 - apart)
    soft = np.exp(-((apart / softness) ** 2) / 2)
    return soft / soft.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("places", "stopped", "expected"),
    [
        (range(14), True, []),
        (np.linspace(0, 13, 40), True, []),
        (np.linspace(0, 13, 9), True, []),
        ([0, 1, 2, 3, 9, 10, 11, 12, 13], True, ["skips 'red h'"]),
        ([*range(9), *range(3, 14)], True, ["repeats ' red h'"]),
        ([0, 1, 2, *[3] * 30], False, ["the attention does not move after 'the '", "no stop"]),
        ([0, 1, 2, 3], True, ["the attention does not move after 'the '"]),
        ([*range(14), *[13] * 30], False, ["no stop"]),
    ],
)  # fmt: skip
def test_faults_have_names_and_places(places, stopped, expected):
    for softness in (0.0, 0.6):
        if softness and any("skips" in each for each in expected):
            continue  # a soft attention touches the neighbours
        found = faults_of(along(list(places), softness), TEXT, stopped)
        names = [each.split(" '")[0].split(" after")[0] for each in expected]
        assert [each.name for each in found] == names
        if not softness:
            assert [str(each) for each in found] == expected
        assert all(each.name in REMEDIES for each in found)


def test_no_steps_and_short_texts_have_no_faults_but_the_stop():
    assert faults_of(np.zeros((0, 5)), "abcd.", False)[-1].name == "no stop"
    assert faults_of(np.ones((3, 2)) / 2, "a.", True) == []


def test_a_picture_of_characters_fits():
    lines = shaded(along(np.linspace(0, 13, 300)), width=50, height=7)
    assert len(lines) == 7 and {len(line) for line in lines} == {50}
    assert lines[0].startswith("#") and lines[-1].endswith("#")
