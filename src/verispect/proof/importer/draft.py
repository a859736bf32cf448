"""A model on its way from ONNX to integers: the graph's nodes, still with real weights.

A draft is written node by node by `lowering` and turned into a `Graph` by `quantise`. A `Value`
is what an ONNX tensor stands for before it is written: a sum or product of written tensors with a
chain of unary functions behind it, so that an activation, however it is spelled, ends up in the
table of the node before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from verispect.core.errors import ModelError, Reason
from verispect.proof.graph import Shape

Floats: TypeAlias = npt.NDArray[np.float64]
Function: TypeAlias = Callable[[Floats], Floats]


def unsupported(message: str) -> ModelError:
    """Return the error of a model that cannot be made one of integers."""
    return ModelError(message, reason=Reason.UNSUPPORTED_MODEL)


@dataclass(frozen=True, slots=True)
class RealConvolve:
    """A convolution with real weights `(groups, outputs, inputs, *kernel)`."""

    source: int
    weight: Floats
    strides: Shape
    before: Shape
    dilations: Shape


@dataclass(frozen=True, slots=True)
class RealWindow:
    """A real multiple of the sum over a window."""

    source: int
    factor: float
    kernel: Shape
    strides: Shape
    before: Shape


@dataclass(frozen=True, slots=True)
class RealScale:
    """A real multiple of a tensor."""

    source: int
    factor: float


@dataclass(frozen=True, slots=True)
class RealEmbed:
    """A real multiple of a tensor, at an offset."""

    source: int
    axis: int
    offset: int
    factor: float


RealTerm: TypeAlias = RealConvolve | RealWindow | RealScale | RealEmbed


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a quantised model puts a tensor: multiples of `scale` from `low` to `high`."""

    scale: float
    low: int
    high: int

    def snap(self, values: Floats) -> Floats:
        """Round to the grid."""
        return np.asarray(np.clip(np.rint(values / self.scale), self.low, self.high) * self.scale)


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """A sum of terms and a bias per channel."""

    terms: tuple[RealTerm, ...]
    bias: Floats | None
    shape: Shape


@dataclass(frozen=True, eq=False, slots=True)
class Product:
    """An elementwise product of two written tensors."""

    left: int
    right: int
    shape: Shape


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A written tensor."""

    number: int
    shape: Shape


Base: TypeAlias = Linear | Product | Tensor


@dataclass(frozen=True, slots=True)
class Activation:
    """A chain of unary functions.

    Args:
        functions: applied in order.
        homogeneous: whether multiplying the argument by a positive number multiplies the result.
        grid: where the last of them rounds to, if it does.
        straight: `(a, b)` where the whole chain is `a * x + b`, so that a sum can take it in.
    """

    functions: tuple[Function, ...] = ()
    homogeneous: bool = True
    grid: Grid | None = None
    straight: tuple[float, float] | None = (1.0, 0.0)

    def __call__(self, values: Floats) -> Floats:
        """Apply all of them."""
        for function in self.functions:
            values = function(values)
        return values

    def then(
        self, function: Function, *, homogeneous: bool, grid: Grid | None = None
    ) -> Activation:
        """Return the chain with `function` behind it."""
        return Activation((*self.functions, function), self.homogeneous and homogeneous, grid, None)

    def then_straight(self, factor: float, offset: float) -> Activation:
        """Return the chain with `factor * x + offset` behind it."""
        straight = self.straight
        if straight is not None:
            straight = straight[0] * factor, straight[1] * factor + offset
        return Activation(
            (*self.functions, lambda x: np.asarray(x * factor + offset)),
            self.homogeneous and offset == 0.0,
            None,
            straight,
        )


IDENTITY = Activation()


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """What an ONNX tensor stands for.

    Args:
        base: what the functions are applied to.
        logical: the ONNX shape without the batch.
        index: for each place of the ONNX tensor the place in the base, row by row; None where they
            are the same.
        activation: the functions.
    """

    base: Base
    logical: Shape
    index: npt.NDArray[np.int64] | None = None
    activation: Activation = IDENTITY

    @property
    def shape(self) -> Shape:
        """The shape in the graph."""
        return self.base.shape

    def places(self) -> npt.NDArray[np.int64]:
        """Return `index` even where it is None."""
        if self.index is not None:
            return self.index
        return np.arange(math.prod(self.shape)).reshape(self.logical)


@dataclass(frozen=True, slots=True)
class DraftAffine:
    """An affine node; `name` is the ONNX tensor whose values it gives."""

    linear: Linear
    activation: Activation
    name: str


@dataclass(frozen=True, slots=True)
class DraftMultiply:
    """A product; `name` is the ONNX tensor whose values it gives."""

    product: Product
    activation: Activation
    name: str


@dataclass(frozen=True, slots=True)
class DraftMaximum:
    """A maximum along one axis."""

    source: int
    axis: int
    kernel: int
    stride: int
    before: int
    after: int


DraftNode: TypeAlias = DraftAffine | DraftMultiply | DraftMaximum
