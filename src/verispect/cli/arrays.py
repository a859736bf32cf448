"""Reading and writing arrays of numbers as NumPy's `.npy` files.

The format is read here and not by NumPy's own loader: what is allocated follows from the file's
size and never from what its header says. It refuses every element type but plain numbers, so
nothing that a file holds can run.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from verispect.cli.files import read_file, write_file
from verispect.core.errors import RequestError

MAX_ARRAY_BYTES: Final = 1 << 30
MAX_ARRAY_AXES: Final = 8

_KINDS: Final = "biuf"


def _refused(path: Path, what: str) -> RequestError:
    return RequestError(f"{path} {what}")


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read one array.

    Raises:
        StoreError: `store-failed` where it cannot be read.
        MalformedError: `too-large`.
        RequestError: `invalid-request` for a file that is no array of numbers.
    """
    data = read_file(path, limit=MAX_ARRAY_BYTES)
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        reader = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, column_major, dtype = reader(file)
    except (ValueError, KeyError, EOFError) as error:
        raise _refused(path, "is not an array in NumPy's format") from error
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise _refused(path, "holds something else than numbers")
    if len(shape) > MAX_ARRAY_AXES or any(type(n) is not int or n < 0 for n in shape):
        raise _refused(path, "has too many axes, or a strange one")
    start = file.tell()
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise _refused(path, "has another length than its shape")
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if column_major else "C")


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write one array.

    Raises:
        StoreError: `store-failed`.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    write_file(path, file.getvalue())
