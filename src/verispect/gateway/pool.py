"""The pool of a gateway: registered models, each loaded at its first use and then shared.

Loading reads, hashes and checks every byte through the registry and hands the engine what was
hashed. Two requests for a model that is not loaded load it once. What the manifest demands of the
engine is compared with the engine that is installed; where they differ nothing is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from verispect.core.errors import ModelError, Reason, RequestError
from verispect.engines.interface import EngineIdentity, Lane, LanguageModel, TensorModel
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.engines.onnx import OnnxEngine
from verispect.engines.upstream import UpstreamModel, UpstreamSettings
from verispect.gateway.serving import ServedModel
from verispect.models.components import FileRole
from verispect.models.manifest import ModelFormat, ModelManifest
from verispect.models.qualification import load_record
from verispect.models.registry import ModelRegistry, RegisteredModel

if TYPE_CHECKING:
    from verispect.engines.integer import IntegerModel
    from verispect.models.verified import VerifiedFiles

_LANES: Final = {
    ModelFormat.GGUF: (Lane.THROUGHPUT, Lane.DETERMINISTIC),
    ModelFormat.ONNX: (Lane.DETERMINISTIC,),
    ModelFormat.INTEGER: (Lane.DETERMINISTIC,),
    ModelFormat.REMOTE: (Lane.THROUGHPUT,),
}
_TENSOR_FORMATS: Final = frozenset({ModelFormat.ONNX, ModelFormat.INTEGER})
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How this server runs its engines."""

    llama_threads: int | None = None
    """`None`: one less than there are cores."""
    upstream_keys: Mapping[str, str] | None = None
    """API keys of upstream services, by model name; never shown."""


class RegistryPool:
    """Serves the models of one registry.

    Args:
        registry: where the models are.
        names: the names to serve; all that are registered where `None`.
        options: how engines are run.

    Raises:
        ModelError: `model-not-found`, `model-changed`.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        *,
        names: Sequence[str] | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self._registry = registry
        self._options = options or EngineOptions()
        chosen = registry.names() if names is None else names
        self._registered = {name: registry.resolve(name) for name in sorted(set(chosen))}
        self._served = {
            name: _served(model, load_record(registry, model))
            for name, model in self._registered.items()
        }
        self._loaded: dict[tuple[str, Lane], Any] = {}
        self._locks: dict[tuple[str, Lane], asyncio.Lock] = {}
        self._onnx: OnnxEngine | None = None

    def names(self) -> Sequence[str]:
        """Return every name, sorted."""
        return list(self._served)

    def find(self, name: str) -> ServedModel:
        """Return the model of that name.

        Raises:
            ModelError: `model-not-found`; never another model.
        """
        served = self._served.get(name)
        if served is None:
            raise ModelError("no model of this name is served", reason=Reason.MODEL_NOT_FOUND)
        return served

    def manifest(self, name: str) -> ModelManifest:
        """Return the manifest of a served model."""
        return self._registered[name].manifest

    async def language(self, served: ServedModel, lane: Lane) -> LanguageModel:
        """Return the loaded language model of that lane."""
        if served.kind != "language":
            raise RequestError("this model takes tensors, not text", parameter="model")
        if lane not in served.lanes:
            offered = ", ".join(each.value for each in served.lanes)
            raise RequestError(f"this model is offered in lane {offered}", parameter="lane")
        return await self._load_once((served.name, lane), self._load_language)

    async def tensor(self, served: ServedModel) -> TensorModel:
        """Return the loaded tensor model."""
        key = (served.name, Lane.DETERMINISTIC)
        loaded: TensorModel | None = self._loaded.get(key)
        if loaded is not None and served.kind == "tensor":
            return loaded
        if served.kind != "tensor":
            raise RequestError("this model takes text, not tensors", parameter="model")
        return await self._load_once(key, self._load_tensor)

    async def close(self) -> None:
        """Stop every engine."""
        loaded, self._loaded = list(self._loaded.values()), {}
        await asyncio.gather(*(model.close() for model in loaded), return_exceptions=True)
        if self._onnx is not None:
            self._onnx.close()

    async def _load_once(
        self, key: tuple[str, Lane], load: Callable[[RegisteredModel, Lane], Awaitable[_Loaded]]
    ) -> _Loaded:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            if key not in self._loaded:
                # The cache is keyed by name and lane, so two names of one model load it twice: a
                # name may be re-pointed, and then must not keep another one's session alive.
                self._loaded[key] = await load(self._registered[key[0]], key[1])
            loaded: _Loaded = self._loaded[key]
            return loaded

    async def _load_tensor(self, model: RegisteredModel, _lane: Lane) -> TensorModel:
        files = await asyncio.to_thread(self._registry.open_verified, model)
        if model.manifest.model_format is ModelFormat.INTEGER:
            with files:
                integer = await asyncio.to_thread(_load_integer, files)
            _check_engine(model, integer.identity)
            return integer
        with files:
            external = {
                entry.name: files.content(entry.name)
                for entry in model.manifest.files
                if entry.role is FileRole.EXTERNAL_DATA
            }
            if self._onnx is None:
                # Importing the runtime and hashing its library take a while.
                self._onnx = await asyncio.to_thread(OnnxEngine)
            _check_engine(model, self._onnx.identity)
            return await self._onnx.load(files.main_content, external)

    async def _load_language(self, model: RegisteredModel, lane: Lane) -> LanguageModel:
        if model.manifest.model_format is ModelFormat.REMOTE:
            # No bytes to load, but the manifest's bundle is checked like any other.
            (await asyncio.to_thread(self._registry.open_verified, model)).close()
            return self._upstream(model)
        if model.manifest.adapters:
            raise ModelError(
                f"model {model.name} has adapters, which this engine does not apply",
                reason=Reason.UNSUPPORTED_MODEL,
            )
        files = await asyncio.to_thread(self._registry.open_verified, model)
        with files:
            template = model.manifest.file(FileRole.CHAT_TEMPLATE)
            options = LlamaOptions(lane=lane)
            if self._options.llama_threads is not None:
                options = replace(options, threads=self._options.llama_threads)
            language = await LlamaModel.start(
                files.main_sealed.path,
                chat_template=files.content(template.name).decode() if template else None,
                options=options,
                file_descriptor=files.main_sealed.descriptor,
            )
        try:
            _check_engine(model, language.identity)
        except ModelError:
            await language.close()
            raise
        return language

    def _upstream(self, model: RegisteredModel) -> LanguageModel:
        remote = model.manifest.remote
        assert remote is not None  # The manifest of a remote model was validated to have one.
        keys = self._options.upstream_keys or {}
        settings = UpstreamSettings(
            base_url=remote.base_url,
            model=remote.upstream_model,
            api_key=keys.get(model.name),
            # The manifest names the scheme, so plain HTTP was the operator's explicit choice.
            unsafe_plain_http=remote.scheme == "http",
        )
        return UpstreamModel(settings)


def _served(model: RegisteredModel, record: Mapping[str, Any] | None) -> ServedModel:
    manifest = model.manifest
    return ServedModel(
        name=model.name,
        model_id=model.model_id,
        created=model.created,
        owner=manifest.remote.host if manifest.remote else "verispect",
        kind="tensor" if manifest.model_format in _TENSOR_FORMATS else "language",
        identity=manifest.identity,
        determinism=manifest.determinism.determinism,
        lanes=_LANES[manifest.model_format],
        qualification=record,
        provable=manifest.model_format is ModelFormat.INTEGER,
        generation_defaults=manifest.generation_defaults,
    )


def _load_integer(files: VerifiedFiles) -> IntegerModel:
    # Imported here: NumPy and the runtime are of no use to a server of language models.
    from verispect.engines.integer import IntegerModel
    from verispect.models.integer_model import WEIGHTS_FILE
    from verispect.proof.provable import ProvableModel

    return IntegerModel(ProvableModel.decode(files.main_content), files.content(WEIGHTS_FILE))


def _check_engine(model: RegisteredModel, identity: EngineIdentity) -> None:
    if not model.manifest.engine.accepts(identity.name, identity.version):
        raise ModelError(
            f"model {model.name} is registered for another engine than "
            f"{identity.name} {identity.version}",
            reason=Reason.UNSUPPORTED_MODEL,
        )
