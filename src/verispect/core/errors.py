"""The whole exception tree and the stable reason codes.

    Error
      MalformedError        bytes are not the format
      UnsupportedError      well-formed, but a version or kind we do not know
      VerificationError     we checked, and the answer is no
      TrustError            our own roots are missing, stale or contradictory
      RequestError          a caller asked for something this server refuses to do
      ModelError            a model is unknown, changed or cannot be served
      EngineError           an engine failed or is not available
      AttesterError         this machine cannot attest
      StoreError            durable state is missing, damaged or not writable
      NetworkError          only from rooms that reach a network

"No" (`VerificationError`), "could not tell" (`TrustError`, `UnsupportedError`) and "not
understood" (`MalformedError`) are different answers and never share a class. Messages are lower
case, without a full stop, and never hold secrets, prompts or outputs.

This module refuses to hold anything but errors; it imports nothing of ours.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable codes: used in JSON, in test vectors and by callers; never renamed."""

    # Not understood.
    MALFORMED_CBOR = "malformed-cbor"
    MALFORMED_JSON = "malformed-json"
    MALFORMED_ENVELOPE = "malformed-envelope"
    MALFORMED_STATEMENT = "malformed-statement"
    MALFORMED_EVIDENCE = "malformed-evidence"
    MALFORMED_OPENING = "malformed-opening"
    MALFORMED_KEY = "malformed-key"
    MALFORMED_POLICY = "malformed-policy"
    POLICY_CONTRADICTORY = "policy-contradictory"
    POLICY_CYCLE = "policy-cycle"
    MALFORMED_TRUSTED_ROOT = "malformed-trusted-root"
    MALFORMED_MANIFEST = "malformed-manifest"
    MALFORMED_MODEL = "malformed-model"
    MALFORMED_TRANSCRIPT = "malformed-transcript"
    MALFORMED_TILE = "malformed-tile"
    MALFORMED_NOTE = "malformed-note"
    MALFORMED_CHECKPOINT = "malformed-checkpoint"
    MALFORMED_LOG_PROOF = "malformed-log-proof"
    MALFORMED_LEAF = "malformed-leaf"
    MALFORMED_PROOF = "malformed-proof"
    MALFORMED_PRICE_SHEET = "malformed-price-sheet"
    MALFORMED_PAYMENT = "malformed-payment"
    MALFORMED_TRANSACTION = "malformed-transaction"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    # Understood, but not by this version.
    UNSUPPORTED_VERSION = "unsupported-version"
    UNSUPPORTED_ALGORITHM = "unsupported-algorithm"
    UNSUPPORTED_CRITICAL_FIELD = "unsupported-critical-field"
    UNSUPPORTED_EVIDENCE = "unsupported-evidence"
    UNSUPPORTED_MODEL = "unsupported-model"
    UNSUPPORTED_LEAF = "unsupported-leaf"
    # Checked, and the answer is no.
    SIGNATURE_INVALID = "signature-invalid"
    KEY_UNKNOWN = "key-unknown"
    KEY_EXPIRED = "key-expired"
    KEY_NOT_YET_VALID = "key-not-yet-valid"
    KEY_REVOKED = "key-revoked"
    KEY_COMPROMISED = "key-compromised"
    ISSUER_MISMATCH = "issuer-mismatch"
    DEVELOPMENT_KEY = "development-key"
    SIGNED_IN_FUTURE = "signed-in-future"
    TIMES_INCONSISTENT = "times-inconsistent"
    NONCE_MISSING = "nonce-missing"
    NONCE_MISMATCH = "nonce-mismatch"
    RECEIPT_TOO_OLD = "receipt-too-old"
    OPENING_MISMATCH = "opening-mismatch"
    OPENING_UNCOMMITTED = "opening-uncommitted"
    CONTENT_MISMATCH = "content-mismatch"
    CONTENT_NOT_OPENED = "content-not-opened"
    STREAM_MISMATCH = "stream-mismatch"
    EVIDENCE_UNBOUND = "evidence-unbound"
    EVIDENCE_MISSING = "evidence-missing"
    EVIDENCE_INVALID = "evidence-invalid"
    EVIDENCE_REFUTES = "evidence-refutes"
    EVIDENCE_PENDING = "evidence-pending"
    EVIDENCE_LATE = "evidence-late"
    EVIDENCE_OVERDUE = "evidence-overdue"
    POLICY_EMPTY = "policy-empty"
    POLICY_UNMET = "policy-unmet"
    MODEL_NOT_ACCEPTED = "model-not-accepted"
    # The log, checked.
    INCLUSION_INVALID = "inclusion-invalid"
    CONSISTENCY_INVALID = "consistency-invalid"
    LOG_UNKNOWN = "log-unknown"
    LOG_FORKED = "log-forked"
    WITNESSES_MISSING = "witnesses-missing"
    VERDICTS_MISSING = "verdicts-missing"
    VERDICTS_CONFLICT = "verdicts-conflict"
    RECEIPT_WITHHELD = "receipt-withheld"
    SEQUENCE_REUSED = "sequence-reused"
    # Proofs of a computation, checked.
    PROOF_INVALID = "proof-invalid"
    PROOF_WRONG_MODEL = "proof-wrong-model"
    PROOF_WRONG_MODE = "proof-wrong-mode"
    PROOF_WRONG_CONTEXT = "proof-wrong-context"
    PROOF_WRONG_BATCH = "proof-wrong-batch"
    PROOF_WRONG_INPUT = "proof-wrong-input"
    PROOF_WRONG_OUTPUT = "proof-wrong-output"
    PROOF_UNSOUND = "proof-unsound"
    # Attestation evidence, checked.
    ATTESTATION_EXPIRED = "attestation-expired"
    ATTESTATION_NOT_YET_VALID = "attestation-not-yet-valid"
    ATTESTATION_SIGNATURE_INVALID = "attestation-signature-invalid"
    ATTESTATION_ROOT_UNTRUSTED = "attestation-root-untrusted"
    ATTESTATION_REVOKED = "attestation-revoked"
    ATTESTATION_DEBUG = "attestation-debug"
    ATTESTATION_ATTRIBUTES = "attestation-attributes"
    ATTESTATION_BINDING_INVALID = "attestation-binding-invalid"
    ATTESTATION_NONCE_MISMATCH = "attestation-nonce-mismatch"
    ATTESTATION_NOT_FRESH = "attestation-not-fresh"
    ATTESTATION_MEASUREMENT_MISMATCH = "attestation-measurement-mismatch"
    ATTESTATION_NEGATIVE = "attestation-negative"
    ATTESTATION_CLASS_REFUSED = "attestation-class-refused"
    TCB_OUT_OF_DATE = "tcb-out-of-date"
    TCB_SW_HARDENING = "tcb-sw-hardening"
    TCB_CONFIGURATION = "tcb-configuration"
    TCB_REVOKED = "tcb-revoked"
    TCB_UNKNOWN = "tcb-unknown"
    TCB_ADVISORY_REFUSED = "tcb-advisory-refused"
    # The anchor in a chain, checked.
    ANCHOR_MISSING = "anchor-missing"
    ANCHOR_CONFLICT = "anchor-conflict"
    ANCHOR_CONTRACT_UNKNOWN = "anchor-contract-unknown"
    DEVELOPMENT_CHAIN = "development-chain"
    CHAIN_REVERTED = "chain-reverted"
    CHAIN_UNEXPECTED = "chain-unexpected"
    CHAIN_UNCONFIRMED = "chain-unconfirmed"
    CHAIN_FAILED = "chain-failed"
    # A transaction of several inferences, checked.
    TRANSACTION_FAILED = "transaction-failed"
    TRANSACTION_ABORTED = "transaction-aborted"
    TRANSACTION_INCOMPLETE = "transaction-incomplete"
    TRANSACTION_CONTRADICTED = "transaction-contradicted"
    TRANSACTION_MISMATCH = "transaction-mismatch"
    DEPENDENCY_INVALID = "dependency-invalid"
    NONCE_REUSED = "nonce-reused"
    # The bill and the payment, checked.
    METERING_MISSING = "metering-missing"
    METERING_MISMATCH = "metering-mismatch"
    PAYMENT_INVALID = "payment-invalid"
    PAYMENT_STALE = "payment-stale"
    OFFER_INVALID = "offer-invalid"
    # The history of a service, checked.
    SERVICE_UNLOGGED = "service-unlogged"
    SERVICE_CHANGED = "service-changed"
    # Our own roots.
    TRUSTED_ROOT_EMPTY = "trusted-root-empty"
    TRUSTED_ROOT_STALE = "trusted-root-stale"
    POLICY_ROOT_UNKNOWN = "policy-root-unknown"
    # Serving.
    INVALID_REQUEST = "invalid-request"
    ROUTE_NOT_FOUND = "route-not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    MEDIA_TYPE_UNSUPPORTED = "media-type-unsupported"
    REQUEST_TIMEOUT = "request-timeout"
    SERVER_OVERLOADED = "server-overloaded"
    INTERNAL_ERROR = "internal-error"
    ASSURANCE_UNKNOWN = "assurance-unknown"
    ASSURANCE_UNAVAILABLE = "assurance-unavailable"
    PRICE_UNKNOWN = "price-unknown"
    PAYMENT_REQUIRED = "payment-required"
    PAYMENT_PENDING = "payment-pending"
    PAYMENT_CONFLICT = "payment-conflict"
    PAYMENT_OVERDUE = "payment-overdue"
    PAYMENT_BUSY = "payment-busy"
    PAYMENT_UNPROVEN = "payment-unproven"
    SPEND_LIMIT = "spend-limit"
    MODEL_NOT_FOUND = "model-not-found"
    MODEL_CHANGED = "model-changed"
    MODEL_EXISTS = "model-exists"
    MASKS_EXHAUSTED = "masks-exhausted"
    ENGINE_FAILED = "engine-failed"
    PROOF_FAILED = "proof-failed"
    ENGINE_UNAVAILABLE = "engine-unavailable"
    ENGINE_OVERLOADED = "engine-overloaded"
    ATTESTER_UNAVAILABLE = "attester-unavailable"
    UPSTREAM_FAILED = "upstream-failed"
    STORE_FAILED = "store-failed"
    STORE_LOCKED = "store-locked"
    STORE_CONFLICT = "store-conflict"
    STORE_ROLLED_BACK = "store-rolled-back"
    LEAF_PENDING = "leaf-pending"
    RECEIPT_NOT_FOUND = "receipt-not-found"
    RESPONSE_NOT_FOUND = "response-not-found"
    TRANSACTION_NOT_FOUND = "transaction-not-found"
    TRANSACTION_FORBIDDEN = "transaction-forbidden"
    TRANSACTION_CLOSED = "transaction-closed"
    TRANSACTION_BUSY = "transaction-busy"
    OPENING_FORBIDDEN = "opening-forbidden"
    CONFIDENTIAL_KEY_UNKNOWN = "confidential-key-unknown"
    CONFIDENTIAL_REQUEST_INVALID = "confidential-request-invalid"
    CONFIDENTIAL_REPLAYED = "confidential-replayed"
    CONFIDENTIAL_RESPONSE_INVALID = "confidential-response-invalid"
    NETWORK_FAILED = "network-failed"


class Error(Exception):
    """Base of every error that Verispect raises on purpose.

    Args:
        message: lower case, no full stop, free of secrets, prompts and outputs.
        reason: the stable code.
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]} ({self.reason.value})"

    @property
    def message(self) -> str:
        """The message without its reason code."""
        return str(self.args[0])


class MalformedError(Error):
    """The bytes are not the format."""


class UnsupportedError(Error):
    """Well-formed, but of a version, algorithm or kind that this software does not know."""


class VerificationError(Error):
    """The check was made and the answer is no."""


class TrustError(Error):
    """The verifier's own roots are missing, stale or contradictory."""


class RequestError(Error):
    """A caller's request is refused before any work is done.

    Args:
        parameter: the request field at fault, where one is.
    """

    def __init__(
        self, message: str, *, reason: Reason = Reason.INVALID_REQUEST, parameter: str | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.parameter = parameter


class ModelError(Error):
    """A model is unknown, was changed after registration, or cannot be served."""


class EngineError(Error):
    """An engine failed, is overloaded or is not installed."""


class AttesterError(Error):
    """This machine cannot attest: the device is missing, busy or refused."""


class StoreError(Error):
    """Durable state is missing, damaged, locked or not writable."""


class NetworkError(Error):
    """A peer could not be reached or broke the protocol."""
