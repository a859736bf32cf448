"""The Nitro attester: requests, answers and refusals of the security module."""

from __future__ import annotations

import ctypes
import errno
import fcntl
from pathlib import Path

import cbor2
import pytest

from tee_vectors import read_vector
from verispect.attesters.development_enclave import DevelopmentEnclave, EnclaveMeasurements
from verispect.attesters.nitro import (
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    NitroAttester,
    NsmDevice,
    decode_attestation_response,
    encode_attestation_request,
)
from verispect.core.errors import AttesterError, Reason, RequestError

NOW = 1_790_000_000_000


class EmulatedModule:
    """Answers as the device does, with documents of a development enclave."""

    def __init__(self, directory: Path, **answered: bytes | None) -> None:
        self._enclave = DevelopmentEnclave.create(
            directory, NOW, measurements=EnclaveMeasurements(b"i", b"k", b"a")
        )
        self._answered = answered

    def exchange(self, request: bytes) -> bytes:
        fields = cbor2.loads(request)["Attestation"] | self._answered
        document = self._enclave.attest(**fields, now=NOW)
        return cbor2.dumps({"Attestation": {"document": document}})


class FixedModule:
    """Gives one answer to everything."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def exchange(self, request: bytes) -> bytes:
        return self._answer


def test_a_request_is_the_map_that_the_device_reads() -> None:
    """One variant name over three fields, absent ones null, in the smallest encoding."""
    request = encode_attestation_request(b"data", None, b"key")
    expected = b"\xa1\x6bAttestation\xa3\x69user_data\x44data\x65nonce\xf6\x6apublic_key\x43key"
    assert request == expected
    longest = encode_attestation_request(bytes(1024), bytes(1024), bytes(1024))
    assert len(longest) <= MAX_REQUEST_BYTES


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_field_beyond_the_limit_is_not_sent(place: int) -> None:
    """A thousand and twenty-five bytes are refused before the device is asked."""
    fields: list[bytes | None] = [None, None, None]
    fields[place] = bytes(1025)
    with pytest.raises(RequestError):
        encode_attestation_request(*fields)


def test_a_recorded_document_comes_out_of_an_answer_unchanged() -> None:
    """The document is handed on byte for byte, from definite and indefinite maps."""
    document = read_vector("nitro/dstack_a.cose")
    answer = cbor2.dumps({"Attestation": {"document": document}})
    assert decode_attestation_response(answer) == document
    inner = cbor2.dumps("document") + cbor2.dumps(document)
    indefinite = b"\xbf" + cbor2.dumps("Attestation") + b"\xbf" + inner + b"\xff\xff"
    assert decode_attestation_response(indefinite) == document


def test_a_refusal_of_the_device_is_told_in_its_word() -> None:
    """The device's error code stands in the message."""
    with pytest.raises(AttesterError) as refused:
        decode_attestation_response(cbor2.dumps({"Error": "InvalidOperation"}))
    assert refused.value.reason is Reason.ATTESTER_UNAVAILABLE
    assert "InvalidOperation" in refused.value.message


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"\x9f" * 2000,
        b"\x5b" + b"\xff" * 8,
        cbor2.dumps({}),
        cbor2.dumps({"Attestation": {}}),
        cbor2.dumps({"Attestation": {"document": "text"}}),
        cbor2.dumps({"Error": "\x1b[2J"}),
        cbor2.dumps({"Error": 7}),
        cbor2.dumps("LockPCR"),
        cbor2.dumps([1]),
        bytes(MAX_RESPONSE_BYTES + 1),
    ],
)
def test_any_other_answer_is_our_own_error(answer: bytes) -> None:
    """Noise, other variants and too long an answer say that no evidence is to be had."""
    with pytest.raises(AttesterError):
        decode_attestation_response(answer)


def test_every_truncation_of_an_answer_is_our_own_error() -> None:
    """An answer cut anywhere gives no document."""
    document = read_vector("nitro/dstack_a.cose")
    answer = cbor2.dumps({"Attestation": {"document": document}})
    for length in range(0, len(answer), 17):
        with pytest.raises(AttesterError):
            decode_attestation_response(answer[:length])


def test_evidence_carries_what_was_asked_for(tmp_path: Path) -> None:
    """The attester hands on the document with its kind, and no endorsements."""
    evidence = NitroAttester(EmulatedModule(tmp_path), public_key=b"key").attest(b"bound", b"fresh")
    assert evidence.kind == NitroAttester.technology == "aws-nitro"
    assert b"bound" in evidence.body
    assert evidence.endorsements == b""


@pytest.mark.parametrize("field", ["user_data", "nonce", "public_key"])
def test_a_document_about_something_else_is_not_handed_on(tmp_path: Path, field: str) -> None:
    """An answer with another value, in whichever field, is no evidence of ours."""
    module = EmulatedModule(tmp_path, **{field: b"something else"})
    with pytest.raises(AttesterError, match="something else"):
        NitroAttester(module, public_key=b"key").attest(b"bound", b"fresh")


def test_an_answer_without_a_document_of_the_profile_is_not_handed_on() -> None:
    """Bytes in the place of a document are looked at before they are called evidence."""
    answer = cbor2.dumps({"Attestation": {"document": b"noise"}})
    with pytest.raises(AttesterError):
        NitroAttester(FixedModule(answer)).attest(b"bound", None)


def test_a_missing_device_is_said_clearly(tmp_path: Path) -> None:
    """Without the device nothing is available, and attesting names the path."""
    path = tmp_path / "nsm"
    assert not NitroAttester.available(path)
    with pytest.raises(AttesterError) as refused:
        NitroAttester(NsmDevice(path)).attest(b"bound", None)
    assert refused.value.reason is Reason.ATTESTER_UNAVAILABLE
    assert str(path) in refused.value.message


def test_a_file_that_is_no_such_device_is_refused(tmp_path: Path) -> None:
    """A regular file, and a device of another kind, refuse the command."""
    path = tmp_path / "nsm"
    path.write_bytes(b"")
    assert not NitroAttester.available(path)
    for other in (path, Path("/dev/null")):
        with pytest.raises(AttesterError):
            NsmDevice(other).exchange(b"\xa0")


class _Vector(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    _fields_ = (("request", _Vector), ("response", _Vector))


def test_the_message_to_the_driver_has_the_layout_of_two_vectors(monkeypatch) -> None:
    """The driver finds the request, writes its answer into the buffer, and shortens the length."""
    seen = {}

    def driver(descriptor: int, command: int, buffer: bytearray, mutate: bool) -> int:
        assert (command, len(buffer), mutate) == (0xC0200A00, ctypes.sizeof(_Message), True)
        message = _Message.from_buffer(buffer)
        seen["request"] = ctypes.string_at(message.request.address, message.request.length)
        assert message.response.length == MAX_RESPONSE_BYTES
        ctypes.memmove(message.response.address, b"the answer", 10)
        message.response.length = 10
        return 0

    monkeypatch.setattr(fcntl, "ioctl", driver)
    assert NsmDevice(Path("/dev/null")).exchange(b"the question") == b"the answer"
    assert seen["request"] == b"the question"


def test_a_busy_device_and_an_impossible_length_are_our_own_errors(monkeypatch) -> None:
    """What the driver refuses, or says beyond the buffer, is no answer."""

    def busy(*_: object) -> int:
        raise OSError(errno.EBUSY, "busy")

    def boastful(_: int, __: int, buffer: bytearray, ___: bool) -> int:
        _Message.from_buffer(buffer).response.length = MAX_RESPONSE_BYTES + 1
        return 0

    for driver in (busy, boastful):
        monkeypatch.setattr(fcntl, "ioctl", driver)
        with pytest.raises(AttesterError):
            NsmDevice(Path("/dev/null")).exchange(b"\xa0")
