"""What the caller knows of its own request and answer, compared with what was signed.

Only what the caller gives is compared. Nothing it gives is passed over: content that is not opened
cannot be compared, and that is a failed check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from verispect.appraisal.service_history import SERVICE_PREFIX, ServiceHistory
from verispect.core.commitments import OpenedParts, Part
from verispect.core.encoding import Digest, encode_content
from verispect.core.errors import Error, Reason
from verispect.core.statement import InferenceStatement, StreamBinding
from verispect.evidence.interface import Check, CheckStatus


@dataclass(frozen=True, slots=True)
class Expected:
    """What the caller knows of its own request and of the answer it was shown.

    A receipt says that *some* request was answered. Only this ties it to yours.
    """

    nonce: bytes | None = None
    """The nonce that was sent with the request."""
    parts: Mapping[Part, Any] = field(default_factory=dict)
    """Content that the caller sent or received; each must equal what was committed to."""
    stream: StreamBinding | None = None
    """Count and head of the chunks that the caller was shown."""
    absent: frozenset[Part] = frozenset()
    """Parts that the caller neither sent nor was shown; the statement may not commit to them."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Settings as sent, by their committed name; each must be the one committed to."""
    models: frozenset[str] = frozenset()
    """Names of the model in request and answer; each must be the one the statement requested."""
    assurance: Digest | None = None
    """Digest of the policy that was asked for."""
    finish_reasons: Sequence[str] | None = None
    """Why each choice ended, as the caller was shown."""
    usage: Mapping[str, int] | None = None
    """What was counted, as the caller was shown."""
    history: ServiceHistory | None = None
    """What a log that the caller verified has of the versions of services."""
    uncompared: Sequence[str] = ()
    """What the caller holds and cannot compare, in words."""


NOTHING_EXPECTED: Final = Expected()


def check_expected(
    statement: InferenceStatement, opened: OpenedParts, expected: Expected
) -> list[Check]:
    """Return one check for each thing that the caller gave, in a fixed order."""
    checks = []
    for part, content in expected.parts.items():
        name = f"content:{part.label}"
        opening = opened.get(part)
        if opening is None:
            detail = f"{part.label} is not opened, so it cannot be compared"
            checks.append(_failed(name, detail, Reason.CONTENT_NOT_OPENED))
        elif not _is_encoding_of(content, opening.value):
            detail = f"{part.label} differs from what was committed to"
            checks.append(_failed(name, detail, Reason.CONTENT_MISMATCH))
        else:
            checks.append(_passed(name, "equal to what the caller holds"))
    if expected.stream is not None:
        if statement.stream != expected.stream:
            detail = "the chunks shown are not the chunks signed"
            checks.append(_failed("stream", detail, Reason.STREAM_MISMATCH))
        else:
            checks.append(_passed("stream", f"{expected.stream.chunks} chunks as shown"))
    for part in sorted(expected.absent & statement.commitments.keys()):
        detail = f"{part.label} is committed to, but the caller knows of none"
        checks.append(_failed(f"content:{part.label}", detail, Reason.CONTENT_MISMATCH))
    if expected.parameters:
        checks.append(_check_parameters(opened, expected.parameters))
    checks += _check_stated(statement, expected)
    return checks


def _check_stated(statement: InferenceStatement, expected: Expected) -> list[Check]:
    """Compare what the statement says itself, without an opening."""
    comparisons: list[tuple[str, bool]] = []
    if expected.models:
        same = expected.models == {statement.requested_model}
        comparisons.append(("requested-model", same))
        asked = any(each.startswith(SERVICE_PREFIX) for each in expected.models)
        if asked or statement.service is not None:
            comparisons.append(("service-named", asked == (statement.service is not None)))
    if expected.assurance is not None:
        comparisons.append(("assurance", expected.assurance == statement.assurance))
    if expected.finish_reasons is not None:
        same = list(expected.finish_reasons) == list(statement.finish_reasons)
        comparisons.append(("finish-reasons", same))
    if expected.usage is not None:
        same = expected.usage.items() <= statement.usage.items()
        comparisons.append(("usage", same))
    return [
        _passed(name, "the one that the caller holds")
        if same
        else _failed(name, "not the one that the caller holds", Reason.CONTENT_MISMATCH)
        for name, same in comparisons
    ]


def _check_parameters(opened: OpenedParts, sent: Mapping[str, Any]) -> Check:
    name = "content:parameters"
    opening = opened.get(Part.PARAMETERS)
    if opening is None:
        detail = "parameters is not opened, so it cannot be compared"
        return _failed(name, detail, Reason.CONTENT_NOT_OPENED)
    try:
        committed = opening.content()
    except Error as error:
        return _failed(name, error.message, error.reason)
    if not isinstance(committed, dict):
        return _failed(name, "parameters is not a map", Reason.CONTENT_MISMATCH)
    changed = sorted(key for key in sent if not _is_setting(key, sent[key], committed))
    if changed:
        detail = f"{', '.join(changed)} differs from what was committed to"
        return _failed(name, detail, Reason.CONTENT_MISMATCH)
    return _passed(name, "as the caller sent them")


def _is_setting(name: str, sent: Any, committed: Mapping[str, Any]) -> bool:
    ran = committed.get(name)
    if name == "seed" and ran is None:
        # Nothing is drawn at temperature zero, so a seed has no effect and is not committed to.
        return _is_number(committed.get("temperature")) and committed["temperature"] == 0
    if name == "maximum_tokens" and isinstance(ran, int) and type(sent) is int:
        # Fewer than asked for where the context has no more room.
        return 0 <= ran <= sent
    return _is_same(sent, ran)


def _is_same(sent: Any, ran: Any) -> bool:
    """Tell whether two values are equal where `1` and `1.0` are, and `1` and `true` are not."""
    if _is_number(sent) and _is_number(ran):
        return bool(sent == ran)
    if isinstance(sent, dict) and isinstance(ran, dict):
        return sent.keys() == ran.keys() and all(_is_same(sent[key], ran[key]) for key in sent)
    return type(sent) is type(ran) and bool(sent == ran)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _passed(name: str, detail: str) -> Check:
    return Check(name, CheckStatus.PASSED, detail)


def _failed(name: str, detail: str, reason: Reason) -> Check:
    return Check(name, CheckStatus.FAILED, detail, reason)


def _is_encoding_of(content: Any, value: bytes) -> bool:
    try:
        return value == encode_content(content)
    except TypeError:
        # NaN, lone surrogates, endless nesting: whoever was shown it, it was never committed to.
        return False
