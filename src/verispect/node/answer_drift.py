"""How far one answer is from what the registered model would have given, as one number.

The model is shown the prompt and the answer; a token disagrees where the sampler, run with the
committed settings and seed, would have taken another one. A model under another prompt or with
other weights disagrees often; the noise of batching makes a near tie fall the other way now and
then, which is what calibration measures. This module refuses answers whose sampler had no seed:
there, nobody can say which token it would have taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verispect.core.commitments import OpenedParts, Part
from verispect.core.errors import Reason, VerificationError
from verispect.core.receipt import InferenceReceipt
from verispect.engines.forced import ScoringEngine
from verispect.engines.interface import Sampling
from verispect.node.reexecution import _open, _sampling
from verispect.node.teacher_forcing import score_text


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One answer beside the registered model."""

    tokens: int
    """How many were scored; at least one."""
    disagreeing: int
    """Where the sampler would have taken another token."""

    @property
    def share(self) -> float:
        """The share of tokens that disagree."""
        return self.disagreeing / self.tokens


async def disagreement_of(
    engine: ScoringEngine,
    prompt_tokens: Sequence[int],
    text: str,
    *,
    sampling: Sampling,
    grammar: str | None = None,
) -> Disagreement | None:
    """Score one answer.

    Args:
        engine: the registered model.
        prompt_tokens: what it was given.
        text: what it is said to have answered.
        sampling: the resolved settings.
        grammar: of the sampler.

    Returns:
        The disagreement, or `None` where the answer cannot be scored: it is empty, beyond the
        context, or was sampled without a seed.

    Raises:
        RequestError: for tokens that the model does not have.
        EngineError: when the engine fails.
    """
    if sampling.seed is None and sampling.temperature != 0:
        return None
    if not text or not 0 < len(prompt_tokens) < engine.context_tokens:
        return None
    scores = await score_text(engine, prompt_tokens, text, sampling=sampling, grammar=grammar)
    if not scores.tokens:
        return None
    return Disagreement(len(scores.tokens), sum(not each.agrees for each in scores.tokens))


async def disagreement_of_receipt(
    engine: ScoringEngine, receipt: InferenceReceipt, opened: OpenedParts
) -> Disagreement | None:
    """Score the answer of a receipt.

    Args:
        engine: the model that the receipt names.
        receipt: believed as far as its signature, which the caller checked.
        opened: openings, each of which is checked against its commitment here.

    Returns:
        The disagreement, or `None` where there is no one text to be scored.

    Raises:
        VerificationError: `opening-mismatch`, `content-not-opened`.
        MalformedError: `malformed-cbor`.
        RequestError: for tokens that the model does not have.
        EngineError: when the engine fails.
    """
    statement = receipt.unverified_statement
    if Part.TOOL_CALLS in statement.commitments:
        return None
    content = _open(receipt, opened)
    if content is None:
        raise VerificationError(
            "input, parameters and output were not all opened", reason=Reason.CONTENT_NOT_OPENED
        )
    record: Mapping[str, Any] = content[Part.EFFECTIVE_INPUT]
    text = content[Part.OUTPUT]
    if type(text) is list and len(text) == 1:
        text = text[0]
    if type(text) is not str or "token_ids" not in record:
        return None
    return await disagreement_of(
        engine,
        record["token_ids"],
        text,
        sampling=_sampling(content[Part.PARAMETERS]),
        grammar=record.get("grammar"),
    )
