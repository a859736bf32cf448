"""AWS Nitro Enclaves: asks the security module behind `/dev/nsm` for attestation documents.

One `ioctl` carries a CBOR request to the module and its CBOR answer back. A document is handed on
byte for byte; before that it is only checked that it is a document and carries what was asked for.
This module refuses to judge the document and to go on without the device.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import Final, Protocol

import cbor2

from verispect.attesters.interface import AttestationEvidence
from verispect.core.errors import AttesterError, MalformedError, Reason, RequestError
from verispect.evidence.nitro.appraise import TECHNOLOGY
from verispect.evidence.nitro.document import MAX_FIELD_BYTES, parse_document

DEVICE: Final = Path("/dev/nsm")
MAX_REQUEST_BYTES: Final = 0x1000
MAX_RESPONSE_BYTES: Final = 0x3000
"""Both are limits of the kernel's driver."""

EXCHANGE_COMMAND: Final = 0xC0200A00
"""`_IOWR(0x0A, 0, message)`, where a message has 32 bytes."""

_MESSAGE: Final = struct.Struct("=QQQQ")
"""Address and length of the request, then of the buffer for the answer, whose length the driver
replaces by the length of the answer."""


class SecurityModule(Protocol):
    """What answers requests: the device, or a recording of it."""

    def exchange(self, request: bytes) -> bytes:
        """Return the answer to one request.

        Raises:
            AttesterError: `attester-unavailable`.
        """
        ...


class NsmDevice:
    """The security module of the enclave in which this process runs.

    Args:
        path: the device file.
    """

    def __init__(self, path: Path = DEVICE) -> None:
        self._path = path

    def available(self) -> bool:
        """Say whether there is such a device and this process may use it."""
        try:
            mode = self._path.stat().st_mode
        except OSError:
            return False
        return stat.S_ISCHR(mode) and os.access(self._path, os.R_OK | os.W_OK)

    def exchange(self, request: bytes) -> bytes:
        """Send one request and return the answer.

        Raises:
            AttesterError: `attester-unavailable`.
        """
        sent = ctypes.create_string_buffer(request, len(request))
        answer = ctypes.create_string_buffer(MAX_RESPONSE_BYTES)
        message = bytearray(
            _MESSAGE.pack(
                ctypes.addressof(sent), len(request), ctypes.addressof(answer), MAX_RESPONSE_BYTES
            )
        )
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, EXCHANGE_COMMAND, message, True)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unavailable(f"cannot use {self._path}: {error.strerror}") from error
        *_, length = _MESSAGE.unpack(message)
        if length > MAX_RESPONSE_BYTES:
            raise _unavailable("the device says its answer is longer than the buffer")
        return answer.raw[:length]


class NitroAttester:
    """The enclave's security module as an `Attester`: `report_data` becomes `user_data`.

    Args:
        module: the device, unless another is given.
        public_key: what every document carries in its field for a key.
    """

    name: Final = "nitro"
    technology: Final = TECHNOLOGY

    def __init__(
        self, module: SecurityModule | None = None, *, public_key: bytes | None = None
    ) -> None:
        self._module = module or NsmDevice()
        self._public_key = public_key

    @staticmethod
    def available(path: Path = DEVICE) -> bool:
        """Say whether this machine is an enclave whose device this process may use."""
        return NsmDevice(path).available()

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return a document with `report_data` as user data.

        Raises:
            AttesterError: `attester-unavailable` where there is no device, or it refuses or
                answers with anything but a document that carries what was asked for.
            RequestError: `invalid-request` for a field beyond the format's limit.
        """
        request = encode_attestation_request(report_data, nonce, self._public_key)
        body = decode_attestation_response(self._module.exchange(request))
        try:
            document = parse_document(body)
        except MalformedError as error:
            raise _unavailable("the device's answer is not an attestation document") from error
        asked = (report_data, nonce, self._public_key)
        if (document.user_data, document.nonce, document.public_key) != asked:
            raise _unavailable("the device attested to something else than was asked for")
        return AttestationEvidence(TECHNOLOGY, body, b"")


def encode_attestation_request(
    user_data: bytes | None, nonce: bytes | None, public_key: bytes | None
) -> bytes:
    """Encode a request for a document.

    Raises:
        RequestError: `invalid-request` for a field beyond the format's limit.
    """
    fields = {"user_data": user_data, "nonce": nonce, "public_key": public_key}
    for name, value in fields.items():
        if value is not None and len(value) > MAX_FIELD_BYTES:
            raise RequestError(f"{name} has at most {MAX_FIELD_BYTES} bytes")
    return cbor2.dumps({"Attestation": fields})


def decode_attestation_response(response: bytes) -> bytes:
    """Return the document in an answer.

    Raises:
        AttesterError: `attester-unavailable` where the device refused, with its word for why, or
            where the answer has another form.
    """
    if len(response) > MAX_RESPONSE_BYTES:
        raise _unavailable("the device's answer is too long")
    try:
        answer = cbor2.loads(response)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise _unavailable("the device's answer is not CBOR") from error
    match answer:
        case {"Attestation": {"document": bytes(document)}}:
            return document
        case {"Error": str(word)} if word.isalpha():
            raise _unavailable(f"the device refused: {word[:32]}")
        case _:
            raise _unavailable("the device's answer has another form")


def _unavailable(what: str) -> AttesterError:
    return AttesterError(what, reason=Reason.ATTESTER_UNAVAILABLE)
