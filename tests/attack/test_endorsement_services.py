"""Services that misbehave: only our errors come out, in time, and nothing of it is kept."""

from __future__ import annotations

import datetime as dt
import gzip
import ipaddress
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from replaying_server import ReplayingServer, Reply, raw_server, replaying
from test_attesters_endorsements import fmspc_of, intel_fetcher, serve_amd, serve_intel

import nvidia_forgery as forgery
from sev_snp_platform import AT, Platform, revocation_list
from tee_vectors import load_case, milliseconds
from verispect.attesters.endorsements.amd_kds import AmdKdsFetcher
from verispect.attesters.endorsements.cache import EndorsementCache
from verispect.attesters.endorsements.nvidia import NvidiaGpuFetcher
from verispect.attesters.endorsements.nvidia_nras import NvidiaNrasFetcher
from verispect.attesters.endorsements.retrieval import (
    MAX_RETRIES,
    MAX_RETRY_SECONDS,
    Retriever,
    Timeouts,
    base_address,
)
from verispect.core.errors import NetworkError, Reason, RequestError, StoreError

QUICK = Timeouts(connect_seconds=2, read_seconds=0.3, total_seconds=1)
CHAIN = "GET /vcek/v1/Milan/cert_chain"
INTEL_CASE = "dcap-tdx_v4_phala_uptodate@b0c06f_2025-06"


class Patience:
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


async def ask_amd(url: str, directory: Path, **options: object) -> None:
    """Fetch an AMD chain, the certificate being there already."""
    platform = Platform()
    evidence = {"report": platform.report(), "cert": platform.leaf()}
    retriever = Retriever(
        EndorsementCache(directory),
        clock=lambda: AT,
        **{"timeouts": QUICK, **options},  # type: ignore[arg-type]
    )
    async with retriever:
        await AmdKdsFetcher(retriever, url, revocation=False).fetch(evidence)


async def refused(url: str, directory: Path, **options: object) -> NetworkError:
    """Return the error that fetching ends with; nothing may be kept."""
    with pytest.raises(NetworkError) as caught:
        await ask_amd(url, directory, **options)
    assert caught.value.reason is Reason.NETWORK_FAILED
    assert not _exists(directory)
    return caught.value


def _exists(directory: Path) -> bool:
    return directory.exists()


HTML = Reply(b"<html>Sign in</html>", headers={"content-type": "text/html"})


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"x", 500),
        Reply(b"x", 503),
        Reply(b"x", 403),
        Reply(b"", 204),
        Reply(b"x", 404),
        Reply(b"", 302, {"location": "/elsewhere"}),
        Reply(b"", 301, {"location": "http://127.0.0.1:1/"}),
        HTML,
        Reply(b""),
        Reply(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" * 2),
    ],
    ids=lambda reply: f"{reply.status}-{len(reply.body)}-{len(reply.headers)}",
)
async def test_wrong_answer_is_an_error_and_is_not_kept(reply, tmp_path):
    """Refusals, redirects and other content."""
    with replaying() as server:
        server.replies[CHAIN] = reply
        server.replies["GET /elsewhere"] = Reply(b"followed")
        await refused(server.url, tmp_path / "cache")
    assert server.asked == [CHAIN]


@pytest.mark.parametrize(
    "headers", [{"x-large": "y" * 200_000}, {f"x-{n}": "y" * 1000 for n in range(500)}], ids=len
)
async def test_flood_of_headers_is_an_error(headers, tmp_path):
    """A right body does not make up for too many headers."""
    platform = Platform()
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        good = server.replies[CHAIN]
        assert isinstance(good, Reply)
        server.replies[CHAIN] = Reply(good.body, headers=headers)
        await refused(server.url, tmp_path / "cache")


async def test_body_beyond_the_limit_is_not_read_to_its_end(tmp_path):
    """A large answer is given up at the limit, and not once it is there."""
    with replaying() as server:
        server.replies[CHAIN] = Reply(bytes(20_000_000))
        error = await refused(server.url, tmp_path / "cache")
    assert "more than" in error.message
    with raw_server(endless_body) as url:
        error = await refused(url, tmp_path / "cache", timeouts=Timeouts())
    assert "more than" in error.message


async def test_compressed_answer_is_refused(tmp_path):
    """A small answer that becomes a large one is not unpacked."""
    with replaying() as server:
        bomb = gzip.compress(bytes(50_000_000))
        server.replies[CHAIN] = Reply(bomb, headers={"content-encoding": "gzip"})
        error = await refused(server.url, tmp_path / "cache")
    assert "compressed" in error.message
    assert server.received[0]["accept-encoding"] == "identity"


def say_nothing(connection: socket.socket) -> None:
    connection.recv(1)


def drip(connection: socket.socket) -> None:
    """Send a header every now and then: each in time, all together never."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    connection.settimeout(0.2)
    for _ in range(50):
        connection.sendall(b"x: y\r\n")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def drip_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    connection.settimeout(0.2)
    for _ in range(50):
        connection.sendall(b"-")
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue


def end_early(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\nhalf")


def speak_otherwise(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(2000):
        connection.sendall(b"x: " + b"y" * 10_000 + b"\r\n")


def endless_body(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(2000):
        connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def hang_up(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize(
    "speak",
    [end_early, speak_otherwise, flood, hang_up],
)
async def test_peer_that_breaks_the_protocol_is_an_error_in_time(
    speak: Callable[[socket.socket], None], tmp_path
):
    """Half an answer, another protocol and a flood are given up."""
    with raw_server(speak) as url:
        await refused(url, tmp_path / "cache")


@pytest.mark.parametrize("speak", [say_nothing, drip, drip_body])
async def test_peer_that_takes_its_time_is_given_up(
    speak: Callable[[socket.socket], None], tmp_path
):
    """Silence ends at the limit of one piece, a trickle at the limit of the whole answer."""
    with raw_server(speak) as url:
        error = await refused(url, tmp_path / "cache")
    assert "did not answer in time" in error.message


async def test_service_that_is_not_there_is_an_error(tmp_path):
    """Nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    await refused(f"http://127.0.0.1:{port}", tmp_path / "cache")


# -- Overload --------------------------------------------------------------------------------------


async def test_overloaded_service_is_asked_again_when_it_says_so(tmp_path):
    """After 429 the time that the service names is waited, and the answer then is taken."""
    platform, patience = Platform(), Patience()
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        good = server.replies[CHAIN]
        replies = iter([Reply(b"", 429, {"retry-after": "3"}), Reply(b"", 429)])
        server.replies[CHAIN] = lambda _: next(replies, good)
        await ask_amd(server.url, tmp_path / "cache", sleep=patience)
    assert patience.waits == [3.0, 1]
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({"retry-after": "1"}, MAX_RETRIES + 1),
        ({}, MAX_RETRIES + 1),
        ({"retry-after": "-5"}, MAX_RETRIES + 1),
        ({"retry-after": "Wed, 21 Oct 2037 07:28:00 GMT"}, MAX_RETRIES + 1),
        ({"retry-after": str(MAX_RETRY_SECONDS + 1)}, 1),
        ({"retry-after": "9" * 5000}, 1),
    ],
)
async def test_patience_has_an_end(headers, asked, tmp_path):
    """A service that stays overloaded, or asks for too much time, is given up."""
    patience = Patience()
    with replaying() as server:
        server.replies[CHAIN] = Reply(b"", 429, headers)
        error = await refused(server.url, tmp_path / "cache", sleep=patience)
    assert "429" in error.message
    assert len(server.asked) == asked
    assert all(wait <= MAX_RETRY_SECONDS for wait in patience.waits)


# -- Each service's content ------------------------------------------------------------------------


def _break_intel(server: ReplayingServer, how: str) -> None:
    tcb = next(name for name in server.replies if "/tcb?" in name)
    pck = next(name for name in server.replies if "/pckcrl" in name)
    document, crl = server.replies[tcb], server.replies[pck]
    assert isinstance(document, Reply)
    assert isinstance(crl, Reply)
    header = "TCB-Info-Issuer-Chain"
    chain = document.headers[header]
    broken = {
        "truncated": (tcb, Reply(document.body[:-40], headers=document.headers)),
        "not-json": (tcb, Reply(b"\xff\xfe", headers=document.headers)),
        "nested": (tcb, Reply(b"[" * 100_000, headers=document.headers)),
        "other-member": (
            tcb,
            Reply(document.body.replace(b"tcbInfo", b"tcbinfo"), headers=document.headers),
        ),
        "doubled-member": (
            tcb,
            Reply(document.body[:-1] + b',"tcbInfo":{}}', headers=document.headers),
        ),
        "no-signature": (tcb, Reply(b'{"tcbInfo":{}}', headers=document.headers)),
        "no-end": (
            tcb,
            Reply(document.body.replace(b"nextUpdate", b"nextupdate"), headers=document.headers),
        ),
        "odd-end": (
            tcb,
            Reply(document.body.replace(b"2025-07-19T", b"9999-99-99T"), headers=document.headers),
        ),
        "no-chain": (tcb, Reply(document.body)),
        "half-a-chain": (tcb, Reply(document.body, headers={header: chain[:500]})),
        "large-chain": (tcb, Reply(document.body, headers={header: chain * 20})),
        "odd-chain": (tcb, Reply(document.body, headers={header: "%ff%00%zz"})),
        "half-a-list": (pck, Reply(crl.body[:100], headers=crl.headers)),
        "no-list": (pck, Reply(b"not hexadecimal", headers=crl.headers)),
        "certificate-for-a-list": (pck, Reply(Platform().root(), headers=crl.headers)),
    }
    name, reply = broken[how]
    server.replies[name] = reply


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "not-json",
        "nested",
        "other-member",
        "doubled-member",
        "no-signature",
        "no-end",
        "odd-end",
        "no-chain",
        "half-a-chain",
        "large-chain",
        "odd-chain",
        "half-a-list",
        "no-list",
        "certificate-for-a-list",
    ],
)
async def test_broken_collateral_is_an_error_and_the_broken_part_is_not_kept(how, tmp_path):
    """What is not the form that Intel uses is refused, and asked for anew when it is mended."""
    case = load_case(INTEL_CASE)
    recorded, quote = case["evidence"]["collateral"], {"quote": case["evidence"]["quote"]}
    at = milliseconds(case["verify_at"])
    with replaying() as server:
        serve_intel(server, recorded, "tdx", fmspc_of(recorded))
        whole = dict(server.replies)
        _break_intel(server, how)
        async with Retriever(EndorsementCache(tmp_path), clock=lambda: at) as retriever:
            fetcher = intel_fetcher(retriever, server, "intel-tdx", pccs=False)
            with pytest.raises(NetworkError):
                await fetcher.fetch(quote)
            server.replies = whole
            assert set(await fetcher.fetch(quote)) == {"collateral"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"id": "NV_GPU_DRIVER_GH100_990.10.01"}',
        b'{"id": "NV_GPU_DRIVER_GH100_990.10.01", "rim": 7}',
        b'{"id": "NV_GPU_DRIVER_GH100_990.10.01", "rim": "PHhtbC8+"}',
        b'{"id": "NV_GPU_DRIVER_GH100_990.10.01", "rim": "%%%%"}',
        b'{"id": "NV_GPU_DRIVER_GH100_990.10.01", "rim": "' + b"A" * 900_000 + b'"}',
    ],
    ids=len,
)
async def test_answer_that_holds_no_manifest_is_an_error(body, tmp_path):
    """JSON without a manifest, and manifests without certificates, are refused."""
    evidence = _hopper()
    with replaying() as server:
        server.replies[f"GET /v1/rim/NV_GPU_DRIVER_GH100_{forgery.DRIVER}"] = Reply(body)
        async with Retriever(EndorsementCache(tmp_path / "cache")) as retriever:
            with pytest.raises(NetworkError):
                await NvidiaGpuFetcher(retriever, server.url, server.url).fetch(evidence)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("body", [b"", b"\x30\x03\x0a\x01\x01", b"\x30\x03\x0a\x01\x06", b"x" * 99])
async def test_answer_that_holds_no_status_is_an_error(body, tmp_path):
    """An OCSP response without an answer ("malformed", "unauthorized") is not kept as one."""
    evidence = {**_hopper(), "driver_rim": _MANIFEST, "vbios_rim": _MANIFEST}
    with replaying() as server:
        server.replies["POST /"] = Reply(body)
        async with Retriever(EndorsementCache(tmp_path / "cache")) as retriever:
            with pytest.raises(NetworkError):
                await NvidiaGpuFetcher(retriever, server.url, server.url).fetch(evidence)
    assert server.asked == ["POST /"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("body", [b"", b"{}", b'{"keys": []}', b'{"keys": {}}', b"[[", b"null"])
async def test_answer_that_holds_no_keys_is_an_error(body, tmp_path):
    """A key set without keys is not kept."""
    token = {"token": forgery.sign_token({}).encode()}
    with replaying() as server:
        server.replies["GET /.well-known/jwks.json"] = Reply(body)
        async with Retriever(EndorsementCache(tmp_path / "cache")) as retriever:
            with pytest.raises(NetworkError):
                await NvidiaNrasFetcher(retriever, server.url).fetch(token)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("body", [b"", b"[]", b'["JWT"]', b"a.b.c", b'[["JWT", 7]]', b"{}" * 999])
async def test_answer_that_holds_no_token_is_an_error(body):
    """What the attestation service says must at least be a token that names its key."""
    with replaying() as server:
        server.replies["POST /v3/attest/gpu"] = Reply(body)
        server.replies["GET /.well-known/jwks.json"] = Reply(forgery.key_set())
        async with Retriever() as retriever:
            with pytest.raises(NetworkError):
                await NvidiaNrasFetcher(retriever, server.url).fetch(_hopper())


async def test_revocation_list_that_is_none_is_an_error(tmp_path):
    """A certificate in the place of AMD's list is refused; the good parts are kept."""
    platform = Platform()
    evidence = {"report": platform.report(), "cert": platform.leaf()}
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        server.replies["GET /vcek/v1/Milan/crl"] = Reply(platform.root())
        async with Retriever(EndorsementCache(tmp_path), clock=lambda: AT) as retriever:
            fetcher = AmdKdsFetcher(retriever, server.url)
            with pytest.raises(NetworkError):
                await fetcher.fetch(evidence)
            server.replies["GET /vcek/v1/Milan/crl"] = Reply(revocation_list())
            assert "crl" in await fetcher.fetch(evidence)
    assert server.asked.count(CHAIN) == 1


def _hopper() -> dict[str, bytes]:
    device = forgery.gpu()
    root = forgery.certify("DEVELOPMENT ONLY device root")
    device.intermediate = forgery.certify("GH100 DEVELOPMENT ONLY", root)
    device.root = root
    device.leaf = forgery.certify("leaf", device.intermediate, ca=False)
    device.opaque = [*device.opaque, (15, b"882\0"), (18, b"0200\0")]
    return {"report": device.report(), "chain": device.path}


_MANIFEST = forgery.driver_rim(forgery.gpu())


async def test_version_in_a_report_cannot_choose_another_path():
    """What a device calls its driver is part of an address only if it is a plain word."""
    device = forgery.gpu()
    root = forgery.certify("DEVELOPMENT ONLY device root")
    device.intermediate = forgery.certify("GH100 DEVELOPMENT ONLY", root)
    for driver in (b"../../admin", b"1?x=y", b"1/2", b"1 2", b"\xff\xfe", b"a" * 200):
        device.opaque = [(3, driver), *forgery.gpu().opaque[1:], (15, b"882\0"), (18, b"0200\0")]
        evidence = {"report": device.report(), "chain": device.path}
        with replaying() as server:
            async with Retriever() as retriever:
                with pytest.raises(Exception, match="manifest can be named") as caught:
                    await NvidiaGpuFetcher(retriever, server.url, server.url).fetch(evidence)
        assert getattr(caught.value, "reason", None) is Reason.MALFORMED_EVIDENCE
        assert server.asked == []


# -- Addresses and TLS -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://kdsintf.amd.com",
        "http://192.0.2.1",
        "http://127.0.0.1.example.com",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://user:secret@127.0.0.1",
        "https://127.0.0.1/?a=b",
        "https://127.0.0.1/#a",
        "https://",
        "https://[",
        "https://a b",
        "https://127.0.0.1:99999",
        "https://127.0.0.1:x",
        "kdsintf.amd.com",
        "",
    ],
)
def test_address_must_be_https(address):
    """Plain HTTP leaves this machine never, and an address holds no secrets."""
    with pytest.raises(RequestError) as caught:
        base_address(address)
    assert "secret" not in str(caught.value)


def _own_certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(addresses, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "tls.pem", directory / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


async def test_tls_is_always_verified(tmp_path):
    """A service under an unknown root is refused; under a root that the caller names it is not."""
    platform = Platform()
    certificate, key = _own_certificate(tmp_path)
    with replaying(ssl_certfile=str(certificate), ssl_keyfile=str(key)) as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        await refused(server.url, tmp_path / "cache")
        assert server.asked == []
        await ask_amd(server.url, tmp_path / "cache", certificates=certificate)
        assert server.asked == [CHAIN]


def test_roots_that_cannot_be_read_are_an_error(tmp_path):
    """A missing or empty file of roots never means the usual ones, or none."""
    (tmp_path / "empty").write_bytes(b"")
    for name in ("missing", "empty"):
        with pytest.raises(StoreError):
            Retriever(certificates=tmp_path / name)


async def test_proxies_of_the_environment_are_not_used(tmp_path, monkeypatch):
    """Who answers is who was asked."""
    platform = Platform()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        await ask_amd(server.url, tmp_path / "cache")
    assert server.asked == [CHAIN]
