"""A shop with a till, and a customer with the stock `x402` client, without HTTP between them."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from x402 import x402ClientSync
from x402.http.utils import decode_payment_required_header
from x402.http.x402_http_client import x402HTTPClientSync
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmClientScheme
from x402.mechanisms.evm.upto.client import UptoEvmScheme

from verispect.core.encoding import sha256
from verispect.core.errors import Error
from verispect.core.keys import PublicKey
from verispect.payments.chain.development import ASSET, NETWORK, TOKEN_ADDRESS, DevelopmentChain
from verispect.payments.machine import PaymentMachine
from verispect.payments.pricing import PriceRow, PriceSheet
from verispect.payments.store import Payment, PaymentStore, State
from verispect.payments.till import Demand, Presented, ReceiptNotice
from verispect.payments.x402_till import PaymentMode, TillSettings, X402Till, open_till

CEILING = 12_000
"""Of a request for at most 1,000 tokens in and 1,000 out."""

URL = "https://inference.test/v1/chat/completions"


class Ed25519Signer:
    """Signs offers with a key that everybody knows."""

    def __init__(self) -> None:
        from nacl.signing import SigningKey

        self._key = SigningKey(bytes(range(32)))

    @property
    def public_key(self) -> PublicKey:
        return PublicKey(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message).signature


@dataclass
class Clock:
    ahead: int = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


def sheet() -> PriceSheet:
    return PriceSheet(ASSET, [PriceRow("smollm2", "signed", 2_000_000, 10_000_000)])


class Shop:
    """Sells one model under one assurance."""

    def __init__(self, folder: Path, clock: Clock | None = None, **settings: Any) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        self.payments = PaymentStore(folder / "payments.sqlite3")
        wanted = TillSettings(PaymentMode.DEV, sheet(), folder, **settings)
        self.till: X402Till = open_till(
            wanted, store=self.payments, signer=Ed25519Signer(), now=self.clock
        )
        self.machine = PaymentMachine(self.payments, self.till.settlement, now=self.clock)
        self.machine.recover()
        self.ran = 0

    def close(self) -> None:
        self.till.close()
        self.payments.close()

    @property
    def world(self) -> DevelopmentChain:
        world = self.till.backend.world
        assert world is not None
        return world

    def demand(self, body: bytes, *, streamed: bool = False, tokens: int = 1_000) -> Demand:
        quote = sheet().quote("smollm2", "signed", max_input_tokens=1_000, max_output_tokens=tokens)
        return Demand(quote, URL, sha256(body), streamed, 60)

    def reserve(self, header: str, demand: Demand) -> tuple[Presented, Payment, bool]:
        presented = self.till.read(header, demand)
        reserved = self.machine.reserve(
            presented.authorisation,
            request=demand.request,
            sheet=demand.quote.sheet,
            ceiling=demand.quote.ceiling,
            deadline=self.clock() + demand.lasting_seconds,
            identifier=presented.identifier_digest,
        )
        return presented, reserved.payment, reserved.is_new

    def serve(self, header: str, demand: Demand, *, charge: int, assured: bool = True) -> Payment:
        """Sell one answer, as a gateway does."""
        _, payment, is_new = self.reserve(header, demand)
        if not is_new:
            return payment
        self.machine.execute(payment.payment_id)
        self.ran += 1
        payment = self.machine.deliver(payment.payment_id, b"answer", charge=charge)
        self.till.delivered(payment)
        if assured:
            self.machine.assurance_met(payment.payment_id)
            payment = self.machine.capture(payment.payment_id)
        return payment

    def sweep(self) -> int:
        owed = [
            payment
            for payment in self.payments.unfinished()
            if payment.state in {State.CAPTURING, State.PENDING}
        ]
        swept = self.till.sweep(owed)
        self.machine.reconcile()
        return swept


class ChainReadingSigner(EthAccountSigner):
    """An account that also reads the chain, as one with a node does."""

    def __init__(self, account: Any, world: DevelopmentChain) -> None:
        super().__init__(account)
        self._world = world

    def read_contract(self, address: str, abi: Any, function_name: str, *args: Any) -> Any:
        converted = [
            bytes.fromhex(arg[2:]) if isinstance(arg, str) and len(arg) == 66 else arg
            for arg in args
        ]
        return self._world.facilitator_signer.read_contract(address, abi, function_name, *converted)


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    payment: Payment | None = None
    error: Error | None = None

    @property
    def settled(self) -> dict[str, Any]:
        return decoded(self.headers["PAYMENT-RESPONSE"])


class Customer:
    """The stock client of one payer, with one scheme."""

    def __init__(self, shop: Shop, scheme: str, payer: int = 0, *, has_node: bool = True) -> None:
        self.shop = shop
        account = shop.world.payer(payer)
        self.address = account.address
        signer = ChainReadingSigner(account, shop.world) if has_node else EthAccountSigner(account)
        client = x402ClientSync()
        client.set_spend_controls(False)
        made = {
            "exact": ExactEvmClientScheme,
            "upto": UptoEvmScheme,
            "batch-settlement": BatchSettlementEvmScheme,
        }[scheme](signer)
        client.register(NETWORK, made)
        self.scheme = made
        self.http = x402HTTPClientSync(client)

    def sign(self, required: str) -> tuple[Any, str]:
        payload = self.http.create_payment_payload(decode_payment_required_header(required))
        return payload, self.http.encode_payment_signature_header(payload)["PAYMENT-SIGNATURE"]

    def ask(self, body: bytes, *, charge: int = 1_234, **options: Any) -> Answer:
        """Ask, pay, and pay again where the shop says how to go on, as the stock client does."""
        served = {name: options.pop(name) for name in ("assured",) if name in options}
        demand = self.shop.demand(body, **options)
        for _ in range(2):
            payload, header = self.sign(self.shop.till.demand(demand))
            answer = self._present(header, demand, charge, served)
            result = self.http.process_payment_result(payload, answer.headers.get, answer.status)
            if not result.recovered:
                break
        return answer

    def _present(self, header: str, demand: Demand, charge: int, served: dict[str, Any]) -> Answer:
        try:
            payment = self.shop.serve(header, demand, charge=charge, **served)
        except Error as error:
            return Answer(
                402, {"PAYMENT-REQUIRED": self.shop.till.demand(demand, error)}, error=error
            )
        notice = ReceiptNotice("ab" * 32, "/v1/receipts/ab", {"input": 5, "output": 7}, charge)
        response = self.shop.till.response(payment, notice)
        return Answer(200, {"PAYMENT-RESPONSE": response}, payment)


def decoded(header: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.b64decode(header))
    return value


def encoded(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


TOKEN = TOKEN_ADDRESS
