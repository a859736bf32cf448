# pragma version 0.4.3
# A stand-in for the two functions of the Ethereum Attestation Service that the anchor uses, for
# tests where the genuine contract is not at hand. It is not EAS.

timestamps: HashMap[bytes32, uint64]


@external
def timestamp(data: bytes32) -> uint64:
    assert self.timestamps[data] == 0, "already timestamped"
    self.timestamps[data] = convert(block.timestamp, uint64)
    return self.timestamps[data]


@view
@external
def getTimestamp(data: bytes32) -> uint64:
    return self.timestamps[data]
