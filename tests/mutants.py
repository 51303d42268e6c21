"""Faults planted in the package one at a time, and whether its laws notice.

``python tests/mutants.py [word ...]`` runs the laws against each fault whose description holds one
of the words, prints what became of it, and fails if a fault lives or if a law that notices one does
not hold for the sound package. ``--sample`` takes every sixtieth fault.
One process imports PyTorch; a child forked from it serves the faulty source in place of its module.
"""

import difflib
import gc
import importlib.abc
import importlib.util
import os
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tolerances import HANGS

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src"
FOLDERS = [
    "", "recurrence", "recurrence/cells", "recurrence/backends", "networks", "training", "tasks",
    "tasks/forecasting", "deploy", "tuning",
]  # fmt: skip
LAWS = [
    "cells", "scan", "diagonal", "kernels", "checkpoint_every", "layers", "functional", "outputs",
    "network_inputs", "arrangements", "attention", "seq2seq", "image", "decoding", "ctc",
    "distributions", "forecast_network", "windows", "grid", "forecast", "predictor",
    "targets", "sequences", "evaluation", "linear", "convert", "c_export", "minirocket", "theta",
    "tuning", "generated", "distributed", "alignment", "transcripts", "speech_network",
    "attention_faults", "vocoding", "lattice", "transducer", "prepared", "forecast_chunks", "fused",
    "convolution", "augmentation",
]  # fmt: skip
OWN_LAWS = {  # where they are not those of the module's name alone
    "standard": ["cells"],
    "variants": ["cells", "scan"],
    "cells/diagonal": ["cells", "diagonal"],
    "matrix": ["cells", "scan"],
    "recurrence/diagonal": ["scan", "diagonal"],
    "backends/diagonal": ["diagonal", "fused"],
    "tapes": ["fused"],
    "selection": ["diagonal"],
    "cells/base": ["cells", "layers"],
    "programs/interpreter": ["generated"],
    "programs/kernels": ["generated"],
    "programs/tracing": ["generated"],
    "programs/writer": ["generated"],
    "compiler": ["generated"],
    "initialization": ["cells"],
    "scan": ["scan", "kernels", "checkpoint_every"],
    "dispatch": ["kernels"],
    "compiled": ["kernels", "checkpoint_every"],
    "torch": ["kernels"],
    "dropin": ["layers"],
    "outputs": ["outputs", "arrangements"],
    "inputs": ["network_inputs"],
    "attention": ["attention", "seq2seq"],
    "loop": ["evaluation"],
    "gradients": ["distributed"],
    "network": ["forecast_network"],
    "keras": ["convert"],
    "onnx_layers": ["convert"],
    "weights": ["convert"],
    "space": ["tuning"],
    "data/shards": ["prepared"],
    "forecasting/chunks": ["forecast_chunks"],
    "forecasting/stored": ["forecast_chunks"],
    "forecasting/panel": ["forecast_chunks"],
    "forecasting/reading": ["forecast_chunks"],
    "data/batches": ["prepared"],
    "data/augmentation": ["augmentation"],
    "study": ["tuning"],
    "speech": ["speech_network"],
    "vocoder": ["vocoding"],
    **{
        f"c_{name}": ["c_export"]
        for name in ("runtime", "source", "layers", "graph", "parts", "forecast")
    },
}
AT_ONCE = 2

# The module, perhaps a class in it, what is wrong, the piece of its source and what stands there
# instead.
FAULTS = """
standard LSTMCell: LSTM: i and f swapped
- i, f, g, o = (x_t
+ f, i, g, o = (x_t

standard LSTMCell: LSTM: g and o swapped
- i, f, g, o = (x_t
+ i, f, o, g = (x_t

standard LSTMCell: LSTM: candidate without tanh
- g.tanh(), o.sigmoid()
+ g, o.sigmoid()

standard: LSTM: h without tanh
- h = o * c.tanh()
+ h = o * c

standard LSTMCell: LSTM: h is the cell
- if self.proj_size else h, c)
+ if self.proj_size else c, c)

standard LSTMCell: LSTM: c is cut off
- cast(LSTMState, state).c
+ state.c.detach()

standard LSTMCell: LSTM: projection dropped
- linear(h, w["weight_hr"])
+ h[..., : self.proj_size]

cells/base: LSTM: forget gate starts shut
- [self.forget_gate].fill_(1.0)
+ [self.forget_gate].fill_(0.0)

standard LSTMCell: LSTM: the input gate starts open
-     forget_gate = 1
+     forget_gate = 0

standard: RNN: h is cut off
- f(x_t + linear(state.h,
+ f(x_t + linear(state.h.detach(),

standard: GRU: reset before for after
- if self.reset_after:
+ if not self.reset_after:

standard: GRU: z and 1 - z swapped
- (1 - z) * n + z * state.h
+ z * n + (1 - z) * state.h

standard: GRU: r and z swapped
- r, z = (x_rz
+ z, r = (x_rz

standard: GRU: bias_hh dropped
- self.hidden_size, w.get("bias_hh")
+ self.hidden_size, None

standard: GRU: h is cut off in n
- x_n + r * linear(h,
+ x_n + r * linear(h.detach(),

standard: GRU: no reset before the product
- linear(r * h, w_n, b_n)
+ linear(h, w_n, b_n)

standard GatedCell: bias_ih dropped
- w["weight_ih"], w.get("bias_ih"))
+ w["weight_ih"])

initialization: orthogonal as a whole, not gate by gate
- in torch.split(weight, rows):
+ in [weight]:

variants: peephole: the output gate sees the cell before
- + p_o * (f * c + i * g)).sigmoid())
+ + p_o * c).sigmoid())

variants: peephole: one for both gates
- i, f, g = (i + p_i * c).sigmoid(), (f + p_f * c)
+ i, f, g = (i + p_i * c).sigmoid(), (f + p_i * c)

variants: coupled: the core's input gate is the forget gate
- torch.cat([-t[:H], t]) for n
+ torch.cat([t[:H], t]) for n

variants: MGU: the core keeps where it should let in
- torch.cat([t[:H], -t[:H], t[H:]]) for
+ torch.cat([t[:H], t[:H], t[H:]]) for

variants: layer norm: the cell is not normalised
- h = o * _normalized(c, w["gain_c"], w.get("bias_c")).tanh()
+ h = o * c.tanh()

variants: layer norm: one mean for gates and candidate of the GRU
- return torch.cat([first, second], dim=-1)
+ return _normalized(a, gain, bias)

variants: light GRU: candidates may be negative
- return LiGRUGates(z.sigmoid(), n.relu())
+ return LiGRUGates(z.sigmoid(), n)

variants GRUDCell: a missing value stays what it was
- (-of_x.relu()).exp() * last)
+ last)

variants GRUDCell: a state does not fade
- return (-of_h.relu()).exp() * h, x, known
+ return h, x, known

variants GRUDCell: the age of a value counts the steps of the sequence
- (1 - known) * (age + 1)
+ age + 1

variants GRUDCell: gates do not see what is known
- torch.cat([x, known], dim=-1)
+ torch.cat([x, 0 * known], dim=-1)

variants SLSTMCell: a head reads another one
- h.chunk(self.heads, -1)
+ h.chunk(self.heads, -1)[::-1]

variants SLSTMCell: the scale is that of the input alone
- m = torch.maximum(kept, i)
+ m = i

variants SLSTMCell: nothing before counts as something
- torch.where(n > 0, m, -1e30)
+ m

variants SLSTMCell: all units forget alike
- 5 - 12 * torch.linspace(0, 1, d) ** 0.3
+ 5 - 0 * torch.linspace(0, 1, d) ** 0.3

initialization: layer norm: gains start anywhere
- weight.fill_(1.0)
+ weight.mul_(1.0)

variants: higher order: the oldest state is kept, the newest dropped
- before[..., : self.state_sizes[1]])
+ before[..., self.hidden_size :])

variants: Jordan: hidden units never fed back
- a = a + linear(cast(JordanState, state).s, w["weight_hh"])
+ pass

cells/diagonal: minimal LSTM: gates not divided by their sum
- MinLSTMGates(forget / (forget + i), i / (forget + i), n)
+ MinLSTMGates(forget, i, n)

cells/diagonal: minimal GRU: keeps what it lets in
- return Steps(f.sigmoid(-z), gates.z * n, gates)
+ return Steps(gates.z, gates.z * n, gates)

cells/diagonal: the oldest step of a window stays
- c, [*past, x_t][1:])
+ c, [*past, x_t][:-1])

cells/diagonal: a complex product without the product of the imaginary parts
- torch.cat([p * r - q * s, p * s + q * r], dim=-1)
+ torch.cat([p * r, p * s + q * r], dim=-1)

cells/diagonal: QRNN: the candidate is not let in by 1 - f
- f.sigmoid(-forget) * gates.n, gates)
+ gates.n, gates)

cells/diagonal: SRU: the highway passes the candidate
- gates, (s,))
+ gates, (n,))

cells/diagonal: RG-LRU: the input keeps its size whatever a is
- return Steps(a, f.sqrt(square.clamp_min(1e-12)) * (gates.i * n), gates)
+ return Steps(a, gates.i * n, gates)

cells/diagonal: RG-LRU: the decay starts as its eighth power
- .pow_(1 / 8).logit_()
+ .logit_()

cells/diagonal: LRU: the start is uniform in the radius, not over the ring
- .uniform_(self.r_min**2, self.r_max**2)
+ .uniform_(self.r_min, self.r_max).square_()

cells/diagonal: LRU: the input has any variance
- w["gamma"].copy_(0.5 * (1 - square).log())
+ w["gamma"].copy_((1 - square).log())

cells/diagonal: selective: D is not learned
- B, C, w["D"], None, (z,))
+ B, C, w["D"] * 0 + 1, None, (z,))

cells/diagonal: selective: steps start at one size
- .uniform_(math.log(0.001), math.log(0.1)).exp_()
+ .uniform_(math.log(0.01), math.log(0.011)).exp_()

matrix: mLSTM: a step reads what comes after it
- .triu(1)
+ .triu(2)

matrix: mLSTM: the state of a chunk is lost
- found = scores @ v + before[..., None] * (q @ c.transpose(-1, -2))
+ found = scores @ v

matrix: mLSTM: keys and values change places
- c = before[..., -1, None, None] * c + (last * v).transpose(-1, -2) @ k
+ c = before[..., -1, None, None] * c + (last * k).transpose(-1, -2) @ v

matrix: mLSTM: padding is remembered
- i, f = i.masked_fill(~now, -math.inf), f.masked_fill(~now, 0.0)
+ pass

recurrence/diagonal: a shared factor has the gradient of the first step
- else da.sum((0, 1))), d, dh0
+ else da[0].sum(0)), d, dh0

recurrence/diagonal: a reset lets the gradient of the second order through
- before = before.masked_fill(resets[..., None], 0.0)
+ pass

recurrence/diagonal: the state of a short row is that of the padding
- h[(lengths - 1).clamp_min(0), rows], state.h)
+ h[-1], state.h)

recurrence/diagonal: the past of a short row is that of the padding
- else whole[k + ends, rows] for k
+ else whole[k + T] for k

recurrence/diagonal: states of the trace hold the window before
- each = [whole[k : k + T] for k in range(1, len(past) + 1)]
+ each = [whole[k : k + T] for k in range(len(past))]

recurrence/diagonal: the numbers of a row that has ended change
- a = torch.where(running, a, _one(a, is_complex))
+ a = torch.where(running, a, 0.0)

backends/diagonal: gates of the backward direction stay reversed
- found = Trace(gates, cell.state_type(*map(back, found.states)))
+ pass

backends/diagonal: lengths are ignored in backward
- ctx.options = options
+ ctx.options = options._replace(lengths=None)

backends/diagonal: the gradient of a shared factor is the first row's
- else da.sum(0)), db, dh0
+ else da[0]), db, dh0

backends/diagonal: a product's gradient by the wrong matrix
- dx = dy @ weight if by_formula(dy) else _multiply(dy, weight.t(), None)
+ dx = dy @ weight if by_formula(dy) else _multiply(dy, weight, None)

backends/diagonal: the bias has the gradient of one row
- return dx, dw, dy.sum(0) if needs_bias else None
+ return dx, dw, dy[0] if needs_bias else None

backends/diagonal: the slope of softplus is that of a sigmoid
- y, s, s * (1 + y * (1 - s)), 0.5 / y)[number]
+ y, y * (1 - y), s * (1 + y * (1 - s)), 0.5 / y)[number]

backends/diagonal: h of the last step does not take part in the gradient
- found = _gradients_operator(a, h0, h, dh, dh_n, *ctx.options)
+ found = _gradients_operator(a, h0, h, dh, None, *ctx.options)

selection: the gradient of A is that of one row
- dA.sum(0).view
+ dA[0].view

selection: B and C have the gradient of the first tile of features
- t[0] if tiles == 1 else t.sum(0)
+ t[0]

selection: lengths are ignored in second derivatives
- y = plain_selection(d, v, A, B, C, D, c0, *ctx.rest)
+ y = plain_selection(d, v, A, B, C, D, c0)

cells/diagonal S5Cell: the input is not scaled by the time step
- (p - 1) * re + q * im
+ p * re + q * im

cells/diagonal S5Cell: of a pair of states one counts
- return _gated(2 * f.linear
+ return _gated(f.linear

cells/diagonal SelectiveCell: A is not negative
- -w["A"].exp().t()
+ w["A"].exp().t()

variants: zoneout: keeps the new
- mixed.append(m * s + (1 - m) * n)
+ mixed.append((1 - m) * s + m * n)

cells/base: chrono: gates that let in begin open
- .copy_(sign * times)
+ .copy_(times)

recurrence/diagonal: a linear recurrence's gradient takes this step's factor
- later = torch.cat([conjugate(a[1:], ctx.is_complex), torch.zeros_like(a[:1])])
+ later = torch.cat([torch.zeros_like(a[:1]), conjugate(a[1:], ctx.is_complex)])

recurrence/diagonal: a linear recurrence forgets the state before
- before = torch.cat([h0[None], y[:-1]])
+ before = y

recurrence/diagonal: the parallel scan stops a round too early
- while reach < len(a):
+ while 2 * reach < len(a):

layers: residual from the first layer on is lost
- x = y + x if self.residual and layer > 0 else y
+ x = y

scan: state not carried
- state = new
+ pass

scan: state cut off after every step
- state = new
+ state = cell.state_type(*(s.detach() for s in new))

scan: initial state ignored
- if state is None else state
+ if True else state

scan: direction ignored
- x = reverse_rows(x, lengths)
+ pass

scan: reverse ignores lengths
- x = reverse_rows(x, lengths)
+ x = x.flip(0)

scan: outputs stay reversed
- (reverse_rows(y, lengths) if reverse else y), state
+ y, state

scan: reversed rows off by one
- lengths - 1 - t, t)
+ (lengths - t).clamp(max=len(x) - 1), t)

recurrence/diagonal: mask off by one
- [:, None] < lengths)[
+ [:, None] <= lengths)[

scan: padding not cleared from x
- x = x.masked_fill(~running, 0.0)
+ pass

scan: padding not cleared from y
- y = torch.where(running, y, 0.0)
+ pass

scan: state runs on through padding
- torch.where(running[t], n, s)
+ n

torch: h and c swapped on the fused path
- (state.h, state.c), flat
+ (state.c, state.h), flat

scan: both directions forward in the reference
- scan(cell, w, x, state, lengths, reverse=reverse)
+ scan(cell, w, x, state, lengths)

scan: directions change places in the reference
- else torch.cat(outputs, dim=-1), joined
+ else torch.cat(outputs[::-1], dim=-1), joined

torch: relu for tanh
- if cell.activation == "tanh"
+ if cell.activation == "relu"

dispatch: padding sent to the fused path
- steps > 0 and not padded and
+ steps > 0 and

torch: reset before sent to the fused path
- return cell.reset_after
+ return True

torch: derived cells taken for their parent
- return type(cell) is LSTMCell
+ return isinstance(cell, LSTMCell)

compiled: derived cells sent to the core
- if type(cell.standard_cell()) not in STANDARD:
+ if not isinstance(cell, STANDARD):

compiled: every RNN of the core is one of tanh
- 0, list(ACTIVATIONS).index(cell.activation)
+ 0, 0

compiled: the GRUs of the core change places
- kind = 2 if cast(
+ kind = 2 if not cast(

compiled: autocast is not rounded
- lower = torch.get_autocast_dtype("cpu")
+ lower = torch.float32

compiled: a changed output is differentiated
- if ctx.used_up or ctx.version_of_y._version:
+ if ctx.used_up:

compiled: transforms reach the core
- return torch._C._are_functorch_transforms_active() or
+ return

compiled: dual numbers reach the core
- or forward_ad._current_level >= 0
+ or False

compiled: the workspace is used twice
- if ctx.used_up or
+ if

compiled: gradients of gradients are constants
- if torch.is_grad_enabled() or is_transformed() or
+ if is_transformed() or

compiled: batched gradients reach the core
- or any(map(is_batched, gradients)):
+ or False:

compiled: gradients of h0 and c0 swapped
- return [dx, *found]
+ return [dx, found[1], found[0], *found[2:]]

compiled: the state before is lost in graphs
- all_needs = [needs[0], *(i >= 0 and needs[1 + i] for i in places)]
+ all_needs = [needs[0], False, *(i >= 0 and needs[1 + i] for i in places[1:])]

compiled: shapes of one direction in graphs
- kept: Tensor | None = x.new_empty(D, T, B, workspace_size)
+ kept: Tensor | None = x.new_empty(1, T, B, workspace_size)

compiled: the operator uses up what it was lent
- kept.clone() if not checkpoint_every else kept
+ kept

compiled: gradient of c lost in graphs
- dc if ctx.cell[0][0] == 1 else None, needs
+ None, needs

layers: second direction has the weights of the first
- weights = [self.weights_of(layer * D + direction) for
+ weights = [self.weights_of(layer * D) for

layers: states of layers change places
- states[layer],
+ states[-1 - layer],

scan: segments of the backward direction read forward
- steps = reverse_rows(x, lengths) if i == 1 else x
+ steps = x

scan: every segment has the lengths of the first
- lengths - t * checkpoint_every
+ lengths

scan: every segment starts from the first state
- [w], part, last, left, use
+ [w], part, None, left, use

compiled: one checkpoint too many
- return x.new_empty(D, max(T - 1, 0) // checkpoint_every, B, shape[3]) if shape[0] == 1 else None
+ return x.new_empty(D, max(T, 0) // checkpoint_every, B, shape[3]) if shape[0] == 1 else None

layers: lengths ignored
- states[layer], lengths, tokens,
+ states[layer], None, tokens,

layers: graphs ask for the values of lengths
- if B and not torch.compiler.is_compiling():
+ if B:

layers: lengths of other integers reach the core
- return lengths.to(x.device, torch.int64)
+ return lengths.to(x.device)

layers: lengths unchecked
- if low < 0 or high > T:
+ if low < 0:

layers: packed rows out of order
- else 1, order)
+ else 1, order.sort().values)

layers: variational mask redrawn each step
- ones_like(x[:1])
+ ones_like(x)

layers: variational mask shared by rows
- ones_like(x[:1])
+ ones_like(x[:1, :1])

layers: dropout in evaluation
- if layer > 0 and self.training:
+ if layer > 0:

layers: dropout of the input
- if layer > 0 and self.training:
+ if self.training:

layers: weight dropout in evaluation
- if self.training and self.weight_dropout:
+ if self.weight_dropout:

layers: weight dropout cuts the gradient
- dropout(w["weight_hh"],
+ dropout(w["weight_hh"].detach(),

dropin: own dropout lost on the fused path
- and not (self.training and drops)
+ and True

dropin: one activation for all layers on the fused path
- len({mode_of(cell) for cell in self.cells}) == 1
+ True

dropin: lengths lost on the fused path
- plain = lengths is None and table
+ plain = table

layers: a step forgets the state
- y, hx = self(x_t.unsqueeze(time_axis), hx)
+ y, hx = self(x_t.unsqueeze(time_axis))

layers: identical layers told for ever
- self._identity_checked = True
+ pass

outputs: padding counts
- counts = t < ends
+ counts = t < T

outputs Output: mean over padding too
- / counts.sum().clamp(min=1)
+ / counts.numel()

outputs: targets in padding poison gradients
- targets = targets.masked_fill(
+ targets.masked_fill(

outputs: targets of a row go to another
- targets = targets[:, None].expand(
+ targets = targets.flip(0)[:, None].expand(

outputs: last step is the first
- t = (ends - 1).clamp(min=0)
+ t = ends - ends

arrangements: padding counts in a mean
- torch.where(counts, h, 0.0).sum(1) / counts.sum(1).clamp(min=1)
+ torch.where(counts, h, 0.0).mean(1)

arrangements: padding takes part in a maximum
- best = h.masked_fill(~counts, -torch.inf).amax(1)
+ best = h.amax(1)

arrangements: padding draws attention
- weights = weights.masked_fill(~counts & counts.any(1, keepdim=True), -torch.inf)
+ pass

layers: the state of the first layer stands for the last
- return h[-self._directions :]
+ return h[: self._directions]

layers: the first state of several stands for the last
- else [*hx][-1]
+ else [*hx][0]

layers: an observer is told of the first layer alone
- observer(self, layer, LayerCall(*call))
+ observer(self, 0, LayerCall(*call))

dropin: an observed stack is run whole
- or observer_now() is not None
+ or False

standard: the state of an LSTM is made of c and h
- super().__new__(cls, cast(Tensor, h), cast(Tensor, c))
+ super().__new__(cls, cast(Tensor, c), cast(Tensor, h))

cells/base: a state is no pickle of tensors
- torch.serialization.add_safe_globals([cls])
+ pass

cells/base: a state cannot be stored in a graph
- _pytree._register_namedtuple(cls, serialized_type_name=f"ostinato.{cls.__name__}")
+ pass

compiled: missing weights shift those behind them in graphs
- tuple(sum(present[:i]) if each else -1 for i, each in
+ tuple(i if each and i < sum(present) else -1 for i, each in

arrangements: a stream's mean forgets how many steps there were
- weight = state.weight + 1
+ weight = state.weight

arrangements: a stream pools the input that the last residual layer adds
- h = self.recurrent.last_hidden(hidden)[0]
+ pass

arrangements: a stream's attention keeps its first weight
- total = torch.logaddexp(state.weight, weight)
+ total = state.weight

inputs: dropped words lose their letters too
- spellings = torch.cat(state.h.unbind(0), dim=-1)
+ spellings = torch.cat(state.h.unbind(0), dim=-1) * (not self.training)

inputs: affixes are left out and not made up for
- .sum(1) / kept
+ .sum(1)

inputs: a word is spelled by another
- F.embedding(x.spelled, spellings)
+ F.embedding(x.ids.clamp(max=len(spellings) - 1), spellings)

arrangements: without recurrence the last layer is not rectified
- h = drop(layer(h).relu(),
+ h = drop(layer(h).relu() if layer is not self.layers[-1] else layer(h),

outputs: the first tag costs nothing
- scores + self.first[tags[:, 0]] +
+ scores +

outputs: neighbours are taken the wrong way round
- self.follows[tags[:, :-1], tags[:, 1:]]
+ self.follows[tags[:, 1:], tags[:, :-1]]

outputs: padding takes part in the sum over all tags
- total = torch.where(counts[:, t, None], step, total)
+ total = step

outputs: the last tag's score is left out of the sum
- return torch.logsumexp(total + self.last, dim=-1)
+ return torch.logsumexp(total, dim=-1)

outputs: a tag that is barred may come first
- self.first + self.barred[-1] + y[:, 0]
+ self.first + y[:, 0]

outputs: the best tags go on through padding
- came_from.append(torch.where(counts[:, t, None], best.indices, stays))
+ came_from.append(best.indices)

outputs: the best last tag without its score
- tag = (total + self.last).argmax(-1)
+ tag = total.argmax(-1)

seq2seq: the summary counts padding
- mask.sum(1, keepdim=True).clamp(min=1)
+ mask.shape[1]

attention: padding is attended to
- e = e.masked_fill(~mask[:, None], -torch.inf)
+ e = e.masked_fill(~mask[:, None], 0.0)

attention: additive attention without tanh
- e = self.score(a.tanh())[..., 0]
+ e = self.score(a)[..., 0]

attention: coverage does not reach the attention
- a = a + self.covered(coverage[..., None])[:, None]
+ pass

attention: the query does not reach the attention
- a = self.query(query)[:, :, None] + keys[:, None]
+ a = self.query(0 * query)[:, :, None] + keys[:, None]

seq2seq Decoder: coverage forgets what was before
- coverage = coverage + weights[:, 0]
+ coverage = weights[:, 0]

seq2seq Decoder: what is fed is not carried on
- state = DecoderState(hidden, a[:, -1], coverage)
+ state = DecoderState(hidden, state.fed, coverage)

seq2seq Decoder: the attentional vector does not see the context
- a = self.combine(torch.cat([h, context], -1)).tanh()
+ a = self.combine(torch.cat([h, 0 * context], -1)).tanh()

seq2seq Decoder: the state is not carried from step to step
- h, hidden = self.recurrent(part, state.hidden)
+ h, hidden = self.recurrent(part, None)

seq2seq Decoder: what is copied counts in full
- F.logsigmoid(-g) + copied.clamp(min=tiny).log()
+ copied.clamp(min=tiny).log()

seq2seq EncoderDecoder: the end of a target is not asked for
- return inputs, labels, t <= ends
+ return inputs, labels, t < ends

seq2seq EncoderDecoder: the decoder sees the token that it is asked for
- inputs = F.pad(targets, (1, 0), value=
+ inputs = F.pad(targets, (0, 1), value=

seq2seq EncoderDecoder: labels are not smoothed
- loss = (1 - self.label_smoothing) * loss + self.label_smoothing * even
+ loss = loss + 0 * even

layers: rows of a state keep their order
- None if t is None else t[:, index]
+ None if t is None else t[:, : len(index)]

decoding: the state does not follow the hypotheses
- state = state.rows(index)
+ pass

decoding: the tokens do not follow the hypotheses
- tokens = torch.cat([tokens[index], token[:, None]], 1)
+ tokens = torch.cat([tokens, token[:, None]], 1)

decoding: all beginnings count at first
- total[:, 0] = 0.0
+ total[:, :] = 0.0

decoding: the number of a row's token is taken from another row
- numbers = each_best.indices.view(n, -1).gather(1, best.indices).tolist()
+ numbers = (best.indices % wide).tolist()

decoding: the score is without its norm
- score = value / settings.norm(t + 1)
+ score = value

decoding: a search stops at the first end
- return len(done) >= settings.beam or done[settings.n_best - 1].score >= ceiling
+ return True

decoding: prefix beam, a repeated token joins without a blank
- before = in_blank if text and text[-1] == token else _add(in_blank, in_token)
+ before = _add(in_blank, in_token)

decoding: prefix beam, a text that goes on in its last token is forgotten
- put(text, -math.inf, in_token + float(step[text[-1]]))
+ pass

decoding: greedy keeps repetitions
- for token, _ in groupby(log_p.argmax(-1))
+ for token in log_p.argmax(-1)

ctc CTC: padding is stacked with frames
- v, ends = zero_padding(v, lengths),
+ v, ends = v,

ctc CTC: too few steps of the last frames
- return (lengths + self.stacked - 1) // self.stacked
+ return lengths // self.stacked

ctc CTC: the blank is the first token
- y.log_softmax(-1).transpose(0, 1), targets, ends.cpu(), counts.cpu(), self.blank,
+ y.log_softmax(-1).transpose(0, 1), targets, ends.cpu(), counts.cpu(), 0,

ctc CTC: the state is dropped
- h, state = self.recurrent(v, state, lengths=ends)
+ h, state = self.recurrent(v, None, lengths=ends)

ctc: a stream forgets what it wrote last
- found = self.network._written(best, self._last)
+ found = self.network._written(best)

lattice: a label is written at the next step's node
- by_label = F.pad(alpha[:, :-1] + label[:, i, :-1], (1, 0), value=-torch.inf)
+ by_label = F.pad(alpha[:, :-1] + label[:, i, 1:], (1, 0), value=-torch.inf)

lattice: gradients of the loss forget whose they are
- return gradients * d[:, None, None, None], None, None
+ return gradients, None, None

lattice: chunks leave out their last label's gradient
- d_scores[:, :-1].scatter_add_(-1, label, of_label[:, :-1, None])
+ d_scores[:, :-2].scatter_add_(-1, label[:, :-1], of_label[:, :-2, None])

lattice: the gradient of the prediction is that of the last chunk
- d_predicted[row, :n] += dz.sum(0)
+ d_predicted[row, :n] = dz.sum(0)

transducer Lookahead: steps before, not after
- y = y + h[:, j : j + T] * self.weight[j]
+ y = y + h[:, :T] * self.weight[j]

transducer Transducer: too few steps of the last frames
- return (lengths + self.stacked - 1) // self.stacked
+ return lengths // self.stacked

transducer Transducer: padding is stacked with frames
- v, ends = zero_padding(v, lengths),
+ v, ends = v,

transducer Transducer: a stream forgets the steps that wait
- h = torch.cat([state.recent, h], 1)
+ h = torch.cat([0 * state.recent, h], 1)

transducer Transducer: the prediction begins with a token
- inputs = F.pad(targets, (1, 0), value=self.blank)
+ inputs = F.pad(targets, (1, 0), value=0)

transducer Transducer: rows without a path count
- possible = losses.masked_fill(losses == torch.inf, 0)
+ possible = losses

transducer Transducer: alignments of a text are not added up
- now = float(np.logaddexp(now, ended[text.tokens].log_p))
+ now = max(now, ended[text.tokens].log_p)

transducer: a token leaves the prediction as it was
- self._write(rows[writes], best[writes])
+ pass

transducer: a step writes without end
- (written[rows] < self.symbols)
+ (written[rows] < 3 * self.symbols)

distributions StudentT: a degree of freedom too few
- return 2 + _positive(p[..., 2])
+ return 1 + _positive(p[..., 2])

distributions LocationScale: the spread costs nothing
- + sigma.log() + constant
+ + constant

distributions NegativeBinomial: the mean is not scaled
- mean, r = scale * _positive(p[..., 0]), _positive(p[..., 1])
+ mean, r = _positive(p[..., 0]), _positive(p[..., 1])

distributions: rounding costs nothing
- if not resolution.any():
+ if True:

distributions LocationScale: samples are too narrow
- units.values(mean + sigma * self._standard_sample(p, u))
+ units.values(mean + 0.5 * sigma * self._standard_sample(p, u))

distributions NegativeBinomial: the probability of a value leaves out the value
- return np.asarray(stats.nbinom.cdf(y, *
+ return np.asarray(stats.nbinom.cdf(y - 1, *

distributions Quantiles: levels change sides
- torch.maximum(levels * error, (levels - 1) * error)
+ torch.maximum((1 - levels) * error, -levels * error)

distributions Quantiles: quantiles below the median are taken from above
- below = np.cumsum(down, -1)[..., ::-1]
+ below = np.cumsum(up, -1)[..., ::-1]

network ForecastNetwork: missing values read 0
- own = torch.where(gap, own, values.gather(1, stop[:, None])[:, 0])
+ own = values.gather(1, stop[:, None])[:, 0]

network ForecastNetwork: no gradient through the prediction of a missing value
- return self.distribution.point(self._outputs(h, lags[:, None], future)[:, 0])
+ return self.distribution.point(self._outputs(h, lags[:, None], future)[:, 0]).detach()

network ForecastNetwork: a gap is predicted without the latest value
- back = [*range(-self.reach, 0),
+ back = [*range(-self.reach - 1, -1),

network ForecastNetwork: a gap is predicted from the last row's last step
- last = (lengths - 1).clamp(min=0)[:, None]
+ last = (lengths * 0 + h.shape[1] - 1)[:, None]

network ForecastNetwork: a season ago is a step off in a gap
- values.gather(1, (at - m).clamp(min=0)) * (at >= m)
+ values.gather(1, (at - m - 1).clamp(min=0)) * (at >= m)

network ForecastNetwork: past covariates are read a step early
- parts.append(_span(past, begin - 1, end - 1))
+ parts.append(_span(past, begin, end))

network ForecastNetwork: future covariates are read a step late
- parts.append(window.future_covariates[:, begin:end])
+ parts.append(window.future_covariates[:, begin - 1 : end - 1])

network ForecastNetwork: the season is a step off
- ago = [_span(values, S - m, end + 1 - m)
+ ago = [_span(values, S - 1 - m, end - m)

network ForecastNetwork: static covariates are read before a series begins
- started = _span(valid, begin, end, 1.0)[..., None]
+ started = torch.ones_like(_span(valid, begin, end, 1.0)[..., None])

network ForecastNetwork: the linear shortcut ends a step early
- near = _span(values, t - self.reach, t + steps - 1)
+ near = _span(values, t - self.reach - 1, t + steps - 2)

network ForecastNetwork: missing targets count
- return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1), None
+ return losses.mean(), None

network ForecastNetwork: the state is dropped at a gap
- h, state = self.recurrent(features, state, lengths=lengths)
+ h, state = self.recurrent(features, None, lengths=lengths)

targets Classes: the worst class is decoded
- self.names[p.argmax(1)]
+ self.names[p.argmin(1)]

targets Classes: one right label is enough
- (guess == true).all(-1)
+ (guess == true).any(-1)

targets Numbers: decoded without the mean
- scores * self.scale + self.mean
+ scores * self.scale

targets StepLabels: padding counts as right
- right = (best == batch.targets) & running(h, batch.lengths)
+ right = best == batch.targets

targets StepLabels: labels of padding are decoded
- self.names[row[:n]].tolist()
+ self.names[row].tolist()

targets StepLabels: an entity of another kind goes on
- opens[:, None] & continues & (kinds[:, None] == kinds)
+ opens[:, None] & continues

targets StepLabels: entities of padding are counted
- F.pad(rows.masked_fill(~counts, K), (1, 1), value=K)
+ F.pad(rows, (1, 1), value=K)

targets TokenSequence: ends are not counted
- int(batch.target_lengths.sum()) + len(batch.lengths)
+ int(batch.target_lengths.sum())

targets SequenceTargets: steps are counted as sequences
- return batch.steps if self.by_step else len(batch.lengths)
+ return len(batch.lengths)

targets: the temperature is inverted
- (-coldness.detach()).exp()
+ coldness.detach().exp()

linear: a word begins and ends nowhere
- whole = f"<{word}>"
+ whole = word

linear: pairs of words are left out
- [*words, *map(" ".join, pairwise(words))]
+ [*words]

linear: the ratio of a term in all other classes counts its own
- 2 - K + inside.sum(1, keepdims=True) - inside
+ 2 - K + inside.sum(1, keepdims=True)

linear: of two classes the wrong one
- np.array([[-0.5], [0.5]])
+ np.array([[0.5], [-0.5]])

linear: chance counts as help
- found.fun) > CHANCE
+ found.fun) > 0

linear: weights of a blend may be negative
- bounds=[(0, None)] * len(scores)
+ bounds=[(None, None)] * len(scores)

linear: classes of which no text was drawn are lost
- np.union1d(some, np.unique(classes, return_index=True)[1])
+ np.sort(some)

minirocket: convolutions sum to something
- [[2.0 if k in large else -1.0
+ [[2.0 if k in large else 1.0

minirocket: steps after the end of a series count
- torch.arange(T) >= lengths[:, None, None]
+ torch.arange(T) > lengths[:, None, None]

minirocket: features of a batch come in another order
- found[some] = self._shares
+ found[begin : begin + size] = self._shares

minirocket: rounding decides where a series is constant
- np.quantile(y, part[c]) + MARGIN
+ np.quantile(y, part[c])

minirocket: a row is predicted by a fit to itself
- truth - missed
+ Gram @ dual

minirocket: the mean of the features is forgotten
- free * dual.sum(0) - mean @ weights
+ free * dual.sum(0)

minirocket: scores left out are not calibrated
- = coldness * scores, model
+ = scores, model

minirocket: classes of which no series was drawn are lost
- rows = np.union1d(drawn, firsts)
+ rows = np.sort(drawn)

evaluation: batches weigh the same in an evaluation
- weight = objective.count(batch)
+ weight = 1

evaluation: the judge of entities rests on all steps
- items = objective.items(means, count)
+ items = count

evaluation: the state of an evaluation is dropped
- measured, state = objective.metrics(network, batch, state)
+ measured, _ = objective.metrics(network, batch, state)

evaluation: predictions in the order of their lengths
- found.update(zip(rows.tolist(), decode(scores, batch), strict=True))
+ found.update(enumerate(decode(scores, batch), start=len(found)))

evaluation: evaluated as in training
- network.eval()
+ pass

loop: a resumed run begins again
- self.world.first(self.checkpoints.load) if resume else None
+ None

sequences: validation data are trained on too
- return data.take(kept), data.take(out)
+ return data.take(np.concatenate([kept, out])), data.take(out)

sequences: lone labels are lost
- kept = np.concatenate([kept, lone])
+ kept = kept + 0

sequences: training data stand in for validation data
- None if held_out is None else self.batches(held_out)
+ None if held_out is None else self.batches(training)

sequences: samples of short rows
- order = np.argsort(-lengths, kind="stable")
+ order = np.argsort(lengths, kind="stable")

windows: a window holds the value after its cutoff
- past = series.values[begin:now]
+ past = series.values[begin + 1 : now + 1]

windows: only what is read tells whether values are negative
- 0.0 if now <= series.negative else -np.inf
+ 0.0 if np.nanmin(past) >= 0 else -np.inf

windows: missing values count as observed
- observed[b, at], valid[b, at] = seen, True
+ observed[b, at], valid[b, at] = True, True

windows: future covariates end with the past
- future_covariates[b, at.start :] = series.future_covariates[begin : now + A]
+ future_covariates[b, at] = series.future_covariates[begin:now]

grid: weeks end on the commonest day alone
- for end in sorted(range(7), key=lambda day: (day - usual) % 7)
+ for end in [usual]

grid: times of weeks are shown a day late
- (usual - end - 1) % 7 * DAY, loose=True)
+ (usual - end) % 7 * DAY, loose=True)

grid: the last business day is a day of the month
- for anchor in (LAST_DAY, LAST_BUSINESS_DAY):
+ for anchor in (LAST_DAY,):

forecast: a series of a forecast has the corrections of the first
- np.broadcast_to(part, len(self))[some]
+ np.broadcast_to(part, len(self))[: len(some)]

forecast: a series of a forecast has the windows of another
- self.p[:, windows])
+ self.p[:, ::-1][:, windows])

forecast: centers move away from the rule
- center = self.p[..., :1] + weight
+ center = self.p[..., :1] - weight

forecast: a rule that does not help is blended
- weights[(mean - unsure).argmax()]
+ weights[(mean - unsure).argmin()]

forecast: theta is added to the rule, not averaged with it
- return (found + theta(pasts, horizon, self.theta)) / 2 if
+ return (found + theta(pasts, horizon, self.theta)) if

theta: the whole trend is followed
- slope / 2 * ahead
+ slope * ahead

theta: seasons begin a step late
- pattern[n:], positive)
+ pattern[n - 1 : -1], positive)

theta: a series is smoothed from the first value of the longest
- row[len(row) - len(each) :] = each - each[0]
+ row[: len(each)] = each - each[0]

network ForecastNetwork: a longer season is a step off in the shortcut
- far = [_span(values, t - m, t - m + steps)
+ far = [_span(values, t - m - 1, t - m - 1 + steps)

network ForecastNetwork: steps that only seasons see count as known
- known = torch.where(behind, window.observed.to(dtype), valid)
+ known = valid

forecast: half a resolution is a rise
- rounded = last + units.resolution / 2
+ rounded = last

forecast: a tie is a rise
- share = (first > last[:, None]).mean(1)
+ share = (first >= last[:, None]).mean(1)

forecast: a quantile of paths lies half a value too high
- at = np.clip(np.asarray(levels) * V - 0.5, 0, V - 1)
+ at = np.clip(np.asarray(levels) * V, 0, V - 1)

forecast: further values of paths stay where the network is
- units.round(self.values + move[..., None])
+ units.round(self.values)

predictor: further values repeat the shares of the first
- further = (m * S // DRAWS + m / DRAWS) / S
+ further = (m * S // DRAWS) / S

keras: gates of a GRU in Keras's order
- order = (1, 0, 2) if kind == "GRU" else range(gates)
+ order = range(gates)

keras: both biases of a GRU swapped
- found |= {"bias_ih": turned(bias[0]), "bias_hh": turned(bias[1])}
+ found |= {"bias_ih": turned(bias[1]), "bias_hh": turned(bias[0])}

keras: a bias counted twice
- bias = weights[2] if after else np.stack([weights[2], np.zeros_like(weights[2])])
+ bias = weights[2] if after else np.stack([weights[2], weights[2]])

onnx_layers: gates in ONNX's order
- places = [order.index(i) for i in range(G)]
+ places = list(range(G))

onnx_layers: coupled gates not negative
- return np.concatenate([-ours[0], *ours[2:]] if coupled else ours)
+ return np.concatenate([ours[0], *ours[2:]] if coupled else ours)

onnx_layers: peepholes in ONNX's order
- own["weight_peephole"] = np.concatenate([i, f, o])
+ own["weight_peephole"] = np.concatenate([i, o, f])

onnx_layers: weights in other files are taken for none
- if tensor.data_location == 1 or tensor.external_data:
+ if False:

weights: packed parts are read
- if packed or sum(each.file_size for each in members) > path.stat().st_size:
+ if False:

c_runtime: numbers of 8 bits are cut off, not rounded
- v = (v + 12582912.0f) - 12582912.0f;
+ v = (float)(int)v;

c_runtime: a sum of 8-bit products is rounded twice
- y[j] = $FMA((float)sum, scale[j] * unit, y[j]);
+ y[j] += (float)sum * (scale[j] * unit);

c_runtime: the upper half of a tile is added to the lower
- sum[j] = $FMA(w[k * {width} + b + j], x[k], sum[j]);
+ sum[j] = $FMA(w[k * {width} + j], x[k], sum[j]);

c_source: several matrices share the scales of the first
- scale = f"@{self.name}_scale" + (f" + {which} * {self.rows}" if which else "")
+ scale = f"@{self.name}_scale"

c_layers: a GRU's reset and update gates are swapped
- inner = f"{e.fma}({e.sigmoid}(a[{H} + i]), a[{3 * H} + i], a[i])"
+ inner = f"{e.fma}({e.sigmoid}(a[{2 * H} + i]), a[{3 * H} + i], a[i])"

c_layers: a layer is never residual
- Layer(cell, recurrent.weights_of(i), f"{name}{i}", recurrent.residual and i > 0)
+ Layer(cell, recurrent.weights_of(i), f"{name}{i}")

c_graph: what nothing reads is written
- if _memory(call.out) in read:
+ if True:

c_export: the last residual layer adds its input to the state that is pooled
- if isinstance(network, ManyToOne) and network.pooling == "last":
+ if False:

c_graph: a view begins where its memory does
- place = _at(at, t.stride(), int(t.storage_offset()))
+ place = _at(at, t.stride(), 0)

study: the worst trial is kept
- return min(self._trials("COMPLETE"), key=lambda trial: trial.value, default=None)
+ return max(self._trials("COMPLETE"), key=lambda trial: trial.value, default=None)

study: a trial that was cut off begins anew
- if ours and self._claim(each.number, claims):
+ if False:

study: proposals depend on what was proposed in this process
- seed = (self.estimator.seed + found.number) % 2**32
+ seed = id(found) % 2**32

study: every trial has evaluations of its own
- model.set_params(evaluations=evaluations)
+ pass

study: other data are taken for those of the study
- known |= {"space": to_toml(space), "data": digests}
+ known |= {"space": to_toml(space), "data": {}}

study: training on all data takes no more steps
- steps=max(1, round(facts["steps"] / (1 - share))),
+ steps=facts["steps"],

space: what is set is searched all the same
- given[name] = entry
+ given[name], space[name] = entry, (entry,)

programs/writer: a slice begins one number too late
- moved(Run(r.node, r.at + a * r.step, r.step, b - a))[0] for r in node.args
+ moved(Run(r.node, r.at + (a + 1) * r.step, r.step, b - a))[0] for r in node.args

programs/interpreter: a sum over a few numbers is the first of them
- (run.node << _BITS) + run.at if run.n == 1 else
+ (run.node << _BITS) + run.at if run.n <= 4 else

programs/writer: the gradient of a weight turned round
- jobs.append((pair[turned], pair[not turned], False))
+ jobs.append((pair[not turned], pair[turned], False))

programs/writer: what the input decides is where only a step would put it
- not self._is_given(i) and i not in early_saved:
+ not self._is_given(i) and i not in saved:

programs/kernels: a product begins without its bias
- begin = -1 if start is None else
+ begin = -1 if True else

programs/kernels: what lies behind the last number counts in a sum
- if n % self.line == 0
+ if True

programs/tracing: a step is not cut where weights end
- if n not in later:
+ if True:

generated: the gradient of a state is lost
- return [dx, *d_state[:n], *found]
+ return [dx, *map(torch.zeros_like, d_state[:n]), *found]

generated: a layer reads forward in both directions
- reverse, lengths, state is not None), in_graph(x)
+ False, lengths, state is not None), in_graph(x)

generated: computed weights have twice their gradient
- for t, g in zip(prepared, grads, strict=True) if g is not None and t.requires_grad
+ for t, g in zip(prepared, [2 * g for g in grads], strict=True) if t.requires_grad

compiler: a folder that others may write is used
- if _is_private(folder) and os.access(
+ if os.access(

compiler: a damaged library is loaded
- if not (_is_private(file) and _is_whole(file)):
+ if not _is_private(file):

c_graph: the parts of a whole lie over each other
- begin += part.shape[dim]
+ begin += 0

c_parts: the mean weighs the first step as nothing
- f.add(f"{weight}[0] += 1.0f;")
+ f.add(f"{weight}[0] += 2.0f;")

c_parts: a convolution reads a step too early
- back = f"({at}[0] + {n} - {d} * ({len(taps) - 1} - k)) % {n}"
+ back = f"({at}[0] + {n} - {d} * ({len(taps)} - k)) % {n}"

c_parts: the window of a row of sound lies at its begin
- begin = (fft - how.size) // 2
+ begin = 0

c_forecast: a missing value is read as 0
- f"if (missing) z = t > {network.history} ? {center}[0] : 0.0f;",
+ f"if (missing) z = 0.0f;",

c_forecast: what a season ago was is that of a step later
- place = f"(t + 1 - {m}) % {R}"
+ place = f"(t + 2 - {m}) % {R}"

c_export: probabilities are not calibrated
- parts.append(Activation(size, output.kind, temperature))
+ parts.append(Activation(size, output.kind))

keras: of weights alone a GRU has one bias
- "reset_after": sides[0][-1].ndim == 2}
+ "reset_after": False}

keras: of weights alone the backward direction comes first
- yield name, [sides[side] for side in sorted(sides)]
+ yield name, [sides[side] for side in sorted(sides, reverse=True)]

weights: cells are no layers
- if _CELL_WEIGHT.fullmatch(last):
+ if False:

onnx_layers: parts of a weight are joined along the first axis
- attributes.get("axis", 0))
+ 0)[::-1]

generated: a cell that a layer makes anew is another
- vars(cell).keys() <= values.keys() | cell.derived
+ vars(cell).keys() <= values.keys()

generated: cells whose cells within are others are the same
- _key_of(v) if isinstance(v, Cell) else v
+ None if isinstance(v, Cell) else v

gradients Joined: gradients are the mean of those of parts, whatever rows these have
- p.grad.mul_(world.size / count)
+ p.grad.mul_(world.size / count if len(batch.parts) == 1 else 1 / len(batch.parts))

gradients Joined: each part starts from the state of the first
- loss, state = module(part, before)
+ loss, state = module(part, (states or [None])[0])

distributed: rows of a carried state are divided in one piece
- rows = torch.arange(_rows(state))[part::parts]
+ rows = torch.arange(_rows(state))[part : part + 1]

sequences: a group is in both parts
- out = np.isin(numbers, order[:count])
+ out = np.arange(len(data)) < held[count - 1]

sequences: groups that were trained on are not noticed
- shared = sorted(g for g in set(data.groups or []) if group_digests([g])[0] in known)
+ shared = sorted(g for g in set(data.groups or []) if g in known)

alignment: a blank may be left out between equal tokens
- skips[3::2] = ids[1:] != ids[:-1]
+ skips[3::2] = True

alignment: a phrase goes on without the blank between equal tokens
- fresh = np.append(True, ids[1:] != ids[:-1])
+ fresh = np.ones(n, dtype=bool)

alignment: a blank before the phrase ends what is outside it
- outside = np.array([p[t, boundary], p[t, blank] * outside.sum()])
+ outside = np.array([p[t, boundary], p[t, blank] * outside[1]])

transcripts: a false alarm too many
- bound = wrong[allowed] if len(wrong) > allowed else 0.0
+ bound = wrong[allowed + 1] if len(wrong) > allowed + 1 else 0.0

speech: attention goes back instead of on
- prior[taps // 2 - k] = p
+ prior[taps // 2 + k] = p

speech: the stop is a step early
- last = (ends.to(device)[:, None] - 1) // r  # (B, 1)
+ last = (ends.to(device)[:, None] - 1) // r - 1

speech: the first frame of a step is fed back
- before = F.pad(targets[:, r - 1 : -1 : r], (0, 0, 1, 0))  # (B, T, K)
+ before = F.pad(targets[:, 0 : -r : r], (0, 0, 1, 0))

attention_faults: what is left out at the end is no fault
- reached < min(S - 2, 0.75 * (S - 1))
+ reached < 0

vocoder: the earliest sample is taken for the latest
- past = padded.unfold(1, self.order, 1).flip(-1).view(
+ past = padded.unfold(1, self.order, 1).view(

vocoder: the sample to be drawn is known
- [F.pad(before[:, :-1], (0, 0, 1, 0)), companded(p[..., :1]), self.features(x)], -1
+ [before, companded(p[..., :1]), self.features(x)], -1

data/shards: a damaged shard is read
- if digest.hexdigest() != self._digests[shard]:
+ if False:

data/batches: sequences that were too few for a batch are forgotten
- pieces = before.left + pieces
+ pieces = list(pieces)

network: a cell that takes missing values reads 0 for them
- values = torch.where(missing, torch.nan, values)
+ values = torch.where(missing, 0.0, values)

network: the shortcut reads what is missing
- values = values.nan_to_num() if self.reads_missing else values
+ values = values

study: a trial is judged by its last evaluation
- and record.get("best") and name in record
+ and name in record

study: forecasts are compared by their loss
- return self.run.best_score if self._compared is None else self._compared
+ return self.run.best_score

forecasting/reading: steps of a series begin anew in every chunk
- return rows._replace(times=rows.times + before[rows.series])
+ return rows

forecasting/reading: a later table's categories are not known
- for k, table in enumerate(tables if names else ()):
+ for k, table in enumerate(list(tables)[:1] if names else ()):

forecasting/chunks: series of a bucket begin with its first one each time
- yield from load(k).series(max(0, done - begin))
+ yield from load(k).series(0)

forecasting/stored: what was negative is counted from the first step of a piece
- tuple(rest), negative - begin)
+ tuple(rest), negative)

forecasting/panel: the last cutoff of a series is left out
- return Cutoff(i, int(self._last[i]) - (int(self._ends[i]) - 1 - k))
+ return Cutoff(i, int(self._last[i]) - (int(self._ends[i]) - k))

programs/writer: a gain has the gradient of a bias
- jobs.append((*factors, True) if factors else (runs, None, False))
+ jobs.append((factors[0] if factors else runs, None, False))

tapes: what is read twice has the gradient of the first
- found[to] = g if to not in found else graph.add("add", found[to], g)
+ found.setdefault(to, g)

compiled: a gradient of a gradient goes two ways
- views = [None if t is None else t.view_as(t) for t in tensors]
+ views = list(tensors)

fused: of what stands side by side every part is read from its beginning
- return part if n == part.n else part._part(at - begin, n)
+ return part if n == part.n else part._part(0, n)

convolution BandConvolutions: a band sees those of the padding
- zero_padding(x, lengths)[:, None]
+ x[:, None]

convolution BandConvolutions: the mean of two bands is kept
- F.max_pool2d(
+ F.avg_pool2d(

convolution BandConvolutions: the last of an odd number of bands is lost
- ceil_mode=True
+ ceil_mode=False

convolution StepNorm: padding counts in the statistics
- if counts is None:
+ if True:

data/augmentation: a response begins with a constant
- np.outer(np.arange(1, CURVES + 1), np.arange(bands) / bands)
+ np.outer(np.arange(CURVES), np.arange(bands) / bands)

data/augmentation: a response is half as large
- np.log(10) / 10 * factors
+ np.log(10) / 20 * factors
"""


class Mutant(NamedTuple):
    module: str
    within: str
    fault: str
    sound: str
    faulty: str

    def __str__(self):
        return f"{self.module}: {self.fault}"

    @property
    def path(self):
        """Of the module, whose name stands in only one of the folders."""
        files = [SOURCES / "ostinato" / folder / f"{self.module}.py" for folder in FOLDERS]
        (path,) = [file for file in files if file.exists()]
        return path

    def source(self):
        """The faulty module; the place must be there, and only once in its class."""
        text = self.path.read_text(encoding="utf-8")
        begin = text.index(f"\nclass {self.within}(") if self.within else 0
        end = text.find("\nclass ", begin + 1) if self.within else -1
        end = len(text) if end < 0 else end
        count = text[begin:end].count(self.sound)
        assert count == 1, f"{self}: {self.sound!r} stands {count} times in {self.path.name}"
        return text[:begin] + text[begin:end].replace(self.sound, self.faulty) + text[end:]

    def diff(self):
        before, after = self.path.read_text(encoding="utf-8"), self.source()
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1)
        return "\n".join(list(lines)[2:])


def mutants():
    for block in FAULTS.strip().split("\n\n"):
        title, sound, faulty = block.splitlines()
        place, _, fault = title.partition(": ")
        module, _, within = place.partition(" ")
        yield Mutant(module, within, fault, sound.removeprefix("- "), faulty.removeprefix("+ "))


MUTANTS = list(mutants())


def sample():
    """Return every sixtieth fault: what `make test` plants."""
    return MUTANTS[::60]


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the faulty module ahead of the sound one."""

    def __init__(self, mutant):
        self.name = ".".join(mutant.path.relative_to(SOURCES).with_suffix("").parts)
        self.origin = str(mutant.path)
        self.code = compile(mutant.source(), f"{self.origin} ({mutant.fault})", "exec")

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        return importlib.util.spec_from_loader(name, self, origin=self.origin)

    def exec_module(self, module):
        exec(self.code, module.__dict__)


class BreadthFirst:
    """Each law once before any of them twice: a fault is met soon."""

    def pytest_collection_modifyitems(self, items):
        met, turn = Counter(), {}
        for item in items:
            turn[item] = met[item.function]
            met[item.function] += 1
        items.sort(key=turn.get)


def run_laws(mutant, laws):
    """The status that pytest gives for some laws with a fault, or without one where it is None."""
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, Planted(mutant))
    for name in [name for name in sys.modules if name.partition(".")[0] == "ostinato"]:
        del sys.modules[name]
    options = [
        "-xqq",
        "-m",
        "not slow and not thorough",
        "--tb=no",
        "-rfE",
        "-pno:cacheprovider",
        "--assert=plain",
    ]
    for some in laws:
        places = [str(HERE.parent / law) for law in some]
        status = int(pytest.main([*options, *places], plugins=[BreadthFirst()]))
        if status:
            break
    return status


def laws_for(mutant):
    """Those of its module, which are likely to notice it; and those of all others."""
    own = OWN_LAWS.get(mutant.module, [mutant.module])
    return [[f"tests/test_{name}.py" for name in LAWS if (name in own) is i] for i in (True, False)]


def start(mutant, laws, log):
    """Fork a child that runs the laws and writes what they say to ``log``; its number."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        signal.alarm(HANGS)
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = run_laws(mutant, laws)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Outcome(NamedTuple):
    """What became of a fault, or of the sound package."""

    mutant: Mutant | None
    fine: bool
    what: str
    more: str = ""  # what a reader needs where it is not fine

    def __str__(self):
        return f"{self.mutant or 'the sound package'}: {self.what}"


def outcome(mutant, status, report):
    """What a child's status and report say."""
    # An error is of what several laws share, such as programs that do not compile.
    lines = [line for line in report.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    failed = [line.partition(" ")[2].split(" - ")[0] for line in lines]
    if mutant is None:
        return Outcome(mutant, status == 0, failed[0] if failed else "these laws hold", report)
    if status == 1 and failed:  # any other status says nothing about the laws
        return Outcome(mutant, True, failed[0])
    if status == 0:
        return Outcome(mutant, False, "no law notices", mutant.diff())
    return Outcome(mutant, False, f"pytest's status is {status}", report)


def outcomes(trials):
    """Of the laws with faults, each given as (mutant, laws), as they end."""
    waiting, running = list(trials), {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                (mutant, laws), log = waiting.pop(0), Path(folder, str(len(waiting)))
                running[start(mutant, laws, log)] = mutant, log, time.monotonic()
            child, status = os.wait()
            mutant, log, since = running.pop(child)
            report = log.read_text(encoding="utf-8", errors="replace")
            found = outcome(mutant, os.waitstatus_to_exitcode(status), report)
            seconds = time.monotonic() - since
            print(f"{seconds:5.1f} s  {'' if found.fine else 'WRONG: '}{found}", flush=True)
            yield found


def main(words):
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    torch.testing.assert_close(torch.ones(1), torch.ones(1))  # imports the rest of it, once
    gc.freeze()  # pytest collects garbage at the end, and need not look through PyTorch each time
    faults = sample() if words == ["--sample"] else MUTANTS
    if faults is MUTANTS and words:
        faults = [m for m in MUTANTS if any(word in str(m) for word in words)]
    found = list(outcomes([(mutant, laws_for(mutant)) for mutant in faults]))
    # A law that fails for the sound package as well would notice anything.
    noticing = sorted({each.what for each in found if each.fine})
    found += outcomes([(None, [noticing])] if noticing else [])
    wrong = [f"{each}\n{each.more}" for each in found if not each.fine]
    print(*wrong, f"{len(wrong)} wrong of {len(found)}", sep="\n\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
