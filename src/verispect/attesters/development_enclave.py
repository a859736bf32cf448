"""A development enclave: documents in the very form of AWS Nitro Enclaves, under a CA of our own.

It lets the whole path of hardware attestation run where there is no such hardware. Its documents
have the layout, the five certificates and the life times of genuine ones; what they prove is that
somebody holds a key on this disk. Therefore

- the CA is made anew for each installation, and every certificate says `DEVELOPMENT ONLY`;
- its anchor has the class *development*, which every default policy refuses;
- no name, key or address of AWS stands in it.

Registers are computed from what the caller says is measured, as the real device computes them
from an image. This module refuses to be told registers directly, and to write over a key.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

import verispect
from verispect.attesters.development_certificates import (
    MARK,
    DevelopmentChain,
    issue_chain,
    issue_root,
)
from verispect.attesters.interface import AttestationEvidence
from verispect.core.encoding import byte_string
from verispect.core.errors import MalformedError, Reason, RequestError, StoreError
from verispect.evidence.attestation import Anchor, EvidenceClass
from verispect.evidence.certificates import Certificate, load_certificate
from verispect.evidence.nitro.appraise import TECHNOLOGY, ZERO_REGISTER, instance_register
from verispect.evidence.nitro.document import (
    DIGEST_NAME,
    MAX_FIELD_BYTES,
    PROTECTED_HEADER,
    signed_bytes,
)

CA_FILE: Final = "development-enclave-ca.pem"
"""The CA's private key and certificate, in one file, so that neither is there without the other."""

MAX_CA_FILE_BYTES: Final = 16 * 1024
RENEW_BEFORE_MILLISECONDS: Final = 600_000
"""A chain that ends sooner than this is made anew, so that a document can still be looked at."""

_REGISTERS: Final = 16


@dataclass(frozen=True, slots=True)
class EnclaveMeasurements:
    """What is measured at the start of an enclave: bytes whose digests make the registers."""

    image: bytes
    """Everything: register 0."""
    kernel: bytes
    """Kernel and bootstrap: register 1."""
    application: bytes
    """Register 2."""
    role: str | None = None
    """The name of the role that the machine has: register 3."""

    @classmethod
    def of_this_software(cls) -> EnclaveMeasurements:
        """Return measurements of the installed package and of the interpreter that runs it."""
        package = Path(verispect.__file__).parent
        files = sorted(path for path in package.rglob("*.py"))
        lines = [
            f"{hashlib.sha384(path.read_bytes()).hexdigest()}  {path.relative_to(package)}\n"
            for path in files
        ]
        application = "".join(lines).encode("utf-8")
        kernel = sys.version.encode("utf-8")
        return cls(image=kernel + b"\n" + application, kernel=kernel, application=application)

    def registers(self, instance_id: str) -> dict[int, bytes]:
        """Return all sixteen registers of an enclave with these measurements."""
        registers = dict.fromkeys(range(_REGISTERS), ZERO_REGISTER)
        for index, content in enumerate((self.image, self.kernel, self.application)):
            registers[index] = _extended(hashlib.sha384(content).digest())
        if self.role is not None:
            registers[3] = _extended(self.role.encode("utf-8"))
        registers[4] = instance_register(instance_id)
        return registers


def _extended(data: bytes) -> bytes:
    return hashlib.sha384(ZERO_REGISTER + data).digest()


class DevelopmentEnclave:
    """An emulated enclave under the CA of one directory. Safe to share between threads."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        root: Certificate,
        measurements: EnclaveMeasurements | None = None,
    ) -> None:
        measurements = measurements or EnclaveMeasurements.of_this_software()
        self._key = key
        self._root = root
        identity = root.key_digest.hex()
        self.instance_id: Final = f"i-{identity[:17]}"
        self.module_id: Final = f"{self.instance_id}-enc{identity[17:33]}"
        self._registers = measurements.registers(self.instance_id)
        self._chain: DevelopmentChain | None = None
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls, directory: Path, now: int, *, measurements: EnclaveMeasurements | None = None
    ) -> DevelopmentEnclave:
        """Make a CA and write it into `directory`, which must hold none.

        Args:
            directory: made where it is missing, for its owner only.
            now: milliseconds since the epoch; the CA is valid from then on.
            measurements: of the software that runs; this software, where none are given.

        Raises:
            StoreError: `store-failed` where a CA is there already or cannot be written.
        """
        key = ec.generate_private_key(ec.SECP384R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem += issue_root(key, now).public_bytes(Encoding.PEM)
        path = directory / CA_FILE
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError as error:
            raise StoreError(f"{path} is there already", reason=Reason.STORE_FAILED) from error
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        return cls.load(directory, measurements=measurements)

    @classmethod
    def load(
        cls, directory: Path, *, measurements: EnclaveMeasurements | None = None
    ) -> DevelopmentEnclave:
        """Read the CA of `directory`; `measurements` as in `create`.

        Raises:
            StoreError: `store-failed` where it is missing or others may read it.
            MalformedError: `malformed-key`.
        """
        pem = _read_private(directory / CA_FILE)
        try:
            key = load_pem_private_key(pem, password=None)
            root = load_certificate(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
        except (ValueError, TypeError) as error:
            raise _malformed("not a private key with a certificate") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(
            key.curve, ec.SECP384R1
        ):
            raise _malformed("not a key of P-384")
        if key.public_key() != root.public_key or MARK not in root.label:
            raise _malformed(f"the certificate is not of this key, or does not say {MARK}")
        return cls(key, root, measurements)

    def anchor(self) -> Anchor:
        """Return the anchor that a verifier must name before it accepts these documents."""
        return Anchor(TECHNOLOGY, self._root.key_digest, EvidenceClass.DEVELOPMENT, MARK)

    def registers(self) -> Mapping[str, str]:
        """Return the registers as reference values name them, in hexadecimal."""
        return {f"pcr{index}": value.hex() for index, value in self._registers.items()}

    def attest(
        self,
        *,
        user_data: bytes | None,
        nonce: bytes | None,
        public_key: bytes | None,
        now: int,
    ) -> bytes:
        """Return a document of this enclave, made at `now`, milliseconds since the epoch.

        Raises:
            RequestError: `invalid-request` for a field beyond the format's limit.
        """
        for name, value in (("user data", user_data), ("nonce", nonce), ("key", public_key)):
            if value is not None and len(value) > MAX_FIELD_BYTES:
                raise RequestError(f"{name} has at most {MAX_FIELD_BYTES} bytes")
        chain = self._chain_at(now)
        payload = encode_payload(
            {
                "module_id": self.module_id,
                "digest": DIGEST_NAME,
                "timestamp": now,
                "pcrs": self._registers,
                "certificate": chain.leaf,
                "cabundle": [self._root.der, *chain.issuers],
                "public_key": public_key,
                "user_data": user_data,
                "nonce": nonce,
            }
        )
        return encode_document(payload, sign_es384(chain.key, signed_bytes(payload)))

    def _chain_at(self, now: int) -> DevelopmentChain:
        with self._lock:
            chain = self._chain
            if (
                chain is None
                or not chain.not_before <= now < chain.not_after - RENEW_BEFORE_MILLISECONDS
            ):
                chain = self._chain = issue_chain(self._key, self._root.parsed, self.module_id, now)
            return chain

    def __repr__(self) -> str:
        return f"DevelopmentEnclave({self.module_id}, {MARK})"


class DevelopmentEnclaveAttester:
    """A development enclave as an `Attester`: `report_data` becomes the document's `user_data`.

    Args:
        enclave: what attests.
        clock: the time, in milliseconds since the epoch.
        public_key: what every document carries in its field for a key.
    """

    name: Final = "development-enclave"
    technology: Final = TECHNOLOGY

    def __init__(
        self,
        enclave: DevelopmentEnclave,
        *,
        clock: Callable[[], int],
        public_key: bytes | None = None,
    ) -> None:
        self._enclave = enclave
        self._clock = clock
        self._public_key = public_key

    def attest(self, report_data: bytes, nonce: bytes | None) -> AttestationEvidence:
        """Return a document with `report_data` as user data.

        Raises:
            RequestError: `invalid-request`.
        """
        body = self._enclave.attest(
            user_data=report_data, nonce=nonce, public_key=self._public_key, now=self._clock()
        )
        return AttestationEvidence(TECHNOLOGY, body, b"")


def encode_payload(fields: Mapping[str, object]) -> bytes:
    """Encode the fields of a document as the device does: one map of indefinite length."""
    return b"\xbf" + b"".join(map(cbor2.dumps, _flattened(fields))) + b"\xff"


def _flattened(fields: Mapping[str, object]) -> list[object]:
    return [part for pair in fields.items() for part in pair]


def encode_document(payload: bytes, signature: bytes) -> bytes:
    """Encode the COSE_Sign1 structure, bare as the device does."""
    return b"\x84" + PROTECTED_HEADER + b"\xa0" + byte_string(payload) + byte_string(signature)


def sign_es384(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return the signature of RFC 9053 section 2.1: r and s, 48 bytes each."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA384())))
    return r.to_bytes(48) + s.to_bytes(48)


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_CA_FILE_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StoreError(
            f"{path} may be read by others: set its mode to 0600", reason=Reason.STORE_FAILED
        )
    if len(data) > MAX_CA_FILE_BYTES:
        raise _malformed("too large")
    return data


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"{CA_FILE}: {what}", reason=Reason.MALFORMED_KEY)
