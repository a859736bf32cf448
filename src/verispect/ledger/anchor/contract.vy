# pragma version 0.4.3
# pragma evm-version paris
# pragma optimize gas
"""
@title Anchor
@license Apache-2.0
@notice Fixes the roots of append-only logs in a chain: per log one growing sequence of
        (tree size, root), who may write it, and the keys with which its operator signs receipts.
@dev What is written here is never changed: a root keeps its size and its time, sizes only grow,
     dates of keys only move towards distrust. Nobody administers the contract as a whole.

     It does not check the log's own signature (Ed25519), nor that one root extends another. Both
     are checked by whoever follows the log; this contract makes sure that everybody is shown the
     same roots.

     Publishing emits no event: each record names the size before it, so that the history of a log
     can be walked backwards from `latest` with roots that the reader computes itself.

     Times are block times in seconds.
"""

event LogRegistered:
    log_id: indexed(bytes24)
    owner: indexed(address)
    log_key: bytes32
    origin: String[256]

event WriterChanged:
    log_id: indexed(bytes24)
    writer: address

event OwnerChanged:
    log_id: indexed(bytes24)
    owner: address

event KeyChanged:
    log_id: indexed(bytes24)
    key_id: indexed(bytes32)
    effective_from: uint256
    revoked_at: uint256
    compromised_at: uint256

VERSION: constant(uint256) = 1

LOG_DOMAIN: constant(Bytes[23]) = b"verispect-anchor-log-v1"
NODE_PREFIX: constant(Bytes[1]) = b"\x01"

MAX_PATH: constant(uint256) = 63
MAX_SIZE: constant(uint256) = 2**63 - 1
NEVER: constant(uint256) = 2**64 - 1
LOW_64: constant(uint256) = 2**64 - 1

# One word per root: its size (64) | the size anchored before it (64) | block time (64) |
# block number (64). Zero: nothing is anchored.
roots: HashMap[bytes24, HashMap[bytes32, uint256]]

# One word per key: effective from (64) | revoked at (64) | compromised at (64) | block time of the
# last change (64). Zero: the key is unknown.
keys: HashMap[bytes24, HashMap[bytes32, uint256]]

# One word per writer: its log (192 bits) | size of the newest anchored tree (64). A writer has one
# log, so that publishing needs no argument for it and no root can get into another log. While a
# log has no writer its word is parked.
writers: HashMap[address, uint256]
parked: HashMap[bytes24, uint256]

writer_of: HashMap[bytes24, address]
owner_of: HashMap[bytes24, address]
offered_writers: HashMap[bytes24, address]
offered_owners: HashMap[bytes24, address]


# -- Logs ---------------------------------------------------------------------------------------


@pure
@internal
def _log_id(founder: address, log_key: bytes32, origin: String[256]) -> bytes24:
    digest: bytes32 = sha256(
        concat(LOG_DOMAIN, convert(founder, bytes20), log_key, convert(origin, Bytes[256]))
    )
    return convert(slice(digest, 0, 24), bytes24)


@pure
@external
def log_id_of(founder: address, log_key: bytes32, origin: String[256]) -> bytes24:
    """
    @notice The id under which `founder` registers the log of this origin and public key.
    @dev The founder is part of it, so that nobody can take another's id first.
    """
    return self._log_id(founder, log_key, origin)


@external
def register_log(log_key: bytes32, origin: String[256]) -> bytes24:
    """
    @notice Register a log. The sender is its owner, and its writer until another one is accepted.
    """
    assert len(origin) > 0, "origin is empty"
    log_id: bytes24 = self._log_id(msg.sender, log_key, origin)
    assert self.owner_of[log_id] == empty(address), "log is registered"
    self.owner_of[log_id] = msg.sender
    log LogRegistered(log_id=log_id, owner=msg.sender, log_key=log_key, origin=origin)
    self._set_writer(log_id, msg.sender, convert(convert(log_id, bytes32), uint256))
    return log_id


@internal
def _set_writer(log_id: bytes24, writer: address, word: uint256):
    assert self.writers[writer] == 0, "writer has a log"
    self.writers[writer] = word
    self.writer_of[log_id] = writer
    log WriterChanged(log_id=log_id, writer=writer)


@internal
def _take_word(log_id: bytes24) -> uint256:
    writer: address = self.writer_of[log_id]
    word: uint256 = self.parked[log_id]
    if writer != empty(address):
        word = self.writers[writer]
        self.writers[writer] = 0
    return word


@external
def offer_writer(log_id: bytes24, writer: address):
    """
    @notice Name another writer, who has to accept; the present one goes on until then.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    self.offered_writers[log_id] = writer


@external
def accept_writer(log_id: bytes24):
    """
    @notice Become the writer of a log that was offered to the sender.
    """
    assert msg.sender == self.offered_writers[log_id], "not the offered writer"
    self.offered_writers[log_id] = empty(address)
    word: uint256 = self._take_word(log_id)
    self.parked[log_id] = 0
    self._set_writer(log_id, msg.sender, word)


@external
def dismiss_writer(log_id: bytes24):
    """
    @notice Let nobody publish until another writer has accepted.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    self.offered_writers[log_id] = empty(address)
    self.parked[log_id] = self._take_word(log_id)
    self.writer_of[log_id] = empty(address)
    log WriterChanged(log_id=log_id, writer=empty(address))


@external
def offer_owner(log_id: bytes24, owner: address):
    """
    @notice Offer the log to another owner, who has to accept.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    self.offered_owners[log_id] = owner


@external
def accept_owner(log_id: bytes24):
    """
    @notice Become the owner of a log that was offered to the sender.
    """
    assert msg.sender == self.offered_owners[log_id], "not the offered owner"
    self.offered_owners[log_id] = empty(address)
    self.owner_of[log_id] = msg.sender
    log OwnerChanged(log_id=log_id, owner=msg.sender)


# -- Roots --------------------------------------------------------------------------------------


@external
def publish(size: uint256, root: bytes32):
    """
    @notice Anchor the root of the sender's log at a size larger than any anchored before.
    """
    word: uint256 = self.writers[msg.sender]
    assert word != 0, "not a writer"
    last: uint256 = word & LOW_64
    assert size > last, "size is not larger"
    assert size <= MAX_SIZE, "size is too large"
    log_id: bytes24 = convert(convert(word ^ last, bytes32), bytes24)
    assert self.roots[log_id][root] == 0, "root is anchored"
    self.writers[msg.sender] = (word ^ last) | size
    self.roots[log_id][root] = (
        (size << 192) | (last << 128) | (block.timestamp << 64) | block.number
    )


@view
@external
def latest(log_id: bytes24) -> (uint256, address, address):
    """
    @notice Size of the newest anchored tree (zero before the first), writer and owner.
    """
    writer: address = self.writer_of[log_id]
    word: uint256 = self.parked[log_id]
    if writer != empty(address):
        word = self.writers[writer]
    return word & LOW_64, writer, self.owner_of[log_id]


@view
@external
def anchor(log_id: bytes24, root: bytes32) -> (uint256, uint256, uint256, uint256):
    """
    @notice Size of the tree with this root, size anchored before it, block time, block number.
    @return Four zeros for a root that is not anchored.
    """
    record: uint256 = self.roots[log_id][root]
    return (
        record >> 192,
        (record >> 128) & LOW_64,
        (record >> 64) & LOW_64,
        record & LOW_64,
    )


@view
@external
def verify(
    log_id: bytes24,
    size: uint256,
    leaf_hash: bytes32,
    index: uint256,
    path: DynArray[bytes32, MAX_PATH],
) -> bool:
    """
    @notice Whether the leaf is in the log at `index`, shown by an inclusion proof (RFC 6962
            section 2.1.1) to a root that is anchored at `size`.
    @dev The root is computed here and looked up; a caller cannot supply one. `leaf_hash` MUST be
         computed from the leaf, as SHA-256 of 0x00 and the leaf, by whoever relies on the answer.
    """
    if index >= size:
        return False
    node: bytes32 = leaf_hash
    position: uint256 = index
    last: uint256 = size - 1
    used: uint256 = 0
    for level: uint256 in range(MAX_PATH):
        if last == 0:
            break
        # A node has a sibling unless it is the last of its level and on the left.
        if position & 1 == 1:
            if used == len(path):
                return False
            node = sha256(concat(NODE_PREFIX, path[used], node))
            used += 1
        elif position < last:
            if used == len(path):
                return False
            node = sha256(concat(NODE_PREFIX, node, path[used]))
            used += 1
        position >>= 1
        last >>= 1
    if used != len(path):
        return False
    return self.roots[log_id][node] >> 192 == size


# -- Keys of the operator -----------------------------------------------------------------------


@internal
def _set_key(log_id: bytes24, key_id: bytes32, start: uint256, end: uint256, bad: uint256):
    self.keys[log_id][key_id] = (start << 192) | (end << 128) | (bad << 64) | block.timestamp
    log KeyChanged(
        log_id=log_id, key_id=key_id, effective_from=start, revoked_at=end, compromised_at=bad
    )


@external
def add_key(log_id: bytes24, key_id: bytes32, effective_from: uint256):
    """
    @notice Announce a key with which the operator signs receipts; zero means from now on.
    @dev Never from a time that has passed: nobody can be shown a key that was good before it was
         announced.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    assert self.keys[log_id][key_id] == 0, "key is known"
    start: uint256 = effective_from
    if start == 0:
        start = block.timestamp
    assert start >= block.timestamp, "date has passed"
    assert start < NEVER, "date is too large"
    self._set_key(log_id, key_id, start, NEVER, NEVER)


@external
def revoke_key(log_id: bytes24, key_id: bytes32, revoked_at: uint256):
    """
    @notice End the use of a key; zero means now. What it signed before stays good.
    @dev A date can be moved earlier, to now at the earliest, and never later.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    record: uint256 = self.keys[log_id][key_id]
    assert record != 0, "key is unknown"
    end: uint256 = revoked_at
    if end == 0:
        end = block.timestamp
    assert end >= block.timestamp, "date has passed"
    assert end < (record >> 128) & LOW_64, "date is not earlier"
    self._set_key(log_id, key_id, record >> 192, end, (record >> 64) & LOW_64)


@external
def compromise_key(log_id: bytes24, key_id: bytes32, compromised_at: uint256):
    """
    @notice Declare that others could sign with the key from a time on, which may have passed.
            The key is revoked at once.
    @dev A date can be moved earlier and never later.
    """
    assert msg.sender == self.owner_of[log_id], "not the owner"
    record: uint256 = self.keys[log_id][key_id]
    assert record != 0, "key is unknown"
    assert compromised_at <= block.timestamp, "date is in the future"
    assert compromised_at < (record >> 64) & LOW_64, "date is not earlier"
    end: uint256 = min((record >> 128) & LOW_64, block.timestamp)
    self._set_key(log_id, key_id, record >> 192, end, compromised_at)


@view
@external
def key(log_id: bytes24, key_id: bytes32) -> (uint256, uint256, uint256, uint256):
    """
    @notice Times of a key: effective from, revoked at, compromised at (2**64 - 1 for never), and
            of the block that last changed them.
    @return Four zeros for a key that is not known.
    """
    record: uint256 = self.keys[log_id][key_id]
    return (
        record >> 192,
        (record >> 128) & LOW_64,
        (record >> 64) & LOW_64,
        record & LOW_64,
    )


@view
@external
def is_key_good(log_id: bytes24, key_id: bytes32, at: uint256) -> bool:
    """
    @notice Whether a signature that is known to be of the time `at` counts: the key was effective,
            not revoked and not compromised then.
    """
    record: uint256 = self.keys[log_id][key_id]
    return (
        record != 0
        and record >> 192 <= at
        and at < (record >> 128) & LOW_64
        and at < (record >> 64) & LOW_64
    )


@pure
@external
def version() -> uint256:
    """
    @notice Version of this contract.
    """
    return VERSION
