"""The reference implementation in TypeScript pays the till, and verifies its offers and receipts.

The packages are installed into a temporary folder; without node, npm or a registry the tests are
skipped, and say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))

from payment_wires import approve_permit2
from till_shop import CEILING, Shop, decoded

from verispect.core.errors import Error
from verispect.payments.chain.development import development_key
from verispect.payments.till import ReceiptNotice

VERSION = "2.27.0"
PACKAGES = [f"@x402/{name}@{VERSION}" for name in ("core", "evm", "extensions")]

SCRIPT = """
import { createInterface } from "node:readline";
import { x402Client, x402HTTPClient } from "@x402/core/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { UptoEvmScheme } from "@x402/evm/upto/client";
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import * as oracle from "@x402/extensions/offer-receipt";
import { privateKeyToAccount } from "viem/accounts";

const account = privateKeyToAccount(process.env.PAYER_KEY);
const schemes = {
  exact: ExactEvmScheme, upto: UptoEvmScheme, "batch-settlement": BatchSettlementEvmScheme,
};
const clients = {};
for (const [name, Scheme] of Object.entries(schemes)) {
  const client = new x402Client();
  client.setSpendControls(false);
  client.register("eip155:*", new Scheme(account));
  clients[name] = new x402HTTPClient(client);
}
let paid, terms;
const answer = {
  async pay({ scheme, required }) {
    const http = clients[scheme];
    terms = http.getPaymentRequiredResponse(() => required, undefined);
    paid = await http.createPaymentPayload(terms);
    return http.encodePaymentSignatureHeader(paid)["PAYMENT-SIGNATURE"];
  },
  async settled({ scheme, status, headers }) {
    const result = await clients[scheme].processPaymentResult(
      paid, (name) => headers[name] ?? null, status);
    return { recovered: result.recovered, success: result.settleResponse?.success ?? null };
  },
  async verify({ response }) {
    const offers = oracle.extractOffersFromPaymentRequired(terms);
    for (const offer of offers) await oracle.verifyOfferSignatureJWS(offer);
    const receipt = response.extensions["offer-receipt"].info.receipt;
    await oracle.verifyReceiptSignatureJWS(receipt);
    const [offer] = oracle.decodeSignedOffers(offers);
    const entry = oracle.findAcceptsObjectFromSignedOffer(offer, terms.accepts);
    return {
      offers: offers.length,
      scheme: entry.scheme,
      matches: oracle.verifyReceiptMatchesOffer(receipt, offer, [account.address]),
    };
  },
};
for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...fields } = JSON.parse(line);
  let said;
  try { said = { ok: await answer[op](fields) }; }
  catch (error) { said = { error: String(error) }; }
  console.log(JSON.stringify(said));
}
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("SKIPPED: node and npm are not here, so TypeScript does not check payments")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text('{"type": "module", "private": true}')
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0"]
    try:
        subprocess.run(
            ["npm", "install", *quiet, *PACKAGES],
            cwd=folder,
            capture_output=True,
            timeout=180,
            check=True,
        )
    except subprocess.SubprocessError:
        pytest.skip("SKIPPED: no npm registry, so TypeScript does not check payments")
    (folder / "client.mjs").write_text(SCRIPT)
    return folder


class Client:
    """The client in TypeScript, in a process of its own."""

    def __init__(self, packages: Path) -> None:
        self._process = subprocess.Popen(
            ["node", "client.mjs"],
            cwd=packages,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PAYER_KEY": "0x" + development_key("payer-0").hex()},
            text=True,
        )

    def __call__(self, op: str, **fields: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        assert "error" not in said, said
        return said["ok"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def client(packages: Path):
    client = Client(packages)
    yield client
    client.close()


def buy(shop: Shop, client: Client, scheme: str, body: bytes, charge: int) -> dict[str, Any]:
    demand = shop.demand(body)
    header = client("pay", scheme=scheme, required=shop.till.demand(demand))
    try:
        payment = shop.serve(header, demand, charge=charge)
    except Error as error:
        refused = {"PAYMENT-REQUIRED": shop.till.demand(demand, error)}
        client("settled", scheme=scheme, status=402, headers=refused)
        raise
    notice = ReceiptNotice("ab" * 32, "/v1/receipts/ab", {"input": 5, "output": 7}, charge)
    response = shop.till.response(payment, notice)
    headers = {"PAYMENT-RESPONSE": response}
    said = client("settled", scheme=scheme, status=200, headers=headers)
    assert said == {"recovered": False, "success": True}
    return decoded(response)


@pytest.mark.parametrize(
    ("scheme", "moved"), [("exact", CEILING), ("upto", 300), ("batch-settlement", 300)]
)
def test_the_typescript_client_pays_and_verifies(tmp_path, client, scheme, moved):
    """Every scheme is paid by the unmodified client, which verifies what it was offered and got."""
    shop = Shop(tmp_path)
    approve_permit2(shop.world)
    response = buy(shop, client, scheme, b"one", 300)
    shop.sweep()
    assert shop.world.balance(shop.world.payee) == moved
    verified = client("verify", response=response)
    assert verified == {"offers": 4, "scheme": "batch-settlement", "matches": True}
    shop.close()


def test_the_typescript_client_goes_on_in_its_channel(tmp_path, client):
    """Many requests of different cost are paid from one deposit and one top-up."""
    shop = Shop(tmp_path)
    charges = [1, CEILING, 77] + [CEILING] * 10
    for number, charge in enumerate(charges):
        buy(shop, client, "batch-settlement", b"%d" % number, charge)
    shop.sweep()
    assert shop.world.balance(shop.world.payee) == sum(charges)
    shop.close()
