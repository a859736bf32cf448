"""Transactions that are changed, or that a lying operator signs: each is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verispect.appraisal.policy import AUDITED, SIGNED, AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import ExpectedTransaction, TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.claims import Claim, Source
from verispect.core.encoding import encode
from verispect.core.errors import Error, Reason
from verispect.core.transaction import PartOutcome, encode_parts
from verispect.core.transaction_files import read_transaction_file

sys.path.insert(0, str(Path(__file__).parents[2] / "vectors"))

import cases_transactions as cases
import material

ROOT = TrustedRoot.from_json(material.trusted_root().encode())
WHOLE = cases.bundle()
FILES = {"whole": WHOLE.encode(), "part": cases.disclosed(1).encode()}


def appraise(shown, policy=SIGNED, **options):
    return TransactionVerifier(ROOT).appraise(shown, policy=policy, now=material.NOW, **options)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=400, deadline=None)
@given(place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_no_bit_of_an_accepted_file_can_be_changed(name, place, bit):
    """One bit changed anywhere is refused, or not understood; never accepted."""
    data = bytearray(FILES[name])
    data[place % len(data)] ^= 1 << bit
    try:
        result = appraise(read_transaction_file(bytes(data)))
    except Error:
        return
    assert result.verdict is not Verdict.VERIFIED


@settings(max_examples=200, deadline=None)
@given(order=st.permutations(range(cases.COUNT)), kept=st.integers(1, cases.COUNT))
def test_parts_are_accepted_in_one_order_and_whole(order, kept):
    """Any other order, and any part left out, is a mismatch."""
    chosen = [WHOLE.parts[place] for place in order[:kept]]
    result = appraise(replace(WHOLE, parts=tuple(chosen)))
    whole = order[:kept] == list(range(cases.COUNT))
    assert (result.verdict is Verdict.VERIFIED) == whole
    assert whole or result.reason is Reason.TRANSACTION_MISMATCH


def test_a_part_fits_no_transaction_with_another_id():
    """A leaf is hashed with its transaction's id: the parts of one lead to no root of another."""
    said = cases.transaction_statement(
        [each.part for each in WHOLE.parts], transaction_id=cases.OTHER_ID
    )
    assert said.root != WHOLE.statement.root


def test_the_caller_knows_its_own_transaction():
    """Another id, another nonce, another number of parts: each is refused."""
    for expected, reason in (
        (ExpectedTransaction(transaction_id=cases.OTHER_ID), Reason.TRANSACTION_MISMATCH),
        (ExpectedTransaction(nonce=b"another nonce"), Reason.NONCE_MISMATCH),
        (ExpectedTransaction(count=4), Reason.TRANSACTION_MISMATCH),
    ):
        assert appraise(WHOLE, expected=expected).reason is reason
    right = ExpectedTransaction(cases.TRANSACTION_ID, cases.NONCE, cases.COUNT)
    assert appraise(WHOLE, expected=right).verdict is Verdict.VERIFIED
    without = cases.bundle(nonce=None)
    assert appraise(without, expected=right).reason is Reason.NONCE_MISSING


def test_each_part_has_its_own_policy_and_the_worst_decides():
    """A part that does not meet its policy refuses the whole; a policy for no part does too."""
    refused = appraise(WHOLE, part_policies={1: AUDITED})
    assert (refused.verdict, refused.reason) == (Verdict.REFUSED, Reason.POLICY_UNMET)
    assert refused.decisive_check().name == "part-1:receipt"
    assert appraise(WHOLE, part_policies={3: SIGNED}).reason is Reason.TRANSACTION_MISMATCH
    assert appraise(WHOLE, AssurancePolicy("nothing", {})).reason is Reason.POLICY_EMPTY


def test_the_table_of_the_whole_is_the_weakest_of_its_parts():
    """Every part's claims are asserted, so are the whole's; a refused whole claims nothing."""
    result = appraise(WHOLE)
    assert result.claims[Claim.EXECUTION] == {Source.ASSERTED}
    assert result.claims[Claim.LOGGED] == {Source.UNSTATED}
    refused = appraise(WHOLE, AUDITED)
    assert set(refused.claims.values()) == {frozenset({Source.UNSTATED})}


def test_a_result_is_no_boolean():
    """`if verifier.appraise(…)` cannot pass by accident."""
    with pytest.raises(TypeError):
        bool(appraise(WHOLE))


def test_what_is_not_opened_is_said():
    """Closed openings leave dependencies signed, and not covered; never checked in silence."""
    closed = tuple(replace(each, openings=None) for each in WHOLE.parts)
    result = appraise(replace(WHOLE, parts=closed))
    assert sum("not opened at both ends" in line for line in result.not_covered) == 2
    assert not any(":from-part-" in check.name for check in result.checks)


def test_a_leaf_is_written_as_the_encoder_has_it():
    """The bytes written by hand are those of the deterministic form."""
    for each in WHOLE.parts:
        for part in (each.part, replace(each.part, outcome=PartOutcome.FAILED, reason="x")):
            assert part.encode() == encode(part.to_row())
    parts = [each.part for each in WHOLE.parts]
    assert encode_parts(parts) == encode([part.to_row() for part in parts])
