"""Images in the arrays of an .npz file."""

import contextlib
import functools
import pathlib
import zipfile
import zlib

import numpy as np

from tf_ldiaf.data import arrays
from tf_ldiaf.data.splits import Source, by_set
from tf_ldiaf.errors import DataError

_UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def open_splits(path: pathlib.Path) -> dict[str, Source]:
    """The sets of a file with arrays such as x_train, x_val, x_test, see `splits.set_named`."""
    with _opened(path, "`dataset`") as file:
        names = [name for name in file.files if "/" not in name]
        sums = {member.filename: member.CRC for member in file.zip.infolist()}
    found = by_set(names, str(path))
    if "train" not in found:
        raise DataError(
            "`dataset` must be an .npz file with arrays named like train, valid, test or x_train, x_val, x_test. "
            f"Received: {path}, which has {', '.join(names[:5]) or 'none'}."
        )
    return {
        split: Source(functools.partial(_read, path, name), functools.partial(sums.get, f"{name}.npy", 0))
        for split, name in found.items()
    }


def read_first(path: pathlib.Path, flag: str) -> dict[str, np.ndarray]:
    """The first array of a file under its name; of a file without arrays nothing. Errors speak of `flag`.

    Raises:
        DataError: the file is missing, unreadable or too large.
    """
    with _opened(path, flag) as file:
        return {name: _array(file, name) for name in file.files[:1]}


def _read(path, name):
    with _opened(path, "`dataset`") as file:
        return _array(file, name)


def _array(file, name):
    x = file[name]
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} is no array")
    return x


@contextlib.contextmanager
def _opened(path, flag):
    """The file, where what goes wrong within the block is one sentence."""
    if not path.is_file():
        raise DataError(f"{flag} must be an .npz file that exists. Received: {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > arrays.most_bytes():
                raise DataError(
                    f"{flag} must fit into a quarter of this machine's memory, {arrays.most_bytes():,} bytes. "
                    f"Received: {path}, which unpacks to {size:,}."
                )
            yield file
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{flag} must be a readable .npz file of numbers. Received: {path} ({error}).") from None
