"""Appraises an AWS Nitro attestation document; `spec/evidence-nitro.md` is the text of it.

The steps, in their order; the first that fails decides:

1. `structure`: the bytes are a document of the profile.
2. `root`: the key of the first certificate in the bundle is an anchor.
3. `chain`: bundle and leaf are one path, each signed by the one before it, all with P-384.
4. `validity`: each certificate is valid at the time of judgement, and the document not of later.
5. `revocation`: not checked; the lists are on a network.
6. `signature`: the leaf's key signed the document.
7. `debug`: registers 0 to 2 are not all zero.
8. `instance`: register 4 is the digest of the instance that the module id names.
9. `nonce`, then `age`.
10. `report-data`, then `public-key`: what the enclave bound is what the caller expects.
11. `measurements`: every named register has an accepted value.
12. `class`: the policy accepts what stands behind the anchor.

Nothing in a document is reported as a fact before step 6 has passed, except for the time in which
its certificates are valid.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from verispect.core.encoding import Digest
from verispect.core.errors import Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Examination,
    Expectation,
    TrustClaim,
    TrustTier,
)
from verispect.evidence.certificates import (
    Certificate,
    check_chain_validity,
    find_anchor,
    load_certificate,
    verify_chain,
)
from verispect.evidence.nitro.document import (
    REGISTER_BYTES,
    SIGNATURE_BYTES,
    NitroDocument,
    parse_document,
)

TECHNOLOGY: Final = "aws-nitro"

GENUINE_ANCHORS: Final[tuple[Anchor, ...]] = (
    Anchor(
        technology=TECHNOLOGY,
        key_digest=Digest(
            bytes.fromhex("f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225")
        ),
        evidence_class=EvidenceClass.HARDWARE,
        label="AWS Nitro Enclaves root G1",
    ),
)
"""The vendor's root, by its key."""

MAX_SKEW_MILLISECONDS: Final = 300_000
"""How far a document's time may lie after the time of judgement."""

ZERO_REGISTER: Final = bytes(REGISTER_BYTES)
_MODULE_ID: Final = re.compile(r"(i-[0-9a-f]{8,32})-enc[0-9a-f]{8,32}")
_TIER_OF_CLASS: Final = {
    EvidenceClass.HARDWARE: TrustTier.AFFIRMING,
    EvidenceClass.SOFTWARE: TrustTier.WARNING,
    EvidenceClass.DEVELOPMENT: TrustTier.CONTRAINDICATED,
}


@dataclass(frozen=True, slots=True)
class NitroEvidence:
    """What a verifier of this technology is given."""

    document: bytes


def appraise_nitro(
    evidence: NitroEvidence,
    *,
    anchors: Sequence[Anchor],
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Judge one document; see the module for the steps. Never raises for bad evidence.

    Args:
        evidence: the document.
        anchors: roots to trust; those of other technologies are passed over.
        expected: reference values; `report_data` is compared with the document's `user_data`,
            and registers are named `pcr0` to `pcr31`.
        policy: what is acceptable of genuine evidence.
        at: the time of judgement, milliseconds since the epoch.
    """
    return _Appraisal(evidence, anchors, expected, policy, at).run()


def instance_register(instance_id: str) -> bytes:
    """Return register 4 of an enclave on this instance."""
    return hashlib.sha384(ZERO_REGISTER + instance_id.encode("utf-8")).digest()


class _Appraisal:
    """One walk over the steps. Later steps read what earlier ones left."""

    def __init__(
        self,
        evidence: NitroEvidence,
        anchors: Sequence[Anchor],
        expected: Expectation,
        policy: AttestationPolicy,
        at: int,
    ) -> None:
        self._evidence = evidence
        self._anchors = anchors
        self._expected = expected
        self._policy = policy
        self._at = at
        self._notes = Examination(TECHNOLOGY, policy)
        self._document: NitroDocument
        self._path: tuple[Certificate, ...]
        self._anchor: Anchor

    def run(self) -> AttestationAppraisal:
        steps = (
            ("structure", self._structure),
            ("root", self._root),
            ("chain", self._chain),
            ("validity", self._validity),
            ("revocation", self._revocation),
            ("signature", self._signature),
            ("debug", self._debug),
            ("instance", self._instance),
            ("nonce", self._nonce),
            ("age", self._age),
            ("report-data", self._report_data),
            ("public-key", self._public_key),
            ("measurements", self._measurements),
            ("class", self._notes.check_class),
        )
        self._notes.walk(steps)
        return self._notes.conclude()

    def _structure(self) -> None:
        self._document = document = parse_document(self._evidence.document)
        self._path = tuple(map(load_certificate, (*document.bundle, document.certificate)))
        self._notes.passed("structure", "one COSE_Sign1 with ES384 around one document")

    def _root(self) -> None:
        anchor = find_anchor(self._path[0], self._anchors, TECHNOLOGY)
        if anchor is None:
            self._notes.fail(
                "root",
                "the bundle begins with a key that is no anchor",
                Reason.ATTESTATION_ROOT_UNTRUSTED,
            )
        self._anchor = anchor
        self._notes.passed("root", f"anchor {anchor.label}")

    def _chain(self) -> None:
        for certificate in self._path:
            _p384(certificate)
        verify_chain(self._path)
        self._notes.passed("chain", f"{len(self._path)} certificates in order, each signed")

    def _validity(self) -> None:
        notes = self._notes
        notes.facts["chain_valid_from"] = _moment(max(c.not_before for c in self._path))
        notes.facts["chain_valid_to"] = _moment(min(c.not_after for c in self._path))
        check_chain_validity(self._path, self._at)
        if self._document.timestamp > self._at + MAX_SKEW_MILLISECONDS:
            notes.fail(
                "validity",
                "the document was made after the time of judgement",
                Reason.ATTESTATION_NOT_YET_VALID,
            )
        notes.passed("validity", "every certificate is valid at the time of judgement")

    def _revocation(self) -> None:
        detail = "revocation of the region's and the zone's certificate"
        if self._policy.require_revocation:
            self._notes.fail("revocation", f"no list for the {detail}", Reason.EVIDENCE_MISSING)
        self._notes.skipped("revocation", detail)

    def _signature(self) -> None:
        document, notes = self._document, self._notes
        half = SIGNATURE_BYTES // 2
        r = int.from_bytes(document.signature[:half])
        s = int.from_bytes(document.signature[half:])
        try:
            _p384(self._path[-1]).verify(
                encode_dss_signature(r, s), document.signed_bytes, ec.ECDSA(SHA384())
            )
        except (InvalidSignature, ValueError):
            notes.fail(
                "signature",
                "the leaf's key did not sign this document",
                Reason.ATTESTATION_SIGNATURE_INVALID,
            )
        notes.evidence_class = self._anchor.evidence_class
        notes.trust_vector[TrustClaim.HARDWARE] = _TIER_OF_CLASS[self._anchor.evidence_class]
        notes.trust_vector[TrustClaim.RUNTIME_OPAQUE] = notes.trust_vector[TrustClaim.HARDWARE]
        notes.facts.update(_facts(document))
        notes.passed("signature", "ES384 over the document by the leaf's key")

    def _debug(self) -> None:
        debug = _is_debug(self._document)
        if debug and not self._policy.allow_debug:
            self._notes.fail(
                "debug", "registers 0 to 2 are zero: a debug enclave", Reason.ATTESTATION_DEBUG
            )
        tier = TrustTier.CONTRAINDICATED if debug else TrustTier.AFFIRMING
        self._notes.trust_vector[TrustClaim.CONFIGURATION] = tier
        self._notes.passed("debug", "a debug enclave, allowed by the policy" if debug else "off")

    def _instance(self) -> None:
        if not _names_its_instance(self._document):
            self._notes.fail(
                "instance",
                "register 4 is not the digest of the instance that the module id names",
                Reason.ATTESTATION_BINDING_INVALID,
            )
        self._notes.passed("instance", "register 4 is the digest of the instance named")

    def _nonce(self) -> None:
        self._compare(
            "nonce",
            self._document.nonce,
            self._expected.nonce,
            Reason.ATTESTATION_NONCE_MISMATCH,
        )

    def _age(self) -> None:
        age = max(0, self._at - self._document.timestamp)
        limit = self._policy.maximum_age_seconds
        if limit is None:
            self._notes.skipped("age", "age: the policy has no limit")
        elif age > limit * 1000:
            self._notes.fail(
                "age",
                f"the document is older than {limit} seconds",
                Reason.ATTESTATION_NOT_FRESH,
            )
        else:
            self._notes.passed("age", f"at most {limit} seconds old")

    def _report_data(self) -> None:
        self._compare(
            "report-data",
            self._document.user_data,
            self._expected.report_data,
            Reason.ATTESTATION_NONCE_MISMATCH,
        )

    def _public_key(self) -> None:
        self._compare(
            "public-key",
            self._document.public_key,
            self._expected.public_key,
            Reason.ATTESTATION_BINDING_INVALID,
        )

    def _compare(
        self, name: str, found: bytes | None, expected: bytes | None, reason: Reason
    ) -> None:
        if expected is None:
            self._notes.skipped(name, f"{name}: no expected value given")
        elif found is None or not hmac.compare_digest(found, expected):
            self._notes.fail(name, f"{name} is not the expected one", reason)
        else:
            self._notes.passed(name, "equals the expected value")

    def _measurements(self) -> None:
        accepted = self._expected.measurements
        if not accepted:
            self._notes.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.NONE
            self._notes.skipped("measurements", "measurements: no reference values given")
            return
        found = {f"pcr{index}": value.hex() for index, value in self._document.registers.items()}
        for register, values in accepted.items():
            if found.get(register.lower()) not in values:
                self._notes.fail(
                    "measurements",
                    f"register {register[:16]!r} has no accepted value",
                    Reason.ATTESTATION_MEASUREMENT_MISMATCH,
                )
        self._notes.trust_vector[TrustClaim.EXECUTABLES] = TrustTier.AFFIRMING
        self._notes.passed("measurements", f"{len(accepted)} registers have accepted values")


def _p384(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UnsupportedError(
            f"the key of {certificate.label} is not of P-384", reason=Reason.UNSUPPORTED_ALGORITHM
        )
    return key


def _is_debug(document: NitroDocument) -> bool:
    return all(document.registers[index] == ZERO_REGISTER for index in (0, 1, 2))


def _names_its_instance(document: NitroDocument) -> bool:
    named = _MODULE_ID.fullmatch(document.module_id)
    return named is not None and document.registers[4] == instance_register(named[1])


def _facts(document: NitroDocument) -> dict[str, object]:
    registers = {f"pcr{i}": document.registers[i].hex() for i in sorted(document.registers)}
    return {
        "module_id": document.module_id,
        "timestamp_ms": document.timestamp,
        "nonce": _hex(document.nonce),
        "user_data": _hex(document.user_data),
        "public_key": _hex(document.public_key),
        **registers,
        "pcr4_equals_sha384_zero48_instance_id": _names_its_instance(document),
        "debug": _is_debug(document),
    }


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
