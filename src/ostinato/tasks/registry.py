"""The tasks, one row each: imports, commands and help derive from these rows.

Plain data, so that the command line can read it without importing PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:  # what `ostinato` imports when it is first used, for type checkers
    from ostinato.tasks.captioning import Captioner as Captioner
    from ostinato.tasks.classification import SequenceClassifier as SequenceClassifier
    from ostinato.tasks.forecasting.forecaster import Forecaster as Forecaster
    from ostinato.tasks.generation import TextGenerator as TextGenerator
    from ostinato.tasks.music import MusicModel as MusicModel
    from ostinato.tasks.regression import SequenceRegressor as SequenceRegressor
    from ostinato.tasks.speaking import Speaker as Speaker
    from ostinato.tasks.summarization import Summarizer as Summarizer
    from ostinato.tasks.tagging import SequenceTagger as SequenceTagger
    from ostinato.tasks.transcription import Transcriber as Transcriber
    from ostinato.tasks.translation import Translator as Translator
    from ostinato.tasks.vocoding import Vocoder as Vocoder


Source = Literal["labels", "steps", "pairs", "speech", "series", "files"]
"""How the data of a task are read: sequences with a label each, or a label for every step; pairs of
texts; recordings with their texts and speakers; time series; or files that the estimator reads
itself."""


class Task(NamedTuple):
    """A task: an estimator, and the command that trains it.

    Attributes:
        estimator, module: the class, by which a stored model names its task, and where it is.
        command: of ``ostinato train``.
        protocols: names of the protocols in `ostinato.tasks.base` that the class fulfils; a command
            that uses a trained model asks for one of them.
        help: of the command that trains: a summary, further lines, and two examples.
        next: the command to run on a trained model, ``{run}`` being its folder.
        source: how the command that trains reads its files, before PyTorch is imported.
    """

    estimator: str
    module: str
    command: str
    protocols: Sequence[str]
    help: str
    next: str
    source: Source = "files"


TASKS: Sequence[Task] = (
    Task(
        "TextGenerator",
        "ostinato.tasks.generation",
        "text",
        ("TextSampler", "Inspectable", "StepScorer"),
        """Train a language model on text.

        Shows the loss on held-out text and a sample as it goes. Ctrl-C stops the run; --resume
        continues it.

        Examples:
            ostinato train text book.txt --out run --minutes 5
            ostinato train text notes/ --pattern "*.md" --level word --out run
        """,
        "ostinato generate {run} --length 500",
    ),
    Task(
        "SequenceClassifier",
        "ostinato.tasks.classification",
        "classify",
        ("Predictor", "Evaluator", "Inspectable", "StepScorer"),
        """Train a classifier of sequences.

        From texts (CSV, TSV, JSON lines with a column of labels), measurements (.ts files, tables
        with a row for every step or every series), or folders of recordings or images.

        Examples:
            ostinato train classify reviews.csv --out sentiment
            ostinato train classify recordings/ --out words --validation spoken/
        """,
        "ostinato predict {run} FILES   (or evaluate, with labels)",
        "labels",
    ),
    Task(
        "SequenceRegressor",
        "ostinato.tasks.regression",
        "regress",
        ("Predictor", "Evaluator", "Inspectable", "StepScorer"),
        """Train a regression model of sequences.

        From the same files as classify, with numbers for labels.

        Examples:
            ostinato train regress sensors.csv --id machine --label wear --out wear
            ostinato train regress houses.csv --label price --epochs 30 --out prices
        """,
        "ostinato predict {run} FILES   (or evaluate, with numbers)",
        "labels",
    ),
    Task(
        "SequenceTagger",
        "ostinato.tasks.tagging",
        "tag",
        ("Predictor", "Evaluator", "Inspectable", "StepScorer"),
        """Train a tagger: a label for every step.

        From sentences (CoNLL, CoNLL-U) or tables with a row for every step.

        Examples:
            ostinato train tag train.conllu --label upos --out tags
            ostinato train tag frames.csv --id video --label action --out actions
        """,
        "ostinato predict {run} FILES   (or evaluate, with labels)",
        "steps",
    ),
    Task(
        "Translator",
        "ostinato.tasks.translation",
        "translate",
        ("TextWriter", "Evaluator", "Inspectable"),
        """Train a translation model.

        From two parallel files, a text a line: first the sources, then their translations; or
        tables (CSV, TSV, JSON lines) with a column of each. Files may be compressed (.gz).

        Examples:
            ostinato train translate train.en train.de --out german
            ostinato train translate pairs.tsv --source en --target de --out german
        """,
        "ostinato translate {run} FILE   (or evaluate, with translations)",
        "pairs",
    ),
    Task(
        "Summarizer",
        "ostinato.tasks.summarization",
        "summarize",
        ("TextWriter", "Evaluator", "Inspectable"),
        """Train a summarization model.

        From tables (JSON lines, TSV, CSV) with a column of documents and one of summaries, of which
        a document may have several.

        Examples:
            ostinato train summarize papers.jsonl --out short
            ostinato train summarize papers.jsonl --target title --out titles
        """,
        "ostinato summarize {run} FILE   (or evaluate, with summaries)",
        "pairs",
    ),
    Task(
        "Transcriber",
        "ostinato.tasks.transcription",
        "transcribe",
        ("SpeechTranscriber", "Predictor", "Evaluator", "Inspectable"),
        """Train a speech-to-text model.

        From a table with a column of sound files and one of texts (--text, --label), or a folder of
        recordings whose names hold the label: --pattern "{label}_{speaker}.wav".

        Examples:
            ostinato train transcribe recordings/ --out ears
            ostinato train transcribe clips.tsv --text path --no-bidirectional --out ears
            ostinato train transcribe clips.tsv --criterion transducer --out ears
        """,
        "ostinato transcribe {run} FILES   (or evaluate, with texts)",
        "labels",
    ),
    Task(
        "Speaker",
        "ostinato.tasks.speaking",
        "speak",
        ("SpeechSynthesizer", "Evaluator", "Inspectable"),
        """Train a text-to-speech model.

        From the same files as transcribe; several speakers by a column (--speaker) or a field of
        the names. Shows attention and writes sound at every evaluation.

        Examples:
            ostinato train speak words/ --pattern "{label}_{speaker}.wav" --out voice
            ostinato train speak clips.tsv --text path --label sentence --out voice
        """,
        "ostinato speak {run} TEXT --out hello.wav   (or evaluate, with recordings)",
        "speech",
    ),
    Task(
        "Vocoder",
        "ostinato.tasks.vocoding",
        "vocode",
        ("SoundSynthesizer", "Evaluator", "Inspectable"),
        """Train a vocoder: the sound of a text-to-speech model.

        From recordings alone, such as those of train speak. Without one, speak finds the sound by
        the algorithm of Griffin and Lim.

        Examples:
            ostinato train vocode recordings/ --minutes 60 --out vocoder
            ostinato train vocode clips/ --samples-per-step 1 --rate 16000 --out vocoder
        """,
        "ostinato vocode {run} recording.wav --out again.wav   (or speak --vocoder)",
    ),
    Task(
        "Captioner",
        "ostinato.tasks.captioning",
        "caption",
        ("Predictor", "Evaluator", "Inspectable"),
        """Train an image captioning model.

        From a table (CSV, TSV, JSON lines) with a column of image files and one of captions.

        Examples:
            ostinato train caption captions.csv --out captions
            ostinato train caption photos.jsonl --text file --label title --out captions
        """,
        "ostinato predict {run} IMAGES   (or evaluate, with captions)",
        "labels",
    ),
    Task(
        "Forecaster",
        "ostinato.tasks.forecasting.forecaster",
        "forecast",
        ("SeriesForecaster", "Evaluator", "Inspectable"),
        """Train a forecaster of series: prices, sales, sensors.

        From tables (CSV, TSV, JSON lines, Parquet, Excel) with a column of times and one of values
        (--target); several series in several columns, or named by --id. Missing values are left
        empty.

        Examples:
            ostinato train forecast sales.csv --horizon 6 --out sales
            ostinato train forecast prices.parquet --id ticker --target close --out prices
        """,
        "ostinato forecast {run} --plot forecast.png   (or evaluate)",
        "series",
    ),
    Task(
        "MusicModel",
        "ostinato.tasks.music",
        "music",
        ("Composer", "Evaluator", "Inspectable", "StepScorer"),
        """Train a model of music.

        From MIDI files, or piano rolls in MATLAB or JSON files.

        Examples:
            ostinato train music chorales/ --out music
            ostinato train music pieces.mid --transpose 6 --epochs 50 --out music
        """,
        "ostinato compose {run} --out piece.mid",
    ),
)


def task_of(name: str) -> Task | None:
    """Return the task whose estimator, or whose command, has this name.

    >>> task_of("classify").estimator, task_of("SequenceClassifier").command
    ('SequenceClassifier', 'classify')
    """
    return next((task for task in TASKS if name in (task.estimator, task.command)), None)


def tasks_with(protocol: str) -> list[Task]:
    """Return the tasks that fulfil a protocol.

    >>> [task.command for task in tasks_with("TextWriter")]
    ['translate', 'summarize']
    """
    return [task for task in TASKS if protocol in task.protocols]
