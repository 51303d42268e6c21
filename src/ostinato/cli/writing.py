"""Commands that write: text, translations, summaries, transcripts, music."""

from __future__ import annotations

import io
import sys
import warnings
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ostinato
from ostinato.cli.commands import USE, can, command, print_json
from ostinato.cli.options import MidiFile, Picture
from ostinato.errors import OstinatoError
from ostinato.tasks.registry import tasks_with

if TYPE_CHECKING:
    from ostinato.tasks.base import Composer, SpeechTranscriber, TextSampler, TextWriter


@command(USE, protocol="TextSampler", settings=("TextGenerator", "stream"))
def generate(run: Path, /, *, json: bool = False, **controls: Any) -> None:
    """Generate text with a trained language model.

    Prints the prompt and the text as it is generated.

    Args:
        run: folder of a model of train text.
        json: print one JSON object.
        **controls: of `TextGenerator.stream`.

    Examples:
        ostinato generate run --prompt "It was" --length 300 --temperature 0.7
        ostinato generate run --seed 1 --top-p 0.9 --json
    """
    model: TextSampler = ostinato.load(run)
    prompt = controls.get("prompt", "")
    if json:
        print_json({"prompt": prompt, "text": model.generate(**controls)})
        return
    pieces = model.stream(**controls)
    print(prompt, end="", flush=True)
    with warnings.catch_warnings(record=True) as caught:
        for piece in pieces:
            print(piece, end="", flush=True)
        print(flush=True)
    for warning in caught:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def write(
    run: Path,
    /,
    *files: Path,
    scores: bool = False,
    attention: Picture | None = None,
    json: bool = False,
    **search: Any,
) -> None:
    """{Verb} texts, one per line.

    Prints a line for each, an empty one for an empty one; with --n-best several.

    Args:
        run: folder of a trained model.
        files: files with a text per line, or tables as in training; standard input if none.
        scores: print log-probabilities, in nats, before the texts.
        attention: PNG to write: the attention of the first text that is written on its source.
        json: print one JSON object per line.
        **search: of ``write``.

    Examples:
        ostinato {verb} run new.txt --n-best 3 --scores
        echo "a red car" | ostinato {verb} run --beam 10
    """
    model: TextWriter = ostinato.load(run)
    sources = model.sources(list(files) or [Path("-")])
    if attention is not None:
        model.plot_attention(sources.inputs[0], attention)
    for place, texts in zip(sources.places, model.write(sources, **search), strict=True):
        if json:
            facts = [{"text": t.text, "score": t.score, "log_p": t.log_p} for t in texts]
            print_json({"place": str(place), "texts": facts})
            continue
        for each in texts:
            print(f"{each.log_p:.3f}\t{each.text}" if scores else each.text, flush=True)


for _task in tasks_with("TextWriter"):
    _verb = _task.command
    _text = (write.__doc__ or "").format(verb=_verb, Verb=_verb.capitalize())
    _settings = (_task.estimator, "write")
    command(USE, _verb, _text, protocol="TextWriter", settings=_settings)(write)


@command(USE, protocol="SpeechTranscriber")
def transcribe(
    run: Path,
    /,
    *recordings: Path,
    beam: int = 16,
    find: Path | None = None,
    language: Path | None = None,
    weight: float = 0.5,
    live: bool = False,
    json: bool = False,
) -> None:
    """Transcribe recordings: files, or folders of them.

    With --live, transcribes raw sound from standard input as it arrives: 16-bit little-endian
    samples of one channel at the sampling rate of training. That needs a model trained with
    --no-bidirectional.

    Args:
        run: folder of a model of train transcribe.
        recordings: WAV or FLAC files, or folders of them.
        beam: hypotheses kept at each step; 1 is the fastest.
        find: file of phrases, one per line; print which of them is spoken, and its probability.
        language: folder of a model of train text --level char that scores the text.
        weight: weight of the score of --language.
        live: transcribe standard input as it arrives.
        json: print one JSON object per line.

    Examples:
        ostinato transcribe ears recordings/ --beam 32
        arecord -t raw -f S16_LE -r 8000 | ostinato transcribe ears --live
    """
    if not recordings and not live:
        raise OstinatoError("transcribe: RECORDINGS is required: files, or folders of them.")
    if language is not None and not can(language, "TextSampler"):
        raise OstinatoError(f"transcribe --language {language}: expected a model of train text.")
    model: SpeechTranscriber = ostinato.load(run)
    if live:
        if recordings or find or language or json or (beam, weight) != (16, 0.5):
            raise OstinatoError("transcribe --live takes no files and none of the other options.")
        _transcribe_live(model)
        return
    read = model.recordings(list(recordings))
    if find is not None:
        found = [{"text": t, "probability": round(p, 4)} for t, p in model.find(read, find)]
    else:
        scorer = None if language is None else ostinato.load(language)
        texts = model.transcribe(read, beam=beam, language=scorer, weight=weight)
        found = [{"text": text} for text in texts]
    for place, facts in zip(read.places, found, strict=True):
        if json:
            print_json({"place": str(place), **facts})
        else:
            print("\t".join([*map(str, facts.values()), str(place)]))


def _transcribe_live(model: SpeechTranscriber) -> None:
    stream = model.stream()
    if stream.rate is None:
        raise OstinatoError("transcribe --live: the model reads series, not sound.")
    latency = f"{stream.rate:,} samples per second, latency {stream.latency:.0f} ms"
    print(f"listening: {latency}", file=sys.stderr)
    if sys.stdin is None:
        raise OstinatoError("transcribe --live: <standard input>: is closed.")
    odd = b""
    while sound := cast(io.BufferedReader, sys.stdin.buffer).read1(1 << 16):
        sound = odd + sound
        whole = len(sound) // 2 * 2
        samples, odd = array("h", sound[:whole]), sound[whole:]
        if sys.byteorder == "big":
            samples.byteswap()
        print(stream.feed([sample / 32768 for sample in samples]), end="", flush=True)
    print(stream.finish())


@command(USE, protocol="Composer", settings=("MusicModel", "compose"))
def compose(run: Path, prompt: Path | None = None, /, *, out: MidiFile, **controls: Any) -> None:
    """Compose music with a trained model, as a MIDI file.

    Args:
        run: folder of a model of train music.
        prompt: piece to continue: MIDI, or a piano roll in JSON or MATLAB.
        out: MIDI file to write, the prompt included.
        **controls: of `MusicModel.compose`.

    Examples:
        ostinato compose music --length 64 --out piece.mid
        ostinato compose music piece.mid --temperature 0.8 --out longer.mid
    """
    model: Composer = ostinato.load(run)
    roll = model.compose(() if prompt is None else prompt, out=out, **controls)
    density = roll.sum(1).mean()
    print(f"{out}: {len(roll)} steps, {density:.1f} notes per step on average")
