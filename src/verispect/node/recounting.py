"""Counts the tokens of an inference again: with the committed tokenizer, from what was opened.

A bill is usage x price, and the usage is what its seller says. Whoever has the openings and the
model's file makes the counts again: the input's tokens from the text that was committed to, the
output's from the text that was shown. A model can write one text with several sequences of
tokens; where the usual one is not what was billed, the inference is run again and its tokens are
counted. What cannot be counted is said to be so, and never taken from the seller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verispect.core.commitments import Opening, Part
from verispect.core.errors import (
    Error,
    ModelError,
    Reason,
    UnsupportedError,
    VerificationError,
)
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement
from verispect.engines.interface import Lane, LanguageModel, PreparedInput, PromptInput
from verispect.engines.llama import LlamaModel
from verispect.engines.llama_options import LlamaOptions
from verispect.models.components import FileRole
from verispect.models.registry import ModelRegistry, RegisteredModel
from verispect.node.reexecution import _sampling

TEXT_OPERATIONS: Final = frozenset({"chat.completions", "completions", "responses"})
_ENDED_BY_ITSELF: Final = frozenset({"stop", "tool_calls"})


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one inference, counted here."""

    input_tokens: int
    output_tokens: int
    replayed: bool = False
    """Whether the inference was run again to count its output."""


async def count_tokens(
    receipt: InferenceReceipt,
    opened: Mapping[Part, Opening],
    registry: ModelRegistry,
    *,
    threads: int = 1,
) -> TokenCounts:
    """Count the tokens of an inference from what was opened.

    Args:
        receipt: believed as far as its signature, which the caller checked.
        opened: openings, each of which is checked against its commitment here.
        registry: has the model's file, and so its tokenizer.
        threads: of the engine.

    Raises:
        VerificationError: `opening-mismatch`; `metering-mismatch` where the input's tokens are
            not those of its text; `content-not-opened`.
        ModelError: `model-not-found`, `model-changed`.
        EngineError: the engine cannot run.
        UnsupportedError: `unsupported-model` where there is no way to count.
    """
    statement = receipt.unverified_statement
    record = _content(statement, opened, Part.EFFECTIVE_INPUT)
    if statement.operation == "infer":
        return TokenCounts(sum(_numbers(row) for row in record), 0)
    if statement.operation not in TEXT_OPERATIONS:
        raise _uncountable("tokens of this operation cannot be counted again")
    output = _content(statement, opened, Part.OUTPUT)
    texts = output if type(output) is list else [output]
    try:
        records = record.get("choices", [record])
        if len(texts) > 1 and statement.operation == "completions":
            raise _uncountable("prompts of one request cannot be told apart")
        engine = await _load(registry, statement.model.model_id, threads)
        try:
            counted = sum([await _input(engine, each) for each in _distinct(records)])
            usual = sum([len(await engine.tokenize_answer(text)) for text in texts if text])
            ends = sum(reason in _ENDED_BY_ITSELF for reason in statement.finish_reasons)
            if usual + ends == statement.usage.get("output_tokens"):
                return TokenCounts(counted, usual + ends)
            parameters = _content(statement, opened, Part.PARAMETERS)
            again = await _replay(engine, records[0], texts, parameters)
        finally:
            await engine.close()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VerificationError(
            "the opened content is not what a language model is given",
            reason=Reason.CONTENT_MISMATCH,
        ) from error
    return TokenCounts(counted, again, replayed=True)


def _content(statement: InferenceStatement, opened: Mapping[Part, Opening], part: Part) -> Any:
    opening, commitment = opened.get(part), statement.commitments.get(part)
    if opening is None or commitment is None:
        raise VerificationError(
            f"{part.label} was not opened, so that its tokens cannot be counted",
            reason=Reason.CONTENT_NOT_OPENED,
        )
    opening.check(commitment)
    return opening.content()


def _numbers(row: Any) -> int:
    """Return how many numbers a tensor has: each is a token."""
    try:
        return math.prod(int(size) for size in row["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise VerificationError(
            "the opened input is no tensor", reason=Reason.CONTENT_MISMATCH
        ) from error


def _distinct(records: list[Any]) -> list[Any]:
    """Choices of one prompt share its record; it is billed once."""
    found: list[Any] = []
    for record in records:
        if record not in found:
            found.append(record)
    return found


async def _input(engine: LlamaModel, record: Mapping[str, Any]) -> int:
    """Return the tokens of an input, once they are seen to be those of its text."""
    tokens, text = list(record["token_ids"]), record["text"]
    if text is None:
        return len(tokens)  # The caller sent tokens.
    usual = await engine.prepare(PromptInput(text))
    if tokens != usual.record["token_ids"]:
        # Control tokens that stand in a message are spelled out: that makes the most tokens.
        spelled = len(await engine.tokenize_answer(text)) + 1
        if not usual.token_count <= len(tokens) <= spelled:
            raise VerificationError(
                f"expected {usual.token_count} input tokens, got {len(tokens)}",
                reason=Reason.METERING_MISMATCH,
            )
    return len(tokens)


async def _replay(
    engine: LanguageModel,
    record: Mapping[str, Any],
    texts: list[Any],
    parameters: Mapping[str, Any],
) -> int:
    """Run the inference again, and return how many tokens its output had."""
    if len(texts) != 1:
        raise _uncountable("several choices whose tokens are not the usual ones")
    prepared = PreparedInput(record, len(record["token_ids"]))
    text, count = "", 0
    try:
        async for delta in engine.generate(prepared, _sampling(parameters)):
            text += delta.text
            count += len(delta.token_ids)
    except Error as error:
        raise _uncountable("the inference cannot be run again to count its tokens") from error
    if text != texts[0]:
        raise _uncountable("the output was not repeated, so that its tokens cannot be counted")
    return count


async def _load(registry: ModelRegistry, model_id: bytes, threads: int) -> LlamaModel:
    model = _find(registry, model_id)
    with registry.open_verified(model) as files:
        template = model.manifest.file(FileRole.CHAT_TEMPLATE)
        return await LlamaModel.start(
            files.main_sealed.path,
            chat_template=files.content(template.name).decode() if template else None,
            options=LlamaOptions(lane=Lane.DETERMINISTIC, threads=threads),
            file_descriptor=files.main_sealed.descriptor,
        )


def _find(registry: ModelRegistry, model_id: bytes) -> RegisteredModel:
    for name in registry.names():
        model = registry.resolve(name)
        if model.model_id == model_id:
            return model
    raise ModelError(
        "the registry has no model with the digest that the receipt states: its tokenizer counts",
        reason=Reason.MODEL_NOT_FOUND,
    )


def _uncountable(message: str) -> UnsupportedError:
    return UnsupportedError(message, reason=Reason.UNSUPPORTED_MODEL)
