"""The compiled contracts of the development chain, as they are committed.

`token.json` is Solidity, because Vyper cannot overload functions and the token is called in both
forms; `contracts/build_token.mjs` makes it again. `stand_ins.json` is Vyper, and
`python -m verispect.payments.chain.stand_ins` makes it again. Neither is needed to use them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

CONTRACTS: Final = "contracts"
TOKEN_NAME: Final = "token.json"  # noqa: S105  a file


@dataclass(frozen=True)
class Contract:
    """One compiled contract, which has no constructor."""

    compiler: str
    """Name and exact version."""
    source_sha256: str
    abi: tuple[dict[str, Any], ...]
    runtime_bytecode: bytes


def read_file(name: str) -> str:
    """Return the text of a file beside the contracts."""
    folder = resources.files("verispect.payments.chain").joinpath(CONTRACTS)
    return folder.joinpath(name).read_text("utf-8")


@cache
def token_contract() -> Contract:
    """Return the development token."""
    return contract_from(json.loads(read_file(TOKEN_NAME)))


def contract_from(value: dict[str, Any]) -> Contract:
    """Read one artifact."""
    return Contract(
        value["compiler"],
        value["sourceSha256"],
        tuple(value["abi"]),
        bytes.fromhex(value["runtimeBytecode"]),
    )
