"""A recurrent vocoder: samples of sound, one after the other, from log-mel frames.

Letters: ``N`` frames, ``K`` bands of each; ``hop`` samples from frame to frame, ``m`` of them in a
step; ``P`` coefficients of linear prediction.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError, ShapeError
from ostinato.networks.functional import Lengths, running
from ostinato.networks.inputs import Standardize
from ostinato.recurrence.layers import Recurrent

MU = 255.0
"""Of the mu-law, by which small samples come near to large ones."""


class Excitation(NamedTuple):
    """What linear prediction makes of known samples.

    Attributes:
        predicted: the prediction of each sample, ``(B, N, hop)``.
        left: what the samples have beside it, in its standard deviations, ``(B, N, hop)``.
    """

    predicted: Tensor
    left: Tensor


class VocoderNetwork(nn.Module):
    """Draws samples of sound from log-mel frames by a recurrent layer and linear prediction.

    ::

        s_t  = p_t + g u_t,   p_t = sum of a_k s_(t-k)     a and g from the frame
        h    = recurrent([u before; mu-law of s before and of p_t; frame features])
        u_t  ~ logistic(mean, scale),   mean and scale of m samples from h

    A step draws ``m`` samples. The linear prediction does most, so that a small layer suffices:
    Valin and Skoglund 2019, "LPCNet: improving neural speech synthesis through linear prediction";
    recurrent vocoders, and several samples a step: Kalchbrenner et al. 2018, "Efficient neural
    audio synthesis"; Vipperla et al. 2020, "Bunched LPCNet".

    Args:
        encode: standardises the bands of a frame, ``(B, N, K)``.
        bands: ``K``.
        order: ``P``.
        hop: samples from frame to frame.
        per_step: ``m``, which divides ``hop``.
        recurrent: layers on ``2 m + 1 + size`` features, ``batch_first=True``, in one direction.
        size: features of a frame.

    Inputs are frames ``(B, N, K + P + 1)``: bands, coefficients and ``g``.
    """

    def __init__(
        self,
        encode: Standardize,
        bands: int,
        order: int,
        hop: int,
        per_step: int,
        recurrent: Recurrent,
        size: int,
    ) -> None:
        super().__init__()
        if hop % per_step:
            raise OstinatoError(
                f"VocoderNetwork: samples_per_step={per_step} does not divide the {hop} samples "
                "from frame to frame; choose one that does, such as 1."
            )
        I = 2 * per_step + 1 + size
        if recurrent.input_size != I or recurrent.bidirectional:
            raise OstinatoError(
                f"VocoderNetwork: recurrent is {recurrent}; expected one direction and {I} input "
                "features."
            )
        self.encode, self.bands, self.order = encode, bands, order
        self.hop, self.per_step = hop, per_step
        self.around = nn.Conv1d(bands, size, 3, padding=1)
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.output_size, 2 * per_step)

    def conditions(self, x: Tensor) -> Tensor:
        """Return features of each frame and its neighbours, ``(B, N, size)``."""
        v = self.encode(x[..., : self.bands])
        found: Tensor = self.around(v.transpose(1, 2)).transpose(1, 2).tanh()
        return found

    def features(self, x: Tensor) -> Tensor:
        """Return features of each step, ``(B, N * hop / m, size)``: from frame to frame a line."""
        c = self.conditions(x)
        after = torch.cat([c[:, 1:], c[:, -1:]], 1)
        n = self.hop // self.per_step
        w = (torch.arange(n, device=x.device, dtype=x.dtype) / n)[:, None]
        return (c[:, :, None] * (1 - w) + after[:, :, None] * w).flatten(1, 2)

    def excite(self, x: Tensor, samples: Tensor) -> Excitation:
        """Return what linear prediction makes of samples ``(B, N, hop)``."""
        B, N, hop = samples.shape
        a = x[..., self.bands : self.bands + self.order]  # (B, N, P)
        g = x[..., -1:].clamp(min=1e-4)  # 0 in padding
        padded = F.pad(samples.flatten(1), (self.order, 0))[:, :-1]
        past = padded.unfold(1, self.order, 1).flip(-1).view(B, N, hop, self.order)
        p = (past @ a[..., None])[..., 0]
        return Excitation(p, (samples - p) / g)

    def forward(self, x: Tensor, samples: Tensor) -> tuple[Tensor, Excitation]:
        """Return mean and logarithm of the scale of what each sample has beside its prediction.

        ``(B, N * hop / m, m, 2)``, given the samples before each step; and what they truly have.
        """
        if samples.dim() != 3 or samples.shape[-1] != self.hop or x.shape[:2] != samples.shape[:2]:
            raise ShapeError(
                f"VocoderNetwork: samples have shape {tuple(samples.shape)} for frames "
                f"{tuple(x.shape)}; expected (B, N, {self.hop})."
            )
        B, m = len(x), self.per_step
        found = self.excite(x, samples)
        steps = (samples, found.left, found.predicted)
        s, u, p = (each.flatten(1).view(B, -1, m) for each in steps)
        before = torch.cat([u.clamp(-8, 8) / 4, companded(s)], -1)
        v = torch.cat(
            [F.pad(before[:, :-1], (0, 0, 1, 0)), companded(p[..., :1]), self.features(x)], -1
        )
        h, _ = self.recurrent(v)
        return self.output(h).view(B, -1, m, 2), found

    def loss(self, x: Tensor, targets: Tensor, *, lengths: Lengths = None) -> tuple[Tensor, None]:
        """Compute the mean negative log-likelihood of a sample, in nats; and None as the state.

        It is that of ``u``. The first frame, before which nothing is known, and the last, of which
        there are no samples, do not count; 0 where there are no others.

        Args:
            x: frames ``(B, N, K + P + 1)``.
            targets: the samples after each frame, ``(B, N, hop)``.
            lengths: frames of each row, ``(B,)``.
        """
        y, found = self(x, targets)
        B, N, hop = targets.shape
        counts = running(x, lengths)  # (B, N)
        counts = counts & F.pad(counts[:, 1:], (0, 1))
        counts[:, 0] = False
        if not counts.any():
            return 0 * y.sum(), None
        mean, log_scale = y.view(B, N, hop, 2)[counts].unbind(-1)
        return logistic_loss(found.left[counts].clamp(-20, 20), mean, log_scale).mean(), None


def companded(x: Tensor) -> Tensor:
    """Return the mu-law of samples.

    >>> companded(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [-1.0, 0.0, 1.0]
    """
    return x.sign() * (MU * x.abs()).log1p() / torch.tensor(1 + MU).log()


def logistic_loss(u: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the negative logarithm of the density of the logistic distribution.

    >>> logistic_loss(torch.zeros(1), torch.zeros(1), torch.zeros(1)).exp().round().item()
    4.0
    """
    log_scale = log_scale.clamp(min=-7)
    z = (u - mean) / log_scale.exp()
    return z + log_scale + 2 * F.softplus(-z)
