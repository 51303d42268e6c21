"""Translations a second by beam search, beside a plain PyTorch loop over cells of the same weights.

    python benchmarks/translation.py [--data FOLDER] [--run FOLDER] [--sentences N] [--turns N]

A small model is trained for some minutes first, so that sentences have the length of sentences; or
one that is there is taken. The plain loop is written twice, as people write it: a sentence at a
time, its five hypotheses a batch; and many sentences at a time, padded. Sides take turns; what they
say is compared before anything is timed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import RESULTS, machine
from torch import Tensor, nn

import ostinato

BEAM = 5
PENALTY = 1.0


class Plain(nn.Module):
    """An encoder of `nn.LSTM` and a decoder of `nn.LSTMCell` with multiplicative attention."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        theirs = model.network_.state_dict()
        tokens, width = theirs["decoder.embedding.weight"].shape
        H = theirs["decoder.recurrent.weight_hh_l0"].shape[1]
        self.end, self.begin = tokens - 2, tokens - 1
        self.embedding = nn.Embedding(tokens, width)
        self.encoder = nn.LSTM(width, H // 2, batch_first=True, bidirectional=True)
        self.start = nn.Linear(H, 2 * H)
        self.cell = nn.LSTMCell(width, H)
        self.keys = nn.Linear(H, H, bias=False)
        self.combine = nn.Linear(2 * H, H)
        self.shape = nn.Linear(H, width)
        self.output = nn.Linear(width, tokens - 1)
        with torch.no_grad():
            self.embedding.weight.copy_(theirs["decoder.embedding.weight"])
            self.output.weight.copy_(theirs["decoder.embedding.weight"][:-1])
            self.output.bias.copy_(theirs["decoder.output.bias"])
            for ours, name in (
                (self.encoder, "encoder.recurrent"), (self.start, "decoder.start"),
                (self.keys, "decoder.attention.memory"), (self.combine, "decoder.combine"),
                (self.shape, "decoder.shape"),
            ):  # fmt: skip
                for key, weight in ours.named_parameters():
                    weight.copy_(theirs[f"{name}.{key}"])
            for key, weight in self.cell.named_parameters():
                weight.copy_(theirs[f"decoder.recurrent.{key}_l0"])

    @torch.inference_mode()
    def translate(self, x: Tensor, lengths: Tensor) -> list[list[int]]:
        """The best tokens for each source, ``x (B, S)``."""
        B, S, K = *x.shape, BEAM
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(x), lengths, batch_first=True, enforce_sorted=False
        )
        memory, _ = nn.utils.rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        away = torch.arange(S) >= lengths[:, None]
        summary = memory.sum(1) / lengths[:, None]
        h, c = self.start(summary).tanh().repeat_interleave(K, 0).chunk(2, -1)
        memory = memory.repeat_interleave(K, 0)
        away = away.repeat_interleave(K, 0)
        keys = self.keys(memory).transpose(1, 2) * h.shape[-1] ** -0.5
        totals = torch.full((B, K), -torch.inf)
        totals[:, 0] = 0
        token = torch.full((B * K,), self.begin)
        tokens = torch.empty(B * K, 0, dtype=torch.long)
        most = (2 * lengths + 20).tolist()
        done: list[list[tuple[float, list[int]]]] = [[] for _ in range(B)]
        first = torch.arange(B)[:, None] * K
        for t in range(max(most) + 1):
            h, c = self.cell(self.embedding(token), (h, c))
            e = (h[:, None] @ keys)[:, 0].masked_fill(away, -torch.inf)
            context = (e.softmax(-1)[:, None] @ memory)[:, 0]
            a = self.shape(self.combine(torch.cat([h, context], -1)).tanh())
            log_p = self.output(a).log_softmax(-1)
            V = log_p.shape[-1]
            options = (totals.view(-1, 1) + log_p).view(B, K * V)
            best, index = options.topk(2 * K)
            row, number = (first + index // V), index % V
            # What ends is put aside; the best K others go on.
            ends = number == self.end
            for b, rank in torch.nonzero(ends[:, :K]).tolist():
                if t <= most[b] and best[b, rank] > -torch.inf:
                    score = float(best[b, rank]) / ((5 + t + 1) / 6) ** PENALTY
                    done[b].append((score, tokens[row[b, rank]].tolist()))
            going = best.masked_fill(ends, -torch.inf)
            totals, chosen = going.topk(K)
            kept = row.gather(1, chosen).flatten()
            token = number.gather(1, chosen).flatten()
            h, c, tokens = h[kept], c[kept], torch.cat([tokens[kept], token[:, None]], 1)
            settled = True
            for b in range(B):
                done[b] = sorted(done[b], reverse=True)[:K]
                ceiling = float(totals[b, 0]) / ((5 + most[b] + 1) / 6) ** PENALTY
                if not done[b] or (len(done[b]) < K and done[b][0][0] < ceiling):
                    settled = t >= most[b] and settled
                elif totals[b, 0] > -torch.inf:
                    totals[b] = -torch.inf
            if settled:
                break
        return [found[0][1] if found else [] for found in done]


def sides(model: Any, texts: list[str], batch: int) -> dict[str, Callable[[], list[str]]]:
    """How each side translates the same texts."""
    plain = Plain(model).eval()
    ids = [torch.from_numpy(model.source_vocabulary_.encode(text)) for text in texts]

    def loop(size: int) -> Callable[[], list[str]]:
        def run() -> list[str]:
            found = [""] * len(ids)
            order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
            for begin in range(0, len(order), size):
                some = order[begin : begin + size]
                x = nn.utils.rnn.pad_sequence([ids[i] for i in some], batch_first=True)
                lengths = torch.tensor([len(ids[i]) for i in some])
                for i, tokens in zip(some, plain.translate(x, lengths), strict=True):
                    found[i] = model.vocabulary_.decode(tokens)
            return found

        return run

    return {
        "ostinato": lambda: model.translate(texts, beam=BEAM, length_penalty=PENALTY),
        "plain, one at a time": loop(1),
        f"plain, {batch} at a time": loop(batch),
    }


def measure(sides: dict[str, Callable[[], list[str]]], turns: int) -> dict[str, list[float]]:
    """Seconds of each side in each turn, and that they say the same.

    Raises:
        RuntimeError: if more than a sentence in fifty comes out otherwise; sums in another order
            may decide between hypotheses that are as good.
    """
    outputs = {name: run() for name, run in sides.items()}
    ours = outputs["ostinato"]
    for name, texts in outputs.items():
        other = sum(a != b for a, b in zip(ours, texts, strict=True))
        if other > len(ours) / 50:
            raise RuntimeError(f"{name} says {other} of {len(ours)} sentences otherwise.")
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def main() -> None:
    """Train or load a model, and let the sides take turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--run", type=Path, help="a Translator of an LSTM with default settings")
    parser.add_argument("--minutes", type=float, default=4, help="of training, without --run")
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="sentences of the plain loop")
    arguments = parser.parse_args()
    files = arguments.data / "multi30k-en-de"
    pair = [files / f"train.{language}.gz" for language in ("en", "de")]
    if arguments.run is not None:
        model = ostinato.load(arguments.run)
    else:
        model = ostinato.Translator(cell="lstm", hidden_size=512, minutes=arguments.minutes)
        model.fit(pair)
    with gzip.open(files / "val.en.gz", "rt", encoding="utf-8") as file:
        texts = [line.strip() for line in file][: arguments.sentences]
    taken = measure(sides(model, texts, arguments.batch), arguments.turns)
    found: dict[str, Any] = {
        "machine": machine(torch.get_num_threads()),
        "sentences": len(texts),
        "sides": {},
    }
    print(f"{len(texts)} sentences, beam {BEAM}, {torch.get_num_threads()} threads")
    for name, seconds in taken.items():
        # Ratios of neighbours in time: what slows one slows the other.
        ratios = [b / a for a, b in zip(taken["ostinato"], seconds, strict=True)]
        rate = len(texts) / statistics.median(seconds)
        middle = statistics.median(ratios)
        found["sides"][name] = {"per_second": rate, "ratios": ratios}
        print(
            f"{name:<22}{rate:>8.1f} a second; ostinato is {middle:.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "translation.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
