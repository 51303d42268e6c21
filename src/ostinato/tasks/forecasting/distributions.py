"""What a forecast says of a number: a distribution, made of what a network gives.

Letters: ``p (..., K)`` are a network's outputs, without bounds; ``z (...)`` numbers in the units of
the network, so that a number is ``location + scale z``, with ``location`` and ``scale`` ``(...)``.

Numbers are rounded as a rule: to whole ones where things are counted, to tenths of a degree. A
density of what lies on such a ``grain`` has no bound, so where there is one, what is learnt is the
probability of all that is rounded to a number, over ``grain``; and what is drawn is to be rounded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float64]
DistributionName = Literal["gaussian", "student", "negative-binomial", "quantiles"]


class Distribution(ABC):
    """A family of distributions, one for each ``p``.

    Attributes:
        size: outputs of the network that make one, K.
        centred: whether numbers may be shifted, not only scaled.
    """

    size: int
    centred = True

    @abstractmethod
    def loss(self, p: Tensor, z: Tensor, scale: Tensor, grain: Tensor) -> Tensor:
        """How badly each ``z`` is foretold, ``(...)``; ``grain`` is what it is rounded to, or 0."""

    @abstractmethod
    def point(self, p: Tensor, scale: Tensor) -> Tensor:
        """The middle ``(...)``, in the units of the network."""

    @abstractmethod
    def quantiles(
        self, p: Array, location: Array, scale: Array, grain: Array, levels: Sequence[float]
    ) -> Array:
        """The numbers below which shares ``levels`` lie, ``(..., levels)``, before rounding."""

    @abstractmethod
    def mean(self, p: Array, location: Array, scale: Array) -> Array:
        """Means, ``(...)``."""

    @abstractmethod
    def below(self, p: Array, y: Array, location: Array, scale: Array, grain: Array) -> Array:
        """The probability of a number below ``y``, half of that of ``y`` itself included."""

    @abstractmethod
    def sample(
        self, p: Array, location: Array, scale: Array, grain: Array, random: np.random.Generator
    ) -> Array:
        """A number of each, ``(...)``, before rounding."""


def _positive(p: Any) -> Any:
    """log(1 + e^p), and a little."""
    if isinstance(p, Tensor):
        return F.softplus(p) + 1e-4
    return np.logaddexp(0.0, p) + 1e-4


def _blurred(sigma: Any, grain: Any) -> Any:
    """A scale, no less than an eighth of the grain: narrower is not told from that."""
    return (sigma**2 + (grain / 8) ** 2) ** 0.5


def _mean_over_grain(loss: Callable[[Tensor], Tensor], z: Tensor, grain: Tensor) -> Tensor:
    """Of a negative log density that of its mean over what is rounded to ``z``, by Gauss-Legendre.

    Args:
        loss: of numbers ``(..., nodes)``.
        z: numbers ``(...)``.
        grain: what they are rounded to, ``(...)``; 0 for nothing.
    """
    if not grain.any():
        return loss(z[..., None])[..., 0]
    nodes, weights = (z.new_tensor(each / 2) for each in np.polynomial.legendre.leggauss(7))
    each = loss(z[..., None] + grain[..., None] * nodes)
    return -torch.logsumexp(weights.log() - each, -1)


class Gaussian(Distribution):
    """Mean p_1, standard deviation log(1 + e^p_2).

    >>> p = torch.tensor([0.0, 0.5413])  # mean 0, standard deviation 1
    >>> round(Gaussian().loss(p, torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)).item(), 3)
    0.919
    >>> Gaussian().quantiles(p.numpy(), 10.0, 2.0, 0.0, [0.5, 0.975]).round(2).tolist()
    [10.0, 13.92]
    """

    size = 2

    @staticmethod
    def _parts(p: Any, grain: Any) -> tuple[Any, Any]:
        return p[..., 0], _blurred(_positive(p[..., 1]), grain)

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, grain: Tensor) -> Tensor:
        """Negative log-likelihood of ``z``, in nats."""
        mean, sigma = (part[..., None] for part in self._parts(p, grain))

        def exact(z: Tensor) -> Tensor:
            found: Tensor = ((z - mean) / sigma) ** 2 / 2 + sigma.log() + math.log(2 * math.pi) / 2
            return found

        return _mean_over_grain(exact, z, grain)

    def point(self, p: Tensor, scale: Tensor) -> Tensor:
        """The mean."""
        return p[..., 0]

    def quantiles(
        self, p: Array, location: Array, scale: Array, grain: Array, levels: Sequence[float]
    ) -> Array:
        """As `Distribution.quantiles`."""
        mean, sigma = (part[..., None] for part in self._parts(p, grain / scale))
        z = mean + sigma * special.ndtri(np.asarray(levels))
        return np.asarray(np.asarray(location)[..., None] + np.asarray(scale)[..., None] * z)

    def mean(self, p: Array, location: Array, scale: Array) -> Array:
        """As `Distribution.mean`."""
        return np.asarray(location + scale * p[..., 0])

    def below(self, p: Array, y: Array, location: Array, scale: Array, grain: Array) -> Array:
        """As `Distribution.below`."""
        mean, sigma = self._parts(p, grain / scale)
        return np.asarray(special.ndtr(((y - location) / scale - mean) / sigma))

    def sample(
        self, p: Array, location: Array, scale: Array, grain: Array, random: np.random.Generator
    ) -> Array:
        """As `Distribution.sample`."""
        mean, sigma = self._parts(p, grain / scale)
        return np.asarray(location + scale * (mean + sigma * random.standard_normal(mean.shape)))


class StudentT(Distribution):
    """Student's t of 2 + log(1 + e^p_3) degrees of freedom: as `Gaussian`, but surprises happen.

    >>> p = torch.tensor([0.0, 0.5413, 5.0])
    >>> StudentT().quantiles(p.double().numpy(), 0.0, 1.0, 0.0, [0.5, 0.99]).round(2).tolist()
    [0.0, 3.0]
    """

    size = 3

    @staticmethod
    def _parts(p: Any, grain: Any) -> tuple[Any, Any, Any]:
        sigma = _blurred(_positive(p[..., 1]), grain)
        return p[..., 0], sigma, 2 + _positive(p[..., 2])

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, grain: Tensor) -> Tensor:
        """Negative log-likelihood of ``z``, in nats."""
        middle, sigma, nu = (part[..., None] for part in self._parts(p, grain))
        constant = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + (math.pi * nu).log() / 2

        def exact(z: Tensor) -> Tensor:
            square = ((z - middle) / sigma) ** 2
            found: Tensor = (nu + 1) / 2 * torch.log1p(square / nu) + sigma.log() + constant
            return found

        return _mean_over_grain(exact, z, grain)

    def point(self, p: Tensor, scale: Tensor) -> Tensor:
        """The median, which is the mean."""
        return p[..., 0]

    def quantiles(
        self, p: Array, location: Array, scale: Array, grain: Array, levels: Sequence[float]
    ) -> Array:
        """As `Distribution.quantiles`."""
        middle, sigma, nu = (part[..., None] for part in self._parts(p, grain / scale))
        z = middle + sigma * special.stdtrit(nu, np.asarray(levels))
        return np.asarray(np.asarray(location)[..., None] + np.asarray(scale)[..., None] * z)

    def mean(self, p: Array, location: Array, scale: Array) -> Array:
        """As `Distribution.mean`."""
        return np.asarray(location + scale * p[..., 0])

    def below(self, p: Array, y: Array, location: Array, scale: Array, grain: Array) -> Array:
        """As `Distribution.below`."""
        middle, sigma, nu = self._parts(p, grain / scale)
        return np.asarray(special.stdtr(nu, ((y - location) / scale - middle) / sigma))

    def sample(
        self, p: Array, location: Array, scale: Array, grain: Array, random: np.random.Generator
    ) -> Array:
        """As `Distribution.sample`."""
        middle, sigma, nu = self._parts(p, grain / scale)
        return np.asarray(location + scale * (middle + sigma * random.standard_t(nu)))


class NegativeBinomial(Distribution):
    """Counts of mean ``scale`` log(1 + e^p_1) = m and variance m + m^2 / log(1 + e^p_2).

    Salinas et al. 2020, "DeepAR", eq. 4, with their alpha = 1 / log(1 + e^p_2).

    >>> p = np.array([0.5413, 0.5413])  # mean and shape 1, times a scale of 3
    >>> float(NegativeBinomial().mean(p, 0.0, 3.0).round(2))
    3.0
    """

    size = 2
    centred = False

    @staticmethod
    def _parts(p: Any, scale: Any) -> tuple[Any, Any]:
        return scale * _positive(p[..., 0]), _positive(p[..., 1])

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, grain: Tensor) -> Tensor:
        """Negative log-likelihood of the count ``scale z``, in nats."""
        mean, r = self._parts(p, scale)
        y = (scale * z).round().clamp(min=0)
        both = (r + mean).log()
        found: Tensor = (
            torch.lgamma(r) + torch.lgamma(y + 1) - torch.lgamma(y + r)
            - r * (r.log() - both) - y * (mean.log() - both)
        )  # fmt: skip
        return found

    def point(self, p: Tensor, scale: Tensor) -> Tensor:
        """The mean."""
        return _positive(p[..., 0])  # type: ignore[no-any-return]

    def _stats(self, p: Array, scale: Array) -> tuple[Array, Array]:
        mean, r = self._parts(p, scale)
        return r, r / (r + mean)

    def quantiles(
        self, p: Array, location: Array, scale: Array, grain: Array, levels: Sequence[float]
    ) -> Array:
        """As `Distribution.quantiles`; whole numbers."""
        r, share = (part[..., None] for part in self._stats(p, scale))
        return np.asarray(stats.nbinom.ppf(np.asarray(levels), r, share))

    def mean(self, p: Array, location: Array, scale: Array) -> Array:
        """As `Distribution.mean`."""
        return np.asarray(self._parts(p, scale)[0])

    def below(self, p: Array, y: Array, location: Array, scale: Array, grain: Array) -> Array:
        """As `Distribution.below`."""
        r, share = self._stats(p, scale)
        return np.asarray(
            stats.nbinom.cdf(np.floor(y), r, share) - stats.nbinom.pmf(y, r, share) / 2
        )

    def sample(
        self, p: Array, location: Array, scale: Array, grain: Array, random: np.random.Generator
    ) -> Array:
        """As `Distribution.sample`."""
        return random.negative_binomial(*self._stats(p, scale)).astype(np.float64)


class Quantiles(Distribution):
    """Quantiles themselves, without a form: the median p_1, the others by distances from it.

    Their loss is the mean of what each is off by, weighed by its level (Koenker and Bassett 1978),
    twice: the continuous ranked probability score, as far as these levels tell.

    >>> found = Quantiles().quantiles(np.zeros(Quantiles.size), 5.0, 1.0, 0.0, [0.1, 0.5, 0.9])
    >>> bool(found[0] < found[1] == 5.0 < found[2])
    True
    """

    LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    size = len(LEVELS)
    MIDDLE = size // 2

    def _values(self, p: Any) -> Any:
        """Quantiles ``(..., K)`` that never cross."""
        middle, steps = p[..., :1], _positive(p[..., 1:]) / 4
        down, up = steps[..., : self.MIDDLE], steps[..., self.MIDDLE :]
        if isinstance(p, Tensor):
            return torch.cat(
                [(middle - down.cumsum(-1)).flip(-1), middle, middle + up.cumsum(-1)], -1
            )
        down, up = np.cumsum(down, -1)[..., ::-1], np.cumsum(up, -1)
        return np.concatenate([middle - down, middle, middle + up], -1)

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, grain: Tensor) -> Tensor:
        """Twice the mean pinball loss."""
        off = z[..., None] - self._values(p)
        levels = off.new_tensor(self.LEVELS)
        return 2 * torch.maximum(levels * off, (levels - 1) * off).mean(-1)

    def point(self, p: Tensor, scale: Tensor) -> Tensor:
        """The median."""
        return p[..., 0]

    def quantiles(
        self, p: Array, location: Array, scale: Array, grain: Array, levels: Sequence[float]
    ) -> Array:
        """As `Distribution.quantiles`, straight between the network's levels and beyond them."""
        values = self._values(p)
        known, wanted = np.asarray(self.LEVELS), np.asarray(levels)
        at = np.clip(np.searchsorted(known, wanted) - 1, 0, len(known) - 2)
        low, high = values[..., at], values[..., at + 1]
        z = low + (high - low) * (wanted - known[at]) / (known[at + 1] - known[at])
        return np.asarray(np.asarray(location)[..., None] + np.asarray(scale)[..., None] * z)

    def mean(self, p: Array, location: Array, scale: Array) -> Array:
        """As `Distribution.mean`, of evenly spaced quantiles."""
        return np.asarray(
            self.quantiles(
                p, location, scale, np.zeros(()), np.arange(0.01, 1, 0.02).tolist()
            ).mean(-1)
        )

    def below(self, p: Array, y: Array, location: Array, scale: Array, grain: Array) -> Array:
        """As `Distribution.below`, straight between the network's levels."""
        levels = np.linspace(0.005, 0.995, 199).tolist()
        return np.asarray(
            (self.quantiles(p, location, scale, grain, levels) < np.asarray(y)[..., None]).mean(-1)
        )

    def sample(
        self, p: Array, location: Array, scale: Array, grain: Array, random: np.random.Generator
    ) -> Array:
        """As `Distribution.sample`."""
        values, known = self._values(p), np.asarray(self.LEVELS)
        u = random.random(p.shape[:-1])
        at = np.clip(np.searchsorted(known, u) - 1, 0, len(known) - 2)
        low = np.take_along_axis(values, at[..., None], -1)[..., 0]
        high = np.take_along_axis(values, at[..., None] + 1, -1)[..., 0]
        z = low + (high - low) * (u - known[at]) / (known[at + 1] - known[at])
        return np.asarray(location + scale * z)


DISTRIBUTIONS: dict[str, Distribution] = {
    "gaussian": Gaussian(),
    "student": StudentT(),
    "negative-binomial": NegativeBinomial(),
    "quantiles": Quantiles(),
}
