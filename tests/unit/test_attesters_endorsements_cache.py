"""Fetched answers are kept as long as they may be, and never returned damaged or too old."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from pathlib import Path

from replaying_server import Reply, replaying
from test_attesters_endorsements import fmspc_of, intel_fetcher, serve_amd, serve_intel

import nvidia_forgery as forgery
from sev_snp_platform import AT, Platform, revocation_list
from tee_vectors import load_case, milliseconds
from verispect.attesters.endorsements.amd_kds import LIST_LIFETIME, AmdKdsFetcher
from verispect.attesters.endorsements.cache import Answer, EndorsementCache
from verispect.attesters.endorsements.interface import DAY, HOUR
from verispect.attesters.endorsements.nvidia_nras import NvidiaNrasFetcher
from verispect.attesters.endorsements.retrieval import Retriever

KEY = "GET https://vendor.example/certificate"
ANSWER = Answer(b"certificate", {"chain": "a%20b"})


def kept_file(directory: Path) -> Path:
    (path,) = directory.iterdir()
    return path


def test_answer_is_kept_until_its_time_and_not_a_millisecond_longer(tmp_path):
    """It is returned from the moment it was fetched to the last one before it ends."""
    cache = EndorsementCache(tmp_path)
    cache.put(KEY, ANSWER, now=1000, expires=2000)
    assert cache.get(KEY, 1000) == ANSWER
    assert cache.get(KEY, 1999) == ANSWER
    assert cache.get(KEY, 2000) is None
    assert cache.get(KEY, 999) is None, "the clock was set back"
    assert cache.get(KEY + "?", 1500) is None


def test_answer_that_has_ended_is_not_kept(tmp_path):
    """What is out of date when it comes is for the verifier to refuse, and not to be kept."""
    cache = EndorsementCache(tmp_path / "cache")
    cache.put(KEY, ANSWER, now=1000, expires=1000)
    assert not (tmp_path / "cache").exists()


def test_damaged_file_is_a_miss(tmp_path):
    """Every byte counts: changed, cut off or added, the answer is not there."""
    cache = EndorsementCache(tmp_path)
    cache.put(KEY, ANSWER, now=1000, expires=2000)
    path = kept_file(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.get(KEY, 1500) is None, place
        path.write_bytes(whole[:place])
        assert cache.get(KEY, 1500) is None, place
    path.write_bytes(whole + b"\0")
    assert cache.get(KEY, 1500) is None
    path.write_bytes(whole)
    assert cache.get(KEY, 1500) == ANSWER


def test_answer_to_another_request_is_a_miss(tmp_path):
    """A file under another's name is not that other's answer."""
    cache = EndorsementCache(tmp_path)
    cache.put(KEY, ANSWER, now=1000, expires=2000)
    ours = kept_file(tmp_path)
    cache.put("other", ANSWER, now=1000, expires=2000)
    other = next(path for path in tmp_path.iterdir() if path != ours)
    ours.replace(other)
    assert cache.get("other", 1500) is None


def test_link_and_pipe_are_not_read(tmp_path):
    """A link in the place of a file is a miss, and a pipe does not make the reader wait."""
    cache = EndorsementCache(tmp_path / "cache")
    cache.put(KEY, ANSWER, now=1000, expires=2000)
    path = kept_file(tmp_path / "cache")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert cache.get(KEY, 1500) is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get(KEY, 1500) is None


def test_limits_hold_and_what_came_first_goes_first(tmp_path):
    """Neither the number of files nor their size grows beyond its limit; parts count as well."""
    cache = EndorsementCache(tmp_path, max_entries=3, max_bytes=4000)
    (tmp_path / "left-by-a-crash.part").write_bytes(b"x")
    os.utime(tmp_path / "left-by-a-crash.part", (1, 1))
    for number in range(6):
        cache.put(f"k{number}", Answer(bytes(100), {}), now=0, expires=9)
        # The order of files written within one tick of the file system is nobody's.
        os.utime(cache._path(f"k{number}"), (2 + number, 2 + number))
    cache.put("k6", Answer(bytes(100), {}), now=0, expires=9)
    assert [number for number in range(7) if cache.get(f"k{number}", 1)] == [4, 5, 6]
    assert len(list(tmp_path.iterdir())) == 3
    cache.put("large", Answer(bytes(3500), {}), now=0, expires=9)
    assert cache.get("large", 1) is not None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    cache.put("too large", Answer(bytes(4001), {}), now=0, expires=9)
    assert cache.get("too large", 1) is None


def test_directory_that_cannot_be_written_keeps_nothing_and_breaks_nothing(tmp_path, caplog):
    """Fetching goes on without a cache, and the log says so."""
    (tmp_path / "file").write_bytes(b"")
    cache = EndorsementCache(tmp_path / "file")
    cache.put(KEY, ANSWER, now=1000, expires=2000)
    assert cache.get(KEY, 1500) is None
    assert "not kept" in caplog.text


def _use_shared(directory: Path, seed: int) -> None:
    cache = EndorsementCache(directory, max_entries=8)
    for step in range(150):
        name = f"k{(step * 7 + seed) % 16}"
        cache.put(name, Answer(name.encode() * 500, {}), now=0, expires=9)
        answer = cache.get(f"k{step % 16}", 1)
        if answer is not None and answer.body != f"k{step % 16}".encode() * 500:
            raise AssertionError("an answer of another request, or half of one")


def test_two_processes_share_a_directory(tmp_path):
    """Writers and readers at once see whole answers only, and nobody fails."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_use_shared, args=(tmp_path, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list(tmp_path.iterdir())) <= 9


# -- How long what is kept -------------------------------------------------------------------------


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


async def test_collateral_is_asked_for_again_after_a_day_or_at_its_next_update(tmp_path):
    """All of it is kept for a day at most, and no document beyond its own next update."""
    case = load_case("dcap-tdx_v4_phala_uptodate@b0c06f_2025-06")
    recorded, quote = case["evidence"]["collateral"], {"quote": case["evidence"]["quote"]}
    start = milliseconds(case["verify_at"])
    clock = Clock(start)
    with replaying() as server:
        serve_intel(server, recorded, "tdx", fmspc_of(recorded))
        async with Retriever(EndorsementCache(tmp_path), clock=clock) as retriever:
            fetcher = intel_fetcher(retriever, server, "intel-tdx", pccs=False)
            first = await fetcher.fetch(quote)
            clock.now = start + DAY - 1
            assert await fetcher.fetch(quote) == first
            assert len(server.asked) == 4
            clock.now = start + DAY
            assert await fetcher.fetch(quote) == first
            assert len(server.asked) == 8
            # TCB info ends on 2025-07-19 at 10:16:03, quoting enclave's identity 16 minutes later.
            clock.now = milliseconds("2025-07-19T10:16:02Z")
            server.asked.clear()
            await fetcher.fetch(quote)
            assert any("/tcb?" in asked for asked in server.asked)
            clock.now = milliseconds("2025-07-19T10:16:03Z")
            server.asked.clear()
            await fetcher.fetch(quote)
            assert any("/tcb?" in asked for asked in server.asked)
            assert not any("/qe/identity" in asked for asked in server.asked)


async def test_certificates_are_kept_longer_than_revocation_lists(tmp_path):
    """A chip's certificate is asked for once; its revocation list again after a week."""
    platform = Platform("Milan")
    evidence = {"report": platform.report()}
    clock = Clock(AT)
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        chip = bytes(range(1, 65)).hex()
        address = f"/vcek/v1/Milan/{chip}?blSPL=04&teeSPL=01&snpSPL=24&ucodeSPL=219"
        server.replies[f"GET {address}"] = Reply(platform.leaf())
        server.replies["GET /vcek/v1/Milan/crl"] = Reply(revocation_list())
        async with Retriever(EndorsementCache(tmp_path), clock=clock) as retriever:
            fetcher = AmdKdsFetcher(retriever, server.url)
            first = await fetcher.fetch(evidence)
            clock.now += LIST_LIFETIME
            assert (await fetcher.fetch(evidence))["cert"] == first["cert"]
            assert server.asked.count("GET /vcek/v1/Milan/crl") == 2
            assert server.asked.count(f"GET {address}") == 1
        # Another process, later: the same directory serves it.
        async with Retriever(EndorsementCache(tmp_path), clock=clock) as retriever:
            await AmdKdsFetcher(retriever, server.url).fetch(evidence)
        assert len(server.asked) == 4


async def test_key_set_is_asked_for_again_for_a_key_that_it_does_not_have(tmp_path):
    """The service changes its keys; a token of a new one does not wait for the old set to end."""
    clock = Clock(forgery.AT)
    new = forgery.sign_token({}, header={"alg": "ES384", "kid": "kid-2"}).encode()
    old = forgery.sign_token({}).encode()
    path = "GET /.well-known/jwks.json"
    with replaying() as server:
        server.replies[path] = Reply(forgery.key_set())
        async with Retriever(EndorsementCache(tmp_path), clock=clock) as retriever:
            fetcher = NvidiaNrasFetcher(retriever, server.url)
            await fetcher.fetch({"token": old})
            await fetcher.fetch({"token": old})
            assert len(server.asked) == 1
            keys = forgery.key_set(forgery.jwk(forgery.service_keys(), "kid-2"))
            server.replies[path] = Reply(keys)
            assert (await fetcher.fetch({"token": new}))["jwks"] == keys
            assert len(server.asked) == 2
            clock.now += HOUR
            await fetcher.fetch({"token": new})
            assert len(server.asked) == 3


async def test_token_of_the_service_is_never_kept(tmp_path):
    """Who asks the service for its word gets the word of now."""
    device = forgery.gpu()
    root = forgery.certify("DEVELOPMENT ONLY device root")
    device.intermediate = forgery.certify("GH100 DEVELOPMENT ONLY", root)
    device.leaf = forgery.certify("leaf", device.intermediate, ca=False)
    evidence = {"report": device.report(), "chain": device.path}
    with replaying() as server:
        server.replies["POST /v3/attest/gpu"] = lambda _: Reply(forgery.bundle())
        server.replies["GET /.well-known/jwks.json"] = Reply(forgery.key_set())
        cache = EndorsementCache(tmp_path)
        async with Retriever(cache, clock=Clock(forgery.AT)) as retriever:
            fetcher = NvidiaNrasFetcher(retriever, server.url)
            first, second = [await fetcher.fetch(evidence) for _ in range(2)]
    assert server.asked.count("POST /v3/attest/gpu") == 2
    assert first["token"] != second["token"]
    assert first["jwks"] == second["jwks"]


async def test_kept_answer_beyond_the_limit_of_its_question_is_not_used(tmp_path):
    """Limits hold for what comes from the directory as for what comes from the network."""
    platform = Platform("Milan")
    cache = EndorsementCache(tmp_path)
    with replaying() as server:
        serve_amd(server, {"ask": platform.signer(), "ark": platform.root()})
        key = f"GET {server.url}/vcek/v1/Milan/cert_chain"
        cache.put(key, Answer(bytes(4_000_000), {}), now=AT, expires=AT + 1)
        async with Retriever(cache, clock=Clock(AT)) as retriever:
            evidence = {"report": platform.report(), "cert": platform.leaf()}
            fetcher = AmdKdsFetcher(retriever, server.url, revocation=False)
            await asyncio.wait_for(fetcher.fetch(evidence), 30)
        assert len(server.asked) == 1
