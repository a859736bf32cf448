"""From a file, a catalogue entry or an address to a registered model.

The source is read once, into the registry's own storage; what is parsed, digested and registered
is that copy, so a source that changes meanwhile cannot split the two. It refuses symbolic links
in external data, files that are neither GGUF nor ONNX, and addresses that carry secrets. It does
not register adapters yet, because no engine applies them; the manifest has their place.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, ModelError, Reason, RequestError
from verispect.core.statement import ModelIdentity
from verispect.models import gguf
from verispect.models.blobs import Progress, StoredBlob
from verispect.models.catalogue import locate
from verispect.models.components import (
    ChatTemplate,
    EngineRequirement,
    FileEntry,
    FileRole,
    LanguageFacts,
    Provenance,
    TemplateOrigin,
    TensorSummary,
    check_file_name,
)
from verispect.models.interfaces import parse_endpoint
from verispect.models.manifest import ModelFormat, ModelManifest
from verispect.models.merkle import tensor_root
from verispect.models.onnx_file import MAX_ONNX_BYTES, read_onnx
from verispect.models.registry import ModelRegistry, RegistryWriter, is_model_name
from verispect.models.verified import RegisteredModel

CHAT_TEMPLATE_FILE: Final = "chat-template.jinja"
MAX_EXTERNAL_FILES: Final = 1000

ENGINES: Final[Mapping[ModelFormat, EngineRequirement]] = {
    ModelFormat.GGUF: EngineRequirement("llama.cpp", "==2026.10.11549"),
    ModelFormat.ONNX: EngineRequirement("onnxruntime", ">=1.32,<1.33"),
    ModelFormat.INTEGER: EngineRequirement("verispect-integer", ""),
    ModelFormat.REMOTE: EngineRequirement("upstream", ""),
}
"""Which engine a newly registered model requires: the wheel's name for the engine, its version."""

_NO_DEFAULTS: Final[Mapping[str, int | float]] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""The model's own distribution, untouched: what a request gets where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Details:
    """What the registrar knows beyond the bytes."""

    chat_template: str | None = None
    """Text that replaces the template in the file."""
    generation_defaults: Mapping[str, int | float] = field(default_factory=dict)
    distribution: str | None = None
    version: str | None = None
    licence: str | None = None
    expected: Digest | None = None
    """The only digest that the main file may have."""
    parent: Digest | None = None


def register_file(
    registry: ModelRegistry,
    name: str,
    path: Path,
    details: Details | None = None,
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> RegisteredModel:
    """Register a GGUF or ONNX file, with what belongs to it.

    Args:
        registry: where to.
        name: the name that requests will use.
        path: the file; external data of an ONNX file is looked for beside it.
        details: what is known beyond the bytes.
        replace: let `name` stand for this model even if it stood for another.
        progress: told the bytes done and in all while the main file is read.

    Raises:
        MalformedError: `malformed-model`, `too-large` or `too-deep`.
        UnsupportedError: `unsupported-model` or `unsupported-version`.
        ModelError: `model-exists`, `model-changed` where the digest is not the expected one,
            `model-not-found` where a file is missing.
        RequestError: `invalid-request` for a name that is not allowed.
        StoreError: `store-failed`.
    """
    details = details or Details()
    if not is_model_name(name):
        raise RequestError("the name of the model is not allowed", parameter="name")
    with registry.writing() as writer:
        descriptor = _open(path)
        try:
            magic = os.pread(descriptor, 4, 0)
            main = writer.store_file(descriptor, progress)
        finally:
            os.close(descriptor)
        if details.expected is not None and main.digest != details.expected:
            raise ModelError(
                f"file {path.name} is not the expected one: its digest is {main.digest.hex()}",
                reason=Reason.MODEL_CHANGED,
            )
        if magic == b"GGUF":
            manifest = _gguf_manifest(writer, path.name, main, details)
        elif path.suffix == ".onnx":
            manifest = _onnx_manifest(writer, path, main, details)
        else:
            raise MalformedError(
                f"file {path.name} is neither gguf nor named .onnx", reason=Reason.MALFORMED_MODEL
            )
        return writer.add(name, manifest, replace=replace)


def register_catalogued(
    registry: ModelRegistry,
    name: str,
    catalogued: str,
    *,
    chat_template: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> RegisteredModel:
    """Register a model of the catalogue from its installed package.

    Raises:
        ModelError: as `catalogue.locate` and `register_file`.
    """
    entry, path = locate(catalogued)
    details = Details(
        chat_template=chat_template,
        generation_defaults=entry.generation_defaults,
        distribution=entry.distribution,
        version=entry.version,
        licence=entry.licence,
        expected=entry.digest,
    )
    return register_file(registry, name, path, details, replace=replace, progress=progress)


def register_remote(
    registry: ModelRegistry,
    name: str,
    url: str,
    upstream_model: str,
    *,
    protocol: str = "openai",
    replace: bool = False,
) -> RegisteredModel:
    """Register a model that somebody else serves; its weights stay unknown.

    Raises:
        RequestError: `invalid-request` for an address that is not usable or carries secrets.
        ModelError: as `register_file`.
    """
    manifest = ModelManifest(
        model_format=ModelFormat.REMOTE,
        identity=ModelIdentity.UPSTREAM_REPORTED,
        engine=ENGINES[ModelFormat.REMOTE],
        remote=parse_endpoint(url, upstream_model, protocol),
    )
    return registry.add(name, manifest, replace=replace)


def _open(path: Path) -> int:
    try:
        # Non-blocking, so that opening a pipe does not wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    except OSError as error:
        raise ModelError(
            f"file {path.name} cannot be opened: {error.strerror}", reason=Reason.MODEL_NOT_FOUND
        ) from error


def _provenance(main: StoredBlob, details: Details) -> Provenance:
    return Provenance(main.digest, details.distribution, details.version, details.licence)


def _sorted_files(files: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    names = [entry.name for entry in files]
    if len(set(names)) != len(names):
        raise MalformedError("two files of the model share a name", reason=Reason.MALFORMED_MODEL)
    return tuple(sorted(files, key=lambda entry: entry.name))


# -- GGUF ---------------------------------------------------------------------------------------


def _gguf_manifest(
    writer: RegistryWriter, name: str, main: StoredBlob, details: Details
) -> ModelManifest:
    files = [
        FileEntry(
            check_file_name(name, reason=Reason.MALFORMED_MODEL),
            FileRole.MODEL,
            main.size,
            main.digest,
        )
    ]
    with (
        main.path.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapping,
        memoryview(mapping) as data,
    ):
        header = gguf.read_header(data)
        tensors = _gguf_tensors(header, data)
        language = _language_facts(header, data)
        in_file = gguf.chat_template(header)
    text = in_file if details.chat_template is None else details.chat_template
    template = ChatTemplate(TemplateOrigin.NONE)
    if text is not None:
        origin = TemplateOrigin.FILE if details.chat_template is None else TemplateOrigin.OVERRIDE
        stored = _store_template(writer, text)
        files.append(
            FileEntry(CHAT_TEMPLATE_FILE, FileRole.CHAT_TEMPLATE, stored.size, stored.digest)
        )
        template = ChatTemplate(origin, stored.digest)
    return ModelManifest(
        model_format=ModelFormat.GGUF,
        identity=ModelIdentity.LOCAL_WEIGHTS,
        engine=ENGINES[ModelFormat.GGUF],
        files=_sorted_files(files),
        tensors=tensors,
        language=language,
        chat_template=template,
        parent=details.parent,
        generation_defaults={
            **_NO_DEFAULTS,
            **_file_defaults(header),
            **details.generation_defaults,
        },
        provenance=_provenance(main, details),
    )


def _gguf_tensors(header: gguf.GgufHeader, data: memoryview) -> TensorSummary:
    digests = list(gguf.digest_tensors(header, data))
    return TensorSummary(
        root=tensor_root(digests),
        count=len(digests),
        parameters=sum(digest.elements for digest in digests),
        types=dict(Counter(digest.element_type for digest in digests)),
    )


def _language_facts(header: gguf.GgufHeader, data: memoryview) -> LanguageFacts:
    architecture = header.get("general.architecture", str)
    context = header.get(f"{architecture}.context_length", int)
    if not architecture or len(architecture) > 64 or context is None or not 0 < context < 1 << 31:
        raise MalformedError(
            "gguf: the file states no architecture or context length",
            reason=Reason.MALFORMED_MODEL,
        )
    vocabulary = header.get("tokenizer.ggml.tokens", tuple) or ()
    return LanguageFacts(
        architecture, context, gguf.tokenizer_digest(header, data), len(vocabulary)
    )


_FILE_DEFAULTS: Final = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_p": "top_p",
    "general.sampling.top_k": "top_k",
    "general.sampling.min_p": "min_p",
}


def _file_defaults(header: gguf.GgufHeader) -> dict[str, int | float]:
    """Return the sampler settings that the file itself recommends."""
    found: dict[str, int | float] = {}
    for key, name in _FILE_DEFAULTS.items():
        value = header.get(key, (int, float))
        if value is not None:
            # A 32-bit float in the file: its shortest decimal is what its author wrote.
            found[name] = value if isinstance(value, int) else float(f"{value:.7g}")
    return found


def _store_template(writer: RegistryWriter, text: str) -> StoredBlob:
    content = text.encode()
    if len(content) > gguf.MAX_CHAT_TEMPLATE_BYTES:
        raise MalformedError("the chat template is too large", reason=Reason.TOO_LARGE)
    return writer.store_bytes(content)


# -- ONNX ---------------------------------------------------------------------------------------


def _onnx_manifest(
    writer: RegistryWriter, path: Path, main: StoredBlob, details: Details
) -> ModelManifest:
    if details.chat_template is not None:
        raise RequestError("an onnx model takes no chat template")
    if main.size > MAX_ONNX_BYTES:
        raise MalformedError("the onnx file is too large", reason=Reason.TOO_LARGE)
    parsed = read_onnx(writer.load(main))
    if len(parsed.external_locations) > MAX_EXTERNAL_FILES:
        raise MalformedError("onnx: too many external files", reason=Reason.TOO_LARGE)
    files = [
        FileEntry(
            check_file_name(path.name, reason=Reason.MALFORMED_MODEL),
            FileRole.MODEL,
            main.size,
            main.digest,
        )
    ]
    external = {}
    for location in parsed.external_locations:
        stored = _store_external(writer, path.parent, location)
        files.append(FileEntry(location, FileRole.EXTERNAL_DATA, stored.size, stored.digest))
        external[location] = writer.load(stored)
    return ModelManifest(
        model_format=ModelFormat.ONNX,
        identity=ModelIdentity.LOCAL_WEIGHTS,
        engine=ENGINES[ModelFormat.ONNX],
        files=_sorted_files(files),
        tensors=parsed.tensors(external),
        parent=details.parent,
        provenance=_provenance(main, details),
        graph=parsed.facts,
    )


def _store_external(writer: RegistryWriter, folder: Path, location: str) -> StoredBlob:
    """Store a file beside the model, reached without following any symbolic link."""
    *folders, name = location.split("/")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in folders:
            descriptor = _descend(descriptor, step, os.O_DIRECTORY)
        descriptor = _descend(descriptor, name, os.O_NONBLOCK)
        return writer.store_file(descriptor)
    except OSError as error:
        raise ModelError(
            f"external data {location} is missing or reached through a link",
            reason=Reason.MODEL_NOT_FOUND,
        ) from error
    finally:
        os.close(descriptor)


def _descend(parent: int, name: str, flags: int) -> int:
    """Open `name` in `parent`, which is closed."""
    child = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=parent)
    os.close(parent)
    return child
