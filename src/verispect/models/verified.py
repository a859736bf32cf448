"""A registered model, and its bytes as they were hashed and found unchanged.

`VerifiedFiles` is made only by `ModelRegistry.open_verified`. It holds copies in memory; it
refuses to open anything by a path of the registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from verispect.core.encoding import Digest
from verispect.core.errors import ModelError, Reason
from verispect.models.blobs import SealedFile
from verispect.models.components import FileRole
from verispect.models.manifest import ModelManifest


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A name and the model that it stands for."""

    name: str
    model_id: Digest
    manifest: ModelManifest
    created: int
    """When the name was first given to this model, in seconds since the epoch."""


class VerifiedFiles:
    """The bytes of one model, each hashed while it was read and found to be the registered ones.

    May be used as a context manager; closing frees the sealed files.
    """

    def __init__(
        self, model: RegisteredModel, contents: dict[str, bytes], sealed: dict[str, SealedFile]
    ) -> None:
        self.model = model
        self._contents = contents
        self._sealed = sealed

    @property
    def manifest(self) -> ModelManifest:
        """The manifest whose files these are."""
        return self.model.manifest

    def content(self, name: str) -> bytes:
        """Return the bytes of the file `name` of the manifest.

        Raises:
            ModelError: `model-not-found` for a file that the manifest does not name.
        """
        if name in self._contents:
            return self._contents[name]
        return self.sealed(name).read()

    def sealed(self, name: str) -> SealedFile:
        """Return a file in sealed memory, with a descriptor and a path for engines.

        Raises:
            ModelError: `model-not-found` for a file that is not held that way.
        """
        try:
            return self._sealed[name]
        except KeyError:
            raise ModelError(
                f"model {self.model.name} has no sealed file of this name",
                reason=Reason.MODEL_NOT_FOUND,
            ) from None

    @property
    def main_name(self) -> str:
        """The name of the file that the engine is given.

        Raises:
            ModelError: `unsupported-model` for a remote model, which has none.
        """
        entry = self.manifest.file(FileRole.MODEL)
        if entry is None:
            raise ModelError(
                f"model {self.model.name} has no files", reason=Reason.UNSUPPORTED_MODEL
            )
        return entry.name

    @property
    def main_content(self) -> bytes:
        """The bytes of the main file."""
        return self.content(self.main_name)

    @property
    def main_sealed(self) -> SealedFile:
        """The main file of a GGUF model, in sealed memory."""
        return self.sealed(self.main_name)

    @property
    def external_data(self) -> dict[str, bytes]:
        """External weights of an ONNX model, by the location that the graph names."""
        return {
            entry.name: self.content(entry.name)
            for entry in self.manifest.files
            if entry.role is FileRole.EXTERNAL_DATA
        }

    @property
    def chat_template(self) -> str | None:
        """The effective chat template."""
        entry = self.manifest.file(FileRole.CHAT_TEMPLATE)
        return None if entry is None else self.content(entry.name).decode()

    def close(self) -> None:
        """Free the sealed files."""
        for sealed in self._sealed.values():
            sealed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
