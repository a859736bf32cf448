"""The pool of registered models: one load, one model per name, changed bytes refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from onnx_graphs import linear

from verispect.core.errors import ModelError, Reason, RequestError
from verispect.engines.interface import Lane
from verispect.gateway.pool import RegistryPool
from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry
from verispect.testing.tiny_gguf import write_tiny_gguf


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    registry = ModelRegistry(tmp_path / "registry")
    (tmp_path / "linear.onnx").write_bytes(linear())
    register_file(registry, "linear", tmp_path / "linear.onnx")
    register_file(registry, "tiny", write_tiny_gguf(tmp_path / "tiny.gguf"))
    return registry


@pytest.fixture
async def pool(registry: ModelRegistry) -> AsyncIterator[RegistryPool]:
    pool = RegistryPool(registry)
    yield pool
    await pool.close()


async def test_unknown_name_is_never_another_model(
    pool: RegistryPool, registry: ModelRegistry
) -> None:
    """A name that is not registered, or not served, is not found."""
    assert pool.names() == ["linear", "tiny"]
    for name in ("Linear", "linear ", "tiny2", ""):
        with pytest.raises(ModelError) as caught:
            pool.find(name)
        assert caught.value.reason is Reason.MODEL_NOT_FOUND
    only = RegistryPool(registry, names=["linear"])
    with pytest.raises(ModelError):
        only.find("tiny")
    with pytest.raises(ModelError) as missing:
        RegistryPool(registry, names=["nobody"])
    assert missing.value.reason is Reason.MODEL_NOT_FOUND


async def test_two_first_requests_load_once(
    pool: RegistryPool, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that come while a model loads wait for that one load."""
    loads: list[str] = []
    real = ModelRegistry.open_verified

    def counted(self: ModelRegistry, model: object) -> object:
        loads.append("load")
        return real(self, model)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRegistry, "open_verified", counted)
    served = pool.find("linear")
    models = await asyncio.gather(*(pool.tensor(served) for _ in range(8)))
    assert loads == ["load"]
    assert all(model is models[0] for model in models)


async def test_changed_bytes_are_refused_and_stay_refused(
    pool: RegistryPool, registry: ModelRegistry
) -> None:
    """A model whose file changed is not served; the other one is."""
    served = pool.find("linear")
    manifest = pool.manifest("linear")
    path = registry.blobs.path(manifest.files[0].digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            await pool.tensor(served)
        assert caught.value.reason is Reason.MODEL_CHANGED


async def test_kinds_are_not_mixed_up(pool: RegistryPool) -> None:
    """A tensor model takes no text, a language model no tensors, before anything is loaded."""
    with pytest.raises(RequestError, match="tensors, not text"):
        await pool.language(pool.find("linear"), Lane.DETERMINISTIC)
    with pytest.raises(RequestError, match="text, not tensors"):
        await pool.tensor(pool.find("tiny"))


async def test_lane_that_is_not_offered_is_refused(pool: RegistryPool) -> None:
    """A lane is never silently another one."""
    from dataclasses import replace

    served = replace(pool.find("tiny"), lanes=(Lane.THROUGHPUT,))
    with pytest.raises(RequestError, match="offered in lane throughput"):
        await pool.language(served, Lane.DETERMINISTIC)


async def test_other_engine_than_registered_is_refused(
    pool: RegistryPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the manifest demands of the engine is compared with the one installed."""
    from verispect.models.components import EngineRequirement

    monkeypatch.setattr(EngineRequirement, "accepts", lambda _self, _name, _version: False)
    with pytest.raises(ModelError) as caught:
        await pool.tensor(pool.find("linear"))
    assert caught.value.reason is Reason.UNSUPPORTED_MODEL
