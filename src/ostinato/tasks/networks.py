"""Networks of tasks: each built from inputs, targets and architecture settings by one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ostinato.data.inputs import Inputs
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import (
    CellChoice,
    ManyToOne,
    OneToOne,
    PoolingKind,
    recurrent_layers,
)
from ostinato.networks.convolution import BandConvolutions, Convolutions
from ostinato.networks.inputs import Standardize, WordEncoder
from ostinato.networks.outputs import Output
from ostinato.recurrence.cells import Initialization, name_of
from ostinato.recurrence.layers import Recurrent
from ostinato.training.settings import check_value

NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkSettings:
    """The recurrent layers.

    Args:
        cell: lstm, gru, gru-reset-before, rnn (tanh), rnn-relu (starting from the identity); a
            variant of `ostinato.cells`; or a cell of your own, package.module:MyCell, in Python its
            class or an instance.
        hidden_size: hidden units of each layer and direction; by the size of the data if not given.
        num_layers: recurrent layers.
        init: initialisation of the recurrent layers: pytorch, orthogonal, identity, or chrono, for
            dependencies as long as the longest sequence.
        dropout: share of features dropped before and between layers, the same at every step, and
            before the output; by the size of the data if not given.
        weight_dropout: share of recurrent weights dropped.
        zoneout: share of units that keep their state in a step.
        residual: whether layers add their input to their output, so that many can be trained.
    """

    cell: CellChoice = "gru"
    hidden_size: int | None = None
    num_layers: int = 1
    init: Initialization = "orthogonal"
    dropout: float | None = None
    weight_dropout: float = 0.0
    zoneout: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        """Keep the name of a cell that is given as a class or an instance."""
        self.cell = name_of(self.cell)

    def architecture(self, resolved: Mapping[str, Any]) -> Architecture:
        """Return the settings with those filled in that were not given."""
        given = {field.name: getattr(self, field.name) for field in fields(NetworkSettings)}
        known = {name: resolved[name] for name in given if given[name] is None}
        return Architecture(**given | known, init_steps=resolved.get("init_steps") or 100)


@dataclass(kw_only=True, eq=False, repr=False)
class EncoderSettings:
    """How the network reads sequences.

    Args:
        bidirectional: whether to read in both directions, so that a step may use the future.
        recurrent: False trains the same network without recurrence, as a baseline.
        embedding_size: features of a word's own vector.
        spelling_size: features that a small network makes of a word's letters; 0 for none.
        affix_size: features of a word's prefixes, suffixes and shape (capitals, digits, marks); 0
            for none.
        word_dropout: share of words, and of affixes and shapes, taken for unknown while training.
    """

    bidirectional: bool = True
    recurrent: bool = True
    embedding_size: int = 100
    spelling_size: int = 64
    affix_size: int = 0
    word_dropout: float = 0.3


@dataclass(kw_only=True, eq=False, repr=False)
class PoolingSettings(EncoderSettings):
    """How the steps of a sequence become one prediction.

    Args:
        pooling: how hidden states are pooled: last (the last one), mean or max of them all, or
            attention (a mean weighted by relevance); if not given, mean with convolutions, and
            attention without.
        convolutions: whether layers of convolutions read the steps beside the recurrent layers; if
            not given, where series without missing values are classified by all their steps.
        band_convolutions: whether layers of convolutions over time and bands read sound before the
            recurrent layers, so that a voice with other resonances is understood as well; if not
            given, wherever it is read in both directions.
    """

    pooling: PoolingKind | None = None
    convolutions: bool | None = None
    band_convolutions: bool | None = None

    def convolves(self, inputs: Inputs) -> bool:
        """Return whether there are convolutions; an `OstinatoError` if there cannot be any."""
        if self.convolutions is None:
            whole = inputs.kind == "series" and not inputs.missing
            return whole and self.recurrent and self.pooling != "last"
        alone = not self.recurrent or (inputs.kind == "image" and inputs.form == "whole")
        if self.convolutions and (inputs.lexicon is not None or alone or inputs.missing):
            missing = ", some missing" if inputs.missing else ""
            raise OstinatoError(
                f"{type(self).__name__}: convolutions=True; expected recurrent=True and several "
                "steps that are measurements, none missing, got "
                f"recurrent={self.recurrent} and {inputs.kind}{missing}."
            )
        return self.convolutions

    def convolves_bands(self, inputs: Inputs) -> bool:
        """Return whether convolutions read bands; an `OstinatoError` if there cannot be any."""
        can = inputs.kind == "sound" and self.recurrent and self.bidirectional
        if self.band_convolutions and not can:
            raise OstinatoError(
                f"{type(self).__name__}: band_convolutions=True; expected recordings, "
                f"recurrent=True and bidirectional=True, got {inputs.kind}, "
                f"recurrent={self.recurrent} and bidirectional={self.bidirectional}."
            )
        return can if self.band_convolutions is None else self.band_convolutions


def check_sizes(settings: object, names: str) -> None:
    """Raise an `OstinatoError` unless settings are sizes; see `check_value`."""
    expected = "a whole number above zero, below 2**24"
    check_value(settings, names, lambda n: 0 < n < 2**24, expected)


def check_shares(settings: object, names: str) -> None:
    """Raise an `OstinatoError` unless settings are shares; see `check_value`."""
    check_value(settings, names, lambda v: 0 <= v < 1, "a share from 0 to below 1")


@dataclass(kw_only=True, eq=False)
class Architecture(NetworkSettings):
    """Recurrent layers with every size resolved, and the steps that chrono reckons with.

    >>> Architecture(hidden_size=8, init="pytorch").layers(3, bidirectional=True)
    GRU(3, 8, batch_first=True, bidirectional=True)
    """

    hidden_size: int = 64
    dropout: float = 0.0
    init_steps: int = 100

    def layers(self, input_size: int, hidden_size: int | None = None, **options: Any) -> Recurrent:
        """Return recurrent layers on so many features; ``options`` are of `Recurrent`."""
        return recurrent_layers(
            self.cell,
            input_size,
            hidden_size or self.hidden_size,
            self.num_layers,
            weight_dropout=self.weight_dropout,
            init=self.init,
            init_steps=self.init_steps,
            zoneout=self.zoneout,
            residual=self.residual,
            **{"variational_dropout": self.dropout if self.num_layers > 1 else 0.0} | options,
        )


def pooled_network(
    inputs: Inputs,
    head: Callable[[int, float], Output],
    how: Architecture,
    settings: PoolingSettings,
) -> ManyToOne | OneToOne:
    """Return a network with an output for each sequence; arguments as of `encoder_network`."""
    convolutions = settings.convolves(inputs)
    pooling = settings.pooling or ("mean" if convolutions else "attention")
    make = partial(ManyToOne, pooling=pooling)
    front = BandConvolutions(inputs.features) if settings.convolves_bands(inputs) else None
    return encoder_network(
        inputs, head, how, settings, make, pooled=True, convolutions=convolutions, front=front
    )


def encoder(inputs: Inputs, settings: EncoderSettings) -> tuple[WordEncoder | Standardize, int]:
    """Return the module that makes vectors of inputs, and their size."""
    if inputs.lexicon is not None:
        words = WordEncoder(
            len(inputs.lexicon.words) + 1,
            settings.embedding_size,
            len(inputs.lexicon.characters) + 1,
            settings.spelling_size,
            settings.word_dropout,
            len(inputs.lexicon.affixes),
            settings.affix_size,
        )
        return words, words.output_size
    return Standardize(torch.tensor(inputs.mean), torch.tensor(inputs.scale)), inputs.features


def encoder_network(
    inputs: Inputs,
    head: Callable[[int, float], Output],
    how: Architecture,
    settings: EncoderSettings,
    make: Callable[..., NetworkT],
    *,
    pooled: bool,
    convolutions: bool = False,
    front: BandConvolutions | None = None,
) -> NetworkT | OneToOne:
    """Return a network with an output for each step, or, ``pooled``, for each sequence.

    ``head`` makes the output layer, of a number of features and a dropout; ``make`` the network, of
    encoder, recurrent layers and output layer, of ``convolutions`` beside the recurrent layers, and
    of the ``front`` before them.
    """
    encode, features = encoder(inputs, settings)
    width = how.hidden_size * (2 if settings.bidirectional else 1)
    more: dict[str, Any] = {}
    if convolutions:
        beside = Convolutions(features, how.hidden_size, causal=not settings.bidirectional)
        width, more["convolutions"] = width + beside.output_size, beside
    output = head(width, how.dropout)
    if not settings.recurrent or (pooled and inputs.kind == "image" and inputs.form == "whole"):
        sizes = [width] * (how.num_layers + 1)
        return OneToOne(encode, features, sizes, output, how.dropout, pooled=pooled)
    if front is not None:
        features, more["front"] = front.output_size, front
    layers = how.layers(features, bidirectional=settings.bidirectional)
    # Features of words stand in for each other, and so, less, do bands of sound; a variable of a
    # series may be the only one that tells, and convolutions look at bands beside each other.
    share = {"text": 1.0, "words": 1.0, "sound": 0.5 * (front is None)}.get(inputs.kind, 0.0)
    return make(encode, layers, output, dropout=share * how.dropout, **more)
