"""Reading and writing the files that subcommands are given, within named limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from verispect.appraisal.policy import PRESETS, AssurancePolicy, expand, is_sum_of_presets
from verispect.appraisal.transcript import MEMBER, read_answer
from verispect.appraisal.trusted_root import TrustedRoot
from verispect.core.errors import MalformedError, Reason, StoreError

MAX_FILE_BYTES: Final = 80 * 1024 * 1024


def read_file(path: Path, *, limit: int = MAX_FILE_BYTES) -> bytes:
    """Read a whole file.

    Args:
        path: where it is.
        limit: the most octets that it may have.

    Raises:
        StoreError: `store-failed` where it cannot be read.
        MalformedError: `too-large`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error
    if len(data) > limit:
        raise MalformedError(f"{path} is too large", reason=Reason.TOO_LARGE)
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file.

    Raises:
        StoreError: `store-failed`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}", reason=Reason.STORE_FAILED
        ) from error


def read_receipt(path: Path) -> bytes:
    """Read a receipt: the bytes themselves, or the answer that carries one.

    Raises:
        StoreError: `store-failed`.
        MalformedError: `malformed-transcript` for an answer without a receipt.
    """
    data = read_file(path)
    if data[:1] == b"\xd2":
        return data
    if MEMBER.encode() not in data:
        raise MalformedError(
            f"{path} is neither a receipt nor an answer that carries one",
            reason=Reason.MALFORMED_ENVELOPE,
        )
    receipt = read_answer(data).receipt
    if receipt is None:
        raise MalformedError(f"{path} carries no receipt", reason=Reason.MALFORMED_TRANSCRIPT)
    return receipt


def read_policy(name: str) -> AssurancePolicy:
    """Return the preset `name`, or read the policy file of that name.

    Raises:
        StoreError: `store-failed` where it is neither.
        MalformedError: `malformed-policy`.
    """
    if is_sum_of_presets(name):
        return expand(name)
    try:
        text = read_file(Path(name)).decode()
    except StoreError as error:
        presets = ", ".join(sorted(PRESETS))
        raise StoreError(
            f"{error.message}, and it is none of the presets: {presets}", reason=error.reason
        ) from error
    except UnicodeDecodeError as error:
        raise MalformedError("the policy is not UTF-8", reason=Reason.MALFORMED_POLICY) from error
    if text.lstrip().startswith("{"):
        return AssurancePolicy.from_json(text)
    return AssurancePolicy.from_toml(text)


def read_trusted_root(path: Path) -> TrustedRoot:
    """Read a trusted root.

    Raises:
        StoreError: `store-failed`.
        MalformedError: `malformed-trusted-root`.
    """
    return TrustedRoot.from_json(read_file(path))


def to_json(value: Any) -> str:
    """Return the JSON text that subcommands print."""
    return json.dumps(value, indent=2, ensure_ascii=False)
