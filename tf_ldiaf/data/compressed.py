"""Files that gzip may have compressed."""

import contextlib
import gzip
import pathlib
import typing
import zlib
from collections.abc import Iterator

from tf_ldiaf.data import arrays
from tf_ldiaf.errors import DataError

_PIECE = 1 << 20


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[typing.IO[bytes]]:
    """The file's content, unpacked if gzip packed it; what goes wrong within the block is one sentence.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.open(file) if is_packed else file as content:
                yield content  # pyright: ignore[reportReturnType]
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"`dataset` must be a file that can be read. Received: {path} ({error}).") from None


def head(path: pathlib.Path) -> bytes:
    """The first bytes of `opened`."""
    with opened(path) as content:
        return content.read(1024)


def whole(path: pathlib.Path) -> bytes:
    """All bytes of `opened`, if they are no more than memory should hold."""
    with opened(path) as content:
        found = bytearray()
        while piece := content.read(_PIECE):
            found += piece
            arrays.check_size(len(found), path)
        return bytes(found)
