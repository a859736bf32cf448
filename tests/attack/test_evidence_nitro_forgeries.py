"""What a forger tries on Nitro documents, genuine ones first."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nitro_forgery import LEAF, NOW, PATH, Forger, build, fields, parts
from tee_vectors import milliseconds, read_vector
from verispect.attesters.development_enclave import encode_document, encode_payload, sign_es384
from verispect.core.errors import Reason
from verispect.evidence.attestation import AttestationPolicy, AttestationVerdict, Expectation
from verispect.evidence.certificates import forget_certificates
from verispect.evidence.nitro.appraise import GENUINE_ANCHORS, NitroEvidence, appraise_nitro
from verispect.evidence.nitro.document import MAX_DOCUMENT_BYTES, parse_document, signed_bytes

GENUINE = {
    "nitro/dstack_a.cose": "2025-12-25T13:15:37Z",
    "nitro/evervault_beta.cose": "2022-10-13T08:58:02Z",
    "nitro/blocky_max_fields.cose": "2024-09-07T14:37:39Z",
    "nitro/evervault_debug_userdata.cose": "2022-10-12T13:50:06Z",
    "nitro/derived/og_evm_tagged18.cose": "2026-02-12T17:56:02Z",
}
FLIPS_OF_EACH = 2000


def appraise(document: bytes, at: int, *, allow_debug: bool = True):
    return appraise_nitro(
        NitroEvidence(document),
        anchors=GENUINE_ANCHORS,
        expected=Expectation(),
        policy=AttestationPolicy(allow_debug=allow_debug),
        at=at,
    )


@pytest.mark.parametrize("name", GENUINE)
def test_every_truncation_of_a_genuine_document_is_malformed(name: str) -> None:
    """A document cut anywhere is refused as no document, without an exception."""
    document, at = read_vector(name), milliseconds(GENUINE[name])
    assert appraise(document, at).reason is None
    for length in range(len(document)):
        assert appraise(document[:length], at).reason is Reason.MALFORMED_EVIDENCE


@pytest.mark.parametrize("name", GENUINE)
def test_every_sampled_bit_of_a_genuine_document_counts(name: str) -> None:
    """Whatever single bit is changed, the document is refused: it has no unsigned part."""
    document, at = read_vector(name), milliseconds(GENUINE[name])
    bits = len(document) * 8
    # A stride without a common factor with eight meets every position within a byte.
    stride = (bits // FLIPS_OF_EACH) | 1
    for bit in range(0, bits, stride):
        altered = bytearray(document)
        altered[bit // 8] ^= 1 << bit % 8
        result = appraise(bytes(altered), at)
        assert result.verdict is AttestationVerdict.REJECT, bit
        assert result.reason is not None


@pytest.mark.parametrize("name", GENUINE)
def test_every_bit_of_the_head_and_the_signature_counts(name: str) -> None:
    """The envelope's first bytes and the signature, bit by bit."""
    document, at = read_vector(name), milliseconds(GENUINE[name])
    for place in (*range(16), *range(len(document) - 98, len(document), 7)):
        for bit in range(8):
            altered = bytearray(document)
            altered[place] ^= 1 << bit
            assert appraise(bytes(altered), at).verdict is AttestationVerdict.REJECT


@lru_cache(maxsize=1)
def _genuine_chain() -> tuple[tuple[bytes, ...], bytes]:
    document = parse_document(read_vector("nitro/dstack_a.cose"))
    return document.bundle, document.certificate


AT = milliseconds("2025-12-25T13:15:37Z")


def test_an_own_key_under_the_genuine_bundle_is_refused() -> None:
    """A leaf of the forger's own, below the vendor's certificates, is not signed by them."""
    bundle, _ = _genuine_chain()
    own, keys = build(PATH)
    payload = encode_payload(
        fields([*bundle, own[LEAF]], timestamp=AT),
    )
    document = encode_document(payload, sign_es384(keys[LEAF], signed_bytes(payload)))
    assert appraise(document, AT).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_a_payload_signed_by_an_own_key_under_the_whole_genuine_chain_is_refused() -> None:
    """The vendor's leaf stands in the document, and its key did not sign."""
    bundle, leaf = _genuine_chain()
    _, keys = build(PATH)
    payload = encode_payload(fields([*bundle, leaf], timestamp=AT))
    document = encode_document(payload, sign_es384(keys[LEAF], signed_bytes(payload)))
    assert appraise(document, AT).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_the_genuine_root_before_an_own_path_is_refused() -> None:
    """The pinned key vouches only for what it signed."""
    bundle, _ = _genuine_chain()
    own, keys = build(PATH)
    for path in ([bundle[0], *own], [bundle[0], *own[1:]], [*bundle, *own[1:]]):
        payload = encode_payload(fields(path, timestamp=AT))
        document = encode_document(payload, sign_es384(keys[LEAF], signed_bytes(payload)))
        assert appraise(document, AT).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_a_signature_of_one_genuine_document_does_not_fit_another() -> None:
    """Payload and signature are spliced from two genuine documents of one time."""
    payload, _ = parts(read_vector("nitro/evervault_beta.cose"))
    _, signature = parts(read_vector("nitro/evervault_debug_userdata.cose"))
    at = milliseconds(GENUINE["nitro/evervault_beta.cose"])
    spliced = encode_document(payload, signature)
    assert appraise(spliced, at).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_the_leaf_of_another_genuine_document_does_not_fit() -> None:
    """The certificate is inside what is signed."""
    bundle, _ = _genuine_chain()
    other = parse_document(read_vector("nitro/evervault_beta.cose"))
    _, signature = parts(read_vector("nitro/dstack_a.cose"))
    payload = encode_payload(fields([*bundle, other.certificate], timestamp=AT))
    spliced = encode_document(payload, signature)
    assert appraise(spliced, AT).reason is Reason.ATTESTATION_SIGNATURE_INVALID


def test_sixteen_megabytes_are_refused_before_they_are_read() -> None:
    """A document beyond the limit is refused by its length, whatever it holds."""
    document = read_vector("nitro/dstack_a.cose")
    padded = document + bytes(16 * 1024 * 1024)
    assert appraise(padded, AT).reason is Reason.MALFORMED_EVIDENCE
    assert len(document) < MAX_DOCUMENT_BYTES


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_give_an_answer(data: bytes) -> None:
    """Noise, alone and behind a good beginning, is refused and raises nothing."""
    head = b"\x84\x44\xa1\x01\x38\x22\xa0"
    for document in (data, head + data, head + b"\x59\x01\x00" + data + bytes(98)):
        assert appraise(document, NOW).verdict is AttestationVerdict.REJECT


@lru_cache(maxsize=1)
def _pool() -> tuple[list[tuple[bytes, int]], Forger]:
    forger = Forger()
    other = Forger()
    pool = [(read_vector(name), milliseconds(at)) for name, at in GENUINE.items()]
    pool += [
        (forger.document(), NOW),
        (other.document(), NOW),
        (forger.document(cabundle=other.path[:4]), NOW),
        (forger.document(certificate=other.path[4]), NOW),
    ]
    return pool, forger


@settings(max_examples=12, deadline=None)
@given(
    choices=st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from([0, -(10**9), 10**8, 10**12]), st.booleans()),
        min_size=2,
        max_size=6,
    )
)
def test_a_cache_never_changes_a_verdict(choices: list[tuple[int, int, bool]]) -> None:
    """Any order of documents, times and anchors gives what each gives with nothing remembered."""
    pool, forger = _pool()

    def judge(choice: tuple[int, int, bool]):
        (document, at), shift, genuine = pool[choice[0]], choice[1], choice[2]
        anchors = GENUINE_ANCHORS if genuine else [forger.anchor]
        return forger.appraise(document, at=at + shift, anchors=anchors).to_json()

    alone = []
    for choice in choices:
        forget_certificates()
        alone.append(judge(choice))
    forget_certificates()
    assert [judge(choice) for choice in choices] == alone
    assert [judge(choice) for choice in choices] == alone
