"""Appraisal of one TPM 2.0 quote, as `spec/evidence-tpm.md` says.

1. `structure`: a `TPMS_ATTEST` made inside a TPM, of type quote, of exact length; its signature.
2. `trust`: the attestation key is an anchor, or a certificate for it leads to one.
3. `signature`: over the quote, under that key.
4. `attributes`: the key signs only what its TPM made, where its public area is given.
5. `freshness`: `extraData` is the nonce, or commits to it and to the guest's value.
6. `registers`: the quoted digest is that of the given register values.
7. `measurements`: reference values; a register that is named must be quoted.
8. `class`: as the anchor says.

No vendor's root is built in. An endorsement certificate alone says nothing about the key that
signed: see `activation`. This module refuses to call a software TPM anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_public_key,
)

from verispect.core.encoding import sha256
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
    lowest_anchor,
)
from verispect.evidence.tpm.activation import (
    TECHNOLOGY,
    check_attestation_attributes,
    public_key_info,
)
from verispect.evidence.tpm.certificates import verify_attestation_certificates
from verispect.evidence.tpm.quote import (
    check_qualifying_data,
    check_register_digest,
    check_registers,
    quote_facts,
    read_registers,
    read_signature,
    verify_quote_signature,
)
from verispect.evidence.tpm.structures import (
    MAX_PUBLIC_BYTES,
    PublicArea,
    PublicKey,
    Quote,
    Signature,
    parse_public,
    parse_quote,
)

GENUINE_ANCHORS: Final[tuple[Anchor, ...]] = ()
"""No vendor's endorsement root is pinned: without an anchor of the caller's own, nothing holds."""

_PEM: Final = b"-----BEGIN"
_DER_SEQUENCE: Final = 0x30


@dataclass(frozen=True, slots=True)
class TpmEvidence:
    """One quote, what it quotes and what vouches for its key."""

    quote: bytes
    """The `TPMS_ATTEST`."""
    signature: bytes
    """A `TPMT_SIGNATURE`, or the bare value."""
    ak: bytes
    """The attestation key: PEM or DER `SubjectPublicKeyInfo`, or its public area."""
    pcrs: bytes | None = None
    """Values of the selected registers, in the order of the selection."""
    ak_certificates: Sequence[bytes] = ()
    """A path for the attestation key, DER, leaf first, root last."""
    ek_certificates: Sequence[bytes] = ()
    """The endorsement key's, kept for whoever activates; no reason to trust the quote."""


def appraise_tpm(
    evidence: TpmEvidence,
    *,
    anchors: Sequence[Anchor] = GENUINE_ANCHORS,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise one quote; never raises for bad evidence.

    Args:
        evidence: the quote and what came with it.
        anchors: attestation keys or roots that are trusted; only those of this technology count.
        expected: `nonce` is `extraData`; with `report_data` as well see `qualifying_data`;
            registers are named `sha256:7`.
        policy: what of genuine evidence is acceptable.
        at: the time of judgement, milliseconds since the epoch.
    """
    examination = Examination(TECHNOLOGY, policy)
    _Appraiser(examination, evidence, anchors, expected, at).run()
    return examination.conclude()


class _Appraiser:
    """The steps in their order, and what earlier ones leave for later ones."""

    def __init__(
        self,
        examination: Examination,
        evidence: TpmEvidence,
        anchors: Sequence[Anchor],
        expected: Expectation,
        at: int,
    ) -> None:
        self._examination = examination
        self._evidence = evidence
        self._anchors = anchors
        self._expected = expected
        self._at = at
        self._anchor: Anchor
        self._quote: Quote
        self._key: PublicKey
        self._area: PublicArea | None
        self._signature: Signature
        self._registers: dict[str, bytes] = {}

    def run(self) -> None:
        """Take the steps until one fails."""
        steps = (
            ("structure", self._read),
            ("trust", self._find_trust),
            ("signature", self._check_signature),
            ("attributes", self._check_attributes),
            ("freshness", self._check_freshness),
            ("registers", self._check_registers),
            ("measurements", self._check_measurements),
            ("class", self._examination.check_class),
        )
        self._examination.walk(steps)

    # 1
    def _read(self) -> None:
        self._quote = parse_quote(self._evidence.quote)
        self._examination.facts.update(quote_facts(self._quote))
        self._key, self._area = read_attestation_key(self._evidence.ak)
        self._signature = read_signature(self._evidence.signature, self._key)
        self._examination.facts["ak_digest"] = sha256(public_key_info(self._key)).hex()
        self._examination.passed("structure", "a quote made inside a TPM")

    # 2
    def _find_trust(self) -> None:
        digest = sha256(public_key_info(self._key))
        anchor = lowest_anchor(digest, self._anchors, TECHNOLOGY)
        if anchor is None:
            anchor = self._anchor_by_certificate()
        elif self._evidence.ak_certificates:
            self._examination.not_checked.append("certificates: the key is an anchor itself")
        self._anchor = anchor
        self._examination.facts["anchor"] = anchor.label
        self._examination.passed("trust", f"attestation key under {anchor.label}")

    def _anchor_by_certificate(self) -> Anchor:
        if not self._evidence.ak_certificates:
            detail = "the attestation key is no anchor and has no certificate"
            if self._evidence.ek_certificates:
                detail += "; an endorsement certificate alone does not vouch for it"
            self._examination.fail("trust", detail, Reason.ATTESTATION_ROOT_UNTRUSTED)
        anchor, leaf = verify_attestation_certificates(
            self._evidence.ak_certificates,
            anchors=self._anchors,
            technology=TECHNOLOGY,
            at=self._at,
        )
        if leaf.key_digest != sha256(public_key_info(self._key)):
            self._examination.fail(
                "trust", "the certificate is of another key", Reason.ATTESTATION_BINDING_INVALID
            )
        self._examination.not_checked.append("revocation: of the attestation key's certificates")
        return anchor

    # 3
    def _check_signature(self) -> None:
        verify_quote_signature(self._key, self._evidence.quote, self._signature)
        self._examination.evidence_class = self._anchor.evidence_class
        self._examination.trust_vector[TrustClaim.INSTANCE_IDENTITY] = TrustTier.AFFIRMING
        self._examination.passed("signature", "quote signed by the attestation key")

    # 4
    def _check_attributes(self) -> None:
        if self._area is None:
            self._examination.skipped(
                "attributes", "attributes: the key's public area was not given"
            )
            return
        check_attestation_attributes(self._area)
        self._examination.passed("attributes", "a restricted signing key that stays in its TPM")

    # 5
    def _check_freshness(self) -> None:
        if self._expected.public_key is not None:
            self._examination.fail(
                "freshness", "a quote has no field for a key", Reason.ATTESTATION_BINDING_INVALID
            )
        if check_qualifying_data(self._quote, self._expected):
            self._examination.passed("freshness", "qualifying data is the expected value")
        else:
            self._examination.skipped("freshness", "freshness: no qualifying data was expected")
        if self._examination.policy.maximum_age_seconds is not None:
            self._examination.not_checked.append("age: a TPM does not know the time of day")

    # 6
    def _check_registers(self) -> None:
        if self._evidence.pcrs is None:
            self._examination.skipped("registers", "registers: no values were given")
            return
        registers = read_registers(self._quote, self._evidence.pcrs)
        check_register_digest(self._quote, self._evidence.pcrs, self._signature.hash_name)
        self._registers = registers
        shown = {name: value.hex() for name, value in registers.items()}
        self._examination.facts["pcrs"] = shown
        self._examination.passed("registers", f"{len(registers)} registers are those quoted")

    # 7
    def _check_measurements(self) -> None:
        check_registers(self._registers, self._expected.measurements)
        if self._expected.measurements:
            self._examination.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
            self._examination.passed("measurements", "registers have their reference values")
        else:
            self._examination.skipped("measurements", "measurements: no reference values given")


def read_attestation_key(data: bytes) -> tuple[PublicKey, PublicArea | None]:
    """Read a key as PEM, as DER, or as a public area, which is returned as well.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
        UnsupportedError: `unsupported-algorithm`.
    """
    if len(data) > MAX_PUBLIC_BYTES:
        raise MalformedError("key too large", reason=Reason.TOO_LARGE)
    is_pem, is_der = data.startswith(_PEM), data[:1] == bytes([_DER_SEQUENCE])
    if not (is_pem or is_der):
        area = parse_public(data)
        return area.key, area
    try:
        key = load_pem_public_key(data) if is_pem else load_der_public_key(data)
    except (ValueError, TypeError) as error:
        raise MalformedError("not a public key", reason=Reason.MALFORMED_EVIDENCE) from error
    except UnsupportedAlgorithm as error:
        raise UnsupportedError("kind of key", reason=Reason.UNSUPPORTED_ALGORITHM) from error
    if not isinstance(key, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey)):
        raise UnsupportedError("kind of key", reason=Reason.UNSUPPORTED_ALGORITHM)
    return key, None
