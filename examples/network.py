"""The verification layer from end to end: one operator, three nodes that it does not control.

Starts a gateway with a public log and three verification nodes, which co-sign the log and run
every audited answer again. Then somebody cheats, in four ways: evidence is forged, evidence is
withheld, the operator's database is tampered with, and one node is shown a second history. Each is
caught by nodes alone and stands in the log for everyone. Run it with `make demo-network`.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx

from verispect.appraisal.trusted_root import TrustedRoot
from verispect.attesters.signer import Issuer
from verispect.client.session import GatewayClient
from verispect.core.encoding import encode
from verispect.core.envelope import STATEMENT_TYPE, sign_envelope
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.statement import PromisedEvidence
from verispect.ledger import NewReceipt, ReceiptStore
from verispect.ledger.log.submission import sign_late_evidence
from verispect.node.mirror import Mirror
from verispect.node.state import NodeState
from verispect.node.verification import only_log
from verispect.tlog.checkpoint import Checkpoint, TrustedLog, sign_checkpoint
from verispect.tlog.merkle import leaf_hashes
from verispect.tlog.tiles import TileEdge, encode_entries, tile_at

HERE: Final = Path(__file__).resolve().parent
HOME: Final = Path(os.environ.get("VERISPECT_NETWORK_HOME") or HERE.parent / ".demo" / "network")
MODELS: Final = tuple(
    os.environ.get("VERISPECT_NETWORK_MODELS", "smollm2-135m-instruct,magika").split(",")
)
COMMAND: Final = [sys.executable, "-m", "verispect.cli.main"]
NODES: Final = ("node-a", "node-b", "node-c")
WAIT_SECONDS: Final = 180.0


def say(text: str = "") -> None:
    print(text, flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Network:
    """The operator and the nodes, each a process of its own."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.ports = {name: free_port() for name in (*NODES, "operator")}
        self.keys: dict[str, dict[str, str]] = {}
        self.root = HOME / "trusted-root.json"

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*COMMAND, *arguments],
            env={**os.environ, "VERISPECT_HOME": str(HOME)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1, 4):
            sys.exit(f"verispect {' '.join(arguments)} failed: {done.stderr}")
        return done.stdout

    def start(self, name: str, *arguments: str) -> None:
        with (HOME / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [*COMMAND, *arguments],
                env={**os.environ, "VERISPECT_HOME": str(HOME)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stdout = self.processes[name].stdout
        assert stdout is not None
        if "http://" not in stdout.readline():
            sys.exit(f"{name} did not start: {(HOME / f'{name}.log').read_text()[-2000:]}")

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def prepare(self) -> None:
        self.run("keys", "new", "--issuer", "https://operator.example")
        for model in MODELS:
            say(f"   registering {model} and qualifying how reproducible it is")
            self.run("models", "add", "--name", model, "--catalogue", model, "--qualify")
        for name in NODES:
            shown = self.run("node", "keys", "--state", str(HOME / name), "--name", name)
            self.keys[name] = json.loads(shown)

    def serve(self) -> None:
        options = []
        for name in NODES:
            options += ["--witness", f"{self.url(name)}={self.keys[name]['witnessKey']}"]
            options += ["--auditor", self.keys[name]["auditor"]]
        port = ("--port", str(self.ports["operator"]))
        self.start("operator", "serve", *port, "--log", str(HOME / "log"), *options)

    def trust(self) -> None:
        """Decide whom to trust; that is the user's own document, and the nodes'."""
        vkey = (HOME / "log" / "log.vkey").read_text().strip()
        options = ["--log-key", vkey]
        for name in NODES:
            options += ["--witness-key", self.keys[name]["witnessKey"]]
            options += ["--node", self.keys[name]["auditor"]]
        self.run(
            "keys",
            "trusted-root",
            "--out",
            str(self.root),
            "--registry",
            str(HOME / "models"),
            *options,
        )

    def follow(self, name: str, operator: str | None = None) -> None:
        peers = [part for each in NODES if each != name for part in ("--peer", self.url(each))]
        self.start(
            name,
            *("node", "serve", "--state", str(HOME / name), "--port", str(self.ports[name])),
            *("--operator", operator or self.url("operator")),
            *("--trusted-root", str(self.root), "--registry", str(HOME / "models")),
            *peers,
        )

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)

    def status(self) -> dict[str, Any]:
        """Replay the log, as anyone may."""
        shown = self.run(
            *("status", "log", "--trusted-root", str(self.root), "--operator"),
            self.url("operator"),
        )
        # Before the witnesses answered there is no log to read, and the command says so.
        view: dict[str, Any] = json.loads(shown or '{"receipts": [], "forks": [], "digest": ""}')
        return view

    def row(self, receipt: str) -> dict[str, Any]:
        rows = [row for row in self.status()["receipts"] if row["receipt"] == receipt]
        return rows[0] if rows else {"status": "not in the log", "reason": None}

    def until(self, what: str, is_there: Callable[[], bool]) -> None:
        started = time.monotonic()
        while not is_there():
            if time.monotonic() - started > WAIT_SECONDS:
                say(f"DEMO FAILED: waited for {what}")
                for name in (*NODES, "operator"):
                    say(f"--- {name}\n{(HOME / f'{name}.log').read_text()[-1500:]}")
                sys.exit(1)
            time.sleep(1.0)

    def is_met(self, receipt: InferenceReceipt) -> bool:
        return bool(self.row(receipt.receipt_id.hex())["status"] == "met")

    def until_failed(self, what: str, receipt: InferenceReceipt, reason: str | None = None) -> None:
        text = receipt.receipt_id.hex()

        def failed() -> bool:
            row = self.row(text)
            return row["status"] == "FAILED" and reason in (None, row["reason"])

        self.until(f"the {what} receipt to fail", failed)
        say(f"   {text[:16]}  {what}: FAILED ({self.row(text)['reason']})")


def ask(network: Network, assurance: str) -> list[InferenceReceipt]:
    """Ask every model once."""
    receipts = []
    with GatewayClient(network.url("operator")) as client:
        for model in MODELS:
            if model == "magika":
                data = list(range(256)) * 8
                tensor = {"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": data}
                answer = client.exchange(
                    f"/v2/models/{model}/infer", {"inputs": [tensor]}, assurance, "deterministic"
                )
            else:
                answer = client.chat(
                    model,
                    [{"role": "user", "content": "Name three colours."}],
                    lane="deterministic",
                    assurance=assurance,
                    options={"temperature": 0, "max_completion_tokens": 24},
                )
            receipts.append(InferenceReceipt.parse(answer.receipt))
    return receipts


def verify(network: Network, receipt: InferenceReceipt, policy: str) -> str:
    """Fetch a receipt with its evidence and verify it offline; return the last line."""
    url = f"{network.url('operator')}/v1/receipts/{receipt.receipt_id.hex()}?evidence=attached"
    path = HOME / "receipt.cose"
    path.write_bytes(httpx.get(url, timeout=30).raise_for_status().content)
    done = subprocess.run(
        [*COMMAND, "verify", str(path), "--policy", policy, "--trusted-root", str(network.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith(("OK", "FAIL"))]
    return lines[-1] if lines else done.stderr[-300:]


def issue_promise(network: Network, kind: str, seconds: int) -> InferenceReceipt:
    """Let the operator promise evidence of `kind` within so many seconds: a receipt of its own.

    It is written into the operator's store as the gateway does it; what the operator does with a
    promise is what the next steps are about.
    """
    issuer = Issuer.load(HOME / "keys")
    model = ask(network, "signed")[-1].unverified_statement
    now = time.time_ns() // 1_000_000
    promise = PromisedEvidence(kind, None, now + seconds * 1000)
    inference = os.urandom(16)
    draft = replace(
        model,
        received_at=now,
        completed_at=now,
        signed_at=now,
        evidence=(PromisedEvidence("signature"), promise),
    )

    def mint(sequence: int) -> bytes:
        return sign_envelope(
            replace(draft, sequence=sequence).encode(),
            content_type=STATEMENT_TYPE,
            issuer=issuer.name,
            subject=inference.hex(),
            signer=issuer.signer,
        ).encode()

    async def issue() -> bytes:
        async with ReceiptStore.open(
            HOME / "state" / "receipts", issuer_key_id=issuer.signer.public_key.key_id
        ) as store:
            return (await store.issue(NewReceipt(inference, mint, b"\xa0"))).receipt

    return InferenceReceipt.parse(asyncio.run(issue()))


def deliver(network: Network, receipt: InferenceReceipt, entry: EvidenceEntry) -> None:
    issuer = Issuer.load(HOME / "keys")
    body = sign_late_evidence(receipt.receipt_id, entry, issuer=issuer.name, signer=issuer.signer)
    httpx.post(
        f"{network.url('operator')}/log/entries", content=body, timeout=30
    ).raise_for_status()


def tamper(receipt: InferenceReceipt) -> None:
    """Change one byte of a stored receipt, as whoever has the operator's disk can."""
    data = bytearray(receipt.encode())
    data[-1] ^= 1
    with sqlite3.connect(HOME / "state" / "receipts" / "receipts.sqlite3") as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'receipts'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        changed = connection.execute(
            "UPDATE receipts SET receipt = ? WHERE receipt_id = ?",
            (bytes(data), receipt.receipt_id),
        ).rowcount
        for _, sql in triggers:
            connection.execute(sql)
    connection.close()
    assert changed == 1


def log_of(network: Network) -> TrustedLog:
    return only_log(TrustedRoot.from_json(network.root.read_bytes()))


def is_verified(network: Network, receipt: InferenceReceipt) -> bool:
    return verify(network, receipt, "audited").startswith("OK")


def second_history(network: Network, seen: Mirror) -> http.server.ThreadingHTTPServer:
    """Serve a history that differs from what a node saw, under the log's own key."""
    signer = Issuer.load(HOME / "log-keys").signer
    leaves = [*seen.leaves()]
    leaves[-1] = encode({1: 1, 2: 99, 3: b"another history"})
    leaves.append(encode({1: 1, 2: 99, 3: b"and one more"}))
    edge, files = TileEdge(), {}
    for tile, data in edge.extend(leaf_hashes(leaves)):
        files[f"/log/{tile.path()}"] = data
        if tile.level == 0:
            start = tile.index * 256
            files[f"/log/{tile_at(0, tile.index, len(leaves)).entries_path()}"] = encode_entries(
                leaves[start : start + tile.width]
            )
    origin = log_of(network).origin
    checkpoint = Checkpoint(origin, len(leaves), edge.root())
    files["/log/checkpoint"] = sign_checkpoint(checkpoint, signer=signer).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def cheat(network: Network) -> None:
    """Tamper, forge and withhold; each ends as FAILED in everybody's replay of the log."""
    say("3. evidence is promised: one piece will be forged, one never comes")
    withheld = issue_promise(network, "proof", seconds=5)
    forged = issue_promise(network, "proof", seconds=3600)
    text = forged.receipt_id.hex()
    network.until("the log", lambda: network.row(text)["status"] == "pending")
    now = time.time_ns() // 1_000_000
    deliver(network, forged, EvidenceEntry("proof", "forged", now, os.urandom(64), b""))
    say("4. while no node looks, the operator's database is tampered with")
    for name in NODES:
        network.stop(name)
    victim = ask(network, "signed")[-1]
    network.until("the log", partial(network.is_met, victim))
    tamper(victim)
    for name in NODES:
        network.follow(name)
    network.until_failed("tampered", victim)
    network.until_failed("forged", forged)
    network.until_failed("withheld", withheld, "evidence-overdue")


def split_view(network: Network) -> None:
    """Show one node another history; it proves the fork, and its peers put it into the log."""
    say("5. one node is shown a second history, signed with the log's own key")
    network.stop("node-c")
    view = HOME / "node-c"
    server = second_history(network, Mirror(view / "mirror", NodeState(view), log_of(network)))
    try:
        network.follow("node-c", f"http://127.0.0.1:{server.server_address[1]}")
        network.until("evidence of the fork", lambda: bool(network.status()["forks"]))
    finally:
        server.shutdown()
    say(f"   leaves with proof that the log forked: {network.status()['forks']}")


def main() -> int:
    started = time.monotonic()
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    network = Network()
    try:
        say("1. an operator with a public log, and three verification nodes")
        network.prepare()
        network.serve()
        network.trust()
        for name in NODES:
            network.follow(name)
        say(f"2. ask {', '.join(MODELS)} with assurance audited")
        for receipt in ask(network, "audited"):
            network.until("verdicts", partial(network.is_met, receipt))
            network.until("evidence", partial(is_verified, network, receipt))
            say(f"   {receipt.receipt_id.hex()[:16]}  met; {verify(network, receipt, 'audited')}")
        cheat(network)
        split_view(network)
        digests = {network.status()["digest"] for _ in range(2)}
        say(f"   the table of statuses, replayed twice: {digests.pop()[:16]}")
    finally:
        network.close()
    say(f"\nEverything was caught, and stands in the log. {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
