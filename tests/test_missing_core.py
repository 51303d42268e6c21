"""Where the package is installed without the compiled core, all but streams works, on PyTorch."""

import subprocess
import sys

HIDE = """
import importlib.util, warnings
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "ostinato._core" else found(name, *a)
import numpy as np, torch, ostinato
"""


def said(code: str) -> list[str]:
    """What a process prints that cannot find the core."""
    run = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HIDE + code]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_layers_are_those_of_pytorch_and_it_is_said_once():
    found = said("""
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for ours, theirs in ((ostinato.LSTM, torch.nn.LSTM), (ostinato.GRU, torch.nn.GRU)):
        torch.manual_seed(0)
        layer, plain = ours(3, 5, num_layers=2), theirs(3, 5, num_layers=2)
        plain.load_state_dict(layer.state_dict())
        x = torch.randn(7, 4, 3)
        for each in (layer, plain):
            y, _ = each(x)
            (y * y).sum().backward()
        for a, b in zip(layer.parameters(), plain.parameters()):
            torch.testing.assert_close(a.grad, b.grad)
        ragged, _ = layer(x, lengths=torch.tensor([7, 0, 3, 5]))
        torch.testing.assert_close(ragged[:3, 2], layer(x[:3, 2:3])[0][:, 0])
        print(ostinato.backend(layer, x))
print(*(str(w.message) for w in caught), sep="\\n")
""")
    assert found[:2] == ["torch", "torch"]
    (warning,) = found[2:]
    assert "has no compiled core" in warning and "slower" in warning


def test_a_network_trains_and_a_stream_is_refused_in_words():
    found = said("""
warnings.simplefilter("ignore")
X = [np.full((4, 2), i % 2, "f4") for i in range(60)]
model = ostinato.SequenceClassifier(hidden_size=8, epochs=5).fit(X, ["low", "high"] * 30)
print(model.predict([np.ones((4, 2))])[0])
try:
    ostinato.Stream(ostinato.LSTM(3, 5))
except ostinato.OstinatoError as error:
    print(error)
""")
    assert found[0] == "high"
    assert found[1].startswith("Stream: this installation of ostinato has no compiled core")
