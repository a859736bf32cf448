"""Laws of the status of receipts: one table per prefix, forward only, no help from strangers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from log_leaves import MINUTE, T0, late, missed, nodes, receipt_leaf, verdict
from verispect.core.encoding import encode, sha256
from verispect.core.statement import PromisedEvidence
from verispect.tlog.status import State, StatusReplay, replay_status
from verispect.tlog.verdict import Outcome

_DUE = T0 + 5 * MINUTE
_PROMISES = [
    (),
    (PromisedEvidence("proof", None, _DUE),),
    (PromisedEvidence("verdicts", None, _DUE), PromisedEvidence("log", None, _DUE)),
]
_ALLOWED = {
    State.PENDING: {State.PENDING, State.MET, State.FAILED, State.SUPERSEDED},
    State.MET: {State.MET, State.FAILED, State.SUPERSEDED},
    State.SUPERSEDED: {State.SUPERSEDED, State.FAILED},
    State.FAILED: {State.FAILED},
}

_number = st.integers(1, 4)
_time = st.integers(0, 10).map(lambda minutes: T0 + minutes * MINUTE)
_name = st.sampled_from(["node-a", "node-b", "node-c", "stranger"])
_strangers = st.one_of(
    st.binary(max_size=12),
    st.integers(9, 200).map(lambda kind: encode({1: 1, 2: kind, 3: b"any"})),
    st.builds(verdict, _number, node=st.just("stranger"), at=_time),
)
_leaf = st.one_of(
    st.builds(receipt_leaf, _number, at=_time, promises=st.sampled_from(_PROMISES)),
    st.builds(late, _number, at=_time),
    st.builds(missed, _number, due=st.just(_DUE), noted=_time),
    st.builds(
        verdict,
        _number,
        node=_name,
        at=_time,
        outcome=st.sampled_from([Outcome.AFFIRMED, Outcome.UNKNOWN]),
    ),
    st.builds(
        verdict,
        _number,
        node=_name,
        at=_time,
        outcome=st.just(Outcome.REFUTED),
        reason=st.sampled_from(["content-mismatch", "no such word"]),
    ),
    _strangers,
)
_leaves = st.lists(_leaf, max_size=14)


@settings(max_examples=60, deadline=None)
@given(_leaves, st.integers(0, 14))
def test_a_status_only_goes_forward(leaves: list[bytes], cut: int) -> None:
    """Between a prefix and a longer one no row goes back, disappears or moves."""
    before = replay_status(leaves[:cut], nodes=nodes(2))
    after = replay_status(leaves, nodes=nodes(2))
    assert after.clock >= before.clock
    for old, new in zip(before.receipts, after.receipts, strict=False):
        assert (old.receipt, old.leaf_index) == (new.receipt, new.leaf_index)
        assert new.state in _ALLOWED[old.state]
    assert len(after.receipts) >= len(before.receipts)


@settings(max_examples=60, deadline=None)
@given(_leaves, st.integers(1, 5))
def test_two_replays_agree_byte_for_byte(leaves: list[bytes], step: int) -> None:
    """In one go or in pieces, with tables asked for between: the same bytes."""
    replay = StatusReplay(nodes(2))
    for start in range(0, len(leaves), step):
        replay.replay(leaves[start : start + step])
        replay.table()
    whole = replay_status(leaves, nodes=nodes(2))
    assert replay.table().encode() == whole.encode()
    assert whole.digest() == sha256(whole.encode())


@settings(max_examples=60, deadline=None)
@given(_leaves, _strangers, st.integers(0, 14))
def test_leaves_of_strangers_never_help(leaves: list[bytes], leaf: bytes, place: int) -> None:
    """With such a leaf anywhere, every row says what it says without it."""
    with_it = [*leaves[:place], leaf, *leaves[place:]]
    rows = replay_status(leaves, nodes=nodes(2)).receipts
    changed = replay_status(with_it, nodes=nodes(2)).receipts
    assert [(row.state, row.reason) for row in rows] == [(row.state, row.reason) for row in changed]
