"""A whole log in memory for tests: entries, tiles, checkpoints, and a naive tree beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from verispect.attesters.signer import SoftwareSigner
from verispect.core.encoding import Digest
from verispect.tlog.checkpoint import Checkpoint, SignedCheckpoint, TrustedLog, sign_checkpoint
from verispect.tlog.cosignature import WitnessPolicy, cosign, witness_key
from verispect.tlog.merkle import leaf_hash, leaf_hashes
from verispect.tlog.note import VerifierKey
from verispect.tlog.proof import make_consistency_proof, make_inclusion_proof
from verispect.tlog.tiles import TILE_WIDTH, TileEdge, TileHashes, encode_entries, tile_at
from verispect.tlog.tlog_proof import TlogProof

ORIGIN = "log.example/receipts"
SIGNER = SoftwareSigner(bytes(range(32)))
WITNESSES = {name: SoftwareSigner(hashlib.sha256(name.encode()).digest()) for name in ("w1", "w2")}
TRUSTED = TrustedLog(ORIGIN, (VerifierKey(ORIGIN, SIGNER.public_key),))
COSIGNED_AT = 1_790_000_000


def policy(threshold: int) -> WitnessPolicy:
    return WitnessPolicy(
        threshold, tuple(witness_key(name, signer) for name, signer in WITNESSES.items())
    )


def naive_root(hashes: Sequence[bytes]) -> bytes:
    """The definition of RFC 6962 section 2.1, word by word."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(
        b"\x01" + naive_root(hashes[:split]) + naive_root(hashes[split:])
    ).digest()


def naive_path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word by word."""
    if len(hashes) <= 1:
        return []
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    if index < split:
        return [*naive_path(index, hashes[:split]), naive_root(hashes[split:])]
    return [*naive_path(index - split, hashes[split:]), naive_root(hashes[:split])]


def naive_consistency(old: int, hashes: Sequence[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962 section 2.1.2, word by word."""
    if old == len(hashes):
        return [] if whole else [naive_root(hashes)]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    if old <= split:
        return [*naive_consistency(old, hashes[:split], whole), naive_root(hashes[split:])]
    return [*naive_consistency(old - split, hashes[split:], False), naive_root(hashes[:split])]


class MemoryLog:
    """A log that keeps everything, its resources by path as a server would serve them."""

    def __init__(self, entries: Sequence[bytes] = (), *, batch: int = 100) -> None:
        self.entries: list[bytes] = []
        self.resources: dict[str, bytes] = {}
        self._edge = TileEdge()
        for start in range(0, len(entries), batch):
            self.append(entries[start : start + batch])

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def root(self) -> Digest:
        return self._edge.root()

    def append(self, entries: Sequence[bytes]) -> None:
        self.entries += entries
        for tile, data in self._edge.extend(leaf_hashes(entries)):
            assert self.resources.setdefault(tile.path(), data) == data
            if tile.level == 0:
                start = tile.index * TILE_WIDTH
                bundle = encode_entries(self.entries[start : start + tile.width])
                self.resources[tile.entries_path()] = bundle

    def reader(self, size: int | None = None) -> TileHashes:
        return TileHashes(
            self.size if size is None else size,
            # Partial tiles of older sizes may be gone; the full one serves as well.
            lambda tile: self.resources.get(tile.path()) or self.resources[tile.full().path()],
        )

    def hashes(self) -> list[Digest]:
        return [leaf_hash(entry) for entry in self.entries]

    def checkpoint(self, *, witnesses: Sequence[str] = ()) -> SignedCheckpoint:
        checkpoint = Checkpoint(ORIGIN, self.size, self.root)
        signed = sign_checkpoint(checkpoint, signer=SIGNER)
        return signed.with_signatures(
            [
                cosign(checkpoint, name=name, seconds=COSIGNED_AT, signer=WITNESSES[name])
                for name in witnesses
            ]
        )

    def inclusion(self, index: int) -> list[Digest]:
        return make_inclusion_proof(self.reader(), index, self.size)

    def consistency(self, old_size: int) -> list[Digest]:
        return make_consistency_proof(self.reader(), old_size, self.size)

    def proof(self, index: int, *, witnesses: Sequence[str] = ("w1", "w2")) -> TlogProof:
        path = tuple(self.inclusion(index))
        return TlogProof(index, path, self.checkpoint(witnesses=witnesses))


def entries(count: int, label: str = "entry") -> list[bytes]:
    return [f"{label} {number}".encode() for number in range(count)]


__all__ = ["MemoryLog", "entries", "naive_consistency", "naive_path", "naive_root", "tile_at"]
