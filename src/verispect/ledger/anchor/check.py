"""Judges an anchor from outside: no key, no state, only a node and what the auditor trusts.

The auditor brings an `AnchorReference`: which chain, which contract, which log. Everything is read
at one block, `confirmations - 1` below the head. An anchor on a development chain is refused
unless that is asked for.

What an anchor shows: that this root was fixed at this size no later than its block, in the one
growing sequence that everybody is shown. It does not show that the root is right, nor that it
extends the one before: `audit` recomputes every anchored root from the log that it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.encoding import Digest, from_base64url, to_base64url
from verispect.core.errors import (
    MalformedError,
    NetworkError,
    Reason,
    TrustError,
    UnsupportedError,
    VerificationError,
)
from verispect.ledger.anchor.chain import Chain, checked_address
from verispect.ledger.anchor.contract import AnchorContract, AnchoredRoot, LogId, log_id_of

REFERENCE_VERSION: Final = 1
MAX_REFERENCE_BYTES: Final = 4096

_FIELDS: Final = {"version", "chainId", "contract", "founder", "origin", "logKey"}


@dataclass(frozen=True, slots=True)
class AnchorReference:
    """Where a log is anchored, as somebody trusts it to be."""

    chain_id: int
    contract: str
    founder: str
    """Address that registered the log."""

    origin: str
    log_key: bytes

    @property
    def log_id(self) -> LogId:
        """The log's id in the contract."""
        return log_id_of(self.founder, self.log_key, self.origin)

    def to_json(self) -> bytes:
        """Return the file's content."""
        view = {
            "version": REFERENCE_VERSION,
            "chainId": self.chain_id,
            "contract": self.contract,
            "founder": self.founder,
            "origin": self.origin,
            "logKey": to_base64url(self.log_key),
        }
        return json.dumps(view, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> AnchorReference:
        """Read a file.

        Raises:
            MalformedError: `malformed-json`, `malformed-key`, `malformed-checkpoint`, `too-large`.
            UnsupportedError: `unsupported-version`.
        """
        if len(data) > MAX_REFERENCE_BYTES:
            raise MalformedError("the reference is too large", reason=Reason.TOO_LARGE)
        try:
            value: Any = json.loads(data, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise _malformed() from error
        if not isinstance(value, dict) or type(value.get("version")) is not int:
            raise _malformed()
        if value["version"] != REFERENCE_VERSION:
            raise UnsupportedError(
                f"expected version {REFERENCE_VERSION}", reason=Reason.UNSUPPORTED_VERSION
            )
        texts = [value.get(name) for name in ("contract", "founder", "origin", "logKey")]
        number = value.get("chainId")
        if (
            value.keys() != _FIELDS
            or type(number) is not int
            or not 0 < number < 1 << 256
            or not all(isinstance(text, str) for text in texts)
        ):
            raise _malformed()
        contract, founder, origin, log_key = (str(text) for text in texts)
        reference = cls(
            number,
            checked_address(contract),
            checked_address(founder),
            origin,
            from_base64url(log_key, limit=32),
        )
        _ = reference.log_id  # refuses an origin or a key out of range
        return reference


def _malformed() -> MalformedError:
    return MalformedError("not a reference of an anchor", reason=Reason.MALFORMED_JSON)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice")
    return value


@dataclass(frozen=True, slots=True)
class AnchorReport:
    """What the chain says of one tree."""

    chain_id: int
    is_development: bool
    """Whether the chain proves nothing to others; shown wherever the report is."""

    contract: str
    size: int
    root: Digest
    anchored_at: int
    """Block time, seconds since 1970: the tree is not younger."""

    block_number: int
    previous_size: int
    latest_size: int
    confirmations: int


class AnchorAuditor:
    """Reads one log's anchors at one block.

    Args:
        chain: a node that the auditor trusts to serve the chain.
        reference: where the log is anchored.
        confirmations: blocks that must confirm what is believed, its own counted.
        accept_development: whether a development chain is good enough.

    Raises:
        TrustError: `chain-unexpected` for another chain.
        VerificationError: `development-chain`, `anchor-contract-unknown`.
        NetworkError: `chain-unconfirmed` where the chain is shorter, `chain-failed`,
            `network-failed`.
    """

    def __init__(
        self,
        chain: Chain,
        reference: AnchorReference,
        *,
        confirmations: int,
        accept_development: bool = False,
    ) -> None:
        if chain.chain_id != reference.chain_id:
            raise TrustError(
                f"expected chain {reference.chain_id}, got chain {chain.chain_id}",
                reason=Reason.CHAIN_UNEXPECTED,
            )
        if chain.is_development and not accept_development:
            raise VerificationError(
                f"chain {chain.chain_id} is for development", reason=Reason.DEVELOPMENT_CHAIN
            )
        if not AnchorContract(chain, reference.contract).is_ours():
            raise VerificationError(
                "the code at the address is not the anchor contract",
                reason=Reason.ANCHOR_CONTRACT_UNKNOWN,
            )
        self._head = chain.head().number
        block = self._head - confirmations + 1
        if confirmations < 1 or block < 0:
            raise NetworkError("the chain is too short", reason=Reason.CHAIN_UNCONFIRMED)
        self._reference = reference
        self._chain = chain
        self._contract = AnchorContract(chain, reference.contract, block=block)

    def check(self, size: int, root: Digest) -> AnchorReport:
        """Check that one tree is anchored.

        Raises:
            VerificationError: `anchor-missing`; `anchor-conflict` where the root stands under
                another size, or another root under this size as the newest.
            NetworkError: `chain-unconfirmed` where it is anchored, but not deep enough.
        """
        log_id = self._reference.log_id
        latest = self._contract.log(log_id).size
        record = self._contract.root(log_id, root)
        if record is None:
            if latest == size:
                raise VerificationError(
                    f"another root is anchored at size {size}", reason=Reason.ANCHOR_CONFLICT
                )
            if AnchorContract(self._chain, self._contract.address).root(log_id, root) is not None:
                raise NetworkError("the anchor is too new", reason=Reason.CHAIN_UNCONFIRMED)
            raise VerificationError(
                f"the tree of {size} leaves is not anchored", reason=Reason.ANCHOR_MISSING
            )
        if record.size != size:
            raise VerificationError(
                f"the root is anchored at size {record.size}, not {size}",
                reason=Reason.ANCHOR_CONFLICT,
            )
        return self._report(root, record, latest)

    def includes(self, size: int, leaf: Digest, index: int, path: Sequence[bytes]) -> bool:
        """Let the contract decide whether a leaf is in an anchored tree of that size."""
        return self._contract.verify(self._reference.log_id, size, leaf, index, path)

    def audit(
        self, root_at: Callable[[int], Digest], *, limit: int | None = None
    ) -> list[AnchorReport]:
        """Walk the anchors backwards, and compare each with the root of the log in hand.

        Args:
            root_at: the root of the auditor's own copy of the log at a size.
            limit: stop after so many.

        Returns:
            The anchors, newest first.

        Raises:
            VerificationError: `anchor-conflict` at the first that the log does not have: the
                operator showed the chain another log.
        """
        log_id = self._reference.log_id
        latest = size = self._contract.log(log_id).size
        reports: list[AnchorReport] = []
        while size and (limit is None or len(reports) < limit):
            root = root_at(size)
            record = self._contract.root(log_id, root)
            if record is None or record.size != size:
                raise VerificationError(
                    f"another root is anchored at size {size}", reason=Reason.ANCHOR_CONFLICT
                )
            reports.append(self._report(root, record, latest))
            size = record.previous_size
        return reports

    def _report(self, root: Digest, record: AnchoredRoot, latest: int) -> AnchorReport:
        return AnchorReport(
            chain_id=self._chain.chain_id,
            is_development=self._chain.is_development,
            contract=self._contract.address,
            size=record.size,
            root=root,
            anchored_at=record.anchored_at,
            block_number=record.block_number,
            previous_size=record.previous_size,
            latest_size=latest,
            confirmations=self._head - record.block_number + 1,
        )
