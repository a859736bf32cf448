"""`verispect verify --metering`: the bill of a receipt, computed again.

Refuses to call a bill right whose tokens it could not count: the openings and the model's file are
needed for that, and nothing else is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verispect.appraisal.metering import VerifiedBill, verify_bill
from verispect.core.commitments import Opening, Part
from verispect.core.receipt import InferenceReceipt


def compute_bill(
    receipt: InferenceReceipt, opened: Mapping[Part, Opening], registry: Path
) -> VerifiedBill:
    """Count the tokens of a verified receipt again, and compute its charge.

    Args:
        receipt: its signature was checked.
        opened: the openings.
        registry: folder of the registry that has the model.

    Raises:
        VerificationError: `metering-mismatch`, `metering-missing`, `content-not-opened`.
        Error: it could not be told.
    """
    # What the statement itself says wrongly needs no model to be seen.
    verify_bill(receipt.unverified_statement)
    from verispect.models.registry import ModelRegistry
    from verispect.node.recounting import count_tokens

    counts = asyncio.run(count_tokens(receipt, opened, ModelRegistry(registry)))
    return verify_bill(
        receipt.unverified_statement,
        counted_input=counts.input_tokens,
        counted_output=counts.output_tokens,
    )


def bill_to_json(bill: VerifiedBill) -> dict[str, Any]:
    """Return the JSON form of a bill; amounts are decimal text."""
    return {
        "asset": bill.asset,
        "inputTokens": bill.input_tokens,
        "outputTokens": bill.output_tokens,
        "metered": str(bill.metered),
        "charge": str(bill.charge),
        "recomputed": bill.usage_recomputed,
    }


def print_bill(receipt: InferenceReceipt, bill: VerifiedBill) -> None:
    """Print how the charge follows."""
    price = receipt.unverified_statement.price
    assert price is not None
    how = "counted again" if bill.usage_recomputed else "as the operator says"
    print(f"\n  bill           in units of {bill.asset}")
    print(f"  input          {bill.input_tokens} tokens x {price.input_per_million} / 1000000")
    print(f"  output         {bill.output_tokens} tokens x {price.output_per_million} / 1000000")
    print(f"  metered        {bill.metered}, tokens {how}")
    print(f"  charge         {bill.charge}, ceiling {price.ceiling}")
