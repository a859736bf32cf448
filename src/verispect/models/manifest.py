"""The canonical model manifest, whose digest is the model's identity.

A manifest says everything that decides what a model answers and that an operator can know: its
files, tensors, tokenizer, *effective* chat template, quantisation, adapters, defaults, engine and
determinism class; for a remote model only where it is reached and what it is called there. The
form is deterministic CBOR (`spec/model-manifest.md`); `model_id` is SHA-256 of those bytes. The
decoder accepts exactly the bytes that the encoder makes and fills in nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from verispect.core.encoding import Digest, decode_content, encode_content, sha256
from verispect.core.errors import Error, MalformedError, Reason, UnsupportedError
from verispect.core.statement import Determinism, ModelIdentity
from verispect.models.components import (
    AdapterEntry,
    ChatTemplate,
    DeterminismClaim,
    EngineRequirement,
    FileEntry,
    FileRole,
    LanguageFacts,
    Provenance,
    TemplateOrigin,
    TensorSummary,
)
from verispect.models.interfaces import GraphFacts, RemoteEndpoint
from verispect.models.strict_map import StrictMap

MANIFEST_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_FILES: Final = 1024
MAX_ADAPTERS: Final = 64

MANIFEST_RESOURCE: Final = "verispect-manifest.cbor"
"""Name of the manifest among the signed resources; no file of a model may bear it."""

NUMERIC_DEFAULTS: Final = frozenset(
    ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
)
"""Names of the generation defaults: what a request gets that does not say."""


class ModelFormat(StrEnum):
    """What kind of thing the model is."""

    GGUF = "gguf"
    ONNX = "onnx"
    INTEGER = "integer"
    """An integer model with committed weights, which can be proven."""
    REMOTE = "remote"


@dataclass(frozen=True, slots=True)
class ModelManifest:
    """Everything that decides what a model answers; see the module."""

    model_format: ModelFormat
    identity: ModelIdentity
    engine: EngineRequirement
    files: tuple[FileEntry, ...] = ()
    """Sorted by name; empty for a remote model."""
    tensors: TensorSummary | None = None
    language: LanguageFacts | None = None
    """Only for GGUF."""
    chat_template: ChatTemplate = field(default_factory=lambda: ChatTemplate(TemplateOrigin.NONE))
    parent: Digest | None = None
    """`model_id` that this one was quantised or tuned from, where the operator says so."""
    adapters: tuple[AdapterEntry, ...] = ()
    """In the order of application."""
    generation_defaults: Mapping[str, int | float] = field(default_factory=dict)
    """Sampler settings for a request that does not say (`NUMERIC_DEFAULTS`)."""
    determinism: DeterminismClaim = field(default_factory=DeterminismClaim)
    prover_commitment: Digest | None = None
    """The proof system's commitment to the weights, where the model can be proven."""
    provenance: Provenance | None = None
    graph: GraphFacts | None = None
    """Only for ONNX."""
    remote: RemoteEndpoint | None = None
    """Only for a remote model."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded; every key is always there."""
        return {
            "version": MANIFEST_VERSION,
            "format": self.model_format.value,
            "identity": self.identity.label,
            "engine": self.engine.to_content(),
            "files": [entry.to_content() for entry in self.files],
            "tensors": self.tensors.to_content() if self.tensors else None,
            "language": self.language.to_content() if self.language else None,
            "chat_template": self.chat_template.to_content(),
            "parent": _plain(self.parent),
            "adapters": [adapter.to_content() for adapter in self.adapters],
            "generation_defaults": dict(self.generation_defaults),
            "determinism": self.determinism.to_content(),
            "prover_commitment": _plain(self.prover_commitment),
            "provenance": self.provenance.to_content() if self.provenance else None,
            "graph": self.graph.to_content() if self.graph else None,
            "remote": self.remote.to_content() if self.remote else None,
        }

    def to_bytes(self) -> bytes:
        """Return the canonical bytes."""
        return encode_content(self.to_content())

    @property
    def model_id(self) -> Digest:
        """SHA-256 of the canonical bytes."""
        return sha256(self.to_bytes())

    def file(self, role: FileRole) -> FileEntry | None:
        """Return the one file with `role`, or `None`; for the model file and the template."""
        for entry in self.files:
            if entry.role is role:
                return entry
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the view for people: digests in hexadecimal. It is never what is hashed."""
        view = _with_hexadecimal(self.to_content())
        return {"model_id": self.model_id.hex(), **view}


def _plain(digest: Digest | None) -> bytes | None:
    return None if digest is None else bytes(digest)


def _with_hexadecimal(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _with_hexadecimal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_hexadecimal(item) for item in value]
    return value


def parse_manifest(data: bytes) -> ModelManifest:
    """Read canonical manifest bytes.

    Raises:
        MalformedError: `malformed-manifest`, `malformed-cbor`, `too-large` or `too-deep`.
        UnsupportedError: `unsupported-version`.
    """
    content = decode_content(data, limit=MAX_MANIFEST_BYTES)
    fields = StrictMap(content, where="manifest")
    version = fields.integer("version")
    if version != MANIFEST_VERSION:
        raise UnsupportedError(
            f"manifest version {version} is not supported", reason=Reason.UNSUPPORTED_VERSION
        )
    manifest = ModelManifest(
        model_format=_read_format(fields),
        identity=_read_identity(fields),
        engine=EngineRequirement.from_content(fields.take("engine"), "engine"),
        files=fields.items("files", FileEntry.from_content, limit=MAX_FILES),
        tensors=fields.optional("tensors", TensorSummary.from_content),
        language=fields.optional("language", LanguageFacts.from_content),
        chat_template=ChatTemplate.from_content(fields.take("chat_template"), "chat_template"),
        parent=fields.optional_digest("parent"),
        adapters=fields.items("adapters", AdapterEntry.from_content, limit=MAX_ADAPTERS),
        generation_defaults=_read_defaults(fields.take("generation_defaults")),
        determinism=DeterminismClaim.from_content(fields.take("determinism"), "determinism"),
        prover_commitment=fields.optional_digest("prover_commitment"),
        provenance=fields.optional("provenance", Provenance.from_content),
        graph=fields.optional("graph", GraphFacts.from_content),
        remote=fields.optional("remote", RemoteEndpoint.from_content),
    )
    fields.finish()
    validate_manifest(manifest)
    if manifest.to_bytes() != data:
        raise fields.refuse("the bytes are not the canonical form")
    return manifest


def _read_format(fields: StrictMap) -> ModelFormat:
    text = fields.text("format")
    if text not in {item.value for item in ModelFormat}:
        raise fields.refuse("format is unknown")
    return ModelFormat(text)


def _read_identity(fields: StrictMap) -> ModelIdentity:
    text = fields.text("identity")
    for identity in ModelIdentity:
        if identity.label == text:
            return identity
    raise fields.refuse("identity is unknown")


def _read_defaults(value: Any) -> dict[str, int | float]:
    fields = StrictMap(value, where="generation_defaults")
    unknown = set(value) - NUMERIC_DEFAULTS
    if unknown or not all(type(item) in (int, float) for item in value.values()):
        raise fields.refuse("expected known sampler settings with numbers")
    return dict(value)


def validate_manifest(manifest: ModelManifest) -> None:
    """Check that the parts of a manifest agree with each other.

    Raises:
        MalformedError: `malformed-manifest` with what contradicts what.
    """
    names = [entry.name for entry in manifest.files]
    if names != sorted(set(names)):
        raise _contradiction("files are not sorted by unique names")
    if MANIFEST_RESOURCE in names:
        raise _contradiction("a file bears the reserved name of the manifest")
    if (manifest.model_format is ModelFormat.REMOTE) != (manifest.remote is not None):
        raise _contradiction("exactly a remote model has an endpoint")
    if manifest.remote is None:
        _validate_local(manifest)
    elif manifest.files or manifest.tensors or manifest.identity is ModelIdentity.LOCAL_WEIGHTS:
        raise _contradiction("a remote model has no files and no known weights")


def _validate_local(manifest: ModelManifest) -> None:
    if manifest.identity is not ModelIdentity.LOCAL_WEIGHTS or manifest.tensors is None:
        raise _contradiction("a local model states its weights")
    _validate_integer(manifest)
    roles = [entry.role for entry in manifest.files]
    if roles.count(FileRole.MODEL) != 1:
        raise _contradiction("expected exactly one model file")
    template = manifest.file(FileRole.CHAT_TEMPLATE)
    if roles.count(FileRole.CHAT_TEMPLATE) > 1 or (
        manifest.chat_template.digest != (template.digest if template else None)
    ):
        raise _contradiction("the chat template is not the one among the files")
    if (manifest.model_format is ModelFormat.GGUF) != (manifest.language is not None):
        raise _contradiction("exactly a gguf model has language facts")
    if (manifest.model_format is ModelFormat.ONNX) != (manifest.graph is not None):
        raise _contradiction("exactly an onnx model has a graph")
    adapters = {entry.name for entry in manifest.files if entry.role is FileRole.ADAPTER}
    if {adapter.file for adapter in manifest.adapters} != adapters:
        raise _contradiction("adapters and adapter files differ")


def _validate_integer(manifest: ModelManifest) -> None:
    integer = manifest.model_format is ModelFormat.INTEGER
    claim = manifest.determinism
    by_definition = claim.determinism is Determinism.EXACT and claim.qualification is None
    if integer != by_definition:
        raise _contradiction("exactly an integer model is exact without a qualification record")
    if integer and manifest.prover_commitment is None:
        raise _contradiction("an integer model has a prover commitment")


def _contradiction(what: str) -> Error:
    return MalformedError(f"manifest: {what}", reason=Reason.MALFORMED_MANIFEST)
