"""The provable model and its weights file."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import proof_models
import pytest
from proof_models import MODELS

from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, UnsupportedError
from verispect.proof.provable import (
    ProvableModel,
    decode_weights,
    encode_weights,
    narrowest,
)


def _model() -> ProvableModel:
    return ProvableModel(proof_models.mlp()[0], 8, 2, bytes(range(32)))


def test_a_provable_model_reads_back() -> None:
    """Bytes and digest are those of the specification."""
    model = _model()
    assert ProvableModel.decode(model.encode()) == model
    wanted = hashlib.sha256(b"verispect-provable-model-v1" + model.encode()).digest()
    assert model.digest == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": 5},
        {"columns": 17},
        {"rate_bits": 1},
        {"rate_bits": 4},
        {"root": b"\0" * 31},
        {"budget": -1},
        {"budget": (1 << 16) + 1},
    ],
)
def test_parameters_out_of_range_are_refused(changes: dict[str, object]) -> None:
    """A commitment with other parameters than the specified ones does not exist."""
    with pytest.raises(MalformedError):
        replace(_model(), **changes)


def test_every_part_is_in_the_digest() -> None:
    """No two provable models share a digest."""
    one = _model()
    others = [
        replace(one, columns=9),
        replace(one, rate_bits=3),
        replace(one, root=bytes(32)),
        replace(one, budget=4),
        replace(one, graph=proof_models.dense()[0]),
    ]
    assert len({each.digest for each in (one, *others)}) == 6


def test_damage_is_refused_or_another_model() -> None:
    """Only our errors come out of damaged bytes."""
    model = _model()
    data = model.encode()
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :]
        try:
            assert ProvableModel.decode(damaged).digest != model.digest
        except Error:
            continue


@pytest.mark.parametrize("name", MODELS)
def test_weights_read_back(name: str) -> None:
    """A weights file gives the integers that were written."""
    graph, weights = MODELS[name]()
    again = decode_weights(graph, encode_weights(weights))
    assert all(np.array_equal(one, other) for one, other in zip(weights, again, strict=True))


@pytest.mark.parametrize(
    ("value", "width"), [(127, 1), (-128, 1), (128, 2), (-32769, 4), (1 << 40, 8)]
)
def test_weights_are_written_narrowly(value: int, width: int) -> None:
    """Each weight takes the narrowest integers that hold it."""
    assert narrowest(np.array([0, value])).dtype.itemsize == width


def test_weights_of_another_shape_are_refused() -> None:
    """The file must fit the graph."""
    graph, weights = proof_models.mlp()
    with pytest.raises(MalformedError):
        decode_weights(graph, encode_weights(weights[:-1]))
    with pytest.raises(MalformedError):
        decode_weights(graph, encode_weights((*weights[:-1], weights[-1][:-1])))
    value = decode(encode_weights(weights))
    value[2][0][0] = 3
    with pytest.raises(MalformedError):
        decode_weights(graph, encode(value))
    value[1] = 2
    with pytest.raises(UnsupportedError):
        decode_weights(graph, encode(value))
