"""Captions: learn from images and what is said of them, and say it of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ostinato.data.batches import SequenceBatch, SequenceBatches
from ostinato.data.corpus import Corpus
from ostinato.data.features import ImageForm
from ostinato.data.ragged import Examples
from ostinato.data.text import TextSource
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary
from ostinato.errors import DataError, OstinatoError, require
from ostinato.networks.attention import AttentionKind
from ostinato.networks.decoding import Search, beam_search
from ostinato.networks.functional import Lengths
from ostinato.networks.image import ImageEncoder
from ostinato.networks.seq2seq import Decoder, Encoded, EncoderDecoder
from ostinato.training.supervised import Answer, SupervisedEstimator


class Pictures(nn.Module):
    """An image encoder for images of one step each, ``(B, 1, height * width * channels)``.

    Args:
        shape: height, width, channels.
        encoder: what reads them, ``(B, channels, height, width)`` of numbers from 0 to 1.
        mirror: whether half of them are mirrored while training.
    """

    def __init__(self, shape: Sequence[int], encoder: ImageEncoder, mirror: bool = False) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.mirror = mirror
        self.encoder = encoder
        self.output_size = encoder.output_size

    def forward(self, x: Tensor, lengths: Lengths = None) -> Encoded:
        """Encode a batch."""
        images = x.reshape(len(x), *self.shape).permute(0, 3, 1, 2) / 255  # (B, C, height, width)
        if self.training and self.mirror:
            turned = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
            images = torch.where(turned, images.flip(-1), images)
        encoded: Encoded = self.encoder(images)
        return encoded


@dataclass(kw_only=True, eq=False, repr=False)
class Captioner(SupervisedEstimator):
    """A network that looks at an image and writes what is to be seen: one to many.

    A small convolutional network makes features of the image; a recurrent decoder attends to them,
    word by word (Xu et al. 2015, "Show, attend and tell").

    Args:
        attention: additive or multiplicative.
        level: what captions are cut into: word, bpe, char.
        blocks: convolutions, each of which halves the image.
        label_smoothing: share of the probability that is asked of all words alike.
        mirror: mirror half of the images while training, drawn anew each time; not where captions
            tell left from right.
        image: must be whole.

    Further settings are those of `SupervisedEstimator`, `InputSettings`, `ReadingSettings` and
    `TrainingSettings`.

    Attributes:
        vocabulary_: words.
        inputs_: what is known of the images.
        network_: the trained network.
        training_: facts of the training run.
        chosen_: settings that were not given, and what the data made of them.

    Example:
        >>> X = [np.full((8, 8), value, np.uint8) for value in (0, 255)] * 20
        >>> y = ["it is dark", "it is bright"] * 20
        >>> model = Captioner(hidden_size=32, blocks=2, epochs=20, learning_rate=0.01).fit(X, y)
        >>> model.predict(X[:2])
        ['it is dark', 'it is bright']
    """

    attention: AttentionKind = "additive"
    level: Level = "word"
    blocks: int = 4
    label_smoothing: float = 0.1
    mirror: bool = False
    image: ImageForm = "whole"

    def check_settings(self) -> None:
        """Refuse what cannot be meant; see `TrainingSettings`."""
        super().check_settings()
        self._want_one_of("attention", get_args(AttentionKind))
        self._want_one_of("level", get_args(Level))
        self._want_one_of("image", ["whole"])
        self._want("blocks", lambda n: 1 <= n <= 8, "a number of convolutions, 1 to 8")
        self._want("label_smoothing", lambda v: 0 <= v < 1, "a share from 0 to below 1")

    # Learning

    def _prepare(self, X: Any, y: Any, validation: Any, data: Path) -> dict[str, Any]:
        """Of several captions of an image each is learnt with it."""
        corpus = _one_each(self._corpus(X, y, labelled=True))
        if validation is not None:
            pair = validation if isinstance(validation, tuple) else (validation, None)
            validation = _one_each(self._corpus(*pair, labelled=True))
        return super()._prepare(corpus, None, validation, data)

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Captions of one image stay together."""
        if corpus.kind != "image":
            raise corpus.places[0].error(f"holds {corpus.kind}; expected images.")
        keys = [str(place) for place in corpus.places]
        firsts = list(dict.fromkeys(keys))
        share = 0.1 if self.validation_fraction is None else self.validation_fraction
        held = min(max(1, round(share * len(firsts))), len(firsts) - 1)
        if held < 1:
            raise DataError("one image is too little to learn from and to validate on; give more.")
        drawn = np.random.default_rng(self.seed % 2**32).permutation(len(firsts))[:held]
        out = {firsts[i] for i in drawn}
        kept = [i for i, key in enumerate(keys) if key not in out]
        return corpus.take(kept), corpus.take([i for i, key in enumerate(keys) if key in out])

    def _learn_targets(self, training: Corpus, held_out: Corpus | None) -> None:
        if training.kind != "image":
            raise training.places[0].error(f"holds {training.kind}; expected images.")
        texts = [_captions(training, i)[0] for i in range(len(training))]
        unknown = {"word": "<unk>", "char": "\ufffd"}.get(self.level)
        source = TextSource.from_text("\n".join(texts))
        self.vocabulary_ = build_vocabulary(
            self.level, source, size=self.vocabulary_size, min_count=self.min_count, unknown=unknown
        )

    def _encode_targets(self, corpus: Corpus) -> Iterator[NDArray[Any]]:
        return (self.vocabulary_.encode(_captions(corpus, i)[0]) for i in range(len(corpus)))

    def _assemble(self, encode: nn.Module, features: int) -> nn.Module:
        H, dropout = self._value("hidden_size"), self._value("dropout")
        width = max(32, H // 2)
        images = ImageEncoder(self.inputs_.shape[2], H, self.blocks, dropout=0.1)
        decoder = Decoder(
            len(self.vocabulary_), self._recurrent(width), H, width, self.attention, dropout=dropout
        )
        pictures = Pictures(self.inputs_.shape, images, self.mirror)
        return EncoderDecoder(pictures, decoder, self.label_smoothing)

    def _batches(self, examples: Examples) -> SequenceBatches:
        return SequenceBatches(examples, self._value("batch_size"), seed=self.seed, apart=True)

    def _in_order(self, examples: Examples) -> Iterator[tuple[NDArray[np.int64], SequenceBatch]]:
        return SequenceBatches(examples, 64, apart=True).in_order()

    def _weight(self, batch: SequenceBatch) -> int:
        assert batch.target_lengths is not None
        return int(batch.target_lengths.sum()) + len(batch.lengths)

    def _loss(self, batch: SequenceBatch, table: Any, device: torch.device) -> Tensor:
        x = self._tensors(batch, table, device)
        loss: Tensor
        loss, _ = self.network_.loss(
            x, batch.targets.to(device), target_lengths=batch.target_lengths
        )
        return loss

    def _judge(self, x: Any, batch: SequenceBatch, targets: Tensor) -> dict[str, float]:
        loss, _ = self.network_.loss(x, targets, target_lengths=batch.target_lengths)
        return {"loss": float(loss)}

    def _aim(self) -> str:
        return f"{len(self.vocabulary_):,} tokens of level {self.level}"

    # Using

    def caption(
        self,
        X: Any,
        *,
        beam: int = 3,
        length_penalty: float = 1.0,
        n_best: int = 1,
        max_length: int = 40,
    ) -> list[list[str]]:
        """What is said of each image: ``n_best`` captions, the best first.

        Args:
            X: as in `fit`.
            beam: hypotheses kept at a time.
            length_penalty: above 0 long captions are not put at a disadvantage.
            n_best: captions of each image.
            max_length: most tokens.
        """
        search = Search(
            beam=beam, length_penalty=length_penalty, n_best=n_best, max_length=max_length,
            max_factor=0.0,
        )  # fmt: skip
        corpus = self._corpus(X, labelled=None)
        rows, _ = self.inputs_.encode(corpus)
        device = next(self.network_.parameters()).device
        network: Any = self.network_.eval()
        found: list[list[str]] = []
        rows = iter(rows)
        while some := [np.asarray(row) for row in islice(rows, 64)]:
            x = torch.from_numpy(np.stack(some)).float().to(device)
            for several in beam_search(network, x, None, search):
                found.append([self.vocabulary_.decode(h.tokens) for h in several])
        return found

    def predict(self, X: Any) -> list[str]:
        """The best caption of each image."""
        return [several[0] for several in self.caption(X)]

    def answers(self, X: Any, *, probabilities: bool = False) -> Iterator[Answer]:
        """What is said of each image; see `caption`."""
        corpus = self._corpus(X, labelled=None)
        for place, text in zip(corpus.places, self.predict(corpus), strict=True):
            yield Answer(place, f"{text}\t{place}", {"caption": text})

    def evaluate(self, X: Any, y: Any = None, **search: Any) -> dict[str, Any]:
        """How good the captions are. Needs ``ostinato[translation]``.

        Returns:
            bleu by sacrebleu, its signature, and images.
        """
        sacrebleu = require("sacrebleu", "translation", "BLEU")
        corpus = self._corpus(X, y, labelled=True)
        self._refuse_untargeted(corpus)
        references = [_captions(corpus, i) for i in range(len(corpus))]
        written = [several[0] for several in self.caption(corpus, **search)]
        most = max(map(len, references))
        columns = [[r[k] if k < len(r) else None for r in references] for k in range(most)]
        bleu = sacrebleu.BLEU(force=True)
        return {
            "bleu": float(bleu.corpus_score(written, columns).score),
            "bleu_signature": str(bleu.get_signature()),
            "images": len(written),
        }

    def score(self, X: Any, y: Any = None) -> float:
        """BLEU."""
        return float(self.evaluate(X, y)["bleu"])

    def _documents(self) -> dict[str, Any]:
        return {**super()._documents(), "vocabulary.json": self.vocabulary_.to_json()}

    def _take_documents(self, documents: Mapping[str, Any]) -> None:
        super()._take_documents(documents)
        self.vocabulary_ = Vocabulary.from_json(documents["vocabulary.json"])


def _captions(corpus: Corpus, i: int) -> list[str]:
    """The captions of an image."""
    target = (corpus.targets or [])[i]
    several = [target] if isinstance(target, str) else list(target)
    texts = [text.strip() for text in several if isinstance(text, str) and text.strip()]
    if not texts:
        raise corpus.places[i].error(f"has the caption {target!r:.40}; expected a text.")
    return texts


def _one_each(corpus: Corpus) -> Corpus:
    """An image for each of its captions."""
    if corpus.targets is None:
        raise OstinatoError("Captioner.fit: there is nothing to learn: the captions are missing.")
    rows = [(i, text) for i in range(len(corpus)) for text in _captions(corpus, i)]
    taken = corpus.take([i for i, _ in rows])
    taken.targets = [text for _, text in rows]
    return taken
