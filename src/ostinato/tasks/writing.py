"""Tasks that read a text and write one: translation, summaries."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ostinato.data.batches import SequenceBatch
from ostinato.data.chunks import pair_chunks
from ostinato.data.corpus import Corpus
from ostinato.data.inputs import TokenInputs
from ostinato.data.pairs import PairSettings, pairs_of, read_pairs, read_sources
from ostinato.data.places import paths_of
from ostinato.data.ragged import Ragged
from ostinato.data.shards import Work
from ostinato.data.spool import open_chunks, write_chunks
from ostinato.data.text import read_text
from ostinato.data.vocabulary import Level, Vocabulary
from ostinato.errors import OstinatoError, require
from ostinato.files import PICTURES, check_new_file
from ostinato.networks.attention import AttentionKind
from ostinato.networks.decoding import Hypothesis, Search, beam_search, sample
from ostinato.networks.seq2seq import Decoder, EncoderDecoder, RecurrentEncoder
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.base import Text
from ostinato.tasks.estimators import Estimator, random_generator
from ostinato.tasks.networks import check_shares, check_sizes
from ostinato.tasks.sequences import split
from ostinato.tasks.targets import TokenSequence, usual_vocabulary, vocabulary_of
from ostinato.training.pictures import draw_attention


class WrittenTexts(TokenSequence[EncoderDecoder]):
    """Texts that a decoder writes; validation writes them, the likeliest token at every step."""

    judge = "token_bleu"
    higher_is_better = True
    flawless = 100.0

    def metrics(
        self, network: EncoderDecoder, batch: SequenceBatch, state: Hidden
    ) -> tuple[dict[str, float], None]:
        """Return the mean loss, and what `summarize` makes BLEU of."""
        found, _ = super().metrics(network, batch, state)
        assert batch.target_lengths is not None
        lengths = batch.target_lengths.tolist()
        most = Search(beam=1, max_length=2 * max(lengths), max_factor=0.0)
        counts: Counter[str] = Counter()
        written = beam_search(network, batch.inputs, batch.unequal, most)
        for (best, *_), row, n in zip(written, batch.targets.tolist(), lengths, strict=True):
            counts["written"] += len(best.tokens)
            counts["true"] += n
            for k in range(1, 5):
                guess, truth = ngrams(best.tokens, k), ngrams(row[:n], k)
                counts[f"right_{k}"] += (guess & truth).total()
                counts[f"of_{k}"] += guess.total()
        size = self.count(batch)
        return {**found, **{name: count / size for name, count in counts.items()}}, None

    def summarize(self, means: dict[str, float]) -> dict[str, float]:
        """Return the loss, and BLEU of tokens, 0 to 100 (Papineni et al. 2002)."""
        right, of = ([means[f"{name}_{k}"] for k in range(1, 5)] for name in ("right", "of"))
        bleu = 0.0
        if all(right):
            precision = math.exp(fmean(math.log(a / b) for a, b in zip(right, of, strict=True)))
            bleu = 100 * precision * math.exp(min(0.0, 1 - means["true"] / means["written"]))
        return {"loss": means["loss"], "token_bleu": bleu}


def ngrams(tokens: Sequence[int], n: int) -> Counter[tuple[int, ...]]:
    """Count the runs of n tokens."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


@dataclass
class TargetTexts(WrittenTexts):
    """A text for each source.

    Args:
        vocabulary: the tokens.
        sampled: share of the decoder's inputs that are its own words at the end of training, to
            which it rises from none.
        epochs: in which it rises; 0 for no rise.
    """

    sampled: float = 0.0
    epochs: float = 0.0

    def loss_arguments(self, batch: SequenceBatch) -> dict[str, Any]:
        risen = min(1.0, batch.epoch / self.epochs) if self.epochs else 1.0
        return {**super().loss_arguments(batch), "sampled": self.sampled * risen}


@dataclass(kw_only=True, eq=False, repr=False)
class WritingEstimator(PairSettings, Estimator[TokenInputs, TargetTexts, EncoderDecoder]):
    """An estimator that reads texts and writes a text for each: an encoder and a decoder.

    ``fit`` takes texts, and for each a target, a text or a list of texts any of which would do; or
    files: two parallel ones, or tables with a column of sources and one of targets.

    Args:
        attention: multiplicative (Luong et al. 2015) or additive (Bahdanau et al. 2015).
        input_feeding: whether the attentional vector is part of the decoder's next input; slower.
        coverage: whether attention takes account of the attention so far (See et al. 2017);
            additive, slower.
        copying: whether words of the source may be copied (See et al. 2017); needs shared.
        level: tokens: bpe (subwords learned from the texts), char, word.
        vocabulary_size: most tokens; by the size of the data if not given.
        shared: whether source and target share their vocabulary and its embedding.
        embedding_size: features of a token's vector; half of hidden_size if not given.
        label_smoothing: share of the target probability that is spread over all tokens.
        sampled: share of the decoder's inputs that are its own words instead of the true ones at
            the end of training, to which it rises from none.
        longest: tokens of a source that are read at most.

    Further settings are those of its base classes, attributes those of `Estimator`.
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
        super().check_settings()
        check_sizes(self, "vocabulary_size embedding_size longest")
        check_shares(self, "label_smoothing sampled")
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

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        if isinstance(X, Corpus):
            return X
        if y is None and (paths := paths_of(X)):
            return read_pairs(paths, self)
        return pairs_of(X, y, self)

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Corpus:
        if work.known("corpus") is not None:
            return open_chunks(work)
        return write_chunks(pair_chunks(paths, self), work)

    def _data_settings(self) -> Sequence[str]:
        own = ["level", "vocabulary_size", "shared", "longest"]
        return [*super()._data_settings(), *own, *(f.name for f in fields(PairSettings))]

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        call, fraction = type(self).__name__, self.validation_fraction
        return split(corpus, fraction, self.seed, call=call, most=2000)

    def _examples(self, corpus: Corpus, part: str) -> Corpus:
        """Train on each source once for each of its targets."""
        return TargetTexts.one_each(corpus) if part == "training" else corpus

    def _learn(self, training: Corpus) -> tuple[TokenInputs, TargetTexts]:
        texts, size = _first_texts(training), self._usual_vocabulary(training)
        both = chain(texts, training.inputs) if self.shared else texts
        vocabulary = vocabulary_of(both, self.level, size)
        own = vocabulary if self.shared else vocabulary_of(training.inputs, self.level, size)
        return TokenInputs(own, self.longest), TargetTexts(vocabulary)

    def _facts(self, training: Corpus) -> dict[str, Any]:
        return {"vocabulary_size": self._usual_vocabulary(training)}

    def _defaults(
        self, facts: Mapping[str, Any], pieces: int, usual: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "vocabulary_size": facts["vocabulary_size"],
            "hidden_size": 128 if pieces < 2000 else 256 if pieces < 10_000 else 512,
            "dropout": 0.3,
        }

    def _usual_vocabulary(self, training: Corpus) -> int | None:
        """Return the size of the vocabulary, as given or by the size of the data."""
        if self.vocabulary_size is not None or self.level != "bpe":
            return self.vocabulary_size
        letters = sum(map(len, chain(_first_texts(training), training.inputs)))
        return usual_vocabulary(letters)

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
        if batch_size < 1:
            raise OstinatoError(
                f"{type(self).__name__}.write: batch_size={batch_size}; expected 1 or more."
            )
        pairs = self.sources(X)
        search = Search(
            beam=beam, length_penalty=length_penalty, n_best=n_best, no_repeat=no_repeat,
            temperature=temperature,
        )  # fmt: skip
        generator, device, network = random_generator(seed), self._device(), self.network_.eval()
        # A stretch at a time is sorted by length, so that little is padded and texts come soon.
        for begin in range(0, len(pairs), 32 * batch_size):
            stretch = pairs.inputs[begin : begin + 32 * batch_size]
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
                (i for i, row in enumerate(rows) if len(row)), key=lambda i: len(rows[i])
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

    def predict(self, X: Any, **search: Any) -> list[str]:
        """Return the best text for each source; further arguments are those of `write`."""
        return [several[0].text for several in self.write(X, **search)]

    def plot_attention(self, text: str, picture: str | os.PathLike[str]) -> str:
        """Write a text for a source, and draw its attention as a PNG; returns the text."""
        check_new_file(picture, PICTURES)
        ((found,),) = self.write([text])
        if found.attention is None:
            raise OstinatoError(f"{type(self).__name__}.plot_attention: the text is empty.")
        read = self.inputs_.step_names(pairs_of([text]))
        draw_attention(found.attention, read, found.pieces, Path(picture))
        return found.text

    def encode(self, sequence: str | os.PathLike[str]) -> tuple[Any, list[str]]:
        """Encode a text, or that of a file; see `Estimator`."""
        return super().encode(read_text(sequence))

    def sources(self, X: Any) -> Corpus:
        """Read sources, texts in memory or files of them, and their places."""
        if isinstance(X, Corpus):
            return X
        paths = paths_of(X)
        return read_sources(paths, self) if paths else pairs_of(X)

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


def _first_texts(corpus: Corpus) -> Iterator[str]:
    return (several[0] for several in corpus.targets or [])


def sacrebleu_scores(
    write: Callable[[], Sequence[str]], references: Sequence[Sequence[str]], *names: str
) -> dict[str, Any]:
    """Return measures of texts, BLEU or CHRF by sacrebleu, and their signatures.

    The texts are written once sacrebleu is there; any of the references of each would do.
    """
    sacrebleu = require("sacrebleu", "translation", " and ".join(names))
    most, written = max(map(len, references)), write()
    columns = [[r[k] if k < len(r) else None for r in references] for k in range(most)]
    made = {"BLEU": lambda: sacrebleu.BLEU(force=True), "CHRF": sacrebleu.CHRF}
    measures = {name.lower(): made[name]() for name in names}
    found = {n: float(m.corpus_score(written, columns).score) for n, m in measures.items()}
    return found | {f"{n}_signature": str(m.get_signature()) for n, m in measures.items()}
