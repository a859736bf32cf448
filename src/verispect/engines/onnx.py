"""ONNX Runtime as an engine for tensor models: one thread, no arena, nothing registered.

`OnnxEngine` owns the worker threads and the identity of the native library; `OnnxModel` is one
session. A model whose measured run time is far below the cost of a thread hand-off (about 50
microseconds) runs on the event loop; any other runs in a bounded pool, and work beyond the pool's
queue is refused as overload.

Invariants:

- a session is made from bytes that the caller has hashed, external data included; no file is read;
- no custom operator library is registered, so a model that needs one is refused at load;
- ONNX Runtime's telemetry is off before the library is loaded, and its log is silent: its messages
  can hold input values, so they are neither logged nor passed on;
- only the CPU execution provider is used.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from verispect.core.errors import EngineError, ModelError, Reason, RequestError
from verispect.engines.interface import EngineIdentity, Tensor, TensorSpecification
from verispect.engines.onnx_native import (
    SILENT,
    import_runtime,
    kernel_class,
    library_digest,
    trim_memory,
)
from verispect.engines.tensors import (
    BY_DATATYPE,
    BY_ONNX_TYPE,
    MAX_RANK,
    MAX_TENSOR_BYTES,
    Element,
    TensorReader,
    from_array,
)

INLINE_SECONDS: Final = 300e-6
"""A run expected to take less than this stays on the event loop."""

MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
"""Upper limit of the bytes of all outputs of one run."""

Optimisation = Literal["disabled", "basic", "extended", "all"]
"""How far ONNX Runtime may rewrite the graph; part of the engine's identity."""

_LEVELS: Final = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

_NO_FOLDER: Final = "/proc/self/fdinfo/none"
"""A folder that cannot exist: external data that was not given as bytes is never searched for."""

_SMOOTHING: Final = 0.1
"""Weight of the newest run in the moving estimate of a run's duration."""


@dataclass(frozen=True, slots=True)
class OnnxLimits:
    """How much work may run and wait at once."""

    threads: int = 2
    """Runs in the pool at the same time."""
    waiting: int = 64
    """Runs that may wait for a thread; beyond that a request is refused as overload."""


class OnnxEngine:
    """Loads ONNX models and shares one bounded thread pool among them.

    Args:
        optimisation: graph optimisation level, pinned and part of the identity.
        limits: concurrency of the pool.

    Raises:
        EngineError: `engine-unavailable` where ONNX Runtime is not installed.
    """

    def __init__(
        self, *, optimisation: Optimisation = "all", limits: OnnxLimits | None = None
    ) -> None:
        limits = limits or OnnxLimits()
        self.runtime = import_runtime()
        self._optimisation: Optimisation = optimisation
        self._executor = ThreadPoolExecutor(limits.threads, thread_name_prefix="onnx")
        self._slots = threading.BoundedSemaphore(limits.threads + limits.waiting)
        self.identity = EngineIdentity(
            name="onnxruntime",
            version=str(self.runtime.__version__),
            library_digest=library_digest(self.runtime),
            kernel_class=kernel_class(),
            settings={
                "execution_provider": "CPUExecutionProvider",
                "graph_optimisation": optimisation,
                "intra_op_threads": 1,
                "inter_op_threads": 1,
                "memory_arena": False,
                "memory_pattern": False,
            },
        )

    async def load(self, model: bytes, external: Mapping[str, bytes] | None = None) -> OnnxModel:
        """Make a session from bytes and measure it once.

        Args:
            model: the ONNX file.
            external: external data by the location that the model names.

        Raises:
            ModelError: `malformed-model` or `unsupported-model`.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._load, model, dict(external or {}))

    def _load(self, model: bytes, external: dict[str, bytes]) -> OnnxModel:
        session = self._session(model, external)
        loaded = OnnxModel(self, session)
        loaded.measure()
        return loaded

    def _session(self, model: bytes, external: dict[str, bytes]) -> Any:
        runtime = self.runtime
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.log_severity_level = SILENT
        options.graph_optimization_level = getattr(
            runtime.GraphOptimizationLevel, _LEVELS[self._optimisation]
        )
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", _NO_FOLDER
        )
        if external:
            options.add_external_initializers_from_files_in_memory(
                list(external), list(external.values()), [len(data) for data in external.values()]
            )
        errors = runtime.capi.onnxruntime_pybind11_state
        try:
            return runtime.InferenceSession(
                model, sess_options=options, providers=["CPUExecutionProvider"]
            )
        except errors.InvalidProtobuf:
            raise ModelError("bytes are not an ONNX model", reason=Reason.MALFORMED_MODEL) from None
        except Exception as error:
            # ONNX Runtime has no common base class for its errors.
            raise ModelError(
                "model cannot be loaded: an operator, type or external file is missing "
                f"({type(error).__name__})",
                reason=Reason.UNSUPPORTED_MODEL,
            ) from error

    def submit(self, work: Any, *arguments: Any) -> asyncio.Future[Any]:
        """Run `work` in the pool.

        Raises:
            EngineError: `engine-overloaded` where the queue is full.
        """
        if not self._slots.acquire(blocking=False):
            raise EngineError("tensor engine is overloaded", reason=Reason.ENGINE_OVERLOADED)
        try:
            future = self._executor.submit(work, *arguments)
        except RuntimeError as error:
            self._slots.release()
            raise EngineError("engine is closed", reason=Reason.ENGINE_UNAVAILABLE) from error
        # The slot is free when the work ends, which may be later than the caller goes away.
        future.add_done_callback(lambda _: self._slots.release())
        return asyncio.wrap_future(future)

    async def release_memory(self) -> None:
        """Give freed memory back to the system, as far as the allocator can."""
        await asyncio.to_thread(trim_memory)

    def close(self) -> None:
        """Stop taking work; runs in progress end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class OnnxModel:
    """One ONNX model in one session; made by `OnnxEngine.load`."""

    def __init__(self, engine: OnnxEngine, session: Any) -> None:
        self._engine = engine
        self._session: Any | None = session
        self._invalid = engine.runtime.capi.onnxruntime_pybind11_state.InvalidArgument
        arguments = session.get_inputs()
        self._readers = {
            argument.name: TensorReader(_specification(argument), _symbols(argument))
            for argument in arguments
        }
        self._inputs = tuple(reader.specification for reader in self._readers.values())
        self._outputs = tuple(_specification(argument) for argument in session.get_outputs())
        self._elements = {item.name: BY_DATATYPE[item.datatype] for item in self._outputs}
        self._all = list(self._elements)
        self._seconds: float | None = None
        self._bytes = 1.0

    @property
    def identity(self) -> EngineIdentity:
        """The engine that runs the model."""
        return self._engine.identity

    @property
    def inputs(self) -> Sequence[TensorSpecification]:
        """Inputs, in the model's order."""
        return self._inputs

    @property
    def outputs(self) -> Sequence[TensorSpecification]:
        """Outputs, in the model's order."""
        return self._outputs

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> Sequence[Tensor]:
        """Run once and return the named outputs in the model's order (all where none is named).

        Raises:
            RequestError: for missing, unknown, duplicate or ill-typed tensors and wrong shapes.
            EngineError: when the runtime fails, is overloaded or the model was closed.
        """
        session = self._session
        if session is None:
            raise EngineError("model is closed", reason=Reason.ENGINE_UNAVAILABLE)
        size = sum([len(tensor.data) for tensor in inputs])
        if self.runs_inline(size):
            return self._answer(session, inputs, outputs, size)
        answer: list[Tensor] = await self._engine.submit(
            self._answer, session, inputs, outputs, size
        )
        return answer

    def runs_inline(self, size: int) -> bool:
        """Whether a run on `size` bytes of input is expected to be short enough for the loop."""
        seconds = self._seconds
        if seconds is None:
            return False
        growth = size / self._bytes
        # Squared, because attention grows so: a caller cannot stall the loop with a large batch.
        return (seconds * growth * growth if growth > 1 else seconds) < INLINE_SECONDS

    def measure(self) -> None:
        """Run a few times on zeros where the shapes allow it, for the first estimate."""
        if any(_minimum_bytes(item) > MAX_TENSOR_BYTES for item in self._inputs):
            return
        feed = {item.name: _zeros(item) for item in self._inputs}
        size = sum(array.nbytes for array in feed.values())
        for _ in range(3):
            try:
                self._run(self._session, self._all, feed, size)
            except (RequestError, EngineError):
                return  # zeros are not a valid input of every model; a real run will measure
            if self._seconds is not None and self._seconds > 0.05:
                return
            # The first run pays for what is set up once; only the last one counts.
            measured, self._seconds = self._seconds, None
        self._seconds = measured

    async def close(self) -> None:
        """Free the model; a run in progress ends by itself."""
        self._session = None
        await self._engine.release_memory()

    def _answer(
        self, session: Any, inputs: Sequence[Tensor], outputs: Sequence[str], size: int
    ) -> list[Tensor]:
        """Check, run and convert: everything that costs time in proportion to the tensors."""
        feed = self._feed(inputs)
        names = self._select(outputs) if outputs else self._all
        arrays = self._run(session, names, feed, size)
        elements = self._elements
        return [
            from_array(name, elements[name], array)
            for name, array in zip(names, arrays, strict=True)
        ]

    def _feed(self, inputs: Sequence[Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        readers = self._readers
        feed: dict[str, np.ndarray[Any, Any]] = {}
        bound: dict[str, int] = {}
        for tensor in inputs:
            name = tensor.name
            reader = readers.get(name)
            if reader is None:
                raise RequestError(
                    f"model has no input {name[:64]!r}, expected {_listed(readers)}",
                    parameter="inputs",
                )
            if name in feed:
                raise RequestError(f"input {name!r} is given twice", parameter=name)
            feed[name] = reader.read(tensor, bound)
        if len(feed) != len(readers):
            missing = [name for name in readers if name not in feed]
            raise RequestError(f"missing input {_listed(missing)}", parameter="inputs")
        return feed

    def _select(self, outputs: Sequence[str]) -> list[str]:
        wanted = set(outputs)
        if len(wanted) != len(outputs):
            raise RequestError("an output is named twice", parameter="outputs")
        for name in outputs:
            if name not in self._elements:
                raise RequestError(
                    f"model has no output {name[:64]!r}, expected {_listed(self._elements)}",
                    parameter="outputs",
                )
        return [name for name in self._all if name in wanted]

    def _run(
        self, session: Any, names: list[str], feed: Mapping[str, np.ndarray[Any, Any]], size: int
    ) -> list[np.ndarray[Any, Any]]:
        # This thread's own time: a wall clock would count the wait for the interpreter's lock.
        started = time.thread_time()
        try:
            arrays: list[np.ndarray[Any, Any]] = session.run(names, feed)
        except self._invalid:
            # The runtime's message can quote input values: it goes nowhere.
            raise RequestError("model refused the values or shapes of its inputs") from None
        except Exception as error:  # noqa: BLE001 - the runtime's errors share no base class
            raise EngineError(
                f"model run failed ({type(error).__name__})", reason=Reason.ENGINE_FAILED
            ) from None
        self._observe(time.thread_time() - started, size)
        if sum([array.nbytes for array in arrays]) > MAX_OUTPUT_BYTES:
            raise EngineError(
                f"outputs exceed {MAX_OUTPUT_BYTES} bytes", reason=Reason.ENGINE_FAILED
            )
        return arrays

    def _observe(self, seconds: float, size: int) -> None:
        if self._seconds is None:
            self._seconds, self._bytes = seconds, float(max(1, size))
        else:
            self._seconds += _SMOOTHING * (seconds - self._seconds)
            self._bytes += _SMOOTHING * (max(1, size) - self._bytes)


def _element(argument: Any) -> Element:
    """Return the element type of a session argument, or refuse the model."""
    kind = str(argument.type)
    element = BY_ONNX_TYPE.get(kind)
    if element is not None:
        return element
    hint = ""
    if kind.startswith(("seq(", "map(")):
        hint = "; export it with tensor outputs (skl2onnx: options={'zipmap': False})"
    elif kind == "tensor(bfloat16)":
        hint = "; cast it to FP32 or FP16 in the graph"
    raise ModelError(
        f"{argument.name!r} has type {kind}, which this protocol cannot carry{hint}",
        reason=Reason.UNSUPPORTED_MODEL,
    )


def _specification(argument: Any) -> TensorSpecification:
    element = _element(argument)
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    if len(shape) > MAX_RANK:
        raise ModelError(
            f"{argument.name!r} has rank {len(shape)}, expected at most {MAX_RANK}",
            reason=Reason.UNSUPPORTED_MODEL,
        )
    return TensorSpecification(argument.name, element.datatype, shape)


def _symbols(argument: Any) -> list[str | None]:
    return [size if isinstance(size, str) else None for size in argument.shape]


def _minimum_bytes(item: TensorSpecification) -> int:
    return (
        math.prod(max(1, size) for size in item.shape) * BY_DATATYPE[item.datatype].dtype.itemsize
    )


def _zeros(item: TensorSpecification) -> np.ndarray[Any, Any]:
    shape = tuple(1 if size == -1 else size for size in item.shape)
    dtype = BY_DATATYPE[item.datatype].dtype
    return np.full(shape, "" if item.datatype == "BYTES" else 0, dtype=dtype)


def _listed(names: Any) -> str:
    return ", ".join(repr(str(name)[:64]) for name in list(names)[:16])
