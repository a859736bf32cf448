"""Clients that nobody here wrote pay `verispect serve`, and its receipts and bills are verified.

The money is that of the development chain inside the server. The packages for TypeScript are
installed into a temporary folder; without node, npm or a registry that test is skipped and says so.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402AsyncTransport
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmScheme

from verispect.appraisal.metering import verify_bill
from verispect.client.session import Exchange
from verispect.core.encoding import from_base64url
from verispect.core.receipt import InferenceReceipt
from verispect.payments.chain.development import ASSET, development_key
from verispect.testing.served import ServedGateway, verify_signed
from verispect.testing.tiny_gguf import TinyModel, write_tiny_gguf

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
ASK = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Say something."}],
    "max_completion_tokens": 6,
}
PRICES = f"""
version = 1
asset = "{ASSET}"

[[price]]
model = "tiny"
assurance = "signed"
input_per_million = 3_000_000
output_per_million = 7_000_000
"""


def make_gateway(home: Path) -> ServedGateway:
    """Return a gateway with a tiny model that is sold."""
    (home / "prices.toml").write_text(PRICES)
    options = ("--threads", "1", "--payments", "dev", "--prices", str(home / "prices.toml"))
    gateway = ServedGateway(home, *options)
    tiny = write_tiny_gguf(home / "tiny.gguf", TinyModel(stops_by_itself=False))
    gateway.run("models", "add", "--name", "tiny", "--file", str(tiny))
    return gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with make_gateway(tmp_path_factory.mktemp("paid")) as gateway:
        yield gateway


def statement_of(answer: httpx.Response):
    """Return the statement of an answer's receipt."""
    receipt = from_base64url(answer.json()["verispect"]["receipt"])
    return InferenceReceipt.parse(receipt).unverified_statement


def settled(answer: httpx.Response):
    """Return what became of the payment."""
    return json.loads(base64.b64decode(answer.headers["payment-response"]))


def await_state(gateway, payment, state):
    """Wait until a payment stands so."""
    shown = None
    for _ in range(100):
        shown = httpx.get(f"{gateway.url}/v1/payments/{payment.hex()}").json()
        if shown["state"] == state:
            return shown
        time.sleep(0.1)
    raise AssertionError(shown)


def stock_client(scheme: str, payer: int = 0) -> x402Client:
    """Return the unmodified client of the `x402` package, for one scheme."""
    signer = EthAccountSigner(Account.from_key(development_key(f"payer-{payer}")))
    made = {"exact": ExactEvmScheme, "batch-settlement": BatchSettlementEvmScheme}[scheme]
    client = x402Client()
    client.set_spend_controls(False)
    client.register("eip155:*", made(signer))
    return client


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
def test_the_python_client_pays(gateway, scheme):
    """The `x402` package pays twice in a row; receipts verify offline, and the bill is right."""

    async def ask_twice():
        transport = x402AsyncTransport(stock_client(scheme))
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            return [
                await client.post(gateway.url + CHAT, json={**ASK, "seed": seed}) for seed in (1, 2)
            ]

    root = gateway.trusted_root()
    for answer in asyncio.run(ask_twice()):
        assert answer.status_code == 200, answer.text
        assert settled(answer)["success"]
        statement = statement_of(answer)
        assert statement.payment.scheme == scheme
        bill = verify_bill(statement)
        assert bill.metered == 3 * bill.input_tokens + 7 * bill.output_tokens
        fixed = scheme == "exact"
        assert bill.charge == (statement.price.ceiling if fixed else bill.metered)
        inference = answer.json()["verispect"]["inference"]
        openings = gateway.openings(inference, answer.headers["verispect-opening-key"])
        receipt = from_base64url(answer.json()["verispect"]["receipt"])
        exchange = Exchange(
            answer.request.content, answer.content, receipt, openings, None, "signed"
        )
        verify_signed(exchange, root)
        state = "captured" if fixed else "pending"
        await_state(gateway, statement.payment.authorisation, state)


def test_the_conformance_checks_pass(gateway):
    """An independent tool finds our 402 as x402 has it."""
    tool = Path(sys.executable).parent / "x402conf"
    if not tool.exists():
        pytest.skip("SKIPPED: x402-conformance is not installed")
    done = subprocess.run(
        [tool, "resource", "--fail-on-error", gateway.url + CHAT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def pay_once(url: str, header: str) -> httpx.Response:
    """Present a payment."""
    return httpx.post(url + CHAT, json=ASK, headers={"PAYMENT-SIGNATURE": header}, timeout=60)


def sign(url: str, payer: int) -> str:
    """Ask for the price and sign an exact payment of it."""
    asked = httpx.post(url + CHAT, json=ASK, timeout=60)
    required = json.loads(base64.b64decode(asked.headers["payment-required"]))

    async def make():
        from x402.schemas import PaymentRequired

        return await stock_client("exact", payer).create_payment_payload(
            PaymentRequired.model_validate(required)
        )

    payload = asyncio.run(make()).model_dump(mode="json", by_alias=True, exclude_none=True)
    return base64.b64encode(json.dumps(payload).encode()).decode()


def test_a_kill_loses_no_paid_answer_and_takes_no_money_twice(tmp_path):
    """After a kill the payment gets the answer that it bought, byte for byte, and pays once."""
    gateway = make_gateway(tmp_path)
    gateway.start()
    header = sign(gateway.url, 1)
    first = pay_once(gateway.url, header)
    assert first.status_code == 200, first.text
    gateway.kill()
    gateway.start()
    gateway.await_ready()
    again = pay_once(gateway.url, header)
    assert again.status_code == 200
    assert again.content == first.content
    shown = await_state(gateway, statement_of(first).payment.authorisation, "captured")
    assert settled(again)["transaction"] == settled(first)["transaction"] == shown["transaction"]
    gateway.stop()


SCRIPT = """
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { privateKeyToAccount } from "viem/accounts";

const [url, ask, scheme] = process.argv.slice(2);
const Scheme = { exact: ExactEvmScheme, "batch-settlement": BatchSettlementEvmScheme }[scheme];
const client = new x402Client();
client.setSpendControls(false);
client.register("eip155:*", new Scheme(privateKeyToAccount(process.env.PAYER_KEY)));
const paying = wrapFetchWithPayment(fetch, client);
const said = [];
for (let count = 0; count < 2; count += 1) {
  const answer = await paying(url, {
    method: "POST", headers: { "content-type": "application/json" }, body: ask,
  });
  said.push({
    status: answer.status,
    response: answer.headers.get("PAYMENT-RESPONSE"),
    body: await answer.text(),
  });
}
console.log(JSON.stringify(said));
"""
PACKAGES = ("@x402/fetch@2.27.0", "@x402/evm@2.27.0")


@pytest.fixture(scope="module")
def npm_folder(tmp_path_factory):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("SKIPPED: node and npm are not here, so @x402/fetch does not pay")
    folder = tmp_path_factory.mktemp("npm-fetch")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    quiet += ["--fetch-timeout=20000"]
    try:
        subprocess.run(
            ["npm", "install", *quiet, *PACKAGES],
            cwd=folder,
            capture_output=True,
            timeout=180,
            check=True,
        )
    except subprocess.SubprocessError:
        pytest.skip("SKIPPED: no npm registry, so @x402/fetch does not pay")
    (folder / "client.mjs").write_text(SCRIPT)
    return folder


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
def test_the_typescript_client_pays(gateway, npm_folder, scheme):
    """`@x402/fetch`, unmodified, pays twice and gets answers whose bills are right."""
    key = "0x" + development_key("payer-2").hex()
    done = subprocess.run(
        ["node", "client.mjs", gateway.url + CHAT, json.dumps(ASK), scheme],
        cwd=npm_folder,
        env={**os.environ, "PAYER_KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for said in json.loads(done.stdout):
        assert said["status"] == 200, said
        assert json.loads(base64.b64decode(said["response"]))["success"]
        receipt = from_base64url(json.loads(said["body"])["verispect"]["receipt"])
        statement = InferenceReceipt.parse(receipt).unverified_statement
        assert statement.payment.scheme == scheme
        assert verify_bill(statement).charge > 0
