"""``ostinato demo``: what it shows is true, fits a terminal, and its page asks nobody."""

import re
from datetime import date, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from ostinato.cli import demo, page
from ostinato.tasks.base import Text

PARSED = ("%d %B %Y", "%B %d, %Y", "%d %b %Y", "%d.%m.%Y", "%b %d %Y", "%A %d %B %Y")
"""The formats of the demo, as Python reads dates."""


def seen(right=True):
    """What the demo may have found; the longest date that there is."""
    day = "Wednesday 30 September 2020"
    rows = [(day, "2020-09-30" if right else "2020-09-13", "2020-09-30")] * 11
    text = Text("2020-09-30", 0.0, 0.0, list("2020-09-30"), np.eye(10, len(day)))
    left = {"this network": [0.9**n for n in range(27)], "a tanh RNN": [0.3**n for n in range(25)]}
    history = [{"step": n, "loss": 1 / n} for n in range(1, 20)]
    history.append({"step": 19, "validation_loss": 0.2})
    speeds = {"Stream": 1_126_651.0, "torch.nn.LSTMCell": 20_609.0}
    return demo.Seen(rows, 299, 300, 41.0, list(day), text, left, speeds, history)


@pytest.mark.parametrize("k", range(len(demo.FORMATS)))
def test_a_date_is_written_as_python_reads_it(k):
    for n in range(0, 40_000, 997):
        day = date.fromordinal(date(1950, 1, 1).toordinal() + n)
        assert datetime.strptime(demo.written(day, demo.FORMATS[k]), PARSED[k]).date() == day
        # No format tells day from month by their order alone.
        assert datetime.strptime(demo.written(day, demo.NEW_FORMAT), "%A, %B %d, %Y").date() == day


def test_dates_all_differ_and_come_in_every_format():
    texts, days = demo.written_dates(300, seed=1)
    assert len({*days}) == 300 and demo.written_dates(300, seed=1) == (texts, days)
    forms = {re.sub(r"[A-Za-z]{4,}", "W", re.sub(r"\d+", "1", text)) for text in texts}
    assert len(forms) >= len(demo.FORMATS)
    assert demo.written_dates(300, seed=2)[1] != days


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("right", [True, False])
def test_what_is_told_fits_a_terminal_of_80_columns(monkeypatch, encoding, right):
    class Terminal:
        pass

    Terminal.encoding = encoding
    monkeypatch.setattr(demo.sys, "stdout", Terminal)
    lines = demo.told(seen(right))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    text.encode(encoding)
    ticks = text.count("✓" if encoding == "utf-8" else "+ Wed")
    assert ticks == (11 if right else 0)
    assert text.count("should be 2020-09-30") == (0 if right else 11)
    assert "299 of 300 dates right" in lines[-1]
    # The lag of 24 steps is the last one that both networks have.
    assert "8 % after 24" in text and "under 0.01 % after 24" in text


def test_a_block_is_higher_the_more_is_left():
    shares = 10.0 ** np.linspace(-6, 1, 50)
    levels = [demo.level(share) for share in shares]
    assert levels == sorted(levels) and {*levels} == {*range(8)}


class Tags(HTMLParser):
    """Which elements are open, and what a page links to."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.words = [], [], ""

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page_is_whole_and_asks_nobody(tmp_path):
    page.write_page(tmp_path / "demo.html", seen(right=False))
    text = (tmp_path / "demo.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and tags.links == []
    assert not re.search(r"https?:|//|url\(|@import", text)
    assert "299 of 300 dates right" in tags.words and "torch.nn.LSTMCell" in tags.words
    assert tags.words.count("2020-09-13") == 11 and str(tmp_path) in tags.words
    # A row of the attention for each letter written, a cell for each letter read.
    assert text.count("--w:1.00") == 10 and text.count("--w:0.00") == 10 * 26
    assert text.count("<polyline") == 3 and text.count("<circle") == 1


def test_a_page_escapes_what_it_shows(tmp_path):
    found = seen()._replace(rows=[("<script>", "&", "&")] * 2, read=list("<b>"))
    text = page.page_of(found, tmp_path)
    assert "<script" not in text and "&lt;script&gt;" in text and "<th>&lt;</th>" in text


def test_both_contenders_take_steps():
    speeds = demo.race(seconds=0.02, turns=1)
    assert [*speeds] == ["Stream", "torch.nn.LSTMCell"] and min(speeds.values()) > 0


def test_the_prose_is_english_alone():
    text = demo.prose()
    assert len(text) > 100_000
    lines = text.splitlines()
    assert all(line[0].isupper() and line[-1] in ".:" for line in lines)
    assert len({*lines}) == len(lines)
    assert sum(c.isalpha() or c == " " for c in text) > 0.9 * len(text)


def test_a_folder_that_is_free(tmp_path):
    first = tmp_path / "demo"
    assert demo.free_folder(first) == first
    first.mkdir()
    (tmp_path / "demo-2").mkdir()
    assert demo.free_folder(first) == tmp_path / "demo-3"


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_demo_runs_from_its_first_line_to_its_page(ostinato, here, monkeypatch):
    monkeypatch.setattr(demo, "PAIRS", 120)
    monkeypatch.setattr(demo, "FRESH", 20)
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | {"hidden_size": 16})
    done = ostinato("demo --steps 20 --out first")
    assert done.status == 0
    assert re.search(r"\d+ of 20 dates right", done.out)
    assert f"{here}/first/demo.html" in done.out and (here / "first" / "demo.html").is_file()
    assert done.out.count("should be") + len(re.findall("✓", done.out)) == 11
    (here / "new.txt").write_text("4 May 2031\n")
    assert ostinato("translate first new.txt").status == 0
    assert ostinato("demo --out first").err.count("\n") == 1


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_demo_of_text_writes(ostinato, here):
    done = ostinato("demo --text --steps 2")
    assert done.status == 0 and "What it writes now" in done.out
    assert (here / "runs" / "demo" / "config.json").is_file()
