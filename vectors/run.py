# ruff: noqa: INP001, T201
"""Runs test vectors with the offline verifier alone: `python run.py FILE...` prints one line each.

This is the reference harness; README.md says what another implementation has to do. It needs
the base install of `verispect` and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from verispect.appraisal.policy import AssurancePolicy
from verispect.appraisal.result import Verdict
from verispect.appraisal.service_history import ServiceHistory
from verispect.appraisal.transaction import TransactionVerifier
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.appraisal.verifier import Expected, Verifier
from verispect.core.commitments import Part, decode_openings
from verispect.core.encoding import decode_content, encode_content, from_base64url
from verispect.core.envelope import open_envelope
from verispect.core.errors import MalformedError, UnsupportedError, VerificationError
from verispect.core.keys import PublicKey
from verispect.core.receipt import InferenceReceipt
from verispect.core.statement import InferenceStatement, StreamBinding
from verispect.core.stream import StreamChain, open_interim
from verispect.core.transaction_files import read_transaction_file

Answer = tuple[str, str | None]
ACCEPTED: Answer = ("accepted", None)


def run_case(case: dict[str, Any]) -> Answer:
    """Return `result` and `reason` of one case, as this implementation sees it."""
    namespace = case["id"].split("::")[0]
    try:
        return _RUNNERS[namespace](case)
    except MalformedError as error:
        return ("malformed", error.reason.value)
    except UnsupportedError as error:
        return ("unsupported", error.reason.value)
    except VerificationError as error:
        return ("refused", error.reason.value)


def _cbor(case: dict[str, Any]) -> Answer:
    data = bytes.fromhex(case["cbor"])
    value = decode_content(data)
    if "value" in case and (value != case["value"] or encode_content(case["value"]) != data):
        return ("accepted", "other-value")
    return ACCEPTED


def _envelope(case: dict[str, Any]) -> Answer:
    data = bytes.fromhex(case["envelope"])
    envelope = open_envelope(data, content_type=case["contentType"])
    return ACCEPTED if envelope.encode() == data else ("accepted", "other-encoding")


def _statement(case: dict[str, Any]) -> Answer:
    payload = bytes.fromhex(case["payload"])
    same = InferenceStatement.decode(payload).encode() == payload
    return ACCEPTED if same else ("accepted", "other-encoding")


def _commitment(case: dict[str, Any]) -> Answer:
    opened = decode_openings(bytes.fromhex(case["openings"]))
    for label, commitment in case["commitments"].items():
        opening = opened[Part[label.upper()]]
        opening.check(bytes.fromhex(commitment))
        opening.content()
    return ACCEPTED


def _stream(case: dict[str, Any]) -> Answer:
    envelope, binding = open_interim(bytes.fromhex(case["interim"]))
    envelope.verify(PublicKey(from_base64url(case["key"])))
    chain = StreamChain(bytes.fromhex(envelope.subject))
    for chunk in case["chunks"]:
        chain.absorb(chunk.encode())
    return ACCEPTED if binding == chain.binding() else ("refused", "stream-mismatch")


def _trusted_root(case: dict[str, Any]) -> Answer:
    TrustedRoot.from_json(_root_bytes(case))
    return ACCEPTED


def _root_bytes(case: dict[str, Any]) -> bytes:
    if "trustedRootHex" in case:
        return bytes.fromhex(case["trustedRootHex"])
    text: str = case["trustedRoot"]
    return text.encode()


def _policy(case: dict[str, Any]) -> Answer:
    policy = AssurancePolicy.from_toml(case["policy"])
    return ACCEPTED if policy.digest().hex() == case["digest"] else ("accepted", "other-digest")


def _verification(case: dict[str, Any]) -> Answer:
    receipt = InferenceReceipt.parse(bytes.fromhex(case["receipt"]))
    root = TrustedRoot.from_json(_root_bytes(case))
    history = None
    if "history" in case:
        history = ServiceHistory.from_json(case["history"].encode(), root.issuer_key)
    result = Verifier(root).appraise(
        receipt,
        opened=decode_openings(bytes.fromhex(case["openings"])) if "openings" in case else {},
        policy=AssurancePolicy.from_toml(case["policy"]),
        now=case["now"],
        expected=replace(_expected(case.get("expected", {})), history=history),
    )
    return (result.verdict.value, result.reason.value if result.reason else None)


def _expected(members: dict[str, Any]) -> Expected:
    stream = members.get("stream")
    return Expected(
        nonce=bytes.fromhex(members["nonce"]) if "nonce" in members else None,
        parts={Part[label.upper()]: value for label, value in members.get("parts", {}).items()},
        stream=StreamBinding(stream["chunks"], bytes.fromhex(stream["head"])) if stream else None,  # type: ignore[arg-type]
    )


def _transaction(case: dict[str, Any]) -> Answer:
    result = TransactionVerifier(TrustedRoot.from_json(case["trustedRoot"].encode())).appraise(
        read_transaction_file(bytes.fromhex(case["transaction"])),
        policy=AssurancePolicy.from_toml(case["policy"]),
        now=case["now"],
    )
    reason = None if result.verdict is Verdict.VERIFIED else result.decisive_check().reason
    return result.verdict.value, None if reason is None else reason.value


def _proof(case: dict[str, Any]) -> Answer:
    # Only proofs need NumPy.
    import numpy as np

    from verispect.proof.parameters import Mode
    from verispect.proof.provable import ProvableModel
    from verispect.proof.verifier import verify_proof

    model = ProvableModel.decode(bytes.fromhex(case["model"]))
    graph = model.graph

    def integers(name: str, tensor: int) -> Any:
        return np.array(case[name], np.int64).reshape(-1, *graph.shapes[tensor])

    verify_proof(
        bytes.fromhex(case["proof"]),
        model=model,
        mode=Mode(case["mode"]),
        context=bytes.fromhex(case["context"]),
        salt=bytes.fromhex(case["salt"]),
        inputs=integers("inputs", 0) if "inputs" in case else None,
        outputs=integers("outputs", graph.output.tensor),
    )
    return ("verified", None)


_RUNNERS: dict[str, Callable[[dict[str, Any]], Answer]] = {
    "cbor": _cbor,
    "envelope": _envelope,
    "statement": _statement,
    "commitment": _commitment,
    "stream": _stream,
    "trusted-root": _trusted_root,
    "policy": _policy,
    "verification": _verification,
    "transaction": _transaction,
    "proof": _proof,
}


def main() -> int:
    """Run the files named on the command line; 1 if any answer is not the published one."""
    failures = 0
    for name in sys.argv[1:]:
        case = json.loads(Path(name).read_text(encoding="utf-8"))
        answer = run_case(case)
        good = answer == (case["result"], case["reason"])
        failures += not good
        print(f"{'ok' if good else 'NOT OK'} {case['id']} {answer[0]} {answer[1] or '-'}")
    return 1 if failures or len(sys.argv) == 1 else 0


if __name__ == "__main__":
    sys.exit(main())
