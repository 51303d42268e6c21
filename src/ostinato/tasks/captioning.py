"""Image captioning: train on images and their captions, and caption others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.data.corpus import Corpus
from ostinato.data.features import ImageForm
from ostinato.data.inputs import Inputs
from ostinato.data.vocabulary import Level, Vocabulary
from ostinato.errors import DataError
from ostinato.networks.attention import AttentionKind
from ostinato.networks.decoding import Search, beam_search
from ostinato.networks.functional import Lengths
from ostinato.networks.image import ImageEncoder
from ostinato.networks.seq2seq import Decoder, Encoded, EncoderDecoder
from ostinato.tasks.base import Prediction
from ostinato.tasks.corpora import CorpusEstimator
from ostinato.tasks.networks import check_shares
from ostinato.tasks.writing import WrittenTexts, sacrebleu_scores
from ostinato.training.settings import check_setting, check_value


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


class Captions(WrittenTexts):
    """A caption for each image."""

    @staticmethod
    def texts(corpus: Corpus, i: int) -> list[str]:
        """Return the captions of an image."""
        target = (corpus.targets or [])[i]
        several = [target] if isinstance(target, str) else list(target)
        texts = [text.strip() for text in several if isinstance(text, str) and text.strip()]
        if not texts:
            raise corpus.places[i].error(f"has the caption {target!r:.40}; expected a text.")
        return texts


@dataclass(kw_only=True, eq=False, repr=False)
class Captioner(CorpusEstimator[Captions, EncoderDecoder]):
    """A network that reads an image and writes a caption: one to many.

    A small convolutional network makes features of the image; a recurrent decoder attends to them,
    word by word (Xu et al. 2015, "Show, attend and tell").

    Args:
        attention: additive or multiplicative.
        level: what captions are cut into: word, bpe, char.
        blocks: convolutions, each of which halves the image.
        label_smoothing: share of the target probability that is spread over all tokens.
        mirror: mirror half of the images while training, at random; not where captions tell left
            from right.
        image: must be whole.

    Further settings and attributes are those of `CorpusEstimator`.

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

    TARGETS = Captions

    def check_settings(self) -> None:
        super().check_settings()
        check_setting(self, "image", ["whole"])
        check_value(self, "blocks", lambda n: 1 <= n <= 8, "a number of convolutions, 1 to 8")
        check_shares(self, "label_smoothing")

    @property
    def vocabulary_(self) -> Vocabulary:
        """The tokens."""
        return self.targets_.vocabulary

    def _learn_targets(self, training: Corpus) -> Captions:
        return Captions.learn(training, self.level, self.vocabulary_size, self.min_count)

    def _labelled(self, X: Any, y: Any = None) -> Corpus:
        corpus = super()._labelled(X, y)
        if corpus.kind != "image":
            raise corpus.places[0].error(f"holds {corpus.kind}; expected images.")
        return corpus

    def _split(self, corpus: Corpus) -> tuple[Corpus, Corpus]:
        """Keep all captions of an image in one part."""
        keys = [str(place) for place in corpus.places]
        firsts = list(dict.fromkeys(keys))
        share = 0.1 if self.validation_fraction is None else self.validation_fraction
        held = min(max(1, round(share * len(firsts))), len(firsts) - 1)
        if held < 1:
            raise DataError("one image is too few to train and to validate on; give more.")
        drawn = np.random.default_rng(self.seed % 2**32).permutation(len(firsts))[:held]
        out = {firsts[i] for i in drawn}
        kept = [i for i, key in enumerate(keys) if key not in out]
        return corpus.take(kept), corpus.take([i for i, key in enumerate(keys) if key in out])

    def _examples(self, corpus: Corpus, part: str) -> Corpus:
        """Train on each image once for each of its captions."""
        return Captions.one_each(corpus)

    def _build(self, inputs: Inputs, targets: Captions) -> EncoderDecoder:
        how = self.architecture(self.resolved_)
        H, width = how.hidden_size, max(32, how.hidden_size // 2)
        images = ImageEncoder(inputs.shape[2], H, self.blocks, dropout=0.1)
        tokens = len(targets.vocabulary)
        decoder = Decoder(tokens, how.layers(width), H, width, self.attention, dropout=how.dropout)
        pictures = Pictures(inputs.shape, images, self.mirror)
        return EncoderDecoder(pictures, decoder, self.label_smoothing)

    def caption(
        self,
        X: Any,
        *,
        beam: int = 3,
        length_penalty: float = 1.0,
        n_best: int = 1,
        max_length: int = 40,
    ) -> list[list[str]]:
        """Caption images: ``n_best`` captions for each, the best first.

        ``X`` is as in `fit`; further arguments are those of `Search`, ``max_length`` tokens at
        most.
        """
        search = Search(
            beam=beam, length_penalty=length_penalty, n_best=n_best, max_length=max_length,
            max_factor=0.0,
        )  # fmt: skip
        sequences, network = self._sequences(), self.network_.eval()
        return [
            [self.vocabulary_.decode(hypothesis.tokens) for hypothesis in several]
            for batch in sequences.batches(sequences.unlabelled(self._read(X)))
            for several in beam_search(network, batch.inputs, None, search)
        ]

    def predict(self, X: Any) -> list[str]:
        """Return the best caption of each image."""
        return [several[0] for several in self.caption(X)]

    def predictions(self, X: Any, *, probabilities: bool = False) -> Iterator[Prediction]:
        """Yield the caption of each image; see `Predictor`."""
        corpus = self._read(X)
        for place, text in zip(corpus.places, self.predict(corpus), strict=True):
            yield Prediction(place, f"{text}\t{place}", {"caption": text})

    def evaluate(
        self,
        X: Any,
        y: Any = None,
        *,
        groups: Any = None,
        allow_shared_groups: bool = False,
        **search: Any,
    ) -> dict[str, Any]:
        """Measure captions by known ones; data are as in `fit`, ``search`` as in `caption`.

        Needs ``ostinato[translation]``.

        Returns:
            bleu by sacrebleu, its signature, and images.
        """
        corpus = self._tested(X, y, groups, allow_shared_groups)
        references = [Captions.texts(corpus, i) for i in range(len(corpus))]

        def write() -> list[str]:
            return [several[0] for several in self.caption(corpus, **search)]

        return {**sacrebleu_scores(write, references, "BLEU"), "images": len(corpus)}

    def score(self, X: Any, y: Any = None) -> float:
        """Return BLEU."""
        return float(self.evaluate(X, y)["bleu"])
