"""Durable state of the issuer: receipts, gapless sequence numbers, openings, open streams.

The room may import `core` to `attesters`; it knows nothing of HTTP. It refuses to sign: what is
stored is minted by a function that the caller brings.
"""

from verispect.ledger.check import StoreReport
from verispect.ledger.records import InterruptedStream, NewReceipt, StoredReceipt
from verispect.ledger.store import ReceiptStore

__all__ = ["InterruptedStream", "NewReceipt", "ReceiptStore", "StoreReport", "StoredReceipt"]
