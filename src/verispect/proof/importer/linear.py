"""Algebra on sums that are not written yet, so that bias and factor need no node of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from verispect.proof.importer.draft import (
    Activation,
    Floats,
    Linear,
    RealConvolve,
    RealEmbed,
    RealScale,
    RealTerm,
    RealWindow,
    Tensor,
)


def linear_of(tensor: Tensor) -> Linear:
    """Return the sum that is a tensor itself."""
    return Linear((RealScale(tensor.number, 1.0),), None, tensor.shape)


def add_bias(linear: Linear, offsets: Floats) -> Linear:
    """Add a number to each channel."""
    bias = offsets if linear.bias is None else linear.bias + offsets
    return replace(linear, bias=bias)


def add_linear(one: Linear, other: Linear) -> Linear:
    """Add two sums of one shape."""
    total = Linear((*one.terms, *other.terms), one.bias, one.shape)
    return total if other.bias is None else add_bias(total, other.bias)


def scale_channels(linear: Linear, factors: Floats) -> Linear | None:
    """Multiply each channel by its factor, or return None where a term cannot take them."""
    uniform = bool(np.all(factors == factors[0]))
    terms: list[RealTerm] = []
    for term in linear.terms:
        if uniform and not isinstance(term, RealConvolve):
            terms.append(replace(term, factor=term.factor * float(factors[0])))
            continue
        wide = _as_convolution(term, linear)
        if wide is None:
            return None
        groups, outputs = wide.weight.shape[:2]
        spread = factors.reshape(groups, outputs, *(1,) * (wide.weight.ndim - 2))
        terms.append(replace(wide, weight=wide.weight * spread))
    bias = None if linear.bias is None else linear.bias * factors
    return Linear(tuple(terms), bias, linear.shape)


def _as_convolution(term: RealTerm, linear: Linear) -> RealConvolve | None:
    """Return `term` as a convolution with one group per channel."""
    if isinstance(term, RealConvolve):
        return term
    if isinstance(term, RealEmbed):
        return None
    channels, axes = linear.shape[0], len(linear.shape) - 1
    ones = (1,) * axes
    kernel = term.kernel if isinstance(term, RealWindow) else ones
    weight = np.full((channels, 1, 1, *kernel), term.factor)
    strides = term.strides if isinstance(term, RealWindow) else ones
    before = term.before if isinstance(term, RealWindow) else (0,) * axes
    return RealConvolve(term.source, weight, strides, before, ones)


def per_channel(linear: Linear) -> tuple[int, Floats, Floats] | None:
    """Return `(source, factors, offsets)` if the sum is a factor and an offset per channel."""
    if len(linear.terms) != 1:
        return None
    (term,) = linear.terms
    channels = linear.shape[0]
    offsets = np.zeros(channels) if linear.bias is None else linear.bias
    if isinstance(term, RealScale):
        return term.source, np.full(channels, term.factor), offsets
    if (
        isinstance(term, RealConvolve)
        and term.weight.shape[0] == channels
        and math.prod(term.weight.shape) == channels
        and all(stride == 1 for stride in term.strides)
        and not any(term.before)
    ):
        return term.source, term.weight.reshape(-1), offsets
    return None


def fold_straight(linear: Linear, activation: Activation) -> Linear | None:
    """Return the sum with a chain of factors and offsets taken in, or None where it cannot be."""
    if activation.straight is None:
        return None
    if not activation.functions:
        return linear
    factor, offset = activation.straight
    channels = linear.shape[0]
    scaled = scale_channels(linear, np.full(channels, factor))
    assert scaled is not None  # One factor for all channels fits every term.
    return add_bias(scaled, np.full(channels, offset))
