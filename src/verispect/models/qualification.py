"""Qualification: how reproducible a model is, found by running it, never assumed.

A `Subject` runs the same cases under several variations; the first is the reference. The rule:

1. every variation gives the reference's bytes, and batches, caches or micro-batches were among
   them: `exact`;
2. every *core* variation (a fresh run, other thread counts) does, and the variations that share
   the engine between requests (batch, cache, micro-batch, concurrency) differ or could not be
   tried: `exact-batch1`;
3. all differences can be measured and stay below `MAX_TOLERANCE`: `tolerant`, with the largest
   difference doubled and rounded up to one digit as epsilon;
4. otherwise, and whenever any run fails to answer: `none`.

A class is evidence of the runs that were made, on one machine, and of nothing else. The record of
those runs is stored in the registry and its digest stands in the manifest; it holds no time, so
that the same outcome gives the same model. This module refuses to know any engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from enum import StrEnum
from typing import Any, Final, Protocol

from verispect.core.encoding import Digest, decode_content, encode_content
from verispect.core.errors import MalformedError, ModelError, Reason
from verispect.core.statement import Determinism
from verispect.models.components import DeterminismClaim
from verispect.models.registry import ModelRegistry
from verispect.models.verified import RegisteredModel

RECORD_VERSION: Final = 1
MAX_RECORD_BYTES: Final = 256 * 1024
MAX_TOLERANCE: Final = 0.5
"""A larger difference is no tolerance any more."""


class VariationKind(StrEnum):
    """What differs from the reference."""

    REPEAT = "repeat"
    THREADS = "threads"
    BATCH = "batch"
    CACHE = "cache"
    MICRO_BATCH = "micro-batch"
    CONCURRENCY = "concurrency"


CORE_KINDS: Final = frozenset((VariationKind.REPEAT, VariationKind.THREADS))
"""Kinds that must not change a bit even where requests never share the engine."""

SHARING_KINDS: Final = frozenset(
    (VariationKind.BATCH, VariationKind.CACHE, VariationKind.MICRO_BATCH)
)
"""Kinds of which one must have been tried before a model is called exact in any company."""


@dataclass(frozen=True, slots=True)
class Variation:
    """One way to run all cases."""

    name: str
    kind: VariationKind


class Subject(Protocol):
    """A model in an engine, as qualification sees it."""

    @property
    def engine(self) -> Mapping[str, Any]:
        """The identity of the engine, as content."""
        ...

    @property
    def cases(self) -> Mapping[str, Any]:
        """What is run, as content: seed, number and sizes; never caller data."""
        ...

    @property
    def variations(self) -> Sequence[Variation]:
        """The variations; the first is the reference."""
        ...

    def run(self, variation: Variation) -> Sequence[bytes]:
        """Return one canonical observation per case, in the order of the cases."""
        ...

    def distance(self, expected: bytes, actual: bytes) -> float | None:
        """Return the largest difference of two observations, `None` where it has no measure."""
        ...


@dataclass(frozen=True, slots=True)
class VariationResult:
    """How one variation compares with the reference."""

    variation: Variation
    cases: int
    equal: int
    largest: float | None
    """Largest difference; `None` where one has no measure."""

    def to_content(self) -> dict[str, Any]:
        """Return the form in the record."""
        return {
            "name": self.variation.name,
            "kind": self.variation.kind.value,
            "cases": self.cases,
            "equal": self.equal,
            "largest_difference": None if self.largest is None else to_decimal(self.largest),
        }


@dataclass(frozen=True, slots=True)
class Qualification:
    """The outcome, and the record that is kept of it."""

    determinism: Determinism
    epsilon: str | None
    results: tuple[VariationResult, ...]
    record: bytes


def to_decimal(value: float) -> str:
    """Return a non-negative number as a plain decimal, its shortest form up to 17 places."""
    text = f"{Decimal(repr(value)):.17f}".rstrip("0").rstrip(".")
    return text or "0"


def tolerance(largest: float) -> str:
    """Return the epsilon for a largest observed difference: doubled, up to one digit."""
    doubled = Decimal(repr(largest)) * 2
    return to_decimal(float(doubled.quantize(Decimal(1).scaleb(doubled.adjusted()), ROUND_UP)))


def classify(results: Sequence[VariationResult]) -> tuple[Determinism, str | None]:
    """Apply the rule; see the module.

    Returns:
        The class, and the epsilon of a tolerant one.
    """
    if not results or not all(result.cases for result in results):
        return Determinism.NONE, None
    unequal = [result for result in results if result.equal != result.cases]
    if not unequal:
        tried = any(result.variation.kind in SHARING_KINDS for result in results)
        return (Determinism.EXACT if tried else Determinism.EXACT_BATCH_ONE), None
    if not any(result.variation.kind in CORE_KINDS for result in unequal):
        return Determinism.EXACT_BATCH_ONE, None
    largest = 0.0
    for result in unequal:
        if result.largest is None or not 0 <= result.largest <= MAX_TOLERANCE:
            return Determinism.NONE, None
        largest = max(largest, result.largest)
    return Determinism.TOLERANT, tolerance(largest)


def qualify(subject: Subject, model_id: Digest) -> Qualification:
    """Run all variations and classify the model.

    Args:
        subject: the model in its engine.
        model_id: the manifest that is qualified, for the record.

    Raises:
        ModelError: `unsupported-model` where the subject varies nothing or runs no case.
        EngineError: where the engine fails.
    """
    reference, *others = subject.variations
    expected = list(subject.run(reference))
    if not others or not expected:
        raise ModelError("there is nothing to qualify", reason=Reason.UNSUPPORTED_MODEL)
    results = tuple(
        _compare(subject, variation, expected, subject.run(variation)) for variation in others
    )
    determinism, epsilon = classify(results)
    record = encode_content(
        {
            "version": RECORD_VERSION,
            "model_id": bytes(model_id),
            "engine": subject.engine,
            "cases": subject.cases,
            "reference": reference.name,
            "results": [result.to_content() for result in results],
            "class": determinism.label,
            "epsilon": epsilon,
        }
    )
    return Qualification(determinism, epsilon, results, record)


def _compare(
    subject: Subject, variation: Variation, expected: Sequence[bytes], actual: Sequence[bytes]
) -> VariationResult:
    equal = 0
    largest: float | None = 0.0
    for index, reference in enumerate(expected):
        observed = actual[index] if index < len(actual) else None
        if observed == reference:
            equal += 1
            continue
        distance = None if observed is None else subject.distance(reference, observed)
        if largest is None or distance is None or not math.isfinite(distance):
            largest = None
        else:
            largest = max(largest, distance)
    return VariationResult(variation, len(expected), equal, largest)


def unqualified(model: RegisteredModel) -> Digest:
    """Return the identity that `model` has without its qualification.

    The record names this one, so that a repeated qualification with the same outcome gives the
    same record and the same model.
    """
    return dataclasses.replace(model.manifest, determinism=DeterminismClaim()).model_id


def record_qualification(
    registry: ModelRegistry, model: RegisteredModel, outcome: Qualification
) -> RegisteredModel:
    """Store the record and let the model's name stand for the qualified manifest.

    Raises:
        StoreError: `store-failed`.
    """
    with registry.writing() as writer:
        stored = writer.store_bytes(outcome.record)
        claim = DeterminismClaim(outcome.determinism, outcome.epsilon, stored.digest)
        manifest = dataclasses.replace(model.manifest, determinism=claim)
        return writer.add(model.name, manifest, replace=True)


def load_record(registry: ModelRegistry, model: RegisteredModel) -> dict[str, Any] | None:
    """Return the qualification record that a manifest names, verified; `None` where it has none.

    Raises:
        ModelError: `model-changed` where the record is missing or other bytes.
        MalformedError: where the record is not one.
    """
    digest = model.manifest.determinism.qualification
    if digest is None:
        return None
    what = f"qualification record of model {model.name}"
    try:
        size = registry.blobs.path(digest).stat().st_size
    except OSError as error:
        raise ModelError(f"{what} is missing", reason=Reason.MODEL_CHANGED) from error
    if size > MAX_RECORD_BYTES:
        raise ModelError(f"{what} is too large", reason=Reason.MODEL_CHANGED)
    record = decode_content(registry.blobs.load(digest, size, what=what))
    if type(record) is not dict or record.get("version") != RECORD_VERSION:
        raise MalformedError(f"{what} is not a record", reason=Reason.MALFORMED_MANIFEST)
    return record


_SAME_ENGINE: Final = ("name", "version", "library_sha256", "kernel_class")


def was_qualified_on(record: Mapping[str, Any], engine: Mapping[str, Any]) -> bool:
    """Tell whether a record was made with this very engine build and kernel class.

    Lanes and batch sizes are what qualification varies, so settings are not compared.

    Args:
        record: from `load_record`.
        engine: `EngineIdentity.to_content()` of the engine that is about to serve.
    """
    recorded = record.get("engine")
    return isinstance(recorded, dict) and all(
        recorded.get(key) == engine.get(key) for key in _SAME_ENGINE
    )
