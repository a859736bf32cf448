"""Transactions of real models: proven, fed into a language model, with evidence that comes late."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from verispect.appraisal.policy import ATTESTED_DEVELOPMENT, PROVEN, SIGNED
from verispect.appraisal.result import Verdict
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.client.session import now_milliseconds
from verispect.client.transaction import TransactionClient, verify_transaction
from verispect.core.claims import Claim, Source
from verispect.core.errors import Reason, UnsupportedError, VerificationError
from verispect.core.transaction import TransactionOutcome
from verispect.core.transaction_files import TransactionBundle
from verispect.models.integer_model import register_integer
from verispect.models.registry import ModelRegistry
from verispect.proof.provable import encode_weights
from verispect.proof.prover.prove import commit_model
from verispect.testing.served import COMMAND, ServedGateway
from verispect.testing.tiny_gguf import write_tiny_gguf
from verispect.tlog.leaf import LeafKind, decode_leaf
from verispect.tlog.tiles import decode_entries

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import proof_models

pytestmark = pytest.mark.slow

RISK = "risk"


@contextmanager
def served(home: Path, *arguments: str):
    """Serve a provable model and a small language model in a process of its own."""
    gateway = ServedGateway(home, "--threads", "1", *arguments)
    write_tiny_gguf(home / "tiny.gguf")
    gateway.run("models", "add", "--name", "tiny", "--file", str(home / "tiny.gguf"))
    name = next(name for name in sorted(proof_models.MODELS) if "affine" in name or "mlp" in name)
    graph, weights = proof_models.MODELS[name]()
    provable, _ = commit_model(graph, weights, columns=6, masking_budget=0)
    register_integer(
        ModelRegistry(home / "models"),
        RISK,
        provable.encode(),
        encode_weights(weights),
        commitment_holds=lambda *_: True,
    )
    with gateway:
        yield gateway


def parts(gateway: ServedGateway, assurance: str = "proven"):
    metadata = httpx.get(f"{gateway.url}/v2/models/{RISK}").json()
    shape = [1, *metadata["inputs"][0]["shape"][1:]]
    data = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    inputs = [{"name": "input", "datatype": "FP32", "shape": shape, "data": data.ravel().tolist()}]
    score = {"$from": {"part": 0, "path": "/outputs/0/data", "as": "text"}}
    explain = {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Explain:"}, {"type": "text", "text": score}],
            }
        ],
        "max_completion_tokens": 4,
        "temperature": 0,
    }
    again = [{**inputs[0], "data": {"$from": {"part": 0, "path": "/outputs/0/data"}}}]
    return [
        {
            "path": f"/v2/models/{RISK}/infer",
            "body": {"inputs": inputs},
            "assurance": assurance,
        },
        {"path": "/v1/chat/completions", "body": explain, "lane": "throughput"},
    ], again


def wait_final(client, exchange):
    for _ in range(1200):
        exchange = client.fetch(exchange)
        if exchange.state != "pending":
            return exchange
        time.sleep(0.05)
    raise AssertionError("still pending")


def test_a_proof_that_comes_late_commits_the_transaction(tmp_path):
    """Pending until the proof is there, then committed, and verified offline with both policies."""
    with served(tmp_path) as gateway:
        root = gateway.trusted_root()
        with TransactionClient(gateway.url) as client:
            exchange = client.run(parts(gateway)[0])
            if exchange.state == "pending":
                with pytest.raises(UnsupportedError) as pending:
                    verify_transaction(
                        exchange, trusted_root=root, policy=SIGNED, now=now_milliseconds()
                    )
                assert pending.value.reason is Reason.EVIDENCE_PENDING
            exchange = wait_final(client, exchange)
        assert exchange.state == "committed"
        result = verify_transaction(
            exchange,
            trusted_root=root,
            policy=SIGNED,
            part_policies={0: PROVEN},
            now=now_milliseconds(),
        )
        first, second = (each.result for each in result.parts)
        assert Source.PROVEN in first.claims[Claim.EXECUTION]
        assert second.claims[Claim.EXECUTION] == {Source.ASSERTED}
        assert result.claims[Claim.EXECUTION] == {Source.ASSERTED}
        assert any(check.name == "part-1:from-part-0" for check in result.checks)
        _check_command_line(gateway, exchange.bundle)


def _check_command_line(gateway: ServedGateway, bundle: TransactionBundle) -> None:
    path = gateway.home / "transaction.cbor"
    path.write_bytes(bundle.encode())
    common = ("--trusted-root", str(gateway.home / "trusted-root.json"), "--policy", "signed")
    shown = gateway.run("verify", str(path), *common, "--part-policy", "0=proven")
    assert "committed, 2 parts" in shown
    document = json.loads(gateway.run("verify", str(path), *common, "--json"))
    assert [each["dependsOn"] for each in document["parts"]] == [[], [0]]
    refused = subprocess.run(
        [*COMMAND, "verify", str(path), *common, "--part-policy", "1=proven"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "part-1" in refused.stderr
    assert "fedFrom" in gateway.run("inspect", str(path))


def test_a_proof_that_does_not_come_fails_the_transaction(tmp_path):
    """Given up, it is overdue at its deadline: FAILED, with the part and the reason, for good."""
    with served(tmp_path, "--proof-seconds", "1") as gateway:
        root = gateway.trusted_root()
        with TransactionClient(gateway.url) as client:
            answer = client._post("/v1/transactions", {"parts": parts(gateway)[0]})
            first = answer["parts"][0]
            httpx.delete(
                f"{gateway.url}/v1/receipts/{first['inference']}/proof",
                headers={"verispect-opening-key": first["opening_key"]},
            )
            key = {"verispect-transaction-key": answer["key"]}
            where = f"{gateway.url}/v1/transactions/{answer['id']}"
            for _ in range(400):
                found = httpx.get(where, headers=key).json()
                if found["state"] != "pending":
                    break
                time.sleep(0.05)
        if found["state"] == "committed":
            pytest.skip("the proof was there before it could be given up")
        assert found["state"] == "failed"
        assert found["failure"] == {"part": 0, "reason": "evidence-overdue"}
        bundle = TransactionBundle.parse(httpx.get(f"{where}/receipt").content)
        result = TransactionVerifier(root).appraise(bundle, policy=SIGNED, now=now_milliseconds())
        assert (result.verdict, result.outcome) == (Verdict.REFUSED, TransactionOutcome.FAILED)


def test_keys_are_those_of_the_issuer(tmp_path):
    """Another operator's root refuses the whole."""
    with served(tmp_path) as gateway:
        other = Issuer.create(tmp_path / "other", name="https://other", development=False, now=0)
        with TransactionClient(gateway.url) as client:
            exchange = client.run(parts(gateway, "signed")[0])
        with pytest.raises(VerificationError) as caught:
            verify_transaction(
                exchange,
                trusted_root=TrustedRoot([other.trusted_key()]),
                policy=SIGNED,
                now=now_milliseconds(),
            )
        assert caught.value.reason is Reason.KEY_UNKNOWN


def test_mixed_evidence_is_one_transaction(tmp_path):
    """A proven part, an attested one (development) and a signed one, under three policies."""
    enclave = tmp_path / "enclave"
    with served(tmp_path, "--attester", f"development:{enclave}") as gateway:
        path = tmp_path / "root.json"
        registry = ("--registry", str(tmp_path / "models"))
        trusted = ("--out", str(path), "--development-enclave", str(enclave))
        gateway.run("keys", "trusted-root", *trusted, *registry)
        root = TrustedRoot.from_json(path.read_bytes())
        asked = parts(gateway)[0]
        asked[1]["assurance"] = "attested-development"
        asked.append({**parts(gateway, "signed")[0][0]})
        with TransactionClient(gateway.url) as client:
            exchange = wait_final(client, client.run(asked))
        assert exchange.state == "committed"
        for index, policy in enumerate((PROVEN, ATTESTED_DEVELOPMENT, SIGNED)):
            assert exchange.bundle.parts[index].part.assurance == policy.digest()
        result = verify_transaction(
            exchange,
            trusted_root=root,
            policy=ATTESTED_DEVELOPMENT,
            part_policies={0: PROVEN, 2: SIGNED},
            now=now_milliseconds(),
        )
        of_parts = [each.result.claims[Claim.EXECUTION] for each in result.parts]
        assert [Source.PROVEN in each for each in of_parts] == [True, False, False]
        assert [Source.HARDWARE in each for each in of_parts] == [False, True, False]


def test_the_log_shows_how_each_transaction_ended(tmp_path):
    """Committed and failed ones are leaves, signed, with the part and the reason."""
    with served(tmp_path, "--log", str(tmp_path / "log")) as gateway:
        key = gateway.trusted_root().issuer_keys[0].key
        good = parts(gateway, "signed")[0]
        with TransactionClient(gateway.url) as client:
            committed = client.run(good)
        broken = [good[0], {**good[1], "body": {**good[1]["body"], "model": "nobody"}}]
        failed = httpx.post(f"{gateway.url}/v1/transactions", json={"parts": broken}).json()
        leaves = _transaction_leaves(gateway, 2)
    for leaf in leaves:
        leaf.envelope.verify(key)
    found = {leaf.payload.transaction_id.hex(): leaf.payload for leaf in leaves}
    assert found[committed.transaction_id.hex()].outcome is TransactionOutcome.COMMITTED
    said = found[failed["id"]]
    assert said.outcome is TransactionOutcome.FAILED
    assert (said.failure.index, said.failure.reason) == (1, "model-not-found")
    assert committed.nonce not in b"".join(leaf.envelope.payload for leaf in leaves)


def _transaction_leaves(gateway: ServedGateway, count: int):
    for _ in range(400):
        checkpoint = httpx.get(f"{gateway.url}/log/checkpoint")
        size = int(checkpoint.text.splitlines()[1]) if checkpoint.status_code == 200 else 0
        if size:
            bundle = httpx.get(f"{gateway.url}/log/tile/entries/000.p/{size}").content
            leaves = [decode_leaf(data) for data in decode_entries(bundle, size)]
            ended = [each for each in leaves if getattr(each, "kind", None) is LeafKind.TRANSACTION]
            if len(ended) >= count:
                return ended
        time.sleep(0.05)
    raise AssertionError("the log has no such leaves")
