"""Prices: what a sheet accepts, quotes and charges, and how a bill is checked."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verispect.appraisal.metering import verify_bill
from verispect.core.encoding import sha256
from verispect.core.errors import Error, MalformedError, RequestError, UnsupportedError
from verispect.core.statement import (
    Determinism,
    ExecutedModel,
    InferenceStatement,
    ModelIdentity,
    PaymentBinding,
    Price,
    ServedLane,
)
from verispect.payments.pricing import PriceRow, PriceSheet

ASSET = "eip155:31337/erc20:0x" + "ab" * 20
SHEET = f"""
version = 1
asset = "{ASSET}"

[[price]]
model = "small"
assurance = "signed"
input_per_million = 500_000
output_per_million = 1_500_000

[[price]]
model = "small"
assurance = "proven"
input_per_million = 5_000_000
output_per_million = 15_000_000
"""


def test_a_sheet_quotes_its_ceiling_by_assurance() -> None:
    """The same request costs what its assurance costs."""
    sheet = PriceSheet.from_toml(SHEET)
    signed = sheet.quote("small", "signed", max_input_tokens=100, max_output_tokens=200)
    proven = sheet.quote("small", "proven", max_input_tokens=100, max_output_tokens=200)
    assert (signed.ceiling, proven.ceiling) == (350, 3500)
    assert signed.sheet == sheet.digest()


@pytest.mark.parametrize(("model", "assurance"), [("small", "attested"), ("large", "signed")])
def test_what_has_no_price_is_not_sold(model: str, assurance: str) -> None:
    """An unknown model or assurance is refused, never sold at another price."""
    with pytest.raises(RequestError, match="price-unknown"):
        PriceSheet.from_toml(SHEET).quote(model, assurance, max_input_tokens=1, max_output_tokens=1)


def test_the_digest_is_of_the_prices_and_not_of_their_order() -> None:
    """Two files with the same prices are one sheet; another price is another."""
    rows = list(PriceSheet.from_toml(SHEET).rows)
    assert PriceSheet(ASSET, rows[::-1]).digest() == PriceSheet.from_toml(SHEET).digest()
    dearer = [replace(rows[0], output_per_million=15_000_001), *rows[1:]]
    assert PriceSheet(ASSET, dearer).digest() != PriceSheet(ASSET, rows).digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("500_000\n", "-1\n"),
        ("500_000\n", "0.5\n"),
        ("500_000\n", "true\n"),
        ('assurance = "proven"', 'assurance = "signed"'),
        ('model = "small"\nassurance = "signed"', 'model = ""\nassurance = "signed"'),
        ("eip155:31337/erc20:", "eip155:31337/nft:"),
        ("version = 1\n", ""),
        ("version = 1\n", "version = 1\ncurrency = 'x'\n"),
        ("[[price]]", "[price"),
    ],
)
def test_a_sheet_with_a_fault_is_refused(old: str, new: str) -> None:
    """A fault in the file is an error, never a default price."""
    assert old in SHEET
    with pytest.raises(MalformedError, match="malformed-price-sheet"):
        PriceSheet.from_toml(SHEET.replace(old, new, 1))


def test_a_later_version_is_not_guessed_at() -> None:
    """A sheet of a later version is refused as unsupported."""
    with pytest.raises(UnsupportedError):
        PriceSheet.from_toml(SHEET.replace("version = 1", "version = 2"))


_COUNTS = st.integers(0, 1 << 20)
_RATES = st.integers(0, 1 << 40)


@given(_COUNTS, _COUNTS, _COUNTS, _COUNTS, _RATES, _RATES)
def test_no_charge_exceeds_the_ceiling(
    first: int, second: int, third: int, fourth: int, input_rate: int, output_rate: int
) -> None:
    """A charge is usage x price rounded up, and at most the quote's ceiling."""
    used_input, max_input = sorted((first, second))
    used_output, max_output = sorted((third, fourth))
    sheet = PriceSheet(ASSET, [PriceRow("m", "signed", input_rate, output_rate)])
    quote = sheet.quote("m", "signed", max_input_tokens=max_input, max_output_tokens=max_output)
    charge = quote.charge(used_input, used_output)
    exact = Fraction(used_input * input_rate + used_output * output_rate, 1_000_000)
    assert charge == ceil(exact)
    assert charge <= quote.ceiling
    with pytest.raises(ValueError, match="more was used"):
        quote.charge(max_input + 1, 0)


def _statement(charge: int, ceiling: int, scheme: str) -> InferenceStatement:
    digest = sha256(b"")
    model = ExecutedModel(
        ModelIdentity.LOCAL_WEIGHTS, digest, digest, Determinism.EXACT, ServedLane.DETERMINISTIC
    )
    return InferenceStatement(
        sequence=1,
        received_at=1,
        completed_at=2,
        signed_at=3,
        operation="chat.completions",
        requested_model="small",
        model=model,
        commitments={},
        finish_reasons=["stop"],
        usage={"input_tokens": 10, "output_tokens": 20},
        assurance=digest,
        evidence=[],
        price=Price(ASSET, 500_000, 1_500_000, charge, ceiling),
        payment=PaymentBinding(scheme, digest),
    )


def test_a_right_bill_is_verified_from_counted_tokens() -> None:
    """Counts from opened content and the price give the charge."""
    bill = verify_bill(_statement(35, 100, "upto"), counted_input=10, counted_output=20)
    assert (bill.metered, bill.charge, bill.usage_recomputed) == (35, 35, True)
    assert not verify_bill(_statement(35, 100, "upto")).usage_recomputed


def test_a_fixed_scheme_charges_its_ceiling() -> None:
    """`exact` moves what was signed, and the bill says what was used beside it."""
    bill = verify_bill(_statement(100, 100, "exact"))
    assert (bill.metered, bill.charge) == (35, 100)


@pytest.mark.parametrize(
    ("statement", "counted"),
    [
        (_statement(36, 100, "upto"), None),
        (_statement(34, 100, "upto"), None),
        (_statement(100, 100, "batch-settlement"), None),
        (_statement(34, 34, "upto"), None),
        (_statement(35, 100, "exact"), None),
        (_statement(35, 100, "upto"), 19),
    ],
)
def test_a_wrong_bill_is_refused(statement: InferenceStatement, counted: int | None) -> None:
    """A charge or a count that does not follow is refused."""
    with pytest.raises(Error, match="metering-mismatch"):
        verify_bill(statement, counted_output=counted)


def test_a_bill_without_price_is_not_called_right() -> None:
    """Absence of a price or of usage is a refusal."""
    for statement in (
        replace(_statement(35, 100, "upto"), price=None),
        replace(_statement(35, 100, "upto"), usage={}),
    ):
        with pytest.raises(Error, match="metering-missing"):
            verify_bill(statement)
