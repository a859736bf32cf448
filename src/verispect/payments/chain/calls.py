"""How a contract is called: a function's ABI, or its signature in words, to bytes and back.

Answers of a node are decoded strictly, and whatever does not decode is one of our errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError, EncodingError
from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.crypto import keccak

from verispect.core.errors import MalformedError, NetworkError, Reason
from verispect.ledger.anchor.recursion import restore

restore()


def call_data(signature: str, *values: Any) -> bytes:
    """Return the bytes of a call, such as of `"transfer(address,uint256)"`.

    Raises:
        MalformedError: `malformed-payment` where a value is not of its type.
    """
    try:
        arguments = encode(split_types(signature), values)
    except (EncodingError, TypeError, ValueError) as error:
        raise MalformedError(
            "an argument of a contract's call is of another type", reason=Reason.MALFORMED_PAYMENT
        ) from error
    return function_signature_to_4byte_selector(signature) + arguments


def read_words(types: Sequence[str], answer: bytes) -> tuple[Any, ...]:
    """Decode what a contract answered.

    Raises:
        NetworkError: `chain-failed` where it is something else.
    """
    try:
        return tuple(decode(list(types), answer))
    except (DecodingError, TypeError, ValueError) as error:
        raise NetworkError(
            "a contract answered something else", reason=Reason.CHAIN_FAILED
        ) from error


def event_topic(signature: str) -> bytes:
    """Return the first topic of an event, such as of `"Transfer(address,address,uint256)"`."""
    return keccak(text=signature)


def address_topic(address: str) -> bytes:
    """Return an address as the topic of an event."""
    return bytes(12) + bytes.fromhex(address.removeprefix("0x"))


def signature_of(function: dict[str, Any]) -> str:
    """Return the signature of a function of an ABI, tuples written out."""
    return f"{function['name']}({','.join(type_of(item) for item in function['inputs'])})"


def type_of(item: dict[str, Any]) -> str:
    """Return the type of one parameter of an ABI, tuples written out."""
    kind = str(item["type"])
    if not kind.startswith("tuple"):
        return kind
    inside = ",".join(type_of(part) for part in item["components"])
    return f"({inside}){kind.removeprefix('tuple')}"


def find_function(
    abi: Sequence[dict[str, Any]], name: str, arguments: Sequence[Any]
) -> dict[str, Any]:
    """Return the function of that name which takes so many arguments.

    Raises:
        LookupError: where there is none, or several; this is misuse.
    """
    found = [
        item
        for item in abi
        if item.get("type") == "function"
        and item.get("name") == name
        and len(item["inputs"]) == len(arguments)
    ]
    if len(found) != 1:
        raise LookupError(f"expected one function of this name, got {len(found)}")
    return found[0]


def split_types(signature: str) -> list[str]:
    """Return the types between the outer parentheses of a signature."""
    inside = signature[signature.index("(") + 1 : -1]
    types, depth, start = [], 0, 0
    for position, character in enumerate(inside + ","):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            types.append(inside[start:position])
            start = position + 1
    return [kind for kind in types if kind]
