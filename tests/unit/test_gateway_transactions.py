"""Transactions over HTTP: in one request, part by part, references, ends, races and bad input."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from running_gateway import RunningGateway, run_gateway

from verispect.appraisal.policy import SIGNED
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.client.transaction import TransactionClient, verify_transaction
from verispect.core.encoding import from_base64url, to_base64url
from verispect.core.errors import Reason, VerificationError
from verispect.core.transaction import TransactionOutcome, open_transaction
from verispect.core.transaction_files import DisclosedPart, TransactionBundle
from verispect.testing.echo_model import EchoLanguageModel

NOW = 10**13


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), EchoLanguageModel()) as running:
        yield running


def chat(text: Any, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Echo."}, {"role": "user", "content": text}]
    body = {"model": "echo", "messages": messages, **fields}
    return {"path": "/v1/chat/completions", "body": body}


def complete(prompt: Any) -> dict[str, Any]:
    return {"path": "/v1/completions", "body": {"model": "echo", "prompt": prompt}}


def embed(text: Any) -> dict[str, Any]:
    return {"path": "/v1/embeddings", "body": {"model": "echo", "input": text}}


def respond(text: Any) -> dict[str, Any]:
    return {"path": "/v1/responses", "body": {"model": "echo", "input": text, "store": False}}


def from_part(part: Any, path: Any, **more: Any) -> dict[str, Any]:
    return {"$from": {"part": part, "path": path, **more}}


FIRST_CHAT = "/choices/0/message/content"


def root_of(gateway: RunningGateway) -> TrustedRoot:
    return TrustedRoot([gateway.state.recorder.issuer.trusted_key()])


def appraise(gateway: RunningGateway, shown, policy=SIGNED, **options):
    return TransactionVerifier(root_of(gateway)).appraise(shown, policy=policy, now=NOW, **options)


def fetch(gateway: RunningGateway, identifier: str) -> TransactionBundle:
    with gateway.http() as http:
        answer = http.get(f"/v1/transactions/{identifier}/receipt")
    answer.raise_for_status()
    return TransactionBundle.parse(answer.content)


def post(gateway: RunningGateway, parts: Any, **fields: Any):
    with gateway.http() as http:
        return http.post("/v1/transactions", json={"parts": parts, **fields})


def test_several_interfaces_in_one_request_verify_as_one(gateway: RunningGateway) -> None:
    """Chat, completion, response and embedding, each fed from an earlier one, verify as one."""
    parts = [
        chat("alpha beta"),
        complete(from_part(0, FIRST_CHAT)),
        respond(from_part(1, "/choices/0/text")),
        embed([from_part(2, "/output_text"), "other"]),
        chat([{"type": "text", "text": from_part(3, "/data/1/embedding", **{"as": "text"})}]),
    ]
    with TransactionClient(gateway.base_url) as client:
        exchange = client.run(parts)
    result = verify_transaction(exchange, trusted_root=root_of(gateway), policy=SIGNED, now=NOW)
    assert exchange.state == "committed"
    assert [each["object"] for each in exchange.answers][:2] == [
        "chat.completion",
        "text_completion",
    ]
    assert exchange.answers[1]["choices"][0]["text"] == "alpha beta"
    fed = [check.name for check in result.checks if ":from-part-" in check.name]
    assert fed == [f"part-{n}:from-part-{n - 1}" for n in range(1, 5)]
    assert result.count == 5


def test_a_part_is_shown_with_the_others_closed(gateway: RunningGateway) -> None:
    """One part with its path verifies, says that others are closed, and fits no other place."""
    answer = post(gateway, [chat(f"word{n}") for n in range(5)]).json()
    with gateway.http() as http:
        found = [
            http.get(f"/v1/transactions/{answer['id']}/receipt?part={n}").content for n in range(5)
        ]
        assert http.get(f"/v1/transactions/{answer['id']}/receipt?part=5").status_code == 400
    for n, data in enumerate(found):
        shown = DisclosedPart.parse(data)
        result = appraise(gateway, shown)
        assert result.verdict is Verdict.VERIFIED, result.decisive_check()
        assert result.parts[0].part.index == n
        assert any("4 of 5 are not shown" in line for line in result.not_covered)


def test_parts_join_an_open_transaction_and_are_committed(gateway: RunningGateway) -> None:
    """Ordinary endpoints with the header become parts, references are filled, and all verifies."""
    with TransactionClient(gateway.base_url) as client:
        transaction = client.open()
        transaction.ask("/v1/chat/completions", chat("one two")["body"])
        second = transaction.ask("/v1/completions", complete(from_part(0, FIRST_CHAT))["body"])
        exchange = transaction.commit()
    assert second["choices"][0]["text"] == "one two"
    result = verify_transaction(exchange, trusted_root=root_of(gateway), policy=SIGNED, now=NOW)
    assert result.outcome is TransactionOutcome.COMMITTED


def open_one(gateway: RunningGateway, http, **fields: Any) -> tuple[str, dict[str, str]]:
    opened = http.post("/v1/transactions", json=fields).json()
    key = {"verispect-transaction-key": opened["key"]}
    return opened["id"], key


def ask_part(http, identifier: str, key: dict[str, str], part: dict[str, Any] | None = None):
    part = part or complete("hi")
    headers = {**key, "verispect-transaction": identifier}
    return http.post(part["path"], json=part["body"], headers=headers)


def test_a_second_commit_gives_the_same_bytes_and_an_abort_is_refused(
    gateway: RunningGateway,
) -> None:
    """Commit is idempotent; what is committed is not aborted, and takes no further part."""
    with gateway.http() as http:
        identifier, key = open_one(gateway, http)
        ask_part(http, identifier, key).raise_for_status()
        where = f"/v1/transactions/{identifier}"
        first = http.post(f"{where}/commit", headers=key)
        again = http.post(f"{where}/commit", headers=key)
        assert first.status_code == again.status_code == 200
        assert first.json()["receipt"] == again.json()["receipt"]
        refused = http.post(f"{where}/abort", headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "transaction-closed")
        assert ask_part(http, identifier, key).json()["error"]["code"] == "transaction-closed"
        assert http.get(where, headers=key).json()["receipt"] == first.json()["receipt"]


def test_a_commit_after_an_abort_is_refused(gateway: RunningGateway) -> None:
    """What is aborted stays so, its statement says why, and a verifier refuses it."""
    with gateway.http() as http:
        identifier, key = open_one(gateway, http)
        ask_part(http, identifier, key).raise_for_status()
        where = f"/v1/transactions/{identifier}"
        aborted = http.post(f"{where}/abort", headers=key)
        assert aborted.json()["state"] == "aborted"
        assert (
            http.post(f"{where}/abort", headers=key).json()["receipt"]
            == (aborted.json()["receipt"])
        )
        refused = http.post(f"{where}/commit", headers=key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "transaction-closed")
    result = appraise(gateway, fetch(gateway, identifier))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.TRANSACTION_ABORTED)
    assert result.count == 1


@pytest.mark.parametrize("other", ["commit", "abort"])
def test_of_two_who_end_it_at_once_one_wins(gateway: RunningGateway, other: str) -> None:
    """Whoever ends a transaction at the same moment, there is one final statement."""
    for _ in range(8):
        with gateway.http() as http:
            identifier, key = open_one(gateway, http)
            ask_part(http, identifier, key).raise_for_status()
        answers = []
        barrier = threading.Barrier(6)

        def end(action: str, identifier=identifier, key=key, barrier=barrier, answers=answers):
            with gateway.http() as http:
                barrier.wait()
                answers.append(http.post(f"/v1/transactions/{identifier}/{action}", headers=key))

        threads = [threading.Thread(target=end, args=(action,)) for action in ("commit", other) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        good = [each.json()["receipt"] for each in answers if each.status_code == 200]
        assert len(set(good)) == 1
        assert {each.status_code for each in answers} <= {200, 409}
        bundle = fetch(gateway, identifier)
        assert to_base64url(bundle.envelope.encode()) == good[0]


def test_an_abandoned_transaction_is_aborted(gateway: RunningGateway) -> None:
    """Past its time-out it is aborted by itself, with that reason."""
    with gateway.http() as http:
        identifier, key = open_one(gateway, http, timeout_seconds=1)
        ask_part(http, identifier, key).raise_for_status()
        for _ in range(200):
            found = http.get(f"/v1/transactions/{identifier}", headers=key).json()
            if found["state"] != "open":
                break
            time.sleep(0.05)
    assert (found["state"], found["failure"]["reason"]) == ("aborted", "request-timeout")


@pytest.mark.parametrize(
    ("broken", "status", "code"),
    [
        (
            {"path": "/v1/completions", "body": {"model": "no", "prompt": "x"}},
            404,
            "model_not_found",
        ),
        ({**complete("x"), "assurance": "sigend"}, 400, "assurance-unknown"),
        ({**complete("x"), "assurance": "attested"}, 400, "assurance-unavailable"),
        ({"path": "/v1/completions", "body": {"model": "echo"}}, 400, "invalid-request"),
    ],
)
def test_a_part_that_fails_fails_the_whole(
    gateway: RunningGateway, broken: dict[str, Any], status: int, code: str
) -> None:
    """The answer has the error of the part; the signed statement names it and its reason."""
    answer = post(gateway, [complete("a"), broken, complete("c")])
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["state"] == "failed"
    assert answer.json()["failure"]["part"] == 1
    assert len(answer.json()["parts"]) == 1
    result = appraise(gateway, fetch(gateway, answer.json()["id"]))
    assert (result.verdict, result.reason) == (Verdict.REFUSED, Reason.TRANSACTION_FAILED)


_BAD_REFERENCES = [
    from_part(1, FIRST_CHAT),
    from_part(2, FIRST_CHAT),
    from_part(-1, FIRST_CHAT),
    from_part(True, FIRST_CHAT),
    from_part("0", FIRST_CHAT),
    from_part(0, "/created"),
    from_part(0, "/choices/0/text"),
    from_part(0, "/choices/00/message/content"),
    from_part(0, None),
    from_part(0, FIRST_CHAT, **{"as": "number"}),
    from_part(0, FIRST_CHAT, more=1),
    {"$from": {"part": 0}},
    {"$from": 0},
    {**from_part(0, FIRST_CHAT), "beside": 1},
]


@pytest.mark.parametrize("reference", _BAD_REFERENCES, ids=str)
def test_a_bad_reference_is_refused_before_anything_runs(
    gateway: RunningGateway, reference: dict[str, Any]
) -> None:
    """Own, later, unknown and uncovered places are refused, and nothing has been asked."""
    started = gateway.model.started
    answer = post(gateway, [chat("a"), complete(reference), complete("c")])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "dependency-invalid")
    assert gateway.model.started == started


@pytest.mark.parametrize(
    "body",
    [
        {"model": from_part(0, FIRST_CHAT), "prompt": "x"},
        {"model": "echo", "prompt": "x", "user": from_part(0, FIRST_CHAT)},
        {"model": "echo", "prompt": "x", "$from": {"part": 0, "path": FIRST_CHAT}},
        {"model": "echo", "prompt": ["x", ["y", from_part(0, FIRST_CHAT)]]},
    ],
)
def test_a_reference_stands_only_where_a_receipt_covers_it(
    gateway: RunningGateway, body: dict[str, Any]
) -> None:
    """A model, a user or a setting cannot be fed."""
    answer = post(gateway, [chat("a"), {"path": "/v1/completions", "body": body}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "dependency-invalid")


def test_a_system_prompt_is_not_fed(gateway: RunningGateway) -> None:
    """An earlier output cannot become the operator's or the caller's instruction."""
    body = {
        "model": "echo",
        "messages": [
            {"role": "system", "content": from_part(0, FIRST_CHAT)},
            {"role": "user", "content": "x"},
        ],
    }
    answer = post(gateway, [chat("a"), {"path": "/v1/chat/completions", "body": body}])
    assert answer.json()["error"]["code"] == "dependency-invalid"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"parts": []}, "too-large"),
        ({"parts": [complete("x")] * 10_000}, "too-large"),
        ({"parts": [{"path": "/v1/models", "body": {}}]}, "invalid-request"),
        ({"parts": [{"path": "/v1/transactions", "body": {}}]}, "invalid-request"),
        ({"parts": [chat("x", stream=True)]}, "invalid-request"),
        ({"parts": [complete("x")], "timeout_seconds": 0}, "invalid-request"),
        ({"parts": [complete("x")], "timeout_seconds": 10**9}, "invalid-request"),
        ({"parts": [{**complete("x"), "unknown": 1}]}, "invalid-request"),
        ({"part": []}, "invalid-request"),
        (
            {"parts": [{**complete("x"), "nonce": "AAAAAAAAAAAAAAAA"}] * 2},
            "nonce-reused",
        ),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    gateway: RunningGateway, document: dict[str, Any], code: str
) -> None:
    """Too many parts, none, other paths, streams, unknown members, a nonce given twice."""
    started = gateway.model.started
    with gateway.http() as http:
        answer = http.post("/v1/transactions", json=document)
    assert answer.json()["error"]["code"] == code
    assert gateway.model.started == started


def test_a_nonce_makes_one_transaction(gateway: RunningGateway) -> None:
    """A second transaction with the nonce of a first is refused: a replay buys nothing."""
    headers = {"verispect-nonce": to_base64url(b"a nonce of mine")}
    with gateway.http() as http:
        body = {"parts": [complete("x")]}
        assert http.post("/v1/transactions", json=body, headers=headers).status_code == 200
        again = http.post("/v1/transactions", json=body, headers=headers)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "nonce-reused")


def test_access_needs_the_key(gateway: RunningGateway) -> None:
    """Without the key, or with another's, a transaction is neither joined, read nor ended."""
    with gateway.http() as http:
        identifier, _ = open_one(gateway, http)
        _, of_another = open_one(gateway, http)
        for key in ({}, of_another):
            where = f"/v1/transactions/{identifier}"
            answers = [
                http.get(where, headers=key),
                http.post(f"{where}/commit", headers=key),
                http.post(f"{where}/abort", headers=key),
                ask_part(http, identifier, key),
            ]
            assert {each.status_code for each in answers} == {403}
        assert http.get(f"/v1/transactions/{'0' * 32}", headers=of_another).status_code == 404
        unknown = ask_part(http, "0" * 32, of_another)
        assert unknown.json()["error"]["code"] == "transaction-not-found"
        wrong_route = http.get(
            "/v1/models", headers={"verispect-transaction": identifier, **of_another}
        )
        assert wrong_route.status_code == 400


def test_a_commit_without_parts_is_refused(gateway: RunningGateway) -> None:
    """Nothing is not a transaction."""
    with gateway.http() as http:
        identifier, key = open_one(gateway, http)
        answer = http.post(f"/v1/transactions/{identifier}/commit", headers=key)
    assert answer.json()["error"]["code"] == "invalid-request"


def test_an_error_in_an_open_transaction_takes_no_place(gateway: RunningGateway) -> None:
    """A refused request is no part: the caller mends it and goes on."""
    with gateway.http() as http:
        identifier, key = open_one(gateway, http)
        bad = {"path": "/v1/completions", "body": {"model": "echo"}}
        assert ask_part(http, identifier, key, bad).status_code == 400
        ask_part(http, identifier, key).raise_for_status()
        done = http.post(f"/v1/transactions/{identifier}/commit", headers=key).json()
    assert (done["state"], done["count"]) == ("committed", 1)


def test_a_stream_that_was_cut_fails_the_transaction(gateway: RunningGateway) -> None:
    """An answer that is not whole is not met, however well it is signed."""
    gateway.model.fail_after = 1
    try:
        with gateway.http() as http:
            identifier, key = open_one(gateway, http)
            part = chat("one two three", stream=True)
            ask_part(http, identifier, key, part)
            answer = http.post(f"/v1/transactions/{identifier}/commit", headers=key)
    finally:
        gateway.model.fail_after = None
    assert (answer.status_code, answer.json()["failure"]) == (
        422,
        {"part": 0, "reason": "transaction-incomplete"},
    )


def test_the_client_refuses_a_transaction_of_another_nonce(gateway: RunningGateway) -> None:
    """A transaction that is not the caller's own is refused, however good it is."""
    with TransactionClient(gateway.base_url) as client:
        mine, other = client.run([complete("x")]), client.run([complete("x")])
    swapped = replace(mine, transaction_id=other.transaction_id, bundle=other.bundle)
    with pytest.raises(VerificationError) as caught:
        verify_transaction(swapped, trusted_root=root_of(gateway), policy=SIGNED, now=NOW)
    assert caught.value.reason is Reason.NONCE_MISMATCH


def test_the_signed_statement_in_the_answer_is_the_one_in_the_file(gateway: RunningGateway) -> None:
    """What the caller gets at once is what anyone fetches later."""
    answer = post(gateway, [complete("x")]).json()
    envelope, statement = open_transaction(from_base64url(answer["receipt"]))
    assert fetch(gateway, answer["id"]).envelope == envelope
    assert statement.count == 1
