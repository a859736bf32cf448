"""Integer models: registered with their commitment, served, and exact by definition."""

from __future__ import annotations

import asyncio

import numpy as np
import proof_models
import pytest

from verispect.core.errors import MalformedError, ModelError, Reason, RequestError
from verispect.core.statement import Determinism
from verispect.engines.integer import IntegerModel, integer_engine
from verispect.engines.interface import Tensor
from verispect.gateway.pool import RegistryPool
from verispect.models.integer_model import register_integer
from verispect.models.manifest import ModelFormat, parse_manifest
from verispect.models.registry import ModelRegistry
from verispect.proof.arithmetic import write_output
from verispect.proof.provable import ProvableModel, encode_weights
from verispect.proof.runtime import Runtime


def model_named(name):
    graph, weights = proof_models.MODELS[name]()
    provable = ProvableModel(graph, columns=6, rate_bits=2, root=bytes(32))
    return provable, weights


def tensor(array, name="input"):
    array = np.ascontiguousarray(array, "<f4")
    return Tensor(name, "FP32", array.shape, array.tobytes())


def register(registry, provable, weights, holds=lambda *_: True):
    return register_integer(
        registry,
        "small",
        provable.encode(),
        encode_weights(weights),
        commitment_holds=holds,
    )


@pytest.fixture(params=sorted(proof_models.MODELS))
def named(request):
    return model_named(request.param)


def test_answers_are_those_of_the_runtime(named):
    """A served integer model gives exactly what the specification computes."""
    provable, weights = named
    model = IntegerModel(provable, encode_weights(weights))
    integers = proof_models.inputs_for(provable.graph, 3)
    expected = write_output(
        provable.graph.output, Runtime(provable.graph, weights).run(integers).output
    )
    numbers = np.empty((3, *model.inputs[0].shape[1:]), np.float32)
    source = provable.graph.input
    order = [1 + place for place in source.order]
    numbers.transpose(0, *order)[...] = integers * float(source.scale)
    (answer,) = asyncio.run(model.infer([tensor(numbers)], []))
    dtype = "<i8" if answer.datatype == "INT64" else "<f4"
    assert np.frombuffer(answer.data, dtype).tobytes() == np.asarray(expected, dtype).tobytes()
    assert answer.shape[0] == 3


def test_registered_model_is_served_as_exact(tmp_path):
    """Registration keeps the commitment in the manifest, and serving states the class exact."""
    provable, weights = model_named(min(proof_models.MODELS))
    registry = ModelRegistry(tmp_path)
    registered = register(registry, provable, weights)
    manifest = parse_manifest(registered.manifest.to_bytes())
    assert manifest.model_format is ModelFormat.INTEGER
    assert manifest.prover_commitment == provable.digest

    async def serve():
        pool = RegistryPool(registry)
        served = pool.find("small")
        model = await pool.tensor(served)
        await pool.close()
        return served.determinism_on(model.identity), model.identity

    determinism, identity = asyncio.run(serve())
    assert determinism is Determinism.EXACT
    assert identity == integer_engine()


def test_commitment_to_other_weights_is_refused(tmp_path):
    """A model whose commitment is not that of its weights cannot be registered."""
    provable, weights = model_named(min(proof_models.MODELS))
    with pytest.raises(ModelError) as refusal:
        register(ModelRegistry(tmp_path), provable, weights, holds=lambda *_: False)
    assert refusal.value.reason is Reason.MODEL_CHANGED


def test_weights_of_another_model_are_refused(tmp_path):
    """A weights file that does not fit the graph is malformed."""
    provable, weights = model_named(min(proof_models.MODELS))
    with pytest.raises(MalformedError):
        register(ModelRegistry(tmp_path), provable, [*weights, weights[0]])


@pytest.mark.parametrize(
    "change",
    [
        lambda good: [tensor(good, "other")],
        lambda good: [tensor(good), tensor(good)],
        lambda good: [tensor(np.full_like(good, np.nan))],
        lambda good: [tensor(good[0])],
        lambda good: [tensor(np.repeat(good, 300, axis=0))],
    ],
)
def test_input_that_is_not_the_models_is_refused(change):
    """Another name, two tensors, NaN, another shape and too large a batch are clear errors."""
    provable, weights = model_named(min(proof_models.MODELS))
    model = IntegerModel(provable, encode_weights(weights))
    good = np.zeros((1, *model.inputs[0].shape[1:]), np.float32)
    with pytest.raises(RequestError):
        asyncio.run(model.infer(change(good), []))
