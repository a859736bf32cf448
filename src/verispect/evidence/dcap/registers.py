"""The registers of a quote by name: as facts, and as what reference values are compared with.

`rtmr` is one fact of four values and four registers of one value each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verispect.evidence.dcap.quote import Quote, TdReport


def read_registers(quote: Quote) -> Mapping[str, str]:
    """Return every register that a reference value may name, in lower-case hexadecimal."""
    report = quote.report
    if not isinstance(report, TdReport):
        return {
            "mr_enclave": report.mr_enclave.hex(),
            "mr_signer": report.mr_signer.hex(),
            "attributes": report.attributes.hex(),
            "isv_prod_id": report.isv_prod_id.to_bytes(2).hex(),
            "isv_svn": report.isv_svn.to_bytes(2).hex(),
        }
    registers = {
        "mr_td": report.mr_td.hex(),
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_signer_seam": report.mr_signer_seam.hex(),
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
    }
    registers |= {f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmr)}
    if report.mr_service_td is not None:
        registers["mr_service_td"] = report.mr_service_td.hex()
    return registers


def describe_report(quote: Quote) -> Mapping[str, Any]:
    """Return the registers as facts of an appraisal."""
    report = quote.report
    facts: dict[str, Any] = dict(read_registers(quote))
    if isinstance(report, TdReport):
        facts["rtmr"] = [facts.pop(f"rtmr{index}") for index in range(len(report.rtmr))]
        facts["tee_tcb_svn"] = report.tee_tcb_svn.hex()
    else:
        facts["isv_prod_id"] = report.isv_prod_id
        facts["isv_svn"] = report.isv_svn
    return facts
