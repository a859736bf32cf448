"""`verispect ask --pay` buys from `verispect serve`, and `verify --metering` computes its bill.

The model is a real one, so that its tokens are counted by a real tokenizer. What an operator could
bill falsely is signed with its own key: the receipt verifies, and its bill does not.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from verispect.attesters.signer import Issuer
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.receipt import InferenceReceipt
from verispect.payments.chain.development import ASSET, development_key
from verispect.testing.served import COMMAND, ServedGateway

pytestmark = pytest.mark.slow

MODEL = "smollm2-135m-instruct"
PRICES = f"""
version = 1
asset = "{ASSET}"

[[price]]
model = "smollm2"
assurance = "signed"
input_per_million = 3_000_000
output_per_million = 7_000_000
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("paid")
    (home / "prices.toml").write_text(PRICES)
    (home / "wallet.key").touch(mode=0o600)
    (home / "wallet.key").write_text(development_key("payer-0").hex())
    options = ("--threads", "1", "--payments", "dev", "--prices", str(home / "prices.toml"))
    gateway = ServedGateway(home, *options)
    gateway.run("models", "add", "--name", "smollm2", "--catalogue", MODEL)
    with gateway:
        gateway.trusted_root()
        yield gateway


def command(gateway, *arguments):
    """Run a command as the caller, and return what became of it."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "VERISPECT_HOME": str(gateway.home)},
        capture_output=True,
        text=True,
        check=False,
    )


def ask(gateway, save: Path, *options: str, most: int = 1000):
    """Ask for money, with the journal of this test."""
    paying = ("--pay", "--pay-asset", ASSET, "--pay-at-most", str(most))
    return command(
        gateway,
        "ask",
        "What is a nonce?",
        *("--model", "smollm2", "--url", gateway.url, "--temperature", "0", *options),
        *("--trusted-root", str(gateway.home / "trusted-root.json"), "--save", str(save)),
        *(*paying, "--wallet", str(gateway.home / "wallet.key")),
        *("--pay-journal", str(save.parent / "journal.sqlite")),
    )


def verify(gateway, saved: Path, receipt: Path | None = None, *options: str):
    """Verify a saved answer with its bill."""
    return command(
        gateway,
        "verify",
        str(receipt or saved / "receipt.cose"),
        *("--policy", "signed", "--openings", str(saved / "openings.cbor"), "--metering"),
        *("--trusted-root", str(gateway.home / "trusted-root.json"), *options),
    )


@pytest.fixture(scope="module")
def saved(gateway, tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "exchange"
    done = ask(gateway, folder, "--max-tokens", "24")
    assert done.returncode == 0, done.stderr
    assert "paid " in done.stderr
    return folder


def test_a_bought_answer_has_a_bill_that_anyone_computes(gateway, saved):
    """The tokens are counted by the model's own tokenizer, and the charge follows."""
    done = verify(gateway, saved)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tokens counted again" in done.stdout


def test_an_answer_that_ends_by_itself_is_counted_with_its_end(gateway, saved, tmp_path):
    """The token that ends an answer is generated, and billed, and counted."""
    folder = tmp_path / "exchange"
    done = ask(gateway, folder, "--max-tokens", "200", "--system", "Answer: yes.", most=9000)
    assert done.returncode == 0, done.stderr
    done = verify(gateway, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cap_ends_the_request_before_it_is_paid(gateway, tmp_path):
    """The exit code is that of a refused request, and the word says which cap."""
    done = ask(gateway, tmp_path / "exchange", "--max-tokens", "24", most=3)
    assert done.returncode == 2
    assert "spend-limit" in done.stderr
    assert not (tmp_path / "exchange").exists()


def forge(gateway, saved: Path, path: Path, change) -> Path:
    """Sign another statement with the operator's key, as it could."""
    receipt = InferenceReceipt.parse((saved / "receipt.cose").read_bytes())
    statement = change(receipt.unverified_statement)
    issuer = Issuer.load(gateway.home / "keys")
    envelope = sign_envelope(
        statement.encode(),
        content_type=STATEMENT_TYPE,
        issuer=receipt.envelope.issuer,
        subject=receipt.envelope.subject,
        signer=issuer.signer,
    )
    path.write_bytes(envelope.encode())
    return path


def more_tokens(name: str):
    def change(statement):
        usage = {**statement.usage, name: statement.usage[name] + 5}
        price = statement.price
        rate = {"input_tokens": 3, "output_tokens": 7}[name]
        # The ceiling grows too, so that the bill is right but for the tokens.
        more = replace(price, charge=price.charge + 5 * rate, ceiling=price.ceiling + 5 * rate)
        return replace(statement, usage=usage, price=more)

    return change


def other_price(statement):
    return replace(statement, price=replace(statement.price, charge=statement.price.charge - 1))


def above_ceiling(statement):
    return replace(statement, price=replace(statement.price, charge=1, ceiling=1))


@pytest.mark.parametrize(
    "change",
    [more_tokens("input_tokens"), more_tokens("output_tokens"), other_price, above_ceiling],
    ids=["input", "output", "charge", "ceiling"],
)
def test_a_false_bill_is_refused(gateway, saved, tmp_path, change):
    """The operator's own signature does not make it right."""
    done = verify(gateway, saved, forge(gateway, saved, tmp_path / "forged.cose", change))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "metering-mismatch" in done.stderr


def test_a_bill_without_openings_or_model_is_not_called_right(gateway, saved, tmp_path):
    """What cannot be counted is said, with its own exit code."""
    done = verify(gateway, saved, None, "--registry", str(tmp_path / "none"))
    assert done.returncode == 4
    assert "model-not-found" in done.stderr
