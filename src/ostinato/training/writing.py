"""What estimators share that write a text for a source: translation, summaries, captions."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.pairs import Pairs, PairSettings, pairs_of, read_pairs, read_sources
from ostinato.data.ragged import Examples, Ragged
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary
from ostinato.errors import DataError, OstinatoError
from ostinato.networks.arrangements import recurrent_layers
from ostinato.networks.attention import AttentionKind
from ostinato.networks.decoding import Hypothesis, Search, beam_search, sample
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder
from ostinato.training.estimators import Sample
from ostinato.training.pictures import draw_attention
from ostinato.training.supervised import Prepared, SequenceEstimator
from ostinato.training.watching import ProgressMode


class Text(NamedTuple):
    """A text that a model wrote.

    Attributes:
        text: it.
        score: what it was chosen by: its log-probability over a norm of its length.
        log_p: natural log of its probability.
        pieces: its tokens.
        attention: of each of them on the source's tokens, ``(pieces, S)``; None if there is none.
    """

    text: str
    score: float
    log_p: float
    pieces: list[str]
    attention: NDArray[np.float32] | None


@dataclass(kw_only=True, eq=False, repr=False)
class WritingEstimator(PairSettings, SequenceEstimator):
    """An estimator that reads texts and writes a text for each: an encoder and a decoder.

    Args:
        attention: multiplicative (Luong et al. 2015) or additive (Bahdanau et al. 2015).
        input_feeding: whether what was attended to is part of the decoder's next input; slower.
        coverage: whether attention heeds what was attended to before (See et al. 2017); additive,
            slower.
        copying: whether words of the source may be copied (See et al. 2017); needs shared.
        level: what texts are cut into: bpe (subwords learnt from them), char, word.
        vocabulary_size: most tokens; by the size of the data if not given.
        shared: whether source and target share their tokens and the vectors of these.
        embedding_size: features of a token's vector; half of hidden_size if not given.
        label_smoothing: share of the probability that is asked of all tokens alike.
        sampled: share of the decoder's inputs that are its own words instead of the true ones at
            the end of training, to which it rises from none.
        longest: tokens of a source that are read at most.
    """

    attention: AttentionKind = "multiplicative"
    input_feeding: bool = False
    coverage: bool = False
    copying: bool = False
    level: Level = "bpe"
    vocabulary_size: int | None = None
    shared: bool = True
    embedding_size: int | None = None
    label_smoothing: float = 0.1
    sampled: float = 0.0
    longest: int = 400

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("attention", get_args(AttentionKind))
        self._want_one_of("level", get_args(Level))
        for name in ("vocabulary_size", "embedding_size", "longest"):
            if getattr(self, name) is not None:
                self._want(name, lambda n: 0 < n < 2**24, "a whole number above zero, below 2**24")
        for name in ("label_smoothing", "sampled"):
            self._want(name, lambda value: 0 <= value < 1, "a share from 0 to below 1")
        if self.copying and not self.shared:
            raise OstinatoError(f"{type(self).__name__}: copying=True needs shared=True.")
        if self.coverage and self.attention != "additive":
            raise OstinatoError(f"{type(self).__name__}: coverage=True needs attention='additive'.")

    # Learning

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        out: str | os.PathLike[str] | None = None,
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
    ) -> Self:
        """Learn from texts and what is to be written for them.

        Args:
            X: texts; or files: two parallel ones, or tables with a column of sources and one of
                targets, as `pathlib.Path` and no ``y``.
            y: what is to be written: a text, or a list of texts any of which would do, for each.
            validation: pairs to validate on, ``(X, y)`` or files; if not given, a share is held
                out.
            out: folder for the model, checkpoints, metrics and learning curve, made anew; None
                keeps all in memory.
            progress: bar, lines, json, quiet, or auto: a bar on a terminal, lines elsewhere.
            tensorboard: write curves for TensorBoard into ``out``.

        Raises:
            OstinatoError: on settings or data that cannot be used. Nothing is left behind.
        """
        return self._fit(
            lambda data: self._prepare(X, y, validation, data), out, progress, tensorboard
        )

    def _pairs(self, X: Any, y: Any = None) -> Pairs:
        if isinstance(X, Pairs):
            return X
        paths = [X] if isinstance(X, os.PathLike) else X
        files = isinstance(paths, list) and paths and all(isinstance(p, os.PathLike) for p in paths)
        if files and y is None:
            return read_pairs([Path(p) for p in paths], self)
        return pairs_of(X, y, self)

    def _prepare(self, X: Any, y: Any, validation: Any, data: Path) -> dict[str, Any]:
        training, held_out = self._pairs(X, y), None
        name = type(self).__name__
        if training.targets is None:
            raise OstinatoError(f"{name}.fit: there is nothing to learn: y is missing.")
        if validation is not None:
            held_out = self._pairs(
                *(validation if isinstance(validation, tuple) else (validation,))
            )
        elif self.validation_fraction != 0:
            N = len(training)
            share = (0.2 if N < 1000 else 0.1) if self.validation_fraction is None else None
            share = self.validation_fraction if share is None else share
            held = min(max(1, round((share or 0.0) * N)), 2000)
            if held >= N:
                raise DataError(
                    f"{name}: {N} pairs are too few to hold {held} out for validation; give more, "
                    "or validation_fraction=0."
                )
            rows = train_test_split(np.arange(N), test_size=held, random_state=self.seed % 2**32)
            training, held_out = (training.take(sorted(part)) for part in rows)
        self._learn_vocabularies(training)
        for part, pairs in {"training": training, "validation": held_out}.items():
            if pairs is not None:
                self._write_examples(data, part, pairs)
        steps = Ragged.open(data / "training.inputs.npy").lengths
        words = Ragged.open(data / "training.targets.npy").lengths
        self.chosen_ |= self._choose(steps)
        return {
            "pairs": len(training),
            "held_out": 0 if held_out is None else len(held_out),
            "source_tokens": int(steps.sum()),
            "target_tokens": int(words.sum()),
            "longest": int(steps.max()),
            "notes": list(training.notes),
        }

    def _learn_vocabularies(self, pairs: Pairs) -> None:
        texts = [text for several in pairs.targets or [] for text in several[:1]]
        size = self.vocabulary_size
        if size is None and self.level == "bpe":
            letters = sum(map(len, texts)) + sum(map(len, pairs.sources))
            size = int(min(8000, max(400, letters // 400)))
        self.chosen_ = {"vocabulary_size": size}
        both = [*texts, *pairs.sources] if self.shared else texts
        self.vocabulary_ = self._vocabulary(both, size)
        own = self.vocabulary_ if self.shared else self._vocabulary(pairs.sources, size)
        self.source_vocabulary_ = own

    def _vocabulary(self, texts: Sequence[str], size: int | None) -> Vocabulary:
        source = TextSource.from_text("\n".join(texts))
        unknown = "<unk>" if self.level == "word" else "\ufffd" if self.level == "char" else None
        return build_vocabulary(self.level, source, size=size, unknown=unknown)

    def _write_examples(self, data: Path, part: str, pairs: Pairs) -> None:
        """Write pairs as numbers; of several targets each is a pair of its own."""
        training = part == "training"
        sources, targets = [], []
        for source, several in zip(pairs.sources, pairs.targets or [], strict=True):
            ids = self._encoded_source(source)
            for target in several if training else several[:1]:
                sources.append(ids)
                targets.append(self.vocabulary_.encode(target))
        Examples.write(data, part, sources, iter(targets))

    def _encoded_source(self, text: str) -> NDArray[np.int64]:
        ids: NDArray[np.int64] = self.source_vocabulary_.encode(text)[: self.longest]
        return ids

    def _choose(self, steps: NDArray[np.int64]) -> dict[str, Any]:
        n = len(steps)
        return super()._choose(steps) | {
            "hidden_size": 128 if n < 2000 else 256 if n < 10_000 else 512,
            "dropout": 0.3,
        }

    def _make_network(self) -> nn.Module:
        H, dropout = self._value("hidden_size"), self._value("dropout")
        width = self.embedding_size or max(32, H // 2)
        more: dict[str, Any] = {
            "variational_dropout": dropout if self.num_layers > 1 else 0.0,
            "weight_dropout": self.weight_dropout,
            "init": self.init,
            "zoneout": self.zoneout,
            "residual": self.residual,
        }
        reading = recurrent_layers(
            self.cell, width, max(1, H // 2), self.num_layers, bidirectional=True, **more
        )
        fed = H if self.input_feeding else 0
        writing = recurrent_layers(self.cell, width + fed, H, self.num_layers, **more)
        decoder = Decoder(
            len(self.vocabulary_), writing, reading.output_size, width, self.attention,
            input_feeding=self.input_feeding, coverage=self.coverage, copying=self.copying,
            dropout=dropout,
        )  # fmt: skip
        embedding = nn.Embedding(len(self.source_vocabulary_), width)
        nn.init.normal_(embedding.weight, std=width**-0.5)
        if self.shared:
            embedding = decoder.embedding
        encoder = RecurrentEncoder(embedding, reading, dropout, tied=self.shared)
        return EncoderDecoder(encoder, decoder, self.label_smoothing)

    def _title(self, facts: Mapping[str, Any], device: torch.device) -> str:
        tokens = f"{len(self.vocabulary_):,} tokens of level {self.level}"
        tokens += (
            ", shared" if self.shared else f" to write, {len(self.source_vocabulary_):,} to read"
        )
        return (
            f"{facts['pairs']:,} pairs to learn from, {facts['held_out']:,} to validate on; "
            f"{tokens}; {self.cell} of {self.num_layers} x {self._value('hidden_size')} units, "
            f"{self._where(device)}"
            + self._said_of_choices()
            + "".join(f"\n{note}" for note in facts["notes"])
        )

    def _batches(self, examples: Examples) -> SequenceBatches:
        return SequenceBatches(examples, self._value("batch_size"), seed=self.seed, apart=True)

    def _in_order(self, examples: Examples) -> Iterator[tuple[NDArray[np.int64], SequenceBatch]]:
        return SequenceBatches(examples, 64, apart=True).in_order()

    def _tensors(self, batch: SequenceBatch, table: Any, device: torch.device) -> Tensor:
        return batch.inputs.to(device)

    def _weight(self, batch: SequenceBatch) -> int:
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum()) + len(batch.lengths)

    def _loss(self, batch: SequenceBatch, table: Any, device: torch.device) -> Tensor:
        planned = self._value("epochs") or 0.0
        share = self.sampled * min(1.0, batch.epoch / planned) if planned else self.sampled
        loss: Tensor
        loss, _ = self.network_.loss(
            batch.inputs.to(device),
            batch.targets.to(device),
            lengths=batch.unequal,
            target_lengths=batch.target_lengths,
            sampled=share,
        )
        return loss

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        loss, _ = self.network_.loss(
            x, targets, lengths=batch.unequal, target_lengths=batch.target_lengths
        )
        return {"loss": float(loss)}

    # Looking into it

    def examples(
        self, X: Any, y: Any = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Some pairs; see `NetworkEstimator`."""
        check_is_fitted(self, "network_")
        pairs = self._pairs(X, y)
        pairs = pairs.take(range(min(count, len(pairs))))
        rows = [self._encoded_source(source) for source in pairs.sources]
        wanted = [self.vocabulary_.encode(several[0]) for several in pairs.targets or []]
        return self._sampled(
            Prepared(Examples(Ragged.of(rows), Ragged.of(wanted)), None), count, steps
        )

    def _sampled(self, prepared: Prepared, count: int, steps: int | None) -> Sample:
        rows = range(min(count, len(prepared.examples.inputs)))
        wanted = cast(Ragged, prepared.examples.targets)
        some = Examples(
            Ragged.of([prepared.examples.inputs[row] for row in rows]),
            Ragged.of([wanted[row] for row in rows]),
        )
        _, batch = next(self._in_order(some))
        device = next(self.network_.parameters()).device
        more = {"target_lengths": batch.target_lengths}
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        return Sample(inputs, targets, batch.unequal, more=more)

    def reading(self, sequence: str) -> tuple[Tensor, list[str]]:
        """A source as the network takes it; see `NetworkEstimator`."""
        ids = self._encoded_source(sequence).tolist()
        device = next(self.network_.parameters()).device
        return torch.tensor([ids], device=device), [self.source_vocabulary_.token(i) for i in ids]

    # Writing

    def write(
        self,
        X: Any,
        *,
        beam: int = 5,
        length_penalty: float = 1.0,
        n_best: int = 1,
        no_repeat: int = 0,
        sampling: bool = False,
        temperature: float = 1.0,
        seed: int | None = None,
        batch_size: int = 32,
    ) -> Iterator[list[Text]]:
        """What the model writes for each source, in their order; see `Search` for what it seeks by.

        Args:
            X: texts, or files of them.
            beam: hypotheses kept at a time; 1 takes the likeliest token at every step.
            length_penalty: above 0 long texts are not put at a disadvantage; 1 is usual.
            n_best: texts for each source, the best first.
            no_repeat: tokens that must not follow each other twice; 0 for any.
            sampling: sample a text instead of searching for the likeliest.
            temperature: of sampling; below 1 unlikely tokens become rarer.
            seed: of sampling; the same seed writes the same texts.
            batch_size: sources at a time.
        """
        check_is_fitted(self, "network_")
        pairs = self.sources(X)
        search = Search(
            beam=beam, length_penalty=length_penalty, n_best=n_best, no_repeat=no_repeat,
            temperature=temperature,
        )  # fmt: skip
        generator = torch.Generator()
        generator.seed() if seed is None else generator.manual_seed(seed)
        device = next(self.network_.parameters()).device
        network: Any = self.network_.eval()
        # A stretch at a time is sorted by length, so that little is padded and answers come soon.
        for begin in range(0, len(pairs), 32 * batch_size):
            stretch = pairs.sources[begin : begin + 32 * batch_size]
            rows = [self._encoded_source(text) for text in stretch]
            cut = [p for p, row in zip(pairs.places[begin:], rows, strict=False)
                   if len(row) == self.longest]  # fmt: skip
            if cut:
                warnings.warn(
                    f"{cut[0]}{f' and {len(cut) - 1} more' if cut[1:] else ''}: only the first "
                    f"{self.longest} tokens are read (longest).",
                    stacklevel=2,
                )
            found: list[list[Text]] = [[Text("", 0.0, 0.0, [], None)] for _ in rows]
            order = sorted(
                (i for i in range(len(rows)) if len(rows[i])), key=lambda i: len(rows[i])
            )
            for at in range(0, len(order), batch_size):
                some = order[at : at + batch_size]
                lengths = torch.tensor([len(rows[i]) for i in some])
                x = torch.from_numpy(Ragged.of([rows[i] for i in some]).padded(range(len(some))))
                if sampling:
                    drawn = sample(network, x.to(device), lengths, search, generator)
                    written = [[each] for each in drawn]
                else:
                    written = beam_search(network, x.to(device), lengths, search)
                for i, several in zip(some, written, strict=True):
                    found[i] = [self._text(h, len(rows[i])) for h in several]
            yield from found

    def _text(self, found: Hypothesis, steps: int) -> Text:
        ids = [i for i in found.tokens if i < len(self.vocabulary_)]
        attention = None if found.attention is None else found.attention[:, :steps]
        pieces = [self.vocabulary_.token(i) for i in ids]
        return Text(self.vocabulary_.decode(ids), found.score, found.log_p, pieces, attention)

    def predict(self, X: Any) -> list[str]:
        """The best text for each source."""
        return [several[0].text for several in self.write(X)]

    def plot_attention(self, text: str, picture: str | os.PathLike[str]) -> str:
        """Draw what each piece of what is written attends to as a PNG; gives the text written.

        Raises:
            OstinatoError: if the text is empty.
        """
        ((found,),) = self.write([text])
        if found.attention is None:
            raise OstinatoError(f"{type(self).__name__}.plot_attention: the text is empty.")
        _, read = self.reading(text)
        draw_attention(found.attention, read, found.pieces, Path(picture))
        return found.text

    def sources(self, X: Any) -> Pairs:
        """Texts to be read, and where each stands: texts in memory, or files of them."""
        if isinstance(X, Pairs):
            return X
        paths = [X] if isinstance(X, os.PathLike) else list(X)
        if paths and all(isinstance(path, os.PathLike) for path in paths):
            return read_sources([Path(path) for path in paths], self)
        return pairs_of(paths)

    @abstractmethod
    def evaluate(self, X: Any, y: Any = None, **search: Any) -> dict[str, Any]:
        """How good what the model writes is, by the texts that are known to be."""

    # Keeping

    def _documents(self) -> dict[str, Any]:
        documents = {"vocabulary.json": self.vocabulary_.to_json()}
        if not self.shared:
            documents["source_vocabulary.json"] = self.source_vocabulary_.to_json()
        return documents

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        self.vocabulary_ = Vocabulary.from_json(documents["vocabulary.json"])
        own = documents.get("source_vocabulary.json")
        self.source_vocabulary_ = self.vocabulary_ if own is None else Vocabulary.from_json(own)
