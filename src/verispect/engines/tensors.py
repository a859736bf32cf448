"""Tensor element types and the conversion between canonical bytes and NumPy arrays.

The canonical form is that of the Open Inference Protocol with Triton's binary extension:
row-major, little-endian, `BYTES` elements each behind a little-endian 32-bit length, `BOOL` one
byte of 0 or 1. `TensorReader` checks one tensor against one model input and gives an array over
the same bytes, without a copy. This module refuses tensors that are not what they say they are,
and NaN and infinities, which no caller means and JSON cannot carry.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from verispect.core.errors import RequestError
from verispect.engines.interface import Tensor, TensorSpecification

MAX_RANK: Final = 8
"""Upper limit of the number of dimensions of a tensor."""

MAX_DIMENSION: Final = (1 << 31) - 1
"""Upper limit of one dimension."""

MAX_TENSOR_BYTES: Final = 64 * 1024 * 1024
"""Upper limit of the bytes of one tensor."""

_SMALL: Final = 4096
"""Elements up to which one search through bytes is quicker than a NumPy reduction."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element type under its three names."""

    datatype: str
    """Open Inference Protocol name."""
    onnx: str
    """ONNX Runtime's name of a tensor of it."""
    dtype: np.dtype[Any]

    @property
    def fractional(self) -> bool:
        """Whether it can hold NaN and infinities."""
        return self.dtype.kind == "f"


_ELEMENTS: Final = (
    Element("BOOL", "tensor(bool)", np.dtype("?")),
    Element("UINT8", "tensor(uint8)", np.dtype("<u1")),
    Element("UINT16", "tensor(uint16)", np.dtype("<u2")),
    Element("UINT32", "tensor(uint32)", np.dtype("<u4")),
    Element("UINT64", "tensor(uint64)", np.dtype("<u8")),
    Element("INT8", "tensor(int8)", np.dtype("<i1")),
    Element("INT16", "tensor(int16)", np.dtype("<i2")),
    Element("INT32", "tensor(int32)", np.dtype("<i4")),
    Element("INT64", "tensor(int64)", np.dtype("<i8")),
    Element("FP16", "tensor(float16)", np.dtype("<f2")),
    Element("FP32", "tensor(float)", np.dtype("<f4")),
    Element("FP64", "tensor(double)", np.dtype("<f8")),
    Element("BYTES", "tensor(string)", np.dtype(object)),
)

BY_DATATYPE: Final = {element.datatype: element for element in _ELEMENTS}
"""Elements by Open Inference Protocol name."""

BY_ONNX_TYPE: Final = {element.onnx: element for element in _ELEMENTS}
"""Elements by ONNX Runtime's name of the tensor type."""


def unpack_strings(data: bytes, *, parameter: str) -> list[str]:
    """Split the canonical form of a `BYTES` tensor into its elements.

    Raises:
        RequestError: for truncated or trailing bytes and text that is not UTF-8.
    """
    elements: list[str] = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 4:
            raise RequestError(f"tensor {parameter!r} ends inside a length", parameter=parameter)
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if length > end - offset:
            raise RequestError(f"tensor {parameter!r} ends inside a string", parameter=parameter)
        try:
            elements.append(data[offset : offset + length].decode("utf-8"))
        except UnicodeDecodeError:
            # The bytes are the caller's own, so the cause is not chained into a log.
            raise RequestError(
                f"tensor {parameter!r} has a string that is not UTF-8", parameter=parameter
            ) from None
        offset += length
    return elements


def pack_strings(elements: Sequence[str]) -> bytes:
    """Write strings in the canonical form of a `BYTES` tensor."""
    parts: list[bytes] = []
    for element in elements:
        encoded = element.encode("utf-8")
        parts.append(struct.pack("<I", len(encoded)))
        parts.append(encoded)
    return b"".join(parts)


def from_array(name: str, element: Element, array: np.ndarray[Any, Any]) -> Tensor:
    """Write a NumPy array as a canonical tensor."""
    if element.datatype == "BYTES":
        data = pack_strings([str(item) for item in array.reshape(-1).tolist()])
    else:
        if array.dtype != element.dtype:
            array = array.astype(element.dtype)
        data = array.tobytes()
    return Tensor(name, element.datatype, array.shape, data)


class TensorReader:
    """Checks tensors against one model input, and turns them into arrays.

    Args:
        specification: the input.
        symbols: per dimension the model's name of it, or `None` where it is fixed or unnamed.
    """

    __slots__ = ("_dtype", "_element", "_itemsize", "_shape", "_symbols", "specification")

    def __init__(
        self, specification: TensorSpecification, symbols: Sequence[str | None] = ()
    ) -> None:
        self.specification = specification
        self._element = BY_DATATYPE[specification.datatype]
        self._dtype = self._element.dtype
        self._itemsize = self._dtype.itemsize
        self._shape = specification.shape
        self._symbols = tuple(symbols) or (None,) * len(specification.shape)

    def read(self, tensor: Tensor, bound: dict[str, int]) -> np.ndarray[Any, Any]:
        """Return `tensor` as an array over its own bytes.

        Args:
            tensor: the caller's tensor.
            bound: sizes of named dimensions already met in this request; extended here.

        Raises:
            RequestError: for another type, rank, size or length, and for NaN and infinities.
        """
        name = tensor.name
        if tensor.datatype != self.specification.datatype:
            raise self._refusal(
                f"has datatype {tensor.datatype[:16]!r}, expected {self.specification.datatype}"
            )
        shape = tensor.shape
        count = self._count(shape, bound)
        data = tensor.data
        if len(data) > MAX_TENSOR_BYTES:
            raise self._refusal(f"exceeds {MAX_TENSOR_BYTES} bytes")
        if self._element.datatype == "BYTES":
            return self._read_strings(unpack_strings(data, parameter=name), count, shape)
        if len(data) != count * self._itemsize:
            raise self._refusal(
                f"has {len(data)} bytes of data, expected {count * self._itemsize} for its shape"
            )
        if self._element.datatype == "BOOL" and data.strip(b"\0\1"):
            raise self._refusal("has booleans other than 0 and 1")
        array: np.ndarray[Any, Any] = np.frombuffer(data, self._dtype)
        if self._dtype.kind == "f" and not _all_finite(array):
            raise self._refusal("has NaN or infinite values")
        return array.reshape(shape)

    def _count(self, shape: tuple[int, ...], bound: dict[str, int]) -> int:
        """Check the shape, and return its number of elements."""
        expected = self._shape
        if len(shape) != len(expected):
            raise self._refusal(f"has rank {len(shape)}, expected {len(expected)}")
        count = 1
        for axis, size in enumerate(shape):
            if size != expected[axis]:
                if expected[axis] != -1:
                    raise self._refusal(
                        f"has size {size} in dimension {axis}, expected {expected[axis]}"
                    )
                if not 0 <= size <= MAX_DIMENSION:
                    raise self._refusal(f"has size {size} in dimension {axis}, out of range")
                symbol = self._symbols[axis]
                if symbol is not None and bound.setdefault(symbol, size) != size:
                    raise self._refusal(
                        f"has size {size} in dimension {axis}, "
                        f"but {symbol!r} is {bound[symbol]} in another input"
                    )
            elif size < 0:
                raise self._refusal(f"has size {size} in dimension {axis}, out of range")
            count *= size
        return count

    def _read_strings(
        self, elements: list[str], count: int, shape: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        if len(elements) != count:
            raise self._refusal(f"has {len(elements)} strings, expected {count} for its shape")
        array = np.empty(count, dtype=object)
        array[:] = elements
        return array.reshape(shape)

    def _refusal(self, what: str) -> RequestError:
        name = self.specification.name
        return RequestError(f"tensor {name!r} {what}", parameter=name)


def _all_finite(array: np.ndarray[Any, Any]) -> bool:
    finite = np.isfinite(array)
    return b"\0" not in finite.tobytes() if finite.size <= _SMALL else bool(finite.all())
