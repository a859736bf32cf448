"""Unary ONNX operators as functions on binary64, for the tables of a graph.

An operator is here if it computes each place from that place alone. Its table is made by running
it on every entry of the domain; nothing is approximated beyond the rounding of its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from verispect.proof.importer.draft import Floats, Function

Attributes = Mapping[str, Any]


class Unary(NamedTuple):
    """A function with what is known of it."""

    function: Function
    homogeneous: bool = False


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _erf(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _exp(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(x))


def _hard_sigmoid(x: Floats, *, alpha: float, beta: float) -> Floats:
    return np.asarray(np.clip(alpha * x + beta, 0.0, 1.0))


def _gelu(x: Floats, *, tanh: bool) -> Floats:
    if tanh:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))


def _leaky(x: Floats, *, alpha: float) -> Floats:
    return np.where(x < 0, alpha * x, x)


def _elu(x: Floats, *, alpha: float, gamma: float) -> Floats:
    return np.asarray(gamma * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x))


def _thresholded(x: Floats, *, alpha: float) -> Floats:
    return np.where(x > alpha, x, 0.0)


def _softplus(x: Floats) -> Floats:
    return np.asarray(np.logaddexp(0.0, x))


def _mish(x: Floats) -> Floats:
    return np.asarray(x * np.tanh(_softplus(x)))


def _hard_swish(x: Floats) -> Floats:
    return np.asarray(x * _hard_sigmoid(x, alpha=1 / 6, beta=0.5))


def _plain(function: Callable[[Any], Any], *, homogeneous: bool = False) -> Unary:
    return Unary(lambda x: np.asarray(function(x), dtype=np.float64), homogeneous)


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


PLAIN_OPERATORS: Final[dict[str, Unary]] = {
    "Relu": Unary(_relu, homogeneous=True),
    "Abs": _plain(np.abs, homogeneous=True),
    "Neg": _plain(np.negative, homogeneous=True),
    "Sigmoid": Unary(_sigmoid),
    "Tanh": _plain(np.tanh),
    "Erf": Unary(_erf),
    "Exp": Unary(_exp),
    "Softplus": Unary(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "HardSwish": Unary(_hard_swish),
    "Mish": Unary(_mish),
    "Sin": _plain(np.sin),
    "Cos": _plain(np.cos),
    "Atan": _plain(np.arctan),
    "Sign": _plain(np.sign),
    "Floor": _plain(np.floor),
    "Ceil": _plain(np.ceil),
    "Round": _plain(np.rint),
}
"""The unary operators without attributes."""


TUNED_OPERATORS: Final = (
    "HardSigmoid",
    "LeakyRelu",
    "Elu",
    "Selu",
    "ThresholdedRelu",
    "Gelu",
)
"""The unary operators with attributes."""


def unary_operator(kind: str, attributes: Attributes) -> Unary | None:
    """Return the function of an ONNX operator, or None if it is not a unary one."""
    if kind in PLAIN_OPERATORS:
        return PLAIN_OPERATORS[kind]
    alpha = attributes.get("alpha")
    if kind == "HardSigmoid":
        slope = 0.2 if alpha is None else alpha
        return Unary(partial(_hard_sigmoid, alpha=slope, beta=attributes.get("beta", 0.5)))
    if kind == "LeakyRelu":
        slope = 0.01 if alpha is None else alpha
        return Unary(partial(_leaky, alpha=slope), homogeneous=True)
    if kind == "Elu":
        return Unary(partial(_elu, alpha=1.0 if alpha is None else alpha, gamma=1.0))
    if kind == "Selu":
        slope = 1.6732632423543772 if alpha is None else alpha
        gamma = attributes.get("gamma", 1.0507009873554805)
        return Unary(partial(_elu, alpha=slope, gamma=gamma))
    if kind == "ThresholdedRelu":
        return Unary(partial(_thresholded, alpha=1.0 if alpha is None else alpha))
    if kind == "Gelu":
        return Unary(partial(_gelu, tanh=attributes.get("approximate", b"none") == b"tanh"))
    return None


def clip(low: float, high: float) -> Unary:
    """Return the function of Clip."""
    unbounded = low in (0.0, -math.inf) and high == math.inf
    return Unary(lambda x: np.asarray(np.clip(x, low, high)), homogeneous=unbounded)


def power(exponent: float) -> Unary:
    """Return a power with a constant exponent."""
    return Unary(lambda x: np.asarray(np.power(x, exponent)))
