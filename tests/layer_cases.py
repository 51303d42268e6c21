"""Random calls of one recurrent layer, and how far two answers to a call stand apart.

A call is drawn from a seed: the cell, one direction or both, sizes that fill vectors or do not,
lengths, layouts in memory, what is to be differentiated, the number of threads. Weights are of the
scale 1/sqrt(fan-in): a saturated gate, or a sum far larger than what is left of it, loses digits in
any computation, and the bounds here are those of sound numbers.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch

from ostinato.recurrence.backends import run, use_backend
from ostinato.recurrence.cells import ACTIVATIONS, GRUCell, LSTMCell, RNNCell
from ostinato.recurrence.scan import scan

# Of the largest magnitude in a tensor: about a hundred spacings of float32, more than four thousand
# of float64. The longest sums here have some thousand terms.
WITHIN = {torch.float32: 1e-5, torch.float64: 1e-12}

KINDS = {
    **{f"rnn-{name}": (RNNCell, {"activation": name}) for name in ACTIVATIONS},
    "lstm": (LSTMCell, {}),
    "lstm-projected": (LSTMCell, {"proj_size": 1}),  # of a size that is drawn
    "gru": (GRUCell, {}),
    "gru-reset-before": (GRUCell, {"reset_after": False}),
}


@dataclass
class LayerCase:
    """One call: what goes in, and a random weighting of all that comes out."""

    cell: object
    weights: list
    x: torch.Tensor
    state: object = None
    lengths: torch.Tensor | None = None
    threads: int = 1
    checkpoint_every: int = 0

    @property
    def inputs(self):
        """All that a gradient is asked of."""
        state = () if self.state is None else self.state
        all_of_them = chain([self.x], state, *(w.values() for w in self.weights))
        return [tensor for tensor in all_of_them if tensor.requires_grad]

    def like(self, change):
        """The same call with other tensors: ``change`` of each."""

        def leaf(tensor):
            return change(tensor.detach()).requires_grad_(tensor.requires_grad)

        return LayerCase(
            self.cell,
            [{name: leaf(t) for name, t in w.items()} for w in self.weights],
            leaf(self.x),
            None if self.state is None else type(self.state)(*map(leaf, self.state)),
            self.lengths,
            self.threads,
            self.checkpoint_every,
        )

    def on_the_core(self):
        """Outputs, last states, and the gradients of the inputs."""
        with threads(self.threads), use_backend("compiled"):
            return self.by_run()

    def by_run(self):
        """The same by whatever path serves, on as many threads as there are."""
        y, last = run(
            self.cell, self.weights, self.x, self.state, self.lengths,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip
        return self._with_gradients([y, *last])

    def by_the_reference(self):
        """The same by `scan`, a direction at a time."""
        outputs, lasts = [], []
        for i, w in enumerate(self.weights):
            state = None if self.state is None else type(self.state)(*(s[i] for s in self.state))
            y, last = scan(self.cell, w, self.x, state, self.lengths, reverse=i == 1)
            outputs.append(y)
            lasts.append(last)
        return self._with_gradients(
            [torch.cat(outputs, -1), *(torch.stack(s) for s in zip(*lasts, strict=True))]
        )

    def _with_gradients(self, outputs):
        ways = [(y, g) for y, g in zip(outputs, weighting(outputs), strict=True) if y.requires_grad]
        inputs = self.inputs
        if ways and inputs:
            ys, gs = zip(*ways, strict=True)
            found = torch.autograd.grad(ys, inputs, gs, materialize_grads=True)
        else:  # without a step the reference does not touch the weights at all: zeros, then
            found = [torch.zeros_like(tensor) for tensor in inputs]
        return [tensor.detach() for tensor in (*outputs, *found)]


@contextmanager
def threads(n):
    """As many threads as that, in PyTorch and in the core."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weighting(outputs):
    """Random gradients for the outputs, in float64 the same numbers as in float32."""
    generator = torch.Generator().manual_seed(77)
    return [torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs]


def spread(tensor, layout):
    """The same numbers in another layout of memory, as a leaf."""
    T, B, I = tensor.shape
    if layout == "rows first":
        return tensor.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "features first":
        return tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if layout == "a part":
        wider = tensor.new_full((T, B + 2, I + 3), torch.nan)
        wider[:, 1 : B + 1, 2 : I + 2] = tensor
        return wider[:, 1 : B + 1, 2 : I + 2]
    if layout == "backward in memory":  # what a reversed view is, made by hand: steps swapped
        return tensor.flip(0).contiguous().flip(0)
    return tensor.contiguous()


def across(tensor):
    """The same numbers with another order of axes in memory."""
    return tensor.movedim(0, -1).contiguous().movedim(-1, 0)


def draw(seed):
    """The call of this number."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    dtype = rng.choice([torch.float32, torch.float64])

    def numbers(*shape, scale=1.0):
        # Of float32, so that float64 can hold the very same.
        return (scale * torch.randn(shape, generator=generator)).to(dtype)

    size = rng.random()
    if size < 0.03:  # enough for several threads
        T, B, I, H = 40, rng.randint(8, 40), rng.randint(40, 70), rng.randint(40, 70)
    elif size < 0.1:
        T, B = rng.choice([(40, 2), (2, 40), (70, 1), (1, 70)])
        I, H = rng.randint(1, 20), rng.randint(1, 20)
    else:
        T, B = rng.randint(0, 12), rng.randint(0, 9)
        I, H = (rng.choice([rng.randint(1, 9), rng.randint(1, 70)]) for _ in "IH")
    make, options = KINDS[rng.choice(list(KINDS))]
    if "proj_size" in options:
        H = max(H, 2)
        options = {"proj_size": rng.randint(1, H - 1)}
    cell = make(I, H, bias=rng.random() < 0.7, **options)
    directions = rng.choice([1, 2])
    P = cell.output_size
    fan_in = {"weight_ih": I, "weight_hh": P, "bias_ih": 4, "bias_hh": 4, "weight_hr": H}
    weights = [
        {n: numbers(*s, scale=fan_in[n] ** -0.5) for n, s in cell.weight_shapes().items()}
        for _ in range(directions)
    ]
    layouts = ["steps first", "rows first", "features first", "a part", "backward in memory"]
    x = spread(numbers(T, B, I), rng.choice(layouts))
    state = lengths = None
    if rng.random() < 0.7:
        state = cell.state_type(*(numbers(directions, B, size) for size in cell.state_sizes))
    if rng.random() < 0.5:
        lengths = torch.tensor([rng.randint(0, T) for _ in range(B)], dtype=torch.int64)
    case = LayerCase(cell, weights, x, state, lengths, threads=rng.randint(1, 3))
    if rng.random() < 0.2:  # matrices and states that are views
        case.weights = [{n: across(t) if t.dim() > 1 else t for n, t in w.items()} for w in weights]
        case.state = None if state is None else type(state)(*map(across, state))
    every = rng.random()
    for tensor in chain([case.x], case.state or (), *(w.values() for w in case.weights)):
        tensor.requires_grad_(every < 0.7 or (every < 0.95 and rng.random() < 0.5))
    return case


def apart(ours, theirs):
    """How far apart, as a part of the largest magnitude."""
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    far = float((ours - theirs).abs().max()) if theirs.numel() else 0.0
    if far == 0.0:
        return 0.0
    return far / largest if largest else float("inf")  # NaN stays NaN, and is never near


def assert_core_is_the_reference(case):
    """The core's values and gradients are those of the reference in float64 on the same numbers."""
    ours, theirs = case.on_the_core(), case.like(torch.Tensor.double).by_the_reference()
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.dtype == case.x.dtype
        assert a.shape == b.shape
        distance = apart(a.double(), b)
        assert distance <= WITHIN[a.dtype], f"[{k}] is {distance:.1e} apart of {described(case)}"


def described(case):
    """A call in a line."""
    return (
        f"{case.cell}, x {tuple(case.x.shape)} strides {case.x.stride()} {case.x.dtype}, "
        f"{len(case.weights)} directions, state {case.state is not None}, "
        f"lengths {None if case.lengths is None else case.lengths.tolist()}, "
        f"{case.threads} threads"
    )
