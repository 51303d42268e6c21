"""An ONNX graph while it is built: nodes, constants, weights of some precision, inputs, outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ostinato.deploy.base import Precision
from ostinato.errors import OstinatoError

OPSET, IR_VERSION = 22, 10
"""Versions of the operators and of the file; ONNX Runtime reads them from 1.21 on."""

Array = NDArray[Any]
Shape = Sequence[int | str]


class Graph:
    """A graph; values are known by their names.

    Args:
        onnx: the module.
        precision: of `weight`.
        outer: the graph around this one, if it is the body of a node.
    """

    def __init__(self, onnx: Any, precision: Precision, outer: Graph | None = None) -> None:
        self.onnx, self.precision = onnx, precision
        self.root: Graph = self if outer is None else outer.root
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._initializers: list[Any] = []
        self._counts: Counter[str] = Counter()
        self._constants: dict[tuple[object, ...], str] = {}

    def body(self) -> Graph:
        """Return a graph for the body of a node; it sees all values of this one."""
        return Graph(self.onnx, self.precision, self)

    def fresh(self, stem: str) -> str:
        """Return a name that no value has."""
        counts = self.root._counts
        counts[stem] += 1
        return f"{stem}.{counts[stem]}"

    def many(self, count: int, op: str, *values: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs, and return their names; "" stands for no input."""
        names = [self.fresh(op) for _ in range(count)]
        self.nodes.append(self.onnx.helper.make_node(op, [*values], names, **attributes))
        return names

    def add(self, op: str, *values: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        return self.many(1, op, *values, **attributes)[0]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Return the name of a constant; a few numbers are stored once."""
        value = value.detach().numpy() if isinstance(value, Tensor) else value
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes() if array.size < 64 else None)
        known = self.root._constants
        if key[2] is None or key not in known:
            known[key] = self.fresh("constant")
            # Which keeps the shape of a scalar.
            tensor = self.onnx.helper.make_tensor(
                known[key], self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape,
                array.tobytes(), raw=True,
            )  # fmt: skip
            self.root._initializers.append(tensor)
        return known[key]

    def ints(self, *values: int) -> str:
        """Return a constant vector of whole numbers, such as a shape or axes."""
        return self.constant(values, np.int64)

    def weight(self, value: Tensor | Array, axis: int = 0) -> str:
        """Return a matrix of weights, stored in the graph's precision and used as float32.

        With int8 there is a scale for each row, or whatever is along ``axis``. A matrix that is not
        rounded so, such as a part of columns, or what a cell computes of weights, stays as it is.
        """
        array = value.detach().numpy() if isinstance(value, Tensor) else value
        array = np.asarray(array, np.float32)
        if self.precision == "float32" or array.ndim < 2:
            return self.constant(array)
        if self.precision == "float16":
            exact = bool((array.astype(np.float16) == array).all())
            half = self.constant(array, np.float16 if exact else np.float32)
            return self.add("Cast", half, to=1) if exact else half
        whole, scale = quantize(array, axis)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        if not np.allclose(whole * scale.reshape(shape), array, 0, 1e-6 * np.abs(array).max()):
            return self.constant(array)
        # Not DequantizeLinear, in place of which ONNX Runtime rounds what it is multiplied with.
        rows = self.add("Cast", self.constant(whole, np.int8), to=1)
        return self.add("Mul", rows, self.constant(scale.reshape(shape)))

    def lookup(self, table: Tensor, ids: str) -> str:
        """Return rows of a table by their numbers."""
        if self.precision == "float32":
            return self.add("Gather", self.constant(table), ids, axis=0)
        if self.precision == "float16":
            half = self.constant(table, np.float16)
            return self.add("Cast", self.add("Gather", half, ids, axis=0), to=1)
        whole, scale = quantize(table.detach().numpy())
        rows = self.add("Gather", self.constant(whole, np.int8), ids, axis=0)
        scales = self.add("Gather", self.constant(scale[:, None]), ids, axis=0)
        return self.add("Mul", self.add("Cast", rows, to=1), scales)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None = None) -> str:
        """X W^T + b of ``x (..., I)``."""
        y = self.add("MatMul", x, self.weight(weight.T, axis=1))
        return y if bias is None else self.add("Add", y, self.constant(bias))

    def size(self, x: str, axis: int) -> str:
        """Return the length of an axis, as a vector of one number."""
        return self.add("Shape", x, start=axis, end=axis + 1)

    def slice(self, x: str, axis: int, begin: int | str, end: int | str) -> str:
        """Return a stretch of an axis; ends are numbers, or names of vectors of one."""
        ends = [self.ints(e) if isinstance(e, int) else e for e in (begin, end)]
        return self.add("Slice", x, *ends, self.ints(axis))

    def split(self, x: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Return parts of so many along an axis."""
        if len(sizes) == 1:
            return [x]
        return self.many(len(sizes), "Split", x, self.ints(*sizes), axis=axis)

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Return parts side by side along an axis."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=axis)

    def running(self, x: str, lengths: str) -> str:
        """Return ``(B, T)`` booleans: whether a row of ``x (B, T, ...)`` has a step."""
        last = self.add("Squeeze", self.size(x, 1))
        steps = self.add("Range", self.constant(0, np.int64), last, self.constant(1, np.int64))
        return self.add("Less", steps, self.add("Unsqueeze", lengths, self.ints(1)))

    def where(self, mask: str, x: str, otherwise: float = 0.0, axes: Sequence[int] = ()) -> str:
        """Return x where a mask is true; its axes of length 1 are added first."""
        mask = self.add("Unsqueeze", mask, self.ints(*axes)) if axes else mask
        return self.add("Where", mask, x, self.constant(otherwise))

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Declare an input."""
        self.inputs.append(self._port(name, dtype, shape))
        return name

    def output(self, name: str, value: str, dtype: Any, shape: Shape) -> None:
        """Declare an output, the value of a node or of an input."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._port(name, dtype, shape))

    def _port(self, name: str, dtype: Any, shape: Shape) -> Any:
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, list(shape))

    def proto(self, name: str) -> Any:
        """Return the graph as ONNX has it."""
        return self.onnx.helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, self._initializers
        )

    def model(self, name: str, facts: dict[str, str]) -> Any:
        """Return the graph as a checked model, with facts as its metadata."""
        helper = self.onnx.helper
        size = sum(tensor.ByteSize() for tensor in self._initializers)
        if size > 1.9e9:
            raise OstinatoError(
                f"export: the network has {size:,} bytes of weights; an ONNX file holds 2 GB at "
                "most: choose precision='int8'."
            )
        model = helper.make_model(
            self.proto(name), opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION, producer_name="ostinato",
        )  # fmt: skip
        helper.set_model_props(model, facts)
        self.onnx.checker.check_model(model)
        return model


def quantize(array: Array, axis: int = 0) -> tuple[Array, Array]:
    """Return whole numbers from -127 to 127, and what each row along an axis is in units of.

    >>> whole, scale = quantize(np.array([[1.27, -0.5], [0.0, 0.0]]))
    >>> whole.tolist(), [round(s, 3) for s in scale.tolist()]
    ([[127, -50], [0, 0]], [0.01, 1.0])
    """
    others = tuple(i for i in range(array.ndim) if i != axis)
    largest = np.abs(array).max(others, keepdims=True, initial=0)
    scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    return np.round(array / scale).astype(np.int8), scale.reshape(-1)
