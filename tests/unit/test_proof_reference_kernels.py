"""The kernels are one source: without a compiler they give the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from verispect.proof.parameters import Code
from verispect.proof.prover import commit

_PROGRAM = """
import numpy, numba
from verispect.proof.parameters import Code
from verispect.proof.prover import commit
assert numba.config.DISABLE_JIT
matrix = numpy.arange(-64, 64, dtype=numpy.int32).reshape(2, 64)
print(commit.commit(matrix, Code(6, 2, 0)).root.hex())
"""


def test_commitment_is_the_same_without_a_compiler():
    """A commitment made by plain Python has the root of the compiled one."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROGRAM],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    matrix = np.arange(-64, 64, dtype=np.int32).reshape(2, 64)
    assert done.stdout.strip() == commit.commit(matrix, Code(6, 2, 0)).root.hex()
