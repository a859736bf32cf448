"""OpenSSF Model Signing: a Sigstore bundle beside each manifest that says who signed the files.

The bundle is made and checked by the `model-signing` package in key mode, ECDSA over P-256. It
covers every file of the manifest under its manifest name, and the manifest itself. Digests that
were computed already are handed to the package, so that nothing is hashed twice and a bundle can
be checked at each load.

What the package verifies in this mode: the signature over the DSSE envelope, the hint that names
the key, the types of payload, statement and predicate, and that names and digests are exactly
those given. It does not verify who holds the key, nor when the signature was made; the subject's
name is only informative, and only the first signature of an envelope is looked at.

The package takes most of a second to import (it brings all of Sigstore), hence the late imports.
It is never asked for anything that reaches a network.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from verispect.core.errors import ModelError, Reason, StoreError
from verispect.models.blobs import write_atomically

MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024


class ModelSigner:
    """The signing key of one registry.

    Args:
        folder: holds `model-signing.pem` (mode 0600) and `model-signing.pub.pem`.
    """

    def __init__(self, folder: Path) -> None:
        self._private_key = folder / "model-signing.pem"
        self.public_key = folder / "model-signing.pub.pem"
        """What a third party needs to check the bundles."""

    def ensure_key(self) -> None:
        """Make the key pair if there is none; only while holding the registry's lock.

        Raises:
            StoreError: `store-failed`.
        """
        if self._private_key.exists() and self.public_key.exists():
            return
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        if self._private_key.exists():
            # A crash came between the two files: the public one is made again from the private.
            key = serialization.load_pem_private_key(self._private_key.read_bytes(), None)
        else:
            key = ec.generate_private_key(ec.SECP256R1())
            private = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_atomically(self._private_key, private, mode=0o600)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_atomically(self.public_key, public)

    def sign(self, name: str, resources: Mapping[str, bytes]) -> bytes:
        """Return a bundle over `resources`, digests by name.

        Raises:
            StoreError: `store-failed` where the key cannot be used.
        """
        from model_signing import signing

        try:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "bundle.json"
                config = signing.Config()  # type: ignore[no-untyped-call]
                config.set_hashing_config(_known_digests(name, resources))
                config.use_elliptic_key_signer(private_key=self._private_key)
                config.sign(folder, target)
                return target.read_bytes()
        except (OSError, ValueError) as error:
            raise StoreError(
                "the model signing key cannot be used", reason=Reason.STORE_FAILED
            ) from error

    def verify(self, name: str, bundle: bytes, resources: Mapping[str, bytes]) -> None:
        """Check that `bundle` signs exactly `resources`.

        Raises:
            ModelError: `model-changed` where it does not.
        """
        _check_shape(name, bundle)
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying

        try:
            with tempfile.TemporaryDirectory() as folder:
                source = Path(folder) / "bundle.json"
                source.write_bytes(bundle)
                config = verifying.Config()  # type: ignore[no-untyped-call]
                config.set_hashing_config(_known_digests(name, resources))
                config.use_elliptic_key_verifier(public_key=os.fspath(self.public_key))
                config.verify(folder, source)
        except (OSError, ValueError, KeyError, IndexError, TypeError, InvalidSignature) as error:
            raise _refused(name) from error


def _known_digests(name: str, resources: Mapping[str, bytes]) -> Any:
    """Return a hashing configuration that answers with digests we computed."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest as PackageDigest  # pinned: 1.1.1

    kind = manifest.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    )
    items = [
        kind.new_item(key, PackageDigest("sha256", bytes(value)))
        for key, value in resources.items()
    ]

    class KnownDigests(hashing.Config):
        def hash(self, *_: Any, **__: Any) -> Any:
            return manifest.Manifest(name, items, kind)

    return KnownDigests()  # type: ignore[no-untyped-call]


def _check_shape(name: str, bundle: bytes) -> None:
    """Refuse early what the package would only print a warning about."""
    try:
        if len(bundle) > MAX_BUNDLE_BYTES:
            raise _refused(name)
        decoded = json.loads(bundle)
        hint = decoded["verificationMaterial"]["publicKey"]["hint"]
        signatures = decoded["dsseEnvelope"]["signatures"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(name) from error
    if not isinstance(hint, str) or not hint or not isinstance(signatures, list):
        raise _refused(name)
    if len(signatures) != 1:
        raise _refused(name)


def _refused(name: str) -> ModelError:
    return ModelError(
        f"the signature bundle of model {name} does not fit its manifest and files",
        reason=Reason.MODEL_CHANGED,
    )
