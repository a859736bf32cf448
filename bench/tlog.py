"""The log's tree: hashing, appending, leaves, proofs and checkpoints, per core; `make bench-tlog`.

None of it touches a disk: these are the limits that hashing and encoding set to a ledger. Times are
CPU seconds of one process, the median of interleaved rounds. The peer of hashing is OpenSSL's
SHA-256 called once per leaf from Python, without a tree.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable

from report import figure, progress

from verispect.attesters.signer import SoftwareSigner
from verispect.core.encoding import sha256
from verispect.core.keys import KeyId
from verispect.core.statement import PromisedEvidence
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog, sign_checkpoint
from verispect.tlog.cosignature import WitnessPolicy, cosign, witness_key
from verispect.tlog.leaf import decode_leaf
from verispect.tlog.merkle import leaf_hash, leaf_hashes
from verispect.tlog.note import VerifierKey
from verispect.tlog.proof import make_inclusion_proof
from verispect.tlog.receipt_leaf import ReceiptLeaf
from verispect.tlog.tiles import TileEdge, TileHashes
from verispect.tlog.tlog_proof import TlogProof

ROUNDS = 7
LEAVES = 65_536
BATCH = 1024
LARGE = 1 << 20
PROOFS = 200
ORIGIN = "log.example/bench"
SIGNER = SoftwareSigner(bytes(range(32)))
WITNESSES = [SoftwareSigner(sha256(bytes((number,)))) for number in range(3)]
NOW = 1_790_000_000


def receipt_leaf(number: int) -> ReceiptLeaf:
    """Return a leaf like most of them."""
    return ReceiptLeaf(
        receipt=sha256(b"receipt %d" % number),
        issuer_key=KeyId(sha256(b"key")),
        sequence=number + 1,
        signed_at=NOW * 1000 + number,
        assurance=sha256(b"policy"),
        evidence=(PromisedEvidence("signature"),),
        model=sha256(b"model %d" % number),
    )


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def append_all(data: list[bytes]) -> None:
    """Hash leaves and make tiles and a root per batch, as an appender does."""
    edge = TileEdge()
    for start in range(0, len(data), BATCH):
        edge.extend(leaf_hashes(data[start : start + BATCH]))
        edge.root()


def large_log() -> tuple[TileHashes, SignedCheckpoint]:
    """Return a log of 2^20 leaves, its tiles in memory, its checkpoint co-signed."""
    edge, tiles = TileEdge(), {}
    for start in range(0, LARGE, LEAVES):
        made = edge.extend([leaf_hash(b"%d" % each) for each in range(start, start + LEAVES)])
        tiles.update(made)
    checkpoint = Checkpoint(ORIGIN, LARGE, edge.root())
    lines = [
        cosign(checkpoint, name=f"w{number}", seconds=NOW, signer=signer)
        for number, signer in enumerate(WITNESSES)
    ]
    signed = sign_checkpoint(checkpoint, signer=SIGNER).with_signatures(lines)
    return TileHashes(LARGE, tiles.__getitem__), signed


def main() -> None:
    """Measure and print."""
    progress("making leaves")
    leaves = [receipt_leaf(number) for number in range(LEAVES)]
    data = [leaf.encode() for leaf in leaves]
    works: dict[str, Callable[[], object]] = {
        "hash_alone": lambda: [hashlib.sha256(each).digest() for each in data],
        "leaf_hash": lambda: leaf_hashes(data),
        "append": lambda: append_all(data),
        "leaf_encode": lambda: [leaf.encode() for leaf in leaves],
        "leaf_decode": lambda: [decode_leaf(each) for each in data],
    }
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}")
        for name, work in works.items():
            spent[name].append(seconds(work))
    rates = {name: LEAVES / statistics.median(times) for name, times in spent.items()}
    peer = rates.pop("hash_alone")
    for name, rate in rates.items():
        figure(f"tlog.{name}_per_second", rate, "leaves/s", peer="hashlib.sha256", peer_value=peer)
    figure("tlog.leaf_bytes", len(data[0]), "bytes")

    progress("making a log of 2^20 leaves")
    reader, signed = large_log()
    log = TrustedLog(ORIGIN, (VerifierKey(ORIGIN, SIGNER.public_key),))
    keys = tuple(witness_key(f"w{number}", each) for number, each in enumerate(WITNESSES))
    policy = WitnessPolicy(2, keys)
    indexes = [number * 5237 % LARGE for number in range(PROOFS)]

    def make() -> list[TlogProof]:
        return [
            TlogProof(index, make_inclusion_proof(reader, index, LARGE), signed)
            for index in indexes
        ]

    proofs = make()
    files = [proof.encode() for proof in proofs]

    def verify() -> None:
        for index, file in zip(indexes, files, strict=True):
            leaf = b"%d" % index
            TlogProof.parse(file).verify(leaf, log=log, witnesses=policy, now_seconds=NOW)

    for name, work in (("make_proof", make), ("verify_proof_file", verify)):
        times = [seconds(work) / PROOFS for _ in range(ROUNDS)]
        figure(f"tlog.{name}_seconds", statistics.median(times), "s", leaves=LARGE)
    figure("tlog.proof_file_bytes", len(files[0]), "bytes", leaves=LARGE, cosignatures=3)


if __name__ == "__main__":
    main()
