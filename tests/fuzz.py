"""Small files of every format that is read, damaged at random: what readers make of them.

A reader answers with data or with an `OstinatoError` in one line, within 10 seconds and 1 GB. Run
as a program, it goes on until a number of files or of seconds is reached, and tells what failed and
where the file lies:

    python tests/fuzz.py --files 5000 --seed 1
    python tests/fuzz.py --seconds 60 --only .wav .mid
"""

import argparse
import bz2
import faulthandler
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from pathlib import Path

SECONDS, BYTES = 10, 1 << 30
"""What a file may take: time, and memory beyond what the libraries themselves take."""

# Small files that are whole


def tables():
    """Texts of tables by suffix, and the same rows in binary formats."""
    import pandas as pd

    header = ["date", "store", "sales", "price", "label"]
    rows = [
        [f"2024-01-{d:02}", "ab"[d % 2], 10 * d, f"{d / 7:.3f}", ["yes", "no"][d % 3 == 0]]
        for d in range(1, 25)
    ]
    lines = [",".join(map(str, row)) for row in [header, *rows]]
    yield ".csv", "\n".join(lines).encode()
    yield ".csv", "\r\n".join(["sep=;", *lines]).replace(",", ";").encode("utf-16")
    yield ".csv", ("text,label\n" + '"a ""good"" film,\nsurely",pos\nso bad,neg\n' * 9).encode()
    yield ".tsv", "\n".join(lines).replace(",", "\t").encode()
    yield ".csv", ("name,label\n" + "a.png,1\nb.png,2\n" * 4).encode()
    steps = ",".join(f"V{i}" for i in range(1, 12))
    yield (
        ".csv",
        (f"{steps}\n" + "".join(f"Q{i},{i},2,3,4,5,6,7,8,9,10\n" for i in range(9))).encode(),
    )
    objects = [dict(zip(header, row, strict=True)) for row in rows]
    yield ".jsonl", "\n".join(map(json.dumps, objects)).encode()
    yield ".json", json.dumps(objects).encode()
    yield ".json", json.dumps({"columns": header, "data": rows}).encode()
    texts = [
        {"source": "Guten Tag", "target": ["good day", "hello"]},
        {"source": "x", "target": "y"},
    ]
    yield ".jsonl", "\n".join(map(json.dumps, texts * 4)).encode()
    frame = pd.DataFrame(rows, columns=header).astype({"price": float})
    frame["date"], frame["kind"] = pd.to_datetime(frame["date"]), frame["label"].astype("category")
    for compression in ("snappy", "zstd", None):
        yield ".parquet", written(frame.to_parquet, compression=compression)
    for compression in ("lz4", "uncompressed"):
        yield ".feather", written(frame.to_feather, compression=compression)
    yield ".xlsx", written(frame.to_excel, index=False, engine="openpyxl")


def written(write, **options):
    """What a function writes into a file."""
    out = io.BytesIO()
    write(out, **options)
    return out.getvalue()


def texts():
    """Texts that are no tables."""
    yield ".txt", ("The quick brown fox\r\njumps over the lazy dög.\n" * 9).encode()
    yield ".txt", ("Zwölf Boxkämpfer\n" * 5).encode("utf-16")
    yield ".conll", ("-DOCSTART- X\n\nPeter B-PER\nlives O\n\nin O\nRome B-LOC\n" * 3).encode()
    word = "{}\tdogs\tdog\tNOUN\tNNS\tNumber=Plur\t2\tnsubj\t2:nsubj\tSpaceAfter=No\n"
    yield ".conllu", ("# text = dogs\n" + word.format(1) + word.format(2) + "\n").encode() * 3
    case = "1.5,2,-3e1:4,5,6:{}\n"
    head = "@problemName x\n@timeStamps false\n@classLabel true a b\n@data\n"
    yield ".ts", (head + case.format("a") + case.format("b")).encode()


def music():
    """Pieces of music."""
    import mido
    import numpy as np
    from scipy.io import savemat

    for kind, ticks in ((1, 480), (2, 96)):
        file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
        for first in (60, 64):
            track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=400_000)])
            track.append(mido.MetaMessage("key_signature", key="C"))
            for note in range(first, first + 5):
                track.append(mido.Message("note_on", note=note, velocity=64, time=20))
                track.append(mido.Message("note_off", note=note, time=ticks))
            file.tracks.append(track)
        yield ".mid", written(lambda out, file=file: file.save(file=out))
    smpte = struct.pack(">4sIHHh", b"MThd", 6, 0, 1, -25 << 8 | 40)
    yield ".mid", smpte + b"MTrk\0\0\0\x0f\0\xff\x51\3\6\x1a\x80\0\x90\x3c\x40\x60\x80\x3c\0"
    cells = np.empty((1, 2), dtype=object)
    for i in range(2):
        cells[0, i] = np.eye(9, 88, i, dtype=np.uint8)
    parts = {"traindata": cells, "testdata": cells[:, :1]}
    for packed in (False, True):
        yield ".mat", written(savemat, mdict=parts, do_compression=packed)
    yield (
        ".music.json",
        json.dumps({"train": [[[60, 64], [62], []]] * 2, "test": [[[60]]]}).encode(),
    )


def media():
    """Recordings and images, and images in idx files."""
    import numpy as np
    import soundfile
    from PIL import Image

    samples = np.sin(np.arange(2000) / 9).astype("f4")
    kinds = (
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", None),
    )
    for kind, subtype in (*kinds, ("AIFF", "PCM_16")):
        out = io.BytesIO()
        stereo = np.stack([samples, samples], axis=1)
        soundfile.write(out, stereo, 8000, format=kind, subtype=subtype)
        yield f".{kind.lower()}", out.getvalue()
    pixels = (np.arange(12 * 9 * 3) % 256).astype(np.uint8).reshape(12, 9, 3)
    image = Image.fromarray(pixels)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        yield f".{kind.lower()}", written(image.save, format=kind)
    yield ".png", written(image.convert("P").save, format="PNG")
    yield ".tiff", written(image.save, format="TIFF", compression="tiff_deflate")
    yield ".idx3-ubyte", struct.pack(">4I", 0x803, 4, 6, 5) + bytes(range(120))


def seeds():
    """A suffix and the content of each small file."""
    plain = [*tables(), *texts()]
    yield from [*plain, *music(), *media()]
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": zipped}
    try:
        import zstandard
    except ImportError:
        pass
    else:
        packers[".zst"] = zstandard.ZstdCompressor().compress
    idx = (".idx3-ubyte", struct.pack(">4I", 0x803, 4, 6, 5) + bytes(range(120)))
    for i, (packed, pack) in enumerate(packers.items()):
        for suffix, content in [plain[0], plain[i], plain[10], (".txt", plain[0][1]), idx]:
            yield suffix + packed, pack(content)


def zipped(content, name="a.csv"):
    return written(lambda out: write_zip(out, {name: content}))


def write_zip(out, members):
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


# Damage

NUMBERS = [b"0", b"-1", b"1e400", b"nan", b"inf", b"-inf", b"9" * 19, b"9" * 40, b"9" * 5000,
           b"1e18", b"2147483648", b"1048577", b"1e-400", b"0x10", "٣".encode(), b"1_0", b"",
           b"NaT"]  # fmt: skip
WORDS = [b'"', b"\0", b"\r", b"\n\n", b"\xff", b"\xe9", "\u2028".encode(), b"\\ud800",
         b"\\n", b"[" * 5000,
         b'{"a":' * 5000, b"{}", b"null", b"true", b",", b"\t", b"=", b":", b"-", b"1/0/0",
         b"0000-00-00", b"9999-12-31", b"2024-13-01", b"24:61", b"a" * 300 + b".png",
         b"\xef\xbb\xbf", b"\xff\xfe"]  # fmt: skip
SIZES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 10**6, 10**8, 0x7FFFFFFF, 0x80000000,
         0xFFFFFFFF]  # fmt: skip


def flip(random, data, _):
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def cut(random, data, _):
    begin = random.randrange(len(data))
    end = begin + random.choice([1, 4, 100, len(data)])
    return data[:begin] + data[end:]


def double(random, data, _):
    begin = random.randrange(len(data))
    some = data[begin : begin + random.choice([1, 8, 200])]
    at = random.randrange(len(data))
    return data[:at] + some * random.choice([1, 2, 1000 // len(some) + 1]) + data[at:]


def put(random, data, _):
    at = random.randrange(len(data) + 1)
    word = random.choice([*WORDS, random.randbytes(4)])
    return data[:at] + word + data[at + random.choice([0, len(word)]) :]


def size(random, data, _):
    """A number where a header may have one; headers come first, or last."""
    number = random.choice(SIZES)
    width = random.choice([w for w in (1, 2, 4, 8) if number < 1 << 8 * w])
    where = random.choice([min(64, len(data)), len(data)])
    at = random.randrange(where) if random.random() < 0.8 else -random.randrange(1, where + 1)
    at %= len(data)
    return data[:at] + number.to_bytes(width, random.choice(["big", "little"])) + data[at + width :]


def number(random, data, _):
    """Another number in a text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    if not found:
        return put(random, data, _)
    one = random.choice(found)
    return data[: one.start()] + random.choice(NUMBERS) + data[one.end() :]


def join(random, data, others):
    other = random.choice(others)
    return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]


def lines(random, data, _):
    """A line twice, or two of them exchanged."""
    found = data.split(b"\n")
    i, k = random.randrange(len(found)), random.randrange(len(found))
    found[i], found[k] = found[k], random.choice([found[i], found[k]])
    return b"\n".join(found)


DAMAGES_OF_TEXT = [cut, double, put, number, number, number, lines, join]
DAMAGES = [flip, flip, cut, double, put, size, size, number, number, join]


def damaged(random, data, others):
    """A file with one to four damages; in an archive often to what is packed."""
    if random.random() < 0.6 and (inner := unpacked(data)) is not None:
        members, pack = inner
        name = random.choice([*members])
        members[name] = damaged(random, members[name], [members[name]])
        return pack(members)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        some = DAMAGES_OF_TEXT if data.isascii() and random.random() < 0.8 else DAMAGES
        data = random.choice(some)(random, data, others) or b"\0"
    return data


def unpacked(data):
    """What a packed file holds, by name, and what packs it; None of other files."""
    if data.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members = {name: content for name, content in members.items() if content}
        return members, lambda members: written(lambda out: write_zip(out, members))
    for magic, library in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if data.startswith(magic):
            content = library.decompress(data)
            return {"": content}, lambda members, pack=library.compress: pack(members[""])
    return None


# Readers


def read(path, random):
    """Read a file as a task would that takes such files, and use what was read."""
    import numpy as np

    from ostinato.data.corpus import IMAGES, SOUNDS, ReadingSettings
    from ostinato.data.features import Spectrogram
    from ostinato.data.formats import is_table, read_table
    from ostinato.data.inputs import Inputs, InputSettings
    from ostinato.data.midi import read_music
    from ostinato.data.pairs import PairSettings, read_pairs, read_sources
    from ostinato.data.reading import read_corpus
    from ostinato.data.text import TextSource
    from ostinato.tasks.forecasting.reading import SeriesSettings, read_panel

    if path.suffix in (".mid", ".mat") or path.name.endswith(".music.json"):
        for pieces in read_music([path]).values():
            assert all(roll.dtype == np.uint8 and roll.shape[1] == 88 for _, roll in pieces)
        return

    def corpus():
        by_step, labelled = random.random() < 0.4, random.choice([True, False, None])
        labelled = (
            labelled if path.suffix not in SOUNDS | IMAGES else None
        )  # by the folder that a file lies in
        columns = {"label": "label", "text": "text", "id": "store", "time": "date",
                   "variables": "sales, price"}  # fmt: skip
        some = {name: column for name, column in columns.items() if random.random() < 0.3}
        how = ReadingSettings(**some if is_table(path) and random.random() < 0.6 else {})
        found = read_corpus([path], how, by_step=by_step, labelled=labelled)
        inputs = Inputs.learn(found, InputSettings())
        for row in inputs.encode(found)[0]:
            assert len(row) or found.kind in ("text", "words"), row
        [str(place) for place in found.places]

    def panel():
        target, rows = random.choice([None, "sales", "*"]), random.choice([None, None, True])
        frequency, time = random.choice([None, None, "D", "M"]), random.choice([None, "date"])
        how = SeriesSettings(target=target, frequency=frequency, time=time, series_in_rows=rows)
        found = read_panel(path, how)
        for series in found.series:
            found.grid.format(found.grid.times(series.start + np.arange(3)))

    def table():
        found = read_table(path)
        for i in range(len(found.names)):
            found.is_boolean(i)
            if found.is_numeric(i):
                found.numbers([i], missing=True)
            if not found.has_objects(i):
                found.texts(i)
        found.place(len(found) - 1)

    if path.suffix in SOUNDS:
        other = Inputs("sound", 40, spectrogram=Spectrogram(16_000))  # of another rate
        list(other.encode(read_corpus([path], ReadingSettings(), labelled=False))[0])
    if path.suffix in SOUNDS | IMAGES or "idx" in path.name:
        corpus()
    else:
        readers = [corpus, corpus, lambda: read_sources([path], PairSettings())]
        if is_table(path):
            pairs = random.choice([{}, {"source": "store", "target": "label"}])
            readers += [panel, panel, table, lambda: read_pairs([path], PairSettings(**pairs))]
        else:
            readers += [lambda: "".join(TextSource.from_paths(path))]
        random.choice(readers)()


# Runs


class TooLong(BaseException):
    """A file took too long."""


def trial(path, seed):
    """Read a file: what came of it, "read", "refused", or what is wrong."""
    from ostinato.errors import OstinatoError

    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(path, random.Random(seed))
    except OstinatoError as error:
        message = str(error)
        if "\n" in message or len(message) > 10_000:
            return f"refused in more than a line: {message[:300]!r}"
        return "refused"
    except (Exception, TooLong):
        return "".join(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "read"


def peak():
    """Bytes of memory that this process ever had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(files, seconds, seed, only, kept):
    """Read damaged files until there are enough, or it is time; the number of failures."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_long)
    whole = [each for each in seeds() if not only or any(each[0].endswith(s) for s in only)]
    alike = {suffix: [c for s, c in whole if s == suffix] for suffix, _ in whole}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    begun, tally, found = time.monotonic(), Counter(), {}
    for suffix, content in whole:  # also loads all libraries
        path = folder / f"whole{suffix}"
        path.write_bytes(content)
        if all((result := trial(path, seed)) != "read" for seed in range(12)):
            found[f"{suffix}, whole: {result}"] = path
    # Runaway work ends in a MemoryError, not with the machine.
    now = int(re.search(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (now + 4 * BYTES, now + 4 * BYTES))
    before = most = peak()
    for i in range(files):
        if time.monotonic() - begun > seconds:
            break
        case = random.Random(f"{seed}/{i}")
        suffix, content = case.choice(whole)
        path = folder / f"{seed}-{i}{suffix}"
        path.write_bytes(damaged(case, content, alike[suffix]))
        (folder / "current").write_text(path.name)  # for one that ends the process
        result = trial(path, f"{seed}/{i}")
        if peak() - max(before, most) > 64 << 20:
            most = peak()
            if most - before > BYTES:
                result, before = f"took {(most - before) >> 20} MB", most
        tally[result if result in ("read", "refused") else "failed"] += 1
        if result in ("read", "refused"):
            path.unlink()
            continue
        where = re.findall(r'File ".*/(\S+)", line (\d+)', result)[-1:]
        found.setdefault(f"{result.splitlines()[-1][:100]} {where}", (path, result))
    print(dict(tally), f"most memory: {(peak() - before) >> 20} MB", flush=True)
    for what, where in found.items():
        print(f"\n{what}\n{where if isinstance(where, Path) else where[0]}")
        if not isinstance(where, Path):
            print(where[1][-3000:])
    if found and kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
    shutil.rmtree(folder)
    return len(found)


def too_long(*_):
    raise TooLong(f"more than {SECONDS} seconds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=10**9)
    parser.add_argument("--seed", default=str(time.time_ns() % 10**6))
    parser.add_argument("--only", nargs="*", default=(), help="ends of names, such as .csv")
    parser.add_argument("--kept", help="a folder for the files that failed")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    faulthandler.enable()
    sys.exit(bool(run(given.files, given.seconds, given.seed, given.only, given.kept)))


if __name__ == "__main__":
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    main()
