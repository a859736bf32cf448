"""Reading inputs and writing outputs, to the bit."""

from __future__ import annotations

import math
from decimal import Context, Decimal

import numpy as np
import pytest
from proof_models import ONE

from verispect.core.errors import Reason, RequestError
from verispect.proof.arithmetic import LOG2_E, exponential, read_input, softmax, write_output
from verispect.proof.graph import BinaryFraction, Epilogue, Input, Output


def _input(**changes: object) -> Input:
    fields = {
        "shape": (2, 3),
        "minimum": -100,
        "maximum": 127,
        "scale": BinaryFraction.of(0.1),
        "order": (0, 1),
        "steps": None,
    }
    return Input(**(fields | changes))  # type: ignore[arg-type]


def test_numbers_are_divided_once_and_rounded_once() -> None:
    """Halves go to the even neighbour, in binary64."""
    found = read_input(_input(scale=ONE), [[0.5, 1.5, 2.5, -0.5, -1.5, 3.4999999]])
    assert found.integers.tolist() == [[[0, 2, 2], [0, -2, 3]]]
    assert found.clipped == 0


def test_what_lies_outside_is_clipped_and_counted() -> None:
    """Infinities too."""
    found = read_input(_input(scale=ONE), [500.0, -500.0, math.inf, -math.inf, 127.4, -100.0])
    assert found.integers.tolist() == [[[127, -100, 127], [-100, 127, -100]]]
    assert found.clipped == 4


@pytest.mark.parametrize("values", [[0.0] * 5, [], [math.nan] * 6, ["a"] * 6, [1j] * 6])
def test_what_cannot_be_read_is_refused(values: list[object]) -> None:
    """Another count, NaN and what is no real number are refused."""
    with pytest.raises(RequestError) as caught:
        read_input(_input(), np.array(values))
    assert caught.value.reason is Reason.INVALID_REQUEST


def test_a_stated_batch_must_be_that_of_the_numbers() -> None:
    """Twelve numbers are two requests of six, not one."""
    numbers = np.arange(12.0)
    assert read_input(_input(), numbers).integers.shape == (2, 2, 3)
    with pytest.raises(RequestError):
        read_input(_input(), numbers, batch=1)


def test_axes_come_in_the_callers_order() -> None:
    """The input's axis i is axis order[i] of what the caller sends."""
    sent = np.arange(24).reshape(1, 3, 4, 2)
    source = _input(shape=(2, 3, 4), scale=ONE, order=(2, 0, 1))
    assert np.array_equal(read_input(source, sent).integers, sent.transpose(0, 3, 1, 2))


def test_steps_are_compared_exactly() -> None:
    """The integer is the number of steps smaller than the number, to the last bit."""
    steps = ((0.1, 0.5), (-1.0,))
    source = _input(shape=(2,), minimum=0, maximum=2, scale=ONE, order=(0,), steps=steps)
    above = math.nextafter(0.1, 1.0)
    sent = [[0.1, -1.0], [above, -0.5], [0.5, -2.0], [9.0, 9.0]]
    assert read_input(source, sent).integers.tolist() == [[0, 0], [1, 1], [1, 0], [2, 1]]


def test_outputs_are_one_product_rounded_once() -> None:
    """The product is taken in binary64 and rounded to binary32."""
    scale = BinaryFraction.of(0.1)
    integers = np.array([[3, -(1 << 40), 16777217]])
    found = write_output(Output(1, scale, Epilogue.NONE), integers)
    assert found.dtype == np.float32
    assert found.tolist() == [[float(np.float32(int(each) * 0.1)) for each in integers[0]]]


def test_argmax_is_the_lowest_of_equals() -> None:
    """Over the channels, at each place."""
    integers = np.array([[[1, 5], [1, 7], [0, 7]]])
    assert write_output(Output(1, ONE, Epilogue.ARGMAX), integers).tolist() == [[0, 1]]


def test_the_logarithm_is_the_stated_one() -> None:
    """The constant of the specification is what it says it is."""
    # A context of its own: another library of this process may guard the shared one.
    context = Context(prec=60)
    exact = context.divide(Decimal(1 << 32), context.ln(Decimal(2)))
    assert int(exact) == LOG2_E


@pytest.mark.parametrize("scale", [2.0**-20, 0.001, 0.1, 1.0, 3.0])
def test_the_exponential_is_near_the_real_one(scale: float) -> None:
    """The fixed-point exponential differs from the real one by a few units of its last place."""
    fraction = BinaryFraction.of(scale)
    for difference in (0, 1, 2, 5, 17, 1000, 30000):
        exact = 2**30 * math.exp(-difference * scale)
        assert abs(exponential(difference, fraction) - exact) <= 3


def test_the_exponential_of_nothing_is_one_and_of_much_is_zero() -> None:
    """Its ends are exact, at once even for the widest scales."""
    assert exponential(0, ONE) == 1 << 30
    assert exponential(22, ONE) == 0
    assert exponential(1 << 52, BinaryFraction((1 << 53) - 1, 971)) == 0
    assert exponential(1, BinaryFraction(1, -1074)) == 1 << 30


def test_softmax_is_that_of_the_numbers() -> None:
    """Probabilities over the channels, near those of real numbers and exactly reproducible."""
    integers = np.array([[100, 300, -50, 299], [0, 0, 0, 0]])
    found = softmax(integers, BinaryFraction.of(0.01))
    real = np.exp(integers * 0.01)
    assert np.allclose(found, real / real.sum(axis=1, keepdims=True), atol=1e-7)
    assert found[1].tolist() == [0.25] * 4
    parts = [exponential(300 - int(each), BinaryFraction.of(0.01)) for each in integers[0]]
    assert found[0].tolist() == [float(np.float32(part / sum(parts))) for part in parts]


def test_softmax_works_place_by_place() -> None:
    """An output with places has a softmax at each."""
    integers = np.arange(12).reshape(1, 3, 2, 2)
    found = softmax(integers, ONE)
    assert np.allclose(found.sum(axis=1), 1.0)
    alone = softmax(integers[:, :, 1, 0], ONE)
    assert np.array_equal(found[:, :, 1, 0], alone)
