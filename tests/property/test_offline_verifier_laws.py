"""Laws of the offline verifier: identity, agreement with cbor2, and no accepted malformation."""

from __future__ import annotations

import io
import json
import math
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.appraisal.policy import SIGNED, AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.core.claims import Claim, Source, combine
from verispect.core.commitments import Opening, Part, decode_openings, encode_openings
from verispect.core.encoding import (
    decode,
    decode_content,
    encode,
    encode_content,
    from_base64url,
    from_hex,
)
from verispect.core.envelope import STATEMENT_TYPE, open_envelope
from verispect.core.errors import Error
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement
from verispect.core.stream import open_interim

VECTORS = Path(__file__).parents[2] / "vectors"
sys.path.insert(0, str(VECTORS))

import material  # noqa: E402

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.none() | st.booleans() | INTEGERS | TEXT | st.binary(max_size=300)


def containers(children):
    maps = [
        st.dictionaries(keys, children, max_size=6)
        for keys in (
            st.integers(0, (1 << 64) - 1),
            st.integers(-(1 << 64), -1),
            TEXT,
            st.binary(max_size=30),
        )
    ]
    return st.lists(children, max_size=6) | st.one_of(maps)


VALUES = st.recursive(SCALARS, containers, max_leaves=30)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
CONTENT = st.recursive(SCALARS | FINITE, containers, max_leaves=30)


def appraise(data, *, openings=None, expected=None):
    opened = {} if openings is None else decode_openings(openings)
    return Verifier(TrustedRoot.from_json(material.trusted_root().encode())).appraise(
        InferenceReceipt.parse(data),
        opened=opened,
        policy=SIGNED,
        now=material.NOW,
        expected=expected or Expected(),
    )


# -- Encoding -------------------------------------------------------------------------------------


@given(VALUES)
def test_decoding_reverses_encoding(value):
    """Whatever is encoded is decoded to the same value and the same types."""
    decoded = decode(encode(value))
    assert decoded == value
    assert repr(decoded) == repr(value) or isinstance(value, (dict, list))


@given(VALUES)
def test_cbor2_reads_what_we_write(value):
    """A CBOR library that is not ours reads the same value."""
    assert cbor2.loads(encode(value)) == value


@given(CONTENT)
def test_content_comes_back(value):
    """Content with fractions comes back equal and encodes to the same bytes again."""
    data = encode_content(value)
    assert decode_content(data) == value
    assert encode_content(decode_content(data)) == data


@given(FINITE)
def test_fraction_keeps_its_double(value):
    """A double comes back as the same double, to the last bit."""
    assert math.copysign(1, value) * decode_content(encode_content(value)) == abs(value)


@settings(max_examples=400)
@given(st.binary(max_size=60) | VALUES.map(cbor2.dumps))
def test_what_we_accept_cbor2_agrees_with(data):
    """Any bytes are refused with our error, or are the one encoding of what cbor2 reads."""
    try:
        value = decode(data)
    except Error:
        return
    assert encode(value) == data
    stream = io.BytesIO(data)
    theirs = cbor2.CBORDecoder(stream, tag_hook=lambda _, tag: tag).decode()
    assert stream.tell() == len(data)
    if not _holds_fraction(value):
        assert theirs == value


def _holds_fraction(value):
    if isinstance(value, cbor2.CBORTag):
        return True
    if isinstance(value, dict):
        return any(map(_holds_fraction, value.values()))
    return isinstance(value, list) and any(map(_holds_fraction, value))


DECODERS = [
    decode,
    decode_content,
    decode_openings,
    InferenceReceipt.parse,
    InferenceStatement.decode,
    open_interim,
    lambda data: open_envelope(data, content_type=STATEMENT_TYPE),
    TrustedRoot.from_json,
    lambda data: AssurancePolicy.from_toml(data.decode("utf-8", "surrogateescape")),
    lambda data: from_base64url(data.decode("latin-1")),
    lambda data: from_hex(data.decode("latin-1")),
]


@settings(max_examples=60)
@given(st.binary(max_size=200))
@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_survive_any_bytes(decoder, data):
    """No bytes make a decoder raise anything but our own error."""
    with suppress(Error):
        decoder(data)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.sampled_from(sorted(json.loads(material.trusted_root()))), JSON_VALUES)
def test_trusted_root_survives_any_member(member, value):
    """Any JSON value for any member is read or refused with our error."""
    with suppress(Error):
        TrustedRoot.from_json(material.trusted_root(**{member: value}).encode())


# -- Receipts: every bit counts -------------------------------------------------------------------


def flips(data):
    for position in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            yield bytes(changed)


def refused(data, **inputs):
    try:
        return appraise(data, **inputs).verdict is not Verdict.VERIFIED
    except Error:
        return True


def unverified(data):
    return InferenceReceipt.parse(data).unverified_statement


@pytest.mark.parametrize(
    "vector", sorted(VECTORS.glob("verification/accept*.json")), ids=lambda path: path.stem
)
def test_no_bit_of_an_accepted_receipt_can_change(vector):
    """Every one-bit change of an accepted receipt is refused, exhaustively.

    But for one number: when promised evidence was collected is its collector's word and unsigned.
    """
    case = json.loads(vector.read_text())
    data = bytes.fromhex(case["receipt"])
    root = TrustedRoot.from_json(case["trustedRoot"].encode())
    policy = AssurancePolicy.from_toml(case["policy"])
    verifier = Verifier(root)
    expected = Expected(nonce=material.NONCE) if "expected" in case else Expected()

    def verdict(changed):
        try:
            receipt = InferenceReceipt.parse(changed)
        except Error:
            return None
        return verifier.appraise(
            receipt, opened={}, policy=policy, now=case["now"], expected=expected
        ).verdict

    def without_collection_times(encoded):
        receipt = InferenceReceipt.parse(encoded)
        entries = [replace(entry, collected_at=0).to_row() for entry in receipt.evidence]
        return receipt.envelope.payload, receipt.envelope.signature, entries

    assert verdict(data) is Verdict.VERIFIED
    accepted = [changed for changed in flips(data) if verdict(changed) is Verdict.VERIFIED]
    original = without_collection_times(data)
    assert [each.hex() for each in accepted if without_collection_times(each) != original] == []
    if all(promise.due_at is None for promise in unverified(data).evidence):
        assert accepted == []


def test_no_bit_of_the_openings_can_change():
    """Every one-bit change of accepted openings is refused, exhaustively."""
    data, openings = material.receipt(), material.openings()
    expected = Expected(parts=material.CONTENT)
    assert not refused(data, openings=openings, expected=expected)
    survivors = [
        changed.hex()
        for changed in flips(openings)
        if not refused(data, openings=changed, expected=expected)
    ]
    assert survivors == []


def test_every_truncation_and_extension_is_refused():
    """A receipt or a file of openings that ends early, or goes on, is refused."""
    data, openings = material.receipt(), material.openings()
    for end in range(len(data)):
        assert refused(data[:end])
    for end in range(len(openings)):
        assert refused(data, openings=openings[:end])
    assert refused(data + b"\0")
    assert refused(data, openings=openings + b"\0")


def test_parsing_reverses_encoding():
    """Every vector that parses encodes to the bytes that were parsed."""
    receipts = 0
    for path in VECTORS.glob("verification/*.json"):
        data = bytes.fromhex(json.loads(path.read_text())["receipt"])
        try:
            receipt = InferenceReceipt.parse(data)
        except Error:
            continue
        receipts += 1
        assert receipt.encode() == data
        assert receipt.unverified_statement.encode() == receipt.envelope.payload
    assert receipts > 40


@given(
    st.dictionaries(
        st.sampled_from(list(Part)),
        st.tuples(st.binary(min_size=32, max_size=32), CONTENT),
        max_size=4,
    )
)
def test_openings_come_back(parts):
    """Openings come back as they were, and each opens its own commitment."""
    openings = {
        part: Opening.of(part, content, salt=salt) for part, (salt, content) in parts.items()
    }
    assert decode_openings(encode_openings(openings)) == openings
    for part, opening in openings.items():
        opening.check(opening.commitment())
        assert opening.content() == parts[part][1]


# -- Policy ---------------------------------------------------------------------------------------

SUFFICIENT = st.frozensets(
    st.sampled_from(sorted(set(Source) - {Source.UNSTATED, Source.REFUTED})), min_size=1
)
REQUIRED = st.dictionaries(st.sampled_from(list(Claim)), SUFFICIENT, max_size=8)
ACHIEVED = st.dictionaries(
    st.sampled_from(list(Claim)), st.frozensets(st.sampled_from(list(Source)), max_size=3)
)


@given(REQUIRED, ACHIEVED, st.sampled_from(list(Claim)), SUFFICIENT)
def test_a_further_requirement_never_accepts_more(required, achieved, claim, sources):
    """What a policy refuses stays refused when it requires more."""
    stricter = required | {claim: sources & required.get(claim, sources)}
    before = AssurancePolicy("a", required).unmet(achieved)
    after = AssurancePolicy("b", stricter).unmet(achieved)
    assert set(before) <= set(after)


@given(REQUIRED, st.lists(ACHIEVED, max_size=4))
def test_order_of_evidence_does_not_matter(required, parts):
    """Claims and decision are the same in whatever order evidence arrives."""
    policy = AssurancePolicy("a", required)
    assert combine(parts) == combine(reversed(parts))
    assert policy.unmet(combine(parts)) == policy.unmet(combine(reversed(parts)))


@given(REQUIRED, ACHIEVED)
def test_nothing_at_all_meets_no_requirement(required, achieved):
    """A policy is met without evidence only where it requires nothing, and then it is empty."""
    policy = AssurancePolicy("a", required)
    assert bool(policy.unmet(combine([]))) is not policy.is_empty()
    unstated = {claim: frozenset({Source.UNSTATED}) for claim in achieved}
    assert policy.unmet(combine([unstated])) == policy.unmet(combine([]))


@given(REQUIRED, ACHIEVED, st.sampled_from(list(Claim)))
def test_refutation_outweighs_everything(required, achieved, claim):
    """A refuted claim is refuted whatever else stands behind it."""
    combined = combine([achieved, {claim: frozenset({Source.REFUTED})}, achieved])
    assert combined[claim] == {Source.REFUTED}
    assert (claim in AssurancePolicy("a", required).unmet(combined)) == (claim in required)


@given(
    REQUIRED.filter(bool),
    st.booleans(),
    st.none() | st.integers(1, 1000),
    st.booleans(),
    st.booleans(),
)
def test_policy_text_comes_back(required, nonce, age, only, development):
    """A policy printed in full and read again is the same policy with the same digest."""
    policy = AssurancePolicy(
        "a-b+c",
        required,
        nonce_required=nonce,
        maximum_age_seconds=age,
        accepted_models_only=only,
        development_keys=development,
    )
    again = AssurancePolicy.from_toml(policy.to_toml())
    assert again == policy
    assert again.digest() == policy.digest()
