"""Music: train on pieces, and continue them: which notes sound together and after each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch
from ostinato.data.chunks import walk
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import SequenceInputs
from ostinato.data.midi import KEYS, Roll, read_music, roll_of, write_midi
from ostinato.data.places import Place
from ostinato.data.ragged import WordTable
from ostinato.data.shards import Work
from ostinato.data.spool import open_chunks, write_chunks
from ostinato.errors import DataError, OstinatoError
from ostinato.files import MIDI, check_new_file
from ostinato.memory import check_memory
from ostinato.networks.arrangements import CellChoice, ManyToMany
from ostinato.networks.outputs import Output
from ostinato.tasks.estimators import Estimator, random_generator
from ostinato.tasks.networks import check_sizes
from ostinato.tasks.sequences import split
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.evaluation import predict
from ostinato.training.settings import check_value

Pieces = str | os.PathLike[str] | Sequence[Any]


class PreviousNotes(SequenceInputs):
    """What the network knows at each step: the notes of the step before, silence at first."""

    noun = "pieces"

    def encode(self, corpus: Corpus) -> tuple[Iterator[Roll], None]:
        """Yield each piece a step late, silence at first."""
        silence = np.zeros((1, KEYS), np.uint8)
        return (np.concatenate([silence, roll])[: len(roll)] for roll in corpus.inputs), None

    def prepare(self, rows: Tensor, words: WordTable | None) -> Tensor:
        return rows.float()


class Notes(SequenceTargets[ManyToMany]):
    """The notes that sound at each step."""

    by_step = True

    def encode(self, corpus: Corpus) -> Iterator[Roll]:
        """Yield each piece."""
        return iter(corpus.inputs)

    def describe(self) -> str:
        return f"{KEYS} keys"


@dataclass(kw_only=True, eq=False, repr=False)
class MusicModel(Estimator[PreviousNotes, Notes, ManyToMany]):
    """A recurrent network that is trained on piano rolls, several notes at a time, and composes.

    At each step it predicts the probability of each of the 88 keys, from all steps before.

    ``fit`` takes pieces: lists of the MIDI notes of each step, or piano rolls ``(T, 88)`` as uint8;
    or files, as `read_music` takes them, of which a training part is used alone, and a validation
    part, if there is one, to validate on.

    Args:
        window: steps of a training example; longer pieces are cut, each time at other places.
        transpose: pieces are transposed at random by so many semitones at most while training.
        steps_per_beat: steps that a beat of a MIDI file is cut into.

    Further settings and attributes are those of `Estimator`.

    Example:
        >>> scale = [[60], [62], [64], [65], [67], [69], [71], [72]]
        >>> model = MusicModel(hidden_size=32, epochs=60, transpose=0, validation_fraction=0)
        >>> model = model.fit([scale * 3] * 8)
        >>> model.evaluate([scale * 3])["nll_per_step"] < 10
        True
    """

    cell: CellChoice = "lstm"
    weight_dropout: float = 0.3
    learning_rate: float = 0.01
    window: int = 200
    transpose: int = 0
    steps_per_beat: int = 4

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes(self, "window")
        check_value(self, "transpose", lambda n: 0 <= n < 12, "a number of semitones, 0 to 11")
        check_value(self, "steps_per_beat", lambda n: 1 <= n <= 96, "a number from 1 to 96")

    def _parts(self, X: Any, y: Any, validation: Any) -> tuple[Corpus, Corpus | None]:
        parts = self._by_part(X)
        training = _part(parts, "training")
        if validation is not None:
            return training, _part(self._by_part(validation), "validation")
        if self.validation_fraction == 0:
            return training, None
        return (training, parts["validation"]) if "validation" in parts else self._split(training)

    def _learn(self, training: Corpus) -> tuple[PreviousNotes, Notes]:
        return PreviousNotes(), Notes()

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        return {"hidden_size": 256}  # chords take units, however few the pieces

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        share = 0.1 if self.validation_fraction is None else self.validation_fraction
        return split(corpus, share, self.seed, call=type(self).__name__, shuffled=True)

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Any:
        if any(path.is_file() and path.suffix.lower() not in MIDI for path in paths):
            return paths  # of files with parts
        if work.known("corpus") is not None:
            return open_chunks(work)
        stream = (file for file in walk(paths) if file.suffix.lower() in MIDI)

        def chunks() -> Iterator[Corpus]:
            while some := list(islice(stream, 16)):
                yield self._by_part(some)["all"]

        return write_chunks(chunks(), work)

    def _data_settings(self) -> Sequence[str]:
        return [*super()._data_settings(), "steps_per_beat"]

    def _by_part(self, X: Pieces | Corpus) -> dict[str, Corpus]:
        """Return piano rolls by part: training, validation, test; or all."""
        if isinstance(X, Corpus):
            return {"all": X}
        paths = [X] if isinstance(X, str | os.PathLike) else X
        if all(isinstance(path, os.PathLike | str) for path in paths):
            parts = read_music([Path(path) for path in paths], self.steps_per_beat)
        else:
            parts = {"all": [(f"X[{i}]", roll_of(x, f"X[{i}]")) for i, x in enumerate(paths)]}
        corpora = {}
        for name, pieces in parts.items():
            places = [Place(where) for where, _ in pieces]
            corpora[name] = Corpus("series", [roll for _, roll in pieces], None, places)
        return corpora

    def _build(self, inputs: PreviousNotes, targets: Notes) -> ManyToMany:
        how = self.architecture(self.resolved_)
        output = Output(how.hidden_size, KEYS, "probability", how.dropout)
        return ManyToMany(nn.Identity(), how.layers(KEYS), output, dropout=0.0)

    def _batching(self) -> dict[str, int]:
        return {"shift": self.transpose, "window": self.window}

    def _pieces(self, inputs: PreviousNotes, lengths: NDArray[np.int64]) -> int:
        return int(np.maximum(1, -(-lengths // self.window)).sum())

    def _read(self, X: Pieces, y: None = None, *, labelled: bool | None = None) -> Corpus:
        return _part(self._by_part(X), "test")

    _labelled = _read

    def evaluate(self, X: Pieces, y: None = None) -> dict[str, Any]:
        """Measure how well the model predicts pieces; of files with a test part, that part.

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
        steps = int((dataset.inputs.lengths - 1).clip(0).sum())
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
        """Continue a piece: return the new steps as a piano roll ``(length, 88)``.

        Args:
            prompt: the piece to continue: notes of each step, a piano roll, or a file with one;
                none to begin one.
            length: steps to compose.
            temperature: below 1 unlikely notes become rarer; 0 takes those that are likelier than
                not.
            seed: the same seed composes the same piece.
            out: MIDI file to write, the prompt included.
        """
        check_is_fitted(self, "network_")
        if length < 1 or not 0 <= temperature < float("inf"):
            raise OstinatoError(
                f"MusicModel.compose: length={length!r}, temperature={temperature!r}; expected "
                "1 or more, and zero or more."
            )
        check_memory(f"MusicModel.compose: length={length}", 4 * KEYS * length, "compose less")
        if out is not None:
            check_new_file(out, MIDI)
        if isinstance(prompt, str | os.PathLike):
            past = _part(self._by_part(prompt), "test").inputs[0]
        else:
            past = roll_of(prompt, "prompt")
        generator = random_generator(seed)
        device, state, written = self._device(), None, []
        x = torch.from_numpy(np.concatenate([np.zeros((1, KEYS), np.uint8), past]))
        x = x.to(device).float()[None]
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
            write_midi(np.concatenate([past, roll]), out, self.steps_per_beat)
        return roll

    def _documents(self, inputs: PreviousNotes, targets: Notes) -> dict[str, Any]:
        return {}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[PreviousNotes, Notes]:
        return PreviousNotes(), Notes()


def _part(parts: Mapping[str, Corpus], name: str) -> Corpus:
    """Return the pieces of a part; all of them, if there are no parts."""
    found = parts.get(name) or parts.get("all")
    if not found:
        raise DataError(f"there is no {name} part; there are {', '.join(parts)}.")
    return found
