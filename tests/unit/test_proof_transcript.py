"""The transcript, against the words of its specification."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from verispect.proof.field import MODULUS, Element, to_array
from verispect.proof.transcript import Transcript


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_states_are_those_of_the_specification():
    """Absorbing, challenges and positions hash exactly what section 2 says."""
    transcript = Transcript()
    state = sha(b"verispect-proof-v1")
    transcript.absorb("mode", b"succinct")
    state = sha(state + b"\x01\x04mode" + (8).to_bytes(8, "little") + b"succinct")
    assert transcript.state == state
    drawn = transcript.challenge("beta")
    state = sha(state + b"\x02\x04beta")
    assert drawn.a == int.from_bytes(state[:16], "little") % MODULUS
    assert drawn.b == int.from_bytes(state[16:], "little") % MODULUS
    positions = transcript.positions("queries", 19, 1 << 12)
    state = sha(state + b"\x03\x07queries")
    words = np.frombuffer(
        b"".join(sha(state + i.to_bytes(4, "little")) for i in range(3)), dtype="<u4"
    )
    assert positions == (words % 4096).tolist()[:19]
    assert transcript.state == state


def test_one_changed_octet_changes_every_challenge_after_it():
    """Other data, another label, another order or another grouping gives other challenges."""
    conversations = [
        [("a", b"xy")],
        [("a", b"xz")],
        [("b", b"xy")],
        [("a", b"x"), ("a", b"y")],
        [("a", b"y"), ("a", b"x")],
        [("ax", b"y")],
        [],
    ]
    drawn = set()
    for messages in conversations:
        transcript = Transcript()
        for label, data in messages:
            transcript.absorb(label, data)
        drawn.add(transcript.challenge("c"))
    assert len(drawn) == len(conversations)


def test_vectors_are_drawn_coordinate_by_coordinate():
    """A vector of challenges is its coordinates drawn one after another under one label."""
    one, other = Transcript(), Transcript()
    assert one.challenges("tau", 3) == [other.challenge("tau") for _ in range(3)]
    assert len(set(one.challenges("tau", 3))) == 3


def test_elements_and_arrays_are_absorbed_alike():
    """A message of elements has the same octets as an array of them."""
    elements = [Element(1, 2), Element(MODULUS - 1, 0)]
    one, other = Transcript(), Transcript()
    one.absorb_elements("round", elements)
    other.absorb_array("round", to_array(elements))
    assert one.state == other.state


def test_positions_need_a_power_of_two():
    """A bound that would bias the positions is refused."""
    for bound in (0, 3, 1 << 33):
        with pytest.raises(ValueError, match="power of two"):
            Transcript().positions("queries", 1, bound)
    with pytest.raises(ValueError, match="255"):
        Transcript().absorb("x" * 256, b"")
