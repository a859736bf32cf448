# ruff: noqa: INP001
"""What the vectors are made from: fixed keys, salts and times, and one good receipt.

Every secret here is derived from a published sentence. All keys are development material in the
plain sense of the word: never trust one outside these vectors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from nacl.signing import SigningKey

from verispect.appraisal.policy import SIGNED
from verispect.core.commitments import Opening, Part, encode_openings
from verispect.core.encoding import decode, encode, to_base64url
from verispect.core.envelope import STATEMENT_TYPE, sign_envelopes, signed_bytes
from verispect.core.keys import PublicKey
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    Price,
    PromisedEvidence,
    ServedLane,
)
from verispect.core.stream import StreamChain

ISSUER = "vectors.example"
NOW = 1_790_000_060_000
SIGNED_AT = 1_790_000_000_000
INFERENCE_ID = bytes.fromhex("0123456789abcdef0123456789abcdef")
SUBJECT = INFERENCE_ID.hex()
NONCE = b"vectors: a nonce"
CHUNKS = ('{"delta":"Hel"}', '{"delta":"lo"}')


def derived(label: str) -> bytes:
    """Return 32 bytes that depend on `label` only."""
    return hashlib.sha256(
        b"verispect test vectors, never to be trusted: " + label.encode()
    ).digest()


@dataclass(frozen=True)
class VectorKey:
    """A key pair that everybody knows."""

    label: str

    @property
    def _signing_key(self) -> SigningKey:
        return SigningKey(derived("key " + self.label))

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return PublicKey(self._signing_key.verify_key.encode())

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (deterministic by RFC 8032)."""
        return self._signing_key.sign(message).signature


GOOD = VectorKey("good")
OTHER = VectorKey("other")
DEVELOPMENT = VectorKey("development")
REVOKED = VectorKey("revoked")
EXPIRED = VectorKey("expired")
FUTURE = VectorKey("future")
UNLISTED = VectorKey("unlisted")

CONTENT: dict[Part, Any] = {
    Part.SYSTEM_PROMPT: ["You are terse."],
    Part.MESSAGES: [{"role": "user", "content": "Say hello."}],
    Part.PARAMETERS: {"temperature": 0.5, "seed": 7, "top_p": 1.0},
    Part.OUTPUT: [{"index": 0, "text": "Hello"}],
}
OPENINGS = {
    part: Opening.of(part, content, salt=derived("salt " + part.label))
    for part, content in CONTENT.items()
}


def model() -> ExecutedModel:
    """Return the model that every statement names."""
    return ExecutedModel(
        identity=ModelIdentity.LOCAL_WEIGHTS,
        model_id=hashlib.sha256(b"model").digest(),  # type: ignore[arg-type]
        engine=hashlib.sha256(b"engine").digest(),  # type: ignore[arg-type]
        determinism=Determinism.EXACT,
        lane=ServedLane.DETERMINISTIC,
    )


def statement(**changes: Any) -> InferenceStatement:
    """Return the good statement with `changes`."""
    chain = StreamChain(INFERENCE_ID)
    for chunk in CHUNKS:
        chain.absorb(chunk.encode())
    good = InferenceStatement(
        sequence=1,
        received_at=SIGNED_AT - 2000,
        completed_at=SIGNED_AT - 1000,
        signed_at=SIGNED_AT,
        operation="chat.completions",
        requested_model="smollm2",
        model=model(),
        commitments={part: opening.commitment() for part, opening in OPENINGS.items()},
        finish_reasons=["stop"],
        usage={"input_tokens": 12, "output_tokens": 2},
        assurance=SIGNED.digest(),
        evidence=[PromisedEvidence("signature")],
        nonce=NONCE,
        stream=chain.binding(),
        price=Price("eip155:1/slip44:60", 100, 200, 16, 20),
    )
    return replace(good, **changes)


def statement_map() -> dict[int, Any]:
    """Return the good statement as the map that is encoded."""
    fields: dict[int, Any] = decode(statement().encode())
    return fields


def protected_map(key: VectorKey = GOOD) -> dict[int, Any]:
    """Return the good protected header, for statements."""
    key_id = key.public_key.key_id
    return {1: -8, 3: STATEMENT_TYPE, 4: bytes(key_id), 15: {1: ISSUER, 2: SUBJECT}}


def sign1(
    payload: bytes,
    *,
    key: VectorKey = GOOD,
    protected: bytes | None = None,
    unprotected: bytes = b"\xa0",
    signature: bytes | None = None,
) -> bytes:
    """Return a tagged COSE_Sign1 built by hand, so that any field can be at fault."""
    header = encode(protected_map(key)) if protected is None else protected
    if signature is None:
        signature = key.sign(signed_bytes(header, payload))
    return b"\xd2\x84" + encode(header) + unprotected + encode(payload) + encode(signature)


def receipt(key: VectorKey = GOOD, **changes: Any) -> bytes:
    """Return the good receipt with `changes` to its statement."""
    return sign1(statement(**changes).encode(), key=key)


def batch(place: int = 0, *, count: int = 5) -> bytes:
    """Return the good statement as one of a batch under one signature."""
    payloads = [(statement(sequence=100 + other).encode(), SUBJECT) for other in range(count)]
    payloads[place] = (statement().encode(), SUBJECT)
    signed = sign_envelopes(payloads, content_type=STATEMENT_TYPE, issuer=ISSUER, signer=GOOD)
    return signed[place].encode()


def openings(**changes: Any) -> bytes:
    """Return the openings of the good receipt, or of those in `changes` by label."""
    chosen = dict(OPENINGS)
    for label, opening in changes.items():
        chosen[Part[label.upper()]] = opening
    return encode_openings(chosen)


def trusted_root(**changes: Any) -> str:
    """Return the trusted root of the vectors as JSON text, with `changes` to its members."""

    def listed(key: VectorKey, **members: Any) -> dict[str, Any]:
        entry = {
            "issuer": ISSUER,
            "key": to_base64url(key.public_key.raw),
            "development": False,
            "notBefore": 0,
        }
        return entry | members

    document: dict[str, Any] = {
        "verispectTrustedRoot": 1,
        "issuerKeys": [
            listed(GOOD),
            listed(OTHER, issuer="another.example"),
            listed(DEVELOPMENT, development=True),
            listed(REVOKED, revokedAt=SIGNED_AT + 1),
            listed(EXPIRED, notAfter=SIGNED_AT),
            listed(FUTURE, notBefore=SIGNED_AT + 1),
        ],
        "models": [{"name": "smollm2", "modelId": hashlib.sha256(b"model").hexdigest()}],
        "expiresAt": NOW + 86_400_000,
    }
    return json.dumps(document | changes)


def policy(body: str = "", claims: str = 'model = ["asserted"]') -> str:
    """Return a policy as TOML text."""
    return f'version = 1\nname = "vectors"\n{body}\n[claims]\n{claims}\n'
