"""The schemes of x402: how each reads a payment, and checks that it is worth what was demanded.

`batch_settlement` for channels, `upto` for a metered transfer, `exact` for a fixed one. They
refuse to move money, but for a deposit, without which a voucher is worth nothing.
"""
