"""Begins inferences: what a request requires, and whether this server can deliver and promise it.

A `Recorder` is made once for one issuer. It knows which presets are deliverable and what their
evidence will show, and hands every request that it accepts an `Inference`, which accompanies it to
its receipt. It refuses what cannot be delivered before any work is done.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from verispect.appraisal.policy import AUDITED, PROVEN, SIGNED, AssurancePolicy
from verispect.attesters.signer import Issuer
from verispect.core.encoding import encode_content, to_base64url
from verispect.core.errors import Reason, RequestError
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    ModelIdentity,
    PromisedEvidence,
    ServedLane,
)
from verispect.engines.interface import EngineIdentity, Lane
from verispect.evidence.interface import EvidenceAppraisal
from verispect.gateway.assurance import (
    OWN_POLICY,
    SIGNED_ONLY,
    caller_nonce,
    required_assurance,
    wants_own_attestation,
)
from verispect.gateway.attestation import RENEW_SECONDS, KeyAttestation
from verispect.gateway.http import (
    HttpRequest,
)
from verispect.gateway.inference import Inference
from verispect.gateway.metrics import Metrics
from verispect.gateway.promising import (
    check_certain,
    choose_words,
    forecast_attestation,
    forecast_proof,
)
from verispect.gateway.proving import Proving, wants_to_wait
from verispect.gateway.published import PublishedRecords
from verispect.gateway.serving import ServedModel
from verispect.ledger import ReceiptStore
from verispect.ledger.history import ServiceVersion
from verispect.ledger.refusals import RefusalBook

_OPENING_KEY_BYTES: Final = 16
_LANES: Final = {
    Lane.DETERMINISTIC: ServedLane.DETERMINISTIC,
    Lane.THROUGHPUT: ServedLane.THROUGHPUT,
}
_EXACT: Final = frozenset({Determinism.EXACT, Determinism.EXACT_BATCH_ONE})


def _nothing(now: int) -> Sequence[PromisedEvidence]:  # noqa: ARG001
    return ()


Promises = Callable[[int], Sequence[PromisedEvidence]]
"""Given the time in milliseconds, the evidence that is promised and by when."""


class Recorder:
    """Makes the receipts of one issuer.

    Args:
        issuer: who signs.
        store: where receipts become durable.
        opening_secret: 32 random bytes from which every inference's opening key is derived.
        published: where engine identities are kept for whoever reads a receipt.
        metrics: counters, where the server keeps any.
        attestation: what vouches for the signing key, where this server attests.
        proving: makes promised proofs, where this server proves.
    """

    def __init__(
        self,
        issuer: Issuer,
        store: ReceiptStore,
        *,
        opening_secret: bytes,
        published: PublishedRecords,
        metrics: Metrics | None = None,
        attestation: KeyAttestation | None = None,
        proving: Proving | None = None,
    ) -> None:
        self.proving = proving
        self.issuer = issuer
        self.store = store
        self.metrics = metrics
        self.published = published
        self.attestation = attestation
        self.available = dict(SIGNED_ONLY)
        if attestation is not None:
            self.available[attestation.policy.name] = attestation.policy
        if proving is not None:
            self.available[PROVEN.name] = PROVEN
        self.refusals: RefusalBook | None = None
        """Where it is noted, for the log, that promised evidence could not be had."""
        self.sells = False
        """Whether nothing runs that is not paid for."""
        self._promises: dict[str, Promises] = {}
        self._forecasts: dict[str, EvidenceAppraisal] = {}
        if attestation is not None:
            self._forecasts[attestation.policy.name] = forecast_attestation(
                attestation.evidence_class, age_seconds=RENEW_SECONDS
            )
        if proving is not None:
            self._forecasts[PROVEN.name] = forecast_proof(seconds=proving.seconds)
        self._opening_secret = opening_secret
        self._executed: dict[
            tuple[int, int, Lane], tuple[EngineIdentity, ServedModel, ExecutedModel]
        ] = {}

    def offer(
        self, policy: AssurancePolicy, promises: Promises, forecast: EvidenceAppraisal | None = None
    ) -> None:
        """Deliver `policy` too, with evidence that comes after the answer.

        Args:
            policy: the preset.
            promises: gives the evidence that a statement signed at a time promises.
            forecast: what it will show, for policies that are no preset; none counts on it without.
        """
        if forecast is not None:
            self._forecasts[policy.name] = forecast
        self.available[policy.name] = policy
        self._promises[policy.name] = promises

    def promised(self, words: Sequence[str], now: int) -> list[PromisedEvidence]:
        """Return the evidence of these words that comes later, each kind once."""
        by_kind: dict[str, PromisedEvidence] = {}
        for word in words:
            for promise in self._promises.get(word, _nothing)(now):
                by_kind.setdefault(promise.kind, promise)
        return list(by_kind.values())

    def begin(
        self,
        request: HttpRequest,
        *,
        operation: str,
        served: ServedModel,
        requested_model: str,
        lane: Lane,
        assurance: str | Mapping[str, Any] | None,
        service: ServiceVersion | None = None,
    ) -> Inference:
        """Accept a request for an inference, or refuse it before any work.

        Args:
            request: nonce and assurance are read from its headers.
            operation: the interface called, for example `chat.completions`.
            served: the model that will run.
            requested_model: the name as the caller wrote it.
            lane: how the engine is shared.
            assurance: the body's `assurance` field.
            service: the version of the service that was asked, where one was.

        Raises:
            RequestError: `assurance-unknown`, `assurance-unavailable` or `invalid-request`.
        """
        if request.confidential is not None and served.identity is not ModelIdentity.LOCAL_WEIGHTS:
            raise RequestError(
                "an upstream service runs this model and would read the request", parameter="model"
            )
        policy, words = self._required(request, assurance, served, lane)
        if policy.service_logged and service is None:
            raise RequestError(
                "the required assurance asks for a logged version of a service",
                reason=Reason.ASSURANCE_UNAVAILABLE,
                parameter="assurance",
            )
        attested = any(word.startswith("attested") for word in words)
        nonce = caller_nonce(request.headers)
        if policy.nonce_required and nonce is None:
            raise RequestError(
                "the required assurance asks for a nonce", parameter="Verispect-Nonce"
            )
        return Inference(
            self,
            operation=operation,
            served=served,
            requested_model=requested_model,
            lane=lane,
            policy=policy,
            words=words,
            attest_inference=wants_own_attestation(request.headers, attested=attested),
            wait_for_proof=wants_to_wait(request.headers, proven=PROVEN.name in words),
            nonce=nonce,
            received_at=request.received_at,
            confidential=request.confidential,
            ticket=request.transaction,
            payment=request.payment,
            service=service,
        )

    def _required(
        self,
        request: HttpRequest,
        assurance: str | Mapping[str, Any] | None,
        served: ServedModel,
        lane: Lane,
    ) -> tuple[AssurancePolicy, tuple[str, ...]]:
        """Return the policy that a request requires, and the words whose evidence meets it."""
        confidential = request.confidential is not None
        available = self.deliverable(served, confidential=confidential)
        policy = required_assurance(request.headers, assurance, available)
        if policy is SIGNED:
            return policy, ()
        if policy.name != OWN_POLICY:
            words = tuple(word for word in policy.name.split("+") if word != SIGNED.name)
            if served.identity not in policy.model_identities:
                raise RequestError(
                    f"{policy.name} needs a model whose weights this server loads",
                    reason=Reason.ASSURANCE_UNAVAILABLE,
                    parameter="assurance",
                )
            return policy, words
        forecasts = self.forecasts(served, lane, confidential=confidential)
        if self.sells:
            check_certain(policy, forecasts)
        return policy, choose_words(policy, forecasts, served.identity)

    def deliverable(
        self, served: ServedModel, *, confidential: bool
    ) -> Mapping[str, AssurancePolicy]:
        """Return the presets that an inference of a model can be promised, by name."""
        if self.proving is None or (served.provable and not confidential):
            return self.available
        return {name: each for name, each in self.available.items() if each is not PROVEN}

    def forecasts(
        self, served: ServedModel, lane: Lane, *, confidential: bool
    ) -> dict[str, EvidenceAppraisal]:
        """Return what the evidence of each deliverable word will show of an inference."""
        available = self.deliverable(served, confidential=confidential)
        forecasts = {word: each for word, each in self._forecasts.items() if word in available}
        if lane is not Lane.DETERMINISTIC or served.determinism not in _EXACT:
            forecasts.pop(AUDITED.name, None)  # Nodes could not tell another output from a lie.
        return forecasts

    def executed(self, identity: EngineIdentity, served: ServedModel, lane: Lane) -> ExecutedModel:
        """Return what a statement says of `served` on this engine, whose identity is published."""
        key = (id(identity), id(served), lane)
        known = self._executed.get(key)
        if known is None:
            executed = ExecutedModel(
                identity=served.identity,
                model_id=served.model_id,
                engine=self.published.publish(encode_content(identity.to_content())),
                determinism=served.determinism_on(identity),
                lane=_LANES[lane],
            )
            # Both objects are kept, so that neither `id` is given to another.
            known = self._executed[key] = (identity, served, executed)
        return known[2]

    def opening_key(self, inference_id: bytes) -> str:
        """Return the bearer key with which the openings of an inference are fetched."""
        digest = hmac.digest(self._opening_secret, inference_id, "sha256")
        return to_base64url(digest[:_OPENING_KEY_BYTES])
