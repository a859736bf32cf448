"""Other people's JSON: one reading or none, and members with the bytes they had."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verispect.core.errors import MalformedError, Reason
from verispect.evidence.json_text import (
    from_base64,
    from_hex_member,
    raw_member,
    read_json,
    read_object,
)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{}{}",
        b"{} x",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b"9" * 5000,
        b"{'a': 1}",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: bytes) -> None:
    """Each of these is malformed, or too deep, and nothing else happens."""
    with pytest.raises(MalformedError):
        read_json(text)


def test_an_object_is_an_object_and_limits_are_limits() -> None:
    """A list is no object; a byte more than the limit is too many."""
    with pytest.raises(MalformedError):
        read_object(b"[]")
    with pytest.raises(MalformedError) as caught:
        read_json(b"[1, 2]", limit=5)
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("text", ["", "QQ", "QQ=", "QR==", "Q Q=", "QQ==\n", "-_8=", "é", 7, None])
def test_base64_has_one_spelling(text: Any) -> None:
    """Padding is there, spare bits are zero and no foreign letters are skipped."""
    if text == "":
        assert from_base64(text) == b""
        return
    with pytest.raises(MalformedError):
        from_base64(text)


@pytest.mark.parametrize("text", ["0", "0g", "0x0", " 00", "00 ", "\u0660\u0660", 7, None])
def test_hexadecimal_is_hexadecimal(text: Any) -> None:
    """Either case and `0x` are the services' habits; anything else is malformed."""
    assert from_hex_member("0xAb") == from_hex_member("ab") == b"\xab"
    with pytest.raises(MalformedError):
        from_hex_member(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    members=st.dictionaries(st.text(max_size=3), _JSON, min_size=1, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
)
def test_a_member_keeps_the_bytes_it_had(members: dict[str, Any], indent: int | None) -> None:
    """The raw member reads as the member, stands in the text, and has one digest."""
    text = json.dumps(members, indent=indent, ensure_ascii=False).encode()
    for name, value in members.items():
        raw = raw_member(text, name)
        assert raw is not None
        assert json.loads(raw) == value
        assert raw in text
    assert raw_member(text, "not there at all") is None


def test_white_space_inside_a_member_is_part_of_it() -> None:
    """A digest over a member is over the bytes as they were delivered."""
    text = b' { "a" :  { "x" : 1 }  , "b":2 }'
    assert raw_member(text, "a") == b'{ "x" : 1 }'
    assert raw_member(text, "b") == b"2"
    digest = hashlib.sha256(raw_member(text, "a") or b"").digest()
    assert digest != hashlib.sha256(b'{"x":1}').digest()
