"""Whoever would move, replace or fake an anchor: strangers, a thief, the operator, the chain."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector

from anchor_chain import (
    LEAVES,
    LOG_KEY,
    AnchoredLog,
    account,
    anchored,
    other_root_at,
    path_to,
    root_at,
)
from tlog_log import ORIGIN
from verispect.core.errors import NetworkError, Reason, VerificationError
from verispect.ledger.anchor import contract, publish
from verispect.ledger.anchor.contract import AnchorContract, LogId, log_id_of
from verispect.ledger.anchor.intents import Call
from verispect.tlog.merkle import node_hash

__all__ = ["anchored"]

KEY_ID = bytes(range(32))


def refused(log: AnchoredLog, sender, data: bytes) -> bool:
    """Tell whether the contract refuses and nothing changes."""
    before = log.contract.log(log.reference.log_id)
    took_effect = log.send(sender, data)
    return not took_effect and log.contract.log(log.reference.log_id) == before


# -- Strangers ----------------------------------------------------------------------------------


def test_nobody_but_the_writer_publishes(anchored: AnchoredLog) -> None:
    """A stranger without a log is refused; one with a log of their own writes into that one."""
    stranger = account("stranger")
    assert refused(anchored, stranger, contract.publish(5, root_at(5)))
    assert anchored.send(stranger, contract.register_log(LOG_KEY, ORIGIN))
    assert anchored.send(stranger, contract.publish(5, other_root_at(5)))
    assert anchored.contract.root(anchored.reference.log_id, other_root_at(5)) is None
    assert anchored.contract.log(anchored.reference.log_id).size == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda log_id, who: contract.offer_writer(log_id, who),
        lambda log_id, who: contract.accept_writer(log_id),
        lambda log_id, who: contract.dismiss_writer(log_id),
        lambda log_id, who: contract.offer_owner(log_id, who),
        lambda log_id, who: contract.accept_owner(log_id),
        lambda log_id, who: contract.add_key(log_id, b"k" * 32, 0),
        lambda log_id, who: contract.revoke_key(log_id, KEY_ID, 0),
        lambda log_id, who: contract.compromise_key(log_id, KEY_ID, 0),
    ],
)
def test_nobody_but_the_owner_administers(anchored: AnchoredLog, call) -> None:
    """Writer, owner and keys of a log change by its owner's call, or not at all."""
    log_id = anchored.reference.log_id
    assert anchored.send(anchored.operator, contract.add_key(log_id, KEY_ID, 0))
    before = anchored.contract.operator_key(log_id, KEY_ID)
    stranger = account("stranger")
    assert refused(anchored, stranger, call(log_id, stranger.address))
    assert anchored.contract.operator_key(log_id, KEY_ID) == before
    assert anchored.contract.operator_key(log_id, b"k" * 32) is None


def test_a_log_cannot_be_registered_before_its_operator_does(anchored: AnchoredLog) -> None:
    """The same origin and key registered by another founder is another log."""
    thief, victim = account("thief"), account("victim")
    assert anchored.send(thief, contract.register_log(LOG_KEY, "victim.example/log"))
    theirs = log_id_of(thief.address, LOG_KEY, "victim.example/log")
    mine = log_id_of(victim.address, LOG_KEY, "victim.example/log")
    assert theirs != mine
    assert anchored.send(victim, contract.register_log(LOG_KEY, "victim.example/log"))
    assert anchored.contract.log(mine).owner == victim.address


def test_a_log_is_registered_once_and_a_writer_has_one(anchored: AnchoredLog) -> None:
    """Neither the same log again nor a second one for the same writer."""
    operator, log_id = anchored.operator, anchored.reference.log_id
    anchored.publish(5)
    for origin in (ORIGIN, "another.example/log", ""):
        assert refused(
            anchored,
            operator,
            contract.register_log(LOG_KEY, origin) if origin else _register_without_origin(),
        )
    other = account("other")
    assert anchored.send(other, contract.register_log(LOG_KEY, ORIGIN))
    other_log = log_id_of(other.address, LOG_KEY, ORIGIN)
    assert anchored.send(other, contract.offer_writer(other_log, operator.address))
    assert refused(anchored, operator, contract.accept_writer(other_log))
    assert anchored.contract.log(log_id).writer == operator.address


def _register_without_origin() -> bytes:
    selector = function_signature_to_4byte_selector("register_log(bytes32,string)")
    return selector + encode(["bytes32", "string"], [LOG_KEY, ""])


def test_a_dismissed_writer_s_offer_is_withdrawn(anchored: AnchoredLog) -> None:
    """Who was offered the log before the owner stopped publishing cannot accept any more."""
    log_id, guest = anchored.reference.log_id, account("guest")
    anchored.publish(5)
    assert anchored.send(anchored.operator, contract.offer_writer(log_id, guest.address))
    assert anchored.send(anchored.operator, contract.dismiss_writer(log_id))
    assert refused(anchored, guest, contract.accept_writer(log_id))
    assert refused(anchored, anchored.operator, contract.publish(6, root_at(6)))
    assert anchored.send(anchored.operator, contract.offer_writer(log_id, guest.address))
    assert anchored.send(guest, contract.accept_writer(log_id))
    assert anchored.contract.log(log_id).size == 5


# -- An operator that means it ------------------------------------------------------------------


def test_a_log_is_not_rolled_back_on_the_chain(anchored: AnchoredLog) -> None:
    """Smaller, equal and impossible sizes are refused, and so is an anchored root again."""
    anchored.publish(7)
    for size, root in (
        (6, root_at(6)),
        (7, root_at(7)),
        (7, other_root_at(7)),
        (0, root_at(0)),
        (8, root_at(7)),
        (2**63, root_at(8)),
        (2**64 + 8, root_at(8)),
        (2**256 - 1, root_at(8)),
    ):
        assert refused(anchored, anchored.operator, contract.publish(size, root)), size
    record = anchored.contract.root(anchored.reference.log_id, root_at(7))
    assert record is not None
    assert record.size == 7


def test_our_own_publisher_sends_no_second_root(anchored: AnchoredLog) -> None:
    """A restored backup that would anchor another tree is refused before anything is sent."""
    anchored.publish(7)
    sent = anchored.chain.next_nonce(anchored.operator.address)
    for size, root in (
        (7, other_root_at(7)),
        (6, root_at(6)),
        (3, other_root_at(3)),
        (8, root_at(7)),
    ):
        with pytest.raises(VerificationError) as caught:
            publish.publish(anchored.sender, anchored.reference, size, root)
        assert caught.value.reason is Reason.ANCHOR_CONFLICT
    assert anchored.chain.next_nonce(anchored.operator.address) == sent


def test_a_root_that_was_only_meant_is_not_replaced_either(
    anchored: AnchoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written down and never arrived binds as much as what did."""
    with monkeypatch.context() as patch:
        patch.setattr(anchored.chain, "submit", _unreachable)
        with pytest.raises(NetworkError):
            anchored.publish(7)
    anchored.restart()
    with pytest.raises(VerificationError) as caught:
        publish.publish(anchored.sender, anchored.reference, 7, other_root_at(7))
    assert caught.value.reason is Reason.ANCHOR_CONFLICT
    assert anchored.contract.root(anchored.reference.log_id, root_at(7)) is not None


def _unreachable(raw: bytes, transaction_hash: bytes) -> None:
    raise NetworkError("cut off", reason=Reason.NETWORK_FAILED)


def test_a_split_view_is_found_by_whoever_has_the_log(anchored: AnchoredLog) -> None:
    """An operator that anchors another log than it shows is named with the size."""
    anchored.publish(3)
    assert anchored.send(anchored.operator, contract.publish(7, other_root_at(7)))
    with pytest.raises(VerificationError, match="at size 7") as caught:
        anchored.auditor().check(7, root_at(7))
    assert caught.value.reason is Reason.ANCHOR_CONFLICT
    assert anchored.send(anchored.operator, contract.publish(9, root_at(9)))
    with pytest.raises(VerificationError, match="at size 7") as caught:
        anchored.auditor().audit(root_at)
    assert caught.value.reason is Reason.ANCHOR_CONFLICT


def test_a_root_anchored_under_another_size_is_a_conflict(anchored: AnchoredLog) -> None:
    """The right root with a wrong size is not the tree."""
    assert anchored.send(anchored.operator, contract.publish(9, root_at(7)))
    with pytest.raises(VerificationError, match="at size 9, not 7") as caught:
        anchored.auditor().check(7, root_at(7))
    assert caught.value.reason is Reason.ANCHOR_CONFLICT


def test_a_contract_that_looks_like_ours_is_not(anchored: AnchoredLog) -> None:
    """One letter of a message differs, every answer is the same: nothing of it is believed."""
    from verispect.ledger.anchor.artifact import anchor_contract

    ours = anchor_contract().bytecode
    code = ours.replace(b"not a writer", b"not a Writer")
    assert code != ours
    address = anchored.sender.run(Call("look-alike", None, code)).contract
    assert address is not None
    assert AnchorContract(anchored.chain, address).log(LogId(bytes(24))).size == 0
    for attempt in (
        lambda: publish.register(anchored.sender, address, origin=ORIGIN, log_key=LOG_KEY),
        lambda: _replaced(anchored, address).auditor(),
        lambda: _replaced(anchored, address).publish(7),
    ):
        with pytest.raises(VerificationError) as caught:
            attempt()
        assert caught.value.reason is Reason.ANCHOR_CONTRACT_UNKNOWN


def _replaced(anchored: AnchoredLog, address: str) -> AnchoredLog:
    from dataclasses import replace

    anchored.reference = replace(anchored.reference, contract=address)
    return anchored


def test_dates_of_keys_never_move_towards_trust(anchored: AnchoredLog) -> None:
    """No key is good before it was announced, revived, or revoked or compromised any later."""
    log_id, owner = anchored.reference.log_id, anchored.operator
    now = anchored.chain.head().time
    assert refused(anchored, owner, contract.add_key(log_id, KEY_ID, now - 10))
    assert refused(anchored, owner, contract.add_key(log_id, KEY_ID, 2**64 - 1))
    assert refused(anchored, owner, contract.revoke_key(log_id, KEY_ID, 0))
    assert refused(anchored, owner, contract.compromise_key(log_id, KEY_ID, now))
    assert anchored.send(owner, contract.add_key(log_id, KEY_ID, 0))
    assert refused(anchored, owner, contract.add_key(log_id, KEY_ID, 0))
    assert refused(anchored, owner, contract.revoke_key(log_id, KEY_ID, now - 10))
    assert anchored.send(owner, contract.revoke_key(log_id, KEY_ID, now + 500))
    assert refused(anchored, owner, contract.revoke_key(log_id, KEY_ID, now + 501))
    assert refused(anchored, owner, contract.compromise_key(log_id, KEY_ID, now + 10**6))
    assert anchored.send(owner, contract.compromise_key(log_id, KEY_ID, now - 5))
    assert refused(anchored, owner, contract.compromise_key(log_id, KEY_ID, now))
    assert refused(anchored, owner, contract.compromise_key(log_id, KEY_ID, now - 5))
    key = anchored.contract.operator_key(log_id, KEY_ID)
    assert key is not None
    assert key.compromised_at == now - 5


# -- Inclusion ----------------------------------------------------------------------------------


def test_a_path_of_another_form_proves_nothing(anchored: AnchoredLog) -> None:
    """Damaged, shortened, lengthened, swapped and empty paths, and other leaves, are refused."""
    log_id = anchored.reference.log_id
    anchored.publish(11)
    for index in (0, 5, 8, 10):
        path = path_to(index, 11)
        verify = anchored.contract.verify
        assert verify(log_id, 11, LEAVES[index], index, path)
        damaged = [bytes(32), *path[1:]]
        for wrong in (damaged, path[:-1], path[1:], [*path, bytes(32)], path[::-1], []):
            assert not verify(log_id, 11, LEAVES[index], index, wrong) or wrong == path
        assert not verify(log_id, 11, LEAVES[index + 20], index, path)
        assert not verify(log_id, 11, root_at(11), 0, [])
        for size in (0, 1, 10, 12, 2**63, 2**256 - 1):
            assert not verify(log_id, size, LEAVES[index], index, path)
        assert not verify(log_id, 11, LEAVES[index], index + 2**255, path)


def test_an_inner_node_does_not_pass_for_a_leaf(anchored: AnchoredLog) -> None:
    """The length of a path is fixed by index and size: no node above the leaves fits."""
    log_id = anchored.reference.log_id
    anchored.publish(8)
    inner = node_hash(LEAVES[0], LEAVES[1])
    for index in range(8):
        assert not anchored.contract.verify(log_id, 8, inner, index, path_to(0, 8)[1:])
        assert not anchored.contract.verify(log_id, 4, inner, index % 4, path_to(0, 8)[1:])


def test_a_path_of_more_than_63_hashes_is_refused_whole(anchored: AnchoredLog) -> None:
    """An oversize path does not even start the computation."""
    anchored.publish(8)
    log_id = anchored.reference.log_id
    assert not anchored.contract.verify(log_id, 8, LEAVES[0], 0, [bytes(32)] * 63)
    with pytest.raises(VerificationError) as caught:
        anchored.contract.verify(log_id, 8, LEAVES[0], 0, [bytes(32)] * 64)
    assert caught.value.reason is Reason.CHAIN_REVERTED


def test_a_leaf_of_one_log_is_not_in_another(anchored: AnchoredLog) -> None:
    """An anchored root counts for the log whose writer anchored it, and for no other."""
    anchored.publish(8)
    other = account("other")
    assert anchored.send(other, contract.register_log(LOG_KEY, ORIGIN))
    other_log = log_id_of(other.address, LOG_KEY, ORIGIN)
    path = path_to(3, 8)
    assert anchored.contract.verify(anchored.reference.log_id, 8, LEAVES[3], 3, path)
    assert not anchored.contract.verify(other_log, 8, LEAVES[3], 3, path)
    assert not anchored.contract.verify(LogId(bytes(24)), 8, LEAVES[3], 3, path)


# -- The chain ----------------------------------------------------------------------------------


def test_an_anchor_taken_back_by_the_chain_is_published_again(anchored: AnchoredLog) -> None:
    """After a reorganisation the same transactions are sent again, in their order, once."""
    anchored.publish(3)
    before = anchored.snapshot()
    for size in (5, 7):
        anchored.publish(size)
    anchored.reorganise(before)
    with pytest.raises(VerificationError) as caught:
        anchored.auditor().check(7, root_at(7))
    assert caught.value.reason is Reason.ANCHOR_MISSING
    anchored.restart()
    anchored.publish(9)
    assert [each.size for each in anchored.auditor().audit(root_at)] == [9, 7, 5, 3]


def test_an_anchor_that_moved_to_another_block_is_followed(anchored: AnchoredLog) -> None:
    """The same transaction in another block is the same publication; nothing is sent again."""
    before = anchored.snapshot()
    anchored.publish(5)
    (done, *_) = anchored.store.done_intents()
    anchored.reorganise(before)
    anchored.chain.pass_time()
    anchored.chain.submit(done.attempts[0].raw, done.attempts[0].hash)
    sent = anchored.chain.next_nonce(anchored.operator.address)
    assert anchored.publish(5).block_number == anchored.chain.head().number
    assert anchored.chain.next_nonce(anchored.operator.address) == sent
    (moved, *_) = anchored.store.done_intents()
    assert moved.inclusion is not None
    assert moved.inclusion.block_number == anchored.chain.head().number


def test_a_nonce_lost_to_the_account_s_other_use_is_replaced(anchored: AnchoredLog) -> None:
    """After a reorganisation another transaction takes the nonce: the root is signed anew."""
    before = anchored.snapshot()
    anchored.publish(5)
    anchored.reorganise(before)
    # The account also pays for something else, which a shared account must not but may.
    key = contract.add_key(anchored.reference.log_id, KEY_ID, 0)
    assert anchored.send(anchored.operator, key)
    anchored.restart()
    anchored.publish(5)
    (done, *_) = anchored.store.done_intents()
    assert len({attempt.nonce for attempt in done.attempts}) == 2
    assert anchored.auditor().check(5, root_at(5)).latest_size == 5


def test_a_root_that_the_chain_no_longer_takes_is_given_up_visibly(
    anchored: AnchoredLog,
) -> None:
    """After a reorganisation a larger tree was anchored elsewhere: ours is refused, not lost."""
    before = anchored.snapshot()
    anchored.publish(5)
    anchored.reorganise(before)
    assert anchored.send(anchored.operator, contract.publish(6, root_at(6)))
    anchored.restart()
    with pytest.raises(VerificationError) as caught:
        anchored.publish(5)
    assert caught.value.reason is Reason.ANCHOR_CONFLICT
    assert anchored.store.open_intents() == []
    anchored.publish(7)
    assert [each.size for each in anchored.auditor().audit(root_at)] == [7, 6]
