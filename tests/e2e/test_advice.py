"""Advice of a whole gateway: figures appear once something ran, and survive a restart."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest

from verispect.client.advice import fetch_advice

sys.path.insert(0, str(Path(__file__).parent))
from test_proven_receipts import MODEL, ask, make_home, serving, wait_for

pytestmark = pytest.mark.slow


def _options(address: str, **wishes: str) -> tuple[dict, object]:
    advice = fetch_advice(address, {"model": MODEL, "stakes": "low", **wishes})
    return {each["name"]: each for each in advice.options}, advice


def test_figures_are_measured_and_kept(tmp_path: Path) -> None:
    """Before the first proof there is no figure; after it there are, and a new process has them."""
    home = make_home(tmp_path)
    with serving(home) as (address, _):
        options, advice = _options(address)
        assert options["proven"]["measured"]["proof_ms"] is None
        assert options["proven"]["measured"]["answer_ms"] is None
        assert advice.policy.name == "signed"
        answer = ask(address)
        wait_for(address, answer.headers["verispect-receipt-id"], "done")
        assert ask(address, assurance="signed").status_code == 200
        measured = _options(address)[0]
    with serving(home) as (address, _):
        again = _options(address)[0]
        for options in (measured, again):
            figures = options["proven"]["measured"]
            assert figures["proof_ms"]["samples"] == figures["answer_ms"]["samples"] == 1
            assert figures["proof_bytes"]["median"] > 1000
            assert figures["proofs_missed"] == 0
            assert options["signed"]["measured"]["answer_ms"]["samples"] == 1
        refused = httpx.get(f"{address}/v1/advise?model={MODEL}&stakes=critical").json()
        assert refused["recommendation"] is None
        assert refused["options"][0]["shortfalls"]
