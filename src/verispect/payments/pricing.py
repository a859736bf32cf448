"""The price sheet: what a model costs per million tokens under each assurance.

A sheet is data with a digest, so that an offer and a receipt can name the one they were made
from. Amounts are integers in the smallest unit of one asset; there are no floats. A model or an
assurance without a row has no price: it is refused, never sold under another one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verispect.appraisal.metering import metered_charge
from verispect.core.encoding import Digest, encode, sha256
from verispect.core.errors import MalformedError, Reason, RequestError, UnsupportedError

PRICE_SHEET_VERSION: Final = 1
MAX_SHEET_BYTES: Final = 256 * 1024
MAX_PRICE_ROWS: Final = 4096
MAX_PRICE_NAME_CHARACTERS: Final = 256
MAX_RATE: Final = (1 << 62) - 1
MAX_TOKENS: Final = 1 << 32
MAX_AMOUNT: Final = (1 << 63) - 1
"""What a statement and the store can hold."""

_ASSET: Final = re.compile(r"eip155:[1-9][0-9]{0,31}/erc20:0x[0-9a-fA-F]{40}")
_ROW_FIELDS: Final = frozenset({"model", "assurance", "input_per_million", "output_per_million"})
_DOMAIN: Final = "verispect-price-sheet-v1"


@dataclass(frozen=True, slots=True)
class PriceRow:
    """The rates of one model under one assurance."""

    model: str
    assurance: str
    input_per_million: int
    output_per_million: int

    def charge(self, input_tokens: int, output_tokens: int) -> int:
        """Return usage x price, a fraction of a unit counted as one."""
        return metered_charge(
            input_tokens,
            output_tokens,
            input_per_million=self.input_per_million,
            output_per_million=self.output_per_million,
        )


@dataclass(frozen=True, slots=True)
class Quote:
    """A price that holds for one request; it costs nothing and binds no money."""

    sheet: Digest
    asset: str
    row: PriceRow
    max_input_tokens: int
    max_output_tokens: int
    ceiling: int

    def charge(self, input_tokens: int, output_tokens: int) -> int:
        """Return what this usage costs.

        Raises:
            ValueError: where more was used than was quoted; the caller served too much.
        """
        if input_tokens > self.max_input_tokens or output_tokens > self.max_output_tokens:
            raise ValueError("more was used than was quoted")
        return self.row.charge(input_tokens, output_tokens)


class PriceSheet:
    """The prices of one server.

    Args:
        asset: CAIP-19 identifier of the token.
        rows: one for each model and assurance.

    Raises:
        MalformedError: `malformed-price-sheet`.
    """

    def __init__(self, asset: str, rows: Sequence[PriceRow]) -> None:
        if not _ASSET.fullmatch(asset):
            raise _malformed("the asset is not a CAIP-19 identifier of a token")
        if not 0 < len(rows) <= MAX_PRICE_ROWS:
            raise _malformed(f"expected 1 to {MAX_PRICE_ROWS} prices")
        self.asset = asset.lower()
        self._rows: Mapping[tuple[str, str], PriceRow] = {
            (row.model, row.assurance): row for row in rows
        }
        if len(self._rows) != len(rows):
            raise _malformed("a model has two prices under one assurance")

    @property
    def rows(self) -> tuple[PriceRow, ...]:
        """All prices, in the order that the digest is made of."""
        return tuple(self._rows[key] for key in sorted(self._rows))

    def digest(self) -> Digest:
        """Return the digest that offers and receipts name."""
        rows = [
            [row.model, row.assurance, row.input_per_million, row.output_per_million]
            for row in self.rows
        ]
        return sha256(encode([_DOMAIN, PRICE_SHEET_VERSION, self.asset, rows]))

    def quote(
        self, model: str, assurance: str, *, max_input_tokens: int, max_output_tokens: int
    ) -> Quote:
        """Return the most that a request can cost.

        Raises:
            RequestError: `price-unknown` where this is not sold; `invalid-request` where the
                limits are out of range.
        """
        row = self._rows.get((model, assurance))
        if row is None:
            raise RequestError(
                "this model has no price under this assurance", reason=Reason.PRICE_UNKNOWN
            )
        if not (0 <= max_input_tokens <= MAX_TOKENS and 0 <= max_output_tokens <= MAX_TOKENS):
            raise RequestError("the limit of tokens is out of range")
        ceiling = row.charge(max_input_tokens, max_output_tokens)
        if ceiling > MAX_AMOUNT:
            raise RequestError("the request could cost more than can be paid")
        return Quote(self.digest(), self.asset, row, max_input_tokens, max_output_tokens, ceiling)

    def to_json(self) -> dict[str, Any]:
        """Return the sheet as it is published."""
        return {
            "version": PRICE_SHEET_VERSION,
            "asset": self.asset,
            "digest": self.digest().hex(),
            "prices": [
                {
                    "model": row.model,
                    "assurance": row.assurance,
                    "inputPerMillion": str(row.input_per_million),
                    "outputPerMillion": str(row.output_per_million),
                }
                for row in self.rows
            ],
        }

    @classmethod
    def from_toml(cls, text: str) -> PriceSheet:
        """Read a sheet as an operator writes it (spec/payment.md).

        Raises:
            MalformedError: `malformed-price-sheet`.
            UnsupportedError: `unsupported-version`.
        """
        if len(text) > MAX_SHEET_BYTES:
            raise _malformed(f"a price sheet has at most {MAX_SHEET_BYTES} bytes")
        try:
            fields = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _malformed("the price sheet is not TOML") from error
        version = fields.get("version")
        if type(version) is int and version != PRICE_SHEET_VERSION:
            raise UnsupportedError(
                f"expected price sheet version {PRICE_SHEET_VERSION}, got another",
                reason=Reason.UNSUPPORTED_VERSION,
            )
        if set(fields) != {"version", "asset", "price"} or type(version) is not int:
            raise _malformed("a field of the price sheet is missing or unknown")
        asset, prices = fields["asset"], fields["price"]
        if type(asset) is not str or type(prices) is not list:
            raise _malformed("a field of the price sheet is of another type")
        return cls(asset, [_row(price) for price in prices])


def _row(fields: Any) -> PriceRow:
    if type(fields) is not dict or fields.keys() != _ROW_FIELDS:
        raise _malformed("a field of a price is missing or unknown")
    for name in ("model", "assurance"):
        value = fields[name]
        if (
            type(value) is not str
            or not 0 < len(value) <= MAX_PRICE_NAME_CHARACTERS
            or not value.isprintable()
        ):
            raise _malformed("a name in a price is not short printable text")
    for name in ("input_per_million", "output_per_million"):
        value = fields[name]
        if type(value) is not int or not 0 <= value <= MAX_RATE:
            raise _malformed("a rate is not an integer in range")
    return PriceRow(**fields)


def _malformed(message: str) -> MalformedError:
    return MalformedError(message, reason=Reason.MALFORMED_PRICE_SHEET)
