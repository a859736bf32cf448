"""A count of coverage that goes on where it stopped: kept in a file, bound to a log and its tree.

The file names the log, the size and root of the tree that was counted, and the nodes whose verdicts
count. A count is taken up only where the log still has that tree below it; after a fork, a restored
copy or for other nodes it is refused, never quietly begun again. The file is replaced as a whole,
so that a crash leaves the count before, and its last line shows that nothing of it is missing.

Whoever can write the file decides what is counted: keep it like the trusted root.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verispect.core.claims import Source
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import Error, Reason, StoreError, VerificationError
from verispect.core.keys import KeyId
from verispect.ledger.coverage import CoverageCounter
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.publications import Refusal
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.status import ReceiptRow
from verispect.tlog.status_table import NodePolicy, State

COVERAGE_STATE_VERSION: Final = 2
_MAX_LINE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CountedTree:
    """The tree that was counted."""

    log: str
    """The log's origin."""
    size: int
    root: Digest


class ResumableCounter(CoverageCounter):
    """A count that can be put into lines of text, and taken up from them."""

    def records(self) -> Iterator[list[Any]]:
        """Yield everything that the figures of now and later depend on."""
        yield ["clock", self._size, self._start, self._operator_clock, self._node_clocks]
        for (assurance, kinds, model_id, asset), tally in self._tallies.items():
            model = None if model_id is None else model_id.hex()
            yield ["tally", assurance.hex(), sorted(kinds), model, asset, tally]
        for index, refusal in self._refusals:
            yield ["refusal", index, refusal.encode().hex()]
        for row in self._rows.values():
            yield ["row", row.leaf.encode().hex(), *_row_fields(row)]
        for receipt in self._open:
            yield ["open", receipt.hex()]
        for receipt, sources in self._sources.items():
            yield ["sources", receipt.hex(), sorted(each.value for each in sources)]
        yield from self._number_records()

    def _number_records(self) -> Iterator[list[Any]]:
        for key, number in self._highest.items():
            yield ["highest", key.hex(), number]
        for key, numbers in self._numbers.items():
            for number, receipt in numbers.items():
                yield ["number", key.hex(), number, receipt.hex()]
        for (key, number), since in self._missing.items():
            yield ["missing", key.hex(), number, since]
        for (key, transaction, index), row in self._places.items():
            yield ["place", key.hex(), transaction.hex(), index, row.leaf.receipt.hex()]

    def take_up(self, records: Iterable[list[Any]]) -> None:
        """Go on from what `records` gave.

        Raises:
            ValueError, KeyError, TypeError, IndexError, Error: a record is none.
        """
        for name, *values in records:
            _TAKERS[name](self, *values)

    def _take_clock(self, size: int, start: int, clock: int, clocks: dict[str, int]) -> None:
        self._size, self._start, self._operator_clock = size, start, clock
        self._node_clocks = dict(clocks)

    def _take_tally(
        self, assurance: str, kinds: list[str], model: str | None, asset: str | None, tally: Any
    ) -> None:
        model_id = None if model is None else bytes.fromhex(model)
        inferences, tokens, charge = tally
        kind = (bytes.fromhex(assurance), frozenset(kinds), model_id, asset)
        self._tallies[kind] = [int(inferences), int(tokens), int(charge)]

    def _take_refusal(self, index: int, payload: str) -> None:
        self._refusals.append((index, Refusal.decode(bytes.fromhex(payload))))

    def _take_row(self, data: str, *fields: Any) -> None:
        leaf = decode_leaf(bytes.fromhex(data))
        if not isinstance(leaf, ReceiptLeaf):
            raise TypeError("a row is of a receipt")
        self._rows[leaf.receipt] = _read_row(leaf, *fields)

    def _take_open(self, receipt: str) -> None:
        digest = _digest(receipt)
        self._open[digest] = self._rows[digest]
        self._await(self._rows[digest].leaf)

    def _take_sources(self, receipt: str, sources: list[str]) -> None:
        self._sources[_digest(receipt)] = {Source(each) for each in sources}

    def _take_highest(self, key: str, number: int) -> None:
        self._highest[_key(key)] = number

    def _take_number(self, key: str, number: int, receipt: str) -> None:
        self._numbers.setdefault(_key(key), {})[number] = _digest(receipt)

    def _take_missing(self, key: str, number: int, since: int) -> None:
        self._missing[_key(key), number] = since

    def _take_place(self, key: str, transaction: str, index: int, receipt: str) -> None:
        self._places[_key(key), bytes.fromhex(transaction), index] = self._rows[_digest(receipt)]


_TAKERS: Final[dict[str, Callable[..., None]]] = {
    name.removeprefix("_take_"): taker
    for name, taker in vars(ResumableCounter).items()
    if name.startswith("_take_")
}


def save_count(path: Path, counter: ResumableCounter, tree: CountedTree, nodes: NodePolicy) -> None:
    """Put a count in the place of the one before, whole or not at all.

    Raises:
        StoreError: `store-failed`.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    head = [COVERAGE_STATE_VERSION, tree.log, tree.size, tree.root.hex(), _digest_of(nodes)]
    check = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            for record in (head, *counter.records()):
                line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
                check.update(line)
                file.write(line)
            file.write(check.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(
            f"cannot keep the count in {path}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error


def load_count(
    path: Path,
    nodes: NodePolicy,
    *,
    log: str,
    size: int,
    root: Callable[[int], Digest],
    leaves: Callable[[], Iterable[bytes]],
) -> ResumableCounter:
    """Take a count up again; a new one where the file does not exist.

    Args:
        path: of the file.
        nodes: whose verdicts count.
        log: the log's origin.
        size: how many leaves the log has.
        root: the root of its first leaves.
        leaves: all of its leaves.

    Raises:
        StoreError: `store-failed` for a damaged file, `store-conflict` for a count of another log
            or with other nodes, `store-rolled-back` where more was counted than the log has.
        VerificationError: `log-forked` where the log no longer has the tree that was counted.
    """
    counter = ResumableCounter(nodes, leaves=leaves)
    try:
        with path.open("rb") as file:
            lines = _checked(path, file)
            head = next(lines)
            if head[0] != COVERAGE_STATE_VERSION:
                raise _conflict(path, "is of another version")
            if head[1] != log:
                raise _conflict(path, "is of another log")
            if head[4] != _digest_of(nodes):
                raise _conflict(path, "was made with other nodes")
            if head[2] > size:
                raise StoreError(
                    "more leaves were counted than the log has", reason=Reason.STORE_ROLLED_BACK
                )
            if head[2] and root(head[2]).hex() != head[3]:
                raise VerificationError(
                    "the log is not the one that was counted: its first leaves are others",
                    reason=Reason.LOG_FORKED,
                )
            counter.take_up(lines)
    except FileNotFoundError:
        return counter
    except (StoreError, VerificationError):
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, Error) as error:
        raise _damaged(path) from error
    if counter.size != head[2]:
        raise _damaged(path)
    return counter


def _checked(path: Path, file: Iterable[bytes]) -> Iterator[list[Any]]:
    """Yield the records, and refuse the file at its end where its last line does not match."""
    check = hashlib.sha256()
    waiting: bytes | None = None
    for line in file:
        if len(line) > _MAX_LINE:
            raise _damaged(path)
        if waiting is not None:
            check.update(waiting)
            yield json.loads(waiting)
        waiting = line
    if waiting != check.hexdigest().encode() + b"\n":
        raise _damaged(path)


def _row_fields(row: ReceiptRow) -> list[Any]:
    return [
        row.index,
        row.in_time,
        row.delivered,
        sorted(row.affirming),
        sorted(row.withheld_from),
        row.affirmed,
        row.refuted,
        row.state.name,
        None if row.reason is None else row.reason.value,
        row.decided_at,
    ]


def _read_row(leaf: ReceiptLeaf, *values: Any) -> ReceiptRow:
    index, in_time, delivered, affirming, withheld, affirmed, refuted, state, reason, at = values
    return ReceiptRow(
        leaf,
        index,
        in_time,
        delivered=dict(delivered),
        affirming=set(affirming),
        withheld_from=set(withheld),
        affirmed=affirmed,
        refuted=refuted,
        state=State[state],
        reason=None if reason is None else Reason(reason),
        decided_at=at,
    )


def _digest_of(nodes: NodePolicy) -> str:
    listed = sorted((each.name, each.key.key_id) for each in nodes.nodes)
    return sha256(encode([nodes.threshold, [list(each) for each in listed]])).hex()


def _digest(text: str) -> Digest:
    return Digest(bytes.fromhex(text))


def _key(text: str) -> KeyId:
    return KeyId(bytes.fromhex(text))


def _conflict(path: Path, what: str) -> StoreError:
    return StoreError(f"the count in {path} {what}", reason=Reason.STORE_CONFLICT)


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{path} is damaged; without it all leaves are counted anew", reason=Reason.STORE_FAILED
    )
