"""Stored responses: found by id, bounded in time and length, removed for good."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from verispect.core.errors import Reason, RequestError, StoreError
from verispect.gateway import response_store
from verispect.gateway.response_store import ResponseStore, StoredResponse

DAY = 24 * 60 * 60 * 1000
NOW = 1_800_000_000_000


@pytest.fixture
def store(tmp_path):
    opened = ResponseStore(tmp_path / "responses.sqlite", retention_days=30)
    yield opened
    opened.close()


def make(identifier: str, previous: str | None = None, created_at: int = NOW) -> StoredResponse:
    return StoredResponse(
        identifier=identifier,
        previous=previous,
        created_at=created_at,
        response={"id": identifier, "output": []},
        input_items=[{"type": "message", "role": "user", "content": f"to {identifier}"}],
    )


async def test_a_stored_response_survives_the_process(tmp_path):
    """What was stored is found by the next process that opens the file."""
    path = tmp_path / "responses.sqlite"
    first = ResponseStore(path)
    await first.put(make("resp_a"))
    first.close()
    second = ResponseStore(path)
    assert await second.find("resp_a", now=NOW) == make("resp_a")
    second.close()


async def test_a_chain_is_resolved_oldest_first(store):
    """A conversation comes back in the order in which it was held."""
    await store.put(make("resp_a"))
    await store.put(make("resp_b", "resp_a"))
    await store.put(make("resp_c", "resp_b"))
    chain = await store.find_chain("resp_c", now=NOW)
    assert chain is not None
    assert [stored.identifier for stored in chain] == ["resp_a", "resp_b", "resp_c"]


async def test_half_a_conversation_is_never_the_whole(store):
    """A chain with a deleted response is unknown, not shorter."""
    await store.put(make("resp_a"))
    await store.put(make("resp_b", "resp_a"))
    assert await store.delete("resp_a", now=NOW)
    assert await store.find_chain("resp_b", now=NOW) is None


async def test_a_deleted_response_leaves_nothing_in_the_file(tmp_path):
    """Deletion removes the content from the file and not only from the index."""
    path = tmp_path / "responses.sqlite"
    store = ResponseStore(path)
    marker = "a sentence that must not linger"
    await store.put(StoredResponse("resp_a", None, NOW, {"id": "resp_a"}, [{"content": marker}]))
    assert await store.delete("resp_a", now=NOW)
    assert not await store.delete("resp_a", now=NOW)
    store.close()
    remains = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert marker.encode() not in remains


async def test_an_expired_response_is_gone_before_it_is_purged(store):
    """Retention counts from the creation, to the millisecond."""
    await store.put(make("resp_a"))
    assert await store.find("resp_a", now=NOW + 30 * DAY - 1) is not None
    assert await store.find("resp_a", now=NOW + 30 * DAY) is None
    assert not await store.delete("resp_a", now=NOW + 30 * DAY)


async def test_the_oldest_responses_make_room(store, monkeypatch):
    """The number of rows is bounded, and the newest stay."""
    monkeypatch.setattr(response_store, "MAX_STORED_RESPONSES", 2)
    monkeypatch.setattr(response_store, "_PURGE_EVERY_MILLISECONDS", 0)
    for name in ("resp_a", "resp_b", "resp_c"):
        await store.put(make(name))
    assert await store.find("resp_a", now=NOW) is None
    assert await store.find("resp_c", now=NOW) is not None


async def test_a_chain_is_bounded(store, monkeypatch):
    """A conversation beyond the limit is refused instead of read on and on."""
    monkeypatch.setattr(response_store, "MAX_CHAIN_LENGTH", 2)
    await store.put(make("resp_a"))
    await store.put(make("resp_b", "resp_a"))
    await store.put(make("resp_c", "resp_b"))
    with pytest.raises(RequestError) as refusal:
        await store.find_chain("resp_c", now=NOW)
    assert refusal.value.parameter == "previous_response_id"


async def test_a_response_too_large_to_store_is_refused(store, monkeypatch):
    """A row has a size limit of its own."""
    monkeypatch.setattr(response_store, "MAX_STORED_BYTES", 10)
    with pytest.raises(RequestError) as refusal:
        await store.put(make("resp_a"))
    assert refusal.value.reason is Reason.TOO_LARGE


async def test_a_chain_is_bounded_in_bytes(store, monkeypatch):
    """A conversation of few but huge responses is refused too."""
    monkeypatch.setattr(response_store, "MAX_CHAIN_BYTES", 10)
    await store.put(make("resp_a"))
    await store.put(make("resp_b", "resp_a"))
    assert await store.find_chain("resp_a", now=NOW) is not None
    with pytest.raises(RequestError) as refusal:
        await store.find_chain("resp_b", now=NOW)
    assert refusal.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("identifier", ["resp_unknown", "", "x" * 10_000, "' OR 1=1 --"])
async def test_an_unknown_id_is_unknown(store, identifier):
    """No id but the exact one finds anything."""
    await store.put(make("resp_a"))
    assert await store.find(identifier, now=NOW) is None
    assert await store.find_chain(identifier, now=NOW) is None
    assert not await store.delete(identifier, now=NOW)


async def test_only_the_owner_can_read_the_files(tmp_path):
    """Prompts and outputs lie in files that nobody else on the machine can open."""
    store = ResponseStore(tmp_path / "responses.sqlite")
    await store.put(make("resp_a"))
    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    store.close()
    assert modes == {0o600}


def test_a_place_that_cannot_hold_a_file_is_a_store_error(tmp_path: Path):
    """A missing folder is our error, not SQLite's."""
    with pytest.raises(StoreError):
        ResponseStore(tmp_path / "missing" / "responses.sqlite")


async def test_a_store_that_fails_says_so(store):
    """A failing file is a store error, without SQLite's words."""
    store.close()
    with pytest.raises(StoreError) as failure:
        await store.find("resp_a", now=NOW)
    assert failure.value.reason is Reason.STORE_FAILED
