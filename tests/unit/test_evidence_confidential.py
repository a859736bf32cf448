"""When attestation evidence grants confidentiality: the very key, good evidence, local weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_evidence_attested import NOW, SIGNER, a_receipt, a_root, a_statement, appraise

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import Verdict
from verispect.attesters.development_enclave import DevelopmentEnclave
from verispect.core.claims import Claim, Source
from verispect.core.encoding import Digest, encode
from verispect.core.errors import Reason
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import InferenceStatement, ModelIdentity
from verispect.evidence.bindings.key_v1 import KEY_V1, KeyBinding

KEY = Digest(b"h" * 32)
OTHER_KEY = Digest(b"o" * 32)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory):
    return DevelopmentEnclave.create(tmp_path_factory.mktemp("enclave"), NOW - 10_000)


def entry(enclave, *, bound: Digest | None = KEY, shown: Any = ...) -> EvidenceEntry:
    """Make evidence that is signed over one HPKE key and shows it, or another."""
    binding = KeyBinding(SIGNER.public_key.key_id, NOW - 5000, hpke_key_digest=bound).members()
    field = KEY_V1.recompute(binding, 64)
    body = enclave.attest(user_data=field, nonce=None, public_key=None, now=NOW - 1000)
    del binding["receipt_key_id"]
    if shown is not ...:
        binding["hpke_key_digest"] = shown
    return EvidenceEntry(
        "aws-nitro", KEY_V1.name, NOW - 1000, body, encode({"binding": binding, "files": {}})
    )


def confidentiality(enclave, statement: InferenceStatement, evidence: EvidenceEntry):
    """Return the sources of confidentiality, and what is said of it."""
    result = appraise(a_root(enclave), a_receipt(statement, evidence))
    lines = [line for line in result.not_covered if "confidentiality" in line]
    return result, result.claims[Claim.CONFIDENTIALITY], lines


def test_the_key_that_the_evidence_vouches_for_gives_confidentiality(enclave):
    """Equal digests, and what is still seen is said."""
    result, sources, lines = confidentiality(enclave, a_statement(confidential=KEY), entry(enclave))
    assert result.verdict is Verdict.VERIFIED
    assert sources == {Source.HARDWARE}
    assert lines == [
        "aws-nitro: confidentiality: sizes and times of request and answer are seen on the way"
    ]


@pytest.mark.parametrize(
    ("statement", "bound", "why"),
    [
        (a_statement(), KEY, "the request came in the clear"),
        (a_statement(confidential=OTHER_KEY), KEY, "the evidence is not of the key"),
        (a_statement(confidential=KEY), None, "the evidence is not of the key"),
        (
            a_statement(
                confidential=KEY,
                model=replace(a_statement().model, identity=ModelIdentity.UPSTREAM_REPORTED),
            ),
            KEY,
            "an upstream service read the request",
        ),
    ],
)
def test_anything_else_gives_none_and_says_why(enclave, statement, bound, why):
    """The receipt stays good for its other claims; confidentiality is unstated."""
    result, sources, lines = confidentiality(enclave, statement, entry(enclave, bound=bound))
    assert result.verdict is Verdict.VERIFIED
    assert result.claims[Claim.INPUT] == {Source.ASSERTED, Source.HARDWARE}
    assert sources == {Source.UNSTATED}
    assert any(why in line for line in lines)


def test_a_key_written_beside_the_evidence_is_refused(enclave):
    """The digest that counts is the one the hardware signed, not one that an operator added."""
    for bound in (OTHER_KEY, None):
        result, sources, _ = confidentiality(
            enclave, a_statement(confidential=KEY), entry(enclave, bound=bound, shown=KEY)
        )
        assert result.verdict is Verdict.REFUSED
        assert result.reason is Reason.ATTESTATION_NONCE_MISMATCH
        assert sources == {Source.UNSTATED}


def test_the_operators_word_alone_gives_none(enclave):
    """A statement that names a key, without evidence, proves nothing of it."""
    result = appraise(a_root(enclave), a_receipt(a_statement(confidential=KEY)), SIGNED)
    assert result.verdict is Verdict.VERIFIED
    assert result.claims[Claim.CONFIDENTIALITY] == {Source.UNSTATED}
