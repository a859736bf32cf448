"""The compiled contract: its ABI, its byte code, and what exactly it was compiled from and with.

`contract.json` is committed, so that nobody needs a compiler to use the anchor. Whoever doubts it
rebuilds it: `python -m verispect.ledger.anchor.artifact` (with `vyper` of the exact version) prints
the same bytes, and `--write` replaces the file.

The module refuses to compile with any other compiler than the one that the source names.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from verispect.core.encoding import sha256

ARTIFACT_NAME: Final = "contract.json"
SOURCE_NAME: Final = "contract.vy"

_PACKAGE: Final = "verispect.ledger.anchor"


@dataclass(frozen=True)
class ContractArtifact:
    """One compiled contract."""

    compiler: str
    """Name and exact version, commit included."""

    source_sha256: str
    abi: tuple[dict[str, Any], ...]

    bytecode: bytes
    """What a deployment carries."""

    runtime_bytecode: bytes
    """What stands at the address afterwards, byte for byte: the contract has no immutables."""


@cache
def anchor_contract() -> ContractArtifact:
    """Return the committed contract."""
    value = json.loads(resources.files(_PACKAGE).joinpath(ARTIFACT_NAME).read_text("ascii"))
    return ContractArtifact(
        compiler=value["compiler"],
        source_sha256=value["sourceSha256"],
        abi=tuple(value["abi"]),
        bytecode=bytes.fromhex(value["bytecode"]),
        runtime_bytecode=bytes.fromhex(value["runtimeBytecode"]),
    )


def source() -> str:
    """Return the contract's source."""
    return resources.files(_PACKAGE).joinpath(SOURCE_NAME).read_text("utf-8")


def build() -> str:
    """Compile the source and return the text of `contract.json`.

    Raises:
        RuntimeError: where the compiler is not the one that the source names.
    """
    import vyper
    from vyper.compiler import compile_code

    text = source()
    wanted = re.search(r"^# pragma version (\S+)$", text, re.MULTILINE)
    if wanted is None or vyper.__version__ != wanted[1]:
        raise RuntimeError(f"the contract is not written for vyper {vyper.__version__}")
    built = compile_code(text, output_formats=["abi", "bytecode", "bytecode_runtime"])
    artifact = {
        "compiler": f"vyper {vyper.__long_version__}",
        "sourceSha256": sha256(text.encode()).hex(),
        "abi": built["abi"],
        "bytecode": built["bytecode"].removeprefix("0x"),
        "runtimeBytecode": built["bytecode_runtime"].removeprefix("0x"),
    }
    return json.dumps(artifact, indent=1) + "\n"


def main() -> None:
    """Print the rebuilt artifact, or write it."""
    text = build()
    if sys.argv[1:] == ["--write"]:
        with resources.as_file(resources.files(_PACKAGE).joinpath(ARTIFACT_NAME)) as path:
            path.write_text(text, encoding="ascii")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
