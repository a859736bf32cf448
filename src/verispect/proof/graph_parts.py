"""The parts of an integer model's graph, and the limits on them (spec/integer-model.md section 2).

Each part checks its own constants when it is made; what concerns several parts is checked by
`graph.Graph`. This module refuses weights, arithmetic and bytes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from verispect.core.errors import MalformedError, Reason
from verispect.proof.binary_fraction import BinaryFraction

MAX_GRAPH_BYTES: Final = 1 << 25
"""Octets of a graph."""
MAX_NODES: Final = 1 << 12
"""Nodes of a graph."""
MAX_WEIGHTS: Final = 1 << 13
"""Weights, biases among them."""
MAX_TABLES: Final = 256
"""Tables of a graph."""
MAX_TERMS: Final = 64
"""Terms of one affine node."""
MAX_AXIS: Final = 1 << 16
"""The size of an axis, and of a kernel, stride, dilation, padding or offset."""
MAX_TENSOR: Final = 1 << 24
"""Entries of a tensor, without the batch."""
MAX_WEIGHT: Final = 1 << 26
"""Entries of a weight, its axes padded to powers of two."""
MAX_PADDED: Final = 1 << 26
"""Entries of a tensor, its axes padded to powers of two, batch included."""
MAX_BATCH: Final = 1 << 12
"""Requests in one proof."""
MAX_TABLE: Final = 1 << 17
"""Entries of a table."""
MAX_STEPS: Final = (1 << 16) - 1
"""Steps of one channel of the input."""

_VALUE: Final = 1 << 15
_DOMAIN: Final = 1 << 17
_SPATIAL: Final = 2

Shape: TypeAlias = tuple[int, ...]


def malformed(message: str) -> MalformedError:
    """Return the error of a graph that breaks a rule of the specification."""
    return MalformedError(message, reason=Reason.MALFORMED_MODEL)


def require(condition: bool, message: str) -> None:
    """Refuse the graph with `message` unless `condition` holds."""
    if not condition:
        raise malformed(message)


def within(values: Shape, least: int, most: int, what: str) -> None:
    """Refuse the graph unless all `values` lie from `least` to `most`."""
    require(all(least <= value <= most for value in values), f"{what} is out of range")


def padded(size: int) -> int:
    """Return the smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


class Epilogue(IntEnum):
    """What every verifier computes from the proven integers."""

    NONE = 0
    SOFTMAX = 1
    ARGMAX = 2


@dataclass(frozen=True, slots=True)
class Input:
    """How a caller's numbers become the integers of tensor 0."""

    shape: Shape
    minimum: int
    maximum: int
    scale: BinaryFraction
    order: Shape
    """The input's axis `i` is axis `order[i]` of the caller's array, batch not counted."""
    steps: tuple[tuple[float, ...], ...] | None = None
    """Per channel, ascending: an integer is the number of steps below the caller's number."""

    def __post_init__(self) -> None:
        check_shape(self.shape)
        require(
            -_VALUE <= self.minimum <= 0 <= self.maximum < _VALUE, "the input's range is too wide"
        )
        require(
            sorted(self.order) == list(range(len(self.shape))), "the order is not a permutation"
        )
        if self.steps is None:
            return
        require(len(self.steps) == self.shape[0], "expected steps for every channel")
        for steps in self.steps:
            require(len(steps) <= MAX_STEPS, "too many steps")
            require(all(map(math.isfinite, steps)), "a step is not finite")
            require(
                all(low < high for low, high in itertools.pairwise(steps)),
                "steps do not ascend",
            )
        require(
            max(map(len, self.steps)) == self.maximum - self.minimum,
            "the input's range is not that of its steps",
        )


@dataclass(frozen=True)
class Table:
    """A function on consecutive integers from `first` on, its values held as i16le."""

    first: int
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        size = len(self.data) // 2
        require(
            len(self.data) % 2 == 0 and 2 <= size <= MAX_TABLE and size & (size - 1) == 0,
            "a table's size is not a power of two in range",
        )
        require(
            self.first >= -_DOMAIN and self.first + size <= _DOMAIN, "a table's domain is too wide"
        )

    def __len__(self) -> int:
        return len(self.data) // 2

    @cached_property
    def values(self) -> npt.NDArray[np.int16]:
        """The values, read-only."""
        return np.frombuffer(self.data, dtype="<i2")

    @cached_property
    def minimum(self) -> int:
        """The smallest value."""
        return int(self.values.min())

    @cached_property
    def maximum(self) -> int:
        """The largest value."""
        return int(self.values.max())


@dataclass(frozen=True, slots=True)
class Requantise:
    """Division by `2^shift`, rounded, and a look in a table."""

    shift: int
    table: int


@dataclass(frozen=True, slots=True)
class Convolve:
    """A convolution; without spatial axes a product with a matrix."""

    source: int
    weight: int
    strides: Shape
    before: Shape
    dilations: Shape


@dataclass(frozen=True, slots=True)
class Window:
    """A multiple of the sum over a window, channel by channel."""

    source: int
    multiplier: int
    kernel: Shape
    strides: Shape
    before: Shape


@dataclass(frozen=True, slots=True)
class Scale:
    """A multiple of a tensor."""

    source: int
    multiplier: int


@dataclass(frozen=True, slots=True)
class Embed:
    """A multiple of a tensor at an offset along one axis, zero elsewhere."""

    source: int
    axis: int
    offset: int
    multiplier: int


Term: TypeAlias = Convolve | Window | Scale | Embed


@dataclass(frozen=True, slots=True)
class Affine:
    """A sum of terms and a bias per channel, requantised or as it is."""

    terms: tuple[Term, ...]
    bias: int | None
    requantise: Requantise | None
    shape: Shape


@dataclass(frozen=True, slots=True)
class Multiply:
    """An elementwise product; axes of `right` may have size 1."""

    left: int
    right: int
    requantise: Requantise


@dataclass(frozen=True, slots=True)
class Maximum:
    """The maximum over a window along one spatial axis."""

    source: int
    axis: int
    kernel: int
    stride: int
    before: int
    after: int


Node: TypeAlias = Affine | Multiply | Maximum


@dataclass(frozen=True, slots=True)
class Output:
    """Which tensor is the answer, and what its integers stand for."""

    tensor: int
    scale: BinaryFraction
    epilogue: Epilogue


def check_shape(shape: Shape) -> None:
    """Refuse a shape that no tensor may have."""
    require(1 <= len(shape) <= 1 + _SPATIAL, "expected one to three axes")
    within(shape, 1, MAX_AXIS, "the size of an axis")
    require(math.prod(shape) <= MAX_TENSOR, "a tensor is too large")
    require(math.prod(map(padded, shape)) <= MAX_PADDED, "a tensor is too large when padded")
