"""The integer runtime as an engine: what it computes is what a proof proves, bit for bit.

One input `input` and one output `output`, a leading batch axis on both. A caller's numbers become
integers, and the answer's integers become numbers, by exact rules (spec/integer-model.md section
3), so the class of such a model is `exact` on every machine. This module refuses to guess: NaN
and another shape are errors, and numbers outside the model's range are clipped and counted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

import verispect
from verispect.core.errors import EngineError, Reason, RequestError
from verispect.engines.interface import EngineIdentity, Tensor, TensorSpecification
from verispect.engines.tensors import BY_DATATYPE, TensorReader, from_array
from verispect.proof.arithmetic import read_input, write_output
from verispect.proof.exchange import answer_datatype, answer_shape, caller_shape
from verispect.proof.provable import ProvableModel, decode_weights
from verispect.proof.runtime import Runtime

ENGINE_NAME: Final = "verispect-integer"
INPUT_NAME: Final = "input"
OUTPUT_NAME: Final = "output"
MAX_ROWS: Final = 256
"""Upper limit of the batch of one request."""
_WAITING: Final = 64


def integer_engine() -> EngineIdentity:
    """Return the engine's identity: the specification decides the output, not the library."""
    return EngineIdentity(
        name=ENGINE_NAME,
        version=verispect.__version__,
        library_digest=None,
        kernel_class="integer",
        settings={"integer_model": 1},
    )


class IntegerModel:
    """One integer model, loaded; a `TensorModel`.

    Args:
        provable: the graph and the commitment to its weights.
        weights: the weights file.

    Raises:
        MalformedError: `malformed-model` where the two do not fit.
    """

    def __init__(self, provable: ProvableModel, weights: bytes) -> None:
        self.provable = provable
        self.runtime = Runtime(provable.graph, decode_weights(provable.graph, weights))
        self.identity = integer_engine()
        graph = provable.graph
        self._answer_shape = answer_shape(graph)
        self.inputs: Sequence[TensorSpecification] = (
            TensorSpecification(INPUT_NAME, "FP32", (-1, *caller_shape(graph))),
        )
        self.outputs: Sequence[TensorSpecification] = (
            TensorSpecification(OUTPUT_NAME, answer_datatype(graph), (-1, *self._answer_shape)),
        )
        self._reader = TensorReader(self.inputs[0])
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(
            1, thread_name_prefix="integer"
        )
        self._slots = threading.BoundedSemaphore(1 + _WAITING)

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Sequence[Tensor]:
        """Run once.

        Raises:
            RequestError: `invalid-request` for tensors that are not one `input` of the shape, a
                batch above `MAX_ROWS`, NaN, or another output than `output`.
            EngineError: `engine-overloaded`, `engine-unavailable`.
        """
        if list(outputs) not in ([], [OUTPUT_NAME]):
            raise RequestError("the model has one output, named output", parameter="outputs")
        if [tensor.name for tensor in inputs] != [INPUT_NAME]:
            raise RequestError("the model has one input, named input", parameter="inputs")
        if self._executor is None:
            raise EngineError("model is closed", reason=Reason.ENGINE_UNAVAILABLE)
        if not self._slots.acquire(blocking=False):
            raise EngineError("tensor engine is overloaded", reason=Reason.ENGINE_OVERLOADED)
        future = self._executor.submit(self._answer, inputs[0])
        future.add_done_callback(lambda _: self._slots.release())
        return [await asyncio.wrap_future(future)]

    def _answer(self, tensor: Tensor) -> Tensor:
        numbers = self._reader.read(tensor, {})
        if not 1 <= len(numbers) <= MAX_ROWS:
            raise RequestError(f"expected a batch of 1 to {MAX_ROWS}", parameter=INPUT_NAME)
        graph = self.provable.graph
        read = read_input(graph.input, numbers, batch=len(numbers))
        answer = write_output(graph.output, self.runtime.run(read.integers).output)
        shaped = np.asarray(answer).reshape(len(numbers), *self._answer_shape)
        return from_array(OUTPUT_NAME, BY_DATATYPE[self.outputs[0].datatype], shaped)

    async def close(self) -> None:
        """Stop taking work; a run in progress ends by itself."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
