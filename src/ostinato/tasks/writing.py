"""Tasks that read a text and write one: translation, summaries."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch
from ostinato.data.inputs import TokenInputs
from ostinato.data.pairs import Pairs, PairSettings, pairs_of, read_pairs, read_sources
from ostinato.data.ragged import Ragged
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary
from ostinato.errors import OstinatoError
from ostinato.networks.attention import AttentionKind
from ostinato.networks.decoding import Hypothesis, Search, beam_search, sample
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.base import Text
from ostinato.tasks.estimators import Estimator, Prepared
from ostinato.tasks.networks import NetworkSettings, check_shares, check_sizes
from ostinato.tasks.sequences import prepare, resolve, split
from ostinato.tasks.targets import TokenSequence
from ostinato.training.pictures import draw_attention
from ostinato.training.progress import ProgressMode
from ostinato.training.settings import TrainingSettings, check_choice


@dataclass
class TargetTexts(TokenSequence[EncoderDecoder]):
    """A text for each source.

    Args:
        vocabulary: the tokens.
        sampled: share of the decoder's inputs that are its own words at the end of training, to
            which it rises from none.
        epochs: in which it rises; 0 for at once.
    """

    sampled: float = 0.0
    epochs: float = 0.0

    def encode(self, pairs: Pairs) -> Iterator[NDArray[np.int64]]:
        """Yield the token ids of the first text of each source."""
        return (self.vocabulary.encode(several[0]) for several in pairs.targets or [])

    def loss(
        self, network: EncoderDecoder, batch: SequenceBatch, state: Hidden
    ) -> tuple[Tensor, None]:
        """Return the mean loss of a token."""
        risen = min(1.0, batch.epoch / self.epochs) if self.epochs else 1.0
        loss, _ = network.loss(
            batch.inputs,
            batch.targets,
            lengths=batch.unequal,
            target_lengths=batch.target_lengths,
            sampled=self.sampled * risen,
        )
        return loss, None


@dataclass(kw_only=True, eq=False, repr=False)
class WritingEstimator(
    PairSettings,
    NetworkSettings,
    TrainingSettings,
    Estimator[TokenInputs, TargetTexts, EncoderDecoder],
):
    """An estimator that reads texts and writes a text for each: an encoder and a decoder.

    Args:
        attention: multiplicative (Luong et al. 2015) or additive (Bahdanau et al. 2015).
        input_feeding: whether the attentional vector is part of the decoder's next input; slower.
        coverage: whether attention takes account of the attention so far (See et al. 2017);
            additive, slower.
        copying: whether words of the source may be copied (See et al. 2017); needs shared.
        level: tokens: bpe (subwords learnt from the texts), char, word.
        vocabulary_size: most tokens; by the size of the data if not given.
        shared: whether source and target share their vocabulary and its embedding.
        embedding_size: features of a token's vector; half of hidden_size if not given.
        label_smoothing: share of the target probability that is spread over all tokens.
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
        """Raise an `OstinatoError` at a setting out of range; see `TrainingSettings`."""
        super().check_settings()
        self.check_network()
        check_choice(self, "attention", get_args(AttentionKind))
        check_choice(self, "level", get_args(Level))
        check_sizes(self, "vocabulary_size", "embedding_size", "longest")
        check_shares(self, "label_smoothing", "sampled")
        if self.copying and not self.shared:
            raise OstinatoError(f"{type(self).__name__}: copying=True needs shared=True.")
        if self.coverage and self.attention != "additive":
            raise OstinatoError(f"{type(self).__name__}: coverage=True needs attention='additive'.")

    @property
    def vocabulary_(self) -> Vocabulary:
        """Tokens of the target."""
        return self.targets_.vocabulary

    @property
    def source_vocabulary_(self) -> Vocabulary:
        """Tokens of the source; the same where they are shared."""
        return self.inputs_.vocabulary

    # Training

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
            lambda data: self._prepare(data, X, y, validation), out, progress, tensorboard
        )

    def _read(self, X: Any, y: Any = None) -> Pairs:
        if isinstance(X, Pairs):
            return X
        paths = [X] if isinstance(X, os.PathLike) else X
        files = isinstance(paths, list) and paths and all(isinstance(p, os.PathLike) for p in paths)
        if files and y is None:
            return read_pairs([Path(p) for p in paths], self)
        return pairs_of(X, y, self)

    def _labelled(self, X: Any, y: Any = None) -> Pairs:
        pairs = self._read(X, y)
        if pairs.targets is None:
            raise OstinatoError(
                f"{type(self).__name__}: the texts have no targets: y is missing, and so is a "
                "second file or column."
            )
        return pairs

    def _prepare(self, data: Path, X: Any, y: Any, validation: Any) -> Prepared:
        training, held_out = self._labelled(X, y), None
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation,)
            held_out = self._labelled(*pair)
        elif self.validation_fraction != 0:
            call, fraction = type(self).__name__, self.validation_fraction
            training, held_out = split(training, fraction, self.seed, call=call, most=2000)
        texts = [several[0] for several in training.targets or []]
        size = self._usual_vocabulary(texts, training.sources)
        both = [*texts, *training.sources] if self.shared else texts
        vocabulary = _vocabulary(self.level, both, size)
        own = vocabulary if self.shared else _vocabulary(self.level, training.sources, size)
        parts = {"training": _one_each(training)}
        if held_out is not None:
            parts["validation"] = held_out
        inputs, targets = TokenInputs(own, self.longest), TargetTexts(vocabulary)
        inputs, lengths, facts = prepare(data, parts, inputs, targets)
        facts["notes"] = list(training.notes)
        n = len(lengths)
        resolved = resolve(self, n, int(lengths.max()) if self.init == "chrono" else None) | {
            "vocabulary_size": size,
            "hidden_size": 128 if n < 2000 else 256 if n < 10_000 else 512,
            "dropout": 0.3,
        }
        return Prepared(self._documents(inputs, targets), resolved, facts)

    def _usual_vocabulary(self, *texts: Iterable[str]) -> int | None:
        """Return the size of the vocabulary, as given or by the size of the data."""
        if self.vocabulary_size is not None or self.level != "bpe":
            return self.vocabulary_size
        letters = sum(len(text) for some in texts for text in some)
        return int(min(8000, max(400, letters // 400)))

    def _build(self, inputs: TokenInputs, targets: TargetTexts) -> EncoderDecoder:
        how = self.architecture(self.resolved_)
        H, dropout = how.hidden_size, how.dropout
        width = self.embedding_size or max(32, H // 2)
        reading = how.layers(width, max(1, H // 2), bidirectional=True)
        writing = how.layers(width + (H if self.input_feeding else 0))
        decoder = Decoder(
            len(targets.vocabulary), writing, reading.output_size, width, self.attention,
            input_feeding=self.input_feeding, coverage=self.coverage, copying=self.copying,
            dropout=dropout,
        )  # fmt: skip
        embedding = nn.Embedding(len(inputs.vocabulary), width)
        nn.init.normal_(embedding.weight, std=width**-0.5)
        if self.shared:
            embedding = decoder.embedding
        encoder = RecurrentEncoder(embedding, reading, dropout, tied=self.shared)
        return EncoderDecoder(encoder, decoder, self.label_smoothing)

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
        """Write a text, or the best few, for each source, in their order; see `Search`.

        Args:
            X: texts, or files of them.
            beam: hypotheses kept at a time; 1 takes the likeliest token at every step.
            length_penalty: above 0 long texts are not put at a disadvantage; 1 is usual.
            n_best: texts for each source, the best first.
            no_repeat: tokens that must not follow each other twice; 0 for any.
            sampling: sample a text instead of searching for the best.
            temperature: of the sampling; below 1 unlikely tokens become rarer.
            seed: of the sampling; the same seed writes the same texts.
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
        device = self._device()
        network = self.network_.eval()
        # A stretch at a time is sorted by length, so that little is padded and texts come soon.
        for begin in range(0, len(pairs), 32 * batch_size):
            stretch = pairs.sources[begin : begin + 32 * batch_size]
            rows = [self.inputs_.encode_text(text) for text in stretch]
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
        """Return the best text for each source."""
        return [several[0].text for several in self.write(X)]

    def plot_attention(self, text: str, picture: str | os.PathLike[str]) -> str:
        """Draw the attention of each token that is written as a PNG.

        Args:
            text: the source.
            picture: the file.

        Returns:
            the text written.

        Raises:
            OstinatoError: if the text is empty.
        """
        ((found,),) = self.write([text])
        if found.attention is None:
            raise OstinatoError(f"{type(self).__name__}.plot_attention: the text is empty.")
        read = self.inputs_.step_names(pairs_of([text]))
        draw_attention(found.attention, read, found.pieces, Path(picture))
        return found.text

    def sources(self, X: Any) -> Pairs:
        """Read sources, texts in memory or files of them, and where each stands."""
        if isinstance(X, Pairs):
            return X
        paths = [X] if isinstance(X, os.PathLike) else list(X)
        if paths and all(isinstance(path, os.PathLike) for path in paths):
            return read_sources([Path(path) for path in paths], self)
        return pairs_of(paths)

    # Storing

    def _documents(self, inputs: TokenInputs, targets: TargetTexts) -> dict[str, Any]:
        documents = {"vocabulary.json": targets.to_json()}
        if not self.shared:
            documents["source_vocabulary.json"] = inputs.vocabulary.to_json()
        return documents

    def _restore(self, documents: Mapping[str, Any]) -> tuple[TokenInputs, TargetTexts]:
        vocabulary = Vocabulary.from_json(documents["vocabulary.json"])
        own = documents.get("source_vocabulary.json")
        inputs = TokenInputs(vocabulary if own is None else Vocabulary.from_json(own), self.longest)
        return inputs, TargetTexts(vocabulary, self.sampled, self.resolved("epochs") or 0.0)


def _vocabulary(level: Level, texts: Iterable[str], size: int | None) -> Vocabulary:
    unknown = {"word": "<unk>", "char": "\ufffd"}.get(level)
    return build_vocabulary(
        level, TextSource.from_text("\n".join(texts)), size=size, unknown=unknown
    )


def _one_each(pairs: Pairs) -> Pairs:
    """Return each source once for each of its targets."""
    rows = [(i, text) for i, several in enumerate(pairs.targets or []) for text in several]
    taken = pairs.take([i for i, _ in rows])
    taken.targets = [[text] for _, text in rows]
    return taken
