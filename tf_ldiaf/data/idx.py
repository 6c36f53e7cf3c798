"""Images in files of the kind that MNIST came in: idx, or idx.gz."""

import math
import pathlib
import struct

import numpy as np

from tf_ldiaf.data import compressed
from tf_ldiaf.errors import DataError

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def is_one(head: bytes) -> bool:
    """Whether a file that begins so is of this kind."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _TYPES and 1 <= head[3] <= 8


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...] | None]:
    """The shape of its only array, "".

    Raises:
        DataError: the file cannot be read.
    """
    return {"": _header(compressed.head(path), path)[1]}


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """The array; errors as of `shapes`."""
    content = compressed.whole(path)
    dtype, shape = _header(content, path)
    begin, size = 4 + 4 * len(shape), math.prod(shape) * np.dtype(dtype).itemsize
    if len(content) != begin + size:
        raise DataError(
            f"`dataset` must be a whole file. Received: {path}, whose {len(content):,} bytes its header says to be "
            f"{begin + size:,}."
        )
    x = np.frombuffer(content, dtype, offset=begin).reshape(shape)
    return x.astype(x.dtype.newbyteorder("="))


def _header(content, path):
    num = content[3]
    if len(content) < 4 + 4 * num:
        raise DataError(f"`dataset` must be a whole file. Received: {path}, which ends within its header.")
    return _TYPES[content[2]], struct.unpack(f">{num}I", content[4 : 4 + 4 * num])
