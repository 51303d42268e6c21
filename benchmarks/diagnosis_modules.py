"""Plain PyTorch modules and training loops, right and wrong, as tutorials and beginners have them.

`FAULTS` maps a kind of fault to a function ``(seed, mended) -> Setup``, and `HEALTHY` the name of a
network that learns to a function ``(seed) -> Setup``. `Setup.run` trains it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Split = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets, and lengths where rows are padded."""

Loss = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""``(model, x, y, lengths) -> loss``."""


class Given(NamedTuple):
    """What a user has after training, and passes to `diagnose`; and how good the network is.

    Attributes:
        model: a network or an estimator.
        data: of training, at most 64 rows.
        error: of honest predictions on new data, that of the best constant being 1.
        loss, optimizer, held_out, history, distance: as `diagnose` takes them.
    """

    model: Any
    data: Any
    error: float
    loss: Loss | None = None
    optimizer: torch.optim.Optimizer | None = None
    held_out: Any = None
    history: list[dict[str, Any]] | None = None
    distance: int | None = None


# Errors: 0 if all is right, 1 for the best constant


def wrong(scores: Tensor, y: Tensor) -> float:
    """Share of wrong classes, by that of the most frequent class."""
    known = y >= 0
    if not bool(scores.isfinite().all()):
        return math.inf
    hit = (scores.argmax(-1) == y)[known].float().mean()
    most = y[known].bincount().max() / known.sum()
    return float((1 - hit) / (1 - most))


def wrong_by_class(scores: Tensor, y: Tensor) -> float:
    """The same with each class of equal weight, for unequal classes."""
    found, classes = scores.argmax(-1), y[y >= 0].unique()
    recall = torch.stack([(found == k)[y == k].float().mean() for k in classes]).mean()
    return float((1 - recall) / (1 - 1 / len(classes)))


def squares(outputs: Tensor, y: Tensor) -> float:
    """Mean squared error by the variance."""
    error = F.mse_loss(outputs, y) / y.var()
    return float(error) if bool(error.isfinite()) else math.inf


def wrong_bits(p: Tensor, y: Tensor) -> float:
    """Cross-entropy of probabilities by that of the mean of each output."""
    constant = y.flatten(0, -2).mean(0).clamp(1e-3, 1 - 1e-3).expand_as(y)
    cross = F.binary_cross_entropy
    return float(cross(p.clamp(1e-6, 1 - 1e-6), y) / cross(constant, y))


# Losses


def cross_entropy(model: Any, x: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Of sequences or of every step; -100 is padding."""
    scores = model(x, lengths)
    return F.cross_entropy(scores.flatten(0, -2), y.flatten())


def mse(model: Any, x: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(model(x, lengths), y)


def bce(model: Any, x: Tensor, y: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of logits."""
    return F.binary_cross_entropy_with_logits(model(x, lengths), y)


# Optimizers


def adam(lr: float = 0.01, **more: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Adam of all parameters that can be trained."""
    return lambda model: torch.optim.Adam(trainable(model), lr=lr, **more)


def sgd(lr: float = 0.5, **more: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Stochastic gradient descent."""
    return lambda model: torch.optim.SGD(trainable(model), lr=lr, **more)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [p for p in model.parameters() if p.requires_grad]


@dataclass
class Setup:
    """A network, its data and its training loop.

    Attributes:
        network, loss: what is trained, and by what.
        train, held: data; rows of one source.
        metric: error of outputs, as above.
        optimizer: makes one of the network.
        steps, batch, clip, clip_value, zero: of the loop; ``zero`` sets gradients to zero.
        schedule: makes a scheduler, which is stepped each batch.
        honest: data without the fault, where ``held`` has it.
        outputs: what the user takes for predictions, of the network and honest data.
        distance: steps of the dependency, if the user knows.
    """

    network: nn.Module
    loss: Loss
    train: Split
    held: Split
    metric: Callable[[Tensor, Tensor], float] = wrong
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = field(default_factory=adam)
    steps: int = 150
    batch: int = 32
    clip: float = 0.0
    clip_value: float = 0.0
    zero: bool = True
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    honest: Split | None = None
    outputs: Callable[[Any, Split], tuple[Tensor, Tensor]] | None = None
    distance: int | None = None

    def run(self, seed: int) -> Given:
        """Train, as tutorials do."""
        random = torch.Generator().manual_seed(seed)
        model, optimizer, history = self.network, self.optimizer(self.network), []
        scheduler = self.schedule(optimizer) if self.schedule else None
        x, y, lengths = self.train
        model.train()
        for step in range(1, self.steps + 1):
            rows = torch.randint(len(x), (min(self.batch, len(x)),), generator=random)
            if self.zero:
                optimizer.zero_grad()
            loss = self.loss(model, x[rows], y[rows], None if lengths is None else lengths[rows])
            loss.backward()
            if self.clip_value:
                nn.utils.clip_grad_value_(model.parameters(), self.clip_value)
            norm = nn.utils.clip_grad_norm_(model.parameters(), self.clip or math.inf)
            optimizer.step()
            record = {"step": step, "loss": loss.item(), "gradient_norm": float(norm)}
            if step % max(1, self.steps // 5) == 0:
                record["validation_loss"] = self.value(self.held)
                history.append({"step": step, "validation_loss": record.pop("validation_loss")})
            history.append(record)
            if scheduler is not None:
                scheduler.step()
        model.eval()
        for record in history:
            for name, value in record.items():
                record[name] = value if math.isfinite(value) else None  # as in metrics.jsonl
        first = [None if part is None else part[:64] for part in self.train]
        return Given(
            model,
            _given(first),
            self.error(),
            self.loss,
            optimizer,
            _given(self.held),
            history,
            self.distance,
        )

    def value(self, data: Split) -> float:
        """The loss in eval mode."""
        self.network.eval()
        with torch.no_grad():
            value = float(self.loss(self.network, *data))
        self.network.train()
        return value

    def error(self) -> float:
        """The error on honest data."""
        self.network.eval()
        x, y, lengths = self.honest or self.held
        with torch.no_grad():
            if self.outputs is not None:
                outputs, y = self.outputs(self.network, (x, y, lengths))
            else:
                outputs = self.network(x, lengths)
            return self.metric(outputs, y) if bool(outputs.isfinite().all()) else math.inf


def _given(data: Any) -> Any:
    x, y, lengths = data
    return (x, y) if lengths is None else (x, y, lengths)


def halves(x: Tensor, y: Tensor, lengths: Tensor | None = None, held: int = 150) -> Any:
    """Divide rows into those to train on and those held out."""
    cut = -held
    if lengths is None:
        return (x[:cut], y[:cut], None), (x[cut:], y[cut:], None)
    return (x[:cut], y[:cut], lengths[:cut]), (x[cut:], y[cut:], lengths[cut:])


# Data


def names(seed: int, N: int = 550, K: int = 5, V: int = 21, pad: int = 0) -> Any:
    """Names of K languages, in each of which certain letters follow others. 0 is padding."""
    random = torch.Generator().manual_seed(seed)
    follows = torch.stack([torch.randperm(V - 1, generator=random) + 1 for _ in range(K)])
    y = torch.randint(K, (N,), generator=random)
    lengths = torch.randint(5, 13, (N,), generator=random)
    letters = [torch.randint(1, V, (N,), generator=random)]
    for _ in range(11):
        anything = torch.randint(1, V, (N,), generator=random)
        sure = torch.rand(N, generator=random) < 0.7
        letters.append(torch.where(sure, follows[y, letters[-1] - 1], anything))
    x = torch.stack(letters, 1)
    x[torch.arange(12)[None] >= lengths[:, None]] = 0
    return F.pad(x, (0, pad)), y, lengths


def sensors(seed: int, N: int = 550, T: int = 25, K: int = 4, noise: float = 0.3) -> Any:
    """How fast a noisy wave swings, beside two channels of noise."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (N,), generator=random)
    t = torch.arange(T)[None] * (0.3 + 0.3 * y[:, None])
    wave = torch.sin(t + 6.28 * torch.rand(N, 1, generator=random))
    x = torch.stack([wave, torch.zeros(N, T), torch.zeros(N, T)], -1)
    spread = torch.tensor([noise, 1.0, 1.0])
    return x + spread * torch.randn(N, T, 3, generator=random), y


def series(seed: int, N: int = 550, T: int = 24, ahead: int = 1, noise: float = 0.1) -> Any:
    """Windows of a noisy sum of two waves, and the values that follow."""
    random = torch.Generator().manual_seed(seed)
    t = torch.arange(N + T + ahead) * 1.0
    phase = 6.28 * torch.rand(2, generator=random)
    value = torch.sin(t / 2 + phase[0]) + 0.5 * torch.sin(t / 5 + phase[1])
    value += noise * torch.randn(len(t), generator=random)
    windows = value.unfold(0, T + ahead, 1)[:N]
    return windows[:, :T, None].clone(), windows[:, T:].clone()


def adding(seed: int, N: int = 700, T: int = 12) -> Any:
    """The sum of two marked numbers."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.rand(N, T, generator=random)
    first = torch.randint(T // 2, (N,), generator=random)
    second = torch.randint(T // 2, T, (N,), generator=random)
    marks = F.one_hot(first, T) + F.one_hot(second, T)
    return torch.stack([numbers, marks.float()], -1), (numbers * marks).sum(1, keepdim=True)


def tags(seed: int, N: int = 400, T: int = 12, V: int = 30, both: bool = True) -> Any:
    """Sentences of words whose tag follows from the word and the one before (or after)."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(1, V, (N, T), generator=random)
    kind = torch.randint(3, (V,), generator=random)[x]
    side = kind.roll(-1 if both else 1, 1)
    side[:, -1 if both else 0] = 0
    return x, (kind + 2 * (side == 2)).clamp(max=4)


def chars(seed: int, N: int = 500, T: int = 24) -> Any:
    """Windows of text, words in a random order, and the letters that come next."""
    known = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "runs", "away"]
    letters = " " + "".join(sorted({c for word in known for c in word}))
    random = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(known), (N * 8,), generator=random).tolist()
    text = torch.tensor([letters.index(c) for c in " ".join(known[p] for p in picks)])
    windows = text.unfold(0, T + 1, T)[:N]
    return windows[:, :-1].clone(), windows[:, 1:].clone()


def echo(seed: int, N: int = 500, T: int = 16, K: int = 5, delay: int = 3) -> Any:
    """At every step the symbol of some steps before."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(K, (N, T), generator=random)
    y = ids.roll(delay, 1)
    y[:, :delay] = -100
    return F.one_hot(ids, K).float(), y


def rounds(seed: int, N: int = 500, T: int = 24, K: int = 5, delay: int = 3) -> Any:
    """Symbols that mostly are those of some steps before, and the next symbol at every step."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(K, (N, T + 1), generator=random)
    sure = torch.rand(N, T + 1, generator=random) < 0.85
    for t in range(delay, T + 1):
        ids[:, t] = torch.where(sure[:, t], ids[:, t - delay], ids[:, t])
    return F.one_hot(ids[:, :-1], K).float(), ids[:, 1:].clone()


def first_symbol(seed: int, N: int = 500, T: int = 20, K: int = 4) -> Any:
    """Which symbol came first, before noise."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (N,), generator=random)
    x = 0.3 * torch.randn(N, T, K, generator=random)
    x[range(N), 0, y] += 2
    return x, y


def reviews(seed: int, N: int = 550, T: int = 25, V: int = 60, pad: int = 0) -> Any:
    """Reviews, good ones with more words of the first tenth than of the second. 0 is padding."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(1, V, (N, T), generator=random)
    lengths = torch.randint(8, T + 1, (N,), generator=random)
    y = torch.randint(2, (N,), generator=random)
    mood = torch.rand(N, T, generator=random) < 0.2
    told = torch.randint(1, 6, (N, T), generator=random) + 5 * y[:, None]
    x = torch.where(mood, told, x.clamp(min=11))
    x[torch.arange(T)[None] >= lengths[:, None]] = 0
    return F.pad(x, (0, pad)), y[:, None].float(), lengths


def rolls(seed: int, N: int = 300, T: int = 24, keys: int = 16) -> Any:
    """Piano rolls of chords that follow each other in one of two orders; the next step is due."""
    random = torch.Generator().manual_seed(seed)
    chords = (torch.rand(6, keys, generator=random) < 0.25).float()
    start = torch.randint(6, (N, 1), generator=random)
    way = torch.randint(1, 3, (N, 1), generator=random)
    order = (start + way * torch.arange(T + 1)) % 6
    x = chords[order]
    flip = torch.rand(x.shape, generator=random) < 0.03
    x = torch.where(flip, 1 - x, x)
    return x[:, :-1].clone(), x[:, 1:].clone()


def counts(seed: int, N: int = 500, T: int = 15) -> Any:
    """How many events a sequence has, by its length."""
    random = torch.Generator().manual_seed(seed)
    rate = torch.rand(N, 1, generator=random)
    x = (torch.rand(N, T, generator=random) < rate).float()
    return x[..., None], x.mean(1, keepdim=True)


def regimes(seed: int, N: int = 500, T: int = 20, K: int = 3) -> Any:
    """Noisy measurements of a regime that seldom changes, and the regime at every step."""
    random = torch.Generator().manual_seed(seed)
    y = torch.randint(K, (N, T), generator=random)
    changes = torch.rand(N, T, generator=random) < 0.04
    for t in range(1, T):
        y[:, t] = torch.where(changes[:, t], y[:, t], y[:, t - 1])
    return F.one_hot(y, K) + torch.randn(N, T, K, generator=random), y


def reversed_digits(seed: int, N: int = 700, T: int = 5, V: int = 8) -> Any:
    """Digits, and the same from the last to the first."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(1, V, (N, T), generator=random)
    return x, x.flip(1)


# Networks, as tutorials have them


class NameClassifier(nn.Module):
    """Letters, a packed recurrent layer, its last state."""

    def __init__(self, V: int = 21, K: int = 5, H: int = 32, cell: Any = nn.GRU, **more: Any):
        super().__init__()
        self.embedding = nn.Embedding(V, 16, padding_idx=0)
        self.rnn = cell(16, H, batch_first=True, **more)
        self.fc = nn.Linear(H, K)

    def forward(self, x: Tensor, lengths: Any) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, h = self.rnn(packed)
        return self.fc((h[0] if isinstance(h, tuple) else h)[-1])


class LastOfPadded(NameClassifier):
    """The last column, whatever the lengths."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(self.embedding(x))
        return self.fc(out[:, -1])


class Reader(nn.Module):
    """Measurements to one output, from the last step."""

    def __init__(
        self,
        I: int = 3,
        K: int = 4,
        H: int = 32,
        cell: Any = nn.LSTM,
        dropout: float = 0,
        **more: Any,
    ):
        super().__init__()
        self.rnn = cell(I, H, **{"batch_first": True, **more})
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(H * (2 if more.get("bidirectional") else 1), K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(x)
        return self.fc(self.drop(out[:, -1]))


class ExplicitStart(Reader):
    """With states of zeros that are made by hand."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        zeros = x.new_zeros(self.rnn.num_layers, len(x), self.rnn.hidden_size)
        state = (zeros, zeros.clone()) if isinstance(self.rnn, nn.LSTM) else zeros
        out, _ = self.rnn(x, state)
        return self.fc(self.drop(out[:, -1]))


class MeanReader(Reader):
    """The mean over steps instead of the last."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(x)
        return self.fc(self.drop(out.mean(1)))


class AttentiveReader(Reader):
    """A weighted mean over steps."""

    def __init__(self, *arguments: Any, H: int = 32, **more: Any):
        super().__init__(*arguments, H=H, **more)
        self.score = nn.Linear(self.fc.in_features, 1)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(x)
        weights = self.score(out).softmax(1)
        return self.fc((weights * out).sum(1))


class NormedReader(nn.Module):
    """A GRU with layer normalisation after it."""

    def __init__(self, I: int = 3, K: int = 4, H: int = 32):
        super().__init__()
        self.gru = nn.GRU(I, H, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(H)
        self.fc = nn.Linear(H, K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        return self.fc(self.norm(self.gru(x)[0])[:, -1])


class ConvReader(nn.Module):
    """A convolution before an LSTM."""

    def __init__(self, I: int = 3, K: int = 4, H: int = 32):
        super().__init__()
        self.conv = nn.Conv1d(I, 16, 3, padding=1)
        self.lstm = nn.LSTM(16, H, batch_first=True)
        self.fc = nn.Linear(H, K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        features = self.conv(x.transpose(1, 2)).relu().transpose(1, 2)
        _, (h, _) = self.lstm(features)
        return self.fc(h[-1])


class EveryStep(nn.Module):
    """Measurements to an output at every step."""

    def __init__(self, I: int, K: int, H: int = 32, cell: Any = nn.LSTM, **more: Any):
        super().__init__()
        self.rnn = cell(I, H, batch_first=True, **more)
        self.fc = nn.Linear(H * (2 if more.get("bidirectional") else 1), K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        return self.fc(self.rnn(x)[0])


class Probabilities(nn.Module):
    """A network whose outputs go through one more function."""

    def __init__(self, network: nn.Module, function: nn.Module):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        return self.function(self.network(x, lengths))


class Words(nn.Module):
    """Words or letters to an output at every step: a tagger or a language model."""

    def __init__(
        self,
        V: int = 30,
        K: int = 5,
        E: int = 16,
        H: int = 32,
        cell: Any = nn.LSTM,
        dropout: float = 0.0,
        **more: Any,
    ):
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.rnn = cell(E, H, batch_first=True, **more)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(H * (2 if more.get("bidirectional") else 1), K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(self.drop(self.embedding(x)))
        return self.fc(self.drop(out))


class PackedTagger(Words):
    """With packed sequences."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.fc(out)


class Sentiment(nn.Module):
    """Reviews, a packed bidirectional LSTM, both last states."""

    def __init__(self, V: int = 60, H: int = 24, layers: int = 1, dropout: float = 0.2):
        super().__init__()
        self.embedding = nn.Embedding(V, 16, padding_idx=0)
        self.lstm = nn.LSTM(
            16, H, num_layers=layers, batch_first=True, bidirectional=True,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * H, 1)

    def forward(self, x: Tensor, lengths: Any) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(x), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (h, _) = self.lstm(packed)
        return self.fc(self.drop(torch.cat([h[-2], h[-1]], 1)))


class CellLoop(nn.Module):
    """A loop over the steps of a cell, with an output at every step or at the last."""

    def __init__(
        self, I: int, K: int, H: int = 32, cell: Any = nn.LSTMCell, last: bool = False, cut: int = 0
    ):
        super().__init__()
        self.cell, self.fc, self.last, self.cut = cell(I, H), nn.Linear(H, K), last, cut
        self.lstm, self.H = isinstance(self.cell, nn.LSTMCell), H

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        h = c = x.new_zeros(len(x), self.H)
        outs = []
        for t in range(x.shape[1]):
            if self.cut and t % self.cut == 0:
                h, c = h.detach(), c.detach()
            if self.lstm:
                h, c = self.cell(x[:, t], (h, c))
            else:
                h = self.cell(x[:, t], h)
            outs.append(h)
        return self.fc(outs[-1] if self.last else torch.stack(outs, 1))


class NeverCarried(CellLoop):
    """The state after a step is given another name, so that each step starts from zeros."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        h = c = x.new_zeros(len(x), self.H)
        outs = []
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], (h, c))[0] if self.lstm else self.cell(x[:, t], h)
            outs.append(new)
        return self.fc(outs[-1] if self.last else torch.stack(outs, 1))


class OneStepCalls(EveryStep):
    """A layer called a step at a time; ``carry`` passes the state on."""

    def __init__(self, *arguments: Any, carry: bool = True, **more: Any):
        super().__init__(*arguments, **more)
        self.carry = carry

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        state, outs = None, []
        for t in range(x.shape[1]):
            out, new = self.rnn(x[:, t : t + 1], state)
            state = new if self.carry else None
            outs.append(out)
        return self.fc(torch.cat(outs, 1))


class Chunked(EveryStep):
    """A layer called on chunks, with the state passed on, or cut off from gradients."""

    def __init__(self, *arguments: Any, chunk: int = 4, cut: bool = False, **more: Any):
        super().__init__(*arguments, **more)
        self.chunk, self.cut = chunk, cut

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        state, outs = None, []
        for part in x.split(self.chunk, 1):
            out, state = self.rnn(part, state)
            if self.cut:
                state = (
                    tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
                )
            outs.append(out)
        return self.fc(torch.cat(outs, 1))


class Leaking(nn.Module):
    """Keeps the state of the batch before, which is of other rows."""

    def __init__(self, I: int, K: int, H: int = 32, cell: Any = nn.GRU, leak: bool = True):
        super().__init__()
        self.rnn, self.fc = cell(I, H, batch_first=True), nn.Linear(H, K)
        self.hidden: Any = None
        self.leak = leak

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        state = self.hidden
        if state is not None and (state[0] if isinstance(state, tuple) else state).shape[1] != len(
            x
        ):
            state = None
        out, state = self.rnn(x, state)
        if self.leak:
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            self.hidden = state
        return self.fc(out[:, -1])


class Zoneout(nn.Module):
    """A GRU whose units keep their state with some probability."""

    def __init__(self, I: int, K: int, p: float, H: int = 32, last: bool = True):
        super().__init__()
        self.cell, self.fc, self.p, self.H, self.last = (
            nn.GRUCell(I, H),
            nn.Linear(H, K),
            p,
            H,
            last,
        )

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        h, outs = x.new_zeros(len(x), self.H), []
        for t in range(x.shape[1]):
            new = self.cell(x[:, t], h)
            keep = torch.rand_like(h) < self.p if self.training else torch.full_like(h, self.p)
            h = (
                keep * h + (1 - keep.float()) * new
                if not self.training
                else torch.where(keep, h, new)
            )
            outs.append(h)
        return self.fc(outs[-1] if self.last else torch.stack(outs, 1))


class Seq2Seq(nn.Module):
    """Encoder, and a decoder with attention; ``y`` are the true outputs, for teacher forcing."""

    def __init__(self, V: int = 8, E: int = 16, H: int = 32, cut: bool = False):
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.encoder = nn.GRU(E, H, batch_first=True, bidirectional=True)
        self.decoder = nn.GRUCell(E + 2 * H, H)
        self.attention = nn.Linear(H, 2 * H)
        self.fc = nn.Linear(H, V)
        self.cut, self.H = cut, H

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        memory, _ = self.encoder(self.embedding(x))
        if self.cut:
            memory = memory.detach()
        h, word, outs = (
            x.new_zeros(len(x), self.H, dtype=torch.float),
            torch.zeros_like(x[:, 0]),
            [],
        )
        for t in range(x.shape[1]):
            weights = (memory @ self.attention(h)[..., None]).softmax(1)
            context = (weights * memory).sum(1)
            h = self.decoder(torch.cat([self.embedding(word), context], 1), h)
            outs.append(self.fc(h))
            word = outs[-1].argmax(-1) if y is None else y[:, t]
        return torch.stack(outs, 1)


def seq2seq_loss(model: Any, x: Tensor, y: Tensor, lengths: Any = None) -> Tensor:
    """Cross-entropy with teacher forcing."""
    return F.cross_entropy(model(x, y).flatten(0, 1), y.flatten())


class Horizon(nn.Module):
    """Encoder and decoder of a series; the decoder reads its own values."""

    def __init__(self, H: int = 24, steps: int = 12):
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(1, H, batch_first=True), nn.LSTMCell(1, H)
        self.fc, self.steps = nn.Linear(H, 1), steps

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        _, (h, c) = self.encoder(x)
        h, c, value, outs = h[0], c[0], x[:, -1], []
        for _ in range(self.steps):
            h, c = self.decoder(value, (h, c))
            value = self.fc(h)
            outs.append(value)
        return torch.cat(outs, 1)


class ReadsItself(nn.Module):
    """Reads its output of the step before too, or ``y``, the true one, for teacher forcing."""

    def __init__(self, K: int = 3, H: int = 32, cell: Any = nn.GRUCell):
        super().__init__()
        self.cell, self.fc, self.K = cell(2 * K, H), nn.Linear(H, K), K

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        state, before, outs = None, x.new_zeros(len(x), self.K), []
        for t in range(x.shape[1]):
            state = self.cell(torch.cat([x[:, t], before], 1), state)
            outs.append(self.fc(state[0] if isinstance(state, tuple) else state))
            before = F.one_hot(outs[-1].argmax(1) if y is None else y[:, t], self.K).float()
        return torch.stack(outs, 1)


class ViewedReader(Reader):
    """Made time-first by `view`, which mixes the rows up, where `transpose` was due."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        B, T, I = x.shape
        out, _ = self.rnn(x.reshape(T, B, I))
        return self.fc(out[-1])


class TransposedReader(Reader):
    """Made time-first as it should be."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        out, _ = self.rnn(x.transpose(0, 1))
        return self.fc(out[-1])


class NoGradReader(Reader):
    """The recurrent layer runs without gradients, as in a notebook copied from inference."""

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        with torch.no_grad():
            out, _ = self.rnn(x)
        return self.fc(out[:, -1])


class Hidden(nn.Module):
    """Layers in a plain list, which PyTorch does not see."""

    def __init__(self, I: int, K: int, H: int = 32, registered: bool = False):
        super().__init__()
        layers = [nn.LSTM(I, H, batch_first=True)]
        self.layers: Any = nn.ModuleList(layers) if registered else layers
        self.fc = nn.Linear(H, K)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return self.fc(x[:, -1])


# Healthy setups, on which faults are planted


def named(seed: int, **more: Any) -> Setup:
    """Names of languages."""
    x, y, lengths = names(seed)
    return Setup(NameClassifier(**more), cross_entropy, *halves(x, y, lengths), steps=120)


def sensed(seed: int, network: Any = Reader, T: int = 25, noise: float = 0.3, **more: Any) -> Setup:
    """Sensors, one class a sequence."""
    return Setup(
        network(**more), cross_entropy, *halves(*sensors(seed, T=T, noise=noise)), steps=150
    )


def forecast(seed: int, network: Any = ExplicitStart, **more: Any) -> Setup:
    """The next value of a series."""
    data = halves(*series(seed))
    return Setup(network(1, 1, **more), mse, *data, metric=squares, steps=120)


def added(seed: int, network: Any = Reader, T: int = 12, **more: Any) -> Setup:
    """The adding problem."""
    data = halves(*adding(seed, T=T))
    more = {"cell": nn.GRU, **more}
    return Setup(network(2, 1, **more), mse, *data, metric=squares, steps=350, batch=64)


def tagged(seed: int, both: bool = True, **more: Any) -> Setup:
    """Tags of words."""
    more = {"bidirectional": both, **more}
    return Setup(Words(**more), cross_entropy, *halves(*tags(seed, both=both)), steps=120)


def spelled(seed: int, network: Any = Words, T: int = 24, **more: Any) -> Setup:
    """A language model of letters."""
    x, y = chars(seed, T=T)
    V = int(max(x.max(), y.max())) + 1
    return Setup(network(V, V, **more), cross_entropy, *halves(x, y), steps=120, batch=16)


def echoed(seed: int, network: Any = EveryStep, delay: int = 3, T: int = 16, **more: Any) -> Setup:
    """An echo."""
    data = halves(*echo(seed, delay=delay, T=T))
    return Setup(network(5, 5, **more), cross_entropy, *data, steps=250)


def continued(seed: int, **more: Any) -> Setup:
    """Rounds of symbols."""
    return Setup(EveryStep(5, 5, **more), cross_entropy, *halves(*rounds(seed)), steps=250)


def reviewed(seed: int, **more: Any) -> Setup:
    """Sentiment of reviews."""
    return Setup(Sentiment(**more), bce, *halves(*reviews(seed)), steps=80, metric=wrong_sign)


def wrong_sign(scores: Tensor, y: Tensor) -> float:
    """Share of wrong signs by the rarer class."""
    share = y.mean()
    return float(((scores > 0) != (y > 0.5)).float().mean() / torch.min(share, 1 - share))


def played(seed: int, **more: Any) -> Setup:
    """Music."""
    setup = Setup(
        EveryStep(16, 16, **more), bce, *halves(*rolls(seed), held=80), metric=wrong_bits, steps=120
    )
    setup.outputs = lambda model, data: (model(data[0]).sigmoid(), data[1])
    return setup


def counted(seed: int, network: Any = Reader, **more: Any) -> Setup:
    """The number of events."""
    return Setup(network(1, 1, **more), mse, *halves(*counts(seed)), metric=squares, steps=150)


def started(seed: int, network: Any = Reader, T: int = 8, K: int = 4, **more: Any) -> Setup:
    """The first of random symbols, which only its place tells from the others."""
    x, _ = echo(seed, T=T, K=K)
    data = halves(x, x[:, 0].argmax(-1))
    return Setup(network(K, K, **more), cross_entropy, *data, steps=200)


def remembered(seed: int, network: Any = Reader, T: int = 20, **more: Any) -> Setup:
    """The first symbol."""
    return Setup(network(4, 4, **more), cross_entropy, *halves(*first_symbol(seed, T=T)), steps=200)


def translated(seed: int, **more: Any) -> Setup:
    """Reversed digits."""
    data = halves(*reversed_digits(seed))
    setup = Setup(Seq2Seq(**more), seq2seq_loss, *data, steps=250, batch=64)
    setup.outputs = lambda model, data: (model(data[0]), data[1])
    return setup


def one_of(seed: int, *setups: Callable[[int], Setup]) -> Setup:
    """A different setup for each seed."""
    return setups[seed % len(setups)](seed)


Make = Callable[[int, bool], Setup]
FAULTS: dict[str, Make] = {}


def fault(kind: str) -> Callable[[Make], Make]:
    """Register the function below it, ``(seed, mended) -> Setup``, for a kind of fault."""

    def register(make: Make) -> Make:
        FAULTS[kind] = make
        return make

    return register


def edit(setup: Setup, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Setup:
    """Change ``x, y`` of the training and the held-out data alike; honest data stay."""
    setup.honest = setup.honest or setup.held
    for part in ("train", "held"):
        x, y, lengths = getattr(setup, part)
        setattr(setup, part, (*change(x.clone(), y.clone()), lengths))
    return setup


# Learning rates


@fault("rate-too-low")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, named, partial(forecast, network=ExplicitStart))
    lows = [adam(1e-6), sgd(1e-4), adam(3e-6)]
    good = [adam(), adam(), adam()]
    s.optimizer = (good if mended else lows)[seed % 3]
    return s


@fault("rate-too-high")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, spelled, echoed)
    s.optimizer = adam() if mended else [adam(1.0), adam(3.0), sgd(60.0, momentum=0.9)][seed % 3]
    return s


@fault("rate-decayed")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, named, sensed, spelled)
    if not mended:  # a schedule of epochs, stepped each batch
        s.schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5)
    return s


# Scales and columns


@fault("inputs-not-scaled")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, partial(forecast, network=ExplicitStart), partial(sensed, cell=nn.GRU))
    if not mended:
        s = edit(s, lambda x, y: (x * 400 + [1000, 3000, 0][seed % 3], y))
        s.honest = s.held
    return s


@fault("inputs-offset")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, partial(forecast, network=ExplicitStart), partial(sensed, cell=nn.GRU))
    if not mended:  # kelvins, pressures, years
        s = edit(s, lambda x, y: (x + [300, 1013, 2020][seed % 3], y))
        s.honest = s.held
    return s


@fault("targets-not-scaled")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, forecast, counted, added)
    if not mended:  # prices, litres, pascals
        s = edit(s, lambda x, y: (x, y * 800 + [20_000, 5000, 90_000][seed % 3]))
        s.honest = s.held
    return s


@fault("constant-feature")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, partial(sensed, cell=nn.GRU), added)
    if not mended:  # a sensor that is stuck
        column = 1 if seed % 3 == 2 else 0

        def stuck(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x[..., column] = 0.7
            return x, y

        s = edit(s, stuck)
    return s


@fault("duplicate-feature")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, added, sensed, partial(sensed, cell=nn.GRU))
    if not mended:  # df[["a", "a"]]
        to, of = [(1, 0), (0, 1), (0, 2)][seed % 3]

        def copied(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x[..., to] = x[..., of]
            return x, y

        s = edit(s, copied)
    return s


@fault("input-outliers")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, forecast, partial(sensed, cell=nn.GRU))
    if not mended:
        random = torch.Generator().manual_seed(seed)

        def glitch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # then standardised, as ever
            x[torch.rand(x.shape, generator=random) < 0.003] = [1e5, 9999.0, -1e5][seed % 3]
            return (x - x.mean((0, 1))) / x.std((0, 1)), y

        s = edit(s, glitch)
        s.honest = s.held
    return s


@fault("target-outliers")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, forecast, counted, added)
    if not mended:
        random = torch.Generator().manual_seed(seed)

        def glitch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            y[torch.rand(y.shape, generator=random) < 0.02] = [1000.0, 999.0, -9999.0][seed % 3]
            return x, y

        s = edit(s, glitch)
    return s


@fault("class-imbalance")
def _(seed: int, mended: bool) -> Setup:
    x, y = sensors(seed, N=3000, K=2, noise=0.5)
    rare = [0, 1, 1][seed % 3]
    random = torch.Generator().manual_seed(seed)
    kept = (y != rare) | (torch.rand(len(y), generator=random) < 0.04)
    s = Setup(MeanReader(K=2), cross_entropy, *halves(x[kept], y[kept], held=500), steps=60)
    s.metric = wrong_by_class
    if mended:
        share = (y[kept] == rare).float().mean()
        weight = torch.ones(2)
        weight[rare] = (1 - share) / share

        def weighted(model: Any, x: Tensor, y: Tensor, lengths: Any) -> Tensor:
            return F.cross_entropy(model(x, lengths), y, weight=weight)

        s.loss, s.steps = weighted, 300
    return s


@fault("tag-imbalance")
def _(seed: int, mended: bool) -> Setup:
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 40, (500, 15), generator=random)
    before = x.roll(1, 1)
    before[:, 0] = 0
    y = ((x < 7) & (before < 7) & (before > 0)).long()  # one in forty
    s = Setup(Words(40, 2), cross_entropy, *halves(x, y), metric=wrong_by_class, steps=50)
    s.optimizer = adam(0.003)
    if mended:

        def weighted(model: Any, x: Tensor, y: Tensor, lengths: Any) -> Tensor:
            scores = model(x, lengths).flatten(0, 1)
            return F.cross_entropy(scores, y.flatten(), weight=torch.tensor([1.0, 40.0]))

        s.loss, s.steps, s.optimizer = weighted, 200, adam(0.01)
    return s


# What is not trained


@fault("frozen-recurrent")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, added, partial(echoed, cell=nn.GRU, delay=5), sensed)
    if not mended:
        for p in s.network.rnn.parameters():
            p.requires_grad = False
    return s


@fault("frozen-embedding")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, named, partial(tagged), spelled)
    if not mended:  # vectors of which none was found in the file
        V, E = s.network.embedding.weight.shape
        zeros = torch.zeros(V, E) + (0.0 if seed % 2 else 0.01)
        s.network.embedding = nn.Embedding.from_pretrained(zeros, freeze=True)
    return s


@fault("not-in-optimizer")
def _(seed: int, mended: bool) -> Setup:
    if seed % 3 == 2:
        s = added(seed)
        s.network = Hidden(2, 1, registered=mended)
        return s
    s = one_of(seed, added, partial(echoed, delay=5))
    if not mended and seed % 3 == 0:
        s.optimizer = lambda model: torch.optim.Adam(model.fc.parameters(), lr=0.01)
    elif not mended:  # the layer is replaced after the optimizer was made
        optimizer = torch.optim.Adam(s.network.parameters(), lr=0.01)
        s.network.rnn = copy.deepcopy(s.network.rnn)
        s.optimizer = lambda model: optimizer
    return s


@fault("detached-state")
def _(seed: int, mended: bool) -> Setup:
    cut = 0 if mended else 1
    if seed % 3 == 0:
        return echoed(seed, CellLoop, delay=4, cut=cut)
    if seed % 3 == 1:
        return echoed(seed, CellLoop, cell=nn.GRUCell, delay=4, cut=cut)
    return echoed(seed, Chunked, delay=4, chunk=1, cut=not mended)


@fault("detached-encoder")
def _(seed: int, mended: bool) -> Setup:
    if seed % 3 == 0:
        s = translated(seed, cut=not mended)
        s.steps = 100
        return s
    network = Reader if mended else NoGradReader
    return one_of(seed, partial(added, network=network), partial(added, network=network, T=16))


@fault("gradients-not-zeroed")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, named, spelled)
    s.zero = mended
    s.optimizer = [adam(0.02), sgd(0.5), sgd(1.0, momentum=0.9)][seed % 3]
    s.steps = 250 if seed % 3 else s.steps
    return s


# Padding, order of axes, labels


@fault("reads-padding")
def _(seed: int, mended: bool) -> Setup:
    network = NameClassifier if mended else LastOfPadded
    if seed % 3 == 2:
        x, y, lengths = reviews(seed, pad=60)
        s = Setup(network(60, 1, cell=nn.LSTM), bce, *halves(x, y, lengths), metric=wrong_sign)
    else:
        x, y, lengths = names(seed, pad=60)
        s = Setup(network(cell=[nn.LSTM, nn.GRU][seed % 3]), cross_entropy, *halves(x, y, lengths))
    s.steps = 120
    return s


@fault("padding-in-loss")
def _(seed: int, mended: bool) -> Setup:
    x, y = tags(seed)
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 13, (len(x),), generator=random)
    padded = torch.arange(60)[None] >= lengths[:, None]
    x = F.pad(x, (0, 48)).masked_fill(padded, 0)
    true = F.pad(y, (0, 48)).masked_fill(padded, -100)
    train, honest = halves(x, true, lengths)
    s = Setup(Words(bidirectional=seed % 2 == 0), cross_entropy, train, honest, steps=60)
    s.optimizer = [sgd(0.5), sgd(0.5), adam(0.003)][seed % 3]
    s.steps = [150, 150, 60][seed % 3]
    if not mended:
        s = edit(s, lambda x, y: (x, y.clamp(min=0)))
    return s


@fault("batch-and-time-swapped")
def _(seed: int, mended: bool) -> Setup:
    cell = [nn.LSTM, nn.GRU, nn.LSTM][seed % 3]
    if seed % 3 == 2:
        s = echoed(seed, cell=cell)
        s.network.rnn.batch_first = mended
        return s
    return one_of(
        seed,
        partial(sensed, cell=cell, batch_first=mended),
        partial(remembered, cell=cell, batch_first=mended),
    )


@fault("view-for-transpose")
def _(seed: int, mended: bool) -> Setup:
    network = TransposedReader if mended else ViewedReader
    return one_of(
        seed,
        partial(sensed, network=network, batch_first=False),
        partial(added, network=network, batch_first=False),
        partial(remembered, network=network, cell=nn.GRU, batch_first=False),
    )


@fault("labels-shuffled")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, named, sensed, forecast)
    if not mended:
        random = torch.Generator().manual_seed(seed)
        s = edit(s, lambda x, y: (x, y[torch.randperm(len(y), generator=random)]))
    s.steps = 200
    return s


@fault("labels-shifted")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, named, tagged)
    if not mended:  # joined by the row before
        s = edit(s, lambda x, y: (x, y.roll(1, 0)))
    return s


# Outputs


@fault("softmax-before-cross-entropy")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, spelled, partial(spelled, num_layers=2), partial(spelled, cell=nn.GRU))
    s.optimizer = adam(0.005)
    s.steps = 120

    def nats(p: Tensor, y: Tensor) -> float:
        share = y.flatten().bincount().float() / y.numel()
        constant = -(share * share.clamp(min=1e-9).log()).sum()
        return float(F.nll_loss(p.clamp(min=1e-6).log().flatten(0, -2), y.flatten()) / constant)

    if mended:
        s.outputs = lambda model, data: (model(data[0]).softmax(-1), data[1])
    else:
        s.network = Probabilities(s.network, nn.Softmax(-1))
    s.metric = nats
    return s


@fault("sigmoid-before-bce")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, played, partial(played, cell=nn.GRU), partial(played, num_layers=2))
    if not mended:
        s.network, s.outputs = Probabilities(s.network, nn.Sigmoid()), None
    return s


@fault("state-leaks")
def _(seed: int, mended: bool) -> Setup:
    cell = [nn.GRU, nn.LSTM, nn.GRU][seed % 3]
    s = one_of(
        seed,
        partial(started, network=Leaking, cell=cell, leak=not mended),
        partial(started, network=Leaking, cell=cell, leak=not mended),
        partial(started, network=Leaking, cell=cell, leak=not mended, T=6, K=6),
    )

    def in_use(model: Any, data: Split) -> tuple[Tensor, Tensor]:  # batch after batch
        x, y, _ = data
        return torch.cat([model(part) for part in x[:128].split(32)]), y[:128]

    s.outputs = in_use
    return s


@fault("state-not-carried")
def _(seed: int, mended: bool) -> Setup:
    cells = CellLoop if mended else NeverCarried
    return one_of(
        seed,
        partial(echoed, network=cells),
        partial(added, network=cells, cell=nn.GRUCell, last=True),
        partial(echoed, network=OneStepCalls, carry=mended),
    )


# What binds


@fault("weight-decay")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, named, spelled)
    decay = 0.0 if mended else [0.5, 0.3, 15.0][seed % 3]
    s.optimizer = adam(weight_decay=decay)
    if seed % 3 == 2:
        s.optimizer = lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, weight_decay=decay)
    return s


@fault("dropout")
def _(seed: int, mended: bool) -> Setup:
    p = 0.1 if mended else 0.95
    return one_of(
        seed,
        partial(spelled, dropout=p),
        partial(sensed, dropout=0.1 if mended else 0.98),
        partial(tagged, dropout=p),
    )


@fault("zoneout")
def _(seed: int, mended: bool) -> Setup:
    p = 0.05 if mended else 0.98
    return one_of(
        seed,
        partial(sensed, network=lambda: Zoneout(3, 4, p)),
        partial(remembered, T=10, network=Zoneout, p=p),
        partial(sensed, T=15, network=lambda: Zoneout(3, 4, p)),
    )


@fault("clipping")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, named, sensed, spelled)
    s.optimizer = sgd(0.5, momentum=0.9)
    s.clip = 1.0
    if not mended and seed % 3 == 1:
        s.clip_value = 1e-5
    elif not mended:
        s.clip = 1e-4
    return s


# Too good, too small, too large


@fault("leaky-feature")
def _(seed: int, mended: bool) -> Setup:
    random = torch.Generator().manual_seed(seed)
    if seed % 3 == 1:  # the value to forecast, joined as a column
        s = forecast(seed)
        s.network = ExplicitStart(2, 1)
        s.honest = s.held

        def leak(x: Tensor, y: Tensor, true: bool = True) -> tuple[Tensor, Tensor]:
            column = y if true else y[torch.randperm(len(y), generator=random)]
            return torch.cat([x, column[:, None].expand(-1, x.shape[1], 1)], -1), y
    else:
        s = sensed(seed, noise=1.0)
        s.network = Reader(4, cell=[nn.LSTM, nn.LSTM, nn.GRU][seed % 3])
        s.honest = s.held

        def leak(x: Tensor, y: Tensor, true: bool = True) -> tuple[Tensor, Tensor]:
            column = y if true else y[torch.randperm(len(y), generator=random)]
            return torch.cat([x, column[:, None, None].expand(-1, x.shape[1], 1) / 2.0], -1), y

    x, y, _ = s.honest  # where the column is not known
    s.honest = (*leak(x, y, False), None)
    return edit(s, partial(leak, true=not mended))


@fault("target-in-input")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, spelled, partial(spelled, cell=nn.GRU), played)
    if not mended:  # the shift by one was forgotten
        s = edit(s, lambda x, y: (x, x))
    return s


@fault("bidirectional-future")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(
        seed,
        partial(continued, bidirectional=not mended),
        partial(continued, bidirectional=not mended, cell=nn.GRU),
        partial(played, bidirectional=not mended),
    )
    whole = s.loss

    def within(model: Any, x: Tensor, y: Tensor, lengths: Any = None) -> Tensor:
        return whole(lambda x, _: model(x)[:, :-1], x, y[:, :-1], None)  # nothing follows the last

    s.loss = within

    def in_use(model: Any, data: Split) -> tuple[Tensor, Tensor]:  # only the past is known
        x, y, _ = data
        ends = range(8, x.shape[1], 5)
        outputs = torch.stack([model(x[:, :t])[:, -1] for t in ends], 1)
        return outputs.sigmoid() if seed % 3 == 2 else outputs, y[:, [t - 1 for t in ends]]

    s.outputs = in_use
    return s


@fault("too-small")
def _(seed: int, mended: bool) -> Setup:
    H = 32 if mended else 1
    return one_of(seed, partial(spelled, H=H), partial(tagged, H=H), partial(echoed, H=H))


@fault("overfitting")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(
        seed, partial(named, H=96), partial(sensed, H=96, cell=nn.GRU), partial(spelled, H=96)
    )
    if not mended:
        s.train = tuple(None if part is None else part[:20] for part in s.train)  # type: ignore[assignment]
        if seed % 3 == 1:
            x, y = sensors(seed, noise=0.8)
            s.train, s.held = (x[:24], y[:24], None), (x[-150:], y[-150:], None)
        if seed % 3 == 2:
            s.train = (s.train[0][:6], s.train[1][:6], None)
    s.steps, s.batch = 150, 20
    return s


@fault("teacher-forcing")
def _(seed: int, mended: bool) -> Setup:
    x, y = regimes(seed, T=[20, 20, 30][seed % 3])

    def loss(model: Any, x: Tensor, y: Tensor, lengths: Any = None) -> Tensor:
        scores = model(x, y if model.training and not mended else None)
        return F.cross_entropy(scores.flatten(0, 1), y.flatten())

    network = ReadsItself(cell=[nn.GRUCell, nn.LSTMCell, nn.GRUCell][seed % 3])
    return Setup(network, loss, *halves(x, y), steps=120)


@fault("truncation")
def _(seed: int, mended: bool) -> Setup:
    if seed % 3 == 0:
        return echoed(
            seed, Chunked, delay=8, chunk=24 if mended else 4, cut=True, T=24, cell=nn.GRU
        )
    if seed % 3 == 1:
        cut = 0 if mended else 3
        return echoed(seed, CellLoop, cell=nn.GRUCell, delay=6, T=18, cut=cut)
    # Windows shorter than the dependency, which the user knows.
    s = echoed(seed, cell=nn.GRU, delay=8, T=24)
    s.distance = 8
    if not mended:

        def windows(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x.unfold(1, 6, 6).transpose(2, 3).flatten(0, 1), y.unfold(1, 6, 6).flatten(0, 1)

        s = edit(s, windows)
        s.honest = s.held
        known = (s.held[1] >= 0).any(1)
        s.honest = (s.held[0][known], s.held[1][known], None)
        s.held = s.honest
        known = (s.train[1] >= 0).any(1)
        s.train = (s.train[0][known], s.train[1][known], None)
    return s


# What is not a number


def spoiled(s: Setup, value: float, target: bool = False) -> Setup:
    """Put a value into a few places."""

    def spoil(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if target:
            y[3::40] = value
        else:
            x[3::40, 4, 0] = value
        return x, y

    s.steps = 30
    return edit(s, spoil)


@fault("nan-inputs")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, forecast, partial(sensed, cell=nn.GRU))
    return s if mended else spoiled(s, math.nan)


@fault("inf-inputs")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, forecast, sensed, added)
    return s if mended else spoiled(s, [-math.inf, math.inf, -math.inf][seed % 3])


@fault("nan-targets")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, forecast, counted, added)
    return s if mended else spoiled(s, math.nan, target=True)


# Gradients over time and layers, gates and units


@fault("exploding")
def _(seed: int, mended: bool) -> Setup:
    relu = {"nonlinearity": "relu"} if seed % 3 == 2 else {}
    s = one_of(
        seed,
        partial(sensed, network=MeanReader, cell=nn.RNN, T=40, **relu),
        partial(remembered, cell=nn.RNN, T=15, **relu),
        partial(sensed, network=MeanReader, cell=nn.RNN, T=40, **relu),
    )
    s.optimizer = adam(0.003)
    s.steps = 300
    if not mended:
        with torch.no_grad():
            s.network.rnn.weight_hh_l0.normal_(0, [0.6, 1.0, 0.4][seed % 3])  # H is 32
    if seed % 3 == 1 and mended:
        nn.init.orthogonal_(s.network.rnn.weight_hh_l0)
    return s


@fault("vanishing")
def _(seed: int, mended: bool) -> Setup:
    network = AttentiveReader if mended else Reader
    s = one_of(
        seed,
        partial(remembered, network=network, cell=nn.RNN, T=60),
        partial(remembered, network=network, cell=nn.RNN, T=150),
        partial(remembered, network=network, cell=nn.RNN, T=100, num_layers=2),
    )
    s.steps = 150
    s.distance = 100 if seed % 3 == 2 else None
    return s


@fault("deep-stack")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(
        seed,
        partial(tagged, num_layers=1 if mended else 8),
        partial(sensed, num_layers=1 if mended else 10),
        partial(echoed, num_layers=1 if mended else 12, cell=nn.GRU if seed % 2 else nn.LSTM),
    )
    s.steps = s.steps if mended else 100
    s.optimizer = adam(0.01 if mended else 0.003)
    return s


@fault("saturated-gates")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, partial(remembered, T=12, cell=nn.GRU), echoed, counted)
    if not mended:  # large biases with the wrong sign; gates in the orders r z n and i f g o
        with torch.no_grad():
            b = s.network.rnn.bias_ih_l0
            gate = [b[32:64], b[:32], b[96:]][seed % 3]  # update, input, output
            gate.fill_([25.0, -12.0, -12.0][seed % 3])
    return s


@fault("dead-units")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(
        seed,
        partial(sensed, network=MeanReader, cell=nn.RNN, nonlinearity="relu"),
        partial(echoed, cell=nn.RNN, nonlinearity="relu", delay=1),
        partial(forecast, cell=nn.RNN, nonlinearity="relu"),
    )
    s.optimizer = adam(0.003)
    s.steps = 300
    if not mended:
        with torch.no_grad():
            s.network.rnn.bias_ih_l0.fill_([-8.0, -5.0, -10.0][seed % 3])
    return s


@fault("constant-init")
def _(seed: int, mended: bool) -> Setup:
    s = one_of(seed, sensed, partial(spelled, H=24), partial(echoed, cell=nn.GRU))
    if not mended:
        for name, p in s.network.named_parameters():
            if "embedding" not in name:
                nn.init.constant_(p, 0.05)
    return s


# Healthy networks


def _with(make: Callable[..., Setup], seed: int, how: dict[str, Any], **more: Any) -> Setup:
    setup = make(seed, **more)
    for name, value in how.items():
        setattr(setup, name, value)
    return setup


def healthy(make: Callable[..., Setup], how: dict[str, Any] | None = None, **more: Any) -> Any:
    """A setup with other settings of the loop, and of the network."""
    return partial(_with, make, how=how or {}, **more)


def packed_tags(seed: int) -> Setup:
    """Tags of padded sentences, packed, without loss on padding."""
    x, y = tags(seed)
    lengths = torch.randint(3, 13, (len(x),), generator=torch.Generator().manual_seed(seed))
    padded = torch.arange(12)[None] >= lengths[:, None]
    data = halves(x.masked_fill(padded, 0), y.masked_fill(padded, -100), lengths)
    return Setup(PackedTagger(bidirectional=True), cross_entropy, *data, steps=120)


def horizon(seed: int) -> Setup:
    """Encoder and decoder of a series."""
    data = halves(*series(seed, N=500, T=16, ahead=12, noise=0.3))
    return Setup(Horizon(), mse, *data, metric=squares, steps=250)


def sum_at_every_step(seed: int) -> Setup:
    """The running mean of events."""
    x, _ = counts(seed)
    y = x.cumsum(1) / x.shape[1]
    return Setup(EveryStep(1, 1, cell=nn.GRU), mse, *halves(x, y), metric=squares, steps=120)


def brackets(seed: int) -> Setup:
    """Whether the last of two kinds of bracket is open: a small language."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(4, (500, 14), generator=random)
    y = torch.zeros_like(x)
    state = torch.zeros(500, dtype=torch.long)
    for t in range(14):
        state = torch.where(x[:, t] < 2, x[:, t] + 1, torch.where(x[:, t] == 2, 0, state))
        y[:, t] = state
    return Setup(Words(4, 3), cross_entropy, *halves(x, y), steps=120)


HEALTHY: dict[str, Callable[[int], Setup]] = {
    "names, packed GRU": healthy(named),
    "names, packed LSTM": healthy(named, cell=nn.LSTM),
    "names, tanh, SGD": healthy(named, {"optimizer": sgd(0.05, momentum=0.9), "steps": 400},
                                cell=nn.RNN),
    "names, two layers": healthy(named, num_layers=2),
    "sensors, LSTM": healthy(sensed),
    "sensors, GRU, clipped": healthy(sensed, {"clip": 1.0}, cell=nn.GRU),
    "sensors, mean pooling": healthy(sensed, network=MeanReader),
    "sensors, attention": healthy(sensed, network=AttentiveReader),
    "sensors, bidirectional": healthy(sensed, network=MeanReader, bidirectional=True),
    "sensors, two layers, dropout": healthy(sensed, {"steps": 200}, num_layers=2, dropout=0.3),
    "sensors, layer norm": healthy(sensed, network=NormedReader),
    "sensors, convolution": healthy(sensed, network=ConvReader),
    "sensors, tanh": healthy(sensed, {"optimizer": adam(0.003), "steps": 200},
                             network=MeanReader, cell=nn.RNN),
    "sensors, weight decay": healthy(sensed, {"optimizer": adam(0.01, weight_decay=1e-4)}),
    "series, LSTM": healthy(forecast),
    "series, GRU, small rate": healthy(forecast, {"optimizer": adam(0.003), "steps": 300},
                                       cell=nn.GRU),
    "series, encoder and decoder": horizon,
    "series, tanh": healthy(forecast, {"optimizer": adam(0.003)}, cell=nn.RNN),
    "adding, GRU": healthy(added),
    "adding, LSTM": healthy(added, {"steps": 500}, cell=nn.LSTM),
    "adding, GRUCell loop": healthy(added, network=CellLoop, cell=nn.GRUCell, last=True),
    "tagging, bidirectional": healthy(tagged),
    "tagging, packed": packed_tags,
    "tagging, GRU of the past": healthy(tagged, both=False, cell=nn.GRU),
    "tagging, dropout": healthy(tagged, {"steps": 200}, dropout=0.2),
    "letters, LSTM": healthy(spelled),
    "letters, GRU, cosine": healthy(
        spelled, {"schedule": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 120)},
        cell=nn.GRU),
    "letters, two layers": healthy(spelled, {"steps": 200}, num_layers=2, dropout=0.1),
    "letters, tanh, clipped": healthy(spelled, {"clip": 5.0, "steps": 200}, cell=nn.RNN),
    "letters, SGD": healthy(spelled, {"optimizer": sgd(1.0, momentum=0.9), "steps": 300}),
    "echo, LSTM": healthy(echoed),
    "echo, LSTMCell loop": healthy(echoed, network=CellLoop),
    "echo, chunks": healthy(echoed, network=Chunked),
    "echo, a step a call": healthy(echoed, network=OneStepCalls),
    "first symbol, GRU": healthy(remembered, {"steps": 250}, cell=nn.GRU, T=12),
    "reviews, bidirectional": healthy(reviewed),
    "reviews, two layers": healthy(reviewed, layers=2),
    "reversed digits, attention": healthy(translated),
    "music, LSTM": healthy(played),
    "music, GRU": healthy(played, cell=nn.GRU),
    "counting, LSTM": healthy(counted),
    "counting at every step": sum_at_every_step,
    "brackets": brackets,
}  # fmt: skip
