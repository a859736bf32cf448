"""Deterministic CBOR and text forms: RFC 8949's own examples, limits, and what is misuse."""

from __future__ import annotations

import decimal
import tracemalloc

import numpy as np
import pytest

from verispect.core.encoding import (
    MAX_CBOR_ITEMS,
    byte_string,
    decode,
    decode_content,
    encode,
    encode_content,
    from_base64url,
    from_hex,
    to_base64url,
)
from verispect.core.errors import MalformedError, Reason

# RFC 8949, appendix A: the examples inside our subset.
RFC_8949_ACCEPTED = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("ü", "62c3bc"),
    ("水", "63e6b0b4"),
    ("𐅑", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    ([*range(1, 26)], "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    (dict(zip("abcde", "ABCDE", strict=True)), "a56161614161626142616361436164614461656145"),
]

# RFC 8949, appendix A: well-formed, and outside our subset.
RFC_8949_OUTSIDE = """
c249010000000000000000 c349010000000000000000 f90000 f98000 f93c00 fb3ff199999999999a f93e00 f97bff
fa47c35000 fa7f7fffff fb7e37e43c8800759c f90001 f90400 f9c400 fbc010666666666666 f97c00 f97e00
f9fc00 fa7f800000 fb7ff0000000000000 f7 f0 f8ff
c074323031332d30332d32315432303a30343a30305a c11a514b67b0 c1fb41d452d9e8200000
d74401020304 d818456449455446 d82076687474703a2f2f7777772e6578616d706c652e636f6d
5f42010243030405ff 7f657374726561646d696e67ff 9fff 9f018202039f0405ffff 83018202039f0405ff
bf61610161629f0203ffff 826161bf61626163ff bf6346756ef563416d7421ff
"""

# RFC 8949, appendix F.1: not well-formed.
RFC_8949_NOT_WELL_FORMED = """
18 19 1a 1b 1901 1a0102 1b01020304050607 38 58 78 98 9a01ff00 b8 d8 f8 f900 fa0000 fb000000
41 61 5affffffff00 5bffffffffffffffff010203 7affffffff00 7b7fffffffffffffff010203
81 818181818181818181 8200 a1 a20102 a100 a2000000 c0 5f4100 7f6100 9f 9f0102 bf bf01020102
819f 9f8000 9f9f9f9f9fffffffff 9f819f819f9fffffff 1c 1d 1e 3c 3d 3e 5c 5d 5e 7c 7d 7e 9c 9d 9e
bc bd be dc dd de fc fd fe f800 f801 f818 f81f ff 81ff 8200ff a1ff a1ff00 a100ff a20000ff 9f81ff
9f829f819f9fffffffff bf00ff bf000000ff 1f 3f df 5f00ff 5f21ff 5f6100ff 5f80ff 5fa0ff 5fc000ff
5fe0ff 7f4100ff 5f5f4100ffff 7f7f6100ffff
"""


@pytest.mark.parametrize(("value", "text"), RFC_8949_ACCEPTED)
def test_examples_of_the_standard(value, text):
    """The standard's examples inside our subset are written and read as it says."""
    assert encode(value).hex() == text
    decoded = decode(bytes.fromhex(text))
    assert (type(decoded), decoded) == (type(value), value)


@pytest.mark.parametrize("text", (RFC_8949_OUTSIDE + RFC_8949_NOT_WELL_FORMED).split())
def test_examples_outside_the_subset(text):
    """The standard's examples outside our subset, and those that are not CBOR, are refused."""
    with pytest.raises(MalformedError):
        decode(bytes.fromhex(text))


def test_few_bytes_never_take_much_memory():
    """Empty arrays, one byte each and fifty in memory, are bounded by their number."""
    bomb = b"\x9a" + (8 << 20).to_bytes(4, "big") + b"\x80" * (8 << 20)
    tracemalloc.start()
    with pytest.raises(MalformedError) as caught:
        decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason is Reason.TOO_LARGE
    assert peak < 1 << 20


def test_items_are_counted_over_the_whole():
    """Many small arrays count together, and exactly the limit is accepted."""
    nested = encode([[0] * 10] * 10)
    assert decode(nested, maximum_items=110) == [[0] * 10] * 10
    with pytest.raises(MalformedError, match="too many items"):
        decode(nested, maximum_items=109)
    assert decode(encode({1: 2}), maximum_items=2) == {1: 2}
    with pytest.raises(MalformedError, match="too many items"):
        decode(encode({1: 2}), maximum_items=1)
    assert MAX_CBOR_ITEMS < 1 << 23


def test_length_limit_is_exact():
    """The limit of bytes is the caller's, to the byte."""
    assert decode(b"\x41a", limit=2) == b"a"
    with pytest.raises(MalformedError) as caught:
        decode(b"\x41a", limit=1)
    assert caught.value.reason is Reason.TOO_LARGE


def str_of_type(value):
    return type(value).__name__


def endless():
    value: list = []
    for _ in range(5000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        {1, 2},
        {1: 0, -1: 0},
        {1: 0, "a": 0},
        {True: 0},
        {None: 0},
        {(1, 2): 0},
        1 << 64,
        -(1 << 64) - 1,
        [1, 1 << 64],
        {1 << 64: 0},
        "\ud800",
        ["\ud800"],
        {"\ud800": 0},
        object(),
        bytearray(b"a"),
        endless(),
    ],
    ids=str_of_type,
)
def test_misuse_is_a_type_error(value):
    """What has no deterministic encoding is refused when it is written."""
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", 1 << 64, endless(), {1.5: 0}, object()],
    ids=str_of_type,
)
def test_content_without_encoding_is_a_type_error(value):
    """Content from JSON that cannot be committed to is refused with one kind of error."""
    with pytest.raises(TypeError):
        encode_content({"x": value})


def test_fractions_do_not_depend_on_the_surroundings():
    """Neither an ambient decimal context nor a float of another library changes an encoding."""
    expected = encode_content([0.1234567890123456, 0.5])
    with decimal.localcontext(decimal.Context(prec=3, traps=[decimal.Inexact])):
        assert encode_content([0.1234567890123456, 0.5]) == expected
    assert encode_content([np.float64(0.1234567890123456), np.float64(0.5)]) == expected


def test_fraction_is_the_shortest():
    """One double has one form: 0.5 is 5 x 10^-1 and a whole double stays a fraction."""
    assert encode_content(0.5).hex() == "c4822005"
    assert encode_content(1.0).hex() == "c4820001"
    assert encode_content(-0.0) == encode_content(0.0)
    assert type(decode_content(bytes.fromhex("c4820001"))) is float


@pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 65_535, 65_536])
def test_byte_string_is_the_encoding(length):
    """The quick form of a byte string is the one that the encoder makes."""
    assert byte_string(bytes(length)) == encode(bytes(length))


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q", "Q\n", "+A", "/A", "QQ QQ", "é", "\ud800"])
def test_base64url_has_one_form(text):
    """Padding, spare bits, foreign characters and the other alphabet are refused."""
    with pytest.raises(MalformedError):
        from_base64url(text)


def test_base64url_comes_back():
    """Bytes come back, and the limit is exact."""
    for length in range(70):
        data = bytes(range(length))
        assert from_base64url(to_base64url(data), limit=length) == data
        with pytest.raises(MalformedError):
            from_base64url(to_base64url(data + b"\0" * 3), limit=length)


@pytest.mark.parametrize("text", ["0", "AB", "0x", " 00", "00 ", "0g", "\u0660\u0660"])
def test_hexadecimal_has_one_form(text):
    """Upper case, spaces, odd lengths and foreign digits are refused."""
    with pytest.raises(MalformedError):
        from_hex(text)


def test_hexadecimal_length():
    """The length asked for is the length given."""
    assert from_hex("00ff", length=2) == b"\x00\xff"
    with pytest.raises(MalformedError):
        from_hex("00ff", length=3)
