# ruff: noqa: INP001
"""The cases that stop at the format: cbor, envelope, statement, commitment, stream and the like.

Each yields `(name, description, inputs, result, reason)`; one fault per case.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from material import (
    CHUNKS,
    GOOD,
    INFERENCE_ID,
    NONCE,
    OPENINGS,
    OTHER,
    SUBJECT,
    VectorKey,
    batch,
    derived,
    openings,
    policy,
    protected_map,
    sign1,
    statement,
    statement_map,
    trusted_root,
)

from verispect.appraisal.policy import AssurancePolicy
from verispect.core.commitments import Opening, Part
from verispect.core.encoding import encode, encode_content, to_base64url
from verispect.core.envelope import STATEMENT_TYPE, STREAM_TYPE
from verispect.core.stream import StreamChain, sign_interim

Case = tuple[str, str, dict[str, Any], str, str | None]
ACCEPTED = ("accepted", None)

_CBOR_REFUSED = {
    "empty": ("", "no item at all"),
    "trailing-byte": ("0000", "a byte after the item"),
    "truncated-argument": ("19ff", "an argument that ends early"),
    "truncated-text": ("6261", "text that ends early"),
    "truncated-array": ("8201", "an array that ends early"),
    "truncated-map": ("a101", "a map whose last value is missing"),
    "integer-not-minimal-1": ("1817", "23 in two bytes"),
    "integer-not-minimal-2": ("190017", "23 in three bytes"),
    "integer-not-minimal-4": ("1a0000ffff", "65535 in five bytes"),
    "integer-not-minimal-8": ("1b00000000ffffffff", "a 32-bit integer in nine bytes"),
    "negative-not-minimal": ("3800", "-1 in two bytes"),
    "length-not-minimal": ("580161", "a byte string with a long length"),
    "indefinite-bytes": ("5f4161ff", "a byte string of indefinite length"),
    "indefinite-text": ("7f6161ff", "text of indefinite length"),
    "indefinite-array": ("9f01ff", "an array of indefinite length"),
    "indefinite-map": ("bf0101ff", "a map of indefinite length"),
    "break-alone": ("ff", "a break outside any item"),
    "reserved-information": ("1c", "additional information 28 is reserved"),
    "float-16": ("f93c00", "floating point"),
    "float-32": ("fa3f800000", "floating point"),
    "float-64": ("fb3ff199999999999a", "floating point"),
    "not-a-number": ("f97e00", "a NaN"),
    "undefined": ("f7", "undefined"),
    "simple-unassigned": ("e0", "an unassigned simple value"),
    "simple-two-bytes": ("f8ff", "a simple value in two bytes"),
    "simple-two-bytes-false": ("f814", "false in two bytes"),
    "text-not-utf8": ("61ff", "text that is not UTF-8"),
    "text-surrogate": ("63eda080", "text with an encoded surrogate"),
    "text-overlong": ("62c080", "text with an overlong NUL"),
    "map-duplicate-key": ("a201010102", "the same key twice"),
    "map-out-of-order": ("a202010101", "keys out of order"),
    "map-text-out-of-order": ("a262616101616202", "a longer text key first"),
    "map-mixed-keys": ("a20101616101", "integer and text keys in one map"),
    "map-key-array": ("a18001", "an array as a key"),
    "map-key-boolean": ("a1f501", "a boolean as a key"),
    "map-key-null": ("a1f601", "null as a key"),
    "tag-date": ("c001", "a tag that is not a decimal fraction"),
    "tag-bignum": ("c249010000000000000000", "a bignum"),
    "tag-bigfloat": ("c5822003", "a bigfloat"),
    "tag-not-minimal": ("d804822005", "tag 4 in two bytes"),
    "tag-self-described": ("d9d9f700", "the self-described CBOR tag"),
    "fraction-not-shortest": ("c482211832", "50e-2 where 5e-1 is the shortest"),
    "fraction-zero-exponent": ("c4822000", "0e-1 where 0e0 is the shortest"),
    "fraction-three-fields": ("c483200501", "a fraction of three fields"),
    "fraction-boolean": ("c48220f5", "a boolean mantissa"),
    "fraction-boolean-exponent": ("c482f505", "a boolean exponent"),
    "fraction-text": ("c4616", "a fraction of text"),
    "fraction-overflow": ("c48219018f01", "1e399 is no finite double"),
    "fraction-exponent-large": ("c4821901f401", "an exponent beyond the limit"),
    "fraction-beyond-double": (
        "c482321b2386f26fc0ffff01",
        "more digits than a double has",
    ),
}


def cbor() -> Iterator[Case]:
    """Yield the cases of the encoding."""
    accepted: dict[str, Any] = {
        "zero": 0,
        "largest-immediate": 23,
        "one-byte": 24,
        "two-bytes": 256,
        "four-bytes": 65_536,
        "largest-unsigned": (1 << 64) - 1,
        "minus-one": -1,
        "smallest-negative": -(1 << 64),
        "text": "ü",
        "null": None,
        "booleans": [False, True],
        "empty-array": [],
        "empty-map": {},
        "fraction": 0.5,
        "fraction-whole": 1.0,
        "fraction-negative": -1.5e-7,
        "fraction-smallest": 5e-324,
        "fraction-largest": 1.7976931348623157e308,
        "fraction-zero": 0.0,
        "map-order": {"b": 1, "aa": 2, "c": {"z": [], "a": None}},
    }
    for name, value in accepted.items():
        inputs = {"cbor": encode_content(value).hex(), "value": value}
        yield (f"accept-{name}", "the one encoding of this value", inputs, *ACCEPTED)
    yield ("accept-bytes", "a byte string", {"cbor": "43010203"}, *ACCEPTED)
    yield (
        "accept-depth-32",
        "as deep as the limit allows",
        {"cbor": "81" * 32 + "00"},
        *ACCEPTED,
    )
    for name, (text, description) in _CBOR_REFUSED.items():
        data = text.replace(" ", "")
        inputs = {"cbor": data if len(data) % 2 == 0 else data + "1"}
        yield (name, description, inputs, "malformed", "malformed-cbor")
    deep = {"cbor": "81" * 33 + "00"}
    yield ("depth-33", "nested beyond the limit", deep, "malformed", "too-deep")
    tagged = {"cbor": "81" * 32 + "c4822005"}
    yield ("depth-33-tag", "a tag beyond the limit", tagged, "malformed", "too-deep")
    for name, text in (
        ("array-of-2-to-40", "9b0000010000000000"),
        ("map-of-2-to-63", "bb8000000000000000"),
        ("nested-arrays-of-4-million", "829a0040000000"),
    ):
        description = "a header that declares more items than the limit"
        yield (name, description, {"cbor": text}, "malformed", "too-large")
    # Byte and text strings that claim more than is there build nothing, and simply end early.
    yield (
        "bytes-of-2-to-40",
        "a byte string longer than its input",
        {"cbor": "5b0000010000000000"},
        "malformed",
        "malformed-cbor",
    )


def envelope() -> Iterator[Case]:
    """Yield the cases of the COSE_Sign1 envelope."""
    payload = statement().encode()

    def case(
        name: str,
        description: str,
        data: bytes,
        reason: str | None = "malformed-envelope",
        result: str = "malformed",
    ) -> Case:
        inputs = {"envelope": data.hex(), "contentType": STATEMENT_TYPE}
        return (name, description, inputs, "accepted" if reason is None else result, reason)

    def header(**changes: Any) -> bytes:
        fields = {str(key): value for key, value in protected_map().items()} | changes
        encoded = {int(key): value for key, value in fields.items() if value is not ...}
        return sign1(payload, protected=encode(encoded))

    def unprotected(value: Any) -> bytes:
        return sign1(payload, unprotected=encode(value))

    good = sign1(payload)
    yield case("accept", "a good envelope", good, None)
    yield case("accept-algorithm-19", "Ed25519 of RFC 9864", header(**{"1": -19}), None)
    entry = ["example", "example-v1", 0, b"body", b""]
    yield case("accept-evidence", "one evidence entry", unprotected({-70001: [entry]}), None)
    yield case("accept-batch", "one of five under one signature", batch(3), None)
    header_of_batch = encode(protected_map() | {1: -70002})
    for length in (64, 67, 69, 420):
        damaged = sign1(payload, protected=header_of_batch, signature=b"\0" * length)
        yield case(f"batch-signature-{length}", f"a batch signature of {length} bytes", damaged)
    yield case("single-with-path", "-8 with a path", sign1(payload, signature=b"\0" * 100))
    yield case("untagged", "no COSE_Sign1 tag", good[1:])
    yield case("tag-sign", "the tag of COSE_Sign", b"\xd8\x62" + good[1:])
    yield case("tag-not-minimal", "tag 18 in two bytes", b"\xd8\x12" + good[1:])
    yield case("tag-twice", "a tag on the tag", b"\xd2" + good, "malformed-cbor")
    yield case("trailing-byte", "a byte after the end", good + b"\x00", "malformed-cbor")
    yield case("three-fields", "an array of three", b"\xd2" + encode([b"", {}, payload]))
    five = [encode(protected_map()), {}, payload, b"\x00" * 64, b""]
    yield case("five-fields", "an array of five", b"\xd2" + encode(five))
    nil = [encode(protected_map()), {}, None, b"\x00" * 64]
    yield case("payload-nil", "a detached payload", b"\xd2" + encode(nil))
    text = [encode(protected_map()), {}, payload, "0" * 64]
    yield case("signature-text", "a signature of text", b"\xd2" + encode(text))
    direct = [protected_map(), {}, payload, b"\x00" * 64]
    yield case("protected-map", "a protected header that is not wrapped", b"\xd2" + encode(direct))
    yield case("signature-63", "a signature of 63 bytes", sign1(payload, signature=b"\0" * 63))
    yield case("signature-65", "a signature of 65 bytes", sign1(payload, signature=b"\0" * 65))
    yield case("signature-empty", "an empty signature", sign1(payload, signature=b""))
    yield case(
        "protected-empty", "no protected header", sign1(payload, protected=b""), "malformed-cbor"
    )
    yield case("protected-empty-map", "no parameters", sign1(payload, protected=b"\xa0"))
    yield case("protected-array", "not a map", sign1(payload, protected=b"\x80"))
    long = header(**{"3": "x" * 1024})
    yield case("protected-large", "a protected header of over 1024 bytes", long, "too-large")
    yield case("content-type-stream", "an interim signature", header(**{"3": STREAM_TYPE}))
    yield case("content-type-integer", "a CoAP content format", header(**{"3": 60}))
    yield case("content-type-missing", "no content type", header(**{"3": ...}))
    yield case("key-id-missing", "no key identifier", header(**{"4": ...}))
    yield case("key-id-31", "a key identifier of 31 bytes", header(**{"4": b"k" * 31}))
    yield case("key-id-text", "a key identifier of text", header(**{"4": "k" * 32}))
    yield case("claims-missing", "no CWT claims", header(**{"15": ...}))
    yield case("claims-text", "CWT claims that are not a map", header(**{"15": "iss"}))
    yield case("issuer-missing", "no issuer", header(**{"15": {2: SUBJECT}}))
    yield case("subject-missing", "no subject", header(**{"15": {1: "a"}}))
    yield case("claims-extra", "a further claim", header(**{"15": {1: "a", 2: "b", 6: 0}}))
    yield case("issuer-empty", "an empty issuer", header(**{"15": {1: "", 2: "b"}}))
    yield case(
        "issuer-129", "an issuer of 129 characters", header(**{"15": {1: "a" * 129, 2: "b"}})
    )
    yield case("issuer-newline", "an issuer of two lines", header(**{"15": {1: "a\nb", 2: "b"}}))
    yield case("subject-bytes", "a subject of bytes", header(**{"15": {1: "a", 2: b"b"}}))
    yield case("subject-65", "a subject of 65 characters", header(**{"15": {1: "a", 2: "b" * 65}}))
    yield case("parameter-unknown", "a further parameter", header(**{"16": "application/x"}))
    yield case(
        "critical",
        "a critical parameter",
        header(**{"2": [3]}),
        "unsupported-critical-field",
        "unsupported",
    )
    for name, value in (
        ("es256", -7),
        ("missing", ...),
        ("text", "EdDSA"),
        ("none", 0),
        ("hmac", 5),
    ):
        reason = "malformed-envelope" if value is ... else "unsupported-algorithm"
        result = "malformed" if value is ... else "unsupported"
        data = header(**{"1": value})
        yield case(f"algorithm-{name}", f"algorithm {name}", data, reason, result)
    yield case("unprotected-unknown", "an unknown unprotected parameter", unprotected({4: b"k"}))
    both = unprotected({-70001: [entry], -70002: 0})
    yield case("unprotected-both", "evidence and something else", both)
    yield case("unprotected-array", "not a map", unprotected([]))
    yield case("evidence-empty", "evidence that is empty", unprotected({-70001: []}))
    yield case("evidence-map", "evidence that is a map", unprotected({-70001: {0: 0}}))
    yield case("evidence-33", "33 entries", unprotected({-70001: [entry] * 33}))
    many = unprotected({-70001: [[0] * 256]})
    yield case("evidence-many-items", "more items than an envelope needs", many, "too-large")
    duplicate = unprotected({}) and sign1(payload, unprotected=b"\xa2\x01\x00\x01\x00")
    yield case("unprotected-duplicate", "the same parameter twice", duplicate, "malformed-cbor")


def statement_cases() -> Iterator[Case]:
    """Yield the cases of the statement."""

    def case(
        name: str,
        description: str,
        payload: bytes,
        reason: str | None = "malformed-statement",
        result: str = "malformed",
    ) -> Case:
        inputs = {"payload": payload.hex()}
        return (name, description, inputs, "accepted" if reason is None else result, reason)

    def changed(field: int, value: Any) -> bytes:
        fields = statement_map() | {field: value}
        return encode({key: item for key, item in fields.items() if item is not ...})

    digest = b"d" * 32
    everything = {
        17: ["exact", digest],
        18: [b"t" * 16, 0, 3],
        13: [["signature", None, None], ["example", digest, None], ["later", None, 1]],
        19: digest,
        20: ["support", 2, digest],
    }
    yield case("accept", "a good statement", statement().encode(), None)
    yield case("accept-everything", "every field", encode(statement_map() | everything), None)
    least = {key: value for key, value in statement_map().items() if key <= 13}
    yield case("accept-least", "required fields only", encode(least), None)
    yield case("not-a-map", "an array", encode([1]))
    yield case("text-keys", "fields by name", encode({"version": 1}))
    for version in (0, 2):
        data = changed(1, version)
        yield case(
            f"version-{version}", "another version", data, "unsupported-version", "unsupported"
        )
    yield case("version-true", "true as the version", changed(1, True))
    yield case("field-unknown", "an unknown field", changed(20, 0))
    yield case("field-negative", "a key beside the integers that are fields", encode({-1: 0}))
    for field in range(1, 14):
        yield case(
            f"field-{field}-missing", f"required field {field} is absent", changed(field, ...)
        )
        yield case(f"field-{field}-null", f"field {field} is null", changed(field, None))
    for field in range(14, 20):
        yield case(f"field-{field}-null", f"field {field} is null", changed(field, None))
    yield case("sequence-0", "sequence numbers start at 1", changed(2, 0))
    yield case("sequence-negative", "a negative sequence number", changed(2, -1))
    yield case("sequence-2-to-63", "beyond 63 bits", changed(2, 1 << 63))
    yield case(
        "time-fraction", "a time with a fraction", encode_content(statement_map() | {5: 1.5})
    )
    yield case("operation-empty", "no operation", changed(6, ""))
    yield case("operation-bytes", "bytes for text", changed(6, b"chat"))
    yield case("model-name-257", "a name of 257 characters", changed(7, "m" * 257))
    yield case("model-name-escape", "a name with a control character", changed(7, "m\x1b[2J"))
    yield case("model-name-override", "a name that turns its line round", changed(7, "m\u202ec"))
    identity, model_id, engine, determinism, lane = statement_map()[8]
    yield case("model-row-4", "a short row", changed(8, [identity, model_id, engine, determinism]))
    yield case("identity-0", "an unknown identity", changed(8, [0, model_id, engine, 1, lane]))
    yield case("identity-true", "true is not 1", changed(8, [True, model_id, engine, 1, lane]))
    yield case("lane-3", "an unknown lane", changed(8, [identity, model_id, engine, 1, 3]))
    yield case("determinism-5", "an unknown class", changed(8, [identity, model_id, engine, 5, 1]))
    yield case("model-id-31", "a short digest", changed(8, [identity, b"m" * 31, engine, 1, lane]))
    yield case("commitment-part-0", "an unknown part", changed(9, {0: digest}))
    yield case("commitment-part-12", "an unknown part", changed(9, {12: digest}))
    yield case("commitment-31", "a short commitment", changed(9, {1: b"c" * 31}))
    yield case("commitment-text-key", "a part by name", changed(9, {"output": digest}))
    yield case("finish-reasons-129", "129 finish reasons", changed(10, ["stop"] * 129))
    yield case("finish-reason-integer", "a reason that is not text", changed(10, [1]))
    yield case("usage-unknown", "usage of something unknown", changed(11, {"tokens": 1}))
    yield case("usage-negative", "negative usage", changed(11, {"input_tokens": -1}))
    yield case("usage-true", "true is not 1", changed(11, {"input_tokens": True}))
    yield case("assurance-text", "a digest in hexadecimal", changed(12, "00" * 32))
    yield case("confidential-31", "a short key digest", changed(19, b"c" * 31))
    yield case("confidential-text", "a key digest in hexadecimal", changed(19, "00" * 32))
    yield case("promises-17", "17 promises", changed(13, [["signature", None, None]] * 17))
    yield case("promise-row-2", "a short promise", changed(13, [["signature", None]]))
    yield case("promise-newline", "a kind of two lines", changed(13, [["a\nb", None, None]]))
    yield case("nonce-7", "a nonce of 7 bytes", changed(14, NONCE[:7]))
    yield case("nonce-65", "a nonce of 65 bytes", changed(14, b"n" * 65))
    yield case("nonce-text", "a nonce of text", changed(14, "n" * 16))
    yield case("stream-negative", "a negative count", changed(15, [-1, digest]))
    yield case("stream-head-31", "a short head", changed(15, [1, digest[:31]]))
    yield case("charge-over-ceiling", "more than was authorised", changed(16, ["a", 1, 1, 21, 20]))
    yield case("price-row-4", "a short price", changed(16, ["a", 1, 1, 20]))
    yield case("payment-digest", "a short authorisation", changed(17, ["exact", b""]))
    yield case("transaction-index", "an index not below the count", changed(18, [b"t" * 16, 3, 3]))
    yield case("transaction-id-15", "a short identifier", changed(18, [b"t" * 15, 0, 1]))
    yield case("transaction-id-text", "text for bytes", changed(18, ["t" * 16, 0, 1]))
    yield case("too-large", "over 4096 bytes", changed(10, ["r" * 250] * 17), "too-large")
    irregular = statement().encode()
    yield case("trailing-byte", "a byte after the end", irregular + b"\0", "malformed-cbor")


def commitment() -> Iterator[Case]:
    """Yield the cases of openings against commitments."""
    commitments = {part.label: opening.commitment().hex() for part, opening in OPENINGS.items()}
    good = OPENINGS[Part.OUTPUT]

    def case(name: str, description: str, data: bytes, result: str, reason: str | None) -> Case:
        return (
            name,
            description,
            {"openings": data.hex(), "commitments": commitments},
            result,
            reason,
        )

    def raw(parts: Any, magic: Any = "verispect-openings", version: Any = 1) -> bytes:
        return encode([magic, version, parts])

    def malformed(name: str, description: str, data: bytes) -> Case:
        return case(name, description, data, "malformed", "malformed-opening")

    yield case("accept", "four openings", openings(), *ACCEPTED)
    changed = Opening.of(Part.OUTPUT, [{"index": 0, "text": "Hellp"}], salt=good.salt)
    yield case("value", "another value", openings(output=changed), "refused", "opening-mismatch")
    salted = Opening(Part.OUTPUT, derived("another salt"), good.value)
    yield case("salt", "another salt", openings(output=salted), "refused", "opening-mismatch")
    other = Opening(Part.OUTPUT, *_pair(Part.MESSAGES))
    yield case("part", "another part's", openings(output=other), "refused", "opening-mismatch")
    # The same number as an integer and as a fraction are two values.
    one = Opening.of(Part.PARAMETERS, {"temperature": 0.5, "seed": 7, "top_p": 1}, salt=_pair(3)[0])
    yield case("number", "1 is not 1.0", openings(parameters=one), "refused", "opening-mismatch")
    row = list(_pair(Part.OUTPUT))
    yield malformed("magic", "another file", raw({8: row}, magic="verispect-receipt"))
    yield malformed("version-2", "another version", raw({8: row}, version=2))
    yield malformed("version-true", "true is not 1", raw({8: row}, version=True))
    yield malformed("part-0", "an unknown part", raw({0: row}))
    yield malformed("part-12", "an unknown part", raw({12: row}))
    yield malformed("part-text", "a part by name", raw({"output": row}))
    yield malformed("salt-31", "a short salt", raw({8: [row[0][:31], row[1]]}))
    yield malformed("salt-33", "a long salt", raw({8: [row[0] + b"\0", row[1]]}))
    yield malformed("value-text", "a value that is not bytes", raw({8: [row[0], "x"]}))
    yield malformed("row-3", "an opening of three", raw({8: [*row, b""]}))
    yield malformed("array", "an array of openings", raw([row]))
    yield malformed("map", "a map of three", encode({0: "verispect-openings", 1: 1, 2: {}}))
    yield malformed("four", "an array of four", encode(["verispect-openings", 1, {8: row}, 0]))
    yield malformed("salt-text", "a salt of text", raw({8: ["s" * 32, row[1]]}))
    irregular = Opening(Part.OUTPUT, good.salt, b"\x18\x17")
    inputs = {
        "openings": openings(output=irregular).hex(),
        "commitments": {"output": irregular.commitment().hex()},
    }
    description = "a value that matches and is not deterministic CBOR"
    yield ("content-irregular", description, inputs, "malformed", "malformed-cbor")


def _pair(part: int) -> tuple[bytes, bytes]:
    labels = {3: Part.PARAMETERS} if part == 3 else {}
    opening = OPENINGS.get(labels.get(part, Part(part))) or OPENINGS[Part.PARAMETERS]
    return opening.salt, opening.value


def stream() -> Iterator[Case]:
    """Yield the cases of interim signatures over a stream."""

    def binding(chunks: tuple[str, ...], inference_id: bytes = INFERENCE_ID) -> Any:
        chain = StreamChain(inference_id)
        for chunk in chunks:
            chain.absorb(chunk.encode())
        return chain.binding()

    def interim(chunks: tuple[str, ...] = CHUNKS, signer: VectorKey = GOOD) -> bytes:
        return sign_interim(
            binding(chunks), issuer="vectors.example", subject=SUBJECT, signer=signer
        ).encode()

    def case(name: str, description: str, data: bytes, result: str, reason: str | None) -> Case:
        key = to_base64url(GOOD.public_key.raw)
        return (
            name,
            description,
            {"interim": data.hex(), "key": key, "chunks": list(CHUNKS)},
            result,
            reason,
        )

    header = encode(protected_map() | {3: STREAM_TYPE})

    def raw(payload: Any) -> bytes:
        return sign1(encode(payload), protected=header)

    good = interim()
    head = bytes(binding(CHUNKS).head)
    yield case("accept", "two chunks, as signed", good, *ACCEPTED)
    yield case("cut", "one chunk was signed", interim(CHUNKS[:1]), "refused", "stream-mismatch")
    swapped = interim((CHUNKS[1], CHUNKS[0]))
    yield case("order", "chunks in another order", swapped, "refused", "stream-mismatch")
    joined = interim(("".join(CHUNKS), ""))
    yield case("boundary", "chunks cut elsewhere", joined, "refused", "stream-mismatch")
    moved = raw([2, bytes(binding(CHUNKS, b"\0" * 16).head)])
    yield case("inference", "another inference's chain", moved, "refused", "stream-mismatch")
    yield case(
        "count", "a count that is not the chain's", raw([3, head]), "refused", "stream-mismatch"
    )
    other = interim(signer=OTHER)
    yield case("key", "signed with another key", other, "refused", "signature-invalid")
    flipped = good[:-1] + bytes((good[-1] ^ 1,))
    yield case("signature", "one bit of the signature", flipped, "refused", "signature-invalid")
    as_statement = sign1(encode([2, head]))
    yield case(
        "content-type", "signed as a statement", as_statement, "malformed", "malformed-envelope"
    )
    for name, payload in (
        ("row-3", [2, head, 0]),
        ("count-negative", [-1, head]),
        ("count-true", [True, head]),
        ("head-31", [2, head[:31]]),
        ("head-text", [2, "h" * 32]),
        ("map", {0: 2}),
    ):
        yield case(name, "not [chunks, head]", raw(payload), "malformed", "malformed-statement")
    yield case("too-large", "over 1024 bytes", raw([2, head, b"x" * 900]), "malformed", "too-large")


def trusted_root_cases() -> Iterator[Case]:
    """Yield the cases of the trusted root."""
    reason = "malformed-trusted-root"

    def refused(name: str, description: str, text: str) -> Case:
        return (name, description, {"trustedRoot": text}, "malformed", reason)

    document = json.loads(trusted_root())
    entry, reference = document["issuerKeys"][0], document["models"][0]

    def with_key(**changes: Any) -> str:
        return trusted_root(issuerKeys=[entry | changes])

    def with_model(**changes: Any) -> str:
        return trusted_root(models=[reference | changes])

    def without(member: str) -> str:
        return json.dumps({name: value for name, value in document.items() if name != member})

    yield ("accept", "a good root", {"trustedRoot": trusted_root()}, *ACCEPTED)
    least = json.dumps({"verispectTrustedRoot": 1, "issuerKeys": []})
    yield ("accept-least", "required members only", {"trustedRoot": least}, *ACCEPTED)
    yield refused("empty", "nothing", "")
    yield refused("array", "not an object", "[]")
    yield refused("deep", "nested ten thousand times", "[" * 10_000)
    yield refused("trailing", "something after the end", trusted_root() + "{}")
    yield refused("version-missing", "no version", without("verispectTrustedRoot"))
    yield refused("version-2", "another version", trusted_root(verispectTrustedRoot=2))
    yield refused("version-true", "true is not 1", trusted_root(verispectTrustedRoot=True))
    yield refused("version-fraction", "1.0 is not 1", trusted_root(verispectTrustedRoot=1.0))
    yield refused("keys-missing", "no keys", without("issuerKeys"))
    yield refused("keys-object", "keys that are not an array", trusted_root(issuerKeys={}))
    yield refused("member-unknown", "an unknown member", trusted_root(oracles=[]))
    twice = trusted_root()[:-1] + ', "issuerKeys": []}'
    yield refused("member-twice", "a member given twice", twice)
    yield refused("expires-text", "a time of text", trusted_root(expiresAt="never"))
    yield refused("expires-null", "a time of null", trusted_root(expiresAt=None))
    yield refused("expires-nan", "NaN", trusted_root(expiresAt=float("nan")))
    yield refused("expires-negative", "a negative time", trusted_root(expiresAt=-1))
    yield refused("expires-true", "true is not a time", trusted_root(expiresAt=True))
    huge = trusted_root(expiresAt=0).replace('"expiresAt": 0', '"expiresAt": ' + "9" * 5000)
    yield refused("expires-huge", "a time of five thousand digits", huge)
    yield refused("key-twice", "the same key twice", trusted_root(issuerKeys=[entry, entry]))
    yield refused("key-member-unknown", "an unknown member of a key", with_key(alg="EdDSA"))
    yield refused("key-short", "a key of 31 bytes", with_key(key=to_base64url(b"k" * 31)))
    yield refused("key-padded", "padded base64", with_key(key=entry["key"] + "="))
    loose = entry["key"][:-1] + chr(ord(entry["key"][-1]) + 1)
    yield refused("key-spare-bits", "base64url with spare bits set", with_key(key=loose))
    yield refused("key-integer", "a key that is not text", with_key(key=1))
    yield refused("development-missing", "development is not said", _without_development(entry))
    yield refused("development-0", "0 is not false", with_key(development=0))
    yield refused("issuer-empty", "no issuer", with_key(issuer=""))
    yield refused("issuer-integer", "an issuer that is not text", with_key(issuer=1))
    yield refused("issuer-newline", "an issuer of two lines", with_key(issuer="a\nb"))
    yield refused("issuer-surrogate", "an issuer that has no UTF-8", with_key(issuer="\ud800"))
    yield refused("not-before-fraction", "a time with a fraction", with_key(notBefore=0.5))
    yield refused("not-after-null", "a time of null", with_key(notAfter=None))
    yield refused("revoked-at-null", "a time of null", with_key(revokedAt=None))
    yield refused("model-upper-case", "upper-case hexadecimal", with_model(modelId="AB" * 32))
    yield refused("model-short", "a short digest", with_model(modelId="ab" * 31))
    yield refused("model-integer", "a digest that is not text", with_model(modelId=1))
    yield refused("model-name-empty", "no name", with_model(name=""))
    yield refused("model-unknown-member", "an unknown member", with_model(version=1))
    for name, data in (
        ("not-utf8", b'{"verispectTrustedRoot":1,"issuerKeys":[],"models":"\xff"}'),
        ("utf16", least.encode("utf-16")),
        ("byte-order-mark", b"\xef\xbb\xbf" + least.encode()),
    ):
        yield (name, "not UTF-8", {"trustedRootHex": data.hex()}, "malformed", reason)


def _without_development(entry: dict[str, Any]) -> str:
    members = {name: value for name, value in entry.items() if name != "development"}
    return trusted_root(issuerKeys=[members])


def policy_cases() -> Iterator[Case]:
    """Yield the cases of the policy."""
    full = policy(
        'nonce = true\nmaximum_age_seconds = 3600\nmodel_identities = ["upstream-reported"]\n'
        "accepted_models_only = true\ndevelopment_keys = true",
        'model = ["hardware", "proven"]\noutput = ["asserted"]',
    )
    for name, text in (
        ("accept", policy()),
        ("accept-full", full),
        ("accept-empty", policy(claims="")),
        ("accept-service-logged", policy("service_logged = true")),
        ("accept-service-not-logged", policy("service_logged = false")),
    ):
        digest = AssurancePolicy.from_toml(text).digest().hex()
        yield (name, "a policy and its digest", {"policy": text, "digest": digest}, *ACCEPTED)

    def refused(name: str, description: str, text: str) -> Case:
        return (name, description, {"policy": text}, "malformed", "malformed-policy")

    yield refused("not-toml", "not TOML", "assurance: signed")
    yield refused("nothing", "an empty file", "")
    yield refused("version-missing", "no version", policy().replace("version = 1\n", ""))
    for value in ("2", "true", "1.0"):
        text = policy().replace("version = 1", f"version = {value}")
        yield refused(f"version-{value}", f"version {value}", text)
    yield refused("version-text", "version as text", policy().replace("= 1", '= "1"'))
    yield refused("field-unknown", "a misspelt field", policy("nonse = true"))
    yield refused("field-twice", "a field given twice", policy("nonce = true\nnonce = true"))
    yield refused("nonce-1", "1 is not true", policy("nonce = 1"))
    yield refused("service-logged-1", "1 is not true", policy("service_logged = 1"))
    yield refused("age-true", "true is not a number", policy("maximum_age_seconds = true"))
    yield refused("age-0", "no time at all", policy("maximum_age_seconds = 0"))
    yield refused("age-negative", "a negative age", policy("maximum_age_seconds = -1"))
    yield refused("age-infinite", "an infinite age", policy("maximum_age_seconds = inf"))
    yield refused("age-huge", "five thousand digits", policy(f"maximum_age_seconds = {'9' * 5000}"))
    yield refused("identities-empty", "no identity", policy("model_identities = []"))
    yield refused("identities-unknown", "a misspelt one", policy('model_identities = ["local"]'))
    yield refused("identities-nested", "an array inside", policy("model_identities = [[]]"))
    yield refused("identities-table", "a table inside", policy("model_identities = [{}]"))
    yield refused("name-missing", "no name", policy().replace('name = "vectors"\n', ""))
    for name, value in (
        ("empty", ""),
        ("quote", 'a\\"b'),
        ("newline", "a\\nb"),
        ("space", "a b"),
        ("foreign-letters", "pr\u043even"),
        ("long", "a" * 65),
    ):
        text = policy().replace('"vectors"', f'"{value}"')
        yield refused(f"name-{name}", "not a short word", text)
    yield refused("claims-missing", "no claims", 'version = 1\nname = "vectors"\n')
    yield refused("claim-unknown", "a misspelt claim", policy(claims='models = ["asserted"]'))
    yield refused("claim-text", "one source without a list", policy(claims='model = "asserted"'))
    yield refused("claim-no-source", "no source suffices", policy(claims="model = []"))
    yield refused("source-unknown", "a misspelt source", policy(claims='model = ["tee"]'))
    yield refused("source-upper-case", "another case", policy(claims='model = ["Asserted"]'))
    yield refused("source-nested", "an array inside", policy(claims='model = [["asserted"]]'))
    yield refused(
        "source-unstated", "unstated never suffices", policy(claims='model = ["unstated"]')
    )
    nested = (
        '{ any_of = ["proven", { all_of = ["asserted", { source = "logged", witnesses = 2 }] }] }'
    )
    text = policy(claims=f"execution = {nested}")
    digest = AssurancePolicy.from_toml(text).digest().hex()
    given = {"policy": text, "digest": digest}
    yield ("accept-nested", "alternatives, each of several sources", given, *ACCEPTED)
    named = 'execution = { use = "strong" }\n[requirements]\n'
    for name, claims, reason in (
        ("cycle", named + 'strong = { use = "strong" }', "policy-cycle"),
        ("use-unknown", named + 'stronger = ["proven"]', "malformed-policy"),
        (
            "contradictory-class",
            'execution = [{ source = "hardware", classes = ["software"] }]',
            "policy-contradictory",
        ),
        ("deep", "execution = " + "{ any_of = [" * 10 + '"proven"' + "] }" * 10, "too-deep"),
        ("atoms-10000", "execution = [" + '"proven", ' * 10_000 + "]", "too-large"),
        ("condition-misplaced", 'model = [{ source = "proven", nodes = 2 }]', "malformed-policy"),
        (
            "more-nodes-than-names",
            'model = [{ source = "reexecuted", nodes = 2, nodes_among = ["a"] }]',
            "malformed-policy",
        ),
        ("all-of-nothing", "model = { all_of = [] }", "malformed-policy"),
    ):
        yield (name, "refused", {"policy": policy(claims=claims)}, "malformed", reason)
    yield refused("source-refuted", "refuted never suffices", policy(claims='model = ["refuted"]'))
