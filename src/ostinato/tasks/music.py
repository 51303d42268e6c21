"""Music: learn which notes sound together and after each other, and go on with a piece."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.midi import KEYS, Roll, read_music, roll_of, write_midi
from ostinato.data.ragged import Examples, Ragged
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import CellName, ManyToMany
from ostinato.networks.outputs import Output
from ostinato.training.estimators import Sample
from ostinato.training.supervised import Prepared, SequenceEstimator
from ostinato.training.watching import ProgressMode

Pieces = str | os.PathLike[str] | Sequence[Any]


@dataclass(kw_only=True, eq=False, repr=False)
class MusicModel(SequenceEstimator):
    """A recurrent network that learns piano rolls, several notes at once, and writes more.

    At each step it gives the probability of each of the 88 keys, from all steps before.

    Args:
        cell: as in `SequenceEstimator`; an LSTM learns music best.
        weight_dropout: share of recurrent weights dropped.
        learning_rate: the highest learning rate of the schedule.
        transpose: pieces are learnt in other keys too, up to so many semitones away.
        steps_a_beat: steps that a beat of a MIDI file is cut into.

    Further settings are those of `SequenceEstimator` and `TrainingSettings`.

    Attributes:
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> scale = [[60], [62], [64], [65], [67], [69], [71], [72]]
        >>> model = MusicModel(hidden_size=32, epochs=60, transpose=0, validation_fraction=0)
        >>> model = model.fit([scale * 3] * 8)
        >>> model.evaluate([scale * 3])["nats_a_step"] < 10
        True
    """

    cell: CellName = "lstm"
    weight_dropout: float = 0.3
    learning_rate: float = 0.01
    transpose: int = 0
    steps_a_beat: int = 4

    _by_step = True

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want("transpose", lambda n: 0 <= n < 12, "a number of semitones, 0 to 11")
        self._want("steps_a_beat", lambda n: 1 <= n <= 96, "a number from 1 to 96")

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        """Settings that were not given: what sounds together takes units, however few pieces."""
        chosen = super()._choose(steps)
        return chosen | {"hidden_size": max(256, chosen["hidden_size"])}

    # Learning

    def fit(
        self,
        X: Pieces,
        y: None = None,
        *,
        validation: Pieces | None = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
    ) -> Self:
        """Learn pieces.

        Args:
            X: pieces: lists of the MIDI notes of each step, or piano rolls ``(T, 88)`` as uint8; or
                files, as `read_music` takes them, of which a training part is learnt.
            y: ignored; there for scikit-learn.
            validation: pieces to validate on; if not given, the files' validation part, or a share
                of the pieces.
            out: as of every estimator, see `SupervisedEstimator.fit`.
            progress: the same.
            tensorboard: the same.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        return self._fit(
            lambda data: self._prepare(X, validation, data), out, progress, tensorboard
        )

    def _prepare(self, X: Pieces, validation: Pieces | None, data: Path) -> dict[str, Any]:
        parts = self._parts(X)
        training = _part(parts, "training")
        held_out = _part(self._parts(validation), "validation") if validation is not None else None
        if held_out is None and self.validation_fraction != 0:
            held_out = parts.get("validation")
            if not held_out:
                share = 0.1 if self.validation_fraction is None else self.validation_fraction
                held = max(1, round(share * len(training)))
                if held >= len(training):
                    raise DataError(
                        f"MusicModel: {len(training)} pieces are too few to hold {held} out for "
                        "validation; give more, or validation_fraction=0."
                    )
                training, held_out = train_test_split(
                    training, test_size=held, random_state=self.seed % 2**32
                )
        for name, pieces in (("training", training), ("validation", held_out)):
            if pieces:
                Examples.write(data, name, map(_shifted, pieces), iter(pieces))
        steps = np.array([len(piece) for piece in training])
        if not steps.any():
            raise DataError("all pieces are empty; there is nothing to learn from.")
        self.chosen_ = self._choose(steps)
        return {
            "pieces": len(training),
            "held_out": len(held_out or ()),
            "shortest": int(steps.min()),
            "longest": int(steps.max()),
        }

    def _parts(self, X: Pieces) -> dict[str, list[Roll]]:
        """Piano rolls by part: training, validation, test; or all."""
        paths = [X] if isinstance(X, str | os.PathLike) else X
        if all(isinstance(path, os.PathLike | str) for path in paths):
            found = read_music([Path(path) for path in paths], self.steps_a_beat)
            return {part: [roll for _, roll in pieces] for part, pieces in found.items()}
        return {"all": [_roll(piece, f"X[{i}]") for i, piece in enumerate(paths)]}

    def _make_network(self) -> nn.Module:
        dropout = self._value("dropout")
        output = Output(self._value("hidden_size"), KEYS, "probability", dropout)
        return ManyToMany(nn.Identity(), self._recurrent(KEYS), output, dropout=0.0)

    def _batches(self, examples: Examples) -> SequenceBatches:
        return SequenceBatches(
            examples, self._value("batch_size"), shift=self.transpose, seed=self.seed
        )

    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        return (
            f"{facts['pieces']:,} pieces of {facts['shortest']:,} to {facts['longest']:,} steps to "
            f"learn from, {facts['held_out']:,} to validate on; {self.cell} of {self.num_layers} x "
            f"{self._value('hidden_size')} units, {self._where(device)}" + self._said_of_choices()
        )

    # Using

    def evaluate(self, X: Pieces, y: None = None) -> dict[str, Any]:
        """How well the model predicts pieces.

        Args:
            X: as in `fit`; of files with a test part, that part.
            y: ignored.

        Returns:
            nats_a_step: negative log-likelihood of all 88 keys, over all steps but the first of
            each piece, before which there is nothing; steps, so many; pieces.
        """
        check_is_fitted(self, "network_")
        pieces = _part(self._parts(X), "test")
        examples = Examples(Ragged.of(map(_shifted, pieces)), Ragged.of(pieces))

        def read(y: Tensor, batch: SequenceBatch) -> Iterator[float]:
            losses = self.network_.output.loss(y.double(), batch.targets.to(y.device).double())
            return (float(row[1:n].sum()) for row, n in zip(losses, batch.lengths, strict=True))

        nats = self._read_scores(Prepared(examples, None), read)
        steps = int((examples.inputs.lengths - 1).clip(0).sum())
        if not steps:
            raise DataError("no piece has two steps; there is nothing to predict.")
        return {"nats_a_step": sum(nats) / steps, "steps": steps, "pieces": len(pieces)}

    def score(self, X: Pieces, y: None = None) -> float:
        """Negative of the nats a step: higher is better."""
        return -float(self.evaluate(X)["nats_a_step"])

    def generate(
        self,
        prompt: Any = (),
        length: int = 64,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Roll:
        """Go on with a piece.

        Args:
            prompt: the piece to go on with: notes of each step, a piano roll, or a file with one;
                none to begin one.
            length: steps to write.
            temperature: below 1 unlikely notes become rarer; 0 takes those that are likelier than
                not.
            seed: the same seed writes the same piece.
            out: MIDI file to write, the prompt included.

        Returns:
            the new steps as a piano roll ``(length, 88)``.
        """
        check_is_fitted(self, "network_")
        if length < 1 or not 0 <= temperature < float("inf"):
            raise OstinatoError(
                f"MusicModel.generate: length={length!r}, temperature={temperature!r}; expected "
                "1 or more, and zero or more."
            )
        if isinstance(prompt, str | os.PathLike):
            begun = _part(self._parts(prompt), "test")[0]
        else:
            begun = _roll(prompt, "prompt")
        random = torch.Generator()
        random.seed() if seed is None else random.manual_seed(seed)
        device = next(self.network_.parameters()).device
        written = []
        x = torch.from_numpy(np.concatenate([np.zeros((1, KEYS), np.uint8), begun]))
        x, state = x.to(device).float()[None], None
        with torch.inference_mode():
            for _ in range(length):
                h, state = self.network_.hidden(x, state)
                scores = self.network_.output(h[0, -1]).cpu()
                if temperature:
                    p = (scores / temperature).sigmoid()
                    keys = (torch.rand(KEYS, generator=random) < p).to(torch.uint8)
                else:
                    keys = (scores > 0).to(torch.uint8)
                written.append(keys.numpy())
                x = keys.to(device).float()[None, None]
        roll = np.stack(written)
        if out is not None:
            write_midi(np.concatenate([begun, roll]), out, self.steps_a_beat)
        return roll

    def examples(
        self, X: Pieces, y: None = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Some pieces; see `NetworkEstimator`."""
        check_is_fitted(self, "network_")
        pieces = _part(self._parts(X), "test")
        examples = Examples(Ragged.of(map(_shifted, pieces)), Ragged.of(pieces))
        return self._sampled(Prepared(examples, None), count, steps)

    def reading(self, sequence: Any) -> tuple[Tensor, list[str]]:
        """One piece as the network takes it; see `NetworkEstimator`."""
        roll = _shifted(_roll(sequence, "sequence"))
        return torch.from_numpy(roll)[None].float(), []

    def _documents(self) -> dict[str, Any]:
        return {}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        pass


def _shifted(roll: Roll) -> Roll:
    """What is known at each step: the step before, silence at first."""
    return np.concatenate([np.zeros((min(1, len(roll)), KEYS), roll.dtype), roll[:-1]])


def _roll(piece: Any, where: str) -> Roll:
    if isinstance(piece, np.ndarray) and piece.ndim == 2:
        if piece.shape[1] != KEYS or not np.isin(piece, (0, 1)).all():
            raise DataError(f"{where}: shape {piece.shape}; expected (T, {KEYS}) of 0 and 1.")
        return piece.astype(np.uint8)
    return roll_of(piece, where)


def _part(parts: Mapping[str, list[Roll]], name: str) -> list[Roll]:
    """The pieces of a part; all of them, if they are not parted."""
    found = parts.get(name) or parts.get("all") or []
    if not found:
        raise DataError(f"there is no {name} part; there are {', '.join(parts)}.")
    return found
