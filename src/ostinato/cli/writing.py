"""Commands that write: text, translations, summaries, transcripts, music, speech."""

from __future__ import annotations

import io
import sys
import warnings
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ostinato
from ostinato.cli.commands import USE, can, command, language_model, print_json
from ostinato.cli.options import MidiFile, Picture, SoundFile
from ostinato.data.lazy import Lazy
from ostinato.errors import OstinatoError
from ostinato.tasks.registry import tasks_with

if TYPE_CHECKING:
    from ostinato.data import synthesis, textfiles
    from ostinato.tasks.base import (
        Composer,
        SoundSynthesizer,
        Speech,
        SpeechSynthesizer,
        SpeechTranscriber,
        TextSampler,
        TextWriter,
    )
else:
    synthesis, textfiles = Lazy("ostinato.data.synthesis"), Lazy("ostinato.data.textfiles")


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
    timestamps: bool = False,
    choose: Path | None = None,
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
        timestamps: print when each word begins and ends, in seconds, a word per line.
        choose: file of texts, one per line; print which of them is spoken, and its probability.
        language: folder of a model of train text --level char that scores the text.
        weight: weight of the score of --language.
        live: transcribe standard input as it arrives.
        json: print one JSON object per line.

    Examples:
        ostinato transcribe ears recordings/ --timestamps
        arecord -t raw -f S16_LE -r 8000 | ostinato transcribe ears --live
    """
    if not recordings and not live:
        raise OstinatoError("transcribe: RECORDINGS is required: files, or folders of them.")
    if timestamps and choose is not None:
        raise OstinatoError("transcribe: --timestamps and --choose exclude each other; give one.")
    scorer = language_model("transcribe", language)
    model: SpeechTranscriber = ostinato.load(run)
    if live:
        others = recordings or timestamps or choose or language or json
        if others or (beam, weight) != (16, 0.5):
            raise OstinatoError("transcribe --live takes no files and none of the other options.")
        _transcribe_live(model)
        return
    read = model.recordings(list(recordings))
    if choose is not None:
        found = [{"text": t, "probability": round(p, 4)} for t, p in model.choose(read, choose)]
    else:
        texts = model.transcribe(read, beam=beam, language=scorer, weight=weight)
        found = [{"text": text} for text in texts]
    timed = model.align(read, texts) if timestamps else [None] * len(found)
    for place, facts, words in zip(read.places, found, timed, strict=True):
        if json:
            more = {} if words is None else {"words": [rounded(each) for each in words]}
            print_json({"place": str(place), **facts, **more})
        elif words is not None:
            for each in words:
                print(f"{each.start:.2f}\t{each.end:.2f}\t{each.text}\t{place}")
        else:
            print("\t".join([*map(str, facts.values()), str(place)]))


def rounded(found: Any) -> dict[str, Any]:
    """Return a named tuple as JSON, its numbers with four significant digits."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in found._asdict().items()
    }


@command(USE, protocol="SpeechTranscriber")
def find(
    run: Path,
    /,
    *recordings: Path,
    phrase: list[str] = [],  # noqa: B006  # is not changed
    phrases: Path | None = None,
    threshold: float = 0.5,
    false_alarms: float | None = None,
    validation: list[Path] = [],  # noqa: B006
    json: bool = False,
) -> None:
    """Search recordings for phrases.

    Prints one line per hit: start and end in seconds, the score, the phrase and the recording. The
    score is the probability that the model writes the phrase there. With --false-alarms, the lowest
    score that counts is chosen by validation data.

    Args:
        run: folder of a model of train transcribe.
        recordings: WAV or FLAC files, or folders of them.
        phrase: words to search for; repeat it for several phrases.
        phrases: file of phrases, one per line.
        threshold: lowest score of a hit.
        false_alarms: wrong hits an hour that are allowed; chooses the threshold.
        validation: recordings with texts, as in training, to choose it by; repeat it for several.
            If not given, the validation data of training.
        json: print one JSON object per line.

    Examples:
        ostinato find ears meetings/ --phrase budget --phrase "next year"
        ostinato find ears calls/ --phrases words.txt --false-alarms 0.5
    """
    if not recordings:
        raise OstinatoError("find: RECORDINGS is required: files, or folders of them.")
    if not phrase and phrases is None:
        raise OstinatoError("find: --phrase TEXT is required, or --phrases PATH.")
    if validation and false_alarms is None:
        raise OstinatoError("find: --validation needs --false-alarms.")
    model: SpeechTranscriber = ostinato.load(run)
    sought = list(phrase)
    if phrases is not None:
        sought += [line for _, line in textfiles.numbered_lines(phrases) if line.strip()]
    read = model.recordings(list(recordings))
    if false_alarms is not None:
        known = list(validation) or None
        chosen = model.calibrate(sought, known, false_alarms_per_hour=false_alarms)
        print(chosen, file=sys.stderr)
        threshold = chosen.threshold
    for hit in model.find(read, sought, threshold=threshold):
        if json:
            facts = rounded(hit)
            print_json({"place": str(facts.pop("place")), **facts})
        else:
            print(f"{hit.start:.2f}\t{hit.end:.2f}\t{hit.score:.3g}\t{hit.phrase}\t{hit.place}")


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


@command(USE, protocol="SpeechSynthesizer")
def speak(
    run: Path,
    /,
    *text: str,
    out: SoundFile | None = None,
    speaker: str | None = None,
    seed: int | None = None,
    vocoder: Path | None = None,
    plot: Picture | None = None,
    live: bool = False,
    json: bool = False,
) -> None:
    """Speak a text with a trained model, as a WAV file.

    With --live, writes raw sound to standard output as it is computed: 16-bit little-endian samples
    of one channel.

    Args:
        run: folder of a model of train speak.
        text: what to say; - reads it from standard input.
        out: WAV file to write.
        speaker: who says it, where there are several; the first if not given.
        seed: random seed; the same one says it the same way.
        vocoder: folder of a model of train vocode that makes the sound.
        plot: PNG to write: the spectrogram, and the attention on the text.
        live: write sound to standard output as it is computed.
        json: print one JSON object.

    Examples:
        ostinato speak voice "seven" --speaker theo --out seven.wav
        ostinato speak voice "nine" --live | aplay -r 8000 -f S16_LE
    """
    words = " ".join(text)
    if words == "-":
        words = " ".join(line for _, line in textfiles.numbered_lines(Path("-")))
    if not words.strip():
        raise OstinatoError("speak: TEXT is required: what to say, or - for standard input.")
    if live == (out is not None):
        raise OstinatoError("speak: expected --out FILE, or --live.")
    if live and (plot is not None or json):
        raise OstinatoError("speak --live takes neither --plot nor --json.")
    if vocoder is not None and not can(vocoder, "SoundSynthesizer"):
        raise OstinatoError(f"speak --vocoder {vocoder}: expected a model of train vocode.")
    model: SpeechSynthesizer = ostinato.load(run)
    voice: dict[str, Any] = {"speaker": speaker, "seed": seed}
    if vocoder is not None:
        voice["vocoder"] = ostinato.load(vocoder)
    if live:
        for samples in model.stream(words, **voice):
            sys.stdout.buffer.write(synthesis.pcm(samples))
            sys.stdout.buffer.flush()
        return
    assert out is not None
    spoken: Speech = model.speak(words, **voice)
    spoken.save(out)
    if plot is not None:
        spoken.plot(plot)
    seconds = round(len(spoken.samples) / spoken.rate, 3)
    if json:
        faults = [str(fault) for fault in spoken.faults]
        facts = {"speaker": spoken.speaker, "rate": spoken.rate, "seconds": seconds}
        print_json({"file": str(out), "text": spoken.text, **facts, "faults": faults})
    else:
        who = f", {spoken.speaker}" if spoken.speaker else ""
        print(f"{out}: {seconds:.2f} s at {spoken.rate:,} samples a second{who}")


@command(USE, protocol="SoundSynthesizer")
def vocode(run: Path, recording: Path, /, *, out: SoundFile, seed: int = 0) -> None:
    """Make a recording again with a vocoder, to hear what is lost.

    Args:
        run: folder of a model of train vocode.
        recording: sound file.
        out: WAV file to write.
        seed: random seed.

    Examples:
        ostinato vocode vocoder recording.wav --out again.wav
        ostinato vocode vocoder recording.wav --seed 2 --out other.wav
    """
    model: SoundSynthesizer = ostinato.load(run)
    samples = model.resynthesize(recording, seed=seed)
    synthesis.write_sound(out, samples, model.frames_.rate)
    seconds = len(samples) / model.frames_.rate
    print(f"{out}: {seconds:.2f} s at {model.frames_.rate:,} samples a second")
