"""`spec/anchor.md` and the code say the same."""

from __future__ import annotations

import json
import re

import pytest
from docs_blocks import ROOT, blocks

from verispect.ledger.anchor import artifact, chain, check, contract, development_chain, eas
from verispect.tlog.proof import MAX_PROOF_HASHES

TEXT = (ROOT / "spec" / "anchor.md").read_text(encoding="utf-8")
FUNCTIONS = [item["name"] for item in artifact.anchor_contract().abi if item["type"] == "function"]


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"version", "log_id_of", "is_key_good"}))
def test_each_function_of_the_contract_is_in_the_text(name: str) -> None:
    """Nothing that the contract can do is left out."""
    assert f"`{name}(" in TEXT


def test_the_domains_and_limits_are_those_of_the_code() -> None:
    """Who follows the text computes the identifiers and keeps the limits that the code has."""
    assert f'"{contract._LOG_DOMAIN.decode()}"' in TEXT
    assert f'"{eas._DOMAIN.decode()}"' in TEXT
    assert f"[0:{contract.LOG_ID_BYTES}]" in TEXT
    assert f"1 to {contract.MAX_ORIGIN_BYTES} bytes" in TEXT
    assert f"at most {MAX_PROOF_HASHES} hashes" in TEXT
    assert contract.NEVER == 2**64 - 1


def test_the_chains_for_development_are_those_of_the_code() -> None:
    """Each chain id that is refused by default is listed."""
    for chain_id in chain.DEVELOPMENT_CHAIN_IDS:
        assert str(chain_id) in TEXT
    assert development_chain.DEVELOPMENT_CHAIN_ID in chain.DEVELOPMENT_CHAIN_IDS


def test_the_example_of_a_reference_is_well_formed() -> None:
    """The published example is read, and is what the code writes of it."""
    example = next(block for block in blocks(ROOT / "spec" / "anchor.md") if block.kind == "json")
    reference = check.AnchorReference.from_json(example.text.encode())
    assert json.loads(reference.to_json()) == json.loads(example.text)


def test_each_reason_of_a_check_is_in_the_text() -> None:
    """A checker's refusals are all named."""
    source = (ROOT / "src/verispect/ledger/anchor/check.py").read_text(encoding="utf-8")
    named = set(re.findall(r"Reason\.((?:ANCHOR|CHAIN|DEVELOPMENT)_[A-Z_]+)", source))
    assert len(named) >= 6
    for name in named:
        assert f"`{name.lower().replace('_', '-')}`" in TEXT, name
