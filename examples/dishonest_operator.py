"""A gateway that lies in one way when it is told to: `verispect serve` with five functions changed.

The lie is the word in the file that `VERISPECT_LIE` names; while it is empty the gateway is honest.
It is what `make demo-transaction` sabotages its transactions with. Everything else, the judgement
of its own transactions included, is the ordinary gateway's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from verispect.appraisal.references import Link
from verispect.cli.main import main
from verispect.core.commitments import Opening
from verispect.core.encoding import sha256
from verispect.core.keys import KeyId
from verispect.core.receipt import EvidenceEntry
from verispect.core.statement import PromisedEvidence
from verispect.engines.interface import Delta
from verispect.gateway import log_evidence, proving, transaction_run
from verispect.gateway.attestation import KeyAttestation
from verispect.gateway.generation import Choice
from verispect.gateway.log_door import LogDoor
from verispect.ledger.proof_jobs import ProofJob
from verispect.tlog.status import VERDICTS_KIND

HASTE_MILLISECONDS: Final = 3_000

_read_entry = proving.read_entry
_session = KeyAttestation.session
_absorb = Choice.absorb
_promises = LogDoor.promises
_source_value = transaction_run.source_value


def _told(lie: str) -> bool:
    return Path(os.environ["VERISPECT_LIE"]).read_text() == lie


def _forged_proof(job: ProofJob) -> EvidenceEntry | None:
    """Flip one bit of the proof."""
    entry = _read_entry(job)
    if entry is None or not _told("proof"):
        return entry
    body = bytearray(entry.body)
    body[len(body) // 2] ^= 1
    return replace(entry, body=bytes(body))


async def _foreign_quote(self: KeyAttestation) -> EvidenceEntry:
    """Have the enclave vouch for another key than the one that signs."""
    if not _told("quote"):
        return await _session(self)
    other = KeyAttestation(
        self._attester,
        self.evidence_class,
        KeyId(sha256(b"another key")),
        self._directory,
        hpke_key_digest=self._hpke_key_digest,
    )
    return await _session(other)


def _changed_output(self: Choice, delta: Delta) -> None:
    """Answer something else than what the model said, and sign that."""
    _absorb(self, replace(delta, text=delta.text.upper()) if _told("output") else delta)


def _hasty_promises(self: LogDoor, word: str, *, now: int) -> Sequence[PromisedEvidence]:
    """Promise verdicts sooner than the nodes can give them."""
    promised = _promises(self, word, now=now)
    if not _told("haste"):
        return promised
    due = now + HASTE_MILLISECONDS
    return tuple(
        replace(each, due_at=due) if each.kind == VERDICTS_KIND else each for each in promised
    )


def _other_value(link: Link, opening: Opening | None) -> Any:
    """Feed the next part with something else than the earlier part's output."""
    value = _source_value(link, opening)
    return "[0.5,0.5]" if isinstance(value, str) and _told("feed") else value


if __name__ == "__main__":
    for module in (proving, log_evidence):
        module.read_entry = _forged_proof  # type: ignore[attr-defined]
    KeyAttestation.session = _foreign_quote  # type: ignore[method-assign]
    Choice.absorb = _changed_output  # type: ignore[method-assign]
    transaction_run.source_value = _other_value  # type: ignore[attr-defined]
    LogDoor.promises = _hasty_promises  # type: ignore[method-assign,assignment]
    sys.exit(main(sys.argv[1:]))
