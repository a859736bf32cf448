"""Proofs whose bytes were changed: every one of them, cut, moved, swapped or replayed."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest

from oracles.proof_algebra import P
from oracles.proof_cases import looked_up, perceptron, some_inputs
from oracles.proof_checked import refused_by_both, verify
from oracles.proof_maker import Statement, make, state
from verispect.core.encoding import decode, encode
from verispect.core.errors import Error, MalformedError, Reason, VerificationError
from verispect.proof.proof_file import MAX_PROOF_BYTES


def _small(masked: bool = False) -> tuple[Statement, bytes]:
    model = looked_up(int(masked))
    inputs = some_inputs(model, 1)
    statement = state(model, inputs, masked=masked)
    return statement, make(statement, inputs)


def _metadata(statement: Statement, proof: bytes) -> bytes:
    """The same proof with something to say of itself, which nothing vouches for."""
    return encode(decode(proof) | {13: {"prover": "someone"}})


@pytest.mark.slow
def test_every_byte_of_a_proof_counts() -> None:
    """A bit flipped in any byte is refused with one of our errors; nothing else escapes."""
    statement, proof = _small()
    rng = random.Random(1)
    for i in range(len(proof)):
        damaged = bytearray(proof)
        damaged[i] ^= 1 << rng.randrange(8)
        with pytest.raises(Error):
            verify(statement, bytes(damaged))


@pytest.mark.slow
def test_bytes_of_a_masked_proof_count() -> None:
    """The same in mode zero-knowledge, for bytes spread over the whole proof."""
    statement, proof = _small(masked=True)
    rng = random.Random(2)
    for i in range(0, len(proof), 199):
        damaged = bytearray(proof)
        damaged[i] ^= 1 << rng.randrange(8)
        with pytest.raises(Error):
            verify(statement, bytes(damaged))


def test_truncations_are_refused() -> None:
    """No prefix is a proof."""
    statement, proof = _small()
    for end in [*range(200), *range(200, len(proof), 97), len(proof) - 1]:
        with pytest.raises(MalformedError):
            verify(statement, proof[:end])


def _parts(change: Callable[[dict[int, Any]], None]) -> None:
    model = perceptron()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    value = decode(make(statement, inputs))
    change(value)
    error = refused_by_both(statement, encode(value))
    assert error.reason in (Reason.MALFORMED_PROOF, Reason.PROOF_INVALID)


@pytest.mark.parametrize("key", [7, 8, 9, 10])
@pytest.mark.parametrize("octets", [-16, -1, 1, 16, 32])
def test_parts_of_another_length_are_refused(key: int, octets: int) -> None:
    """Lengths follow from the model and the positions, and nothing is left over or missing."""

    def change(value: dict[int, Any]) -> None:
        part = value[key]
        value[key] = part[:octets] if octets < 0 else part + part[:octets]

    _parts(change)


@pytest.mark.parametrize("key", [7, 8, 9, 10])
def test_parts_in_another_order_are_refused(key: int) -> None:
    """Two neighbours exchanged."""

    def change(value: dict[int, Any]) -> None:
        part, width = value[key], 32
        assert part[:width] != part[width : 2 * width]
        value[key] = part[width : 2 * width] + part[:width] + part[2 * width :]

    _parts(change)


def test_a_skipped_round_is_refused() -> None:
    """A round left out and another one repeated keeps the length, and nothing else."""

    def change(value: dict[int, Any]) -> None:
        messages = value[7]
        value[7] = messages[:64] + messages[64 + 48 :] + messages[-48:]

    _parts(change)


@pytest.mark.parametrize("key", [7, 8, 9])
def test_field_elements_have_one_form(key: int) -> None:
    """An element written as itself plus the modulus is refused, wherever it stands."""
    model = perceptron()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    value = decode(make(statement, inputs))
    octets = bytearray(value[key])
    for i in range(0, len(octets), 8):
        word = int.from_bytes(octets[i : i + 8], "little")
        if word + P < 2**64:
            octets[i : i + 8] = (word + P).to_bytes(8, "little")
            break
    else:
        octets[:8] = P.to_bytes(8, "little")
    value[key] = bytes(octets)
    refused_by_both(statement, encode(value))


def test_a_zero_written_as_the_modulus_is_refused() -> None:
    """The sign of zero: there is none."""
    model = perceptron()
    inputs = some_inputs(model, 1)
    statement = state(model, inputs)
    for key in (7, 8):
        value = decode(make(statement, inputs))
        value[key] = P.to_bytes(8, "little") + value[key][8:]
        assert refused_by_both(statement, encode(value)).reason is Reason.MALFORMED_PROOF


def test_roots_and_digests_are_not_interchangeable() -> None:
    """Every root and digest exchanged with every other one is refused."""
    model = perceptron(1)
    inputs = some_inputs(model, 1)
    statement = state(model, inputs, masked=True)
    proof = decode(make(statement, inputs))
    keys = [3, 6, 11, "context", "input", "output"]
    (request,) = proof[4]
    for i, first in enumerate(keys):
        for second in keys[i + 1 :]:
            found = {3: proof[3], 6: proof[6], 11: proof[11]}
            found |= dict(zip(keys[3:], request[1:], strict=True))
            found[first], found[second] = found[second], found[first]
            value = proof | {key: found[key] for key in keys[:3]}
            value[4] = [[request[0], *(found[key] for key in keys[3:])]]
            refused_by_both(statement, encode(value))


def test_a_public_input_does_not_pass_for_a_hidden_one() -> None:
    """Nor a hidden one for a public one: the file says which, and the verifier asks."""
    model = perceptron(1)
    inputs = some_inputs(model, 1)
    for hidden in (False, True):
        statement = state(model, inputs, masked=True, hidden=hidden)
        proof = make(statement, inputs)
        asked = dataclasses.replace(statement, inputs=inputs if hidden else None)
        with pytest.raises(VerificationError) as refused:
            verify(asked, proof)
        assert refused.value.reason is Reason.PROOF_WRONG_MODE


def test_a_proof_beyond_the_limit_is_not_read() -> None:
    """Size is refused before content."""
    statement, _ = _small()
    with pytest.raises(MalformedError) as refused:
        verify(statement, bytes(MAX_PROOF_BYTES + 1))
    assert refused.value.reason is Reason.TOO_LARGE


def test_metadata_is_carried_and_not_believed() -> None:
    """What the prover says of itself changes nothing and is named for what it is."""
    statement, proof = _small()
    verified = verify(statement, _metadata(statement, proof))
    assert verified.unverified_metadata == {"prover": "someone"}
