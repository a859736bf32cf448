"""From a technology's name and its named files to the one function that appraises them.

The table is fixed. A technology that is not in it, or whose optional library is not installed, is
answered "unsupported", which is not a pass. Files that a technology does not read are named among
what was not checked, so that nothing is passed over in silence.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from verispect.core.encoding import Digest, sha256
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
    unreadable,
)
from verispect.evidence.bindings.interface import shown
from verispect.evidence.certificates import load_certificate
from verispect.evidence.json_text import read_object

Files = Mapping[str, bytes]
"""Evidence and endorsements by name."""

MAX_KEY_BYTES: Final = 16 * 1024
_CERTIFICATE_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_KEY_BEGIN: Final = b"-----BEGIN PUBLIC KEY-----"
_CERTIFICATE_STARTS: Final = (b"\x30", b"-")
_ROOT: Final = "root"
_WITH_AUDIENCE: Final = frozenset({"gcp-confidential-space"})


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What every technology is asked beside its files."""

    technology: str
    anchors: Sequence[Anchor] | None
    """`None` for the vendor's own."""
    expected: Expectation
    policy: AttestationPolicy
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Technology:
    """One row of the table."""

    name: str
    forms: tuple[tuple[str, ...], ...]
    """Files without which there is nothing to appraise, in each form that evidence comes in."""
    optional: tuple[str, ...]
    appraise: Callable[[Files, Question], AttestationAppraisal]

    @property
    def main(self) -> str:
        """The file that is the evidence, in its first form."""
        return self.forms[0][0]

    @property
    def required(self) -> tuple[str, ...]:
        """The other files of the first form."""
        return self.forms[0][1:]


def _confidential_space(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import confidential_space as module

    return module.appraise_confidential_space(
        module.ConfidentialSpaceEvidence(files["token"], files.get("jwks")),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _nitro(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence.nitro import appraise as module

    return module.appraise_nitro(
        module.NitroEvidence(files["doc"]),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _dcap(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import dcap as module

    return module.appraise_dcap(
        module.DCAPEvidence(files["quote"], files["collateral"]),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
        technology=question.technology,
    )


def _sev_snp(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence.sev_snp import appraise as module

    certificates = {
        name: certificate_der(files[name]) for name in ("cert", "ask", "ark") if name in files
    }
    return module.appraise_sev_snp(
        module.SevSnpEvidence(
            files["report"],
            certificates["cert"],
            certificates.get("ask"),
            certificates.get("ark"),
            files.get("crl"),
        ),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _nvidia_gpu(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import nvidia as module

    anchors = module.GENUINE_ANCHORS if question.anchors is None else question.anchors
    rims = files.get("driver_rim"), files.get("vbios_rim")
    ocsp = tuple(files[name] for name in sorted(files) if name.startswith("ocsp"))
    if "evidence" in files:
        return module.appraise_nvidia_document(
            module.DeviceDocument(files["evidence"], *rims, ocsp),
            anchors=anchors,
            expected=question.expected,
            policy=question.policy,
            at=question.at,
        )
    return module.appraise_nvidia_gpu(
        module.DeviceEvidence(files["report"], files["chain"], module.DeviceKind.GPU, *rims, ocsp),
        anchors=anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _nvidia_rim(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import nvidia as module

    return module.appraise_nvidia_rim(
        module.ManifestEvidence(files["rim"]),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _nvidia_nras(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import nvidia as module

    issuers = (certificate_der(files["issuer"]),) if "issuer" in files else ()
    return module.appraise_nvidia_token(
        module.ServiceToken(files["token"], files["jwks"], issuers),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _tpm(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import tpm as module

    return module.appraise_tpm(
        module.evidence_from_files(files),
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


def _azure(files: Files, question: Question) -> AttestationAppraisal:
    from verispect.evidence import azure as module

    evidence = module.read_bundle(files["bundle"], collateral=files.get("collateral"))
    evidence = dataclasses.replace(
        evidence,
        signer=files.get("ask"),
        root=files.get("ark"),
        revocation_list=files.get("crl"),
    )
    return module.appraise_azure(
        evidence,
        anchors=module.GENUINE_ANCHORS if question.anchors is None else question.anchors,
        expected=question.expected,
        policy=question.policy,
        at=question.at,
    )


TECHNOLOGIES: Final[Mapping[str, Technology]] = MappingProxyType(
    {
        technology.name: technology
        for technology in (
            Technology("aws-nitro", (("doc",),), (), _nitro),
            Technology("intel-tdx", (("quote", "collateral"),), (), _dcap),
            Technology("intel-sgx", (("quote", "collateral"),), (), _dcap),
            Technology("amd-sev-snp", (("report", "cert"),), ("ask", "ark", "crl"), _sev_snp),
            Technology("azure-vtpm", (("bundle",),), ("collateral", "ask", "ark", "crl"), _azure),
            Technology(
                "nvidia-gpu",
                (("evidence",), ("report", "chain")),
                ("driver_rim", "vbios_rim", "ocsp", "ocsp_driver", "ocsp_vbios"),
                _nvidia_gpu,
            ),
            Technology("nvidia-rim", (("rim",),), (), _nvidia_rim),
            Technology("nvidia-nras", (("token", "jwks"),), ("issuer",), _nvidia_nras),
            Technology("tpm2-quote", (("msg", "sig", "ak"),), ("pcrs", "ak_cert", "ek_cert"), _tpm),
            Technology("gcp-confidential-space", (("token",),), ("jwks",), _confidential_space),
        )
    }
)
"""Every technology by its name."""


def appraise_evidence(
    technology: str,
    files: Files,
    *,
    anchors: Sequence[Anchor] | None,
    expected: Expectation,
    policy: AttestationPolicy,
    at: int,
) -> AttestationAppraisal:
    """Appraise the files of one technology; never raises for bad evidence.

    Args:
        technology: a name of `TECHNOLOGIES`.
        files: evidence and endorsements by name.
        anchors: whom to trust; `None` for the vendor's own roots.
        expected: what the caller knows.
        policy: what is acceptable of genuine evidence.
        at: the time of judgement, milliseconds since the epoch.
    """
    row = TECHNOLOGIES.get(technology)
    try:
        if row is None:
            raise UnsupportedError(
                f"no technology is named {technology[:64]}", reason=Reason.UNSUPPORTED_EVIDENCE
            )
        if not any(files.keys() >= set(form) for form in row.forms):
            missing = next(name for name in row.forms[0] if name not in files)
            raise MalformedError(f"the evidence has no {missing}", reason=Reason.MALFORMED_EVIDENCE)
        appraisal = row.appraise(files, Question(technology, anchors, expected, policy, at))
    except Error as error:
        return unreadable(technology, error)
    except ModuleNotFoundError as error:
        # An optional library, the XML one for example, is not part of the base install.
        return unreadable(
            technology,
            UnsupportedError(f"{error.name} is not installed", reason=Reason.UNSUPPORTED_EVIDENCE),
        )
    if appraisal.technology != technology:
        return unreadable(
            technology,
            MalformedError(
                f"the evidence is of {appraisal.technology}", reason=Reason.MALFORMED_EVIDENCE
            ),
        )
    unread = [
        name
        for name in sorted(set(files).difference(*row.forms, row.optional, {_ROOT}))
        # A device's answers about revocation are numbered: one for each certificate.
        if not (technology == "nvidia-gpu" and name.startswith("ocsp_"))
    ]
    notes = [f"the file {shown(name)}: {technology} reads no such file" for name in unread]
    if expected.audience is not None and technology not in _WITH_AUDIENCE:
        notes.append(f"audience: evidence of {technology} names none")
    if not notes:
        return appraisal
    return dataclasses.replace(appraisal, not_checked=(*appraisal.not_checked, *notes))


def own_anchors(technology: str, files: Files) -> tuple[Anchor, ...]:
    """Return anchors out of the evidence itself: for trials, never for belief.

    A `root` certificate or the keys of a `jwks` become *development* anchors; a TPM's `ak`
    becomes a *software* one, because nobody vouches for its hardware.

    Raises:
        MalformedError: `malformed-evidence` or `malformed-json`.
    """
    classes = {
        "root": EvidenceClass.DEVELOPMENT,
        "jwks": EvidenceClass.DEVELOPMENT,
        "ak": EvidenceClass.SOFTWARE,
    }
    return tuple(
        anchor
        for name, evidence_class in classes.items()
        if name in files
        for anchor in anchors_of(technology, files[name], evidence_class, f"its own {name}")
    )


def anchors_of(
    technology: str, data: bytes, evidence_class: EvidenceClass, label: str
) -> tuple[Anchor, ...]:
    """Return the anchors in one file: a certificate (DER or PEM), a PEM public key or a JWKS.

    Raises:
        MalformedError: `malformed-evidence` or `malformed-json`.
    """
    start = data.lstrip()
    if start.startswith(b"{"):
        return jwks_anchors(technology, data, evidence_class, label)
    if start.startswith(_KEY_BEGIN):
        digest = _key_digest(data)
    elif technology == "tpm2-quote" and data[:1] not in _CERTIFICATE_STARTS:
        digest = _area_digest(data)
    else:
        digest = load_certificate(certificate_der(data)).key_digest
    return (Anchor(technology, digest, evidence_class, label),)


def jwks_anchors(
    technology: str, data: bytes, evidence_class: EvidenceClass, label: str
) -> tuple[Anchor, ...]:
    """Return an anchor for every RS256 key of a key set.

    Raises:
        MalformedError: `malformed-evidence` or `malformed-json`.
    """
    from verispect.evidence.confidential_space import MAX_JWKS_BYTES, MAX_JWKS_KEYS
    from verispect.evidence.signed_token import rsa_key

    keys = read_object(data, limit=MAX_JWKS_BYTES).get("keys")
    if not isinstance(keys, list) or len(keys) > MAX_JWKS_KEYS:
        raise MalformedError("not a key set", reason=Reason.MALFORMED_EVIDENCE)
    return tuple(
        Anchor(
            technology,
            sha256(rsa_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
            evidence_class,
            label,
        )
        for key in keys
        if isinstance(key, dict) and key.get("kty") == "RSA"
    )


def certificate_der(data: bytes) -> bytes:
    """Return the DER of one certificate that is DER or PEM.

    Raises:
        MalformedError: `malformed-evidence`.
    """
    if not data.lstrip().startswith(_CERTIFICATE_BEGIN):
        return data
    lines = data.split(b"\n")
    body = b"".join(line.strip() for line in lines if b"-----" not in line)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise MalformedError("not a PEM certificate", reason=Reason.MALFORMED_EVIDENCE) from error


def _area_digest(data: bytes) -> Digest:
    """Return the digest of a key that is a TPM's public area."""
    from verispect.evidence.tpm.activation import public_key_info
    from verispect.evidence.tpm.structures import parse_public

    return sha256(public_key_info(parse_public(data).key))


def _key_digest(data: bytes) -> Digest:
    if len(data) > MAX_KEY_BYTES:
        raise MalformedError("the key is too large", reason=Reason.TOO_LARGE)
    try:
        key = load_pem_public_key(data)
        return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("not a PEM public key", reason=Reason.MALFORMED_EVIDENCE) from error
