"""How far apart two correct computations of the same numbers may stand, by dtype; and for how long.

Both the absolute and the relative tolerance; the numbers compared are of the order of one. Each is
some hundred to some thousand times the spacing of numbers at one, since the two sides add the same
few hundred products in different orders and feed the rounding back through a few steps. A wrong
equation misses by 1e-2 and more.
"""

import torch

# Seconds after which a child or a thread counts as hanging; no machine is so slow.
HANGS = 1800

TOLERANCES = {
    torch.float64: 1e-12,  # spacing 2e-16
    torch.float32: 2e-5,  # spacing 1e-7
    torch.float16: 2e-2,  # spacing 1e-3, and rounded once more at every step
    torch.bfloat16: 1e-1,  # spacing 8e-3, the same
}


def assert_same(ours, theirs):
    """Both are sequences of tensors; they agree in number, shape, dtype and value."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        near = TOLERANCES.get(a.dtype, 0.0)
        torch.testing.assert_close(a, b, rtol=near, atol=near, msg=lambda m, k=k: f"[{k}]: {m}")
