"""A paid gateway on loopback: real store, till, chain and server, with a fake model."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from running_gateway import RunningGateway, run_gateway
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client.eip3009 import (
    create_batch_settlement_eip3009_deposit_payload,
)
from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
from x402.mechanisms.evm.batch_settlement.types import ChannelConfig
from x402.mechanisms.evm.batch_settlement.utils import compute_channel_id
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.schemas import PaymentRequirements

from verispect.gateway.limits import Limits
from verispect.gateway.payment import Payments
from verispect.gateway.payment_service import PaymentConfiguration, open_payments, paid_limits
from verispect.payments.chain.development import ASSET, NETWORK, DevelopmentChain
from verispect.payments.x402_till import X402Till
from verispect.testing.echo_model import EchoLanguageModel

SHEET = f"""
version = 1
asset = "{ASSET}"

[[price]]
model = "echo"
assurance = "signed"
input_per_million = 1_000_000
output_per_million = 2_000_000
"""
ASK: dict[str, Any] = {
    "model": "echo",
    "messages": [{"role": "user", "content": "one two three"}],
    "max_tokens": 100,
}
CHAT = "/v1/chat/completions"


@dataclass
class PaidGateway:
    """A gateway that sells, with the money of its development chain."""

    running: RunningGateway
    payments: Payments

    @property
    def world(self) -> DevelopmentChain:
        till = self.payments.till
        assert isinstance(till, X402Till)
        assert till.backend.world is not None
        return till.backend.world

    def http(self) -> httpx.Client:
        return self.running.http()

    def ask(self, header: str | None = None, path: str = CHAT, **fields: Any) -> httpx.Response:
        headers = {} if header is None else {"PAYMENT-SIGNATURE": header}
        with self.http() as client:
            return client.post(path, json={**ASK, **fields}, headers=headers)

    def pay(self, scheme: str = "exact", *, payer: int = 0, **fields: Any) -> str:
        """Ask what a request costs, and return a payment of it."""
        asked = self.ask(**fields)
        assert asked.status_code == 402, asked.text
        return self.sign(asked, scheme, payer=payer)

    def sign(self, asked: httpx.Response, scheme: str = "exact", *, payer: int = 0) -> str:
        required = opened(asked.headers["payment-required"])
        entry = next(
            each
            for each in required["accepts"]
            if each["scheme"] == scheme and each["extra"]["assetTransferMethod"] == "eip3009"
        )
        wanted = PaymentRequirements.model_validate(entry)
        signer = EthAccountSigner(self.world.payer(payer))
        payload = ExactEvmClientScheme(signer).create_payment_payload(wanted)
        return closed(required, entry, payload)

    def channel(self, payer: int = 0, salt: int = 1) -> PaidChannel:
        return PaidChannel(self, payer, salt)

    def balance(self, role: str) -> int:
        return self.world.balance(self.world.account(role).address)


class PaidChannel:
    """A payer's channel: the first payment brings its deposit."""

    def __init__(self, gateway: PaidGateway, payer: int, salt: int) -> None:
        self.signer = EthAccountSigner(gateway.world.payer(payer))
        self.salt = salt
        self.charged = 0
        self._is_open = False

    def sign(self, asked: httpx.Response) -> str:
        """Return the payment of what was asked."""
        required = opened(asked.headers["payment-required"])
        entry = next(e for e in required["accepts"] if e["scheme"] == "batch-settlement")
        wanted = PaymentRequirements.model_validate(entry)
        config = ChannelConfig(
            payer=self.signer.address,
            payer_authorizer=self.signer.address,
            receiver=entry["payTo"],
            receiver_authorizer=entry["extra"]["receiverAuthorizer"],
            token=entry["asset"],
            withdraw_delay=entry["extra"]["withdrawDelay"],
            salt="0x" + self.salt.to_bytes(32).hex(),
        )
        cumulative = str(self.charged + int(entry["amount"]))
        if self._is_open:
            identifier = compute_channel_id(config, NETWORK)
            payload = {
                "type": "voucher",
                "channelConfig": config.to_dict(),
                "voucher": sign_voucher(self.signer, identifier, cumulative, NETWORK).to_dict(),
            }
        else:
            payload = create_batch_settlement_eip3009_deposit_payload(
                self.signer, wanted, config, entry["extra"]["minDeposit"], cumulative
            ).to_dict()
        return closed(required, entry, payload)

    def paid(self, response: dict[str, Any]) -> None:
        """Take note of what was charged."""
        assert response["success"], response
        self._is_open = True
        self.charged += int(response["extra"]["chargedAmount"])


def opened(header: str) -> dict[str, Any]:
    """Return what a header of x402 says."""
    value: dict[str, Any] = json.loads(base64.b64decode(header))
    return value


def closed(required: dict[str, Any], entry: dict[str, Any], payload: Any) -> str:
    """Return the value of `PAYMENT-SIGNATURE`."""
    value = {
        "x402Version": 2,
        "resource": required["resource"],
        "accepted": entry,
        "payload": payload,
    }
    return base64.b64encode(json.dumps(value).encode()).decode()


@contextmanager
def run_paid_gateway(
    directory: Path,
    model: EchoLanguageModel | None = None,
    *,
    sheet: str = SHEET,
    **options: Any,
) -> Iterator[PaidGateway]:
    """Serve for money on a free loopback port until the block ends.

    Args:
        directory: for everything that is kept.
        model: what answers.
        sheet: the prices.
        options: of `run_gateway`.
    """
    prices = directory / "prices.toml"
    prices.write_text(sheet)

    def sell(issuer: Any) -> Payments:
        configuration = PaymentConfiguration("dev", str(prices))
        return open_payments(configuration, directory, issuer.signer)

    limits = paid_limits(options.pop("limits", None) or Limits())
    with run_gateway(
        directory, model or EchoLanguageModel(), sell=sell, limits=limits, **options
    ) as running:
        assert running.state.payments is not None
        yield PaidGateway(running, running.state.payments)
