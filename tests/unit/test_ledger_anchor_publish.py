"""Publishing and checking anchors, on the embedded development chain and over HTTP."""

from __future__ import annotations

import json
import stat
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from eth_abi.abi import encode
from hexbytes import HexBytes

from anchor_chain import (
    LEAVES,
    LOG_KEY,
    AnchoredLog,
    account,
    anchored,
    eas_contracts,
    other_root_at,
    path_to,
    root_at,
)
from tlog_log import ORIGIN
from verispect.core.errors import (
    Error,
    MalformedError,
    NetworkError,
    Reason,
    RequestError,
    StoreError,
    TrustError,
    UnsupportedError,
    VerificationError,
)
from verispect.ledger.anchor import publish
from verispect.ledger.anchor.account import ChainAccount
from verispect.ledger.anchor.chain import Chain, checked_address
from verispect.ledger.anchor.check import AnchorAuditor, AnchorReference
from verispect.ledger.anchor.development_chain import DEVELOPMENT_CHAIN_ID, JOURNAL_NAME
from verispect.ledger.anchor.eas import EasTimestamps
from verispect.ledger.anchor.intents import Call, IntentStore
from verispect.ledger.anchor.transactions import Patience

__all__ = ["anchored"]


def _reason(error: pytest.ExceptionInfo[Error]) -> Reason:
    return error.value.reason


def _sent(log: AnchoredLog) -> int:
    return log.chain.next_nonce(log.operator.address)


def test_everything_may_be_asked_twice_and_is_sent_once(anchored: AnchoredLog) -> None:
    """Deployment, registration and publication find what is there, also after a restart."""
    first = anchored.publish(7)
    sent = _sent(anchored)
    for _ in range(2):
        assert publish.deploy(anchored.sender) == anchored.reference.contract
        again = publish.register(
            anchored.sender, anchored.reference.contract, origin=ORIGIN, log_key=LOG_KEY
        )
        assert again == anchored.reference
        assert anchored.publish(7) == first
        anchored.restart()
    assert _sent(anchored) == sent


def test_a_check_tells_what_the_chain_holds(anchored: AnchoredLog) -> None:
    """The report names chain, contract, time and place, and that it is a development chain."""
    anchored.publish(3)
    record = anchored.publish(7)
    report = anchored.auditor().check(7, root_at(7))
    assert (report.size, report.previous_size, report.latest_size) == (7, 3, 7)
    assert (report.anchored_at, report.block_number) == (record.anchored_at, record.block_number)
    assert (report.chain_id, report.is_development) == (DEVELOPMENT_CHAIN_ID, True)
    assert report.confirmations == 1
    assert anchored.auditor().check(3, root_at(3)).confirmations == 2
    assert anchored.auditor().includes(7, LEAVES[2], 2, path_to(2, 7))
    assert not anchored.auditor().includes(6, LEAVES[2], 2, path_to(2, 6))


def test_a_development_chain_is_refused_unless_it_is_asked_for(anchored: AnchoredLog) -> None:
    """No auditor takes play money for a public chain by default."""
    with pytest.raises(VerificationError) as caught:
        AnchorAuditor(anchored.chain, anchored.reference, confirmations=1)
    assert _reason(caught) is Reason.DEVELOPMENT_CHAIN


def test_what_is_too_new_is_neither_there_nor_missing(anchored: AnchoredLog) -> None:
    """An anchor with too few blocks over it is "not yet", and later "yes"."""
    anchored.publish(7)
    with pytest.raises(NetworkError) as caught:
        anchored.auditor(confirmations=3).check(7, root_at(7))
    assert _reason(caught) is Reason.CHAIN_UNCONFIRMED
    anchored.chain.pass_time()
    anchored.chain.pass_time()
    assert anchored.auditor(confirmations=3).check(7, root_at(7)).confirmations == 3
    with pytest.raises(NetworkError) as caught:
        anchored.auditor(confirmations=1000)
    assert _reason(caught) is Reason.CHAIN_UNCONFIRMED


def test_a_tree_that_is_not_anchored_is_missing(anchored: AnchoredLog) -> None:
    """A size between two anchors has no anchor, and that is no conflict."""
    anchored.publish(3)
    anchored.publish(7)
    with pytest.raises(VerificationError) as caught:
        anchored.auditor().check(5, root_at(5))
    assert _reason(caught) is Reason.ANCHOR_MISSING


def test_an_audit_walks_every_anchor_back_to_the_first(anchored: AnchoredLog) -> None:
    """With its own copy of the log an auditor meets every root that was ever anchored."""
    for size in (1, 2, 50, 199):
        anchored.publish(size)
    assert [each.size for each in anchored.auditor().audit(root_at)] == [199, 50, 2, 1]
    assert [each.size for each in anchored.auditor().audit(root_at, limit=2)] == [199, 50]


def test_publishing_waits_for_its_confirmations(tmp_path: Path) -> None:
    """With three confirmations asked for, what is returned has three."""
    log = AnchoredLog(tmp_path, patience=Patience(confirmations=3, deadline_seconds=60))
    log.set_up()
    log.publish(4)
    assert log.auditor(confirmations=3).check(4, root_at(4)).confirmations == 3


def test_an_empty_tree_is_not_published(anchored: AnchoredLog) -> None:
    """There is nothing in it to anchor."""
    with pytest.raises(RequestError):
        publish.publish(anchored.sender, anchored.reference, 0, root_at(0))


def test_a_fee_above_the_ceiling_is_not_paid(tmp_path: Path) -> None:
    """Nothing is signed or written down at a price that the operator does not accept."""
    log = AnchoredLog(tmp_path, patience=Patience(fee_ceiling=1))
    with pytest.raises(NetworkError) as caught:
        publish.deploy(log.sender)
    assert _reason(caught) is Reason.CHAIN_FAILED
    assert log.store.open_intents() == []
    assert _sent(log) == 0


def test_an_account_without_money_is_told_so(tmp_path: Path) -> None:
    """The refusal comes before anything is signed, and names the account."""
    log = AnchoredLog(tmp_path)
    poor = account("poor")
    log.store.close()
    log.operator = poor
    log.open()
    with pytest.raises(NetworkError, match=poor.address) as caught:
        publish.deploy(log.sender)
    assert _reason(caught) is Reason.CHAIN_FAILED


def test_one_process_anchors_with_a_state(anchored: AnchoredLog) -> None:
    """A second one is refused at once and can go on when the first has ended."""
    with pytest.raises(StoreError) as caught:
        IntentStore(anchored.directory, chain_id=1, account="another")
    assert _reason(caught) is Reason.STORE_LOCKED
    anchored.restart()


def test_a_state_of_a_later_version_is_refused(anchored: AnchoredLog) -> None:
    """What is written by software to come is not guessed at."""
    anchored.store._connection.execute("PRAGMA user_version = 2")
    anchored.store.close()
    with pytest.raises(StoreError) as caught:
        anchored.open()
    assert _reason(caught) is Reason.UNSUPPORTED_VERSION


def test_the_embedded_chain_outlives_its_process_and_is_shared(tmp_path: Path) -> None:
    """Another process that opens the directory sees the same blocks, new ones included."""
    one = AnchoredLog(tmp_path / "state", Chain.development(tmp_path / "chain"))
    one.set_up()
    two = Chain.development(tmp_path / "chain")
    assert two.head() == one.chain.head()
    one.publish(9)
    assert two.head() == one.chain.head()
    report = AnchorAuditor(two, one.reference, confirmations=1, accept_development=True).check(
        9, root_at(9)
    )
    assert report.size == 9


def test_a_block_that_was_cut_short_was_never_made(tmp_path: Path) -> None:
    """A line without its end is dropped, and the chain goes on from the block before."""
    chain = Chain.development(tmp_path)
    for _ in range(3):
        chain.pass_time()
    journal = tmp_path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-10])
    again = Chain.development(tmp_path)
    assert again.head().number == 2
    again.pass_time()
    assert Chain.development(tmp_path).head().number == 3


@pytest.mark.parametrize(
    "change", [(b'"time": 1', b'"time": 2'), (b'"hash"', b'"hush"'), (b"{", b"[")]
)
def test_a_changed_journal_is_damaged(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """Blocks that do not come out as they were written are refused."""
    Chain.development(tmp_path).pass_time()
    journal = tmp_path / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes().replace(*change))
    with pytest.raises(StoreError) as caught:
        Chain.development(tmp_path)
    assert _reason(caught) is Reason.STORE_FAILED


# -- References and accounts --------------------------------------------------------------------


def test_a_reference_survives_its_file(anchored: AnchoredLog) -> None:
    """What an auditor is given is read back equal."""
    assert AnchorReference.from_json(anchored.reference.to_json()) == anchored.reference


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 2, Reason.UNSUPPORTED_VERSION),
        ("version", True, Reason.MALFORMED_JSON),
        ("chainId", "1", Reason.MALFORMED_JSON),
        ("chainId", 0, Reason.MALFORMED_JSON),
        ("contract", "0x12", Reason.MALFORMED_KEY),
        ("founder", "0x52908400098527886e0F7030069857D2E4169EE8", Reason.MALFORMED_KEY),
        ("origin", "", Reason.MALFORMED_CHECKPOINT),
        ("origin", "x" * 257, Reason.MALFORMED_CHECKPOINT),
        ("logKey", "AA", Reason.MALFORMED_KEY),
        ("logKey", 3, Reason.MALFORMED_JSON),
        ("more", 1, Reason.MALFORMED_JSON),
    ],
)
def test_a_reference_with_a_wrong_field_is_refused(
    anchored: AnchoredLog, field: str, value: object, reason: Reason
) -> None:
    """Every field is there, of its type and in its range, and no other is."""
    view = json.loads(anchored.reference.to_json())
    view[field] = value
    with pytest.raises((MalformedError, UnsupportedError)) as caught:
        AnchorReference.from_json(json.dumps(view).encode())
    assert _reason(caught) is reason


def test_a_reference_is_no_other_file() -> None:
    """Text that is not JSON, a key twice, and too much of it are refused."""
    for data in (b"", b"[]", b'{"version": 1, "version": 1}', b"[" * 4000, b" " * 5000, b"\xff"):
        with pytest.raises(MalformedError):
            AnchorReference.from_json(data)


def test_an_account_s_key_is_its_owner_s_and_is_never_replaced(tmp_path: Path) -> None:
    """The file is private, read back as the same account, and made once."""
    path = tmp_path / "deep" / "account.key"
    made = ChainAccount.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ChainAccount.load(path).address == made.address
    assert path.read_text().strip() not in repr(made)
    with pytest.raises(StoreError) as caught:
        ChainAccount.create(path)
    assert _reason(caught) is Reason.STORE_CONFLICT
    assert [each.name for each in path.parent.iterdir()] == ["account.key"]
    path.chmod(0o640)
    with pytest.raises(StoreError):
        ChainAccount.load(path)


@pytest.mark.parametrize("text", [b"", b"zz", b"00" * 31, b"00" * 32, b"ff" * 32, b"\xff" * 64])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    """Zero, numbers beyond the curve's order and everything else are refused as malformed."""
    path = tmp_path / "account.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(MalformedError) as caught:
        ChainAccount.load(path)
    assert _reason(caught) is Reason.MALFORMED_KEY


# -- A node over HTTP ---------------------------------------------------------------------------


def _hexadecimal(value: object) -> object:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, bytes):
        return "0x" + bytes(value).hex()
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: _hexadecimal(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hexadecimal(each) for each in value]
    return value


@pytest.fixture
def node(anchored: AnchoredLog):
    """The development chain behind JSON-RPC, as any node is."""
    web3 = anchored.chain.web3
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body["method"])
            params = [
                int(each, 16)
                if isinstance(each, str) and len(each) < 20 and each[:2] == "0x"
                else each
                for each in body["params"]
            ]
            ask = web3.provider.request_func(web3, web3.middleware_onion)
            answer = dict(ask(body["method"], params))
            answer["id"] = body["id"]
            if "result" in answer:
                answer["result"] = _hexadecimal(answer["result"])
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *values: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_node_over_http_is_asked_the_same_questions(
    anchored: AnchoredLog, node: tuple[str, list[str]]
) -> None:
    """Publishing and checking work over JSON-RPC, and the chain id tells a development chain."""
    url, asked = node
    chain = Chain.connect(url, expected_id=DEVELOPMENT_CHAIN_ID)
    assert chain.is_development
    anchored.store.close()
    over_http = AnchoredLog(anchored.directory, chain)
    over_http.reference = anchored.reference
    over_http.publish(12)
    assert over_http.auditor().check(12, root_at(12)).latest_size == 12
    with pytest.raises(VerificationError) as caught:
        chain.call(anchored.reference.contract, bytes.fromhex("00" * 4))
    assert _reason(caught) is Reason.CHAIN_REVERTED
    assert {"eth_sendRawTransaction", "eth_call", "eth_getTransactionReceipt"} <= set(asked)
    over_http.store.close()
    anchored.open()


def test_another_chain_than_the_one_asked_for_is_refused(
    anchored: AnchoredLog, node: tuple[str, list[str]]
) -> None:
    """A node of another chain is no answer, whichever side notices."""
    with pytest.raises(TrustError) as caught:
        Chain.connect(node[0], expected_id=1)
    assert _reason(caught) is Reason.CHAIN_UNEXPECTED
    with pytest.raises(TrustError) as caught:
        AnchorAuditor(anchored.chain, replace(anchored.reference, chain_id=1), confirmations=1)
    assert _reason(caught) is Reason.CHAIN_UNEXPECTED


def test_a_node_that_is_not_there_is_named_without_its_address() -> None:
    """The address of a node may hold a password; no message shows it."""
    with pytest.raises(NetworkError) as caught:
        Chain.connect("http://user:secret@127.0.0.1:9/key", timeout_seconds=5)
    assert _reason(caught) is Reason.NETWORK_FAILED
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


# -- EAS ----------------------------------------------------------------------------------------


def _deploy(log: AnchoredLog, name: str, code: bytes) -> str:
    address = log.sender.run(Call(name, None, code)).contract
    assert address is not None
    return address


def _stand_in(log: AnchoredLog) -> str:
    from vyper.compiler import compile_code

    source = (Path(__file__).parent / "eas_stand_in.vy").read_text()
    built = compile_code(source, output_formats=["bytecode"])
    return _deploy(log, "stand-in", bytes(HexBytes(built["bytecode"])))


def _genuine(log: AnchoredLog) -> str:
    codes = eas_contracts()
    registry = _deploy(log, "registry", bytes.fromhex(codes["SchemaRegistry"]))
    argument = encode(["address"], [registry])
    return _deploy(log, "eas", bytes.fromhex(codes["EAS"]) + argument)


@pytest.mark.parametrize("kind", [_stand_in, _genuine], ids=["stand-in", "genuine"])
def test_a_tree_is_timestamped_by_eas_once(anchored: AnchoredLog, kind) -> None:
    """A tree gets a time, keeps it, and another root of its size gets none from us."""
    eas = EasTimestamps(anchored.chain, kind(anchored), origin=ORIGIN, log_key=LOG_KEY)
    with pytest.raises(VerificationError) as caught:
        eas.check(7, root_at(7), confirmations=1, accept_development=True)
    assert _reason(caught) is Reason.ANCHOR_MISSING
    first = eas.publish(anchored.sender, 7, root_at(7))
    assert first.anchored_at == anchored.chain.head().time
    sent = _sent(anchored)
    anchored.restart()
    assert eas.publish(anchored.sender, 7, root_at(7)) == first
    for size, root in ((7, other_root_at(7)), (6, root_at(6))):
        with pytest.raises(VerificationError) as caught:
            eas.publish(anchored.sender, size, root)
        assert _reason(caught) is Reason.ANCHOR_CONFLICT
    assert _sent(anchored) == sent
    assert eas.check(7, root_at(7), confirmations=1, accept_development=True) == first
    with pytest.raises(VerificationError) as caught:
        eas.check(7, root_at(7), confirmations=1)
    assert _reason(caught) is Reason.DEVELOPMENT_CHAIN
    with pytest.raises(NetworkError) as caught:
        eas.check(7, root_at(7), confirmations=2, accept_development=True)
    assert _reason(caught) is Reason.CHAIN_UNCONFIRMED


def test_an_address_without_eas_is_no_answer(anchored: AnchoredLog) -> None:
    """Where no contract stands the answer is "could not tell", never "has no time"."""
    nobody = checked_address(account("nobody").address)
    eas = EasTimestamps(anchored.chain, nobody, origin=ORIGIN, log_key=LOG_KEY)
    with pytest.raises(NetworkError) as caught:
        eas.check(7, root_at(7), confirmations=1, accept_development=True)
    assert _reason(caught) is Reason.CHAIN_FAILED
