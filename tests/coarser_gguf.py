"""A real model made coarser: the weights of a GGUF file with a bit less each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from verispect.models.gguf import read_header

_BLOCK = np.dtype([("scale", "<f2"), ("least", "<f2"), ("quants", "u1", 16)])


def write_coarser(source: Path, target: Path) -> Path:
    """Round every 4-bit weight (type Q4_1) to 3 bits; all else stays."""
    data = bytearray(source.read_bytes())
    with memoryview(data) as view:
        header = read_header(view)
    changed = 0
    for tensor in header.tensors:
        if tensor.element_type != "Q4_1":
            continue
        blocks = np.frombuffer(data, _BLOCK, tensor.length // _BLOCK.itemsize, tensor.offset)
        blocks["quants"] &= 0xEE
        # The middle of the two values that fell together.
        blocks["least"] += (blocks["scale"].astype(np.float32) / 2).astype(np.float16)
        changed += 1
    assert changed > 0, "no tensor has the type that is made coarser"
    target.write_bytes(data)
    return target
