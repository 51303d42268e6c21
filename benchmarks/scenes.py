"""Check whether a sentence is true of a drawn scene, for known forms of sentences.

The scenes are those of NLVR (Suhr et al. 2017): three boxes, each with blocks in a tower or with
scattered shapes. Only the most common forms of sentences are read; for others the result is None.
The accuracy of this is measured on captions written by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Item = dict[str, Any]
Box = list[Item]

WIDE = 100
"""Height and width of a box."""

COLORS = {"black": "black", "blue": "#0099ff", "yellow": "yellow"}
WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "atleast": "at least", "bellow": "below", "boxes": "box", "towers": "tower",
    "objects": "item", "object": "item", "items": "item", "blocks": "block", "squares": "square",
    "triangles": "triangle", "circles": "circle", "are": "is", "contains": "has",
    "contain": "has", "have": "has", "an": "a", "edge": "wall", "edges": "wall", "walls": "wall",
    "base": "bottom", "corners": "corner", "all": "each",
}  # fmt: skip

COUNT = r"(?:(?:(?P<{0}how>exactly|only|at least|at most) )?(?P<{0}n>a|\d) )?"
KIND = r"(?:(?P<{0}color>black|blue|yellow) )?(?P<{0}noun>block|item|square|triangle|circle)"


def _things(name: str) -> str:
    """A pattern of a counted kind of thing, its groups named after it."""
    return (COUNT + KIND).format(name)


def _counts(found: dict[str, str | None], name: str) -> Callable[[int], bool]:
    """Whether a number of things is what the words say."""
    how, n = found[name + "how"], found[name + "n"]
    number = int(n) if n and n.isdigit() else 1
    if how in ("exactly", "only") or (how is None and n is not None and n.isdigit()):
        return lambda count: count == number
    return lambda count: count <= number if how == "at most" else count >= number


def _is(found: dict[str, str | None], name: str) -> Callable[[Item], bool]:
    """Whether an item is of the kind that the words say."""
    color, noun = found[name + "color"], found[name + "noun"]
    return lambda item: (
        (color is None or item["color"].lower() == COLORS[color])
        and (noun in ("item", "block") or item["type"] == noun)
    )


def _touches(item: Item, what: str) -> bool:
    """Whether an item is at a side of its box."""
    across = item["x_loc"] <= 0 or item["x_loc"] + item["size"] >= WIDE
    top, bottom = item["y_loc"] <= 0, item["y_loc"] + item["size"] >= WIDE
    sides = {"wall": across or top or bottom, "corner": across and (top or bottom)}
    return {**sides, "top": top, "bottom": bottom}[what]


def _stacked(box: Box) -> Box:
    """The blocks of a tower from the bottom up."""
    return sorted(box, key=lambda item: -int(item["y_loc"]))


def _strewn(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There is 1 black circle; there are 2 squares touching the wall."""
    side, kind = found["side"], _is(found, "a")
    items = [item for box in scene for item in box if kind(item)]
    if side:
        items = [item for item in items if _touches(item, side) != bool(found["not"])]
    return _counts(found, "a")(len(items))


def _ends_so(box: Box, found: dict[str, str | None]) -> bool:
    """Whether a tower has as many blocks of a kind at an end as the words say."""
    n = int(found["bn"]) if found["bn"] and found["bn"].isdigit() else 1
    stack = _stacked(box)
    end = stack[-n:] if found["end"] == "top" else stack[:n]
    return len(end) == n and all(map(_is(found, "b"), end))


def _ends(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There are 2 towers with a blue block at the top."""
    return _counts(found, "a")(sum(_ends_so(box, found) for box in scene))


def _end_of(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There is a black block as the top of a tower with 4 blocks."""
    end = -1 if found["end"] == "top" else 0
    kind, boxes = _is(found, "b"), scene
    if found["cnoun"]:
        of, tall = _is(found, "c"), _counts(found, "c")
        boxes = [box for box in scene if tall(sum(map(of, box)))]
    return _counts(found, "b")(sum(bool(box) and kind(_stacked(box)[end]) for box in boxes))


def _holders(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There is 1 box with 3 black items; each tower has at least 1 yellow block."""
    kind, enough = _is(found, "b"), _counts(found, "b")
    holding = sum(enough(sum(map(kind, box))) for box in scene)
    each = found["each"] is not None
    return holding == len(scene) if each else _counts(found, "a")(holding)


def _upon(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There is a yellow block on a blue block."""
    above, below = _is(found, "b"), _is(found, "c")
    if found["order"] == "below":
        above, below = below, above
    stacks = [_stacked(box) for box in scene]
    return any(below(a) and above(b) for stack in stacks for a, b in pairwise(stack))


def _plain(found: dict[str, str | None], scene: list[Box]) -> bool:
    """There is a black tower."""
    color = COLORS[str(found["color"])]
    plain = sum(bool(b) and all(i["color"].lower() == color for i in b) for b in scene)
    return _counts(found, "a")(plain)


HOLDER = COUNT.format("a") + "(?P<holder>tower|box)"
HAS = "(?:with|that has|has|which has)"
SIDE = r"(?P<side>wall|corner|top|bottom)"
FORMS = [
    (rf"there is {_things('a')}(?: (?P<not>not )?(?:closely )?touching (?:the|a|any) {SIDE}"
     "(?: of a box)?)?", _strewn),
    (rf"(?:there is )?{HOLDER} {HAS} {_things('b')} at (?:the )?(?P<end>top|bottom)", _ends),
    (rf"there is {_things('b')} (?:as|at) the (?P<end>top|bottom) of a tower"
     rf"(?: {HAS} {_things('c')})?", _end_of),
    (rf"(?:there is {HOLDER}|(?P<each>each)(?: \d)? (?:tower|box)) {HAS} {_things('b')}", _holders),
    (rf"there is {_things('b')} (?P<order>on|above|over|below) {_things('c')}", _upon),
    (COUNT.format("a").join(["there is ", "(?P<color>black|blue|yellow) tower"]), _plain),
]  # fmt: skip


def judge(sentence: str, scene: list[Box]) -> bool | None:
    """Whether a sentence is true of a scene; None if it is not understood.

    >>> block = {"x_loc": 40, "y_loc": 80, "size": 20, "type": "square", "color": "Black"}
    >>> scene = [[block], [block, {**block, "y_loc": 59, "color": "Yellow"}], []]
    >>> judge("There are exactly two towers with a black block at the base.", scene)
    True
    >>> judge("There is a yellow block above a black block", scene), judge("a cat", scene)
    (True, None)
    """
    words = re.findall(r"[a-z]+|\d", sentence.lower())
    plain = " ".join(WORDS.get(word, word) for word in words)
    for pattern, true in FORMS:
        found = re.fullmatch(pattern, plain)
        if found:
            return true(found.groupdict(), scene)
    return None
