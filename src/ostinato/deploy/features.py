"""Log-mel features of sound as an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ostinato.data.features import Spectrogram, mel_bands
from ostinato.deploy.graph import Graph
from ostinato.deploy.pieces import Feeds, Piece, Port


def spectrogram_piece(onnx: Any, how: Spectrogram) -> Piece:
    """Return the graph of a spectrogram; it computes in float64, as features of silence need.

    A causal one takes stretches of a stream and forgets: each begins where the row after the last
    one begins, ``step`` samples later.
    """
    g = Graph(onnx, "float32")
    about = f"features of sound, {how.rate:,} samples a second: energy in bands of the mel scale"
    piece = Piece(g, about, "features")
    what = (
        "samples from -1 to 1"
        if not how.causal
        else (f"samples from -1 to 1, {how.fft} or more; {how.fft // 2} zeros precede the first")
    )
    samples = piece.take(Port("samples", ("B", "N"), what, scale=0.1))
    ends = None
    if not how.causal:
        ends = piece.take(Port("lengths", ("B",), "samples of each row", "lengths", "N"))
        samples = g.where(g.running(samples, ends), samples)
        samples = g.add("Pad", samples, g.ints(how.fft // 2, how.fft // 2), "", g.ints(1))
    # (B, N) to stretches (B, T, fft)
    count = g.add("Sub", g.add("Squeeze", g.size(samples, 1)), g.constant(how.fft - 1, np.int64))
    zero, step = g.constant(0, np.int64), g.constant(how.step, np.int64)
    begins = g.add("Unsqueeze", g.add("Range", zero, count, step), g.ints(1))
    places = g.add("Add", begins, g.constant(np.arange(how.fft), np.int64))
    stretches = g.add("Cast", g.add("Gather", samples, places, axis=1), to=11)
    stretches = g.add("Mul", stretches, g.constant(_window(how), np.float64))
    spectrum = g.add("Unsqueeze", stretches, g.ints(-1))
    spectrum = g.add("DFT", spectrum, "", g.constant(2, np.int64), onesided=1)
    energy = g.add("ReduceSumSquare", spectrum, g.ints(-1), keepdims=0)  # (B, T, fft / 2 + 1)
    bands = mel_bands(how.rate, how.fft, how.bands).T.double()
    energy = g.add("MatMul", energy, g.constant(bands, np.float64))
    if ends is None:
        mel = g.add("Log", g.add("Max", energy, g.constant(how.silence, np.float64)))
    else:
        rows = g.add("Add", g.add("Div", ends, step), g.constant(1, np.int64))
        mask = g.add("Unsqueeze", g.running(energy, rows), g.ints(2))
        nothing = g.constant(0.0, np.float64)
        energy = g.add("Where", mask, energy, nothing)
        loudest = g.add("ReduceMax", energy, g.ints(1, 2), keepdims=1)
        silence = g.constant(10 ** (-how.dynamic_range / 10), np.float64)
        least = g.add("Mul", loudest, silence)
        least = g.add("Max", least, g.constant(1e-10, np.float64))
        mel = g.add("Where", mask, g.add("Log", g.add("Max", energy, least)), nothing)
        whole = g.add("Unsqueeze", g.add("Cast", rows, to=11), g.ints(1, 2))
        mean = g.add("Div", g.add("ReduceSum", mel, g.ints(1), keepdims=1), whole)
        mel = g.add("Where", mask, g.add("Sub", mel, mean), nothing)
        port = Port("x_lengths", ("B",), "rows of each recording", "lengths", "T")
        piece.give(port, rows)
    port = Port("x", ("B", "T", how.bands), "features of each row, for the network")
    piece.give(port, g.add("Cast", mel, to=1))
    piece.run = lambda feeds: _exact(how, feeds)
    return piece


def _window(how: Spectrogram) -> np.ndarray[Any, Any]:
    """Return Hann's window in the middle of a stretch."""
    before = (how.fft - how.size) // 2
    window = torch.hann_window(how.size, dtype=torch.float32).double().numpy()
    return np.pad(window, (before, how.fft - how.size - before))


def _exact(how: Spectrogram, feeds: Feeds) -> dict[str, Tensor]:
    """Compute the features in float64, a row at a time."""
    found, window = [], _window(how)
    bands = mel_bands(how.rate, how.fft, how.bands).double().numpy()
    for b, samples in enumerate(feeds["samples"].double().numpy()):
        if not how.causal:
            samples = np.pad(samples[: int(feeds["lengths"][b])], how.fft // 2)
        begins = range(0, len(samples) - how.fft + 1, how.step)
        stretches = np.stack([samples[i : i + how.fft] for i in begins]) * window
        energy = np.abs(np.fft.rfft(stretches)) ** 2 @ bands.T
        if how.causal:
            found.append(torch.from_numpy(np.log(np.maximum(energy, how.silence))))
            continue
        least = energy.max() * 10 ** (-how.dynamic_range / 10)
        mel = np.log(np.maximum(energy, max(1e-10, least)))
        found.append(torch.from_numpy(mel - mel.mean(0)))
    x = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
    if how.causal:
        return {"x": x}
    T = feeds["samples"].shape[1] // how.step + 1
    x = torch.nn.functional.pad(x, (0, 0, 0, T - x.shape[1]))
    return {"x_lengths": torch.tensor([len(rows) for rows in found]), "x": x}
