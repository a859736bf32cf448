"""Endorsements fetched from replayed services verify genuine evidence at its own time."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote as url_encoded

import pytest
from cryptography.x509 import ocsp
from replaying_server import ReplayingServer, Reply, replaying

import nvidia_forgery as forgery
from sev_snp_platform import AT as PLATFORM_AT
from sev_snp_platform import Platform, development_anchor, revocation_list
from tee_vectors import case_ids, cases, load_case, milliseconds, vectors_path
from verispect.attesters.endorsements.amd_kds import AmdKdsFetcher
from verispect.attesters.endorsements.intel_pcs import IntelPcsFetcher
from verispect.attesters.endorsements.interface import EndorsementFetcher
from verispect.attesters.endorsements.nvidia import NvidiaGpuFetcher
from verispect.attesters.endorsements.nvidia_nras import NvidiaNrasFetcher
from verispect.attesters.endorsements.retrieval import Retriever
from verispect.cli.main import main
from verispect.core.errors import MalformedError, NetworkError, Reason, UnsupportedError
from verispect.evidence.attestation import (
    Anchor,
    AttestationAppraisal,
    AttestationPolicy,
    EvidenceClass,
    Expectation,
    reason_class,
)
from verispect.evidence.dcap.collateral import load_collateral
from verispect.evidence.pem import pem_of_certificate
from verispect.evidence.technologies import appraise_evidence

DEVELOPMENT = AttestationPolicy(accepted_classes=frozenset({EvidenceClass.DEVELOPMENT}))
CHIP = "/vcek/v1/Turin/0102030405060708?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=77"


def judge(
    technology: str, files: Mapping[str, bytes], at: int, *, anchors: Any = None, **policy: Any
) -> AttestationAppraisal:
    base = AttestationPolicy() if anchors is None else DEVELOPMENT
    return appraise_evidence(
        technology,
        files,
        anchors=anchors,
        expected=Expectation(),
        policy=dataclasses.replace(base, **policy),
        at=at,
    )


def answer_of(appraisal: AttestationAppraisal) -> tuple[str, str]:
    return appraisal.verdict.value, reason_class(appraisal.reason)


def genuine_cases(*technologies: str) -> list[str]:
    """Return the cases that are not refused; never skips while tests are collected."""
    names = case_ids(*technologies)
    if names == ["vectors-absent"]:
        return names
    return [case["id"] for case in cases() if case["id"] in names and case["expect"] != "reject"]


# -- AMD -------------------------------------------------------------------------------------------


def serve_amd(
    server: ReplayingServer,
    files: Mapping[str, bytes],
    *,
    key: str = "vcek",
    product: str = "Milan",
) -> None:
    """Replay the signers' chain of a case."""
    chain = b"".join(pem_of_certificate(files[name]) for name in ("ask", "ark"))
    server.replies[f"GET /{key}/v1/{product}/cert_chain"] = Reply(chain)


@pytest.mark.parametrize("case_id", genuine_cases("amd-sev-snp"))
async def test_genuine_sev_snp_report_verifies_with_what_amd_serves(case_id):
    """Certificate and chain are asked for by chip and version, and make the report verify."""
    case = load_case(case_id)
    files = case["evidence"]
    evidence = {"report": files["report"]}
    with replaying() as server:
        if files["report"][0x48] >> 2 & 7:
            serve_amd(server, files, key="vlek")
            evidence["cert"] = files["cert"]
        else:
            serve_amd(server, files)
            server.replies[f"GET {vcek_address(files['report'])}"] = Reply(files["cert"])
        async with Retriever() as retriever:
            fetched = await AmdKdsFetcher(retriever, server.url, revocation=False).fetch(evidence)
    assert {**files, **fetched} == files
    at = milliseconds(case["verify_at"])
    assert answer_of(judge("amd-sev-snp", {**evidence, **fetched}, at)) == ("accept", "ok")


def vcek_address(report: bytes) -> str:
    """Write the address from the report's bytes, not with the code under test."""
    bootloader, tee, snp, microcode = (report[0x180 + place] for place in (0, 1, 6, 7))
    return (
        f"/vcek/v1/Milan/{report[0x1A0:0x1E0].hex()}?blSPL={bootloader:02d}&teeSPL={tee:02d}"
        f"&snpSPL={snp:02d}&ucodeSPL={microcode:02d}"
    )


async def test_turin_is_asked_for_by_its_short_identifier_and_revocation_is_fetched():
    """A Turin chip has 8 bytes and one component more; the list closes the gap of revocation."""
    platform = Platform("Turin")
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()}, product="Turin")
        server.replies[f"GET {CHIP}"] = Reply(platform.leaf())
        server.replies["GET /vcek/v1/Turin/crl"] = Reply(revocation_list())
        async with Retriever() as retriever:
            fetched = await AmdKdsFetcher(retriever, server.url).fetch(
                {"report": platform.report()}
            )
        assert server.asked[0] == f"GET {CHIP}"
        assert server.received[0]["user-agent"] == "verispect"
    files = {"report": platform.report(), **fetched}
    appraisal = judge(
        "amd-sev-snp", files, PLATFORM_AT, anchors=[development_anchor()], require_revocation=True
    )
    assert answer_of(appraisal) == ("accept", "ok")


async def test_what_is_fetched_is_never_believed():
    """A revoked signer and a list by a stranger are fetched alike, and refused by the verifier."""
    platform = Platform("Genoa")
    lists = {
        "revoked": revocation_list(revoked=(99,)),
        "bad_signature": revocation_list(signer="x"),
    }
    for outcome, crl in lists.items():
        with replaying() as server:
            serve_amd(server, {"ask": platform.signer(), "ark": platform.root()}, product="Genoa")
            server.replies["GET /vcek/v1/Genoa/crl"] = Reply(crl)
            async with Retriever() as retriever:
                evidence = {"report": platform.report(), "cert": platform.leaf()}
                fetched = await AmdKdsFetcher(retriever, server.url).fetch(evidence)
        files = {**evidence, **fetched}
        appraisal = judge("amd-sev-snp", files, PLATFORM_AT, anchors=[development_anchor()])
        assert answer_of(appraisal) == ("reject", outcome)


async def test_report_that_names_no_generation_is_asked_for_in_each():
    """Before version 3 a report does not say what it is of; Genoa is asked for after Milan."""
    platform = Platform("Genoa", version=2)
    leaf = platform.leaf()
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()}, product="Genoa")
        query = "?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"
        chip = bytes(range(1, 65)).hex()
        server.replies[f"GET /vcek/v1/Genoa/{chip}{query}"] = Reply(leaf)
        async with Retriever() as retriever:
            fetcher = AmdKdsFetcher(retriever, server.url, revocation=False)
            fetched = await fetcher.fetch({"report": platform.report()})
            assert fetched["cert"] == leaf
            assert server.asked[0] == f"GET /vcek/v1/Milan/{chip}{query}"
            server.replies.clear()
            with pytest.raises(NetworkError):
                await fetcher.fetch({"report": platform.report()})


@pytest.mark.parametrize("platform", [Platform(vlek=True), Platform(chip_id=bytes(64))])
async def test_key_that_amd_does_not_serve_is_not_asked_for(platform):
    """A provider's key and a chip that hides itself have no public certificate."""
    with replaying() as server:
        async with Retriever() as retriever:
            with pytest.raises(UnsupportedError):
                await AmdKdsFetcher(retriever, server.url).fetch({"report": platform.report()})
        assert server.asked == []


# -- Intel -----------------------------------------------------------------------------------------


def serve_intel(
    server: ReplayingServer, collateral: bytes, service: str, fmspc: str, *, pccs: bool = False
) -> None:
    """Take recorded collateral apart into the answers that it was made of."""
    c = json.loads(collateral)

    def chain(name: str) -> str:
        return url_encoded(c[f"{name}_issuer_chain"])

    def signed(member: str, name: str) -> bytes:
        return f'{{"{member}":{c[name]},"signature":"{c[f"{name}_signature"]}"}}'.encode()

    v4 = "certification/v4"
    server.replies |= {
        f"GET /{service}/{v4}/tcb?fmspc={fmspc}": Reply(
            signed("tcbInfo", "tcb_info"), headers={"TCB-Info-Issuer-Chain": chain("tcb_info")}
        ),
        f"GET /{service}/{v4}/qe/identity": Reply(
            signed("enclaveIdentity", "qe_identity"),
            headers={"SGX-Enclave-Identity-Issuer-Chain": chain("qe_identity")},
        ),
        f"GET /sgx/{v4}/pckcrl?ca=platform&encoding=der": Reply(
            bytes.fromhex(c["pck_crl"]), headers={"SGX-PCK-CRL-Issuer-Chain": chain("pck_crl")}
        ),
    }
    if pccs:
        server.replies[f"GET /sgx/{v4}/rootcacrl"] = Reply(c["root_ca_crl"].encode())
    else:
        server.replies["GET /IntelSGXRootCA.der"] = Reply(bytes.fromhex(c["root_ca_crl"]))


def intel_fetcher(
    retriever: Retriever, server: ReplayingServer, technology: str, *, pccs: bool
) -> EndorsementFetcher:
    if pccs:
        return IntelPcsFetcher.of_pccs(retriever, technology, server.url)
    root = f"{server.url}/IntelSGXRootCA.der"
    return IntelPcsFetcher(retriever, technology, server.url, root_list_url=root)


def fmspc_of(collateral: bytes) -> str:
    return str(json.loads(json.loads(collateral)["tcb_info"])["fmspc"]).upper()


@pytest.mark.parametrize("pccs", [False, True], ids=["pcs", "pccs"])
@pytest.mark.parametrize("case_id", genuine_cases("intel-tdx", "intel-sgx"))
async def test_genuine_quote_verifies_with_what_intel_serves(case_id, pccs):
    """The answers together are the recorded collateral, and the quote's verdict is the same."""
    case = load_case(case_id)
    technology, recorded = case["tech"], case["evidence"]["collateral"]
    with replaying() as server:
        service = technology.removeprefix("intel-")
        serve_intel(server, recorded, service, fmspc_of(recorded), pccs=pccs)
        async with Retriever() as retriever:
            fetcher = intel_fetcher(retriever, server, technology, pccs=pccs)
            assert fetcher.technology == technology
            fetched = await fetcher.fetch({"quote": case["evidence"]["quote"]})
        assert len(server.asked) == 4
    ours, theirs = load_collateral(fetched["collateral"]), load_collateral(recorded)
    assert ours.tcb_info == theirs.tcb_info
    assert ours.qe_identity == theirs.qe_identity
    accepted = frozenset(case["policy"].get("accept_tcb", ["UpToDate"]))
    appraisal = judge(
        technology,
        {"quote": case["evidence"]["quote"], **fetched},
        milliseconds(case["verify_at"]),
        accepted_tcb=accepted,
    )
    assert answer_of(appraisal) == (case["expect"], case["reason"])


async def test_quote_of_the_other_technology_is_refused_before_anything_is_asked():
    """A fetcher for SGX does not ask about a TDX quote."""
    quote = load_case("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")["evidence"]["quote"]
    with replaying() as server:
        async with Retriever() as retriever:
            with pytest.raises(UnsupportedError):
                await IntelPcsFetcher(retriever, "intel-sgx", server.url).fetch({"quote": quote})
        assert server.asked == []


# -- NVIDIA ----------------------------------------------------------------------------------------


def rim_reply(identifier: str, manifest: bytes) -> Reply:
    body = {"id": identifier, "rim": base64.b64encode(manifest).decode(), "request_id": "1"}
    return Reply(json.dumps(body).encode(), headers={"content-type": "application/json"})


def serve_manifests(server: ReplayingServer, **manifests: bytes) -> None:
    for identifier, manifest in manifests.items():
        reply = rim_reply(identifier, manifest)
        server.replies[f"GET /v1/rim/{identifier}"] = reply


async def test_genuine_gpu_report_verifies_with_manifests_that_nvidia_serves():
    """Manifests are asked for by what the report says, and its measurements are then checked."""
    case = load_case("nv-hopper-550-full-rim")
    files = case["evidence"]
    evidence = {name: files[name] for name in ("report", "chain")}
    with replaying() as server:
        manifests = {
            "NV_GPU_DRIVER_GH100_550.90.07": files["driver_rim"],
            "NV_GPU_VBIOS_1010_0200_882_96009F0001": files["vbios_rim"],
        }
        serve_manifests(server, **manifests)
        async with Retriever() as retriever:
            fetcher = NvidiaGpuFetcher(retriever, server.url, server.url, revocation=False)
            fetched = await fetcher.fetch(evidence)
    assert {**evidence, **fetched} == files
    at = milliseconds(case["verify_at"])
    with_manifests = judge("nvidia-gpu", {**evidence, **fetched}, at)
    assert answer_of(with_manifests) == ("accept", "ok")
    without = judge("nvidia-gpu", evidence, at)
    assert any("measurements" in gap for gap in without.not_checked)
    assert not any("measurements" in gap for gap in with_manifests.not_checked)


def own_gpu() -> forgery.Device:
    """Return a device whose certificates call it a Hopper, as manifests are chosen by that."""
    device = forgery.gpu()
    root = forgery.certify("DEVELOPMENT ONLY device root")
    middle = forgery.certify("GH100 DEVELOPMENT ONLY", root)
    leaf = forgery.certify("leaf", middle, ca=False, firmware=device.firmware)
    device.root, device.intermediate, device.leaf = root, middle, leaf
    device.opaque = [*device.opaque, (15, b"882\0"), (18, b"0200\0")]
    return device


def responder(device: forgery.Device, status: ocsp.OCSPCertStatus) -> Any:
    """Answer as a responder does, about the device's maker and the manifests' signers."""
    root, middle, signer = forgery.manifest_keys()
    issuers = {
        certificate.certificate.serial_number: (certificate, issuer)
        for certificate, issuer in (
            (device.intermediate, device.root),
            (middle, root),
            (signer, middle),
        )
    }

    def respond(body: bytes) -> Reply:
        pair = issuers.get(ocsp.load_der_ocsp_request(body).serial_number)
        if pair is None:
            return Reply(b"", 400)
        good = forgery.ocsp_response(*pair, status=status)
        return Reply(good, headers={"content-type": "application/ocsp-response"})

    return respond


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ocsp.OCSPCertStatus.GOOD, ("accept", "ok")),
        (ocsp.OCSPCertStatus.REVOKED, ("reject", "revoked")),
    ],
)
async def test_responses_are_fetched_for_every_certificate_that_has_a_responder(status, expected):
    """With good responses nothing of revocation is left unchecked; a revoked one is refused."""
    device = own_gpu()
    evidence = {"report": device.report(), "chain": device.path}
    manifests = {
        f"NV_GPU_DRIVER_GH100_{forgery.DRIVER}": forgery.driver_rim(device),
        "NV_GPU_VBIOS_G999_0200_882_96009F0107": forgery.vbios_rim(device),
    }
    with replaying() as server:
        serve_manifests(server, **manifests)
        server.replies["POST /"] = responder(device, status)
        async with Retriever() as retriever:
            fetched = await NvidiaGpuFetcher(retriever, server.url, server.url).fetch(evidence)
        # Both manifests have the same signers, who are asked about once.
        assert server.asked.count("POST /") == 3
        assert server.received[-1]["content-type"] == "application/ocsp-request"
    anchors = [
        Anchor(technology, key.key_digest, EvidenceClass.DEVELOPMENT, "ours")
        for technology, key in (
            ("nvidia-gpu", device.root),
            ("nvidia-rim", forgery.manifest_keys()[0]),
        )
    ]
    appraisal = judge(
        "nvidia-gpu", {**evidence, **fetched}, forgery.AT, anchors=anchors, require_revocation=True
    )
    assert answer_of(appraisal) == expected
    if expected[0] == "accept":
        assert not any("OCSP" in gap for gap in appraisal.not_checked)


async def test_manifest_under_another_identifier_is_not_taken():
    """A service that answers with another manifest than was asked for broke the protocol."""
    device = own_gpu()
    with replaying() as server:
        server.replies[f"GET /v1/rim/NV_GPU_DRIVER_GH100_{forgery.DRIVER}"] = rim_reply(
            "NV_GPU_DRIVER_GH100_1", forgery.driver_rim(device)
        )
        async with Retriever() as retriever:
            with pytest.raises(NetworkError) as caught:
                await NvidiaGpuFetcher(retriever, server.url, server.url).fetch(
                    {"report": device.report(), "chain": device.path}
                )
    assert caught.value.reason is Reason.NETWORK_FAILED


async def test_service_token_verifies_with_the_key_set_it_was_fetched_with():
    """The service is asked with the report's own nonce; its answer and keys verify together."""
    device = own_gpu()
    report = device.report()
    posted: list[dict[str, Any]] = []

    def attest(body: bytes) -> Reply:
        posted.append(json.loads(body))
        return Reply(forgery.bundle())

    with replaying() as server:
        server.replies["POST /v3/attest/gpu"] = attest
        server.replies["GET /.well-known/jwks.json"] = Reply(forgery.key_set())
        async with Retriever() as retriever:
            fetcher = NvidiaNrasFetcher(retriever, server.url)
            fetched = await fetcher.fetch({"report": report, "chain": device.path})
            assert set(await fetcher.fetch({"token": fetched["token"]})) == {"jwks"}
            with pytest.raises(MalformedError):
                await fetcher.fetch({"token": b"not a token"})
    (request,) = posted
    assert request["nonce"] == forgery.NONCE.hex()
    assert request["arch"] == "HOPPER"
    (entry,) = request["evidence_list"]
    assert base64.b64decode(entry["evidence"]) == report
    assert base64.b64decode(entry["certificate"]) == device.path
    root = forgery.service_keys()[0]
    anchors = [Anchor("nvidia-nras", root.key_digest, EvidenceClass.DEVELOPMENT, "ours")]
    issuer = {"issuer": root.der}
    appraisal = judge("nvidia-nras", {**fetched, **issuer}, forgery.AT, anchors=anchors)
    assert answer_of(appraisal) == ("accept", "ok")


# -- The command line ------------------------------------------------------------------------------


def test_command_line_fetches_what_appraise_then_reads(tmp_path, capsys):
    """Files that `plumbing fetch-endorsements` writes are what `appraise --endorsements` reads."""
    case = load_case("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    quote = vectors_path() / "dcap/quotes/tdx_v4_phala_uptodate.bin"
    recorded = case["evidence"]["collateral"]
    fetch = ["plumbing", "fetch-endorsements", "--kind", "tdx", str(quote), "--out", str(tmp_path)]
    with replaying() as server:
        serve_intel(server, recorded, "tdx", fmspc_of(recorded), pccs=True)
        assert main([*fetch, "--base-url", server.url, "--pccs"]) == 0
        assert main([*fetch, "--base-url", server.url, "--ocsp-url", server.url]) == 2
    written = json.loads(capsys.readouterr().out)
    appraise = ["appraise", "--kind", "tdx", "--at", case["verify_at"], str(quote)]
    assert main([*appraise, "--endorsements", f"collateral={written['collateral']}"]) == 0


def test_command_line_says_that_a_service_cannot_be_reached(tmp_path, capsys):
    """Nothing is written where nothing was fetched, and the exit code says "could not tell"."""
    report = tmp_path / "report"
    report.write_bytes(Platform().report())
    out = tmp_path / "out"
    with replaying() as server:
        fetch = ["plumbing", "fetch-endorsements", "--kind", "sev-snp", str(report)]
        assert main([*fetch, "--out", str(out), "--base-url", server.url]) == 4
        assert main([*fetch, "--out", str(out), "--base-url", "http://192.0.2.1"]) == 2
    assert not out.exists()
    assert "network-failed" in capsys.readouterr().err
