"""The bill, recomputed: charge = usage x price, from what a statement says and what was opened.

Metered payment schemes let the seller declare the usage. Whoever holds the statement, and the
token ids behind its commitments, can compute the charge again and refuse another. The module
trusts no number: it refuses to call a bill right whose price, usage or charge is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from verispect.core.errors import Reason, VerificationError
from verispect.core.statement import InferenceStatement

RATE_UNIT: Final = 1_000_000
"""Rates are for so many tokens."""

FIXED_SCHEMES: Final = frozenset({"exact"})
"""Schemes that move the signed amount or nothing, whatever was used."""


def metered_charge(
    input_tokens: int, output_tokens: int, *, input_per_million: int, output_per_million: int
) -> int:
    """Return usage x price in the asset's smallest unit; a fraction of a unit counts as one.

    Raises:
        ValueError: where a count or a rate is negative; this is misuse.
    """
    if min(input_tokens, output_tokens, input_per_million, output_per_million) < 0:
        raise ValueError("counts and rates are not negative")
    millionths = input_tokens * input_per_million + output_tokens * output_per_million
    return -(-millionths // RATE_UNIT)


@dataclass(frozen=True, slots=True)
class VerifiedBill:
    """A bill whose charge follows from its usage and its price."""

    asset: str
    input_tokens: int
    output_tokens: int
    metered: int
    """Usage x price."""
    charge: int
    """What was charged: the metered amount, or the ceiling where the scheme is fixed."""
    usage_recomputed: bool
    """Whether the counts were made again from opened content, or are the operator's word."""


def verify_bill(
    statement: InferenceStatement,
    *,
    counted_input: int | None = None,
    counted_output: int | None = None,
) -> VerifiedBill:
    """Recompute the charge of a statement that was verified.

    Args:
        statement: from a verified receipt.
        counted_input: tokens of the opened effective input, where it was opened.
        counted_output: tokens of the opened output, where it was opened.

    Raises:
        VerificationError: `metering-missing` where there is no price or usage to compute from,
            `metering-mismatch` where the charge or a count is another.
    """
    price = statement.price
    if price is None:
        raise VerificationError("the statement has no price", reason=Reason.METERING_MISSING)
    if not {"input_tokens", "output_tokens"} <= statement.usage.keys():
        raise VerificationError("the statement has no usage", reason=Reason.METERING_MISSING)
    used_input, used_output = statement.usage["input_tokens"], statement.usage["output_tokens"]
    for word, said, counted in (
        ("input", used_input, counted_input),
        ("output", used_output, counted_output),
    ):
        if counted is not None and counted != said:
            raise VerificationError(
                f"expected {counted} {word} tokens, got {said}", reason=Reason.METERING_MISMATCH
            )
    metered = metered_charge(
        used_input,
        used_output,
        input_per_million=price.input_per_million,
        output_per_million=price.output_per_million,
    )
    fixed = statement.payment is not None and statement.payment.scheme in FIXED_SCHEMES
    expected = price.ceiling if fixed else metered
    if metered > price.ceiling:
        raise VerificationError(
            "the usage costs more than the ceiling", reason=Reason.METERING_MISMATCH
        )
    # Nothing charged is right too: assurance that was not delivered is not paid for.
    if price.charge not in {0, expected}:
        raise VerificationError(
            f"expected a charge of {expected}, got {price.charge}", reason=Reason.METERING_MISMATCH
        )
    return VerifiedBill(
        price.asset,
        used_input,
        used_output,
        metered,
        price.charge,
        counted_input is not None and counted_output is not None,
    )
