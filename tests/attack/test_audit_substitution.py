"""An operator substitutes its model: an audit of five real answers finds it, and no honest one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import audit
import audit_models

from verispect.engines.interface import Lane
from verispect.engines.llama import LlamaModel
from verispect.node.drift_test import DriftNull, DriftTest

NULL = DriftNull(0.1, 256, 0.005)
"""A null chosen for this test, not measured: in the deterministic lane there is less noise."""
TEST = DriftTest(NULL, "4-bit weights of the same model", 0.85, 0.005)
AUDITED = 5

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaModel, Path]:
    folder = tmp_path_factory.mktemp("weights")
    eight, four = folder / "eight.gguf", folder / "four.gguf"
    audit_models.write_pair(audit_models.wheel_model(), eight, four)
    model = await audit.start(eight, Lane.DETERMINISTIC)
    yield model, four
    await model.close()
    eight.unlink()
    four.unlink()


async def e_value(registered: LlamaModel, made: list[audit.Answer]) -> float:
    shares = await audit.shares(registered, made)
    assert len(shares) == AUDITED
    return max(TEST.log_e_values([NULL.exceeds(share) for share in shares]))


async def test_an_honest_operator_is_not_accused(registered: tuple[LlamaModel, Path]) -> None:
    """Answers of the registered model leave the e-value small."""
    model, _ = registered
    made = await audit.answers(model, audit.requests(AUDITED, 11), system=audit.STATED)
    assert await e_value(model, made) < 0


async def test_four_bits_instead_of_eight_are_found(registered: tuple[LlamaModel, Path]) -> None:
    """Five answers of the same model with 4-bit weights suffice."""
    model, four = registered
    substitute = await audit.start(four, Lane.DETERMINISTIC)
    made = await audit.answers(substitute, audit.requests(AUDITED, 12), system=audit.STATED)
    await substitute.close()
    assert await e_value(model, made) >= TEST.decisive


async def test_another_system_prompt_is_found(registered: tuple[LlamaModel, Path]) -> None:
    """Five answers under another system prompt than the stated one suffice."""
    model, _ = registered
    made = await audit.answers(model, audit.requests(AUDITED, 13), system=audit.ANOTHER)
    assert await e_value(model, made) >= TEST.decisive
