"""The report of an audit: all that is needed to compute its verdict again, signed by the auditor.

It says what was tested (null, named alternative, level), which answers were drawn and from what,
how each of them stood, and what earlier report it goes on from. Sample, e-values, power and outcome
are not believed but computed from that. Whatever it finds is drift evidence, never identity: an
answer that agrees may be another model's, and one audit speaks of no single receipt.

This module refuses a report whose numbers its own rows do not give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import Any, Final

from verispect.core.encoding import DIGEST_BYTES, Digest, decode_content, encode_content, sha256
from verispect.core.envelope import SignedEnvelope, open_envelope, sign_envelope
from verispect.core.errors import (
    Error,
    MalformedError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.keys import PublicKey, Signer
from verispect.node.audit_sample import AuditedRange, check_sample, sample_size
from verispect.node.drift_test import DriftNull, DriftTest
from verispect.tlog.checkpoint import Checkpoint

AUDIT_TYPE: Final = "application/verispect-audit+cbor"
AUDIT_VERSION: Final = 1
MAX_AUDITED_ANSWERS: Final = 4096
MAX_NAME_CHARACTERS: Final = 200
MEANING: Final = "drift evidence, never identity"
METHOD: Final = "token-disagreement-exceedance"


class AnswerState(IntEnum):
    """What became of a drawn answer."""

    SCORED = 1
    """It was shown to the registered model: a trial."""
    NOT_GIVEN = 2
    """The operator did not give it, or gave what is not what it committed to."""
    NOT_SCORABLE = 3
    """No one text, no seed, or beyond the context."""
    OTHER_MODEL = 4
    """It is of another model, and no concern of this audit."""

    @property
    def label(self) -> str:
        """The name in JSON views."""
        return self.name.lower().replace("_", "-")


class AuditOutcome(StrEnum):
    """What an audit found."""

    DRIFT = "drift-found"
    NO_DRIFT = "no-drift-found"
    UNKNOWN = "could-not-tell"


@dataclass(frozen=True, slots=True)
class AuditedAnswer:
    """One drawn answer."""

    leaf: int
    receipt: Digest
    state: AnswerState
    tokens: int = 0
    disagreeing: int = 0

    @property
    def share(self) -> float:
        """The share of tokens that disagree; only of a scored answer."""
        return self.disagreeing / self.tokens

    def to_row(self) -> list[Any]:
        """Return the row of the report."""
        return [self.leaf, self.receipt, int(self.state), self.tokens, self.disagreeing]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """One audit. Untrusted until `check`."""

    model_id: Digest
    test: DriftTest
    audited: AuditedRange
    beacon: bytes
    rate: Fraction
    """What share of the receipts in the range was drawn, rounded up."""
    population: int
    """How many receipts are in the range."""
    answers: Sequence[AuditedAnswer]
    """In the order of the draw."""
    made_at: int
    """Milliseconds since the epoch, by the auditor's clock."""
    previous: Digest | None = None
    """Digest of the report that this one goes on from."""
    carried: float = 0.0
    """Logarithm of the e-value with which that one ended."""

    @property
    def trials(self) -> list[bool]:
        """Whether each scored answer exceeded the threshold."""
        return [
            self.test.null.exceeds(each.share)
            for each in self.answers
            if each.state is AnswerState.SCORED
        ]

    @property
    def log_e_values(self) -> list[float]:
        """The logarithm of the e-value before the first trial, and after each."""
        return [self.carried, *self.test.log_e_values(self.trials, carried=self.carried)]

    @property
    def outcome(self) -> AuditOutcome:
        """What was found."""
        if max(self.log_e_values) >= self.test.decisive:
            return AuditOutcome.DRIFT
        states = [each.state for each in self.answers]
        scored = states.count(AnswerState.SCORED)
        # What cannot be scored is the operator's choice too: it may not be most of the sample.
        open_question = (
            AnswerState.NOT_GIVEN in states
            or not scored
            or states.count(AnswerState.NOT_SCORABLE) > scored
        )
        return AuditOutcome.UNKNOWN if open_question else AuditOutcome.NO_DRIFT

    @property
    def power(self) -> float:
        """How probably these trials would have found the named alternative."""
        return self.test.power(len(self.trials), carried=self.carried)

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        null = self.test.null
        point = self.audited
        content = {
            "version": AUDIT_VERSION,
            "meaning": MEANING,
            "method": METHOD,
            "model": self.model_id,
            "null": [null.threshold, null.answers, null.miss],
            "alternative": [self.test.alternative, self.test.alternative_rate],
            "level": self.test.level,
            "range": [point.checkpoint.text(), point.first, point.end],
            "beacon": self.beacon,
            "rate": [self.rate.numerator, self.rate.denominator],
            "population": self.population,
            "answers": [each.to_row() for each in self.answers],
            "made_at": self.made_at,
            "previous": self.previous,
            "carried": self.carried,
        }
        return encode_content(content)

    def digest(self) -> Digest:
        """Return what a later report calls this one."""
        return sha256(self.encode())

    def check(self, receipts: Mapping[int, Digest], *, previous: AuditReport | None = None) -> None:
        """Compute again what was drawn.

        Args:
            receipts: by leaf, all receipts in the range, from a log that the caller verified.
            previous: the report that this one says it goes on from.

        Raises:
            VerificationError: `content-mismatch`.
        """
        seed = self.audited.seed(self.beacon)
        if self.population != len(receipts):
            raise _mismatch("the range holds another number of receipts")
        check_sample(
            [each.leaf for each in self.answers],
            receipts,
            seed=seed,
            size=sample_size(len(receipts), self.rate),
        )
        if any(receipts[each.leaf] != each.receipt for each in self.answers):
            raise _mismatch("a drawn receipt is not the one in the log")
        if (self.previous is None) is not (previous is None):
            raise _mismatch("the report goes on from another one")
        if previous is not None:
            self.check_follows(previous)
        elif self.carried:
            raise _mismatch("bets are carried over from nowhere")

    def check_follows(self, previous: AuditReport) -> None:
        """Check that bets are carried over from the report before: same test, later leaves.

        Raises:
            VerificationError: `content-mismatch`.
        """
        if (
            self.previous != previous.digest()
            or self.model_id != previous.model_id
            or self.test != previous.test
            or self.audited.checkpoint.origin != previous.audited.checkpoint.origin
            or self.audited.first < previous.audited.end
            or self.carried != previous.log_e_values[-1]
        ):
            raise _mismatch("the report does not follow the one before it")

    def to_view(self) -> dict[str, Any]:
        """Return the JSON view."""
        states = [each.state for each in self.answers]
        return {
            "outcome": self.outcome.value,
            "meaning": MEANING,
            "source": "statistical",
            "method": METHOD,
            "model": self.model_id.hex(),
            "null": {
                "threshold": self.test.null.threshold,
                "answers": self.test.null.answers,
                "exceedingAtMost": self.test.null.rate,
            },
            "alternative": {
                "name": self.test.alternative,
                "exceeding": self.test.alternative_rate,
            },
            "falseAlarmsAtMost": self.test.false_alarm_rate,
            "power": self.power,
            "range": {
                "origin": self.audited.checkpoint.origin,
                "size": self.audited.checkpoint.size,
                "first": self.audited.first,
                "end": self.audited.end,
                "receipts": self.population,
            },
            "sample": {
                "beacon": self.beacon.hex(),
                "drawn": len(self.answers),
                **{state.label: states.count(state) for state in AnswerState},
                "exceeded": sum(self.trials),
            },
            "logE": {"carried": self.carried, "last": self.log_e_values[-1]},
            "logEDecisive": self.test.decisive,
            "previous": None if self.previous is None else self.previous.hex(),
        }


def sign_report(report: AuditReport, *, issuer: str, signer: Signer) -> SignedEnvelope:
    """Sign a report as the auditor `issuer`; its subject is the model's id in hexadecimal."""
    return sign_envelope(
        report.encode(),
        content_type=AUDIT_TYPE,
        issuer=issuer,
        subject=report.model_id.hex(),
        signer=signer,
    )


def read_signed_report(data: bytes, key: PublicKey) -> AuditReport:
    """Return the report of an auditor.

    Raises:
        MalformedError: `malformed-envelope`, `malformed-evidence`, `malformed-cbor`.
        UnsupportedError: `unsupported-version`.
        VerificationError: `signature-invalid`, `content-mismatch`.
    """
    envelope = open_envelope(data, content_type=AUDIT_TYPE)
    envelope.verify(key)
    report = decode_report(envelope.payload)
    if envelope.subject != report.model_id.hex():
        raise _mismatch("the report is about another model")
    return report


def decode_report(payload: bytes) -> AuditReport:
    """Read a payload.

    Raises:
        MalformedError: `malformed-evidence`, `malformed-cbor`, `too-large`.
        UnsupportedError: `unsupported-version`.
    """
    read = decode_content(payload, limit=MAX_AUDITED_ANSWERS * 256)
    if type(read) is not dict:
        raise _malformed()
    if read.get("version") != AUDIT_VERSION:
        raise UnsupportedError("another version of reports", reason=Reason.UNSUPPORTED_VERSION)
    try:
        report = _report(read)
    except MalformedError:
        raise
    except (Error, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise _malformed() from error
    if report.encode() != payload:
        raise _malformed()
    return report


def _report(read: Mapping[str, Any]) -> AuditReport:
    threshold, answers, miss = read["null"]
    alternative, alternative_rate = read["alternative"]
    text, first, end = read["range"]
    numerator, denominator = read["rate"]
    rate = Fraction(_integer(numerator), _integer(denominator))
    rows = [_answer(*row) for row in read["answers"]]
    if not 0 < rate <= 1 or len(rows) > MAX_AUDITED_ANSWERS:
        raise _malformed()
    if type(alternative) is not str or len(alternative) > MAX_NAME_CHARACTERS:
        raise _malformed()
    null = DriftNull(_float(threshold), _integer(answers), _float(miss))
    previous = read["previous"]
    return AuditReport(
        model_id=_digest(read["model"]),
        test=DriftTest(null, alternative, _float(alternative_rate), _float(read["level"])),
        audited=AuditedRange(Checkpoint.from_text(text), _integer(first), _integer(end)),
        beacon=bytes(read["beacon"]),
        rate=rate,
        population=_integer(read["population"]),
        answers=tuple(rows),
        made_at=_integer(read["made_at"]),
        previous=None if previous is None else _digest(previous),
        carried=_float(read["carried"]),
    )


def _answer(leaf: Any, receipt: Any, state: Any, tokens: Any, disagreeing: Any) -> AuditedAnswer:
    answer = AuditedAnswer(
        _integer(leaf),
        _digest(receipt),
        AnswerState(state),
        _integer(tokens),
        _integer(disagreeing),
    )
    scored = answer.state is AnswerState.SCORED
    if (answer.tokens > 0) is not scored or answer.disagreeing > answer.tokens:
        raise _malformed()
    return answer


def _integer(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise _malformed()
    return value


def _float(value: Any) -> float:
    if type(value) is not float:
        raise _malformed()
    return value


def _digest(value: Any) -> Digest:
    if type(value) is not bytes or len(value) != DIGEST_BYTES:
        raise _malformed()
    return Digest(value)


def _malformed() -> MalformedError:
    return MalformedError("not the report of an audit", reason=Reason.MALFORMED_EVIDENCE)


def _mismatch(what: str) -> VerificationError:
    return VerificationError(what, reason=Reason.CONTENT_MISMATCH)
