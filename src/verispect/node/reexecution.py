"""Runs an inference again from its openings and compares, to the bit or within a stated tolerance.

What is run is what the statement committed to: the effective input and the resolved parameters, on
weights with the digest that it names. Equal bytes affirm, on any engine. Other bytes refute only
where the model's class promises otherwise on this very engine, or where they are beyond the
tolerance that was found when the model was qualified. An answer of a calibrated language model that
nobody promised to the bit is shown to it instead, token by token; in every other case the node
could not tell.

This module refuses to believe an opening that does not open its commitment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any, Final

import numpy as np

from verispect.core.claims import Source
from verispect.core.commitments import OpenedParts, Part
from verispect.core.errors import EngineError, Error, ModelError, Reason
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import Determinism, InferenceStatement, ServedLane
from verispect.engines.forced import ScoringEngine
from verispect.engines.integer import IntegerModel
from verispect.engines.interface import (
    EngineIdentity,
    Lane,
    LanguageModel,
    PreparedInput,
    Sampling,
    Tensor,
    TensorModel,
)
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.engines.onnx import OnnxEngine
from verispect.models.components import FileRole
from verispect.models.integer_model import WEIGHTS_FILE
from verispect.models.manifest import ModelFormat
from verispect.models.qualification import load_record, was_qualified_on
from verispect.models.registry import ModelRegistry
from verispect.models.token_calibration import TokenScoreCalibration, load_calibration
from verispect.models.verified import RegisteredModel
from verispect.node.answer_rule import ShownAnswer, judge_answers
from verispect.node.teacher_forcing import score_text
from verispect.proof.provable import ProvableModel
from verispect.tlog.verdict import Outcome

EXACT_REPLAY: Final = "exact-replay"
TOLERANT_REPLAY: Final = "tolerant-replay"
TEACHER_FORCED: Final = "teacher-forced"
MAX_REPLAYED_CHOICES: Final = 8

_EXACT: Final = frozenset({Determinism.EXACT, Determinism.EXACT_BATCH_ONE})
_FLOATS: Final = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_SAMPLING_FIELDS: Final = frozenset(each.name for each in fields(Sampling))


@dataclass(frozen=True, slots=True)
class Replay:
    """What running it again showed about `execution`."""

    outcome: Outcome
    method: str
    reason: Reason | None = None
    source: Source = Source.REEXECUTED
    largest_difference: float | None = None
    details: Mapping[str, Any] | None = None
    """For a statistical method: figures, tolerance, error rates, where they are from."""


def _unknown(reason: Reason, method: str = EXACT_REPLAY) -> Replay:
    return Replay(Outcome.UNKNOWN, method, reason)


class Reexecutor:
    """Runs inferences of the models in one registry again; used from one event loop.

    Args:
        registry: the node's own models.
        threads: of the language engine.
    """

    def __init__(self, registry: ModelRegistry, *, threads: int = 1) -> None:
        self._registry = registry
        self._threads = threads
        self._onnx: OnnxEngine | None = None
        self._tensor: dict[bytes, TensorModel] = {}
        self._language: dict[bytes, LlamaModel] = {}

    def holds(self, model_id: bytes) -> bool:
        """Tell whether the registry has a model of this digest."""
        return self._find(model_id) is not None

    def _find(self, model_id: bytes) -> RegisteredModel | None:
        for name in self._registry.names():
            model = self._registry.resolve(name)
            if model.model_id == model_id:
                return model
        return None

    async def replay(self, receipt: InferenceReceipt, opened: OpenedParts) -> Replay:
        """Run the inference of a receipt again.

        Args:
            receipt: believed as far as its signature, which the caller checked.
            opened: openings, each of which is checked against its commitment here.
        """
        statement = receipt.unverified_statement
        model = self._find(statement.model.model_id)
        if model is None:
            return _unknown(Reason.MODEL_NOT_FOUND)
        try:
            content = _open(receipt, opened)
        except Error as error:
            return Replay(Outcome.REFUTED, EXACT_REPLAY, error.reason)
        if content is None:
            return _unknown(Reason.CONTENT_NOT_OPENED)
        try:
            if statement.operation == "infer":
                return await self._tensors(receipt, model, content)
            if statement.operation in ("chat.completions", "completions", "responses"):
                return await self._text(receipt, model, content)
        except (EngineError, ModelError):
            return _unknown(Reason.ENGINE_FAILED)
        except (Error, ValueError, KeyError, TypeError, IndexError):
            # The operator committed to something that no engine of this kind was ever given.
            return Replay(Outcome.REFUTED, EXACT_REPLAY, Reason.CONTENT_MISMATCH)
        return _unknown(Reason.UNSUPPORTED_MODEL)

    # -- Tensors -----------------------------------------------------------------------------------

    async def _tensors(
        self, receipt: InferenceReceipt, model: RegisteredModel, content: Mapping[Part, Any]
    ) -> Replay:
        engine = await self._tensor_model(model)
        inputs = [_tensor(row) for row in content[Part.EFFECTIVE_INPUT]]
        stated = [_tensor(row) for row in content[Part.OUTPUT]]
        outputs = await engine.infer(inputs, [each.name for each in stated])
        if list(outputs) == stated:
            return Replay(Outcome.AFFIRMED, EXACT_REPLAY)
        largest = _largest_difference(stated, outputs)
        exact = receipt.unverified_statement.model.determinism in _EXACT
        if exact and self._is_exact_here(model, engine.identity):
            return Replay(
                Outcome.REFUTED,
                EXACT_REPLAY,
                Reason.CONTENT_MISMATCH,
                largest_difference=largest,
            )
        return _within_tolerance(model, largest)

    async def _tensor_model(self, model: RegisteredModel) -> TensorModel:
        known = self._tensor.get(model.model_id)
        if known is not None:
            return known
        with self._registry.open_verified(model) as files:
            loaded: TensorModel
            if model.manifest.model_format is ModelFormat.INTEGER:
                provable = ProvableModel.decode(files.main_content)
                loaded = IntegerModel(provable, files.content(WEIGHTS_FILE))
            else:
                self._onnx = self._onnx or OnnxEngine()
                loaded = await self._onnx.load(files.main_content, files.external_data)
        self._tensor[model.model_id] = loaded
        return loaded

    # -- Text --------------------------------------------------------------------------------------

    async def _text(
        self, receipt: InferenceReceipt, model: RegisteredModel, content: Mapping[Part, Any]
    ) -> Replay:
        statement = receipt.unverified_statement
        if Part.TOOL_CALLS in statement.commitments or model.manifest.adapters:
            return _unknown(Reason.UNSUPPORTED_MODEL)
        stated = content[Part.OUTPUT]
        record = content[Part.EFFECTIVE_INPUT]
        texts = stated if type(stated) is list else [stated]
        if not 1 <= len(texts) <= MAX_REPLAYED_CHOICES:
            return _unknown(Reason.TOO_LARGE)
        engine = await self._language_model(model)
        choices = _choices(record, _sampling(content[Part.PARAMETERS]), texts)
        for own, one, text in choices:
            if await _generate(engine, own, one) == text:
                continue
            exact = statement.model.determinism in _EXACT
            lane = statement.model.lane is ServedLane.DETERMINISTIC
            # A lane without exactness, or another build of the engine, may differ honestly.
            if exact and lane and self._is_exact_here(model, engine.identity):
                return Replay(Outcome.REFUTED, EXACT_REPLAY, Reason.CONTENT_MISMATCH)
            return await self._shown(receipt, model, engine, choices)
        return Replay(Outcome.AFFIRMED, EXACT_REPLAY)

    async def _shown(
        self,
        receipt: InferenceReceipt,
        model: RegisteredModel,
        engine: LlamaModel,
        choices: Sequence[Choice],
    ) -> Replay:
        """Show the model the answers that it did not give again, and judge by calibration."""
        calibration = load_calibration(self._registry, model)
        if calibration is None:
            return _unknown(Reason.CONTENT_MISMATCH)
        return await show_answers(
            receipt.unverified_statement,
            engine,
            choices,
            calibration,
            same_build=self._is_exact_here(model, engine.identity),
        )

    async def _language_model(self, model: RegisteredModel) -> LlamaModel:
        known = self._language.get(model.model_id)
        if known is not None:
            return known
        with self._registry.open_verified(model) as files:
            template = model.manifest.file(FileRole.CHAT_TEMPLATE)
            loaded = await LlamaModel.start(
                files.main_sealed.path,
                chat_template=files.content(template.name).decode() if template else None,
                options=LlamaOptions(lane=Lane.DETERMINISTIC, threads=self._threads),
                file_descriptor=files.main_sealed.descriptor,
            )
        self._language[model.model_id] = loaded
        return loaded

    def _is_exact_here(self, model: RegisteredModel, engine: EngineIdentity) -> bool:
        """Tell whether this node's engine is the one on which the model's class was found."""
        if model.manifest.model_format is ModelFormat.INTEGER:
            return True  # Its specification leaves an engine no choice.
        record = load_record(self._registry, model)
        return record is not None and was_qualified_on(record, engine.to_content())

    async def close(self) -> None:
        """Stop every engine."""
        for tensor in self._tensor.values():
            await tensor.close()
        for language in self._language.values():
            await language.close()
        self._tensor.clear()
        self._language.clear()
        if self._onnx is not None:
            self._onnx.close()
            self._onnx = None


def _open(receipt: InferenceReceipt, opened: OpenedParts) -> dict[Part, Any] | None:
    """Return the content that is needed; `None` where it was not opened.

    Raises:
        VerificationError: `opening-mismatch`: what was given does not open the commitment.
        MalformedError: `malformed-cbor`.
    """
    commitments = receipt.unverified_statement.commitments
    content = {}
    for part in (Part.EFFECTIVE_INPUT, Part.PARAMETERS, Part.OUTPUT):
        opening = opened.get(part)
        if opening is None or part not in commitments:
            return None
        opening.check(commitments[part])
        content[part] = opening.content()
    return content


def _sampling(parameters: Mapping[str, Any]) -> Sampling:
    known = {name: value for name, value in parameters.items() if name in _SAMPLING_FIELDS}
    bias = {int(token): float(value) for token, value in known.pop("logit_bias", {}).items()}
    # Decimal fractions come back as integers where they are whole.
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"):
        if known.get(name) is not None:
            known[name] = float(known[name])
    return Sampling(**known, logit_bias=bias)


Choice = tuple[Mapping[str, Any], Sampling, str]
"""Effective input, resolved sampling and stated text of one answer."""


def _choices(
    record: Mapping[str, Any], sampling: Sampling, texts: Sequence[str]
) -> Sequence[Choice]:
    found = []
    for number, text in enumerate(texts):
        one = sampling
        if number and sampling.seed is not None:
            one = replace(sampling, seed=sampling.seed + number)
        own = record["choices"][number] if "choices" in record else record
        found.append((own, one, text))
    return found


async def show_answers(
    statement: InferenceStatement,
    engine: ScoringEngine,
    choices: Sequence[Choice],
    calibration: TokenScoreCalibration,
    *,
    same_build: bool,
) -> Replay:
    """Judge answers by one pass over each, where the same bytes cannot be had again.

    Args:
        statement: gives the ends of the answers and their tokens.
        engine: the model.
        choices: the answers.
        calibration: of this model.
        same_build: it was made on this engine build; nothing is refuted on another one.
    """
    counted = statement.usage.get("output_tokens")
    shown = [
        ShownAnswer(
            await score_text(
                engine,
                own["token_ids"],
                text,
                sampling=one,
                grammar=own.get("grammar"),
            ),
            finish,
        )
        for (own, one, text), finish in zip(choices, statement.finish_reasons, strict=True)
    ]
    sampling = choices[0][1]
    mode = calibration.mode(sampling.temperature or 0.0)
    tolerance = mode.honest.tolerance()
    judgement = judge_answers(
        shown,
        sampling,
        tolerance,
        output_tokens=counted,
        grammar=any(own.get("grammar") is not None for own, _, _ in choices),
    )
    outcome = judgement.outcome
    if outcome is Outcome.REFUTED and not same_build:
        outcome = Outcome.UNKNOWN
    details = {
        "method": TEACHER_FORCED,
        "sampling": "greedy" if sampling.temperature == 0 else "sampled",
        "figures": judgement.to_content(),
        "tolerance": tolerance.to_content(),
        "error_rates": mode.error_rates(),
    }
    return Replay(outcome, TEACHER_FORCED, judgement.reason, Source.STATISTICAL, details=details)


async def _generate(engine: LanguageModel, record: Mapping[str, Any], sampling: Sampling) -> str:
    prepared = PreparedInput(record, len(record["token_ids"]))
    parts = [delta.text async for delta in engine.generate(prepared, sampling)]
    return "".join(parts)


def _tensor(row: Sequence[Any]) -> Tensor:
    name, datatype, shape, data = row
    return Tensor(name, datatype, tuple(shape), data)


def _largest_difference(stated: Sequence[Tensor], again: Sequence[Tensor]) -> float | None:
    """Return the largest difference; `None` where the two have no common measure."""
    largest = 0.0
    for one, other in zip(stated, again, strict=True):
        if (one.name, one.datatype, one.shape) != (other.name, other.datatype, other.shape):
            return None
        if one.data == other.data:
            continue
        kind = _FLOATS.get(one.datatype)
        if kind is None or len(one.data) != len(other.data):
            return None
        left = np.frombuffer(one.data, dtype=kind).astype(np.float64)
        right = np.frombuffer(other.data, dtype=kind).astype(np.float64)
        difference = np.abs(left - right)
        if not np.isfinite(difference).all():
            return None
        largest = max(largest, float(difference.max(initial=0.0)))
    return largest


def _within_tolerance(model: RegisteredModel, largest: float | None) -> Replay:
    """Judge by the epsilon that qualification found; without one nothing is judged."""
    claim = model.manifest.determinism
    if claim.determinism is not Determinism.TOLERANT or claim.epsilon is None:
        return Replay(
            Outcome.UNKNOWN,
            TOLERANT_REPLAY,
            Reason.CONTENT_MISMATCH,
            largest_difference=largest,
        )
    if largest is not None and Decimal(repr(largest)) <= Decimal(claim.epsilon):
        return Replay(Outcome.AFFIRMED, TOLERANT_REPLAY, largest_difference=largest)
    return Replay(
        Outcome.REFUTED, TOLERANT_REPLAY, Reason.CONTENT_MISMATCH, largest_difference=largest
    )
