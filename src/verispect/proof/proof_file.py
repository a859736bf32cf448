"""The bytes of a proof (spec/proof.md section 12), strict in both directions.

One proof has one encoding. Reading checks form and size only: what the octets mean, and whether
they are as long as the model asks for, is for `verifier` to decide. Everything read is unverified,
the metadata for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from verispect.core.encoding import DIGEST_BYTES, decode, encode
from verispect.core.errors import MalformedError, Reason, UnsupportedError
from verispect.proof.parameters import Mode
from verispect.proof.requests import MAX_REQUESTS, RequestDigests, first_rows, require_requests

PROOF_VERSION: Final = 1
MAX_PROOF_BYTES: Final = 1 << 26
"""Octets of a proof."""
MAX_METADATA: Final = 32
"""Entries of the metadata."""
MAX_METADATA_TEXT: Final = 256
"""Characters of one key or text of the metadata."""

Metadata: TypeAlias = Mapping[str, int | str]

_MODES: Final = (Mode.SUCCINCT, Mode.ZERO_KNOWLEDGE)
_ALWAYS: Final = frozenset({1, 2, 3, 4, 6, 7, 8, 9, 10, 13})
_MASKS, _HIDDEN_INPUT = 11, 12


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, reason=Reason.MALFORMED_PROOF)


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it is written, believed by nobody yet.

    Raises:
        MalformedError: `malformed-proof`, when the parts do not belong together.
    """

    mode: Mode
    model: bytes
    """The digest of the provable model."""
    requests: tuple[RequestDigests, ...]
    witness_root: bytes
    messages: bytes = field(repr=False)
    combination: bytes = field(repr=False)
    columns: bytes = field(repr=False)
    nodes: bytes = field(repr=False)
    input_root: bytes | None = None
    """Of a hidden input's commitment."""
    masks_root: bytes | None = None
    """Of the masks, in mode zero-knowledge only."""
    metadata: Metadata = field(default_factory=dict)

    def __post_init__(self) -> None:
        optional = (self.input_root, self.masks_root)
        digests = (self.model, self.witness_root, *(each for each in optional if each is not None))
        for digest in digests:
            if type(digest) is not bytes or len(digest) != DIGEST_BYTES:
                raise _malformed(f"expected {DIGEST_BYTES} octets of a digest")
        require_requests(self.requests)
        if (self.requests[0].input is None) is (self.input_root is None):
            raise _malformed("an input is either public or hidden")
        if (self.masks_root is not None) is not (self.mode is Mode.ZERO_KNOWLEDGE):
            raise _malformed("masks belong to mode zero-knowledge")
        if self.hidden_input and self.mode is not Mode.ZERO_KNOWLEDGE:
            raise _malformed("a hidden input belongs to mode zero-knowledge")
        for part in (self.messages, self.combination, self.columns, self.nodes):
            if type(part) is not bytes:
                raise _malformed("expected octets")
        _check_metadata(self.metadata)

    @property
    def batch(self) -> int:
        """The rows of all requests."""
        return first_rows(self.requests)[-1]

    @property
    def hidden_input(self) -> bool:
        """Whether the proof is about an input that is committed to and not shown."""
        return self.input_root is not None

    def encode(self) -> bytes:
        """Return the one encoding of this proof.

        Raises:
            MalformedError: `too-large`.
        """
        value: dict[int, Any] = {
            1: PROOF_VERSION,
            2: _MODES.index(self.mode),
            3: self.model,
            4: [request.row() for request in self.requests],
            6: self.witness_root,
            7: self.messages,
            8: self.combination,
            9: self.columns,
            10: self.nodes,
            11: self.masks_root,
            12: self.input_root,
            13: dict(self.metadata),
        }
        data = encode({key: part for key, part in value.items() if part is not None})
        if len(data) > MAX_PROOF_BYTES:
            raise MalformedError(
                f"a proof has at most {MAX_PROOF_BYTES} bytes", reason=Reason.TOO_LARGE
            )
        return data

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """Read a proof.

        Raises:
            MalformedError: `malformed-cbor`, `malformed-proof`, `too-large` or `too-deep`.
            UnsupportedError: `unsupported-version`.
        """
        items = 64 + 2 * MAX_METADATA + 5 * MAX_REQUESTS
        value = decode(data, limit=MAX_PROOF_BYTES, maximum_items=items)
        if type(value) is not dict or type(value.get(1)) is not int:
            raise _malformed("expected a map with a version")
        if value[1] != PROOF_VERSION:
            raise UnsupportedError(
                f"expected version {PROOF_VERSION} of a proof, got {value[1]}",
                reason=Reason.UNSUPPORTED_VERSION,
            )
        keys = set(value)
        if not keys >= _ALWAYS or keys - _ALWAYS - {_MASKS, _HIDDEN_INPUT}:
            raise _malformed("a field is missing or unknown")
        if any(value[key] is None for key in keys):
            raise _malformed("a field is null")
        if type(value[2]) is not int or not 0 <= value[2] < len(_MODES):
            raise _malformed("the mode is unknown")
        return cls(
            mode=_MODES[value[2]],
            model=value[3],
            requests=_read_requests(value[4]),
            witness_root=value[6],
            messages=value[7],
            combination=value[8],
            columns=value[9],
            nodes=value[10],
            masks_root=value.get(_MASKS),
            input_root=value.get(_HIDDEN_INPUT),
            metadata=value[13],
        )


def _read_requests(rows: Any) -> tuple[RequestDigests, ...]:
    if type(rows) is not list or not 1 <= len(rows) <= MAX_REQUESTS:
        raise _malformed("expected a list of requests")
    if any(type(row) is not list or len(row) != 4 for row in rows):
        raise _malformed("expected rows and three digests of a request")
    return tuple(RequestDigests(*row) for row in rows)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, Mapping) or len(metadata) > MAX_METADATA:
        raise _malformed("metadata is not a small map")
    for key, value in metadata.items():
        if type(key) is not str or type(value) not in (int, str):
            raise _malformed("metadata is not a map of text to integers or text")
        if max(len(key), len(value) if isinstance(value, str) else 0) > MAX_METADATA_TEXT:
            raise _malformed("metadata is too long")
