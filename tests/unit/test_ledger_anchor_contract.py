"""The anchor contract itself, executed by a real EVM."""

from __future__ import annotations

import hashlib
import re

import pytest
from eth_utils.abi import function_signature_to_4byte_selector

from anchor_chain import LEAVES, LOG_KEY, AnchoredLog, account, anchored, path_to, root_at
from tlog_log import ORIGIN
from verispect.ledger.anchor import artifact, contract
from verispect.ledger.anchor.contract import AnchorContract, LogState, log_id_of

__all__ = ["anchored"]

KEY_ID = bytes(range(32))


def test_the_committed_build_is_what_the_source_compiles_to() -> None:
    """Whoever has the compiler of that version gets the committed file, byte for byte."""
    committed = artifact.resources.files("verispect.ledger.anchor").joinpath("contract.json")
    assert artifact.build() == committed.read_text("ascii")


def test_the_build_names_compiler_and_source() -> None:
    """The file says which compiler, commit included, and which source it was made of."""
    built = artifact.anchor_contract()
    assert re.fullmatch(r"vyper 0\.4\.3\+commit\.[0-9a-f]{8}", built.compiler)
    assert built.source_sha256 == hashlib.sha256(artifact.source().encode()).hexdigest()


def test_a_compiler_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build by another compiler is never written as if it were the same."""
    import vyper

    monkeypatch.setattr(vyper, "__version__", "0.4.2")
    with pytest.raises(RuntimeError):
        artifact.build()


def test_what_stands_on_the_chain_is_the_committed_code(anchored: AnchoredLog) -> None:
    """The deployed code is compared whole; code of anything else is not ours."""
    assert anchored.contract.is_ours()
    assert not AnchorContract(anchored.chain, anchored.operator.address).is_ours()


def test_every_call_of_ours_is_in_the_contract() -> None:
    """Each call that Python encodes has a function of that selector in the committed interface."""
    signatures = {
        f"{item['name']}({','.join(each['type'] for each in item['inputs'])})"
        for item in artifact.anchor_contract().abi
        if item["type"] == "function"
    }
    selectors = {function_signature_to_4byte_selector(each) for each in signatures}
    log_id, address = contract.LogId(bytes(24)), account("a").address
    for data in (
        contract.register_log(LOG_KEY, ORIGIN),
        contract.publish(1, LEAVES[0]),
        contract.offer_writer(log_id, address),
        contract.accept_writer(log_id),
        contract.dismiss_writer(log_id),
        contract.offer_owner(log_id, address),
        contract.accept_owner(log_id),
        contract.add_key(log_id, KEY_ID, 0),
        contract.revoke_key(log_id, KEY_ID, 0),
        contract.compromise_key(log_id, KEY_ID, 0),
    ):
        assert data[:4] in selectors


@pytest.mark.parametrize("origin", [ORIGIN, "o", "ü" * 128])
def test_the_log_id_is_the_one_that_the_contract_computes(
    anchored: AnchoredLog, origin: str
) -> None:
    """Contract, Python and the text of the specification have one id for a log."""
    founder = account("founder")
    expected = hashlib.sha256(
        b"verispect-anchor-log-v1" + bytes.fromhex(founder.address[2:]) + LOG_KEY + origin.encode()
    ).digest()[:24]
    assert log_id_of(founder.address, LOG_KEY, origin) == expected
    assert anchored.send(founder, contract.register_log(LOG_KEY, origin))
    assert anchored.contract.log(contract.LogId(expected)).owner == founder.address


def test_a_registered_log_is_empty_and_its_founder_s(anchored: AnchoredLog) -> None:
    """Owner and writer are the account that registered; nothing is anchored."""
    address = anchored.operator.address
    assert anchored.contract.log(anchored.reference.log_id) == LogState(0, address, address)
    assert anchored.contract.log(contract.LogId(bytes(24))) == LogState(0, None, None)


def test_a_published_root_keeps_size_time_block_and_what_came_before(
    anchored: AnchoredLog,
) -> None:
    """Each record names the size before it, so that the history can be walked."""
    for previous, size in ((0, 3), (3, 7), (7, 200)):
        anchored.publish(size)
        block = anchored.chain.head()
        record = anchored.contract.root(anchored.reference.log_id, root_at(size))
        assert record == contract.AnchoredRoot(size, previous, block.time, block.number)
    assert anchored.contract.log(anchored.reference.log_id).size == 200


def test_inclusion_of_every_leaf_is_accepted_and_of_no_other(anchored: AnchoredLog) -> None:
    """All leaves of all trees up to 18 leaves: the right index passes, every other does not."""
    log_id = anchored.reference.log_id
    for size in range(1, 19):
        assert anchored.send(anchored.operator, contract.publish(size, root_at(size)))
        for index in range(size):
            path = path_to(index, size)
            for claimed in {index, 0, size - 1, (index + 1) % (size + 1)}:
                verdict = anchored.contract.verify(log_id, size, LEAVES[index], claimed, path)
                assert verdict is (claimed == index), (size, index, claimed)


def test_publishing_costs_at_most_50_000_gas_at_any_size(anchored: AnchoredLog) -> None:
    """The worst roots and sizes, without a zero byte in them, stay within the promise."""
    for size in (1, 10_000, 2**40 - 1, 2**63 - 2, 2**63 - 1):
        root = bytes(each | 1 for each in hashlib.sha256(size.to_bytes(8, "big")).digest())
        assert anchored.send(anchored.operator, contract.publish(size, root))
        assert anchored.last_gas <= 50_000


def test_a_revoked_key_stays_good_for_what_it_signed_before(anchored: AnchoredLog) -> None:
    """A revocation ends a key's use from its date on and leaves earlier signatures alone."""
    log_id, owner = anchored.reference.log_id, anchored.operator
    assert anchored.contract.operator_key(log_id, KEY_ID) is None
    assert anchored.send(owner, contract.add_key(log_id, KEY_ID, 0))
    added = anchored.chain.head().time
    end = added + 1000
    assert anchored.send(owner, contract.revoke_key(log_id, KEY_ID, end))
    key = anchored.contract.operator_key(log_id, KEY_ID)
    assert key is not None
    assert (key.effective_from, key.revoked_at, key.compromised_at) == (added, end, None)
    good = {at: key.is_good_at(at) for at in (added - 1, added, end - 1, end)}
    assert good == {added - 1: False, added: True, end - 1: True, end: False}
    for at, expected in good.items():
        assert _is_good_on_chain(anchored, at) is expected


def test_a_compromised_key_loses_what_it_signed_from_that_date(anchored: AnchoredLog) -> None:
    """A compromise reaches back to its date, revokes the key, and can only move further back."""
    log_id, owner = anchored.reference.log_id, anchored.operator
    assert anchored.send(owner, contract.add_key(log_id, KEY_ID, 0))
    added = anchored.chain.head().time
    for at in (added + 1, added - 5):
        while anchored.chain.head().time < at:
            anchored.chain.pass_time()
        assert anchored.send(owner, contract.compromise_key(log_id, KEY_ID, at))
        key = anchored.contract.operator_key(log_id, KEY_ID)
        assert key is not None
        assert key.compromised_at == at
        assert key.revoked_at is not None
        assert key.changed_at == anchored.chain.head().time
        assert key.is_good_at(added) is (at > added)
        assert _is_good_on_chain(anchored, added) is (at > added)


def _is_good_on_chain(anchored: AnchoredLog, at: int) -> bool:
    (good,) = anchored.contract._ask(
        "is_key_good(bytes24,bytes32,uint256)", ["bool"], anchored.reference.log_id, KEY_ID, at
    )
    return bool(good)


def test_writer_and_owner_change_only_by_offer_and_acceptance(anchored: AnchoredLog) -> None:
    """The new one accepts, the old one is out, and the log's size comes along."""
    log_id, owner = anchored.reference.log_id, anchored.operator
    writer, heir = account("writer"), account("heir")
    anchored.publish(5)
    assert anchored.send(owner, contract.offer_writer(log_id, writer.address))
    assert anchored.send(owner, contract.publish(6, root_at(6)))
    assert anchored.send(writer, contract.accept_writer(log_id))
    assert not anchored.send(owner, contract.publish(7, root_at(7)))
    assert not anchored.send(writer, contract.publish(6, LEAVES[9]))
    assert anchored.send(writer, contract.publish(7, root_at(7)))
    assert anchored.send(owner, contract.dismiss_writer(log_id))
    assert not anchored.send(writer, contract.publish(8, root_at(8)))
    assert anchored.contract.log(log_id) == LogState(7, None, owner.address)
    assert anchored.send(owner, contract.offer_owner(log_id, heir.address))
    assert anchored.send(heir, contract.accept_owner(log_id))
    assert not anchored.send(owner, contract.offer_writer(log_id, owner.address))
    assert anchored.send(heir, contract.offer_writer(log_id, heir.address))
    assert anchored.send(heir, contract.accept_writer(log_id))
    assert anchored.send(heir, contract.publish(8, root_at(8)))
    assert anchored.contract.log(log_id) == LogState(8, heir.address, heir.address)
    assert anchored.contract.verify(log_id, 7, LEAVES[6], 6, path_to(6, 7))
