"""The script that makes a corpus of speech: which sentences it takes, and what it writes."""

import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from ostinato.data.speech import SpeechSettings, read_speech

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import espeak_corpus

CONLLU = """# text = The dog barks at night.
# text = It costs $5 a day.
# text = The BBC said so.
# text = No.
# text = Is it, then, the one you want?
# text = The dog barks at night.
"""


def test_sentences_of_plain_words_are_taken_once(tmp_path):
    (tmp_path / "x.conllu").write_text(CONLLU)
    found = espeak_corpus.sentences(tmp_path / "x.conllu")
    assert found == ["The dog barks at night.", "Is it, then, the one you want?"]


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None,
    reason="espeak-ng is not installed: apt-get install espeak-ng",
)
def test_a_corpus_is_read_as_recordings_of_two_speakers(tmp_path):
    hours = espeak_corpus.make(tmp_path / "c", ["Say one thing.", "Say two things."], 1.0)
    corpus = read_speech([tmp_path / "c" / "clips.tsv"], SpeechSettings())
    assert corpus.targets == [("Say one thing.", "ann"), ("Say two things.", "ben")]
    files = [soundfile.info(path) for path in corpus.inputs]
    assert {file.samplerate for file in files} == {16_000}
    assert sum(file.duration for file in files) == pytest.approx(3600 * hours, abs=0.01)
