"""Images in HDF5 files, and in the MATLAB files that are such (v7.3)."""

import contextlib
import pathlib
from collections.abc import Iterator

import h5py
import numpy as np

from tf_ldiaf.data import arrays
from tf_ldiaf.errors import DataError


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...] | None]:
    """The shape of each array, under its path in the file; None of what is no array of numbers.

    What other files hold, or a file's groups say by a link, is left alone.

    Raises:
        DataError: the file cannot be read.
    """
    with _opened(path) as file:
        found: dict[str, tuple[int, ...] | None] = {}

        def visit(name, item):  # of links it sees the hard ones alone
            if isinstance(item, h5py.Dataset):
                is_numbers = item.dtype.kind in "buif" and item.external is None and not item.is_virtual
                found[name] = item.shape if is_numbers else None

        file.visititems(visit)
        return found


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """One of the arrays; errors as of `shapes`, and of one that is too large."""
    with _opened(path) as file:
        item = file.get(name)
        if not isinstance(item, h5py.Dataset) or item.external is not None or item.is_virtual:
            raise DataError(f"`dataset` must have its numbers in the file itself. Received: {path}, array {name}.")
        arrays.check_size(item.nbytes, path)
        return item[()]


@contextlib.contextmanager
def _opened(path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise DataError(f"`dataset` must be a readable HDF5 file. Received: {path} ({error}).") from None
