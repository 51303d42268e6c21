"""Music: train on pieces, and continue them: which notes sound together and after each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch
from ostinato.data.features import WordTable
from ostinato.data.inputs import SequenceInputs
from ostinato.data.midi import KEYS, Roll, read_music, roll_of, write_midi
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import CellName, ManyToMany
from ostinato.networks.outputs import Output
from ostinato.tasks.estimators import Estimator, Prepared
from ostinato.tasks.networks import NetworkSettings
from ostinato.tasks.sequences import prepare, resolve
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.fit import predict
from ostinato.training.progress import ProgressMode
from ostinato.training.settings import TrainingSettings, check_value

Pieces = str | os.PathLike[str] | Sequence[Any]


@dataclass
class Rolls:
    """Piano rolls ``(T, 88)`` of pieces, each step a row of notes that sound."""

    rolls: Sequence[Roll]

    def __len__(self) -> int:
        return len(self.rolls)

    def take(self, rows: Sequence[int]) -> Rolls:
        """Return some of the pieces."""
        return Rolls([self.rolls[row] for row in rows])


class PreviousNotes(SequenceInputs):
    """What the network knows at each step: the notes of the step before, silence at first."""

    noun = "pieces"

    def encode(self, pieces: Rolls) -> tuple[Iterator[Roll], None]:
        """Yield each piece a step late."""
        return map(_shifted, pieces.rolls), None

    def prepare(self, rows: Tensor, words: WordTable | None) -> Tensor:
        """Return notes as floating-point numbers."""
        return rows.float()


class Notes(SequenceTargets[ManyToMany]):
    """The notes that sound at each step."""

    by_step = True

    def encode(self, pieces: Rolls) -> Iterator[Roll]:
        """Yield each piece."""
        return iter(pieces.rolls)

    def describe(self) -> str:
        """Return how many notes there are."""
        return f"{KEYS} keys"


@dataclass(kw_only=True, eq=False, repr=False)
class MusicModel(NetworkSettings, TrainingSettings, Estimator[PreviousNotes, Notes, ManyToMany]):
    """A recurrent network that is trained on piano rolls, several notes at a time, and composes.

    At each step it predicts the probability of each of the 88 keys, from all steps before.

    Args:
        cell: as in `NetworkSettings`; an LSTM suits music best.
        weight_dropout: share of recurrent weights dropped.
        learning_rate: the highest learning rate of the schedule.
        transpose: pieces are transposed at random by so many semitones at most while training.
        steps_per_beat: steps that a beat of a MIDI file is cut into.

    Further settings are those of `NetworkSettings` and `TrainingSettings`.

    Attributes:
        network_: the trained network.
        training_: facts of the training run.
        resolved_: settings that were not given, and what the data made of them.

    Example:
        >>> scale = [[60], [62], [64], [65], [67], [69], [71], [72]]
        >>> model = MusicModel(hidden_size=32, epochs=60, transpose=0, validation_fraction=0)
        >>> model = model.fit([scale * 3] * 8)
        >>> model.evaluate([scale * 3])["nll_per_step"] < 10
        True
    """

    cell: CellName = "lstm"
    weight_dropout: float = 0.3
    learning_rate: float = 0.01
    transpose: int = 0
    steps_per_beat: int = 4

    def check_settings(self) -> None:
        """Raise an `OstinatoError` at a setting out of range; see `TrainingSettings`."""
        super().check_settings()
        self.check_network()
        check_value(self, "transpose", lambda n: 0 <= n < 12, "a number of semitones, 0 to 11")
        check_value(self, "steps_per_beat", lambda n: 1 <= n <= 96, "a number from 1 to 96")

    # Training

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
        """Train on pieces.

        Args:
            X: pieces: lists of the MIDI notes of each step, or piano rolls ``(T, 88)`` as uint8; or
                files, as `read_music` takes them, of which a training part is used alone.
            y: ignored; there for scikit-learn.
            validation: pieces to validate on; if not given, the files' validation part, or a share
                of the pieces.
            out: folder for the model, checkpoints, metrics and learning curve, made anew; None
                keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        return self._fit(
            lambda data: self._prepare(data, X, validation), out, progress, tensorboard
        )

    def _prepare(self, data: Path, X: Pieces, validation: Pieces | None) -> Prepared:
        parts = self._parts(X)
        training = _part(parts, "training")
        held_out = _part(self._parts(validation), "validation") if validation is not None else None
        if held_out is None and self.validation_fraction != 0:
            held_out = parts.get("validation")
            if not held_out:
                training, held_out = self._split(training)
        rolls = {"training": Rolls(training), "validation": Rolls(held_out) if held_out else None}
        _, lengths, facts = prepare(data, rolls, PreviousNotes(), Notes())
        found = resolve(self, len(lengths), int(lengths.max()) if self.init == "chrono" else None)
        # Chords take units, however few the pieces.
        return Prepared({}, found | {"hidden_size": max(256, found["hidden_size"])}, facts)

    def _split(self, pieces: list[Roll]) -> tuple[list[Roll], list[Roll]]:
        share = 0.1 if self.validation_fraction is None else self.validation_fraction
        held = max(1, round(share * len(pieces)))
        if held >= len(pieces):
            raise DataError(
                f"MusicModel: {len(pieces)} pieces are too few to hold {held} out for "
                "validation; give more, or validation_fraction=0."
            )
        kept, out = train_test_split(pieces, test_size=held, random_state=self.seed % 2**32)
        return kept, out

    def _parts(self, X: Pieces) -> dict[str, list[Roll]]:
        """Return piano rolls by part: training, validation, test; or all."""
        paths = [X] if isinstance(X, str | os.PathLike) else X
        if all(isinstance(path, os.PathLike | str) for path in paths):
            found = read_music([Path(path) for path in paths], self.steps_per_beat)
            return {part: [roll for _, roll in pieces] for part, pieces in found.items()}
        return {"all": [_roll(piece, f"X[{i}]") for i, piece in enumerate(paths)]}

    def _build(self, inputs: PreviousNotes, targets: Notes) -> ManyToMany:
        how = self.architecture(self.resolved_)
        output = Output(how.hidden_size, KEYS, "probability", how.dropout)
        return ManyToMany(nn.Identity(), how.layers(KEYS), output, dropout=0.0)

    def _batching(self) -> dict[str, int]:
        return {"shift": self.transpose}

    def _read(self, X: Pieces) -> Rolls:
        return Rolls(_part(self._parts(X), "test"))

    def _labelled(self, X: Pieces, y: None = None) -> Rolls:
        return self._read(X)

    # Evaluation and composition

    def evaluate(self, X: Pieces, y: None = None) -> dict[str, Any]:
        """Measure how well the model predicts pieces.

        Args:
            X: as in `fit`; of files with a test part, that part.
            y: ignored.

        Returns:
            nll_per_step: negative log-likelihood of all 88 keys in nats, over all steps but the
            first of each piece, before which there is nothing; steps, so many; pieces.
        """
        sequences, pieces = self._sequences(), self._read(X)
        dataset, output = sequences.labelled(pieces), self.network_.output

        def decode(scores: Tensor, batch: SequenceBatch) -> Iterator[float]:
            losses = output.loss(scores.double(), batch.targets.double())
            return (float(row[1:n].sum()) for row, n in zip(losses, batch.lengths, strict=True))

        nats = predict(self.network_, sequences.batches(dataset), decode)
        steps = int((dataset.examples.inputs.lengths - 1).clip(0).sum())
        if not steps:
            raise DataError("no piece has two steps; there is nothing to predict.")
        return {"nll_per_step": sum(nats) / steps, "steps": steps, "pieces": len(pieces)}

    def score(self, X: Pieces, y: None = None) -> float:
        """Return the negative of ``nll_per_step``: higher is better."""
        return -float(self.evaluate(X)["nll_per_step"])

    def compose(
        self,
        prompt: Any = (),
        length: int = 64,
        *,
        temperature: float = 1.0,
        seed: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Roll:
        """Continue a piece.

        Args:
            prompt: the piece to continue: notes of each step, a piano roll, or a file with one;
                none to begin one.
            length: steps to compose.
            temperature: below 1 unlikely notes become rarer; 0 takes those that are likelier than
                not.
            seed: the same seed composes the same piece.
            out: MIDI file to write, the prompt included.

        Returns:
            the new steps as a piano roll ``(length, 88)``.
        """
        check_is_fitted(self, "network_")
        if length < 1 or not 0 <= temperature < float("inf"):
            raise OstinatoError(
                f"MusicModel.compose: length={length!r}, temperature={temperature!r}; expected "
                "1 or more, and zero or more."
            )
        if isinstance(prompt, str | os.PathLike):
            begun = _part(self._parts(prompt), "test")[0]
        else:
            begun = _roll(prompt, "prompt")
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        device = self._device()
        written = []
        x = torch.from_numpy(np.concatenate([np.zeros((1, KEYS), np.uint8), begun]))
        x, state = x.to(device).float()[None], None
        with torch.inference_mode():
            for _ in range(length):
                h, state = self.network_.hidden(x, state)
                scores = self.network_.output(h[0, -1]).cpu()
                if temperature:
                    p = (scores / temperature).sigmoid()
                    keys = (torch.rand(KEYS, generator=generator) < p).to(torch.uint8)
                else:
                    keys = (scores > 0).to(torch.uint8)
                written.append(keys.numpy())
                x = keys.to(device).float()[None, None]
        roll = np.stack(written)
        if out is not None:
            write_midi(np.concatenate([begun, roll]), out, self.steps_per_beat)
        return roll

    # Storing

    def _documents(self, inputs: PreviousNotes, targets: Notes) -> dict[str, Any]:
        return {}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[PreviousNotes, Notes]:
        return PreviousNotes(), Notes()


def _shifted(roll: Roll) -> Roll:
    """Return a piece a step late, silence at first."""
    return np.concatenate([np.zeros((min(1, len(roll)), KEYS), roll.dtype), roll[:-1]])


def _roll(piece: Any, where: str) -> Roll:
    if isinstance(piece, np.ndarray) and piece.ndim == 2:
        if piece.shape[1] != KEYS or not np.isin(piece, (0, 1)).all():
            raise DataError(f"{where}: shape {piece.shape}; expected (T, {KEYS}) of 0 and 1.")
        return piece.astype(np.uint8)
    return roll_of(piece, where)


def _part(parts: Mapping[str, list[Roll]], name: str) -> list[Roll]:
    """Return the pieces of a part; all of them, if there are no parts."""
    found = parts.get(name) or parts.get("all") or []
    if not found:
        raise DataError(f"there is no {name} part; there are {', '.join(parts)}.")
    return found
