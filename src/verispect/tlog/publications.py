"""What an operator signs and publishes beside its receipts: refusals, prompt versions, coverage.

Each is the payload of a COSE_Sign1 with a content type of its own. A refusal says that a request
was turned away, and why; a prompt version commits to what a service puts around its callers'
words; coverage says how many inferences reached which assurance. None of them holds a prompt, an
output or a caller's words: texts are salted commitments (`verispect.core.commitments`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.claims import Claim, Source
from verispect.core.commitments import Part
from verispect.core.encoding import Digest, encode
from verispect.core.envelope import MAX_SUBJECT_CHARACTERS
from verispect.tlog import fields
from verispect.tlog.merkle import MAX_TREE_SIZE

REFUSAL_TYPE: Final = "application/verispect-refusal+cbor"
PROMPT_VERSION_TYPE: Final = "application/verispect-prompt-version+cbor"
COVERAGE_TYPE: Final = "application/verispect-coverage+cbor"

PUBLICATION_VERSION: Final = 1
MAX_PUBLICATION_BYTES: Final = 48 * 1024
MAX_COVERAGE_ROWS: Final = 512


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was refused before, or instead of, an answer."""

    refused_at: int
    """Milliseconds since the epoch."""
    operation: str
    """The interface that was called."""
    reason: str
    """The reason code that the caller was given."""
    assurance: Digest | None = None
    """Digest of the policy that the caller required, where the request named a known one."""
    request: Digest | None = None
    """Salted commitment to the request, which the caller can open."""

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        result: dict[int, Any] = {
            1: PUBLICATION_VERSION,
            2: self.refused_at,
            3: self.operation,
            4: self.reason,
        }
        if self.assurance is not None:
            result[5] = self.assurance
        if self.request is not None:
            result[6] = self.request
        return encode(result)

    @classmethod
    def decode(cls, payload: bytes) -> Refusal:
        """Read a payload.

        Raises:
            MalformedError: `malformed-leaf`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        read = _read(payload, required={1, 2, 3, 4}, optional={5, 6})
        return cls(
            refused_at=fields.integer(read[2], "refused_at"),
            operation=fields.text(read[3], "operation"),
            reason=fields.text(read[4], "reason"),
            assurance=fields.optional_digest(read.get(5), "assurance"),
            request=fields.optional_digest(read.get(6), "request"),
        )


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """One version of what a service puts around its callers' words."""

    service: str
    number: int
    """1, 2, 3 and so on, without a gap."""
    published_at: int
    """Milliseconds since the epoch."""
    commitments: Mapping[Part, Digest]
    """Per part, such as system prompt and tools, its salted commitment."""
    previous: Digest | None = None
    """Digest of the envelope of the version before; absent from version 1 only."""
    model_id: Digest | None = None
    """The model that the service runs from this version on."""

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        result: dict[int, Any] = {
            1: PUBLICATION_VERSION,
            2: self.service,
            3: self.number,
            4: self.published_at,
            5: {int(part): value for part, value in sorted(self.commitments.items())},
        }
        if self.previous is not None:
            result[6] = self.previous
        if self.model_id is not None:
            result[7] = self.model_id
        return encode(result)

    @classmethod
    def decode(cls, payload: bytes) -> PromptVersion:
        """Read a payload.

        Raises:
            MalformedError: `malformed-leaf`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        read = _read(payload, required={1, 2, 3, 4, 5}, optional={6, 7})
        if type(read[5]) is not dict:
            raise fields.malformed("commitments is not a map")
        version = cls(
            service=fields.text(read[2], "service", MAX_SUBJECT_CHARACTERS),
            number=fields.integer(read[3], "number"),
            published_at=fields.integer(read[4], "published_at"),
            commitments={
                fields.number(Part, part, "part"): fields.digest(value, "commitment")
                for part, value in read[5].items()
            },
            previous=fields.optional_digest(read.get(6), "previous"),
            model_id=fields.optional_digest(read.get(7), "model_id"),
        )
        if version.number == 0 or (version.previous is None) != (version.number == 1):
            raise fields.malformed("version 1, and no other, has none before it")
        return version


@dataclass(frozen=True, slots=True)
class CoverageRow:
    """How many inferences reached one source for one claim."""

    claim: Claim
    source: Source
    inferences: int
    tokens: int
    """Input and output tokens of these inferences, where the log discloses usage; else 0."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the receipts of one epoch achieved: a function of the log's leaves."""

    first_leaf: int
    end_leaf: int
    """The leaf after the last one that was counted."""
    published_at: int
    """Milliseconds since the epoch."""
    met: int
    pending: int
    failed: int
    refused: int
    rows: Sequence[CoverageRow]
    report: Digest | None = None
    """Digest of the detached report, with more dimensions."""

    def encode(self) -> bytes:
        """Return the payload that is signed."""
        result: dict[int, Any] = {
            1: PUBLICATION_VERSION,
            2: [self.first_leaf, self.end_leaf],
            3: self.published_at,
            4: [self.met, self.pending, self.failed, self.refused],
            5: [
                [str(each.claim), str(each.source), each.inferences, each.tokens]
                for each in self.rows
            ],
        }
        if self.report is not None:
            result[6] = self.report
        return encode(result)

    @classmethod
    def decode(cls, payload: bytes) -> Coverage:
        """Read a payload.

        Raises:
            MalformedError: `malformed-leaf`, `malformed-cbor` or `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        read = _read(payload, required={1, 2, 3, 4, 5}, optional={6})
        first, end = (fields.integer(each, "leaf") for each in fields.row(read[2], 2, "leaves"))
        if not first <= end <= MAX_TREE_SIZE:
            raise fields.malformed("the leaves are not a range")
        met, pending, failed, refused = (
            fields.integer(each, "count") for each in fields.row(read[4], 4, "outcomes")
        )
        counted = [_coverage_row(each) for each in fields.rows(read[5], MAX_COVERAGE_ROWS, "rows")]
        if len({(each.claim, each.source) for each in counted}) != len(counted):
            raise fields.malformed("a claim and a source are counted twice")
        return cls(
            first_leaf=first,
            end_leaf=end,
            published_at=fields.integer(read[3], "published_at"),
            met=met,
            pending=pending,
            failed=failed,
            refused=refused,
            rows=tuple(counted),
            report=fields.optional_digest(read.get(6), "report"),
        )


def _coverage_row(value: Any) -> CoverageRow:
    claim, source, inferences, tokens = fields.row(value, 4, "a row")
    return CoverageRow(
        fields.word(Claim, claim, "claim"),
        fields.word(Source, source, "source"),
        fields.integer(inferences, "inferences"),
        fields.integer(tokens, "tokens"),
    )


def _read(payload: bytes, *, required: set[int], optional: set[int]) -> dict[int, Any]:
    return fields.read_map(
        payload,
        version=PUBLICATION_VERSION,
        required=required,
        optional=optional,
        limit=MAX_PUBLICATION_BYTES,
    )
