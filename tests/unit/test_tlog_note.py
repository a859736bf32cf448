"""Signed notes and verifier keys, against Go's published example and damaged forms of it."""

from __future__ import annotations

import base64

import pytest

from tlog_log import ORIGIN, SIGNER
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError, VerificationError
from verispect.core.keys import PublicKey
from verispect.tlog.note import (
    MAX_NOTE_BYTES,
    MAX_NOTE_SIGNATURES,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    check_distinct,
    parse_signature_lines,
    sign_note,
    verify_note,
)

# The example of golang.org/x/mod/sumdb/note.
KEY_TEXT = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
LINE = (
    "\N{EM DASH} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
NOTE = f"{TEXT}\n{LINE}".encode()
KEY = VerifierKey.parse(KEY_TEXT)


def reason_of(call, *arguments):
    with pytest.raises(Error) as caught:
        call(*arguments)
    return caught.value.reason


def test_the_published_note_verifies():
    """A note that Go signed is read, verified and written back byte for byte."""
    note = Note.parse(NOTE)
    assert note.text == TEXT
    assert verify_note(note, [KEY]) == [KEY]
    assert note.encode() == NOTE
    assert KEY.encode() == KEY_TEXT
    assert KEY.key_hash.hex() == "c74f20a3"


def test_the_key_of_a_real_log_is_read():
    """The key of Go's checksum database, which is in every Go toolchain, has the hash it says."""
    text = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert VerifierKey.parse(text).encode() == text


def test_what_we_sign_verifies():
    """A text with blank lines of its own comes back, and its signature holds."""
    text = "one\n\n\nfour: \N{GREEK SMALL LETTER ALPHA}\n"
    note = Note(text, (sign_note(text, name=ORIGIN, signer=SIGNER),))
    parsed = Note.parse(note.encode())
    assert parsed == note
    key = VerifierKey(ORIGIN, SIGNER.public_key)
    assert verify_note(parsed, [KEY, key]) == [key]


def test_signatures_of_unknown_keys_are_ignored():
    """Whatever stands under a name that is not known, the known key decides."""
    junk = NoteSignature("somebody", b"\x00\x01\x02\x03", b"any bytes at all")
    note = Note.parse(NOTE).with_signatures([junk, junk])
    assert len(note.signatures) == 2
    assert verify_note(Note.parse(note.encode()), [KEY]) == [KEY]
    other = VerifierKey("other", SIGNER.public_key)
    assert reason_of(verify_note, note, [other]) is Reason.KEY_UNKNOWN
    assert reason_of(verify_note, note, []) is Reason.KEY_UNKNOWN


def test_a_bad_signature_under_a_known_key_refuses_the_note():
    """One false line under the known name and hash is enough, even beside the true one."""
    good = Note.parse(NOTE)
    forged = NoteSignature("PeterNeumann", KEY.key_hash, bytes(64))
    for note in (Note(TEXT, (forged,)), Note(TEXT, (*good.signatures, forged))):
        assert reason_of(verify_note, note, [KEY]) is Reason.SIGNATURE_INVALID
    changed = Note("Other text.\n", good.signatures)
    assert reason_of(verify_note, changed, [KEY]) is Reason.SIGNATURE_INVALID


def test_a_key_whose_hash_collides_only_fails():
    """A line with the right name and hash by another key is a bad signature, never a good one."""
    line = sign_note(TEXT, name="PeterNeumann", signer=SIGNER)
    collided = NoteSignature(line.name, KEY.key_hash, line.signature)
    assert reason_of(verify_note, Note(TEXT, (collided,)), [KEY]) is Reason.SIGNATURE_INVALID
    # The hash of its own key, under the known name: another key, and unknown.
    assert reason_of(verify_note, Note(TEXT, (line,)), [KEY]) is Reason.KEY_UNKNOWN
    # The known hash under another name: unknown as well.
    renamed = NoteSignature("Neumann", KEY.key_hash, Note.parse(NOTE).signatures[0].signature)
    assert reason_of(verify_note, Note(TEXT, (renamed,)), [KEY]) is Reason.KEY_UNKNOWN


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        NOTE[:-1],
        NOTE + b"\n",
        NOTE + b"trailing\n",
        NOTE.replace(b"\n", b"\r\n"),
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace("\N{EM DASH}".encode(), b"-"),
        NOTE.replace("\N{EM DASH} ".encode(), "\N{EM DASH}".encode()),
        NOTE.replace(b"PeterNeumann ", b"Peter Neumann "),
        NOTE.replace(b"PeterNeumann ", b"Peter+Neumann "),
        NOTE.replace(b"PeterNeumann ", "Peter\N{NO-BREAK SPACE}Neumann ".encode()),
        NOTE.replace(b"PeterNeumann ", b" "),
        NOTE.replace(b"PeterNeumann ", b"PeterNeumann  "),
        NOTE.replace(b"AM=\n", b"AM\n"),
        NOTE.replace(b"AM=\n", b"AN=\n"),
        NOTE.replace(b"AM=\n", b"AM= \n"),
        NOTE.replace(b"AM=\n", b"A_-=\n"),
        NOTE.replace(b"crypto", b"crypt\x00"),
        NOTE.replace(b"crypto", b"crypt\t"),
        NOTE.replace(b"crypto", b"crypt\xff"),
        f"{TEXT}\n\N{EM DASH} name {base64.b64encode(b'hash').decode()}\n".encode(),
        f"{TEXT}\n\N{EM DASH} name \n".encode(),
        f"{TEXT}\n\N{EM DASH} name\n".encode(),
    ],
)
def test_another_form_is_refused(data):
    """Not one character may differ from the form of a note."""
    assert reason_of(Note.parse, data) is Reason.MALFORMED_NOTE


def test_limits_are_enforced():
    """Too many bytes and too many signatures are refused before any signature is checked."""
    assert reason_of(Note.parse, bytes(MAX_NOTE_BYTES + 1)) is Reason.TOO_LARGE
    whole = f"{TEXT}\n{LINE * MAX_NOTE_SIGNATURES}".encode()
    assert len(Note.parse(whole).signatures) == MAX_NOTE_SIGNATURES
    assert reason_of(Note.parse, whole + LINE.encode()) is Reason.MALFORMED_NOTE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.MALFORMED_KEY),
        ("PeterNeumann+c74f20a3", Reason.MALFORMED_KEY),
        (KEY_TEXT.replace("c74f20a3", "c74f20a4"), Reason.MALFORMED_KEY),
        (KEY_TEXT.replace("c74f20a3", "C74F20A3"), Reason.MALFORMED_KEY),
        (KEY_TEXT.replace("PeterNeumann", "PeterNeuman"), Reason.MALFORMED_KEY),
        (KEY_TEXT.replace("PeterNeumann", "Peter Neumann"), Reason.MALFORMED_KEY),
        (KEY_TEXT + "=", Reason.MALFORMED_KEY),
        (KEY_TEXT[:-4], Reason.MALFORMED_KEY),
        ("PeterNeumann+c74f20a3+", Reason.MALFORMED_KEY),
        (KEY_TEXT.replace("+ARpc", "+Ahpc"), Reason.UNSUPPORTED_ALGORITHM),
        ("+" + KEY_TEXT, Reason.MALFORMED_KEY),
    ],
)
def test_another_key_text_is_refused(text, reason):
    """The text of a key has one form, and its hash must be right."""
    assert reason_of(VerifierKey.parse, text) is reason


def test_one_key_has_another_hash_for_each_use():
    """A witness's key hash is never that of a log's, although the key is one."""
    log = VerifierKey(ORIGIN, SIGNER.public_key)
    witness = VerifierKey(ORIGIN, SIGNER.public_key, SignatureType.COSIGNATURE)
    assert log.key_hash != witness.key_hash
    assert VerifierKey.parse(witness.encode()) == witness
    with pytest.raises(TypeError):
        verify_note(Note.parse(NOTE), [witness])


def test_a_set_of_keys_must_be_distinct():
    """One key under two names, or one name and hash twice, is refused."""
    log = VerifierKey("a", SIGNER.public_key)
    assert reason_of(check_distinct, [log, log]) is Reason.MALFORMED_KEY
    renamed = VerifierKey("b", SIGNER.public_key)
    assert reason_of(check_distinct, [log, renamed]) is Reason.MALFORMED_KEY
    check_distinct([log, KEY])


def test_names_that_cannot_stand_in_a_note_are_refused():
    """Neither spaces, plus signs, control characters nor nothing at all name a key."""
    for name in ("", "a b", "a+b", "a\nb", "a\u200bb", "\ud800", "x" * 257):
        with pytest.raises(MalformedError):
            VerifierKey(name, PublicKey(bytes(32)))


def test_signature_lines_stand_alone():
    """The answer of a witness is signature lines without a note."""
    assert parse_signature_lines(LINE * 2) == Note.parse(NOTE).signatures * 2
    for text in ("", "\n", LINE[:-1], LINE + "\n"):
        assert reason_of(parse_signature_lines, text) is Reason.MALFORMED_NOTE


def test_errors_are_of_the_right_class():
    """Not understood, not supported and no are three answers."""
    assert issubclass(MalformedError, Error)
    with pytest.raises(UnsupportedError):
        VerifierKey.parse(KEY_TEXT.replace("+ARpc", "+Ahpc"))
    with pytest.raises(VerificationError):
        verify_note(Note.parse(NOTE), [])
