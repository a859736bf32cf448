"""The parts of an Azure confidential machine's evidence, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

REGISTER_COUNT: Final = 24
"""Registers in one bank of a vTPM."""


@dataclass(frozen=True, slots=True)
class AzureEvidence:
    """One report of the host compatibility layer and a quote of its vTPM.

    SEV-SNP needs `certificate`; TDX needs `td_quote` and `collateral`.
    """

    hcl_report: bytes
    quote: bytes
    """The `TPMS_ATTEST`."""
    signature: bytes
    """RSASSA with SHA-256: the bare value, or a `TPMT_SIGNATURE`."""
    pcrs: Sequence[bytes] = ()
    """The registers of the SHA-256 bank from 0 on; empty where none were given."""
    certificate: bytes | None = None
    """VCEK, DER."""
    signer: bytes | None = None
    """ASK; `None` takes AMD's own of the generation."""
    root: bytes | None = None
    """ARK, as the signer."""
    revocation_list: bytes | None = None
    td_quote: bytes | None = None
    """A quote whose guest's field is that of the report's `TDREPORT`."""
    collateral: bytes | None = None
    """Intel's endorsements for `td_quote`."""
