"""After "laye" comes "r": what a network with memory knows, and one without cannot.

Both learn the same words letter by letter. The recurrent network has read the whole word so far;
its feed-forward counterpart sees the last letter alone, so that the best it can do is to know how
often each letter follows it.

    python examples/spelling.py
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ostinato import LSTM
from ostinato.networks import ManyToMany, Output

TEXT = "layer laces later hello yellow tree seen level label letter wheel sweet enter never"
WORDS = TEXT.split()
LETTERS = "." + "".join(sorted(set("".join(WORDS))))  # "." ends a word


def encode(word: str) -> Tensor:
    """Letters as numbers."""
    return torch.tensor([LETTERS.index(letter) for letter in word])


def train(network: nn.Module, loss_of: object) -> None:
    """Three hundred steps of Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss = loss_of()  # type: ignore[operator]
        loss.backward()
        optimizer.step()


def main() -> tuple[float, float, float]:
    """Probabilities of "r" after "laye": with memory, without, and by counting what follows "e"."""
    torch.manual_seed(0)
    x = pad_sequence([encode(word) for word in WORDS], batch_first=True)
    y = pad_sequence([encode(word[1:] + ".") for word in WORDS], batch_first=True)
    lengths = torch.tensor([len(word) for word in WORDS])
    V = len(LETTERS)

    recurrent = ManyToMany(nn.Embedding(V, 16), LSTM(16, 32, batch_first=True), Output(32, V))
    train(recurrent, lambda: recurrent.loss(x, y, lengths=lengths)[0])

    feed_forward = nn.Sequential(
        nn.Embedding(V, 16), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, V)
    )
    real = torch.arange(x.shape[1]) < lengths[:, None]
    train(feed_forward, lambda: nn.functional.cross_entropy(feed_forward(x[real]), y[real]))

    laye, r = encode("laye"), LETTERS.index("r")
    with torch.no_grad():
        scores, _ = recurrent(laye[None])
        with_memory = scores[0, -1].softmax(-1)[r].item()
        without = feed_forward(laye[-1:])[0].softmax(-1)[r].item()
    after_e = Counter(
        b for word in WORDS for a, b in zip(word, word[1:] + ".", strict=True) if a == "e"
    )
    counted = after_e["r"] / after_e.total()

    print(f"words: {', '.join(WORDS)}\n")
    print(f'the chance of "r" after "laye"\n  LSTM, which has read "laye"        {with_memory:.3f}')
    print(f'  feed-forward, which sees "e" alone   {without:.3f}')
    print(f'  "r" among the letters after "e"      {counted:.3f}  (the best without memory)')
    return with_memory, without, counted


if __name__ == "__main__":
    main()
