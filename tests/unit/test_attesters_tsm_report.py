"""Attesters through configfs-tsm, over a folder that behaves like the kernel's."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dcap_forge import AT, anchors, forge
from tee_vectors import read_vector
from verispect.attesters.interface import Attester
from verispect.attesters.tsm_report import (
    MAX_BLOB_BYTES,
    ConfigFS,
    SevSnpAttester,
    TdxAttester,
    read_certificate_table,
)
from verispect.core.encoding import decode
from verispect.core.errors import AttesterError, Reason, RequestError
from verispect.evidence.attestation import AttestationPolicy, EvidenceClass, Expectation
from verispect.evidence.dcap import DCAPEvidence, appraise_dcap, parse_quote

FIELD = bytes(range(64))
VCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
ASK = "4ab7b379-bbac-4fe4-a02f-05aef327c782"


class FakeKernel(ConfigFS):
    """A plain folder in which making a request makes its attributes, as in configfs.

    Args:
        folder: an empty one.
        provider: what `provider` says.
        answer: from what was written to `inblob` to what `outblob` holds.
        auxiliary: what `auxblob` holds; `None` for no such attribute.
        disturbance: writes of somebody else to each request.
    """

    def __init__(
        self,
        folder: Path,
        provider: str,
        answer: Callable[[bytes], bytes],
        *,
        auxiliary: bytes | None = b"",
        disturbance: int = 0,
    ) -> None:
        super().__init__(folder)
        self._provider = provider
        self._answer = answer
        self._auxiliary = auxiliary
        self._disturbance = disturbance
        self.written: list[bytes] = []

    def create(self, name: str) -> None:
        super().create(name)
        attributes = {
            "provider": f"{self._provider}\n".encode(),
            "generation": b"0\n",
            "inblob": b"",
            "outblob": b"",
        }
        if self._auxiliary is not None:
            attributes["auxblob"] = self._auxiliary
        for attribute, data in attributes.items():
            (self.folder / name / attribute).write_bytes(data)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        super().write(name, attribute, data)
        self.written.append(data)
        request = self.folder / name
        count = int((request / "generation").read_bytes()) + 1 + self._disturbance
        (request / "generation").write_text(f"{count}\n")
        (request / "outblob").write_bytes(self._answer((request / "inblob").read_bytes()))

    def remove(self, name: str) -> None:
        for attribute in (self.folder / name).iterdir():
            attribute.unlink()
        super().remove(name)


def tdx_kernel(folder: Path, **arguments: object) -> FakeKernel:
    """Return a TDX guest's kernel, whose quotes carry what they were asked for."""
    return FakeKernel(
        folder, "tdx_guest", lambda field: forge(report_data=field).quote, **arguments
    )  # type: ignore[arg-type]


def test_a_tdx_guest_attests_what_it_was_asked(tmp_path: Path) -> None:
    """The quote comes back byte for byte, carries the value, and the request is gone."""
    kernel = tdx_kernel(tmp_path)
    attester: Attester = TdxAttester(kernel)
    evidence = attester.attest(FIELD, None)
    assert evidence.kind == attester.technology == "intel-tdx"
    assert parse_quote(evidence.body).report.report_data == FIELD
    assert evidence.endorsements == b""
    assert kernel.written == [FIELD]
    assert list(tmp_path.iterdir()) == []


def test_a_short_value_is_filled_up_with_zeros(tmp_path: Path) -> None:
    """The field always has 64 bytes, of which a digest takes the first."""
    evidence = TdxAttester(tdx_kernel(tmp_path)).attest(b"\x01" * 32, None)
    assert parse_quote(evidence.body).report.report_data == b"\x01" * 32 + bytes(32)


@pytest.mark.parametrize("report_data", [b"", bytes(65)])
def test_a_value_that_the_field_cannot_carry_is_refused(tmp_path: Path, report_data: bytes) -> None:
    """Nothing is cut off and nothing is empty."""
    with pytest.raises(RequestError):
        TdxAttester(tdx_kernel(tmp_path)).attest(report_data, None)


def test_a_nonce_needs_a_value_that_commits_to_it(tmp_path: Path) -> None:
    """There is one field: a nonce that is not part of it would be lost without a word."""
    attester = TdxAttester(tdx_kernel(tmp_path))
    with pytest.raises(RequestError) as refused:
        attester.attest(b"\x01" * 32, b"nonce")
    assert refused.value.parameter == "nonce"
    assert attester.attest(FIELD, b"nonce").kind == "intel-tdx"


def test_a_recorded_report_of_an_amd_guest_is_attested(tmp_path: Path) -> None:
    """A genuine report with a host's certificate table comes back with its certificates."""
    report = read_vector("snp/reports/milan_v3_dstack.bin")
    vcek = read_vector("snp/certs/milan_v3_dstack.vcek.der")
    kernel = FakeKernel(
        tmp_path, "sev_guest", lambda _: report, auxiliary=table({VCEK: vcek, ASK: b"ask"})
    )
    evidence = SevSnpAttester(kernel).attest(report[0x50:0x90], None)
    assert evidence.kind == "amd-sev-snp"
    assert evidence.body == report
    assert decode(evidence.endorsements) == {"cert": vcek, "ask": b"ask"}


@pytest.mark.parametrize("auxiliary", [None, b""])
def test_a_host_may_supply_no_certificates(tmp_path: Path, auxiliary: bytes | None) -> None:
    """Without a table there are no endorsements, and that is no failure."""
    report = read_vector("snp/reports/milan_v3_dstack.bin")
    kernel = FakeKernel(tmp_path, "sev_guest", lambda _: report, auxiliary=auxiliary)
    assert SevSnpAttester(kernel).attest(report[0x50:0x90], None).endorsements == b""


def test_endorsements_that_are_found_are_kept_with_the_evidence(tmp_path: Path) -> None:
    """A quote attested with its collateral verifies from what was kept, years later."""
    asked: list[bytes] = []

    def endorse(body: bytes) -> dict[str, bytes]:
        asked.append(body)
        return {"collateral": forge().collateral}

    evidence = TdxAttester(tdx_kernel(tmp_path), endorse=endorse).attest(FIELD, None)
    assert asked == [evidence.body]
    appraisal = appraise_dcap(
        DCAPEvidence(evidence.body, decode(evidence.endorsements)["collateral"]),
        anchors=anchors(),
        expected=Expectation(report_data=FIELD),
        policy=AttestationPolicy(accepted_classes=frozenset(EvidenceClass)),
        at=AT,
    )
    assert appraisal.acceptable


def test_certificates_are_looked_for_where_the_host_supplies_none(tmp_path: Path) -> None:
    """The chip's certificate is found once, and not looked for beside the host's own."""
    report = read_vector("snp/reports/milan_v3_dstack.bin")
    field = report[0x50:0x90]
    for auxiliary, expected in ((b"", b"found"), (table({VCEK: b"host"}), b"host")):
        kernel = FakeKernel(tmp_path, "sev_guest", lambda _: report, auxiliary=auxiliary)
        attester = SevSnpAttester(kernel, endorse=lambda _: {"cert": b"found"})
        assert decode(attester.attest(field, None).endorsements) == {"cert": expected}


def test_evidence_with_another_value_is_no_evidence(tmp_path: Path) -> None:
    """An answer to another question is an error and never leaves the attester."""
    stale = forge(report_data=bytes(64)).quote
    kernel = FakeKernel(tmp_path, "tdx_guest", lambda _: stale)
    with pytest.raises(AttesterError, match="another value"):
        TdxAttester(kernel).attest(FIELD, None)
    report = read_vector("snp/reports/milan_v3_dstack.bin")
    kernel = FakeKernel(tmp_path, "sev_guest", lambda _: report)
    with pytest.raises(AttesterError, match="another value"):
        SevSnpAttester(kernel).attest(FIELD, None)


@pytest.mark.parametrize("body", [b"", b"\x00" * 1184, b"\xff" * 5000])
def test_an_answer_that_is_no_evidence_is_refused(tmp_path: Path, body: bytes) -> None:
    """What cannot be read as a quote or a report is not passed on."""
    for provider, attester in (("tdx_guest", TdxAttester), ("sev_guest", SevSnpAttester)):
        with pytest.raises(AttesterError):
            attester(FakeKernel(tmp_path, provider, lambda _: body)).attest(FIELD, None)


def test_a_guest_of_another_technology_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    """An AMD guest is not asked for a TDX quote."""
    kernel = FakeKernel(tmp_path, "sev_guest", lambda _: b"")
    with pytest.raises(AttesterError, match="provider"):
        TdxAttester(kernel).attest(FIELD, None)
    assert kernel.written == []
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_somebody_else_wrote_to_is_thrown_away(tmp_path: Path) -> None:
    """The count of writes tells that the answer may be another's."""
    with pytest.raises(AttesterError, match="somebody else"):
        TdxAttester(tdx_kernel(tmp_path, disturbance=1)).attest(FIELD, None)
    assert list(tmp_path.iterdir()) == []


def test_an_attribute_without_end_is_refused(tmp_path: Path) -> None:
    """No more is read than evidence can have."""
    kernel = FakeKernel(tmp_path, "tdx_guest", lambda _: bytes(MAX_BLOB_BYTES + 1))
    with pytest.raises(AttesterError, match="more than"):
        TdxAttester(kernel).attest(FIELD, None)


def test_a_machine_without_the_interface_cannot_attest(tmp_path: Path) -> None:
    """No folder, no evidence: an error that says so, and never a default."""
    for attester in (TdxAttester, SevSnpAttester):
        with pytest.raises(AttesterError) as failed:
            attester(ConfigFS(tmp_path / "absent")).attest(FIELD, None)
        assert failed.value.reason is Reason.ATTESTER_UNAVAILABLE


# -- The certificate table ----------------------------------------------------------------------


def table(certificates: dict[str, bytes], *, little: bool = False) -> bytes:
    """Return a table with these certificates and its end."""
    offset = 24 * (len(certificates) + 1)
    entries, data = b"", b""
    for name, certificate in certificates.items():
        identifier = uuid.UUID(name)
        entries += identifier.bytes_le if little else identifier.bytes
        entries += struct.pack("<II", offset + len(data), len(certificate))
        data += certificate
    return entries + bytes(24) + data


@pytest.mark.parametrize("little", [False, True])
def test_a_table_is_read_in_both_byte_orders(little: bool) -> None:
    """Hosts write the identifiers both ways; certificates without a name of ours are left out."""
    data = table({VCEK: b"one", str(uuid.uuid4()): b"strange", ASK: b"two"}, little=little)
    assert read_certificate_table(data) == {"cert": b"one", "ask": b"two"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x01" * 23,
        table({VCEK: b"one"})[:24],
        table({VCEK: b"one"})[:-1],
        uuid.UUID(VCEK).bytes + struct.pack("<II", 2**32 - 1, 2**32 - 1) + bytes(24),
        (uuid.UUID(VCEK).bytes + bytes(8)) * 2 + bytes(24),
        b"".join(bytes([index + 1]) * 16 + bytes(8) for index in range(40)) + bytes(24),
    ],
)
def test_a_table_that_is_none_is_refused(data: bytes) -> None:
    """Truncation, offsets outside, repetition and endless tables are errors."""
    with pytest.raises(AttesterError):
        read_certificate_table(data)
