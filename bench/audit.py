"""Does an audit of one per cent find a substituted model within 500 requests? `make bench-audit`.

Real answers of a real model. Registered: SmolLM2-135M with 8-bit weights. Substituted: the same
with 4-bit weights; and the registered weights under another system prompt than was stated. Answers
come from the throughput lane, in company, so that the noise of batching is in the calibration.
`AUDIT_ANSWERS` and `AUDIT_CALIBRATION` set how many answers are made of each kind.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from audit_models import wheel_model, write_pair
from report import figure

from verispect.engines.interface import ChatInput, Lane, Sampling
from verispect.engines.llama import LlamaModel, LlamaOptions
from verispect.models.gguf import read_header
from verispect.node.answer_drift import disagreement_of
from verispect.node.audit_sample import sample_size
from verispect.node.drift_test import DriftTest, calibrate

CALIBRATION = int(os.environ.get("AUDIT_CALIBRATION", "256"))
ANSWERS = int(os.environ.get("AUDIT_ANSWERS", "80"))
TOKENS, COMPANY, AUDITS = 40, 4, 20_000
REQUESTS, RATE = 500, Fraction(1, 100)
MISS = LEVEL = 0.005
BET = 0.7

STATED = "You are a helpful assistant. Answer in one or two sentences."
ANOTHER = "You are a salesman. Recommend the products of Acme wherever you can."

FORMS = (
    "What is {}?",
    "Explain {} to a child.",
    "Give one fact about {}.",
    "Why do people care about {}?",
    "Write a short note about {}.",
    "What is hard about {}?",
    "Name something that belongs to {}.",
    "How does one begin with {}?",
)
TOPICS = [
    "photosynthesis",
    "gravity",
    "chess",
    "bread baking",
    "the Roman empire",
    "electric cars",
    "jazz music",
    "the moon",
    "vaccination",
    "compound interest",
    "poetry",
    "volcanoes",
    "football",
    "the alphabet",
    "machine translation",
    "honey bees",
    "glass making",
    "democracy",
    "sleep",
    "the violin",
    "coral reefs",
    "insurance",
    "tea",
    "rain",
    "printing",
    "mountain climbing",
    "algebra",
    "whales",
    "maps",
    "bicycles",
    "cheese",
    "the telephone",
    "gardening",
    "deserts",
    "painting",
    "magnets",
    "libraries",
    "rivers",
    "cooking rice",
    "clocks",
    "dinosaurs",
    "sailing",
    "recycling",
    "law",
    "weather forecasts",
    "memory",
    "silk",
    "bridges",
    "potatoes",
    "trains",
    "theatre",
    "batteries",
    "wool",
    "earthquakes",
    "friendship",
    "the sun",
    "coffee",
    "prime numbers",
    "wolves",
    "satellites",
    "handwriting",
    "castles",
    "yoga",
    "salt",
]

Answer = tuple[list[int], str, Sampling]


def requests(count: int, seed: int) -> list[tuple[str, Sampling]]:
    """Return questions, half of them greedy and half sampled from a seed."""
    questions = [form.format(topic) for form, topic in itertools.product(FORMS, TOPICS)]
    draw = random.Random(seed)
    made = []
    for number in range(count):
        warm = number % 2 == 1
        sampling = Sampling(
            maximum_tokens=TOKENS,
            temperature=0.7 if warm else 0.0,
            seed=draw.randrange(1 << 31) if warm else None,
        )
        made.append((draw.choice(questions), sampling))
    return made


def chat_template(path: Path) -> str:
    """Return the template that stands in the file."""
    template = read_header(memoryview(path.read_bytes())).get("tokenizer.chat_template", str)
    assert isinstance(template, str)
    return template


async def start(path: Path, lane: Lane) -> LlamaModel:
    """Load one file in one lane."""
    template = chat_template(path)
    options = LlamaOptions(lane=lane, context_tokens=512, threads=1, parallel=COMPANY)
    return await LlamaModel.start(str(path), chat_template=template, options=options)


async def answers(
    model: LlamaModel, asked: Sequence[tuple[str, Sampling]], *, system: str
) -> list[Answer]:
    """Let a model answer under a system prompt; the record is that of the stated one."""

    async def one(question: str, sampling: Sampling) -> Answer:
        messages = [{"role": "user", "content": question}]
        real = await model.prepare(ChatInput(system, messages))
        stated = await model.prepare(ChatInput(STATED, messages))
        resolved = model.resolve(sampling, prompt_tokens=real.token_count)
        text = "".join([delta.text async for delta in model.generate(real, resolved)])
        return list(stated.record["token_ids"]), text, resolved

    made: list[Answer] = []
    for first in range(0, len(asked), COMPANY):
        company = asked[first : first + COMPANY]
        made += await asyncio.gather(*(one(*each) for each in company))
    return made


async def shares(registered: LlamaModel, made: Sequence[Answer]) -> list[float]:
    """Return the disagreement of each answer with the registered model."""
    found = []
    for prompt, text, sampling in made:
        drift = await disagreement_of(registered, prompt, text, sampling=sampling)
        if drift is not None:
            found.append(drift.share)
    return found


async def measure(folder: Path) -> dict[str, list[float]]:
    """Make answers of all kinds and score them."""
    eight, four = folder / "eight.gguf", folder / "four.gguf"
    write_pair(wheel_model(), eight, four)
    registered = await start(eight, Lane.THROUGHPUT)
    made = {
        "calibration": await answers(registered, requests(CALIBRATION, 1), system=STATED),
        "honest": await answers(registered, requests(ANSWERS, 2), system=STATED),
        "other_system_prompt": await answers(registered, requests(ANSWERS, 3), system=ANOTHER),
    }
    await registered.close()
    substitute = await start(four, Lane.THROUGHPUT)
    made["four_bit"] = await answers(substitute, requests(ANSWERS, 4), system=STATED)
    await substitute.close()
    judge = await start(eight, Lane.DETERMINISTIC)
    found = {name: await shares(judge, each) for name, each in made.items()}
    await judge.close()
    return found


def audits(test: DriftTest, found: Sequence[float], size: int) -> float:
    """Return how many of many audits, each of `size` of these answers, found drift."""
    draw = random.Random(5)
    wins = 0
    for _ in range(AUDITS):
        trials = [test.null.exceeds(share) for share in draw.sample(list(found), size)]
        wins += max(test.log_e_values(trials)) >= test.decisive
    return wins / AUDITS


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder)))
    null = calibrate(found["calibration"], miss=MISS)
    test = DriftTest(null, "4-bit weights of the same model", BET, LEVEL)
    size = sample_size(REQUESTS, RATE)
    circumstances = {"calibration": null.answers, "threshold": round(null.threshold, 4)}
    for name in ("honest", "four_bit", "other_system_prompt"):
        each = found[name]
        exceeding = sum(null.exceeds(share) for share in each) / len(each)
        figure(
            f"audit.{name}.disagreement",
            sum(each) / len(each),
            "share of tokens",
            least=round(min(each), 4),
            largest=round(max(each), 4),
        )
        figure(f"audit.{name}.exceeding", exceeding, "share of answers", **circumstances)
        figure(
            f"audit.{name}.found_within_{REQUESTS}",
            audits(test, each, size),
            "share of audits",
            sample=size,
            answers=len(each),
            false_alarms_at_most=test.false_alarm_rate,
            power_at_this_rate=round(test.power(size, rate=exceeding), 4),
        )


if __name__ == "__main__":
    main()
