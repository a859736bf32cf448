"""The compiled contracts of the development chain, as they are committed.

They are Solidity, because the token and the proxies are called in several forms of one name, which
Vyper cannot have. `contracts/build.mjs` makes them again with the compiler that they name; nobody
needs a compiler to use them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from verispect.payments.chain import addresses

TOKEN_CONTRACT: Final = "DevelopmentDollar"  # noqa: S105  a contract
STAND_INS: Final = {
    "Permit2StandIn": addresses.PERMIT2,
    "ExactProxyStandIn": addresses.EXACT_PERMIT2_PROXY,
    "UptoProxyStandIn": addresses.UPTO_PERMIT2_PROXY,
    "BatchSettlementStandIn": addresses.BATCH_SETTLEMENT,
    "AuthorizationCollectorStandIn": addresses.ERC3009_DEPOSIT_COLLECTOR,
    "Permit2CollectorStandIn": addresses.PERMIT2_DEPOSIT_COLLECTOR,
    "Multicall3StandIn": addresses.MULTICALL3,
}
"""Where each stand-in stands: where the contract that it stands in for does on public chains."""

_SOURCES: Final = ("token", "stand_ins")


@dataclass(frozen=True)
class Contract:
    """One compiled contract, which has no constructor."""

    compiler: str
    """Name and exact version."""
    source_sha256: str
    abi: tuple[dict[str, Any], ...]
    runtime_bytecode: bytes


@cache
def contracts() -> dict[str, Contract]:
    """Return every contract of the development chain by its name."""
    found = {}
    for source in _SOURCES:
        value = json.loads(read_file(f"{source}.json"))
        for name, built in value["contracts"].items():
            code = bytes.fromhex(built["runtimeBytecode"])
            found[name] = Contract(
                value["compiler"], value["sourceSha256"], tuple(built["abi"]), code
            )
    return found


def read_file(name: str) -> str:
    """Return the text of a source or an artifact."""
    folder = resources.files("verispect.payments.chain").joinpath("contracts")
    return folder.joinpath(name).read_text("utf-8")
