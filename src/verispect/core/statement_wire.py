"""The payload of a statement (spec/statement.md), as a map and as bytes.

The bytes are written field by field, because every answer waits for them; they are those of the
map under `verispect.core.encoding.encode`, and a test holds them to that for every field. This
module refuses to read: `verispect.core.statement` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verispect.core.cbor_items import ARRAY, MAP, byte_string, head, integer, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from verispect.core.commitments import Part
    from verispect.core.encoding import Digest
    from verispect.core.statement import ExecutedModel, InferenceStatement, PromisedEvidence

_REQUIRED_FIELDS = 13


def _usage_order(item: tuple[str, int]) -> tuple[int, str]:
    """Return the place of a short ASCII key in a deterministic map: by length, then by letters."""
    return len(item[0]), item[0]


def statement_map(statement: InferenceStatement) -> dict[int, Any]:
    """Return the payload before it is encoded."""
    model = statement.model
    result: dict[int, Any] = {
        1: statement.version,
        2: statement.sequence,
        3: statement.received_at,
        4: statement.completed_at,
        5: statement.signed_at,
        6: statement.operation,
        7: statement.requested_model,
        8: [
            int(model.identity),
            model.model_id,
            model.engine,
            int(model.determinism),
            int(model.lane),
        ],
        9: {int(part): value for part, value in sorted(statement.commitments.items())},
        10: list(statement.finish_reasons),
        11: dict(sorted(statement.usage.items(), key=_usage_order)),
        12: statement.assurance,
        13: [[promise.kind, promise.digest, promise.due_at] for promise in statement.evidence],
    }
    if statement.nonce is not None:
        result[14] = statement.nonce
    if statement.stream is not None:
        result[15] = [statement.stream.chunks, statement.stream.head]
    if (price := statement.price) is not None:
        rates = [price.input_per_million, price.output_per_million]
        result[16] = [price.asset, *rates, price.charge, price.ceiling]
    if statement.payment is not None:
        result[17] = [statement.payment.scheme, statement.payment.authorisation]
    if (transaction := statement.transaction) is not None:
        result[18] = [transaction.transaction_id, transaction.index, transaction.count]
    if statement.confidential is not None:
        result[19] = statement.confidential
    if (service := statement.service) is not None:
        result[20] = [service.name, service.version, service.digest]
    return result


def write_statement(statement: InferenceStatement, sequence: int, signed_at: int) -> bytes:
    """Return the payload with this number and time instead of the statement's own."""
    optional = _optional_fields(statement)
    return b"".join(
        (
            head(MAP, _REQUIRED_FIELDS + len(optional)),
            b"\x01",
            integer(statement.version),
            b"\x02",
            integer(sequence),
            b"\x03",
            integer(statement.received_at),
            b"\x04",
            integer(statement.completed_at),
            b"\x05",
            integer(signed_at),
            b"\x06",
            text(statement.operation),
            b"\x07",
            text(statement.requested_model),
            b"\x08",
            _model(statement.model),
            b"\x09",
            _commitments(statement.commitments),
            b"\x0a",
            _texts(statement.finish_reasons),
            b"\x0b",
            _usage(statement.usage),
            b"\x0c",
            byte_string(statement.assurance),
            b"\x0d",
            _evidence(statement.evidence),
            *optional,
        )
    )


def _optional_fields(statement: InferenceStatement) -> list[bytes]:
    """Return each field that is there, behind its key."""
    fields: list[bytes] = []
    if statement.nonce is not None:
        fields.append(b"\x0e" + byte_string(statement.nonce))
    if (stream := statement.stream) is not None:
        fields.append(b"\x0f\x82" + integer(stream.chunks) + byte_string(stream.head))
    if (price := statement.price) is not None:
        amounts = (price.input_per_million, price.output_per_million, price.charge, price.ceiling)
        fields.append(b"\x10\x85" + text(price.asset) + b"".join(map(integer, amounts)))
    if (payment := statement.payment) is not None:
        fields.append(b"\x11\x82" + text(payment.scheme) + byte_string(payment.authorisation))
    if (transaction := statement.transaction) is not None:
        place = integer(transaction.index) + integer(transaction.count)
        fields.append(b"\x12\x83" + byte_string(transaction.transaction_id) + place)
    if statement.confidential is not None:
        fields.append(b"\x13" + byte_string(statement.confidential))
    if (service := statement.service) is not None:
        version = integer(service.version) + byte_string(service.digest)
        fields.append(b"\x14\x83" + text(service.name) + version)
    return fields


def _model(model: ExecutedModel) -> bytes:
    return (
        b"\x85"
        + integer(model.identity)
        + byte_string(model.model_id)
        + byte_string(model.engine)
        + integer(model.determinism)
        + integer(model.lane)
    )


def _commitments(commitments: Mapping[Part, Digest]) -> bytes:
    parts = [head(MAP, len(commitments))]
    for part, value in sorted(commitments.items()):
        parts += (integer(part), byte_string(value))
    return b"".join(parts)


def _texts(values: Sequence[str]) -> bytes:
    return head(ARRAY, len(values)) + b"".join(map(text, values))


def _usage(usage: Mapping[str, int]) -> bytes:
    parts = [head(MAP, len(usage))]
    for name, count in sorted(usage.items(), key=_usage_order):
        parts += (text(name), integer(count))
    return b"".join(parts)


def _evidence(evidence: Sequence[PromisedEvidence]) -> bytes:
    parts = [head(ARRAY, len(evidence))]
    for promise in evidence:
        parts += (
            b"\x83",
            text(promise.kind),
            b"\xf6" if promise.digest is None else byte_string(promise.digest),
            b"\xf6" if promise.due_at is None else integer(promise.due_at),
        )
    return b"".join(parts)
