"""Predictive distributions: what the outputs of a network say about a number.

Letters: ``p (..., K)`` are outputs of a network, unbounded; ``z (...)`` are values in the units of
the network. A value in the units of the data is ``location + scale z``, see `Units`.

Values are usually rounded: counts to whole numbers, temperatures to tenths of a degree. A density
of values of such a ``resolution`` has no upper bound, so the loss is that of the probability of
everything that is rounded to a value, over the resolution; and samples are to be rounded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, special, stats
from torch import Tensor
from torch.nn import functional as F

Array = NDArray[np.float64]
Numbers = TypeVar("Numbers", Tensor, Array)
DistributionName = Literal["gaussian", "student", "negative-binomial", "quantiles"]


class Units(NamedTuple):
    """Units of each window, ``(B,)``: a value is ``location + scale z``.

    Attributes:
        location: the value at ``z = 0``.
        scale: the length of one unit.
        resolution: multiples that values are rounded to; 0 for none.
        lower_bound: the smallest possible value: 0 where no value of the past is negative, else
            -inf.
    """

    location: Array
    scale: Array
    resolution: Array
    lower_bound: Array

    @classmethod
    def concatenate(cls, parts: Sequence[Units]) -> Units:
        """Units of several batches of windows, one after the other."""
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def expand(self, dims: int = 1) -> Units:
        """The same with ``dims`` axes of length 1 appended."""
        return Units(*(part.reshape(*part.shape, *[1] * dims) for part in self))

    def take(self, row: int) -> Units:
        """Units of one window, as arrays ``()``."""
        return Units(*(part[row] for part in self))

    def values(self, z: Array) -> Array:
        """Return the values ``location + scale z`` of ``z (B, ...)``."""
        units = self.expand(z.ndim - self.location.ndim)
        return np.asarray(units.location + units.scale * z)

    def round(self, values: Array) -> Array:
        """Round values ``(B, ...)`` to the resolution and clip them at the lower bound."""
        units = self.expand(values.ndim - self.location.ndim)
        rounds = units.resolution > 0
        step = np.where(rounds, units.resolution, 1.0)
        found = np.round(values / step)
        found *= step
        if not rounds.all():
            found = np.where(rounds, found, values)
        return np.maximum(found, units.lower_bound)


class Distribution(ABC):
    """A family of distributions, one for each ``p``.

    Attributes:
        size: outputs of the network for one distribution, K.
        centered: whether values may be shifted by a location, not only scaled.
    """

    size: int
    centered = True

    @abstractmethod
    def loss(self, p: Tensor, z: Tensor, scale: Tensor, resolution: Tensor) -> Tensor:
        """Return the loss of each ``z``, ``(...)``.

        Args:
            p: outputs ``(..., K)``.
            z: observed values ``(...)``.
            scale: units of the data per unit of ``z``; broadcasts to ``z``.
            resolution: what values are rounded to, in the units of ``z``, 0 for nothing.
        """

    @abstractmethod
    def point(self, p: Tensor) -> Tensor:
        """Return the center ``(...)``, in the units of the network."""

    @abstractmethod
    def quantiles(self, p: Array, units: Units, levels: Sequence[float]) -> Array:
        """Return quantiles at ``levels``, ``(..., levels)``, before rounding."""

    @abstractmethod
    def mean(self, p: Array, units: Units) -> Array:
        """Return means, ``(...)``."""

    @abstractmethod
    def cdf(self, p: Array, y: Array, units: Units) -> Array:
        """Return the probability of a value of at most ``y``, before rounding, ``(...)``."""

    @abstractmethod
    def sample(self, p: Array, units: Units, u: Array) -> Array:
        """Return the value of each distribution below which a share ``u (...)`` lies.

        Of uniform random shares they are samples, ``(...)``, before rounding. Distributions and
        shares broadcast.
        """


def _positive(p: Numbers) -> Numbers:
    """log(1 + e^p), and a little."""
    if isinstance(p, Tensor):
        return F.softplus(p) + 1e-4
    return np.logaddexp(0.0, p) + 1e-4


class LocationScale(Distribution):
    """A standard distribution, shifted by p_1 and stretched by log(1 + e^p_2)."""

    _quantile: np.ufunc  # of the standard distribution, after what `_shape` returns
    _cdf: np.ufunc

    @abstractmethod
    def _standard_loss(self, p: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor | float]:
        """Return -log density of the standard distribution, a function of z^2 and a constant."""

    @abstractmethod
    def _standard_sample(self, p: Array, u: Array) -> Array:
        """Return quantiles of the standard distribution at ``u``, to three digits."""

    def _shape(self, p: Array) -> tuple[Array, ...]:
        """Return parameters of the standard distribution."""
        return ()

    @staticmethod
    def _location_and_scale(p: Numbers, resolution: Numbers) -> tuple[Numbers, Numbers]:
        """Shift and stretch; no less than an eighth of the resolution, which tells no more."""
        sigma = (_positive(p[..., 1]) ** 2 + (resolution / 8) ** 2) ** 0.5
        return p[..., 0], sigma

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, resolution: Tensor) -> Tensor:
        """Return the negative log-likelihood of everything that is rounded to ``z``, in nats.

        That is of the mean density, by Gauss-Legendre quadrature.
        """
        mean, sigma = (part[..., None] for part in self._location_and_scale(p, resolution))
        standard, constant = self._standard_loss(p)

        def loss(z: Tensor) -> Tensor:
            return standard(((z - mean) / sigma) ** 2) + sigma.log() + constant

        if not resolution.any():
            return loss(z[..., None])[..., 0]
        nodes, weights = (z.new_tensor(each / 2) for each in np.polynomial.legendre.leggauss(7))
        each = loss(z[..., None] + resolution[..., None] * nodes)
        return -torch.logsumexp(weights.log() - each, -1)

    def point(self, p: Tensor) -> Tensor:
        """Return the median, which is the mean."""
        return p[..., 0]

    def quantiles(self, p: Array, units: Units, levels: Sequence[float]) -> Array:
        mean, sigma = self._location_and_scale(p, units.resolution / units.scale)
        standard = self._quantile(*(part[..., None] for part in self._shape(p)), np.asarray(levels))
        return units.values(mean[..., None] + sigma[..., None] * standard)

    def mean(self, p: Array, units: Units) -> Array:
        return units.values(p[..., 0])

    def cdf(self, p: Array, y: Array, units: Units) -> Array:
        mean, sigma = self._location_and_scale(p, units.resolution / units.scale)
        z = ((y - units.location) / units.scale - mean) / sigma
        return np.asarray(self._cdf(*self._shape(p), z))

    def sample(self, p: Array, units: Units, u: Array) -> Array:
        mean, sigma = self._location_and_scale(p, units.resolution / units.scale)
        return units.values(mean + sigma * self._standard_sample(p, u))


class Gaussian(LocationScale):
    """Mean p_1, standard deviation log(1 + e^p_2).

    >>> p = torch.tensor([0.0, 0.5413])  # mean 0, standard deviation 1
    >>> round(Gaussian().loss(p, torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.0)).item(), 3)
    0.919
    >>> units = Units(*map(np.array, (10.0, 2.0, 0.0, -np.inf)))
    >>> Gaussian().quantiles(p.numpy(), units, [0.5, 0.975]).round(2).tolist()
    [10.0, 13.92]
    """

    size = 2
    _quantile, _cdf = special.ndtri, special.ndtr

    def _standard_loss(self, p: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
        return (lambda square: square / 2), math.log(2 * math.pi) / 2

    def _standard_sample(self, p: Array, u: Array) -> Array:
        return np.asarray(special.ndtri(u))


class StudentT(LocationScale):
    """Student's t of 2 + log(1 + e^p_3) degrees of freedom: as `Gaussian`, with heavier tails.

    >>> p, units = np.array([0.0, 0.5413, 5.0]), Units(*map(np.array, (0.0, 1.0, 0.0, -np.inf)))
    >>> StudentT().quantiles(p, units, [0.5, 0.99]).round(2).tolist()
    [0.0, 3.0]
    """

    size = 3
    _quantile, _cdf = special.stdtrit, special.stdtr

    @staticmethod
    def _freedom(p: Numbers) -> Numbers:
        return 2 + _positive(p[..., 2])

    def _shape(self, p: Array) -> tuple[Array, ...]:
        return (self._freedom(p),)

    def _standard_loss(self, p: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        nu = self._freedom(p)[..., None]
        constant = torch.lgamma(nu / 2) - torch.lgamma((nu + 1) / 2) + (math.pi * nu).log() / 2
        return (lambda square: (nu + 1) / 2 * torch.log1p(square / nu)), constant

    def _standard_sample(self, p: Array, u: Array) -> Array:
        nu, x = self._freedom(p), special.ndtri(u)
        at = np.broadcast_arrays(np.abs(x) * TABLE_STEPS, 2 / nu * (TABLE_SIZE - 1))
        r = ndimage.map_coordinates(_student_table(), at, order=1, mode="nearest")
        return np.asarray(np.copysign(np.sqrt(nu * np.expm1(r**2 / nu)), x))


TABLE_SIZE = 65
TABLE_STEPS = 32
"""Of `_student_table`: rows for each unit of x."""


@lru_cache(maxsize=1)
def _student_table() -> Array:
    """Tabulate r = sqrt(nu log(1 + t^2 / nu)) by x >= 0 and 2 / nu, from 0 to 1.

    t is the quantile of Student's t, x that of a Gaussian at the same level; r is nearly x (Wallace
    1959, "Bounds on normal approximations to Student's and the chi-square distributions"), so that
    straight lines between the table's nodes are exact enough, and SciPy's own takes too long.
    """
    x = np.arange(8 * TABLE_STEPS + 1)[:, None] / TABLE_STEPS
    nu = 2 / np.linspace(1e-6, 1, TABLE_SIZE)
    t = special.stdtrit(nu, special.ndtr(-x))
    return np.asarray(np.sqrt(nu * np.log1p(t**2 / nu)))


class NegativeBinomial(Distribution):
    """Counts of mean ``scale`` log(1 + e^p_1) = m and variance m + m^2 / log(1 + e^p_2).

    Salinas et al. 2020, "DeepAR", eq. 4, with their alpha = 1 / log(1 + e^p_2).

    >>> p = np.array([0.5413, 0.5413])  # mean and shape 1, times a scale of 3
    >>> units = Units(*map(np.array, (0.0, 3.0, 1.0, 0.0)))
    >>> float(NegativeBinomial().mean(p, units).round(2))
    3.0
    """

    size = 2
    centered = False

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, resolution: Tensor) -> Tensor:
        """Return the negative log-likelihood of the count ``scale z``, in nats."""
        mean, r = scale * _positive(p[..., 0]), _positive(p[..., 1])
        y = (scale * z).round().clamp(min=0)
        both = (r + mean).log()
        found: Tensor = (
            torch.lgamma(r) + torch.lgamma(y + 1) - torch.lgamma(y + r)
            - r * (r.log() - both) - y * (mean.log() - both)
        )  # fmt: skip
        return found

    def point(self, p: Tensor) -> Tensor:
        """Return the mean."""
        return _positive(p[..., 0])

    def _size_and_probability(self, p: Array, units: Units) -> tuple[Array, Array]:
        """Return SciPy's n and p."""
        r = _positive(p[..., 1])
        return r, r / (r + self.mean(p, units))

    def quantiles(self, p: Array, units: Units, levels: Sequence[float]) -> Array:
        """As `Distribution.quantiles`; whole numbers."""
        r, share = (part[..., None] for part in self._size_and_probability(p, units))
        return np.asarray(stats.nbinom.ppf(np.asarray(levels), r, share))

    def mean(self, p: Array, units: Units) -> Array:
        return np.asarray(units.scale * _positive(p[..., 0]))

    def cdf(self, p: Array, y: Array, units: Units) -> Array:
        return np.asarray(stats.nbinom.cdf(y, *self._size_and_probability(p, units)))

    def sample(self, p: Array, units: Units, u: Array) -> Array:
        return np.asarray(stats.nbinom.ppf(u, *self._size_and_probability(p, units)))


class Quantiles(Distribution):
    """Quantiles without a parametric form: the median p_1, the others by distances from it.

    The loss is twice the mean pinball loss (Koenker and Bassett 1978): the continuous ranked
    probability score, as far as these levels tell.

    >>> units = Units(*map(np.array, (5.0, 1.0, 0.0, -np.inf)))
    >>> found = Quantiles().quantiles(np.zeros(Quantiles.size), units, [0.1, 0.5, 0.9])
    >>> bool(found[0] < found[1] == 5.0 < found[2])
    True
    """

    LEVELS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    size = len(LEVELS)
    MEDIAN = size // 2

    def _values(self, p: Numbers) -> Numbers:
        """Return quantiles ``(..., K)`` that never cross."""
        median, steps = p[..., :1], _positive(p[..., 1:]) / 4
        down, up = steps[..., : self.MEDIAN], steps[..., self.MEDIAN :]
        if isinstance(p, Tensor):
            parts = (median - down.cumsum(-1)).flip(-1), median, median + up.cumsum(-1)
            return torch.cat(parts, -1)
        below = np.cumsum(down, -1)[..., ::-1]
        return np.concatenate([median - below, median, median + np.cumsum(up, -1)], -1)

    def loss(self, p: Tensor, z: Tensor, scale: Tensor, resolution: Tensor) -> Tensor:
        """Return twice the mean pinball loss."""
        error = z[..., None] - self._values(p)
        levels = error.new_tensor(self.LEVELS)
        return 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1)

    def point(self, p: Tensor) -> Tensor:
        """Return the median."""
        return p[..., 0]

    def _at(self, p: Array, levels: Array) -> Array:
        """Quantiles at ``levels (..., L)``: linear between the network's levels and beyond them."""
        known, values = np.asarray(self.LEVELS), self._values(p)
        at = np.clip(np.searchsorted(known, levels) - 1, 0, self.size - 2)  # the level below
        rows = np.broadcast_to(at, np.broadcast_shapes(at.shape, (*p.shape[:-1], 1)))
        low, high = (np.take_along_axis(values, rows + k, -1) for k in (0, 1))
        return np.asarray(low + (high - low) * (levels - known[at]) / (known[at + 1] - known[at]))

    def quantiles(self, p: Array, units: Units, levels: Sequence[float]) -> Array:
        return units.values(self._at(p, np.asarray(levels)))

    def mean(self, p: Array, units: Units) -> Array:
        """As `Distribution.mean`, of evenly spaced quantiles."""
        found = self.quantiles(p, units, np.arange(0.01, 1, 0.02).tolist())
        return np.asarray(np.asfortranarray(found).mean(-1))  # summed level by level

    def cdf(self, p: Array, y: Array, units: Units) -> Array:
        """As `Distribution.cdf`, by evenly spaced quantiles."""
        levels = np.linspace(0.005, 0.995, 199).tolist()
        return np.asarray((self.quantiles(p, units, levels) <= y[..., None]).mean(-1))

    def sample(self, p: Array, units: Units, u: Array) -> Array:
        return units.values(self._at(p, u[..., None])[..., 0])


DISTRIBUTIONS: dict[DistributionName, Distribution] = {
    "gaussian": Gaussian(),
    "student": StudentT(),
    "negative-binomial": NegativeBinomial(),
    "quantiles": Quantiles(),
}
