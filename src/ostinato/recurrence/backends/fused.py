"""What a linear cell computes number by number, for a whole sequence in one pass over memory.

`Lazy` stands for a sequence that is a function of others, and is computed when its numbers are
needed: by a product, say, or the recurrence. Then tapes.py computes all functions up to there, a
few rows at a time, so that what is between them never leaves the cache. Every function is the
core's own one, so that a stream, which runs the same step by step, has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ostinato.recurrence.backends.tapes import FUNCTIONS, Node, Recipe, Ref, computed
from ostinato.recurrence.cells import Functions


class Lazy:
    """A sequence ``(T, B, n)`` that is computed when it is needed; see the module.

    What it cannot do itself is done by PyTorch on its numbers.
    """

    def __init__(
        self, like: Tensor, n: int, function: str = "", args: Sequence[Lazy | Tensor | float] = (),
        source: Tensor | None = None, at: int = 0, apart: bool = False,
    ) -> None:  # fmt: skip
        self.like, self.n, self.function, self.args = like, n, function, tuple(args)
        self.source, self.at, self.apart = source, at, apart

    @property
    def shape(self) -> torch.Size:
        """As that of a tensor."""
        return torch.Size([*self.like.shape[:-1], self.n])

    @property
    def value(self) -> Tensor:
        """The numbers."""
        (found,) = settled(self)
        assert isinstance(found, Tensor)
        return found

    def __len__(self) -> int:
        return self.like.shape[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value, name)

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do a function of PyTorch: note it, or do it on the numbers."""
        name = getattr(function, "__name__", "").strip("_")
        if name == "cat" and (made := _joined(args, kwargs or {})) is not None:
            return made
        if name in ("chunk", "split") and isinstance(args[0], Lazy):
            return getattr(args[0], name)(*args[1:], **(kwargs or {}))
        if name in _BINARY and len(args) == 2 and not kwargs:
            return _pair(_BINARY[name], *(args[::-1] if name in ("rsub", "rdiv") else args))
        return function(*map(_plain, args), **{k: _plain(v) for k, v in (kwargs or {}).items()})

    def __getitem__(self, index: Any) -> Any:
        last = index[-1] if isinstance(index, tuple) and len(index) == 2 else None
        if not isinstance(last, slice) or index[0] is not ... or last.step is not None:
            return self.value[index]
        begin, end, _ = last.indices(self.n)
        return self._part(begin, max(end - begin, 0))

    def _part(self, at: int, n: int) -> Lazy:
        if self.function == "cat":
            begin = 0
            for part in self.args:
                assert isinstance(part, Lazy)
                if begin <= at and at + n <= begin + part.n:
                    return part if n == part.n else part._part(at - begin, n)
                begin += part.n
        if n == self.n:
            return self
        whole = self if self.source is not None else as_lazy(self.value)
        return Lazy(self.like, n, source=whole.source, at=whole.at + at)

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
        """As `torch.split`."""
        if dim not in (-1, 2):
            return self.value.split(sizes, dim)  # type: ignore[no-untyped-call,no-any-return]
        if isinstance(sizes, int):
            sizes = [min(sizes, self.n - i) for i in range(0, self.n, sizes)]
        if self.apart and self.source is not None and self.n == self.source.shape[-1]:
            return tuple(map(as_lazy, torch.split(self.source, list(sizes), -1)))
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(self._part(end - n, n) for end, n in zip(ends, sizes, strict=True))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Any, ...]:
        """As `torch.chunk`."""
        return self.split(-(-self.n // chunks) if dim in (-1, 2) else -(-len(self) // chunks), dim)

    def __neg__(self) -> Lazy:
        return Lazy(self.like, self.n, "negate", [self])

    def clamp_min(self, least: float) -> Lazy:
        """As that of a tensor."""
        return Lazy(self.like, self.n, "maximum", [self, float(least)])

    def __add__(self, other: Any) -> Any:
        return _pair("add", self, other)

    def __sub__(self, other: Any) -> Any:
        return _pair("subtract", self, other)

    def __mul__(self, other: Any) -> Any:
        return _pair("multiply", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _pair("divide", self, other)

    def __radd__(self, other: Any) -> Any:
        return _pair("add", other, self)

    def __rsub__(self, other: Any) -> Any:
        return _pair("subtract", other, self)

    def __rmul__(self, other: Any) -> Any:
        return _pair("multiply", other, self)

    def __rtruediv__(self, other: Any) -> Any:
        return _pair("divide", other, self)


_TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
}
_BINARY = {
    "add": "add", "radd": "add", "sub": "subtract", "rsub": "subtract", "mul": "multiply",
    "rmul": "multiply", "div": "divide", "truediv": "divide", "rdiv": "divide",
}  # fmt: skip


def as_lazy(x: Tensor, apart: bool = False) -> Lazy:
    """Return a sequence ``(T, B, n)`` as one of which functions are to be computed together.

    With ``apart`` its parts have gradients by themselves, joined once, as is best where functions
    of different parts are not computed together; without, every pass makes a gradient of the whole.
    """
    return Lazy(x, x.shape[-1], source=x, apart=apart)


def _plain(value: Any) -> Any:
    if isinstance(value, Lazy):
        return value.value
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _operand(x: Any, like: Tensor) -> Lazy | Tensor | float | None:
    """Return what can be an operand beside a sequence; None for what cannot."""
    if isinstance(x, Lazy):
        return x if x.like.shape[:-1] == like.shape[:-1] and x.like.dtype == like.dtype else None
    if isinstance(x, Tensor):
        if type(x) not in (Tensor, torch.nn.Parameter) or x.dtype != like.dtype:
            return None
        if x.dim() == 3 and x.shape[:-1] == like.shape[:-1]:
            return as_lazy(x)
        return x if x.dim() < 2 else None
    return float(x) if isinstance(x, int | float) else None


def _width(x: Lazy | Tensor | float) -> int:
    return x.n if isinstance(x, Lazy) else x.numel() if isinstance(x, Tensor) else 1


def _pair(function: str, a: Any, b: Any) -> Any:
    like = a.like if isinstance(a, Lazy) else b.like
    x, y = _operand(a, like), _operand(b, like)
    if x is None or y is None or (_width(x) != _width(y) and 1 not in (_width(x), _width(y))):
        return _TORCH[function](_plain(a), _plain(b))
    n = max(_width(x), _width(y))
    if not all(z.n == n for z in (x, y) if isinstance(z, Lazy)):
        return _TORCH[function](_plain(a), _plain(b))
    if function == "divide" and isinstance(x, float) and x != 1:  # as PyTorch does
        return _pair("multiply", Lazy(like, n, "divide", [1.0, y]), x)
    return Lazy(like, n, function, [x, y])


def _joined(args: Any, kwargs: dict[str, Any]) -> Lazy | None:
    """Return sequences side by side, which may stand so where they are written."""
    parts = args[0]
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    first = next(part for part in parts if isinstance(part, Lazy))
    each = [_operand(part, first.like) for part in parts]
    if dim not in (-1, 2) or not all(isinstance(x, Lazy) for x in each):
        return None
    return Lazy(first.like, sum(map(_width, each)), "cat", each)  # type: ignore[arg-type]


def lazy_functions(own: Functions, apart: bool) -> Functions:
    """Return functions that note what they are to compute of sequences; ``own`` do the rest.

    ``apart`` is for the results of products, as in `as_lazy`.
    """

    def noted(name: str, x: Any) -> Any:
        if isinstance(x, Tensor) and x.dim() != 3:
            return getattr(own, name)(x)
        lazy = x if isinstance(x, Lazy) else as_lazy(x)
        return Lazy(lazy.like, lazy.n, name, [lazy])

    def linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
        y = own.linear(_plain(x), weight, bias)
        return as_lazy(y, apart) if y.dim() == 3 else y

    def convolve(seen: Sequence[Tensor], kernel: Tensor, bias: Tensor | None) -> Any:
        return as_lazy(own.convolve(seen, kernel, bias))

    each = {name: partial(noted, name) for name in FUNCTIONS}
    return Functions(linear=linear, convolve=convolve, **each)


class _Writer:
    """Puts sequences that are asked for together into one recipe."""

    def __init__(self) -> None:
        self.sources: list[Tensor] = []
        self.vectors: list[Tensor | float] = []
        self.nodes: list[Node] = []
        self._known: dict[int, Ref] = {}
        self._places: dict[object, int] = {}
        self._kept: list[object] = []  # so that no id is given twice

    def ref(self, x: Lazy | Tensor | float) -> Ref:
        if isinstance(x, Lazy):
            if id(x) not in self._known:
                self._known[id(x)] = self._written(x)
                self._kept.append(x)
            return self._known[id(x)]
        key = ("vector", id(x)) if isinstance(x, Tensor) else ("constant", str(x))
        if key not in self._places:
            self._places[key] = len(self.vectors)
            self.vectors.append(x)
        return "vector", self._places[key], 0, _width(x)

    def _written(self, x: Lazy) -> Ref:
        if x.source is not None:
            key = ("source", id(x.source))
            if key not in self._places:
                self._places[key] = len(self.sources)
                self.sources.append(x.source)
            return "source", self._places[key], x.at, x.n
        given = [
            as_lazy(y.value) if isinstance(y, Lazy) and y.function == "cat" else y for y in x.args
        ]
        self._kept.append(given)
        node = Node(x.function, tuple(map(self.ref, given)), x.n)
        self.nodes.append(node)
        return "node", len(self.nodes) - 1, 0, x.n


def settled(*each: Lazy | Tensor | None) -> list[Any]:
    """Return the numbers of sequences, computed together."""
    asked = [x for x in each if isinstance(x, Lazy) and x.source is None]
    if asked:
        writer = _Writer()
        parts = [x.args if x.function == "cat" else (x,) for x in asked]
        outputs = tuple(tuple(map(writer.ref, part)) for part in parts)
        vectors = [
            v if isinstance(v, Tensor) else torch.tensor(v, dtype=asked[0].like.dtype)
            for v in writer.vectors
        ]
        recipe = Recipe(
            tuple(writer.nodes), tuple(t.shape[-1] for t in writer.sources),
            tuple(v.numel() for v in vectors), outputs,
        )  # fmt: skip
        for x, value in zip(asked, computed(recipe, writer.sources, vectors), strict=True):
            x.source, x.at, x.function, x.args = value, 0, "", ()
    return [_of_source(x) if isinstance(x, Lazy) else x for x in each]


def _of_source(x: Lazy) -> Tensor:
    assert x.source is not None
    whole = x.at == 0 and x.n == x.source.shape[-1]
    return x.source if whole else x.source[..., x.at : x.at + x.n]
