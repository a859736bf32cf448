"""Checkpoints, cosignatures and how many of them suffice."""

from __future__ import annotations

import base64

import pytest

from tlog_log import COSIGNED_AT, ORIGIN, SIGNER, TRUSTED, WITNESSES, MemoryLog, entries, policy
from verispect.attesters.signer import SoftwareSigner
from verispect.core.errors import Error, Reason
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog, sign_checkpoint
from verispect.tlog.cosignature import (
    MAX_CLOCK_SKEW_SECONDS,
    MAX_WITNESSES,
    WitnessPolicy,
    cosign,
    verify_cosignature,
    witness_key,
)
from verispect.tlog.merkle import EMPTY_ROOT
from verispect.tlog.note import Note, NoteSignature, SignatureType, VerifierKey

LOG = MemoryLog(entries(10))
ROOT64 = base64.b64encode(LOG.root).decode()


def reason_of(call, *arguments, **named):
    with pytest.raises(Error) as caught:
        call(*arguments, **named)
    return caught.value.reason


def test_a_checkpoint_of_the_specification_is_read():
    """The published example has the origin, size and root that it shows."""
    text = (
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "\N{EM DASH} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe"
        "4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        "\N{EM DASH} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWX"
        "EhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    signed = SignedCheckpoint.parse(text.encode())
    assert signed.unverified.origin == "example.com/behind-the-sofa"
    assert signed.unverified.size == 20852163
    assert signed.unverified.root.hex().startswith("0ac5186a91863e8e")
    assert signed.encode() == text.encode()


def test_what_the_log_signs_verifies():
    """A checkpoint is written, read and verified; the key is named by the origin."""
    signed = SignedCheckpoint.parse(LOG.checkpoint().encode())
    assert TRUSTED.verify(signed) == Checkpoint(ORIGIN, 10, LOG.root)
    assert signed.note.signatures[0].name == ORIGIN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example\n",
        f"log.example\n10\n{ROOT64}",
        f"\n10\n{ROOT64}\n",
        f"log.example\n\n{ROOT64}\n",
        f"log.example\n010\n{ROOT64}\n",
        f"log.example\n+10\n{ROOT64}\n",
        f"log.example\n-1\n{ROOT64}\n",
        f"log.example\n1 0\n{ROOT64}\n",
        f"log.example\n\u0661\u0660\n{ROOT64}\n",
        f"log.example\n9223372036854775808\n{ROOT64}\n",
        f"log.example\n10\n{ROOT64[:-1]}\n",
        f"log.example\n10\n{ROOT64[:-4]}\n",
        f"log.example\n10\n{ROOT64}=\n",
        f"log.example\n0\n{ROOT64}\n",
        f"log.example\n10\n{ROOT64}\n\n",
        f"log.example\n10\n{ROOT64}\nextension\n\n",
        f"log.ex\u202eample\n10\n{ROOT64}\n",
        f"log.example\n10\n{ROOT64}\n" + "x\n" * 17,
    ],
)
def test_another_text_is_refused(text):
    """Origin, size and root have one form each."""
    assert reason_of(Checkpoint.from_text, text) is Reason.MALFORMED_CHECKPOINT


def test_extension_lines_are_kept_and_signed():
    """What stands after the root is covered by the signature, though we never write it."""
    checkpoint = Checkpoint(ORIGIN, 10, LOG.root, ("extension one", "two"))
    signed = SignedCheckpoint.parse(sign_checkpoint(checkpoint, signer=SIGNER).encode())
    assert TRUSTED.verify(signed).extensions == ("extension one", "two")
    cut = SignedCheckpoint(Note(Checkpoint(ORIGIN, 10, LOG.root).text(), signed.note.signatures))
    assert reason_of(TRUSTED.verify, cut) is Reason.SIGNATURE_INVALID


def test_an_empty_log_has_one_root():
    """A checkpoint of no leaves has the empty root, and no other."""
    assert Checkpoint.from_text(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text()).size == 0
    assert reason_of(Checkpoint, ORIGIN, 0, LOG.root) is Reason.MALFORMED_CHECKPOINT


def test_another_logs_checkpoint_is_refused():
    """Neither another origin nor another key's signature is this log's."""
    other = SoftwareSigner(bytes(32))
    elsewhere = sign_checkpoint(Checkpoint("other.example", 10, LOG.root), signer=SIGNER)
    assert reason_of(TRUSTED.verify, elsewhere) is Reason.LOG_UNKNOWN
    stranger = sign_checkpoint(Checkpoint(ORIGIN, 10, LOG.root), signer=other)
    assert reason_of(TRUSTED.verify, stranger) is Reason.KEY_UNKNOWN
    # Signed under the origin's name and hash, by the wrong key.
    forged = NoteSignature(ORIGIN, TRUSTED.keys[0].key_hash, stranger.note.signatures[0].signature)
    forgery = SignedCheckpoint(Note(stranger.note.text, (forged,)))
    assert reason_of(TRUSTED.verify, forgery) is Reason.SIGNATURE_INVALID


def test_a_log_with_two_keys_is_believed_by_either():
    """A key that is being replaced and the new one both stand for the log."""
    new = SoftwareSigner(bytes(32))
    both = TrustedLog(ORIGIN, (*TRUSTED.keys, VerifierKey(ORIGIN, new.public_key)))
    checkpoint = Checkpoint(ORIGIN, 10, LOG.root)
    assert both.verify(sign_checkpoint(checkpoint, signer=new)) == checkpoint
    assert both.verify(LOG.checkpoint()) == checkpoint


def test_a_trusted_log_needs_keys_that_sign_notes():
    """No key, or a witness's, makes no log."""
    assert reason_of(TrustedLog, ORIGIN, ()) is Reason.MALFORMED_KEY
    witness = witness_key(ORIGIN, SIGNER)
    assert reason_of(TrustedLog, ORIGIN, (witness,)) is Reason.MALFORMED_KEY


def test_foreign_signatures_can_be_taken_off():
    """The bare checkpoint has the log's own lines and still verifies."""
    signed = LOG.checkpoint(witnesses=["w1", "w2"])
    assert TRUSTED.bare(signed) == LOG.checkpoint()
    stranger = sign_checkpoint(Checkpoint(ORIGIN, 10, LOG.root), signer=SoftwareSigner(bytes(32)))
    assert reason_of(TRUSTED.bare, stranger) is Reason.MALFORMED_NOTE


# -- Cosignatures ---------------------------------------------------------------------------------


def test_cosignatures_are_counted_by_witness():
    """Two of two are counted with their times, and a repeated one counts once: the latest."""
    signed = LOG.checkpoint(witnesses=["w1", "w2"])
    again = cosign(signed.unverified, name="w1", seconds=COSIGNED_AT + 5, signer=WITNESSES["w1"])
    counted = policy(2).verify(signed.with_signatures([again]), now_seconds=COSIGNED_AT + 10)
    assert [each.cosigned_at_seconds for each in counted] == [COSIGNED_AT + 5, COSIGNED_AT]


def test_too_few_witnesses_are_not_enough():
    """One of two where two are required, and one that repeats itself, is refused."""
    signed = LOG.checkpoint(witnesses=["w1"])
    again = cosign(signed.unverified, name="w1", seconds=COSIGNED_AT + 5, signer=WITNESSES["w1"])
    signed = signed.with_signatures([again])
    assert len(policy(1).verify(signed, now_seconds=COSIGNED_AT + 10)) == 1
    assert reason_of(policy(2).verify, signed, now_seconds=COSIGNED_AT) is Reason.WITNESSES_MISSING
    none = WitnessPolicy(0, ())
    assert none.verify(signed, now_seconds=COSIGNED_AT) == []


def test_a_cosignature_from_the_future_does_not_count():
    """Beyond the clock skew a witness's time is not believed."""
    signed = LOG.checkpoint(witnesses=["w1", "w2"])
    early = COSIGNED_AT - MAX_CLOCK_SKEW_SECONDS
    assert len(policy(2).verify(signed, now_seconds=early)) == 2
    missing = reason_of(policy(1).verify, signed, now_seconds=early - 1)
    assert missing is Reason.WITNESSES_MISSING


def test_strangers_count_for_nothing_and_forgers_refuse_all():
    """An unknown witness is ignored; a false line under a known one refuses the checkpoint."""
    signed = LOG.checkpoint()
    stranger = cosign(signed.unverified, name="w9", seconds=1, signer=SoftwareSigner(bytes(32)))
    renamed = cosign(signed.unverified, name="w9", seconds=1, signer=WITNESSES["w1"])
    signed = signed.with_signatures([stranger, renamed])
    missing = reason_of(policy(1).verify, signed, now_seconds=COSIGNED_AT)
    assert missing is Reason.WITNESSES_MISSING
    key = policy(1).witnesses[0]
    for false in (stranger.signature, renamed.signature[:-1], b"short"):
        forged = signed.with_signatures([NoteSignature(key.name, key.key_hash, false)])
        invalid = reason_of(policy(1).verify, forged, now_seconds=COSIGNED_AT)
        assert invalid is Reason.SIGNATURE_INVALID


def test_time_and_tree_are_what_was_cosigned():
    """A cosignature with another time, or under another tree, is refused."""
    line = cosign(LOG.checkpoint().unverified, name="w1", seconds=5, signer=WITNESSES["w1"])
    key = policy(1).witnesses[0]
    text = LOG.checkpoint().note.text
    assert verify_cosignature(text, line, key).cosigned_at_seconds == 5
    later = NoteSignature(line.name, line.key_hash, (6).to_bytes(8, "big") + line.signature[8:])
    assert reason_of(verify_cosignature, text, later, key) is Reason.SIGNATURE_INVALID
    other = Checkpoint(ORIGIN, 11, LOG.root).text()
    assert reason_of(verify_cosignature, other, line, key) is Reason.SIGNATURE_INVALID
    beyond = NoteSignature(line.name, line.key_hash, b"\xff" * 8 + line.signature[8:])
    assert reason_of(verify_cosignature, text, beyond, key) is Reason.SIGNATURE_INVALID


def test_a_logs_signature_is_no_cosignature_and_the_reverse():
    """One key used both ways never makes one line count as the other."""
    signed = LOG.checkpoint()
    as_witness = WitnessPolicy(1, (witness_key(ORIGIN, SIGNER),))
    missing = reason_of(as_witness.verify, signed, now_seconds=COSIGNED_AT)
    assert missing is Reason.WITNESSES_MISSING
    key = as_witness.witnesses[0]
    stamped = (0).to_bytes(8, "big") + signed.note.signatures[0].signature
    forged = signed.with_signatures([NoteSignature(ORIGIN, key.key_hash, stamped)])
    invalid = reason_of(as_witness.verify, forged, now_seconds=COSIGNED_AT)
    assert invalid is Reason.SIGNATURE_INVALID
    line = cosign(signed.unverified, name=ORIGIN, seconds=1, signer=SIGNER)
    only_cosigned = SignedCheckpoint(Note(signed.note.text, (line,)))
    assert reason_of(TRUSTED.verify, only_cosigned) is Reason.KEY_UNKNOWN


def test_a_policy_that_cannot_be_met_is_refused():
    """More than there are, fewer than none, one key twice, too many, or a log's key."""
    keys = policy(1).witnesses
    assert reason_of(WitnessPolicy, 3, keys) is Reason.MALFORMED_POLICY
    assert reason_of(WitnessPolicy, -1, keys) is Reason.MALFORMED_POLICY
    assert reason_of(WitnessPolicy, 1, keys * (MAX_WITNESSES // 2 + 1)) is Reason.MALFORMED_POLICY
    twice = (keys[0], VerifierKey("other", keys[0].key, SignatureType.COSIGNATURE))
    assert reason_of(WitnessPolicy, 2, twice) is Reason.MALFORMED_KEY
    assert reason_of(WitnessPolicy, 1, TRUSTED.keys) is Reason.MALFORMED_POLICY


def test_a_cosignature_has_a_time_in_range():
    """A time before the epoch or beyond 63 bits is misuse."""
    for seconds in (-1, 1 << 63):
        with pytest.raises(ValueError, match="out of range"):
            cosign(LOG.checkpoint().unverified, name="w", seconds=seconds, signer=SIGNER)
