"""What the laws of recurrence share: random weights and states, and the equations once more.

The oracle is NumPy, one gate, one row and one step at a time, written from the equations; of the
package it knows the names of the weights and that gates stand in PyTorch's order. Its gradients are
complex steps, f'(x) = Im f(x + i e) / e: no subtraction, hence exact to rounding at e = 1e-30
(W. Squire and G. Trapp 1998, "Using complex variables to estimate derivatives of real functions").
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ostinato.recurrence.cells import (
    CoupledLSTMCell,
    GRUCell,
    GRUDCell,
    HigherOrderCell,
    IndRNNCell,
    JordanCell,
    LayerNormGRUCell,
    LayerNormLSTMCell,
    LiGRUCell,
    LinearCell,
    LRUCell,
    LSTMCell,
    MGUCell,
    MinGRUCell,
    MinLSTMCell,
    MLSTMCell,
    PeepholeLSTMCell,
    QRNNCell,
    RGLRUCell,
    RNNCell,
    S5Cell,
    SelectiveCell,
    SLSTMCell,
    SRUCell,
    ZoneoutCell,
)

I, H, P = 3, 4, 2
CELLS = {
    "rnn-tanh": RNNCell(I, H),
    "rnn-relu": RNNCell(I, H, activation="relu"),
    "rnn-sigmoid": RNNCell(I, H, activation="sigmoid"),
    "rnn-identity": RNNCell(I, H, activation="identity"),
    "lstm": LSTMCell(I, H),
    "lstm-projected": LSTMCell(I, H, proj_size=P),
    "gru": GRUCell(I, H),
    "gru-reset-before": GRUCell(I, H, reset_after=False),
}
BIASLESS = {f"{name}-biasless": replace(cell, bias=False) for name, cell in CELLS.items()}
VARIANTS = {
    "lstm-peephole": PeepholeLSTMCell(I, H),
    "lstm-peephole-projected": PeepholeLSTMCell(I, H, proj_size=P),
    "lstm-coupled": CoupledLSTMCell(I, H),
    "lstm-coupled-projected": CoupledLSTMCell(I, H, bias=False, proj_size=P),
    "lstm-norm": LayerNormLSTMCell(I, H),
    "lstm-norm-projected": LayerNormLSTMCell(I, H, bias=False, proj_size=P),
    "gru-norm": LayerNormGRUCell(I, H),
    "gru-norm-biasless": LayerNormGRUCell(I, H, bias=False),
    "mgu": MGUCell(I, H),
    "mgu-biasless": MGUCell(I, H, bias=False),
    "ligru": LiGRUCell(I, H),
    "ligru-biasless": LiGRUCell(I, H, bias=False),
    "gru-d": GRUDCell(I, H),
    "gru-d-biasless": GRUDCell(I, H, bias=False),
    "slstm": SLSTMCell(I, H, heads=2),
    "slstm-biasless": SLSTMCell(I, H, bias=False, heads=1),
    "second-order": HigherOrderCell(I, H),
    "fourth-order": HigherOrderCell(I, H, bias=False, activation="relu", order=4),
    "jordan": JordanCell(I, H, outputs=P),
    "jordan-elman": JordanCell(I, H, False, "sigmoid", P, "tanh", elman=True),
    "indrnn": IndRNNCell(I, H),
    "indrnn-biasless": IndRNNCell(I, H, bias=False, activation="tanh"),
    "zoneout": ZoneoutCell(LSTMCell(I, H), (0.3, 0.6)),
}
LINEAR = {
    "min-gru": MinGRUCell(I, H),
    "min-gru-biasless": MinGRUCell(I, H, bias=False),
    "min-lstm": MinLSTMCell(I, H),
    "qrnn": QRNNCell(I, H),
    "qrnn-wide": QRNNCell(I, H, bias=False, kernel_size=3),
    "qrnn-narrow": QRNNCell(I, H, kernel_size=1),
    "sru": SRUCell(I, H),
    "sru-square": SRUCell(H, H, bias=False),
    "rg-lru": RGLRUCell(I, H),
    "rg-lru-biasless": RGLRUCell(I, H, bias=False),
    "lru": LRUCell(I, H),
    "lru-biasless": LRUCell(I, H, bias=False),
    "s5": S5Cell(I, H),
    "s5-blocks": S5Cell(I, H, bias=False, memory=6, blocks=3),
    "mamba": SelectiveCell(I, H, memory=2),
    "mamba-biasless": SelectiveCell(I, 2, bias=False, memory=3, kernel_size=2),
}
VARIANTS |= LINEAR
VARIANTS |= {
    "mlstm": MLSTMCell(I, H, heads=2),
    "mlstm-biasless": MLSTMCell(I, H, bias=False, heads=1),
}
COMPILED_VARIANTS = [name for name in VARIANTS if name.startswith(("lstm-coupled", "mgu"))]
"""Those that are a standard cell with tied weights."""


def random(*shape, seed, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


@dataclass
class Case:
    """A cell with random weights, biases, input and state, no two of them equal."""

    cell: object
    T: int = 4
    B: int = 3
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def __post_init__(self):
        def leaf(*shape, seed, scale=1.0):
            numbers = random(*shape, seed=1000 * self.seed + seed, dtype=self.dtype, scale=scale)
            return numbers.requires_grad_()

        shapes = self.cell.weight_shapes().items()
        self.w = {n: leaf(*s, seed=k, scale=0.6) for k, (n, s) in enumerate(shapes)}
        self.x = leaf(self.T, self.B, self.cell.input_size, seed=10)
        sizes = enumerate(self.cell.state_sizes)
        self.state = self.cell.state_type(*(leaf(self.B, size, seed=20 + k) for k, size in sizes))
        if isinstance(self.cell, SLSTMCell):  # a normaliser is never below 1
            with torch.no_grad():
                self.state.n.abs_().add_(1)

    @property
    def inputs(self):
        return [self.x, *self.state, *self.w.values()]


def leaves(tree):
    """Tensors of nested tuples, from left to right."""
    return [tree] if isinstance(tree, torch.Tensor) else [t for part in tree for t in leaves(part)]


def cotangents(outputs):
    return [random(*y.shape, seed=90 + k, dtype=y.dtype) for k, y in enumerate(outputs)]


def with_gradients(outputs, inputs):
    """The outputs, and the gradients by the inputs of a random weighting of all outputs."""
    outputs = leaves(outputs)
    weights = cotangents(outputs)
    # Of h, where a cell has another memory, nothing depends on the one before.
    return [*outputs, *torch.autograd.grad(outputs, inputs, weights, materialize_grads=True)]


def detached(state):
    return type(state)(*(s.detach() for s in state))


# The equations once more.


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda a: np.where(a.real > 0, a, 0),
    "sigmoid": sigmoid,
    "identity": lambda a: a,
}


def by_gate(w, gates):
    """W, U, b, d: of each gate the input matrix, the recurrent matrix and the two biases."""

    def cut(name):
        blocks = np.split(w[name], len(gates)) if name in w else [0.0] * len(gates)
        return dict(zip(gates, blocks, strict=True))

    return cut("weight_ih"), cut("weight_hh"), cut("bias_ih"), cut("bias_hh")


def normalized(a, gain, bias):
    a = a - a.mean()
    return gain * a / np.sqrt((a * a).mean() + 1e-5) + bias


def larger(a, b):
    return a if a.real > b.real else b


def step_of_mlstm(cell, w, x, state):
    """One step of one row of a matrix memory, head by head; see `step_of_equations`."""
    h, c, n, m = (part.copy() for part in state)
    d = len(h) // cell.heads
    a = w["weight_ih"] @ x + w.get("bias_ih", 0.0)
    q, k, v, o = (a[j * len(h) : (j + 1) * len(h)] for j in range(4))
    i, f = np.split(a[4 * len(h) :], 2)
    for head in range(cell.heads):
        here, square = slice(head * d, (head + 1) * d), slice(head * d * d, (head + 1) * d * d)
        key, log_f = k[here] / np.sqrt(d), -np.log(1 + np.exp(-f[head]))
        now = larger(log_f + m[head], i[head])
        kept, taken = np.exp(log_f + m[head] - now), np.exp(i[head] - now)
        C = kept * c[square].reshape(d, d) + taken * np.outer(v[here], key)
        n[here] = kept * n[here] + taken * key
        size = n[here] @ q[here]
        size = larger(size if size.real > 0 else -size, np.exp(-now))
        h[here] = sigmoid(o[here]) * (C @ q[here]) / size
        c[square], m[head] = C.ravel(), now
    return [h, c, n, m]


def step_of_slstm(cell, w, x, state):
    """One step of one row, unit by unit; see `step_of_equations`."""
    h, c, n, m = state
    new = [part.copy() for part in state]
    H, d = len(h), len(h) // cell.heads
    a = w["weight_ih"] @ x + w.get("bias_ih", 0.0)
    for u in range(H):
        head, row = u // d, u % d
        seen = h[head * d : (head + 1) * d]
        i, f, g, o = (
            a[gate * H + u] + w["weight_hh"][head * 4 * d + gate * d + row] @ seen
            for gate in range(4)
        )
        kept = (m[u] if n[u].real > 0 else -1e30) - np.log(1 + np.exp(-f))
        new[3][u] = larger(kept, i)
        kept, taken = np.exp(kept - new[3][u]), np.exp(i - new[3][u])
        new[1][u] = kept * c[u] + taken * np.tanh(g)
        new[2][u] = kept * n[u] + taken
        new[0][u] = sigmoid(o) * new[1][u] / new[2][u]
    return new


def step_of_grud(w, x, state):
    """One step of one row with missing values; see `step_of_equations`."""
    h, last, age = state
    relu = FUNCTIONS["relu"]
    known = np.array([not np.isnan(value.real) for value in x])
    fading = np.exp(-relu(w["decay_x"] * age + w.get("bias_x", 0.0))) * last
    x = np.where(known, x, 0)
    h = np.exp(-relu(w["decay_h"] @ age + w.get("bias_h", 0.0))) * h
    v = np.concatenate([np.where(known, x, fading), known])
    r, z, n = np.split(w["weight_ih"] @ v + w.get("bias_ih", 0.0), 3)
    U_r, U_z, U_n = np.split(w["weight_hh"], 3)
    r, z = sigmoid(r + U_r @ h), sigmoid(z + U_z @ h)
    n = np.tanh(n + U_n @ (r * h))
    return [(1 - z) * n + z * h, np.where(known, x, last), np.where(known, 0, age + 1)]


def gated(w, y):
    g = y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))) / 2
    return g * sigmoid(w["weight_gate"] @ g + w.get("bias_gate", 0.0))


def step_of_linear(cell, w, x, state):
    """One step of one row of a cell whose state enters linearly; see `step_of_equations`."""
    h, bias = state[0], w.get("bias_ih", 0.0)
    if isinstance(cell, MinGRUCell):
        z, n = np.split(w["weight_ih"] @ x + bias, 2)
        return [(1 - sigmoid(z)) * h + sigmoid(z) * n]
    if isinstance(cell, MinLSTMCell):
        f, i, n = np.split(w["weight_ih"] @ x + bias, 3)
        f, i = sigmoid(f), sigmoid(i)
        return [(f * h + i * n) / (f + i)]
    if isinstance(cell, QRNNCell):
        window = np.concatenate([*state[2:], x])
        n, f, o = np.split(w["weight_ih"] @ window + bias, 3)
        c = sigmoid(f) * state[1] + (1 - sigmoid(f)) * np.tanh(n)
        return [sigmoid(o) * c, c, *([window[len(x) :]] if state[2:] else [])]
    if isinstance(cell, SRUCell):
        n, f, r, *s = np.split(w["weight_ih"] @ x + bias, len(w["weight_ih"]) // len(h))
        c = sigmoid(f) * state[1] + (1 - sigmoid(f)) * n
        return [sigmoid(r) * np.tanh(c) + (1 - sigmoid(r)) * (s[0] if s else x), c]
    if isinstance(cell, RGLRUCell):
        r, i, n = np.split(w["weight_ih"] @ x + bias, 3)
        a = sigmoid(w["decay"]) ** (8 * sigmoid(r))
        return [a * h + np.sqrt(1 - a * a) * sigmoid(i) * n]
    if isinstance(cell, LRUCell):
        p, q = np.split(state[1], 2)
        B_real, B_imaginary, D = np.split(w["weight_ih"], 3)
        C_real, C_imaginary = np.split(w["weight_ch"], 2, axis=1)
        size, angle, scale = np.exp(-np.exp(w["nu"])), np.exp(w["theta"]), np.exp(w["gamma"])
        real, imaginary = size * np.cos(angle), size * np.sin(angle)
        p, q = (
            real * p - imaginary * q + scale * (B_real @ x),
            real * q + imaginary * p + scale * (B_imaginary @ x),
        )
        y = C_real @ p + C_imaginary @ q + D @ x
        return [gated(w, y), np.concatenate([p, q])]
    if isinstance(cell, S5Cell):
        p, q = np.split(state[1], 2)
        B_real, B_imaginary, D = np.split(w["weight_ih"], [len(p), 2 * len(p)])
        C_real, C_imaginary = np.split(w["weight_ch"], 2, axis=1)
        re, im, dt = -np.exp(w["decay"]), w["frequency"], np.exp(w["step"])
        a_real, a_imaginary = np.exp(re * dt) * np.cos(im * dt), np.exp(re * dt) * np.sin(im * dt)
        # b (re + i im) = (a - 1) B x, solved for b by the adjugate.
        u, v = B_real @ x, B_imaginary @ x
        u, v = (a_real - 1) * u - a_imaginary * v, (a_real - 1) * v + a_imaginary * u
        u, v = (u * re + v * im) / (re**2 + im**2), (v * re - u * im) / (re**2 + im**2)
        p, q = a_real * p - a_imaginary * q + u, a_real * q + a_imaginary * p + v
        y = 2 * (C_real @ p + C_imaginary @ q) + D @ x
        return [gated(w, y), np.concatenate([p, q])]
    assert isinstance(cell, SelectiveCell)
    E, N, R = 2 * len(h), cell.memory, -(-len(h) // 16)
    u, z = np.split(w["weight_ih"] @ x, 2)
    window = [*np.split(state[2], cell.kernel_size - 1), u]
    v = sum(w["kernel"][:, j] * window[j] for j in range(cell.kernel_size))
    v = v + w.get("bias_kernel", 0.0)
    v = v * sigmoid(v)
    d, B, C = np.split(w["weight_v"] @ v, [R, R + N])
    d = np.log(1 + np.exp(w["weight_d"] @ d + w["d"]))
    c = state[1].reshape(N, E).T.copy()
    y = np.zeros(E, complex)
    for e in range(E):
        for n in range(N):
            c[e, n] = np.exp(-d[e] * np.exp(w["A"][e, n])) * c[e, n] + d[e] * B[n] * v[e]
            y[e] += C[n] * c[e, n]
    y = (y + w["D"] * v) * z * sigmoid(z)
    return [w["weight_o"] @ y, c.T.ravel(), np.concatenate(window[1:])]


def step_of_variant(cell, w, x, state):
    """One step of one row of a variant; see `step_of_equations`."""
    h = state[0]
    bias = [w.get(name, 0.0) for name in ("bias_ih", "bias_hh")]

    def sums(gates):
        W, U, b, d = by_gate(w, gates)
        return [W[k] @ x + b[k] + U[k] @ h + d[k] for k in gates]

    if isinstance(cell, ZoneoutCell):
        new = step_of_equations(cell.inner, w, x, state)
        mixed = zip(cell.rates, state, new, strict=True)
        return [rate * s + (1 - rate) * n for rate, s, n in mixed]
    if isinstance(cell, LSTMCell):
        c = state[1]
        if isinstance(cell, PeepholeLSTMCell):
            i, f, g, o = sums("ifgo")
            p, q, r = np.split(w["weight_peephole"], 3)
            i, f, g = sigmoid(i + p * c), sigmoid(f + q * c), np.tanh(g)
            c = f * c + i * g
            h = sigmoid(o + r * c) * np.tanh(c)
        elif isinstance(cell, CoupledLSTMCell):
            f, g, o = sums("fgo")
            c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            a = normalized(w["weight_ih"] @ x, w["gain_ih"], bias[0])
            a = a + normalized(w["weight_hh"] @ h, w["gain_hh"], bias[1])
            i, f, g, o = np.split(a, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(normalized(c, w["gain_c"], w.get("bias_c", 0.0)))
        return [w["weight_hr"] @ h if "weight_hr" in w else h, c]
    if isinstance(cell, LayerNormGRUCell):
        parts = []
        for name, v in (("ih", x), ("hh", h)):
            a, gain = w[f"weight_{name}"] @ v, w[f"gain_{name}"]
            b = w.get(f"bias_{name}", np.zeros(len(a)))
            cut = 2 * len(h)
            parts.append(
                [*np.split(normalized(a[:cut], gain[:cut], b[:cut]), 2),
                 normalized(a[cut:], gain[cut:], b[cut:])]
            )  # fmt: skip
        r, z = (sigmoid(parts[0][k] + parts[1][k]) for k in (0, 1))
        n = np.tanh(parts[0][2] + r * parts[1][2])
        return [(1 - z) * n + z * h]
    if isinstance(cell, MGUCell):
        W, U, b, d = by_gate(w, "fn")
        f = sigmoid(W["f"] @ x + b["f"] + U["f"] @ h + d["f"])
        n = np.tanh(W["n"] @ x + b["n"] + U["n"] @ (f * h) + d["n"])
        return [(1 - f) * h + f * n]
    if isinstance(cell, LiGRUCell):
        a = normalized(w["weight_ih"] @ x, w["gain_ih"], bias[0])
        z, n = np.split(a + w["weight_hh"] @ h, 2)
        return [(1 - sigmoid(z)) * FUNCTIONS["relu"](n) + sigmoid(z) * h]
    if isinstance(cell, GRUDCell):
        return step_of_grud(w, x, state)
    if isinstance(cell, SLSTMCell):
        return step_of_slstm(cell, w, x, state)
    if isinstance(cell, MLSTMCell):
        return step_of_mlstm(cell, w, x, state)
    if isinstance(cell, LinearCell):
        return step_of_linear(cell, w, x, state)
    a = w["weight_ih"] @ x + bias[0] + bias[1]
    g = FUNCTIONS[cell.activation]
    if isinstance(cell, HigherOrderCell):
        past = np.split(state[1], cell.order - 1)
        matrices = np.split(w["weight_hh"], cell.order, axis=1)
        a = a + sum(U @ v for U, v in zip(matrices, [h, *past], strict=True))
        return [g(a), np.concatenate([h, *past[:-1]])]
    if isinstance(cell, IndRNNCell):
        return [g(a + w["weight_hh"] * h)]
    assert isinstance(cell, JordanCell)
    a = a + w["weight_yh"] @ h
    if cell.elman:
        a = a + w["weight_hh"] @ state[1]
    y = FUNCTIONS[cell.output_activation](w["weight_hy"] @ g(a) + w.get("bias_hy", 0.0))
    return [y, g(a)] if cell.elman else [y]


def step_of_equations(cell, w, x, state):
    """One step of one row: ``x (I,)``, the state a list of vectors."""
    h = state[0]
    if type(cell) not in (RNNCell, LSTMCell, GRUCell):
        return step_of_variant(cell, w, x, state)
    if isinstance(cell, RNNCell):
        W, U, b, d = by_gate(w, "a")
        return [FUNCTIONS[cell.activation](W["a"] @ x + b["a"] + U["a"] @ h + d["a"])]
    if isinstance(cell, LSTMCell):
        W, U, b, d = by_gate(w, "ifgo")
        i = sigmoid(W["i"] @ x + b["i"] + U["i"] @ h + d["i"])
        f = sigmoid(W["f"] @ x + b["f"] + U["f"] @ h + d["f"])
        g = np.tanh(W["g"] @ x + b["g"] + U["g"] @ h + d["g"])
        o = sigmoid(W["o"] @ x + b["o"] + U["o"] @ h + d["o"])
        c = f * state[1] + i * g
        h = o * np.tanh(c)
        return [w["weight_hr"] @ h if "weight_hr" in w else h, c]
    W, U, b, d = by_gate(w, "rzn")
    r = sigmoid(W["r"] @ x + b["r"] + U["r"] @ h + d["r"])
    z = sigmoid(W["z"] @ x + b["z"] + U["z"] @ h + d["z"])
    if cell.reset_after:
        n = np.tanh(W["n"] @ x + b["n"] + r * (U["n"] @ h + d["n"]))
    else:
        n = np.tanh(W["n"] @ x + b["n"] + U["n"] @ (r * h) + d["n"])
    return [(1 - z) * n + z * h]


def equations(cell, w, x, state, lengths=None, reverse=False):
    """Outputs and the tensors of the last state, each row run alone over its own steps."""
    T, B = x.shape[:2]
    w, x, state = {k: v.astype(complex) for k, v in w.items()}, x.astype(complex), list(state)
    y = np.zeros((T, B, state[0].shape[1]), complex)
    last = [np.array(s, complex) for s in state]
    for row in range(B):
        n = T if lengths is None else lengths[row]
        now = [s[row] for s in last]
        for t in reversed(range(n)) if reverse else range(n):
            now = step_of_equations(cell, w, x[t, row], now)
            y[t, row] = now[0]
        for s, value in zip(last, now, strict=True):
            s[row] = value
    return [y, *last]


def equations_with_gradients(case, lengths=None, reverse=False):
    """What `with_gradients` gives, by the oracle."""
    arrays = [leaf.detach().numpy().astype(complex) for leaf in case.inputs]
    states = len(case.state)

    def run():
        x, state, w = arrays[0], arrays[1 : 1 + states], arrays[1 + states :]
        return equations(case.cell, dict(zip(case.w, w, strict=True)), x, state, lengths, reverse)

    outputs = [torch.from_numpy(y.real.copy()) for y in run()]
    weights = [c.numpy() for c in cotangents(outputs)]
    gradients = []
    for array in arrays:
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            array[index] += 1e-30j
            gradient[index] = sum((g * y.imag).sum() for g, y in zip(weights, run(), strict=True))
            array[index] = array[index].real
        gradients.append(torch.from_numpy(gradient * 1e30))
    return outputs + gradients
