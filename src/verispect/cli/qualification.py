"""Connects qualification to the engines: which variations each engine is run under.

ONNX models get seeded random inputs made from their specification. Language models get a few
fixed prompts, greedy, and are compared by token ids and log-probabilities. This module refuses to
judge; the rule is in `verispect.models.qualification`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from verispect.core.encoding import decode_content, encode_content
from verispect.core.errors import Error, ModelError, Reason
from verispect.engines.interface import Tensor, TensorSpecification
from verispect.engines.onnx import OnnxEngine, OnnxModel
from verispect.models.qualification import Variation, VariationKind
from verispect.models.verified import VerifiedFiles

CASES: Final = 4
SEED: Final = 20_260_101
_SIZES: Final = (512, 288, 64, 48, 1)
"""Tried in turn for dimensions that vary, until the model takes one."""

_NUMBERS: Final = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "BOOL": "<u1",
}  # fmt: skip

Feed = tuple[Tensor, ...]


class OnnxSubject:
    """An ONNX model under {1, 2} threads, batches of {1, 4}, concurrency and repetition.

    Raises:
        ModelError: `unsupported-model` where no random input suits the model.
    """

    def __init__(self, files: VerifiedFiles) -> None:
        self._content = files.main_content
        self._external = files.external_data
        self._engine = OnnxEngine()
        self._specifications, self._size, self._feeds = asyncio.run(self._find_inputs())
        self._batches = asyncio.run(self._takes_batches())

    @property
    def engine(self) -> Mapping[str, Any]:
        """The identity of the engine."""
        return self._engine.identity.to_content()

    @property
    def cases(self) -> Mapping[str, Any]:
        """Seed, number and the size chosen for dimensions that vary."""
        return {"seed": SEED, "count": CASES, "varying_size": self._size, "kind": "random-tensors"}

    @property
    def variations(self) -> Sequence[Variation]:
        """The variations; batches only where the model takes them."""
        found = [
            Variation("one thread, batch 1", VariationKind.REPEAT),
            Variation("fresh session", VariationKind.REPEAT),
            Variation("two threads", VariationKind.THREADS),
            Variation("four at once", VariationKind.CONCURRENCY),
        ]
        if self._batches:
            found += [
                Variation("batch of 4", VariationKind.BATCH),
                Variation("batch of 4, two threads", VariationKind.BATCH),
            ]
        return found

    def run(self, variation: Variation) -> Sequence[bytes]:
        """Run all cases in a fresh session."""
        return asyncio.run(self._run(variation))

    async def _run(self, variation: Variation) -> list[bytes]:
        threads = 2 if "two threads" in variation.name else 1
        model = await self._load(threads)
        try:
            if variation.kind is VariationKind.BATCH:
                return _split(await model.infer(_stack(self._feeds), ()))
            if variation.kind is VariationKind.CONCURRENCY:
                answers = await asyncio.gather(*(model.infer(feed, ()) for feed in self._feeds))
                return [_observation(answer) for answer in answers]
            return [_observation(await model.infer(feed, ())) for feed in self._feeds]
        finally:
            await model.close()

    async def _load(self, threads: int) -> OnnxModel:
        if threads == 1:
            return await self._engine.load(self._content, self._external)
        # The engine itself always runs one thread; qualification also looks beyond it.
        options = self._engine.runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        if self._external:
            options.add_external_initializers_from_files_in_memory(
                list(self._external),
                list(self._external.values()),
                [len(data) for data in self._external.values()],
            )
        session = self._engine.runtime.InferenceSession(
            self._content, sess_options=options, providers=["CPUExecutionProvider"]
        )
        return OnnxModel(self._engine, session)

    def distance(self, expected: bytes, actual: bytes) -> float | None:
        """Return the largest absolute difference between floating-point outputs."""
        left, right = decode_content(expected), decode_content(actual)
        largest = 0.0
        for (name, datatype, shape, data), other in zip(left, right, strict=False):
            if other[:3] != [name, datatype, shape]:
                return None
            if data == other[3]:
                continue
            if not datatype.startswith("FP"):
                return None
            first = np.frombuffer(data, _NUMBERS[datatype]).astype(np.float64)
            second = np.frombuffer(other[3], _NUMBERS[datatype]).astype(np.float64)
            largest = max(largest, float(np.max(np.abs(first - second))))
        return largest if len(left) == len(right) else None

    async def _find_inputs(self) -> tuple[Sequence[TensorSpecification], int, list[Feed]]:
        model = await self._load(1)
        try:
            for size in _SIZES:
                feeds = _random_feeds(model.inputs, size)
                try:
                    for feed in feeds:
                        await model.infer(feed, ())
                except Error:
                    continue
                return model.inputs, size, feeds
        finally:
            await model.close()
        raise ModelError(
            "no random input suits the model, so it cannot be qualified",
            reason=Reason.UNSUPPORTED_MODEL,
        )

    async def _takes_batches(self) -> bool:
        if not all(item.shape and item.shape[0] == -1 for item in self._specifications):
            return False
        model = await self._load(1)
        try:
            answer = await model.infer(_stack(self._feeds), ())
        except Error:
            return False
        finally:
            await model.close()
        return all(item.shape and item.shape[0] == CASES for item in answer)


def _random_feeds(specifications: Sequence[TensorSpecification], size: int) -> list[Feed]:
    source = np.random.default_rng(SEED)
    return [
        tuple(_random_tensor(source, item, size) for item in specifications) for _ in range(CASES)
    ]


def _random_tensor(
    source: np.random.Generator, specification: TensorSpecification, size: int
) -> Tensor:
    layout = _NUMBERS.get(specification.datatype)
    if layout is None:
        raise ModelError(
            f"inputs of type {specification.datatype} cannot be made at random",
            reason=Reason.UNSUPPORTED_MODEL,
        )
    # The first dimension that varies is taken for the batch.
    shape = list(specification.shape)
    if -1 in shape:
        shape[shape.index(-1)] = 1
    shape = [size if length == -1 else length for length in shape]
    if specification.datatype.startswith("FP"):
        data = source.standard_normal(shape).astype(layout).tobytes()
    else:
        most = 2 if specification.datatype == "BOOL" else 100
        data = source.integers(0, most, shape).astype(layout).tobytes()
    return Tensor(specification.name, specification.datatype, tuple(shape), data)


def _stack(feeds: Sequence[Feed]) -> list[Tensor]:
    return [
        Tensor(
            parts[0].name,
            parts[0].datatype,
            (len(parts), *parts[0].shape[1:]),
            b"".join(part.data for part in parts),
        )
        for parts in zip(*feeds, strict=True)
    ]


def _split(answer: Sequence[Tensor]) -> list[bytes]:
    rows = []
    for index in range(CASES):
        row = []
        for item in answer:
            length = len(item.data) // CASES
            data = item.data[index * length : (index + 1) * length]
            row.append(Tensor(item.name, item.datatype, (1, *item.shape[1:]), data))
        rows.append(_observation(row))
    return rows


def _observation(answer: Sequence[Tensor]) -> bytes:
    return encode_content(
        [[item.name, item.datatype, list(item.shape), item.data] for item in answer]
    )
