"""The model registry on disk: names, manifests, blobs, and what is loaded from them.

    blobs/sha256/<hex>                the bytes of files and qualification records
    manifests/<model_id>.cbor         canonical manifests
    manifests/<model_id>.bundle.json  OpenSSF Model Signing bundle over manifest and files
    names/<name>.json                 which manifest a name stands for
    keys/                             the signing key of this registry
    lock                              one writer at a time

Reading needs no lock: a file under a final name is whole. `open_verified` hashes every byte once,
in memory, checks the bundle against the digests so computed, and gives out the hashed copies. It
refuses to load a file that the manifest does not name, and to guess a model that is not there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verispect.core.encoding import DIGEST_BYTES, Digest, from_hex
from verispect.core.errors import Error, ModelError, Reason, RequestError, StoreError
from verispect.models.blobs import BlobStore, Progress, SealedFile, StoredBlob, write_atomically
from verispect.models.components import DeterminismClaim, FileEntry, FileRole
from verispect.models.manifest import (
    MANIFEST_RESOURCE,
    MAX_MANIFEST_BYTES,
    ModelFormat,
    ModelManifest,
    parse_manifest,
    validate_manifest,
)
from verispect.models.signing import MAX_BUNDLE_BYTES, ModelSigner
from verispect.models.strict_map import StrictMap
from verispect.models.verified import RegisteredModel, VerifiedFiles

MAX_NAME_RECORD_BYTES: Final = 4096

__all__ = ["ModelRegistry", "RegisteredModel", "RegistryWriter", "VerifiedFiles", "is_model_name"]

_NAME_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_NAME: Final = re.compile(rf"{_NAME_PART}(/{_NAME_PART})?")


def is_model_name(name: str) -> bool:
    """Tell whether `name` may name a model: one part, or two around a slash."""
    return _NAME.fullmatch(name) is not None


class ModelRegistry:
    """A registry of models in one folder.

    Args:
        path: the folder; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = BlobStore(path / "blobs" / "sha256")
        self.signer = ModelSigner(path / "keys")

    # -- Reading ----------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        folder = self.path / "names"
        if not folder.is_dir():
            return []
        names = [file.name[: -len(".json")].replace("%2F", "/") for file in folder.glob("*.json")]
        return sorted(name for name in names if is_model_name(name))

    def resolve(self, name: str) -> RegisteredModel:
        """Return the model that `name` stands for; never another one.

        Raises:
            ModelError: `model-not-found`, or `model-changed` where its manifest changed.
            MalformedError: where the registry's own files are damaged.
        """
        path = self._name_path(name) if is_model_name(name) else None
        content = None if path is None else _read_bounded(path, MAX_NAME_RECORD_BYTES)
        if content is None:
            raise ModelError(
                f"no model is registered under the name {name[:128]!r}",
                reason=Reason.MODEL_NOT_FOUND,
            )
        model_id, created = _parse_name_record(content, name)
        return RegisteredModel(name, model_id, self.manifest(model_id), created)

    def manifest(self, model_id: Digest) -> ModelManifest:
        """Return the manifest `model_id`, verified against it.

        Raises:
            ModelError: `model-not-found`, or `model-changed` where its bytes are other ones.
            MalformedError: `malformed-manifest`.
        """
        content = _read_bounded(self._manifest_path(model_id), MAX_MANIFEST_BYTES)
        if content is None:
            raise ModelError(
                f"no manifest {model_id.hex()} is in the registry", reason=Reason.MODEL_NOT_FOUND
            )
        manifest = None
        with contextlib.suppress(Error):
            # Bytes that do not parse are, above all, not the registered ones.
            manifest = parse_manifest(content)
        if manifest is None or manifest.model_id != model_id:
            raise ModelError(
                f"the manifest {model_id.hex()} changed since it was registered",
                reason=Reason.MODEL_CHANGED,
            )
        return manifest

    def bundle(self, model_id: Digest) -> bytes:
        """Return the OpenSSF Model Signing bundle of a manifest.

        Raises:
            ModelError: `model-changed` where it is missing.
        """
        content = _read_bounded(self._bundle_path(model_id), MAX_BUNDLE_BYTES)
        if content is None:
            raise ModelError(
                f"the signature bundle of {model_id.hex()} is missing", reason=Reason.MODEL_CHANGED
            )
        return content

    def open_verified(self, model: RegisteredModel) -> VerifiedFiles:
        """Read, hash and check every file of a model, and its signature bundle.

        The main file of a GGUF model comes in sealed memory, everything else as bytes. The bundle
        is checked against the digests that this very reading proved, so nothing is hashed twice.

        Raises:
            ModelError: `model-changed`, naming the model and the file.
            StoreError: `store-failed`.
        """
        contents: dict[str, bytes] = {}
        sealed: dict[str, SealedFile] = {}
        try:
            for entry in model.manifest.files:
                what = f"file {entry.name} of model {model.name}"
                if model.manifest.model_format is ModelFormat.GGUF and entry.role in (
                    FileRole.MODEL,
                    FileRole.ADAPTER,
                ):
                    sealed[entry.name] = self.blobs.load_sealed(entry.digest, entry.size, what=what)
                else:
                    contents[entry.name] = self.blobs.load(entry.digest, entry.size, what=what)
            self.signer.verify(model.name, self.bundle(model.model_id), _resources(model.manifest))
        except BaseException:
            for file in sealed.values():
                file.close()
            raise
        return VerifiedFiles(model, contents, sealed)

    # -- Writing ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def writing(self) -> Iterator[RegistryWriter]:
        """Hold the registry for writing; other writers wait.

        Raises:
            StoreError: `store-failed` where the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"the model registry cannot be written: {error.strerror}",
                reason=Reason.STORE_FAILED,
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.blobs.sweep()
            yield RegistryWriter(self)
        finally:
            os.close(lock)

    def add(self, name: str, manifest: ModelManifest, *, replace: bool = False) -> RegisteredModel:
        """Register a manifest whose blobs are stored, under `name`; see `RegistryWriter.add`."""
        with self.writing() as writer:
            return writer.add(name, manifest, replace=replace)

    def _name_path(self, name: str) -> Path:
        return self.path / "names" / f"{name.replace('/', '%2F')}.json"

    def _manifest_path(self, model_id: Digest) -> Path:
        return self.path / "manifests" / f"{model_id.hex()}.cbor"

    def _bundle_path(self, model_id: Digest) -> Path:
        return self.path / "manifests" / f"{model_id.hex()}.bundle.json"


class RegistryWriter:
    """The right to write in a registry; made only by `ModelRegistry.writing`."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry

    def store_bytes(self, content: bytes) -> StoredBlob:
        """Store a blob."""
        return self._registry.blobs.store_bytes(content)

    def store_file(self, descriptor: int, progress: Progress | None = None) -> StoredBlob:
        """Store what a regular file holds, reading it once."""
        return self._registry.blobs.store_file(descriptor, progress)

    def load(self, stored: StoredBlob) -> bytes:
        """Return the bytes of a blob that was stored, verified."""
        return self._registry.blobs.load(stored.digest, stored.size, what="a file just stored")

    def add(self, name: str, manifest: ModelManifest, *, replace: bool = False) -> RegisteredModel:
        """Sign and store `manifest` and let `name` stand for it.

        Every file of the manifest must be stored already. Adding the same model again changes
        nothing, also where it was qualified since.

        Args:
            name: as `is_model_name` allows.
            manifest: the model.
            replace: let a name that stands for another model stand for this one.

        Raises:
            RequestError: `invalid-request` for a name that is not allowed.
            ModelError: `model-exists` where the name stands for another model, `model-changed`
                where a file is not stored.
            StoreError: `store-failed`.
        """
        registry = self._registry
        if not is_model_name(name):
            raise RequestError("the name of the model is not allowed", parameter="name")
        validate_manifest(manifest)
        model_id = manifest.model_id
        existing = self._existing(name, replace=replace)
        if existing is not None and _is_qualified_form(existing.manifest, manifest):
            manifest, model_id = existing.manifest, existing.model_id
        if existing is not None and existing.model_id != model_id and not replace:
            raise ModelError(
                f"the name {name} stands for another model, {existing.model_id.hex()[:16]}…",
                reason=Reason.MODEL_EXISTS,
            )
        for entry in manifest.files:
            _check_stored(registry, name, entry)
        self._store_manifest(name, manifest)
        if existing is not None and existing.model_id == model_id:
            return existing
        created = int(time.time())
        write_atomically(
            registry._name_path(name),  # noqa: SLF001 - the writer is the registry's other half
            json.dumps(
                {"version": 1, "name": name, "model_id": model_id.hex(), "created": created}
            ).encode(),
        )
        return RegisteredModel(name, model_id, manifest, created)

    def _existing(self, name: str, *, replace: bool) -> RegisteredModel | None:
        try:
            return self._registry.resolve(name)
        except Error as error:
            if error.reason is Reason.MODEL_NOT_FOUND or replace:
                return None
            raise

    def _store_manifest(self, name: str, manifest: ModelManifest) -> None:
        registry = self._registry
        registry.signer.ensure_key()
        model_id = manifest.model_id
        resources = _resources(manifest)
        try:
            registry.signer.verify(name, registry.bundle(model_id), resources)
        except ModelError:
            bundle = registry.signer.sign(model_id.hex(), resources)
            registry.signer.verify(name, bundle, resources)
            write_atomically(registry._bundle_path(model_id), bundle)  # noqa: SLF001
        write_atomically(registry._manifest_path(model_id), manifest.to_bytes())  # noqa: SLF001


def _is_qualified_form(existing: ModelManifest, manifest: ModelManifest) -> bool:
    """Tell whether `existing` is `manifest` with a qualification that `manifest` lacks."""
    return (
        manifest.determinism == DeterminismClaim()
        and dataclasses.replace(existing, determinism=DeterminismClaim()) == manifest
    )


def _resources(manifest: ModelManifest) -> dict[str, bytes]:
    """Return what the bundle signs: every file, and the manifest itself."""
    resources = {entry.name: bytes(entry.digest) for entry in manifest.files}
    resources[MANIFEST_RESOURCE] = bytes(manifest.model_id)
    return resources


def _check_stored(registry: ModelRegistry, name: str, entry: FileEntry) -> None:
    try:
        size = registry.blobs.path(entry.digest).stat().st_size
    except OSError:
        size = -1
    if size != entry.size:
        raise ModelError(
            f"file {entry.name} of model {name} is not in the registry",
            reason=Reason.MODEL_CHANGED,
        )


def _read_bounded(path: Path, limit: int) -> bytes | None:
    """Return the file's content, `None` where there is none."""
    try:
        with path.open("rb") as source:
            content = source.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path.name} cannot be read: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if len(content) > limit:
        raise ModelError(f"{path.name} is too large", reason=Reason.MODEL_CHANGED)
    return content


def _parse_name_record(content: bytes, name: str) -> tuple[Digest, int]:
    where = f"the record of the name {name}"
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError):
        decoded = None
    fields = StrictMap(decoded, where=where, reason=Reason.MALFORMED_JSON)
    fields.integer("version", least=1, most=1)
    if fields.text("name") != name:
        raise fields.refuse("it is the record of another name")
    model_id = Digest(from_hex(fields.text("model_id"), length=DIGEST_BYTES))
    created = fields.integer("created")
    fields.finish()
    return model_id, created
