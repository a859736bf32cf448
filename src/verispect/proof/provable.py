"""The provable model and its weights file (spec/proof.md section 4).

A `ProvableModel` is all that a verifier needs of a model: the graph, the layout of the commitment
and the root of the committed weights. Its digest is what the model manifest names. The weights
themselves stay with whoever proves, in a file of their own that is data only: deterministic CBOR
around little endian integers, nothing that could run.

This module refuses to say that a root is that of some weights: committing to them again is the way
to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from verispect.core.encoding import DIGEST_BYTES, Digest, decode, encode, sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.proof.graph import MAX_GRAPH_BYTES, Graph

PROVABLE_VERSION: Final = 1
MIN_COLUMNS: Final = 6
"""The smallest `c`; a matrix has `2^c` columns."""
MAX_COLUMNS: Final = 16
"""The largest `c`."""
RATE_BITS: Final = (2, 3)
MAX_BUDGET: Final = 1 << 12
"""How many openings a hiding commitment may be made for."""
MAX_PROVABLE_BYTES: Final = MAX_GRAPH_BYTES + 1024
MAX_WEIGHTS_BYTES: Final = 1 << 30
"""Octets of a weights file."""

_DOMAIN: Final = b"verispect-provable-model-v1"
_WIDTHS: Final = (1, 2, 4, 8)


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, reason=Reason.MALFORMED_MODEL)


@dataclass(frozen=True)
class ProvableModel:
    """A graph together with the commitment to its weights.

    Args:
        graph: the integer model.
        columns: `c`, the binary logarithm of the matrix's columns.
        rate_bits: the binary logarithm of the code's inverse rate.
        root: the commitment to the weights.
        budget: how many openings the commitment hides, 0 where it does not hide.

    Raises:
        MalformedError: `malformed-model`, when a parameter is out of range.
    """

    graph: Graph
    columns: int
    rate_bits: int
    root: bytes
    budget: int = 0

    def __post_init__(self) -> None:
        if not MIN_COLUMNS <= self.columns <= MAX_COLUMNS:
            raise _malformed("the number of columns is out of range")
        if self.rate_bits not in RATE_BITS:
            raise _malformed("the rate is out of range")
        if len(self.root) != DIGEST_BYTES:
            raise _malformed("a root has 32 bytes")
        if not 0 <= self.budget <= MAX_BUDGET:
            raise _malformed("the masking budget is out of range")

    def encode(self) -> bytes:
        """Return the one encoding of this model."""
        return encode(
            {
                1: PROVABLE_VERSION,
                2: self.graph.encode(),
                3: self.columns,
                4: self.rate_bits,
                5: self.root,
                6: self.budget,
            }
        )

    @cached_property
    def digest(self) -> Digest:
        """What a model manifest names."""
        return sha256(_DOMAIN + self.encode())

    @classmethod
    def decode(cls, data: bytes) -> ProvableModel:
        """Read a provable model.

        Raises:
            MalformedError: `malformed-cbor`, `malformed-model` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        value = _versioned(decode(data, limit=MAX_PROVABLE_BYTES), PROVABLE_VERSION)
        if list(value) != [1, 2, 3, 4, 5, 6]:
            raise _malformed("a provable model's keys are not 1 to 6")
        kinds = [type(value[key]) for key in range(2, 7)]
        if kinds != [bytes, int, int, bytes, int]:
            raise _malformed("a field of a provable model has another type")
        return cls(Graph.decode(value[2]), value[3], value[4], value[5], value[6])


def _versioned(value: Any, version: int) -> dict[int, Any]:
    if type(value) is not dict or type(value.get(1)) is not int:
        raise _malformed("expected a map with a version")
    if value[1] != version:
        raise UnsupportedError(
            f"expected version {version}, got {value[1]}", reason=Reason.UNSUPPORTED_VERSION
        )
    return value


def encode_weights(weights: Sequence[npt.NDArray[np.integer]]) -> bytes:
    """Return a weights file: each weight in the narrowest signed integers that hold it."""
    return encode({1: PROVABLE_VERSION, 2: [_packed(weight) for weight in weights]})


def narrowest(weight: npt.NDArray[np.integer]) -> npt.NDArray[np.signedinteger[Any]]:
    """Return `weight` in the narrowest signed integers that hold it."""
    low, high = int(weight.min()), int(weight.max())
    for width in _WIDTHS:
        limits = np.iinfo(f"<i{width}")
        if limits.min <= low and high <= limits.max:
            return np.ascontiguousarray(weight, dtype=f"<i{width}")
    raise _malformed("a weight does not fit in 64 bits")


def _packed(weight: npt.NDArray[np.integer]) -> list[Any]:
    narrow = narrowest(weight)
    return [narrow.dtype.itemsize, narrow.tobytes()]


def decode_weights(graph: Graph, data: bytes) -> tuple[npt.NDArray[np.integer], ...]:
    """Read a weights file for `graph`.

    Raises:
        MalformedError: `malformed-cbor`, `malformed-model` or `too-large`.
        UnsupportedError: `unsupported-version`.
    """
    value = _versioned(decode(data, limit=MAX_WEIGHTS_BYTES), PROVABLE_VERSION)
    if list(value) != [1, 2] or type(value[2]) is not list:
        raise _malformed("a weights file's keys are not 1 and 2")
    if len(value[2]) != len(graph.weights):
        raise _malformed(f"expected {len(graph.weights)} weights, got {len(value[2])}")
    weights = []
    for shape, entry in zip(graph.weights, value[2], strict=True):
        if type(entry) is not list or [type(item) for item in entry] != [int, bytes]:
            raise _malformed("a weight is not a width with bytes")
        width, octets = entry
        if width not in _WIDTHS or len(octets) != width * int(np.prod(shape)):
            raise _malformed("a weight has another size than its shape")
        weights.append(np.frombuffer(octets, f"<i{width}").reshape(shape))
    return tuple(weights)
