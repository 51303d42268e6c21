"""Convolutions: over the steps of a series, and over the steps and bands of sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ostinato.errors import OstinatoError
from ostinato.networks.functional import Lengths, running, zero_padding

KERNELS = (9, 5, 3)
DILATIONS = (1, 2, 4, 8)

CHANNELS = (16, 16)
"""Features of each layer of `BandConvolutions`."""


class Convolutions(nn.Module):
    """Layers of convolutions over steps: features of the shape of a series around each step.

    ::

        layer   relu(norm([conv_1(x), conv_2(x), conv_4(x), conv_8(x)]))

    Three layers with batch normalisation beside a recurrent network are the LSTM-FCN of Karim et
    al. 2018, "LSTM fully convolutional networks for time series classification"; here the features
    of a layer are shared out among several dilations, so that it sees short and long shapes. What
    padding holds reaches neither a result nor the statistics of a batch.

    Args:
        input_size: features of a step, ``I``.
        size: features of each layer, ``C``; rounded up to a multiple of the dilations' number.
        kernels: steps that a feature of each layer is made of; odd numbers.
        dilations: distances between these steps.
        causal: whether a step sees no later one.

    Attributes:
        output_size: ``C``.
        reach: steps that a causal result depends on, its own included.

    Example:
        >>> convolutions = Convolutions(2, 16)
        >>> convolutions(torch.randn(3, 50, 2), lengths=[50, 7, 0]).shape
        torch.Size([3, 50, 16])
    """

    def __init__(
        self,
        input_size: int,
        size: int,
        kernels: Sequence[int] = KERNELS,
        dilations: Sequence[int] = DILATIONS,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if any(k < 1 or k % 2 == 0 for k in kernels) or not dilations or min(dilations) < 1:
            raise OstinatoError(
                f"Convolutions(kernels={tuple(kernels)}, dilations={tuple(dilations)}): expected "
                "odd kernels, and dilations of 1 or more."
            )
        share = -(-size // len(dilations))
        self.output_size = share * len(dilations)
        self.reach = 1 + sum(k - 1 for k in kernels) * max(dilations)
        self.causal = causal
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for k in kernels:
            # A causal layer is padded on both sides, and its last steps are cut off.
            half = k - 1 if causal else k // 2
            parts = [
                nn.Conv1d(input_size, share, k, padding=d * half, dilation=d, bias=False)
                for d in dilations
            ]
            self.layers.append(nn.ModuleList(parts))
            self.norms.append(StepNorm(self.output_size))
            input_size = self.output_size

    def forward(self, x: Tensor, lengths: Lengths = None) -> Tensor:
        """Return features ``(B, T, C)`` of ``x (B, T, I)``, zeros in padding."""
        B, T, _ = x.shape
        if T == 0:
            return x.new_zeros(B, T, self.output_size)
        counts = None if lengths is None else running(x, lengths)
        h: Tensor = zero_padding(x, lengths).transpose(1, 2)  # (B, I, T)
        for parts, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(parts, nn.ModuleList)
            h = norm(torch.cat([part(h)[..., :T] for part in parts], dim=1), counts).relu()
        return h.transpose(1, 2)


class BandConvolutions(nn.Module):
    """Layers of convolutions over steps and bands: what sound is like around each step and band.

    ::

        layer   max_2(relu(norm(conv(x))))

    The weights are the same in all bands, and of two neighbouring bands the larger result is kept:
    so the resonances of a longer or shorter vocal tract, which are those of another a few bands
    higher or lower, are found as well. A step sees the two before and the two after it (with two
    layers). What padding holds reaches neither a result nor the statistics of a batch.

    Args:
        bands: features of a step, ``I``, in the order of their frequencies.
        channels: features of each layer for each of its bands.

    Attributes:
        output_size: features of a step in the result: the last channels times the bands that are
            left, half as many after each layer.

    Example:
        >>> convolutions = BandConvolutions(40)
        >>> convolutions(torch.randn(3, 50, 40), lengths=[50, 7, 0]).shape
        torch.Size([3, 50, 160])
    """

    def __init__(self, bands: int, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.bands = bands
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        before = 1
        for C in channels:
            self.layers.append(nn.Conv2d(before, C, 3, padding=1, bias=False))
            self.norms.append(StepNorm(C))
            before, bands = C, -(-bands // 2)
        self.output_size = before * bands

    def forward(self, x: Tensor, lengths: Lengths = None) -> Tensor:
        """Return features ``(B, T, output_size)`` of ``x (B, T, I)``, zeros in padding."""
        B, T, _ = x.shape
        if B == 0 or T == 0:
            return x.new_zeros(B, T, self.output_size)
        counts = running(x, lengths)
        h: Tensor = zero_padding(x, lengths)[:, None]  # (B, C, T, bands)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            # In memory features come last, so that a step is one piece: (B, T, bands, C).
            y = layer(h.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
            y = y[counts] if lengths is not None else y.flatten(0, 1)  # (N, bands, C)
            y = norm(y.flatten(0, 1)).relu().view(y.shape)
            y = F.max_pool2d(y.permute(0, 2, 1)[:, :, None], (1, 2), ceil_mode=True)[:, :, 0]
            h = y.new_zeros(B, T, *y.shape[:0:-1])  # (B, T, bands, C)
            h[counts] = y.permute(0, 2, 1)
            h = h.permute(0, 3, 1, 2)
        return h.transpose(1, 2).flatten(2)


class StepNorm(nn.BatchNorm1d):
    """Batch normalisation of features ``(B, C, T)`` over the steps that count, ``(B, T)``.

    Others become zeros. A batch with one value of each feature is normalised as in eval mode.
    """

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Return normalised features ``(B, C, T)``, or ``(N, C)`` if all count."""
        if counts is None:
            return self._normalized(x)
        steps = x.transpose(1, 2)  # (B, T, C)
        y = torch.zeros_like(steps)
        y[counts] = self._normalized(steps[counts])
        return y.transpose(1, 2)

    def _normalized(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, T)`` or ``(N, C)``."""
        training = self.training and x.numel() > self.num_features
        statistics = self.running_mean, self.running_var, self.weight, self.bias
        return F.batch_norm(x, *statistics, training, self.momentum or 0.0, self.eps)
