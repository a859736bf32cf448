"""The parts of a model manifest: files, tensors, template, adapters, engine, provenance.

Each part is a frozen record with `to_content`, its form in CBOR, and `from_content`, its strict
reader. `spec/model-manifest.md` is the normative text. The records refuse to look at a disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from verispect.core.encoding import Digest
from verispect.core.errors import MalformedError, Reason
from verispect.core.statement import Determinism
from verispect.models.strict_map import StrictMap

MAX_FILE_NAME_CHARACTERS: Final = 255
MAX_SHAPE_DIMENSIONS: Final = 16
MAX_DOMAINS: Final = 64
MAX_TYPES: Final = 64

_VERSION_CLAUSE: Final = re.compile(r"(==|>=|<)([0-9]+(?:\.[0-9]+){0,4})")


class FileRole(StrEnum):
    """What a file of a model is for."""

    MODEL = "model"
    """The file that the engine is given."""
    EXTERNAL_DATA = "external-data"
    """Weights of an ONNX model outside its main file."""
    CHAT_TEMPLATE = "chat-template"
    """The text of the effective chat template."""
    ADAPTER = "adapter"


def check_file_name(name: str, *, reason: Reason = Reason.MALFORMED_MANIFEST) -> str:
    """Return `name` if it is a plain relative path in POSIX form.

    Raises:
        MalformedError: for absolute paths, `..`, backslashes, control characters and overlong
            names.
    """
    parts = name.split("/")
    if (
        not 0 < len(name) <= MAX_FILE_NAME_CHARACTERS
        or any(part in ("", ".", "..") for part in parts)
        or any(ord(character) < 32 or character in "\\:\x7f" for character in name)
    ):
        raise MalformedError(f"file name {name[:64]!r} is not a relative path", reason=reason)
    return name


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a model; nothing but these is ever loaded."""

    name: str
    """Relative POSIX path."""
    role: FileRole
    size: int
    digest: Digest

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "name": self.name,
            "role": self.role.value,
            "size": self.size,
            "sha256": bytes(self.digest),
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> FileEntry:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        role = fields.text("role")
        if role not in {item.value for item in FileRole}:
            raise fields.refuse("role is unknown")
        entry = cls(
            check_file_name(fields.text("name")),
            FileRole(role),
            fields.integer("size"),
            fields.digest("sha256"),
        )
        fields.finish()
        return entry


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """The weights, independent of how the file lays them out."""

    root: Digest
    """Merkle root over the tensors (`verispect.models.merkle`)."""
    count: int
    parameters: int
    types: Mapping[str, int]
    """Number of tensors by element type: the quantisation as it is, not as it is declared."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "merkle_root": bytes(self.root),
            "count": self.count,
            "parameters": self.parameters,
            "types": dict(self.types),
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> TensorSummary:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        summary = cls(
            fields.digest("merkle_root"),
            fields.integer("count"),
            fields.integer("parameters"),
            read_counts(fields.take("types"), f"{where}.types", limit=MAX_TYPES),
        )
        fields.finish()
        if sum(summary.types.values()) != summary.count:
            raise fields.refuse("types do not add up to count")
        return summary


def read_counts(value: Any, where: str, *, limit: int) -> dict[str, int]:
    """Read a map from text to non-negative integers, at most `limit` of them."""
    fields = StrictMap(value, where=where)
    if len(value) > limit or any(len(key) > MAX_FILE_NAME_CHARACTERS for key in value):
        raise fields.refuse(f"expected at most {limit} short keys")
    return {key: fields.integer(key) for key in list(value)}


@dataclass(frozen=True, slots=True)
class LanguageFacts:
    """What a language model's file says of its architecture and tokenizer."""

    architecture: str
    context_length: int
    tokenizer_digest: Digest | None
    """`verispect.models.gguf.tokenizer_digest`."""
    vocabulary_size: int

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        tokenizer = self.tokenizer_digest
        return {
            "architecture": self.architecture,
            "context_length": self.context_length,
            "tokenizer_sha256": None if tokenizer is None else bytes(tokenizer),
            "vocabulary_size": self.vocabulary_size,
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> LanguageFacts:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        facts = cls(
            fields.text("architecture"),
            fields.integer("context_length"),
            fields.optional_digest("tokenizer_sha256"),
            fields.integer("vocabulary_size"),
        )
        fields.finish()
        return facts


class TemplateOrigin(StrEnum):
    """Where the effective chat template comes from."""

    FILE = "file"
    OVERRIDE = "override"
    NONE = "none"
    """There is none: the model takes no conversations."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """The chat template that is really applied."""

    origin: TemplateOrigin
    digest: Digest | None = None
    """SHA-256 of its UTF-8 text, which is also a file of the model."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "origin": self.origin.value,
            "sha256": None if self.digest is None else bytes(self.digest),
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> ChatTemplate:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        origin = fields.text("origin")
        if origin not in {item.value for item in TemplateOrigin}:
            raise fields.refuse("origin is unknown")
        template = cls(TemplateOrigin(origin), fields.optional_digest("sha256"))
        fields.finish()
        if (template.origin is TemplateOrigin.NONE) != (template.digest is None):
            raise fields.refuse("origin and digest contradict each other")
        return template


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """One adapter, at its place in the order of application."""

    file: str
    """Name of its file in the manifest."""
    scale: str
    """Decimal text in its shortest form."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {"file": self.file, "scale": self.scale}

    @classmethod
    def from_content(cls, value: Any, where: str) -> AdapterEntry:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        adapter = cls(check_file_name(fields.text("file")), fields.decimal("scale"))
        fields.finish()
        return adapter


@dataclass(frozen=True, slots=True)
class EngineRequirement:
    """Which engine may run the model."""

    name: str
    """As in `EngineIdentity.name`: `onnxruntime`, `llama.cpp`, `upstream`."""
    versions: str
    """Comma-separated `==`, `>=` and `<` clauses over dotted numbers; empty means any."""

    def accepts(self, name: str, version: str) -> bool:
        """Tell whether an engine meets the requirement.

        Args:
            name: its name.
            version: its version, possibly behind the name of its wheel.
        """
        if name != self.name:
            return False
        if not self.versions:
            return True
        actual = re.search(r"(?:^| )([0-9]+(?:\.[0-9]+)*)", version)
        if actual is None:
            return False
        return all(
            _meets(actual.group(1), *clause) for clause in _VERSION_CLAUSE.findall(self.versions)
        )

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {"name": self.name, "versions": self.versions}

    @classmethod
    def from_content(cls, value: Any, where: str) -> EngineRequirement:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        requirement = cls(fields.text("name", limit=64), fields.text("versions", limit=128))
        fields.finish()
        for clause in filter(None, requirement.versions.split(",")):
            if _VERSION_CLAUSE.fullmatch(clause) is None:
                raise fields.refuse("versions holds an unknown clause")
        return requirement


def _meets(version: str, operator: str, bound: str) -> bool:
    left = [int(part) for part in version.split(".")]
    right = [int(part) for part in bound.split(".")]
    width = max(len(left), len(right))
    left += [0] * (width - len(left))
    right += [0] * (width - len(right))
    return {"==": left == right, ">=": left >= right, "<": left < right}[operator]


@dataclass(frozen=True, slots=True)
class DeterminismClaim:
    """The determinism class, and the record of the runs that it rests on."""

    determinism: Determinism = Determinism.UNQUALIFIED
    epsilon: str | None = None
    """Largest accepted difference, as a decimal; only for `tolerant`."""
    qualification: Digest | None = None
    """SHA-256 of the qualification record; `None` while unqualified, and for integer models."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        record = self.qualification
        return {
            "class": self.determinism.label,
            "epsilon": self.epsilon,
            "qualification": None if record is None else bytes(record),
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> DeterminismClaim:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        classes = {item.label: item for item in Determinism}
        label = fields.text("class")
        if label not in classes:
            raise fields.refuse("class is unknown")
        claim = cls(
            classes[label],
            fields.optional_decimal("epsilon"),
            fields.optional_digest("qualification"),
        )
        fields.finish()
        if (claim.determinism is Determinism.TOLERANT) != (claim.epsilon is not None):
            raise fields.refuse("exactly the tolerant class has an epsilon")
        if claim.qualification is None:
            # `exact` without a record is only for integer models, which `validate_manifest` checks.
            if claim.determinism not in (Determinism.UNQUALIFIED, Determinism.EXACT):
                raise fields.refuse("the class has no qualification record")
        elif claim.determinism is Determinism.UNQUALIFIED:
            raise fields.refuse("the unqualified class has no qualification record")
        return claim


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the main file came from, as far as the operator says."""

    source_digest: Digest
    """SHA-256 of the main file as it was found."""
    distribution: str | None = None
    version: str | None = None
    licence: str | None = None
    """SPDX identifier."""

    def to_content(self) -> dict[str, Any]:
        """Return the form that is encoded."""
        return {
            "source_sha256": bytes(self.source_digest),
            "distribution": self.distribution,
            "version": self.version,
            "licence": self.licence,
        }

    @classmethod
    def from_content(cls, value: Any, where: str) -> Provenance:
        """Reverse `to_content`.

        Raises:
            MalformedError: `malformed-manifest`.
        """
        fields = StrictMap(value, where=where)
        provenance = cls(
            fields.digest("source_sha256"),
            fields.optional_text("distribution", limit=214),
            fields.optional_text("version", limit=64),
            fields.optional_text("licence", limit=128),
        )
        fields.finish()
        return provenance
