"""Tasks that train on sequences with labels, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from ostinato.data.augmentation import Augmentation, AugmentationSettings
from ostinato.data.chunks import corpus_chunks
from ostinato.data.corpus import Corpus, ReadingSettings
from ostinato.data.features import MAX_BANDS
from ostinato.data.inputs import Inputs, InputSettings
from ostinato.data.places import paths_of
from ostinato.data.reading import corpus_of, read_corpus
from ostinato.data.shards import Work
from ostinato.data.spool import open_chunks, write_chunks
from ostinato.errors import OstinatoError
from ostinato.networks.arrangements import ManyToOne
from ostinato.recurrence.cells import name_of, takes_missing
from ostinato.tasks.estimators import Estimator
from ostinato.tasks.networks import EncoderSettings, check_shares, check_sizes
from ostinato.tasks.targets import SequenceTargets
from ostinato.training.settings import check_value

TargetsT = TypeVar("TargetsT", bound=SequenceTargets[Any])
NetworkT = TypeVar("NetworkT", bound=nn.Module)


@dataclass(kw_only=True, eq=False, repr=False)
class CorpusEstimator(
    InputSettings, ReadingSettings, EncoderSettings, Estimator[Inputs, TargetsT, NetworkT]
):
    """An estimator that trains on sequences with labels.

    ``fit`` takes sequences: texts, lists of words, arrays ``(T, I)`` or ``(T,)``, uint8 images
    ``(height, width)``, or, as `pathlib.Path`, recordings or images; ``y`` is the label of each, or
    the labels of its steps, as the task has it.

    Further settings are those of its base classes, attributes those of `Estimator`. A task names
    its targets (`TARGETS`) and its network (`_build`).
    """

    TARGETS: ClassVar[type[Any]]
    """The class of the targets."""

    BY_STEP = False
    """Whether each step has a label, not each sequence."""

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes(self, "embedding_size vocabulary_size min_count")
        check_value(self, "bands", lambda n: 0 < n <= MAX_BANDS, "a number of bands, 1 to 10,000")
        check_value(self, "dynamic_range", lambda v: 0 < v <= 100, "dB above 0, up to 100")
        even = "an even number below 2**24, 0 for none"
        check_value(self, "spelling_size", lambda n: 0 <= n < 2**24 and n % 2 == 0, even)
        if self.separator == "":
            raise OstinatoError(f"{type(self).__name__}: separator=''; expected a text or nothing.")
        check_value(
            self, "affix_size", lambda n: 0 <= n < 2**24, "a number of features, 0 for none"
        )
        check_shares(self, "word_dropout")

    def _learn_targets(self, training: Corpus) -> TargetsT:
        """Return what there is to predict, such as the classes."""
        learned: TargetsT = self.TARGETS.learn(training)
        return learned

    def _read(self, X: Any, y: Any = None, *, labelled: bool | None = None) -> Corpus:
        """Read files, or take sequences in memory; a corpus is taken as it is."""
        if isinstance(X, Corpus):
            return X
        if y is None and (paths := paths_of(X)):
            return read_corpus(
                paths, self, by_step=self.BY_STEP, labelled=labelled, missing=self._takes_missing
            )
        return corpus_of(
            X, y, self, by_step=self.BY_STEP, labelled=labelled, missing=self._takes_missing
        )

    def _read_chunks(self, paths: Sequence[Path], work: Work) -> Corpus:
        if work.known("corpus") is not None:
            return open_chunks(work)
        found = corpus_chunks(
            paths, self, by_step=self.BY_STEP, labelled=True, missing=self._takes_missing
        )
        return write_chunks(found, work)

    def _data_settings(self) -> Sequence[str]:
        given = {field.name for kind in (InputSettings, ReadingSettings) for field in fields(kind)}
        own = {field.name for field in fields(self)} & {"level", "crf"}
        return [*super()._data_settings(), *sorted(given | own)]

    def _check_inputs(self, inputs: Inputs, folder: Path) -> None:
        causal = inputs.spectrogram is not None and inputs.spectrogram.causal
        if inputs.spectrogram is not None and causal == self.bidirectional:
            raise OstinatoError(
                f"{folder}: the sound was prepared for bidirectional={not causal}; train so, or "
                "prepare it again."
            )
        if inputs.missing and not self._takes_missing:
            raise OstinatoError(f"{folder}: values may be missing; train with cell='gru-d'.")
        if self.affix_size and inputs.lexicon is not None and not inputs.lexicon.affixes:
            raise OstinatoError(f"{folder}: was prepared with affix_size=0; prepare it again.")

    @property
    def _takes_missing(self) -> bool:
        """Whether values of series may be missing."""
        return self.recurrent and takes_missing(self.cell)

    def _learn(self, training: Corpus) -> tuple[Inputs, TargetsT]:
        targets = self._learn_targets(training)
        affixes, causal = self.affix_size > 0, not self.bidirectional
        missing = self._takes_missing
        inputs = Inputs.learn(training, self, causal=causal, affixes=affixes, missing=missing)
        return inputs, targets

    def _network_title(self) -> str:
        title, network = super()._network_title(), self.network_
        if isinstance(network, ManyToOne) and network.convolutions is not None:
            title += " beside convolutions"
        return title if self.recurrent else title.replace(name_of(self.cell), "no recurrence", 1)

    def _documents(self, inputs: Inputs, targets: TargetsT) -> dict[str, Any]:
        return {"inputs.json": inputs.to_json(), "targets.json": targets.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[Inputs, TargetsT]:
        targets = self.TARGETS.from_json(documents["targets.json"])
        return Inputs.from_json(documents["inputs.json"]), targets


@dataclass(kw_only=True, eq=False, repr=False)
class SoundEstimator(AugmentationSettings, CorpusEstimator[TargetsT, NetworkT]):
    """An estimator with one target for each sequence, which varies recordings while training."""

    RESPONSE: ClassVar[float] = 0.0
    """The setting ``response`` where it is not given, of models that read in both directions."""

    def check_settings(self) -> None:
        super().check_settings()
        share = "a share from 0 to 0.5"
        check_value(self, "speed pitch", lambda v: 0 <= v <= 0.5, share)
        check_value(self, "snr", lambda v: -10 <= v <= 100, "dB from -10 to 100")
        check_value(self, "gain response", lambda v: 0 <= v <= 60, "dB from 0 to 60")
        check_value(self, "masks", lambda n: 0 <= n <= 20, "a number of masks, 0 to 20")

    def _learn(self, training: Corpus) -> tuple[Inputs, TargetsT]:
        if self.augment and training.kind != "sound":
            raise OstinatoError(
                f"{type(self).__name__}: augment=True, and the inputs are {training.kind}; "
                "expected recordings."
            )
        return super()._learn(training)

    def _batching(self) -> dict[str, Any]:
        spectrogram = self.inputs_.spectrogram
        if spectrogram is None or self.augment is False:
            return super()._batching()
        usual = self.RESPONSE if self.bidirectional else 0.0
        response = usual if self.response is None else self.response
        how = (self.speed, self.pitch, self.snr, self.gain, response, self.masks)
        return super()._batching() | {"augment": Augmentation(spectrogram, *how)}
