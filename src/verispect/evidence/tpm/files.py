"""Named files of a quote: how receipts and recordings carry it.

`msg` is the `TPMS_ATTEST`, `sig` its signature, `ak` the attestation key, `pcrs` the values of the
selected registers; `ak_cert` and `ek_cert` are certificates with their issuers, leaf first: one
DER certificate, or PEM ones one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from verispect.core.errors import MalformedError, Reason
from verispect.evidence.pem import certificates_of_pem, is_pem, pem_of_certificate
from verispect.evidence.tpm.appraise import TpmEvidence

EVIDENCE_FILES: Final = ("msg", "sig", "ak", "pcrs")
ENDORSEMENT_FILES: Final = ("ak_cert", "ek_cert")


def evidence_from_files(files: Mapping[str, bytes]) -> TpmEvidence:
    """Return the evidence in named files; others than those of the module are not looked at.

    Raises:
        MalformedError: `malformed-evidence` where `msg`, `sig` or `ak` is missing or a certificate
            is none, or `too-large`.
    """
    for name in EVIDENCE_FILES[:3]:
        if name not in files:
            raise MalformedError(f"the evidence has no {name}", reason=Reason.MALFORMED_EVIDENCE)
    return TpmEvidence(
        quote=files["msg"],
        signature=files["sig"],
        ak=files["ak"],
        pcrs=files.get("pcrs"),
        ak_certificates=read_path(files["ak_cert"]) if "ak_cert" in files else (),
        ek_certificates=read_path(files["ek_cert"]) if "ek_cert" in files else (),
    )


def files_of(evidence: TpmEvidence) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return evidence and endorsements as named files."""
    body = {"msg": evidence.quote, "sig": evidence.signature, "ak": evidence.ak}
    if evidence.pcrs is not None:
        body["pcrs"] = evidence.pcrs
    paths = {"ak_cert": evidence.ak_certificates, "ek_cert": evidence.ek_certificates}
    return body, {name: _write_path(path) for name, path in paths.items() if path}


def read_path(data: bytes) -> tuple[bytes, ...]:
    """Return the DER certificates in one file.

    Raises:
        MalformedError: `malformed-evidence`, or `too-large`.
    """
    return certificates_of_pem(data) if is_pem(data) else (data,)


def _write_path(path: Sequence[bytes]) -> bytes:
    if len(path) == 1:
        return path[0]
    return b"".join(pem_of_certificate(der) for der in path)
