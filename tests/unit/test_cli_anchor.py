"""`verispect anchor`, on the embedded development chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anchor_chain import other_root_at, root_at
from tlog_log import ORIGIN, SIGNER
from verispect.attesters.signer import SoftwareSigner
from verispect.cli.main import main
from verispect.core.encoding import Digest
from verispect.ledger.anchor.account import KEY_FILE_NAME
from verispect.ledger.anchor.development_chain import DEVELOPMENT_CHAIN_ID
from verispect.tlog.checkpoint import Checkpoint, sign_checkpoint
from verispect.tlog.note import VerifierKey

Capture = pytest.CaptureFixture[str]
VKEY = VerifierKey(ORIGIN, SIGNER.public_key).encode()
KEY_ID = bytes(range(32)).hex()


class Operator:
    def __init__(self, directory: Path, capsys: Capture) -> None:
        self.directory = directory
        self._capsys = capsys
        self.chain = ["--development-chain", str(directory / "chain")]
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> Any:
        state = ["--state", str(self.directory / "state")]
        assert main(["anchor", *words, *state, *self.chain]) == code
        shown = self._capsys.readouterr()
        self.err = shown.err
        return json.loads(shown.out) if shown.out else None

    def checkpoint(
        self, size: int, root: Digest | None = None, signer: SoftwareSigner = SIGNER
    ) -> str:
        path = self.directory / f"checkpoint-{size}"
        checkpoint = Checkpoint(ORIGIN, size, root or root_at(size))
        path.write_bytes(sign_checkpoint(checkpoint, signer=signer).encode())
        return str(path)


@pytest.fixture
def operator(tmp_path: Path, capsys: Capture) -> Operator:
    return Operator(tmp_path, capsys)


def test_a_log_is_deployed_published_and_checked(operator: Operator) -> None:
    """The whole way, each step of it twice; the chain is called what it is each time."""
    deployed = operator("deploy", "--log", VKEY)
    assert operator("deploy", "--log", VKEY) == deployed
    assert (deployed["development"], deployed["chainId"]) == (True, DEVELOPMENT_CHAIN_ID)
    assert deployed["origin"] == ORIGIN
    published = operator("publish", "--checkpoint", operator.checkpoint(7))
    assert operator("publish", "--checkpoint", operator.checkpoint(7)) == published
    assert (published["size"], published["previousSize"]) == (7, 0)
    words = ("check", "--checkpoint", operator.checkpoint(7), "--accept-development")
    report = operator(*words, "--reference", deployed["reference"])
    assert report["root"] == root_at(7).hex()
    assert report["anchoredAt"] == published["anchoredAt"]
    assert report["development"] is True
    assert "DEVELOPMENT" in operator.err


def test_a_check_answers_no_and_could_not_tell_apart(operator: Operator) -> None:
    """A development chain, a tree that is missing, another root, too few blocks."""
    operator("deploy", "--log", VKEY)
    operator("publish", "--checkpoint", operator.checkpoint(7))
    checkpoint = ("check", "--checkpoint", operator.checkpoint(7))
    operator(*checkpoint, code=1)
    assert "FAIL: refused" in operator.err
    assert "(development-chain)" in operator.err
    operator(*checkpoint, "--accept-development", "--confirmations", "1000", code=4)
    assert "(chain-unconfirmed)" in operator.err
    missing = operator.checkpoint(5)
    operator("check", "--checkpoint", missing, "--accept-development", code=1)
    assert "(anchor-missing)" in operator.err
    forked = operator.checkpoint(7, other_root_at(7))
    operator("check", "--checkpoint", forked, "--accept-development", code=1)
    assert "(anchor-conflict)" in operator.err
    operator("publish", "--checkpoint", forked, code=1)
    assert "(anchor-conflict)" in operator.err


def test_a_checkpoint_that_the_log_did_not_sign_is_not_published(operator: Operator) -> None:
    """Nothing is anchored that another key signed, and nothing is sent."""
    operator("deploy", "--log", VKEY)
    stranger = operator.checkpoint(7, signer=SoftwareSigner(bytes(32)))
    operator("publish", "--checkpoint", stranger, code=1)
    assert "(key-unknown)" in operator.err
    operator("check", "--checkpoint", operator.checkpoint(7), "--accept-development", code=1)
    assert "(anchor-missing)" in operator.err


def test_keys_are_announced_revoked_and_shown(operator: Operator) -> None:
    """Dates come back as the chain has them; a compromise needs its date said."""
    operator("deploy", "--log", VKEY)
    assert operator("key", "show", "--key-id", KEY_ID)["known"] is False
    added = operator("key", "add", "--key-id", KEY_ID)
    assert operator("key", "add", "--key-id", KEY_ID) == added
    assert (added["known"], added["revokedAt"]) == (True, None)
    later = str(added["effectiveFrom"] + 10_000)
    assert operator("key", "revoke", "--key-id", KEY_ID, "--at", later)["revokedAt"] == int(later)
    operator("key", "compromise", "--key-id", KEY_ID, code=2)
    since = str(added["effectiveFrom"])
    shown = operator("key", "compromise", "--key-id", KEY_ID, "--at", since)
    assert shown["compromisedAt"] == added["effectiveFrom"]
    assert operator("key", "show", "--key-id", KEY_ID) == shown


def test_a_chain_has_to_be_named(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither no chain nor two of them; no key is made for nothing."""
    operator.chain = []
    operator("deploy", "--log", VKEY, code=2)
    operator.chain = ["--rpc", "http://127.0.0.1:9", "--development-chain", "x"]
    operator("deploy", "--log", VKEY, code=2)
    assert not (operator.directory / "state" / KEY_FILE_NAME).exists()
    operator.chain = []
    monkeypatch.setenv("VERISPECT_ANCHOR_RPC", "http://name:secret@127.0.0.1:9/")
    operator("deploy", "--log", VKEY, code=4)
    assert "(network-failed)" in operator.err
    assert "secret" not in operator.err


def test_what_is_no_key_or_no_reference_is_malformed(operator: Operator) -> None:
    """Wrong files and words end with the code for "not understood"."""
    operator("deploy", "--log", "log.example", code=3)
    reference = operator.directory / "reference.json"
    reference.write_text("{}")
    checkpoint = operator.checkpoint(7)
    operator("check", "--checkpoint", checkpoint, "--reference", str(reference), code=3)
    operator("publish", "--checkpoint", checkpoint, "--eas", "0x" + "11" * 20, code=2)
    operator("check", "--checkpoint", checkpoint, "--eas", "0x" + "11" * 20, code=2)
