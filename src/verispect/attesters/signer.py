"""The software signer: an Ed25519 key in a file, and the issuer that it signs for.

A key directory holds `issuer.pem` (PKCS #8, readable by its owner only) and `issuer.json` (name,
whether it is for development, and since when it is valid). The private key never leaves this
module: it is neither shown nor part of any error. A key file that others may read is refused.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from verispect.core.envelope import MAX_ISSUER_CHARACTERS
from verispect.core.errors import MalformedError, Reason, StoreError
from verispect.core.keys import SIGNATURE_BYTES, PublicKey
from verispect.evidence.interface import IssuerKey

KEY_FILE: Final = "issuer.pem"
DESCRIPTION_FILE: Final = "issuer.json"
MAX_KEY_FILE_BYTES: Final = 16 * 1024
SEED_BYTES: Final = 32


@cache
def _sign_detached() -> Callable[[bytes, bytes], bytes]:
    """Return libsodium's signature of a message under a secret key.

    PyNaCl's binding lets go of the interpreter lock for the 20 microseconds of a signature and
    then has to win it back: up to 5 milliseconds from a busy event loop (measured 2.9). The same
    function of the same library, called with the lock held, costs what it says. Where the library
    does not show it, the binding is used.
    """
    specification = find_spec("nacl._sodium")
    try:
        if specification is None or specification.origin is None:
            return _sign_through_binding
        native = ctypes.PyDLL(specification.origin).crypto_sign_detached
    except (OSError, AttributeError):
        return _sign_through_binding
    native.restype = ctypes.c_int
    native.argtypes = (
        ctypes.c_char_p,
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_ulonglong,
        ctypes.c_char_p,
    )
    make_buffer = ctypes.c_char * SIGNATURE_BYTES

    def sign(message: bytes, secret: bytes) -> bytes:
        signature = make_buffer()
        if native(signature, None, message, len(message), secret) != 0:
            raise RuntimeError("libsodium did not sign")
        return signature.raw

    return sign


def _sign_through_binding(message: bytes, secret: bytes) -> bytes:
    return bytes(crypto_sign(message, secret)[:SIGNATURE_BYTES])


class SoftwareSigner:
    """Signs with an Ed25519 key held in memory.

    Args:
        seed: the 32-byte private key of RFC 8032.
    """

    __slots__ = ("_public_key", "_secret", "_sign")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise MalformedError(
                f"expected a private key of {SEED_BYTES} bytes", reason=Reason.MALFORMED_KEY
            )
        raw, self._secret = crypto_sign_seed_keypair(seed)
        self._public_key = PublicKey(raw)
        self._sign = _sign_detached()

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` returns."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature over `message`."""
        return self._sign(message, self._secret)

    def __repr__(self) -> str:
        return f"SoftwareSigner({self._public_key.to_text()})"


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs: a signer, the name that trusted roots list, and what the key is for."""

    name: str
    signer: SoftwareSigner
    development: bool
    not_before: int
    """Milliseconds since the epoch."""

    def trusted_key(self) -> IssuerKey:
        """Return the entry that a user who decides to trust this issuer puts in a trusted root."""
        return IssuerKey(self.name, self.signer.public_key, self.development, self.not_before)

    @classmethod
    def create(cls, directory: Path, *, name: str, development: bool, now: int) -> Issuer:
        """Make a key and write it into `directory`, which must hold none.

        Raises:
            StoreError: `store-failed` where a key is there already or cannot be written.
            MalformedError: `malformed-key` for an unusable name.
        """
        _check_name(name)
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        description = {"issuer": name, "development": development, "notBefore": now}
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _only_one(directory):
                # The description of a key that is there must stay as it is.
                if (directory / KEY_FILE).exists():
                    raise FileExistsError
                # The description first: a key without one would be a key nobody can name.
                _write(directory / DESCRIPTION_FILE, json.dumps(description, indent=2).encode())
                _write(directory / KEY_FILE, pem)
        except FileExistsError as error:
            raise StoreError(
                f"{directory / KEY_FILE} is there already", reason=Reason.STORE_FAILED
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write a key in {directory}: {error.strerror}", reason=Reason.STORE_FAILED
            ) from error
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> Issuer:
        """Read the key and its description.

        Raises:
            StoreError: `store-failed` where they are missing or others may read the key.
            MalformedError: `malformed-key`.
        """
        seed = _read_seed(directory / KEY_FILE)
        try:
            description: Any = json.loads((directory / DESCRIPTION_FILE).read_bytes())
        except OSError as error:
            raise StoreError(
                f"cannot read {directory / DESCRIPTION_FILE}: {error.strerror}",
                reason=Reason.STORE_FAILED,
            ) from error
        except (ValueError, RecursionError) as error:
            raise _malformed(f"{DESCRIPTION_FILE} is not JSON") from error
        if (
            not isinstance(description, dict)
            or description.keys() != {"issuer", "development", "notBefore"}
            or not isinstance(description["issuer"], str)
            or type(description["development"]) is not bool
            or type(description["notBefore"]) is not int
            or description["notBefore"] < 0
        ):
            raise _malformed(f"{DESCRIPTION_FILE} is not an issuer's description")
        _check_name(description["issuer"])
        return cls(
            name=description["issuer"],
            signer=SoftwareSigner(seed),
            development=description["development"],
            not_before=description["notBefore"],
        )


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold a lock on `directory`, so that of two who make a key one finds the other's."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """Write a file under another name, readable by its owner only, and put it in place."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _malformed(what: str) -> MalformedError:
    return MalformedError(what, reason=Reason.MALFORMED_KEY)


def _check_name(name: str) -> None:
    if not 0 < len(name) <= MAX_ISSUER_CHARACTERS or not name.isprintable():
        raise _malformed(f"an issuer name has 1 to {MAX_ISSUER_CHARACTERS} printable characters")


def _read_seed(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise StoreError(
            f"{path} may be read by others: set its mode to 0600", reason=Reason.STORE_FAILED
        )
    try:
        key = load_pem_private_key(data[:MAX_KEY_FILE_BYTES], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _malformed(f"{path.name} is not an unencrypted PKCS #8 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _malformed(f"{path.name} is not an Ed25519 key")
    return key.private_bytes_raw()
