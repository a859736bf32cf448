"""Our log in front of tools that are not ours: Go's sumdb packages and a COSE library."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from scitt_cose import merkle, verify_receipt

from tlog_log import ORIGIN, SIGNER, TRUSTED, MemoryLog, entries, policy
from verispect.core.encoding import encode
from verispect.core.errors import Error
from verispect.tlog.cose_receipt import (
    ConsistencyProof,
    CoseReceipt,
    InclusionProof,
    sign_cose_receipt,
)
from verispect.tlog.note import Note, VerifierKey, verify_note

PROGRAM = Path(__file__).parents[1] / "oracles" / "sumdb.go"
GOPATH = Path("/usr/share/gocode")


def require_go() -> None:
    """Skip the test loudly, or fail it in CI, where Debian's Go packages are not installed."""
    if shutil.which("go") and (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        return
    message = "no go or golang.org/x/mod: run make system-packages as root"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def sumdb(tmp_path_factory):
    """The compiled program, built from Debian's sources without a network."""
    require_go()
    folder = tmp_path_factory.mktemp("sumdb")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GOPATH": str(GOPATH),
        "GO111MODULE": "off",
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "-p=1",
        "CGO_ENABLED": "0",
    }
    program = folder / "sumdb"
    subprocess.run(
        ["go", "build", "-o", str(program), str(PROGRAM)],
        env=environment,
        cwd=folder,
        check=True,
        timeout=300,
    )
    return program


def write_log(log, folder, *, checkpoint=None):
    for path, data in log.resources.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    signed = log.checkpoint(witnesses=["w1", "w2"]) if checkpoint is None else checkpoint
    (folder / "checkpoint").write_bytes(signed.encode())


def run(program, folder, old_size, *indexes):
    keys = [TRUSTED.keys[0].encode(), policy(0).witnesses[0].encode()]
    arguments = [str(program), str(folder), *keys, str(old_size), *map(str, indexes)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)


def test_go_verifies_the_log_and_makes_the_same_proofs(sumdb, tmp_path):
    """Go opens the checkpoint, recomputes the root from our tiles, and proves as we do."""
    log = MemoryLog(entries(70_000), batch=20_000)
    write_log(log, tmp_path)
    indexes = [0, 1, 255, 256, 65_535, 65_536, 69_999]
    done = run(sumdb, tmp_path, 65_000, *indexes)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # The log and the one witness that it was told of; the other one it carries.
    assert lines[0] == "signatures 2 unverified 1"
    assert lines[1].split()[2:] == [each.hex() for each in log.consistency(65_000)]
    for index, line in zip(indexes, lines[2:], strict=False):
        assert line.split() == ["inclusion", str(index), *(h.hex() for h in log.inclusion(index))]
    key = VerifierKey.parse(lines[-2].split()[1])
    note = Note.parse(base64.b64decode(lines[-1].split()[1]))
    assert note.text == "signed by Go\n"
    assert verify_note(note, [key]) == [key]


@pytest.mark.parametrize("size", [1, 2, 256, 257, 600])
def test_go_verifies_logs_of_every_shape(sumdb, tmp_path, size):
    """Trees with one tile, with a full one, and with full and partial ones are Go's trees too."""
    log = MemoryLog(entries(size))
    write_log(log, tmp_path)
    old = max(1, size // 2)
    done = run(sumdb, tmp_path, old, 0, size - 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[2:] == [each.hex() for each in log.consistency(old)]


def test_go_refuses_what_we_would_refuse(sumdb, tmp_path):
    """A changed tile, entry, root or signature is refused there as well."""
    log = MemoryLog(entries(600))
    changes = [
        ("tile/0/000", 0),  # The sibling of leaf 1, whose proof is asked for.
        ("tile/1/000.p/2", 0),
        ("tile/entries/000", 10),
        ("checkpoint", 30),
        ("checkpoint", 130),
    ]
    for number, (path, place) in enumerate(changes):
        folder = tmp_path / str(number)
        write_log(log, folder)
        data = bytearray((folder / path).read_bytes())
        data[place] ^= 1
        (folder / path).write_bytes(data)
        assert run(sumdb, folder, 300, 1, 599).returncode != 0, path


def pem():
    public = Ed25519PublicKey.from_public_bytes(SIGNER.public_key.raw)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def cose(log, index):
    proof = InclusionProof(log.size, index, tuple(log.inclusion(index)))
    return sign_cose_receipt(proof, log.root, origin=ORIGIN, signer=SIGNER).encode()


@pytest.mark.parametrize(("size", "index"), [(1, 0), (2, 1), (300, 7), (300, 299), (1000, 512)])
def test_a_scitt_library_verifies_our_receipts(size, index):
    """A COSE receipt of ours is good there, with the same root, size, index and issuer."""
    log = MemoryLog(entries(size))
    result = verify_receipt(
        cose(log, index), leaf_entry_hex=log.entries[index].hex(), log_public_key_pem=pem()
    )
    assert result.ok, result.errors
    assert (result.root, result.tree_size, result.leaf_index) == (log.root.hex(), size, index)
    assert (result.issuer, result.subject) == (ORIGIN, str(size))


def test_a_scitt_library_refuses_what_we_refuse_but_for_the_size():
    """One byte changed is refused on both sides; the size of the tree is checked by ours alone."""
    log = MemoryLog(entries(50))
    good, leaf = cose(log, 7), log.entries[7]
    accepted = []
    for place in range(len(good)):
        data = bytearray(good)
        data[place] ^= 0x01
        if verify_receipt(bytes(data), leaf_entry_hex=leaf.hex(), log_public_key_pem=pem()).ok:
            accepted.append(place)
        with pytest.raises(Error):
            CoseReceipt.parse(bytes(data)).verify_inclusion(
                leaf, origin=ORIGIN, key=SIGNER.public_key
            )
    # RFC 9942 signs the root, which says nothing of the size: in a tree of 51 leaves the eighth
    # has a path of the same shape. Our profile signs the size beside the root.
    assert accepted == [good.index(encode([50, 7])[2:])]


def test_another_tree_agrees_on_roots_and_consistency():
    """Roots and consistency proofs are those of the SCITT library's own tree."""
    log = MemoryLog(entries(100))
    leaves = [entry.hex() for entry in log.entries]
    assert merkle.merkle_root(leaves) == log.root.hex()
    for old in (1, 2, 63, 64, 65, 99):
        theirs = merkle.consistency_proof(leaves, old, 100)
        assert theirs == [each.hex() for each in log.consistency(old)]
    proof = ConsistencyProof(64, 100, tuple(log.consistency(64)))
    receipt = sign_cose_receipt(proof, log.root, origin=ORIGIN, signer=SIGNER)
    old_root = bytes.fromhex(merkle.merkle_root(leaves[:64]))
    assert receipt.verify_consistency(
        old_size=64, old_root=old_root, origin=ORIGIN, key=SIGNER.public_key
    ).hex() == merkle.merkle_root(leaves)
