"""How much memory a process has had is its own affair."""

import subprocess
import sys

import numpy as np
import pytest

PROGRAM = "from ostinato.memory import peak_memory; x = b'1' * int({!r}); print(peak_memory())"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not say it")
def test_the_peak_of_a_process_is_not_that_of_its_parent():
    own = np.ones(40_000_000)  # 320 MB
    peaks = []
    for size in (0, 100_000_000):
        program = PROGRAM.format(size)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[0] < 100e6 and 95e6 < peaks[1] - peaks[0] < 110e6
    assert own.all()
