"""Mixed evidence in one transaction, verified offline, then sabotaged part by part.

One operator, two verification nodes that it does not control, and three models that feed each
other: a preprocessing step (`signed`), a risk model (`proven`), and a language model that explains
the risk (`attested` by a development enclave and run again by both nodes). The transaction is
verified in a process without a network. Then an operator lies about each part in turn, and each
transaction ends as FAILED, signed; and its finished file is forged in every way there is, and
refused. Run it with `make demo-transaction`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from verispect.client.transaction import TransactionClient, TransactionExchange
from verispect.core.commitments import Opening, Part
from verispect.core.encoding import to_base64url
from verispect.core.receipt import EvidenceEntry, InferenceReceipt
from verispect.core.transaction_files import BundledPart, DisclosedPart, TransactionBundle
from verispect.tlog.transaction_tree import part_path

HERE: Final = Path(__file__).resolve().parent
HOME: Final = Path(
    os.environ.get("VERISPECT_TRANSACTION_HOME") or HERE.parent / ".demo" / "transaction"
)
ROOT: Final = HOME / "trusted-root.json"
LIE: Final = HOME / "lie"
COMMAND: Final = [sys.executable, "-m", "verispect.cli.main"]
DISHONEST: Final = [sys.executable, str(HERE / "dishonest_operator.py")]
NODES: Final = ("node-a", "node-b")
SCALE, RISK, EXPLAIN = "scale", "risk", "smollm2-135m-instruct"
POLICIES: Final = ("signed", "proven", "attested-development+audited")
WAIT_SECONDS: Final = 120.0


def say(text: str = "") -> None:
    print(text, flush=True)


def environment() -> dict[str, str]:
    return {**os.environ, "VERISPECT_HOME": str(HOME), "VERISPECT_LIE": str(LIE)}


def verispect(*arguments: str) -> str:
    done = subprocess.run(
        [*COMMAND, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"verispect {' '.join(arguments)} failed: {done.stderr}")
    return done.stdout


# -- Models ------------------------------------------------------------------------------------


def patients() -> Any:
    """Return the measurements of real tumours, 30 numbers each, and which were benign."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return data.data.astype("float32"), data.target


def train(folder: Path) -> None:
    """Train the preprocessing and the risk model, and write them as ONNX files."""
    import numpy as np
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    rows, benign = patients()
    scaler = StandardScaler().fit(rows)
    scaled = scaler.transform(rows).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It need not converge to be a model.
        risk = MLPClassifier((32, 16), random_state=1, max_iter=200).fit(scaled, benign)
    opset = {"": 18, "ai.onnx.ml": 3}
    plain = {id(risk): {"zipmap": False}}
    models = {
        SCALE: to_onnx(scaler, rows[:1], target_opset=opset),
        RISK: to_onnx(risk, scaled[:1], options=plain, target_opset=opset),
    }
    for name, model in models.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    np.save(folder / "samples.npy", scaled[:64])


def register() -> None:
    """Register the three models; they are kept between runs."""
    names = HOME / "models" / "names"
    if not (names / f"{RISK}.json").exists():
        say("   training and importing the risk model")
        train(HOME)
        provable = str(HOME / "provable")
        source = [str(HOME / f"{RISK}.onnx"), "--calibration", str(HOME / "samples.npy")]
        verispect("proof", "import", *source, "--output", "probabilities", "--out", provable)
        verispect("models", "add", "--name", RISK, "--integer", provable)
    if not (names / f"{SCALE}.json").exists():
        file = str(HOME / f"{SCALE}.onnx")
        verispect("models", "add", "--name", SCALE, "--file", file, "--qualify")
    if not (names / f"{EXPLAIN}.json").exists():
        say("   registering the language model and qualifying how reproducible it is")
        verispect("models", "add", "--name", EXPLAIN, "--catalogue", EXPLAIN, "--qualify")


# -- The operator and its nodes ----------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World:
    """The operator and two nodes, each a process of its own."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.ports = {name: free_port() for name in (*NODES, "operator")}
        self.keys: dict[str, dict[str, str]] = {}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, name: str, *arguments: str, command: Sequence[str] = COMMAND) -> None:
        with (HOME / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [*command, *arguments],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        stdout = self.processes[name].stdout
        assert stdout is not None
        if "http://" not in stdout.readline():
            sys.exit(f"{name} did not start: {(HOME / f'{name}.log').read_text()[-2000:]}")

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

    def prepare(self) -> None:
        verispect("keys", "new", "--issuer", "https://operator.example")
        for name in NODES:
            shown = verispect("node", "keys", "--state", str(HOME / name), "--name", name)
            self.keys[name] = json.loads(shown)

    def serve(self, command: Sequence[str] = COMMAND) -> None:
        options = ["--port", str(self.ports["operator"]), "--log", str(HOME / "log")]
        options += ["--attester", f"development:{HOME / 'enclave'}", "--threads", "1"]
        for name in NODES:
            options += ["--witness", f"{self.url(name)}={self.keys[name]['witnessKey']}"]
            options += ["--auditor", self.keys[name]["auditor"]]
        self.start("operator", "serve", *options, command=command)

    def trust(self) -> None:
        """Decide whom to trust; that is the user's own document, and the nodes'."""
        options = ["--log-key", (HOME / "log" / "log.vkey").read_text().strip()]
        for name in NODES:
            options += ["--witness-key", self.keys[name]["witnessKey"]]
            options += ["--node", self.keys[name]["auditor"]]
        options += ["--development-enclave", str(HOME / "enclave")]
        options += ["--registry", str(HOME / "models")]
        verispect("keys", "trusted-root", "--out", str(ROOT), *options)

    def follow(self, name: str) -> None:
        peers = [part for each in NODES if each != name for part in ("--peer", self.url(each))]
        self.start(
            name,
            *("node", "serve", "--state", str(HOME / name), "--port", str(self.ports[name])),
            *("--operator", self.url("operator"), "--trusted-root", str(ROOT)),
            *("--registry", str(HOME / "models"), "--threads", "1", *peers),
        )


# -- The transaction ---------------------------------------------------------------------------


def tensor(name: str, data: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": "FP32", "shape": [1, 30], "data": data}]}


def preprocessing() -> dict[str, Any]:
    rows, _ = patients()
    body = tensor("X", rows[0].tolist())
    return {"path": f"/v2/models/{SCALE}/infer", "body": body, "assurance": POLICIES[0]}


def inferences() -> list[dict[str, Any]]:
    """Return the three parts; the second and the third take what the one before gave."""
    scaled = {"$from": {"part": 0, "path": "/outputs/0/data"}}
    scores = {"$from": {"part": 1, "path": "/outputs/0/data", "as": "text"}}
    asked = "The probabilities that a tumour is malignant and benign follow. Explain them in short."
    content = [{"type": "text", "text": asked}, {"type": "text", "text": scores}]
    explain = {
        "model": EXPLAIN,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_completion_tokens": 32,
    }
    return [
        preprocessing(),
        {
            "path": f"/v2/models/{RISK}/infer",
            "body": tensor("input", scaled),
            "assurance": POLICIES[1],
        },
        {
            "path": "/v1/chat/completions",
            "body": explain,
            "assurance": POLICIES[2],
            "lane": "deterministic",
        },
    ]


def until_final(client: TransactionClient, exchange: TransactionExchange) -> TransactionExchange:
    started = time.monotonic()
    while exchange.state == "pending":
        if time.monotonic() - started > WAIT_SECONDS:
            sys.exit("DEMO FAILED: the transaction is still pending")
        time.sleep(0.2)
        exchange = client.fetch(exchange)
    return exchange


def run_once(world: World) -> TransactionExchange:
    with TransactionClient(world.url("operator")) as client:
        return until_final(client, client.run(inferences()))


def show_answers(exchange: TransactionExchange) -> None:
    scaled, risk, explained = exchange.answers
    malignant, benign = risk["outputs"][0]["data"]
    values = ", ".join(f"{value:.2f}" for value in scaled["outputs"][0]["data"][:4])
    say(f"   part 0, {POLICIES[0]}: 30 measurements scaled: {values}, ...")
    say(f"   part 1, {POLICIES[1]}: malignant {malignant:.4f}, benign {benign:.4f}")
    text = explained["choices"][0]["message"]["content"]
    say(f"   part 2, {POLICIES[2]}: {' '.join(text.split())[:70]}...")


# -- Offline -----------------------------------------------------------------------------------


def offline() -> list[str]:
    """Return what runs a command without any network, where this system allows it."""
    wrapper = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare"):
        tried = subprocess.run([*wrapper, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return wrapper
    return []


def verify(data: bytes, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `verispect verify` on a transaction's file in a process of its own."""
    path = HOME / "transaction.cbor"
    path.write_bytes(data)
    command = [*offline(), *COMMAND, "verify", str(path), "--trusted-root", str(ROOT), *options]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def whole(exchange: TransactionExchange) -> list[str]:
    """Return what the caller requires of the whole."""
    options = ["--policy", "signed", f"--nonce={to_base64url(exchange.nonce)}"]
    for index, policy in enumerate(POLICIES):
        options += ["--part-policy", f"{index}={policy}"]
    return options


def verify_good(exchange: TransactionExchange) -> bool:
    """Verify the whole, and then one part with the others closed."""
    done = verify(exchange.bundle.encode(), *whole(exchange))
    say("   $ verispect verify transaction.cbor --policy signed --part-policy 0=signed ...")
    for line in (done.stdout + done.stderr).splitlines():
        if line.strip():
            say(f"   {line}")
    bundle = exchange.bundle
    path = part_path(bundle.statement.transaction_id, [each.part for each in bundle.parts], 1)
    part = DisclosedPart(bundle.envelope, bundle.statement, bundle.parts[1], path)
    alone = verify(part.encode(), "--policy", "proven")
    say(f"   part 1 alone, the others closed: {alone.stderr.strip().splitlines()[-1]}")
    return (done.returncode, alone.returncode) == (0, 0)


# -- Sabotage by the operator ------------------------------------------------------------------


class Sabotage:
    """Lets the operator lie, and holds each end against the reason that it must have."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held = True
        self.bundles: dict[str, TransactionBundle] = {}

    def expect(self, what: str, exchange: TransactionExchange, index: int, reason: str) -> None:
        statement = exchange.bundle.statement
        failure = statement.failure
        found = "none" if failure is None else f"part {failure.index}, {failure.reason}"
        done = verify(exchange.bundle.encode(), *whole(exchange))
        expected = ("failed", f"part {index}, {reason}", 1)
        good = (exchange.state, found, done.returncode) == expected
        self.held = self.held and good
        say(f"   {what:<46} {exchange.state.upper()} at {found}")
        if not good:
            say(f"   UNEXPECTED: {done.stderr}")

    def lie(self, word: str, what: str, index: int, reason: str) -> None:
        LIE.write_text(word)
        exchange = run_once(self.world)
        LIE.write_text("")
        self.bundles[word] = exchange.bundle
        self.expect(what, exchange, index, reason)

    def tamper(self) -> None:
        """Change a stored receipt before its transaction is committed."""
        with TransactionClient(self.world.url("operator")) as client:
            opened = client.open()
            part = preprocessing()
            opened.ask(part["path"], part["body"])
            change_stored_receipt(HOME / "state" / "receipts" / "receipts.sqlite3")
            exchange = until_final(client, opened.commit())
        self.expect("the stored receipt of part 0 is changed", exchange, 0, "signature-invalid")


def change_stored_receipt(database: Path) -> None:
    """Change one byte of the newest receipt, as whoever has the operator's disk can."""
    with sqlite3.connect(database) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'receipts'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        entry, receipt = connection.execute(
            "SELECT entry, receipt FROM receipts ORDER BY entry DESC LIMIT 1"
        ).fetchone()
        changed = bytearray(receipt)
        changed[-1] ^= 1
        connection.execute(
            "UPDATE receipts SET receipt = ? WHERE entry = ?", (bytes(changed), entry)
        )
        for _, sql in triggers:
            connection.execute(sql)
    connection.close()


# -- Sabotage of the finished file -------------------------------------------------------------


def with_part(bundle: TransactionBundle, index: int, part: BundledPart) -> TransactionBundle:
    parts = list(bundle.parts)
    parts[index] = part
    return replace(bundle, parts=tuple(parts))


def with_evidence(
    bundle: TransactionBundle,
    index: int,
    change: Callable[[EvidenceEntry], EvidenceEntry | None],
) -> TransactionBundle:
    """Return the bundle with the evidence of one part changed, or left out."""
    shown = bundle.parts[index]
    assert shown.receipt is not None
    entries = [change(entry) for entry in shown.receipt.evidence]
    rows = [entry.to_row() for entry in entries if entry is not None]
    receipt = InferenceReceipt(replace(shown.receipt.envelope, evidence=rows))
    return with_part(bundle, index, replace(shown, receipt=receipt))


def forged_proof(entry: EvidenceEntry) -> EvidenceEntry:
    if entry.kind != "proof":
        return entry
    body = bytearray(entry.body)
    body[len(body) // 2] ^= 1
    return replace(entry, body=bytes(body))


def without_verdicts(entry: EvidenceEntry) -> EvidenceEntry | None:
    return None if entry.kind == "verdicts" else entry


def changed_words(bundle: TransactionBundle) -> TransactionBundle:
    """Return the bundle with other words as the explanation."""
    shown = bundle.parts[2]
    assert shown.openings is not None
    old = shown.openings[Part.OUTPUT]
    changed = Opening.of(Part.OUTPUT, ["There is no risk at all."], salt=old.salt)
    return with_part(bundle, 2, replace(shown, openings={**shown.openings, Part.OUTPUT: changed}))


def other_dependency(bundle: TransactionBundle) -> TransactionBundle:
    """Return the bundle with the explanation said to be fed from the preprocessing."""
    shown = bundle.parts[2]
    fed = [replace(each, source=0) for each in shown.part.dependencies]
    return with_part(bundle, 2, replace(shown, part=replace(shown.part, dependencies=tuple(fed))))


def forgeries(
    good: TransactionBundle, sabotaged: dict[str, TransactionBundle]
) -> list[tuple[str, TransactionBundle, str]]:
    """Return forged files, each with the reason for which it must be refused."""
    foreign = sabotaged["quote"].parts[2].receipt
    assert foreign is not None
    quote = next(entry for entry in foreign.evidence if entry.kind not in ("log", "verdicts"))

    def foreign_quote(entry: EvidenceEntry) -> EvidenceEntry:
        return quote if entry.kind == quote.kind else entry

    first, second, third = good.parts
    swapped = replace(good, parts=(second, first, third))
    return [
        ("one bit of the proof", with_evidence(good, 1, forged_proof), "proof-invalid"),
        ("the quote of another key", with_evidence(good, 2, foreign_quote), "evidence-unbound"),
        ("other words as the output", changed_words(good), "opening-mismatch"),
        ("a part left out", replace(good, parts=(first, third)), "transaction-mismatch"),
        ("two parts exchanged", swapped, "transaction-mismatch"),
        ("a part twice", replace(good, parts=(first, second, second)), "transaction-mismatch"),
        (
            "a part of another transaction",
            with_part(good, 0, sabotaged["proof"].parts[0]),
            "transaction-mismatch",
        ),
        ("another dependency", other_dependency(good), "transaction-mismatch"),
    ]


def refuse_forgeries(exchange: TransactionExchange, sabotage: Sabotage) -> bool:
    held = True
    missing = with_evidence(exchange.bundle, 2, without_verdicts)
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 7200))
    cases = forgeries(exchange.bundle, sabotage.bundles)
    cases.insert(3, ("no verdicts, in two hours", missing, "evidence-overdue"))
    for what, forged, reason in cases:
        at = ["--at", later] if "two hours" in what else []
        done = verify(forged.encode(), *whole(exchange), *at)
        line = done.stderr.strip().splitlines()[-1]
        good = done.returncode == 1 and f"({reason})" in line
        held = held and good
        say(f"   {what:<30} {line}{'' if good else '  UNEXPECTED'}")
    return held


def main() -> int:
    started = time.monotonic()
    HOME.mkdir(parents=True, exist_ok=True)
    for left in HOME.iterdir():
        if left.name != "models":  # Registered models are kept.
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    LIE.write_text("")
    say("1. an operator with a public log and a development enclave, and two nodes")
    register()
    world = World()
    try:
        world.prepare()
        world.serve()
        world.trust()
        for name in NODES:
            world.follow(name)
        say("2. three inferences as one transaction, each fed by the one before")
        exchange = run_once(world)
        if exchange.state != "committed":
            say(f"DEMO FAILED: {exchange.state}, {exchange.bundle.statement.failure}")
            return 1
        show_answers(exchange)
        say(f"   {exchange.state}: the proof came, and both nodes agree")
        say(f"3. verify it {'without a network' if offline() else 'in another process'}")
        verified = verify_good(exchange)
        say("4. the operator is exchanged for one that lies about a part when told to")
        world.stop("operator")
        world.serve(DISHONEST)
        sabotage = Sabotage(world)
        sabotage.lie("proof", "the proof of part 1 is forged", 1, "proof-invalid")
        sabotage.lie(
            "quote", "the enclave vouches for another key", 2, "attestation-nonce-mismatch"
        )
        sabotage.lie("output", "the explanation is changed before signing", 2, "evidence-refutes")
        sabotage.lie("feed", "the explanation is fed other scores", 2, "dependency-invalid")
        world.stop("node-b")
        sabotage.lie("haste", "one of the two nodes says nothing", 2, "evidence-overdue")
        sabotage.tamper()
    finally:
        world.close()
    say("5. the good transaction's file is forged")
    held = refuse_forgeries(exchange, sabotage)
    if not (verified and held and sabotage.held):
        say("\nDEMO FAILED")
        return 1
    took = time.monotonic() - started
    say(f"\nThe whole verified; each sabotage failed for its own reason. {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
