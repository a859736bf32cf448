"""`/v1/receipts`, openings, records and the well-known document, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.receipt import InferenceReceipt
from verispect.testing.echo_model import EchoLanguageModel


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


_BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "completions": {"prompt": "hi"},
    "responses": {"input": "hi"},
}


def ask(gateway: RunningGateway, route: str = "completions") -> tuple[dict[str, Any], str]:
    """Return the answer and its opening key."""
    with gateway.http() as client:
        answer = client.post(f"/v1/{route}", json={"model": "echo", **_BODIES[route]})
    answer.raise_for_status()
    return answer.json(), answer.headers["verispect-opening-key"]


@pytest.mark.parametrize("route", _BODIES)
def test_receipt_is_found_under_every_name_of_the_answer(
    gateway: RunningGateway, route: str
) -> None:
    """By digest, by inference and by the answer's own id it is the same receipt."""
    answer, _ = ask(gateway, route)
    member = answer["verispect"]
    names = (member["receipt_id"], member["inference"], answer["id"])
    with gateway.http() as client:
        found = {client.get(f"/v1/receipts/{name}").content for name in names}
    assert len(found) == 1
    receipt = InferenceReceipt.parse(found.pop())
    assert receipt.receipt_id.hex() == member["receipt_id"]


@pytest.mark.parametrize(
    "name",
    ["", "0" * 64, "0" * 32, "chatcmpl-" + "0" * 32, "x", "Z" * 64, "a/b", "%00", "0" * 9999],
)
def test_unknown_receipt_is_not_found(gateway: RunningGateway, name: str) -> None:
    """Whatever is asked for, what does not exist is 404."""
    with gateway.http() as client:
        answer = client.get(f"/v1/receipts/{name}")
    assert answer.status_code in (404, 414)
    assert "error" in answer.json()


@pytest.mark.parametrize("key", ["", "A" * 22, "\xe9", "wrong"])
def test_openings_need_the_key_that_went_out(gateway: RunningGateway, key: str) -> None:
    """Without the opening key of this very inference the content stays closed."""
    answer, right = ask(gateway)
    _, of_another = ask(gateway)
    path = f"/v1/receipts/{answer['verispect']['inference']}/openings"
    with gateway.http() as client:
        for wrong in (key, of_another):
            headers = {"verispect-opening-key": wrong.encode("latin-1")}
            refused = client.get(path, headers=headers)
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "opening-forbidden"
        assert client.get(path).status_code == 403
        given = client.get(path, headers={"verispect-opening-key": right})
    assert given.status_code == 200
    assert given.headers["cache-control"] == "no-store"


def test_erased_openings_are_gone_and_the_receipt_stays(gateway: RunningGateway) -> None:
    """After the retention openings are 410, and the receipt is still there."""
    answer, key = ask(gateway)
    asyncio.run(gateway.state.recorder.store.erase_openings(older_than=10**14))
    path = f"/v1/receipts/{answer['verispect']['inference']}"
    with gateway.http() as client:
        openings = client.get(f"{path}/openings", headers={"verispect-opening-key": key})
        assert openings.status_code == 410
        assert client.get(path).status_code == 200


def test_well_known_document_holds_a_trusted_root(gateway: RunningGateway) -> None:
    """It parses as one, lists this issuer's key and the models, and says it is a suggestion."""
    with gateway.http() as client:
        document = client.get("/.well-known/verispect").json()
    root = TrustedRoot.from_json(json.dumps(document["trustedRoot"]).encode())
    assert list(root.issuer_keys) == [gateway.state.recorder.issuer.trusted_key()]
    assert [model.name for model in root.models] == ["echo", "team/echo"]
    assert document["trustedRootIsASuggestion"] is True
    assert document["assurance"]["available"]["signed"] == SIGNED.digest().hex()


def test_record_named_by_a_statement_can_be_fetched(gateway: RunningGateway) -> None:
    """The engine digest of a receipt leads to the engine's identity; others to 404."""
    answer, _ = ask(gateway)
    with gateway.http() as client:
        receipt = client.get(f"/v1/receipts/{answer['id']}").content
        engine = InferenceReceipt.parse(receipt).unverified_statement.model.engine
        assert b"fake-echo" in client.get(f"/v1/records/{engine.hex()}").content
        assert client.get(f"/v1/records/{'0' * 64}").status_code == 404
        assert client.get("/v1/records/../../keys").status_code == 404
