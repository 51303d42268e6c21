"""Language models: train on text, continue a text, and say how likely it is."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from ostinato.data.batches import (
    ContiguousBatches,
    SequenceBatch,
    open_tokens,
    write_token_shards,
    write_tokens,
)
from ostinato.data.chunks import text_of_tables
from ostinato.data.places import paths_of
from ostinato.data.shards import Reader, Work
from ostinato.data.text import TextSource, read_text
from ostinato.data.vocabulary import Level, Vocabulary, build_vocabulary, word_tokens
from ostinato.errors import DataError, OstinatoError
from ostinato.files import any_prepared
from ostinato.launch import launch
from ostinato.memory import check_memory
from ostinato.networks.arrangements import CellChoice, ManyToMany
from ostinato.networks.outputs import Output
from ostinato.recurrence.layers import Hidden
from ostinato.tasks.estimators import Estimator, Plan, random_generator
from ostinato.tasks.networks import check_shares, check_sizes
from ostinato.tasks.prepared import Prepared
from ostinato.training.callbacks import Callback
from ostinato.training.evaluation import Objective, Problem, Sample, eval_mode
from ostinato.training.progress import ProgressMode
from ostinato.training.settings import refuse

VALIDATION_TOKENS = 200_000
"""Tokens that an evaluation during training reads at most."""

PENALTY_WINDOW = 64
"""Latest tokens that a repetition penalty looks at."""

TextData = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | TextSource


class DegenerateTextWarning(UserWarning):
    """Generated text repeats itself, or stopped at once."""


class Score(NamedTuple):
    """How well a model predicts a text.

    Args:
        nats: mean negative log-likelihood of a token, in nats.
        bits_per_character: the same for a character, in bits; compares models of any level.
        perplexity: e to the nats: as uncertain as a fair choice among so many tokens.
    """

    nats: float
    bits_per_character: float
    perplexity: float


@dataclass
class NextTokens(Objective[ManyToMany, SequenceBatch]):
    """The token after each, the state carried from window to window.

    Args:
        vocabulary: the tokens.
        tokens_per_character: of the training text.
        device: of the network; None where batches are on it.
    """

    vocabulary: Vocabulary
    tokens_per_character: float = 1.0
    device: torch.device | None = None
    loss_unit = "nats"
    step_name = "tok"

    def loss(
        self, network: ManyToMany, batch: SequenceBatch, state: Hidden
    ) -> tuple[Tensor, Hidden]:
        """Return the mean loss of a token, and the state after the window."""
        inputs, targets = batch.inputs.to(self.device), batch.targets.to(self.device)
        return network.loss(inputs, targets, state)

    def count(self, batch: SequenceBatch) -> int:
        """Return the number of tokens."""
        return batch.steps

    def units(self, loss: float) -> dict[str, float]:
        """Return nats a token as bits a character."""
        return {"bits_per_character": loss * (self.tokens_per_character / math.log(2))}


@dataclass(kw_only=True, eq=False, repr=False)
class TextGenerator(Estimator[None, NextTokens, ManyToMany]):
    """A recurrent language model: it is trained on a text and continues others.

    Args:
        level: tokens: char, byte, word or bpe (byte pairs learned from the text).
        hidden_size: hidden units of each layer.
        embedding_size: features of a token's vector; follows from the vocabulary if not given.
        init: initialisation of the recurrent layers: pytorch, orthogonal, identity, or chrono, for
            dependencies as long as the window; rnn-relu always starts from the identity.
        dropout: share of features dropped between layers and before the output, at each step.
        variational_dropout: share of features dropped between layers and after the embedding, the
            same at every step.
        window: steps of back-propagation through time; the state is carried beyond.
        vocabulary_size: most tokens of a word or bpe vocabulary.
        min_count: tokens rarer than this are unknown.
        unknown: token that stands for unknown characters; without one they are an error.

    Further settings are those of `NetworkSettings` and `TrainingSettings`.

    Attributes, beside those of `Estimator`:
        vocabulary_: the tokens.

    Example:
        >>> model = TextGenerator(hidden_size=32, steps=80, learning_rate=0.02, window=8)
        >>> model = model.fit("to be or not to be, that is the question. " * 20)
        >>> text = model.generate("to be", length=12, temperature=0)
        >>> model.score("to be or not to be").bits_per_character < 2
        True
    """

    level: Level = "char"
    cell: CellChoice = "lstm"
    hidden_size: int = 256
    embedding_size: int | None = None
    dropout: float = 0.0
    variational_dropout: float = 0.0
    window: int = 64
    vocabulary_size: int | None = None
    min_count: int = 1
    unknown: str | None = None

    def fit(  # type: ignore[override]  # a text is divided, not given in parts
        self,
        text: TextData,
        y: None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        pattern: str = "*.txt",
        progress: ProgressMode = "quiet",
        tensorboard: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Train on a text: a string, a path, paths or a `TextSource`; as `Estimator.fit` does.

        ``pattern`` says which files of a folder are read; ``y`` is ignored.
        """
        self.check_settings()
        source = None if launch().rank else _data_of(text, pattern)  # the first rank reads it
        return super().fit(
            source, out=out, progress=progress, tensorboard=tensorboard, callbacks=callbacks
        )

    def plan(  # type: ignore[override]  # as fit
        self, text: TextData, y: None = None, *, pattern: str = "*.txt"
    ) -> Plan:
        return super().plan(_data_of(text, pattern))

    def prepare(  # type: ignore[override]  # as fit
        self,
        text: TextData,
        y: None = None,
        *,
        out: str | os.PathLike[str],
        pattern: str = "*.txt",
        progress: ProgressMode = "quiet",
    ) -> Path:
        """Prepare a text in a folder, from which `fit` trains; as `Estimator.prepare` does.

        ``pattern`` says which files of a folder are read.
        """
        paths = paths_of(text)
        if Path("-") in paths:
            raise OstinatoError("TextGenerator.prepare: expected files; save standard input first.")
        source = _source_of(text, pattern)
        return self._prepare_in(
            Path(out), paths, progress, lambda model, *at: model._write(at[0], source, at[1])
        )

    def _data_settings(self) -> Sequence[str]:
        own = ("level", "vocabulary_size", "min_count", "unknown")
        return [*super()._data_settings(), *own]

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes(self, "window min_count embedding_size vocabulary_size")
        check_shares(self, "variational_dropout")

    @property
    def vocabulary_(self) -> Vocabulary:
        """The tokens."""
        return self.targets_.vocabulary

    def _prepare(
        self, data: Path, X: TextData, y: Any, validation: Any, work: Work | None = None
    ) -> Prepared:
        return self._write(data, _source_of(X, "*.txt"), work)

    def _write(self, data: Path, source: TextSource, work: Work | None) -> Prepared:
        """Write a text as token ids into a folder; with ``work`` in shards."""

        def told(text: TextSource, stage: str, total: int | None) -> Iterator[str]:
            done = 0
            for piece in text:
                yield piece
                done += len(piece)
                if work is not None:
                    work.tell(stage, done, total)

        def found(fact: str, find: Callable[[], Any]) -> Any:
            return find() if work is None else work.recall(fact, find)

        share = 0.1 if self.validation_fraction is None else self.validation_fraction
        characters = found("characters", lambda: sum(map(len, told(source, "counting", None))))
        held_out = round(share * characters)
        if held_out == characters:
            refuse(self, "validation_fraction", f"less, with a text of {characters} characters")
        kept = source.head(characters - held_out)
        # Characters come from all of the text, since one never met could not be encoded; words and
        # byte pairs come from the training part alone.
        learned = source if self.level == "char" else kept
        document = found(
            "vocabulary",
            lambda: build_vocabulary(
                self.level,
                told(learned, "learning tokens", characters),
                size=self.vocabulary_size,
                min_count=self.min_count,
                unknown=self.unknown,
            ).to_json(),
        )
        vocabulary = Vocabulary.from_json(document)
        parts = [("training", "to train on", kept, characters - held_out)]
        if held_out:
            rest = source.slice(characters - held_out)
            parts += [("validation", "held out to validate on", rest, held_out)]
        tokens = {}
        for name, use, part, size in parts:
            path = data / f"{name}.npy"
            if work is None:
                written = write_tokens(vocabulary.encode_pieces(part), path, len(vocabulary))
            else:
                V, stage = len(vocabulary), f"encoding {name}"
                ids_from = partial(_ids_from, vocabulary, part)
                written = write_token_shards(ids_from, path, V, work, stage, size)
            tokens[name] = len(written)
            if tokens[name] < 2:
                raise DataError(
                    f"TextGenerator: the text {use} has 1 token; expected 2 or more: give more "
                    f"text, or another validation_fraction (now {share:g}; 0 for none)."
                )
        facts = {
            # A file's name may hold bytes that are no characters; JSON may not.
            "source": source.name.encode(errors="backslashreplace").decode(),
            "characters": characters,
            "held_out": held_out,
            "tokens": tokens["training"],
            "vocabulary": len(vocabulary),
        }
        return Prepared({"vocabulary.json": document}, self._resolve(None, data, facts), facts)

    def _resolve(self, inputs: None, data: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "batch_size": 32,
            "evaluations": 10,
            "patience": 0,
            "validation_fraction": 0.1,
            "init_steps": max(3, self.window),
        }

    def _problem(self, data: Path, facts: Mapping[str, Any], device: torch.device) -> Problem:
        training = open_tokens(data / "training.npy")
        reader = Reader(data / "training.npy", training)
        held_out = None
        if facts["held_out"]:  # in parallel streams, whose state is carried
            whole = open_tokens(data / "validation.npy")
            tokens = whole[: VALIDATION_TOKENS + 1]
            Reader(data / "validation.npy", whole).touch(0, len(tokens))
            held_out = ContiguousBatches(tokens, max(1, min(64, len(tokens) // 1000)), 100)
        characters = facts["characters"]
        streams = min(self.resolved("batch_size"), max(1, len(training) // (self.window + 1)))
        self._check_batch(streams, min(self.window, len(training) // streams), device)
        per_character = len(training) / max(1, characters - facts["held_out"])
        return Problem(
            ContiguousBatches(training, streams, self.window, reader),
            NextTokens(self.vocabulary_, per_character, device),
            held_out,
            f"{characters:,} characters; {len(self.vocabulary_):,} tokens of level {self.level}",
            sample=self._sample_text,
        )

    def _build(self, inputs: None, targets: NextTokens) -> ManyToMany:
        V = len(targets.vocabulary)
        width = self.embedding_size or min(self.hidden_size, 16 * math.ceil(V / 16))
        how = self.architecture(self.resolved_)
        with warnings.catch_warnings():
            # `dropout` acts before the output too, so that it has a meaning with one layer.
            warnings.filterwarnings("ignore", "dropout option adds dropout after all but last")
            recurrent = how.layers(
                width, dropout=self.dropout, variational_dropout=self.variational_dropout
            )
        embedding = nn.Embedding(V, width)
        nn.init.normal_(embedding.weight, std=width**-0.5)
        output = Output(self.hidden_size, V, "category", dropout=self.dropout)
        return ManyToMany(embedding, recurrent, output, dropout=self.variational_dropout)

    def _sample_text(self, seed: int, length: int = 200) -> str:
        generator, prompt = random_generator(seed), self._encode_prompt("")
        ids = self._generate_ids(prompt, length, lambda scores: draw_token(scores, generator))
        return self.vocabulary_.decode(ids)

    def generate(self, prompt: str = "", length: int = 500, **controls: Any) -> str:
        """Continue a text; arguments and warning are those of `stream`."""
        pieces = self.stream(prompt, length, **controls)
        # A letter, and where it is.
        check_memory(f"TextGenerator.generate: length={length}", 9 * length, "use stream instead")
        return "".join(pieces)

    def stream(
        self,
        prompt: str = "",
        length: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Continue a text, piece by piece as it is written.

        Args:
            prompt: text to continue.
            length: largest number of tokens to generate; characters, where the level is char.
            temperature: below 1 unlikely tokens become rarer; 0 always takes the likeliest.
            top_k: sample from the k likeliest tokens only.
            top_p: sample from the likeliest tokens that make up this probability only (Holtzman et
                al. 2020, "The curious case of neural text degeneration").
            repetition_penalty: above 1 makes the latest 64 tokens less likely (Keskar et al. 2019,
                "CTRL").
            seed: the same seed generates the same text.
            stop: text to end before; the first of several.

        Warns:
            DegenerateTextWarning: if the text repeats itself or stopped at once.

        Raises:
            OstinatoError: on a control out of range, or a prompt with unknown characters.
        """
        check_is_fitted(self, "network_")
        stops = [stop] if isinstance(stop, str) else list(stop or [])

        def expect(name: str, value: Any, kind: Any, ok: Callable[[Any], bool], what: str) -> None:
            known = isinstance(value, kind) and not isinstance(value, bool)
            if not known or (value is not None and not ok(value)):
                raise OstinatoError(f"TextGenerator.generate: {name}={value!r}; expected {what}.")

        real = int | float
        expect("length", length, int, lambda n: n >= 0, "a whole number, zero or more")
        expect("temperature", temperature, real, lambda t: 0 <= t < math.inf, "zero or more")
        r = repetition_penalty
        expect("repetition_penalty", r, real, lambda r: 0.01 <= r <= 100, "0.01 to 100")
        expect("top_k", top_k, int | None, lambda k: k >= 1, "a whole number, one or more")
        expect("top_p", top_p, real | None, lambda p: 0 < p <= 1, "above 0, 1 at the most")
        expect("seed", seed, int | None, lambda s: abs(s) < 2**63, "a whole number below 2**63")
        for each in stops:
            expect("stop", each, str, bool, "texts that are not empty")
        generator = random_generator(seed)
        ids = self._generate_ids(
            self._encode_prompt(prompt),
            length,
            lambda scores: draw_token(scores, generator, temperature, top_k, top_p),
            repetition_penalty,
        )
        return _watched(_until(self.vocabulary_.decode_stream(ids), stops), length)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.vocabulary_.encode(text).tolist()
        return ids

    def _encode_prompt(self, prompt: str) -> list[int]:
        """Ids of a prompt; of the likeliest start of a line for an empty one."""
        if prompt:
            return self._ids(prompt)
        for start in ("\n", " "):
            with suppress(OstinatoError):
                ids = self._ids(start)
                if self.vocabulary_.unk_id not in ids:
                    return ids
        return [1 if self.vocabulary_.unk_id == 0 else 0]

    def _generate_ids(
        self,
        prompt: Sequence[int],
        length: int,
        draw: Callable[[Tensor], int],
        penalty: float = 1.0,
    ) -> Iterator[int]:
        device = self._device()
        latest = list(prompt)
        x, state = torch.tensor([latest], device=device), None
        with eval_mode(self.network_):
            for _ in range(length):
                with torch.inference_mode():
                    h, state = self.network_.hidden(x, state)
                    scores = self.network_.output(h[0, -1])  # (V,)
                # A copy, since what inference mode makes cannot be changed.
                scores = scores.to("cpu", torch.float64, copy=True)
                if not bool(torch.isfinite(scores).all()):
                    raise OstinatoError(
                        "TextGenerator.generate: the network's scores are not finite; train it "
                        "again with a lower learning_rate."
                    )
                if self.vocabulary_.unk_id is not None:
                    scores[self.vocabulary_.unk_id] = -math.inf
                if penalty != 1:
                    seen = torch.tensor(sorted(set(latest[-PENALTY_WINDOW:])))
                    s = scores[seen]
                    scores[seen] = torch.where(s > 0, s / penalty, s * penalty)
                token = draw(scores)
                yield token
                latest = [*latest[-PENALTY_WINDOW:], token]
                x = torch.tensor([[token]], device=device)

    def log_probs(self, text: str) -> NDArray[np.float64]:
        """Natural log of the probability of each token but the first, given those before it.

        The text must have two tokens or more.
        """
        check_is_fitted(self, "network_")
        ids = self.vocabulary_.encode(text)
        if len(ids) < 2:
            raise OstinatoError(
                f"TextGenerator: {text!r} has {len(ids)} tokens; at least two are needed, since "
                "nothing comes before the first."
            )
        device = self._device()
        parts, state = [], None
        with torch.inference_mode():
            for batch in ContiguousBatches(ids, 1, 1000):
                scores, state = self.network_(batch.inputs.to(device), state)
                log_p = scores[0].double().log_softmax(-1).cpu()
                parts.append(log_p.gather(1, batch.targets.T).flatten())
        return torch.cat(parts).numpy()

    def next_log_probs(self, text: str) -> dict[str, float]:
        """Natural log of the probability of each token to follow a text, by the token's text.

        An empty text stands for the start of a line; unknown characters are passed over.
        """
        check_is_fitted(self, "network_")
        ids = self._encode_prompt("")
        for character in text:
            with suppress(DataError):
                ids += self._ids(character)
        with torch.inference_mode():
            h, _ = self.network_.hidden(torch.tensor([ids], device=self._device()))
            log_p = self.network_.output(h[0, -1]).double().log_softmax(-1).tolist()
        return {self.vocabulary_.decode([i]): value for i, value in enumerate(log_p)}

    def score(self, text: str, y: None = None) -> Score:
        """Return how well the model predicts ``text``."""
        log_p, first = self.log_probs(text), self.vocabulary_.encode(text)[:1]
        if first[0] != self.vocabulary_.unk_id:
            characters = len(self.vocabulary_.decode(first))
        else:
            characters = len(word_tokens(text)[0]) if self.level == "word" else 1
        nats = -float(log_p.mean())
        bits = -float(log_p.sum()) / math.log(2) / max(1, len(text) - characters)
        return Score(nats, bits, math.exp(min(nats, 700.0)))

    def examples(
        self, X: TextData, y: None = None, *, count: int = 32, steps: int | None = None
    ) -> Sample:
        """Encode pieces of a text, each ``steps`` tokens long (a window, if not given)."""
        pieces = self.vocabulary_.encode_pieces(_source_of(X, "*.txt"))
        return self._sample(np.concatenate([*pieces, np.zeros(0, np.int64)]), count, steps)

    def _validation_sample(self, data: Path, count: int = 32, steps: int | None = None) -> Sample:
        held_out = data / "validation.npy"
        tokens = open_tokens(held_out if held_out.exists() else data / "training.npy")
        return self._sample(tokens, count, steps)

    def _training_sample(self, data: Path, count: int = 32) -> Sample | None:
        if not (data / "validation.npy").exists():
            return None
        return self._sample(open_tokens(data / "training.npy"), count, None)

    def _sample(self, tokens: NDArray[Any], count: int, steps: int | None) -> Sample:
        T = min(steps or self.window, len(tokens) - 1)
        if T < 1:
            raise DataError("TextGenerator: the text has fewer than two tokens; give more.")
        count = min(count, (len(tokens) - 1) // T)
        begins = np.linspace(0, len(tokens) - 1 - T, count).astype(int)
        rows = np.stack([np.asarray(tokens[b : b + T + 1], dtype=np.int64) for b in begins])
        ids = torch.from_numpy(rows).to(self._device())
        return Sample(ids[:, :-1], ids[:, 1:])

    def encode(self, sequence: str | os.PathLike[str]) -> tuple[Tensor, list[str]]:
        """Encode a text, or that of a file; see `Estimator`."""
        device, ids = self._device(), self._ids(read_text(sequence))
        return torch.tensor([ids], dtype=torch.long, device=device), [
            self.vocabulary_.decode([i]) for i in ids
        ]

    def _documents(self, inputs: None, targets: NextTokens) -> dict[str, Any]:
        return {"vocabulary.json": targets.vocabulary.to_json()}

    def _restore(self, documents: Mapping[str, Any]) -> tuple[None, NextTokens]:
        return None, NextTokens(Vocabulary.from_json(documents["vocabulary.json"]))


def draw_token(
    scores: Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> int:
    """Draw a token from its scores ``(V,)``.

    >>> scores = torch.tensor([0.0, 2.0, 1.0])
    >>> draw_token(scores, torch.Generator(), temperature=0)
    1
    >>> {draw_token(scores, torch.Generator().manual_seed(i), top_k=2) for i in range(50)}
    {1, 2}
    """
    if temperature == 0:
        return int(scores.argmax())
    # The best score becomes 0, which no temperature, however small, can make infinite.
    scores = (scores.double() - scores.max()) / temperature
    if top_k is not None and top_k < len(scores):
        kept, best = torch.full_like(scores, -math.inf), scores.topk(top_k)
        scores = kept.scatter(0, best.indices, best.values)
    probabilities = scores.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # A token stays if what is likelier does not yet make up top_p; the first always stays.
        dropped = order[(ordered.cumsum(0) - ordered) >= top_p]
        probabilities[dropped] = 0.0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def degeneration(text: str, length: int) -> str | None:
    """Return the problem of a generated text, empty or ending in a loop; None if there is none.

    Args:
        text: the generated text.
        length: how many tokens were asked for.

    >>> degeneration("a rose is a rose is a rose is a rose is a rose is a rose is ", 60)
    "it repeats 'a rose is ' 6 times at its end"
    """
    if length > 0 and not text:
        return "it stopped at once"
    for period in range(1, len(text) // 3 + 1):
        run = period
        while run < len(text) and text[-run - 1] == text[-run - 1 + period]:
            run += 1
        if run >= max(40, 3 * period):
            unit = text[-run:][:period]
            unit = unit if len(unit) <= 40 else unit[:37] + "..."
            return f"it repeats {unit!r} {run // period} times at its end"
    return "it is all white space" if len(text) >= 10 and not text.strip() else None


def _watched(pieces: Iterator[str], length: int) -> Iterator[str]:
    """``pieces``, and a warning after them if the text they make is degenerate."""
    tail = ""
    for piece in pieces:
        yield piece
        tail = (tail + piece)[-2000:]
    trouble = degeneration(tail, length)
    if trouble:
        warnings.warn(
            f"the generated text is degenerate: {trouble}; try a higher temperature, top_p=0.9, "
            "repetition_penalty=1.2, or another prompt.",
            DegenerateTextWarning,
            stacklevel=3,
        )


def _until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """``pieces`` up to the first of ``stops``, which may lie across two pieces."""
    held = ""
    keep = max((len(stop) for stop in stops), default=1) - 1
    for piece in pieces:
        held += piece
        # The first that is complete counts, wherever the text is cut into pieces.
        found = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            _, at = min(found)
            if at:
                yield held[:at]
            return
        ready = len(held) - keep
        if ready > 0:
            yield held[:ready]
            held = held[ready:]
    if held:
        yield held


def _several(text: Any) -> Sequence[Any]:
    return [] if isinstance(text, os.PathLike) else text


def _ids_from(
    vocabulary: Vocabulary, text: TextSource, done: int
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield token ids from a character on, with the characters that they stand for."""
    return vocabulary.encode_counted(text.slice(done))


def _data_of(text: TextData, pattern: str) -> Any:
    """Return the path of a folder of prepared data as it is, any other text as a source."""
    return text if any_prepared(paths_of(text)) else _source_of(text, pattern)


def _source_of(text: TextData, pattern: str) -> TextSource:
    if isinstance(text, TextSource):
        return text
    if not isinstance(text, str | os.PathLike | Sequence):
        raise OstinatoError(
            f"TextGenerator: got {text!r:.40}; expected a text, or pathlib.Path of files."
        )
    if not isinstance(text, str):
        if any(isinstance(each, str) and re.search(r"\s", each) for each in _several(text)):
            raise OstinatoError(
                "TextGenerator: got a list of texts; expected one text, or pathlib.Path of files. "
                'Join them: "\\n".join(texts).'
            )
        return text_of_tables(paths_of(text)) or TextSource.from_paths(text, pattern)
    if re.fullmatch(r"\S+\.\w{1,5}", text) and not os.path.exists(text):
        raise OstinatoError(
            f"TextGenerator: {text!r} looks like the name of a file, and there is none; give a "
            "text, or pathlib.Path of a file that is there."
        )
    if len(text) < 1000 and "\n" not in text and os.path.exists(text):
        raise OstinatoError(
            f"TextGenerator.fit: {text!r} is the name of a file; give pathlib.Path({text!r}) to "
            "train on its content."
        )
    return TextSource.from_text(text)
