"""One request on its way to its receipt: commitments, the stream chain, and the durable issue.

Routes tell an `Inference` what the answer depends on, part by part; `finish` returns only when the
signed receipt is on disk, so that no answer leaves before. The store gives the sequence number and
has the statement signed in the commit of the receipt.

This module refuses to finish a request twice, to sign what was not begun, and to keep any content
outside the openings, which are erased after their retention.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from verispect.appraisal.policy import PROVEN, SIGNED, AssurancePolicy
from verispect.core.commitments import SALT_BYTES, Opening, Part, encode_openings
from verispect.core.encoding import Digest, encode, encode_content
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import (
    INFERENCE_ID_BYTES,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PromisedEvidence,
    TransactionBinding,
)
from verispect.core.stream import StreamChain, sign_interim
from verispect.engines.interface import EngineIdentity, Lane, Sampling
from verispect.gateway.assurance import (
    OWN_POLICY,
)
from verispect.gateway.http import (
    Confidential,
    PaymentTicket,
    Purchase,
    TransactionTicket,
)
from verispect.gateway.minting import mint
from verispect.gateway.recovery import encode_recovery
from verispect.gateway.refusing import refusing
from verispect.gateway.services import binding_of
from verispect.gateway.serving import ServedModel
from verispect.ledger import NewReceipt
from verispect.ledger.history import ServiceVersion

if TYPE_CHECKING:
    from verispect.gateway.recording import Recorder

INTERIM_EVERY_CHUNKS: Final = 32
"""An interim signature is made after this many chunks of a stream."""

_TIME_BYTES: Final = 6
_USUAL_PARTS: Final = 4
_SIGNATURE_ONLY: Final = (PromisedEvidence("signature"),)


@dataclass(frozen=True, slots=True)
class Issued:
    """A receipt that is on disk and may leave."""

    receipt: bytes
    receipt_id: str
    """Hexadecimal SHA-256 of `receipt`."""


class Inference:
    """One request on its way to a receipt; made by `Recorder.begin`."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        operation: str,
        served: ServedModel,
        requested_model: str,
        lane: Lane,
        policy: AssurancePolicy,
        words: tuple[str, ...],
        attest_inference: bool,
        wait_for_proof: bool,
        nonce: bytes | None,
        received_at: int,
        confidential: Confidential | None,
        ticket: TransactionTicket | None = None,
        payment: PaymentTicket | None = None,
        service: ServiceVersion | None,
    ) -> None:
        self._confidential = confidential
        self._ticket = ticket
        self._payment = payment
        self._is_paid = not recorder.sells
        self._place: TransactionBinding | None = None
        self._service = service
        self._recorder = recorder
        self._operation = operation
        self._served = served
        self._requested_model = requested_model
        self._lane = lane
        self._policy = policy
        self._words = words
        self._is_attested = any(word.startswith("attested") for word in words)
        self._attest_inference = attest_inference
        self._wait_for_proof = wait_for_proof
        self._nonce = nonce
        self._received_at = received_at
        # The time in front keeps the store's index compact; 80 random bits keep it unguessable.
        random_bytes = INFERENCE_ID_BYTES - _TIME_BYTES
        # Drawn at once, with the salts of a usual request: each draw costs a switch of threads.
        self._random = os.urandom(random_bytes + _USUAL_PARTS * SALT_BYTES)
        self._id = received_at.to_bytes(_TIME_BYTES, "big") + self._random[:random_bytes]
        self._random = self._random[random_bytes:]
        self.identifier: Final = self._id.hex()
        self._openings: dict[Part, Opening] = {}
        self._commitments: dict[Part, Digest] = {}
        self._executed: ExecutedModel | None = None
        self._chain: StreamChain | None = None
        self._finished = False

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers to send with the head of the response, streams included.

        They let a caller whose stream was cut fetch the receipt of what it was sent.
        """
        return [
            ("verispect-inference", self.identifier),
            ("verispect-opening-key", self.opening_key),
        ]

    @cached_property
    def opening_key(self) -> str:
        """The bearer key with which the openings are fetched; it is the caller's alone."""
        return self._recorder.opening_key(self._id)

    def with_defaults(self, sampling: Sampling) -> Sampling:
        """Return `sampling` with the defaults of the model's manifest where it does not say."""
        defaults = self._served.generation_defaults
        missing: dict[str, Any] = {
            name: v for name, v in defaults.items() if getattr(sampling, name) is None
        }
        return replace(sampling, **missing) if missing else sampling

    async def pay(
        self, *, max_input_tokens: int, max_output_tokens: int | None, streamed: bool = False
    ) -> None:
        """Have the request paid for; MUST be awaited after all checks and before any work.

        Args:
            max_input_tokens: tokens of the input, at most.
            max_output_tokens: tokens that can be generated, at most; `None` where that is open.
            streamed: whether the answer leaves while it is made.

        Raises:
            RequestError: `payment-required`, `price-unknown`, and why a payment is not accepted.
        """
        recorder = self._recorder
        if not recorder.sells:
            return
        if self._payment is None:
            raise RequestError(
                "inferences are paid for one by one here: open a transaction and send its parts",
                reason=Reason.PAYMENT_REQUIRED,
            )
        if max_output_tokens is None or self._served.identity is not ModelIdentity.LOCAL_WEIGHTS:
            raise RequestError(
                "the tokens of this request cannot be counted beforehand",
                reason=Reason.PRICE_UNKNOWN,
            )
        now = time.time_ns() // 1_000_000
        promised = recorder.promised(self._words, now)
        due = [each.due_at - now for each in promised if each.due_at is not None]
        is_late = bool(due)
        if PROVEN.name in self._words and recorder.proving is not None:
            due.append(recorder.proving.seconds * 1000)
            is_late = is_late or not self._wait_for_proof
        word = self._policy.name
        await self._payment.require(
            Purchase(
                model=self._served.name,
                assurance="+".join(self._words) or SIGNED.name if word == OWN_POLICY else word,
                policy=self._policy,
                max_input_tokens=max_input_tokens,
                max_output_tokens=max_output_tokens,
                streamed=streamed,
                assurance_seconds=-(-max(due, default=0) // 1000),
                is_late=is_late,
            )
        )
        self._is_paid = True

    def use_engine(self, identity: EngineIdentity) -> None:
        """Record the engine that runs the model."""
        self._executed = self._recorder.executed(identity, self._served, self._lane)

    def commit(self, part: Part, value: Any) -> None:
        """Commit to JSON-like content (bytes allowed); a part is committed to once."""
        self.commit_encoded(part, encode_content(value))

    def commit_encoded(self, part: Part, value: bytes) -> None:
        """Commit to content that is encoded already, as `encode_content` does it."""
        if part in self._openings:
            raise RuntimeError(f"{part.label} is committed to already")
        opening = self._published(part, value) or Opening(part, self._salt(), value)
        self._openings[part] = opening
        self._commitments[part] = opening.commitment()

    def _published(self, part: Part, value: bytes) -> Opening | None:
        """Return the opening of the service's version: its receipts hold its own commitments."""
        opening = None if self._service is None else self._service.openings.get(part)
        if opening is not None and opening.value != value:
            raise RuntimeError(f"{part.label} is not what the service's version holds")
        return opening

    def _salt(self) -> bytes:
        """Return random bytes that are given out once."""
        if not self._random:
            self._random = os.urandom(_USUAL_PARTS * SALT_BYTES)
        salt, self._random = self._random[:SALT_BYTES], self._random[SALT_BYTES:]
        return salt

    async def chain(self, chunk: bytes) -> bytes | None:
        """Absorb the exact bytes of the next chunk of a streamed answer, before it is sent.

        Returns only when it is on disk that there is a stream, so that none that a caller saw the
        beginning of goes without a receipt; the same holds for every interim signature.

        Returns:
            An interim signature over everything sent so far, when one is due.

        Raises:
            StoreError: the stream is not durable, so the chunk must not leave.
        """
        first = self._chain is None
        if first and self._is_attested and self._recorder.attestation is not None:
            # Nothing leaves of an answer whose attestation could not be had at its end.
            with self._withheld():
                await self._recorder.attestation.session()
        if self._chain is None:
            await self._take_place()
            self._chain = StreamChain(self._id)
        self._chain.absorb(chunk)
        binding = self._chain.binding()
        due = binding.chunks % INTERIM_EVERY_CHUNKS == 0
        if first or due:
            await self._checkpoint(first=first)
        if not due:
            return None
        issuer = self._recorder.issuer
        return sign_interim(
            binding, issuer=issuer.name, subject=self.identifier, signer=issuer.signer
        ).encode()

    async def _take_place(self) -> None:
        """Take the place in a transaction that the receipt names, once."""
        if self._ticket is not None and self._place is None:
            self._place = await self._ticket.bind(self._id, self._policy)

    async def _checkpoint(self, *, first: bool) -> None:
        """Leave on disk what a later process needs for the receipt, should this one die."""
        statement = self._statement(finish_reasons=("interrupted",), usage={})
        recovery = encode_recovery(statement, self._kept_openings())
        store = self._recorder.store
        save = store.open_stream if first else store.checkpoint_stream
        await asyncio.shield(save(self._id, recovery))

    def _statement(
        self, *, finish_reasons: Sequence[str], usage: Mapping[str, int]
    ) -> InferenceStatement:
        if self._executed is None:
            raise RuntimeError("no engine was recorded")
        now = max(time.time_ns() // 1_000_000, self._received_at)
        bill = None if self._payment is None else self._payment.bill(usage, finish_reasons)
        return InferenceStatement(
            sequence=1,  # The store gives the real one.
            received_at=self._received_at,
            completed_at=now,
            signed_at=now,
            operation=self._operation,
            requested_model=self._requested_model,
            model=self._executed,
            commitments=self._commitments,
            finish_reasons=list(finish_reasons),
            usage=usage,
            assurance=self._policy.digest(),
            evidence=_SIGNATURE_ONLY,
            nonce=self._nonce,
            stream=self._chain.binding() if self._chain else None,
            confidential=self._confidential.key_digest if self._confidential else None,
            transaction=self._place,
            price=None if bill is None else bill[0],
            payment=None if bill is None else bill[1],
            service=None if self._service is None else binding_of(self._service),
        )

    def _kept_openings(self) -> bytes:
        """Return the openings as they go to disk: of an encrypted request, for the caller only."""
        openings = encode_openings(self._openings)
        if self._confidential is None:
            return openings
        return self._confidential.seal_openings(openings, self._id)

    def _end(self) -> None:
        """Check that a receipt may be made, once."""
        if self._finished:
            raise RuntimeError("an inference is finished once")
        self._finished = True
        if not self._is_paid:
            raise RuntimeError("nothing was paid for this")
        if self._service is not None and not self._service.openings.keys() <= self._openings.keys():
            raise RuntimeError("a part of the service's version was left out")

    async def finish(self, *, finish_reasons: Sequence[str], usage: Mapping[str, int]) -> Issued:
        """Sign and store the receipt; what it covers is what was committed to until now.

        A cancelled caller does not stop it: the receipt of what was sent is written all the same.

        Raises:
            StoreError: the receipt is not durable, so the answer must not leave.
        """
        self._end()
        await self._take_place()
        draft = self._statement(finish_reasons=finish_reasons, usage=usage)
        if self._policy.name == OWN_POLICY:
            # Whoever has the receipt finds what it was that the caller required.
            published = self._recorder.published
            await asyncio.to_thread(published.publish, encode(self._policy.to_map()))
        with self._withheld():
            draft, release = await self._with_evidence(draft)
        new = NewReceipt(
            inference_id=self._id,
            mint=lambda sequence: mint(draft, sequence, self.identifier, self._recorder.issuer),
            openings=self._kept_openings(),
        )
        # Once asked for, the store writes it whether or not anybody still waits.
        stored = await self._recorder.store.issue(new)
        if release and self._recorder.proving is not None:
            await self._recorder.proving.release(self.identifier)
        if self._recorder.metrics is not None:
            self._recorder.metrics.issued(self._operation)
        issued = Issued(stored.receipt, stored.receipt_id.hex())
        if self._ticket is not None:
            self._ticket.issued(self._id, issued, finish_reasons)
        if self._payment is not None:
            self._payment.issued(self._id, issued, usage, finish_reasons)
        return issued

    async def _with_evidence(self, draft: InferenceStatement) -> tuple[InferenceStatement, bool]:
        """Name and promise the required evidence; say whether a proof waits for the receipt."""
        release = False
        if self._is_attested:
            draft = await self._attested(draft)
        promised = self._recorder.promised(self._words, draft.completed_at)
        if promised:
            draft = replace(draft, evidence=(*draft.evidence, *promised))
        if PROVEN.name in self._words:
            draft, release = await self._proven(draft)
        return draft, release

    def _withheld(self) -> AbstractContextManager[None]:
        """Note for the log where the answer is withheld because its evidence cannot be had."""
        return refusing(
            self._recorder.refusals,
            self._recorder.issuer,
            inference=self.identifier,
            operation=self._operation,
            assurance=self._policy.digest(),
        )

    async def _attested(self, draft: InferenceStatement) -> InferenceStatement:
        """Name the attestation evidence that the caller required, which is on disk by now."""
        attestation = self._recorder.attestation
        assert attestation is not None  # No other policy was available.
        if self._attest_inference:
            entry = await attestation.inference(self.identifier, draft)
        else:
            entry = await attestation.session()
        named = PromisedEvidence(entry.kind, entry.digest())
        return replace(draft, evidence=(*_SIGNATURE_ONLY, named))

    async def _proven(self, draft: InferenceStatement) -> tuple[InferenceStatement, bool]:
        """Promise a proof, or name one that is there; say whether its job waits for the receipt."""
        proving = self._recorder.proving
        assert proving is not None  # The policy was not available otherwise.
        return await proving.promise(
            self.identifier,
            draft,
            self._openings,
            model=self._served.name,
            wait=self._wait_for_proof,
        )
