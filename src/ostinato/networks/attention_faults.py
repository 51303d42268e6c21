"""What an attention that should go once along a text did: where it stuck, skipped, repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHADES = " .:-=+*#"
"""Characters for weights of attention, the lightest first."""

REMEDIES = {
    "the attention does not move": (
        "train longer; check that each text is what is spoken in its recording; raise guided_epochs"
    ),
    "no stop": "train longer; check that recordings end with their text, trim cuts what follows it",
    "skips": "train longer, or on more recordings; lower frames_per_step",
    "repeats": "train longer, or on more recordings; raise guided_epochs",
}
"""What to do about each fault of an alignment."""

SEEN = 0.3
"""Sum of the attention that a run of tokens gets at least, unless it is skipped."""

RUN = 4
"""Tokens of the shortest run that is called skipped, or repeated."""


class Fault(NamedTuple):
    """A fault of an alignment: its name, a key of `REMEDIES`, and where it is."""

    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.name}{f' {self.where}' if self.where else ''}"


def faults_of(weights: NDArray[np.floating], pieces: Sequence[str], stopped: bool) -> list[Fault]:
    """Return the faults of attention ``(T, S)`` over tokens, the last of which is the end.

    Args:
        weights: attention of each step.
        pieces: the tokens, ``S``.
        stopped: whether the decoder stopped by itself.

    Example:
        >>> good = np.eye(8)
        >>> faults_of(good, "abcdefg.", True)
        []
        >>> [str(fault) for fault in faults_of(good[[0, 1, 6, 7]], "abcdefg.", True)]
        ["skips 'cdef'"]
        >>> [str(fault) for fault in faults_of(good[[0] * 9], "abcdefg.", False)]
        ["the attention does not move after 'a'", 'no stop']
    """
    T, S = weights.shape
    found: list[Fault] = []
    place = weights @ np.arange(S)  # expected position at each step
    reached = round(float(place.max(initial=0.0)))
    if T and S > 2 and reached < min(S - 2, 0.75 * (S - 1)):
        quoted = repr("".join(pieces[max(0, reached - 15) : reached + 1]))
        found.append(Fault("the attention does not move", f"after {quoted}"))
    elif run := _skipped(weights.sum(0)):
        found.append(Fault("skips", repr("".join(pieces[slice(*run)]))))
    back = np.maximum.accumulate(place) - place if T else place
    if T and back.max() > RUN:
        at = int(back.argmax())
        begin, end = round(float(place[at])), round(float(place[: at + 1].max()))
        found.append(Fault("repeats", repr("".join(pieces[begin : end + 1]))))
    if not stopped:
        found.append(Fault("no stop", ""))
    return found


def _skipped(seen: NDArray[np.floating]) -> tuple[int, int] | None:
    """Return the first run of tokens that get hardly any attention, without the last token."""
    begin = 0
    for s, total in enumerate([*(seen[:-1] >= SEEN / RUN), True]):
        if total:
            if s - begin >= RUN and seen[begin:s].sum() < SEEN:
                return begin, s
            begin = s + 1
    return None


def shaded(weights: NDArray[np.floating], width: int = 64, height: int = 12) -> list[str]:
    """Return attention ``(T, S)`` as lines of characters: the text downward, time to the right.

    >>> shaded(np.eye(3))
    ['#  ', ' # ', '  #']
    """
    picture = np.asarray(weights).T
    for axis, most in enumerate((height, width)):
        n = picture.shape[axis]
        if n > most:
            edges = np.linspace(0, n, most + 1).astype(int)[:-1]
            picture = np.maximum.reduceat(picture, edges, axis=axis)
    levels = np.clip((picture * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return ["".join(SHADES[level] for level in row) for row in levels]
