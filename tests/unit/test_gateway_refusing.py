"""Evidence that was required and cannot be had: no answer, a clear error, and a leaf in the log."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from running_gateway import run_gateway

from verispect.appraisal.policy import ATTESTED_DEVELOPMENT
from verispect.attesters.development_enclave import DevelopmentEnclave, DevelopmentEnclaveAttester
from verispect.core.envelope import open_envelope
from verispect.core.errors import AttesterError, Reason, RequestError
from verispect.gateway.refusing import refusing
from verispect.ledger.coverage import CoverageCounter
from verispect.ledger.log.state_sqlite import SqliteState
from verispect.ledger.refusals import REFUSALS_FILE, RefusalBook, RefusalOutbox
from verispect.testing.echo_model import EchoLanguageModel
from verispect.tlog.leaf import SignedLeaf, decode_leaf
from verispect.tlog.publications import REFUSAL_TYPE, Refusal
from verispect.tlog.status_table import NodePolicy

QUESTION = {"model": "echo", "messages": [{"role": "user", "content": "a secret of mine"}]}


class BreakingAttester:
    """A development enclave that stops to answer when it is told to."""

    def __init__(self, folder: Path) -> None:
        now = time.time_ns() // 1_000_000
        enclave = DevelopmentEnclave.create(folder, now - 60_000)
        self._inner = DevelopmentEnclaveAttester(enclave, clock=lambda: time.time_ns() // 1_000_000)
        self.name, self.technology = self._inner.name, self._inner.technology
        self.broken = False

    def attest(self, report_data, nonce):
        if self.broken:
            raise AttesterError("the device is gone", reason=Reason.ATTESTER_UNAVAILABLE)
        return self._inner.attest(report_data, nonce)


def leaves(book: RefusalBook) -> list[bytes]:
    return [envelope for _, envelope in book.after(0, 100)]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_evidence_fails_is_withheld_and_the_log_is_told(
    tmp_path: Path, stream: bool
) -> None:
    """No word of the answer leaves, and a signed leaf says what was not delivered, and why."""
    attester = BreakingAttester(tmp_path / "enclave")
    model = EchoLanguageModel()
    with run_gateway(tmp_path, model, attester=attester) as gateway:
        recorder = gateway.state.recorder
        book = recorder.refusals = RefusalBook(tmp_path / REFUSALS_FILE)
        attester.broken = True
        with gateway.http() as client:
            answer = client.post(
                "/v1/chat/completions",
                json={**QUESTION, "stream": stream},
                headers={
                    "verispect-assurance": "attested-development",
                    **({} if stream else {"verispect-attestation": "inference"}),
                },
            )
        assert "attester-unavailable" in answer.text
        assert "secret" not in answer.text
        envelopes = leaves(book)
        assert len(envelopes) == 1
    state = SqliteState(tmp_path / "log.sqlite3")
    outbox = RefusalOutbox(tmp_path / REFUSALS_FILE)
    assert [outbox.follow(state), outbox.follow(state)] == [1, 0]
    assert RefusalOutbox(tmp_path / REFUSALS_FILE).follow(state) == 0
    leaf = SignedLeaf.of(open_envelope(envelopes[0], content_type=REFUSAL_TYPE))
    refusal = leaf.payload
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "attester-unavailable"
    assert refusal.operation == "chat.completions"
    assert refusal.assurance == ATTESTED_DEVELOPMENT.digest()
    assert b"secret" not in leaf.encode()
    assert decode_leaf(leaf.encode()).payload == refusal
    counter = CoverageCounter(NodePolicy(0, []), leaves=lambda: iter([leaf.encode()]))
    counter.replay([leaf.encode()])
    assert counter.figures().refusals == {"attester-unavailable": 1}


def test_what_is_refused_before_any_work_leaves_no_leaf(tmp_path: Path) -> None:
    """A wish that costs nothing must not fill the log."""
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway:
        book = gateway.state.recorder.refusals = RefusalBook(tmp_path / REFUSALS_FILE)
        with gateway.http() as client:
            answer = client.post(
                "/v1/chat/completions", json=QUESTION, headers={"verispect-assurance": "proven"}
            )
        assert answer.status_code == 400
        assert leaves(book) == []
        issuer = gateway.state.recorder.issuer
        with (
            pytest.raises(RequestError),
            refusing(
                book,
                issuer,
                inference="00" * 16,
                operation="infer",
                assurance=ATTESTED_DEVELOPMENT.digest(),
            ),
        ):
            raise RequestError("the caller's mistake", parameter="inputs")
        assert leaves(book) == []


def test_refusals_are_never_taken_back(tmp_path: Path) -> None:
    """The book refuses to change or forget; without a book the error is the same."""
    with run_gateway(tmp_path, EchoLanguageModel()) as gateway:
        issuer = gateway.state.recorder.issuer
        book = RefusalBook(tmp_path / REFUSALS_FILE)
        arguments = {
            "inference": "00" * 16,
            "operation": "infer",
            "assurance": ATTESTED_DEVELOPMENT.digest(),
        }
        for each in (book, None):
            with (
                pytest.raises(AttesterError, match="device is gone"),
                refusing(each, issuer, **arguments),
            ):
                raise AttesterError("the device is gone", reason=Reason.ATTESTER_UNAVAILABLE)
        assert len(leaves(book)) == 1
        with sqlite3.connect(tmp_path / REFUSALS_FILE) as connection:
            for statement in ("DELETE FROM refusals", "UPDATE refusals SET envelope = x'00'"):
                with pytest.raises(sqlite3.IntegrityError):
                    connection.execute(statement)
        book.close()
        with (
            pytest.raises(AttesterError, match="device is gone"),
            refusing(book, issuer, **arguments),
        ):
            raise AttesterError("the device is gone", reason=Reason.ATTESTER_UNAVAILABLE)
