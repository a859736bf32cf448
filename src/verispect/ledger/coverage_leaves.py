"""Reads of a receipt's leaf what counting needs, in one match of its bytes.

Only a receipt that waits for nothing is read so: it is in no transaction, asks for no verdicts, and
what else it lists is there or is the log itself. Any other leaf, and one that is not exactly of
this form, is `decode_leaf`'s: it decides, also on what is wrong. Nothing is read here that it would
refuse, and nothing otherwise than it would.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from verispect.core.encoding import Digest, decode
from verispect.core.errors import Error
from verispect.core.keys import KeyId
from verispect.tlog.receipt_leaf import LEAF_VERSION, RECEIPT_KIND, ReceiptLeaf
from verispect.tlog.status import LOG_KIND, SIGNATURE_KIND, VERDICTS_KIND

Kind = tuple[bytes, frozenset[str], bytes | None, str | None]
"""What receipts are counted by: required policy, kinds of evidence, model and asset if shown."""

Settled = tuple[bytes, int, int, int, Kind, int, int]
"""Issuer key, number, time of signing, latest time for the log, kind, tokens, charge."""

NO_DEADLINE: Final = 1 << 62

_UNSIGNED: Final = (
    rb"[\x00-\x17]|\x18[\x18-\xff]|\x19(?!\x00)..|\x1a(?!\x00\x00)....|"
    rb"\x1b(?!\x00{4})[\x00-\x7f].{7}"
)
"""An integer in its shortest form, within 63 bits."""
_TIME: Final = rb"\x1b(?!\x00{4})[\x00-\x7f].{7}"
_WORD: Final = b"|".join(rb"\x%02x[ -~]{%d}" % (0x60 + length, length) for length in range(1, 24))
_ITEM: Final = rb"\x83(%b)(\xf6|\x58\x20.{32})(\xf6|%b)" % (_WORD, _TIME)
_ITEM_UNSPLIT: Final = rb"\x83(?:%b)(?:\xf6|\x58\x20.{32})(?:\xf6|%b)" % (_WORD, _TIME)

_SIGNATURE: Final = b"\x81\x83\x69signature\xf6\xf6"
_LEAF: Final = re.compile(
    rb"([\xa9-\xac])\x01%b\x02%b\x03\x58\x20.{32}\x04\x58\x20(.{32})\x05((?!\x00)(?:%b))"
    rb"\x06(%b)\x07\x58\x20(.{32})\x08(%b|[\x81-\x90](?:%b){1,16})\x09\x58\x20.{32}"
    rb"(?:\x0b\x58\x20(.{32}))?(.*)"
    % (
        bytes((LEAF_VERSION,)),
        bytes((RECEIPT_KIND,)),
        _UNSIGNED,
        _TIME,
        _SIGNATURE,
        _ITEM_UNSPLIT,
    ),
    re.DOTALL,
).fullmatch
_ITEMS: Final = re.compile(_ITEM, re.DOTALL).findall
_REST: Final = re.compile(
    rb"(?:\x0c\xa2\x6cinput_tokens(%b)\x6doutput_tokens(%b))?(?:\x0d\x82(%b)(%b))?"
    % (_UNSIGNED, _UNSIGNED, _WORD, _UNSIGNED),
    re.DOTALL,
).fullmatch


def read_settled(data: bytes) -> Settled | None:
    """Read the leaf of a receipt that is met if the log has it in time; `None` for any other."""
    found = _LEAF(data)
    if found is None:
        return None
    head, issuer, sequence, signed_at, assurance, listed, model_id, rest = found.groups()
    evidence = _SIGNATURE_ALONE if listed == _SIGNATURE else _read_evidence(listed)
    shown = _read_rest(head[0] - (0xA9 if model_id is None else 0xAA), rest)
    if evidence is None or shown is None:
        return None
    tokens, asset, charge = shown
    return (
        issuer,
        sequence[0] if len(sequence) == 1 else int.from_bytes(sequence[1:], "big"),
        int.from_bytes(signed_at[1:], "big"),
        evidence[1],
        (assurance, evidence[0], model_id, asset),
        tokens,
        charge,
    )


def tokens_of(usage: Any) -> int:
    """Return the tokens that a leaf's usage adds up to."""
    return int(usage.get("input_tokens", 0) + usage.get("output_tokens", 0))


_SIGNATURE_ALONE: Final = (frozenset({SIGNATURE_KIND}), NO_DEADLINE)


def _read_evidence(listed: bytes) -> tuple[frozenset[str], int] | None:
    """Return the kinds, and until when the log may take it; `None` where more is waited for."""
    items = _ITEMS(listed, 1)
    if len(items) != listed[0] - 0x80:
        return None
    deadline = NO_DEADLINE
    for word, digest, due in items:
        kind = word[1:]
        if kind == _LOG:
            if due != b"\xf6":
                deadline = min(deadline, int.from_bytes(due[1:], "big"))
        elif kind == _VERDICTS or (digest == b"\xf6" and kind != _SIGNED):
            return None
    return _kinds(tuple(item[0] for item in items)), deadline


_LOG: Final = LOG_KIND.encode()
_VERDICTS: Final = VERDICTS_KIND.encode()
_SIGNED: Final = SIGNATURE_KIND.encode()


@lru_cache(maxsize=1 << 12)
def _kinds(words: tuple[bytes, ...]) -> frozenset[str]:
    return frozenset(word[1:].decode("ascii") for word in words)


@lru_cache(maxsize=1 << 16)
def _read_rest(count: int, rest: bytes) -> tuple[int, str | None, int] | None:
    """Read usage and charge, `count` fields; `None` where they are not what they should be."""
    found = _REST(rest)
    if found is None:
        return _read_unusual(count, rest)
    inputs, outputs, asset, charge = found.groups()
    if count != (inputs is not None) + (asset is not None):
        return None
    tokens = 0 if inputs is None else _integer(inputs) + _integer(outputs)
    if asset is None:
        return tokens, None, 0
    return tokens, asset[1:].decode("ascii"), _integer(charge)


def _integer(data: bytes) -> int:
    return data[0] if len(data) == 1 else int.from_bytes(data[1:], "big")


def _read_unusual(count: int, rest: bytes) -> tuple[int, str | None, int] | None:
    if not 0 < count <= 2:
        return None
    try:
        read = decode(bytes((0xA0 | count,)) + rest)
        if type(read) is not dict or not read.keys() <= {12, 13}:
            return None
        leaf = ReceiptLeaf.from_map({**_REQUIRED, **read})
    except Error:
        return None
    asset, charge = leaf.charge or (None, 0)
    return tokens_of(leaf.usage or {}), asset, charge


_REQUIRED: Final = {
    1: LEAF_VERSION,
    2: RECEIPT_KIND,
    3: Digest(bytes(32)),
    4: KeyId(bytes(32)),
    5: 1,
    6: 1,
    7: Digest(bytes(32)),
    8: [],
    9: Digest(bytes(32)),
}
