"""Images in MATLAB's .mat files, whose arrays have the images along the last axis."""

import pathlib

import numpy as np
import scipy.io

from tf_ldiaf.data import arrays, hdf5
from tf_ldiaf.errors import DataError

_FEWEST_PIXELS = 16  # of a picture in a row or a column


def is_hdf5(path: pathlib.Path) -> bool:
    """Whether it is of version 7.3, a file of HDF5."""
    with open(path, "rb") as file:
        return file.read(19).endswith(b"MATLAB 7.3 MAT-file")


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...] | None]:
    """The shape of each array, under its name, with the images first; None of what is no array of numbers.

    Raises:
        DataError: the file cannot be read.
    """
    if is_hdf5(path):
        return {name: shape and _images_first(shape[::-1])[0] for name, shape in hdf5.shapes(path).items()}
    kinds = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    return {
        name: _images_first(shape)[0] if kind in kinds else None for name, shape, kind in _asked(path, scipy.io.whosmat)
    }


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """One of the arrays, with the images first; errors as of `shapes`."""
    # MATLAB's first axis is HDF5's last.
    x = hdf5.read(path, name).T if is_hdf5(path) else _asked(path, scipy.io.loadmat, variable_names=[name])[name]
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "buif":
        raise DataError(f"`dataset` must have arrays of numbers. Received: {path}, whose {name} is not one.")
    return np.moveaxis(x, -1, 0) if _images_first(x.shape)[1] else x


def _images_first(shape):
    """The shape with the axis of the images first, and whether it was the last one."""
    is_last = len(shape) in (3, 4) and shape[-1] > max(shape[:2])
    if len(shape) == 2:  # a row of numbers may end with a label
        is_last = _is_picture(shape[0]) and not _is_picture(shape[1]) and not _is_picture(shape[1] - 1)
    return ((shape[-1], *shape[:-1]) if is_last else tuple(shape)), is_last


def _is_picture(num):
    """Whether so many numbers may be a picture's."""
    return num >= _FEWEST_PIXELS and arrays.side_of_square(num) > 0


def _asked(path, function, **arguments):
    arrays.check_size(path.stat().st_size, path)
    try:
        return function(path, **arguments)
    except Exception as error:  # SciPy's readers have many
        raise DataError(f"`dataset` must be a readable .mat file. Received: {path} ({error}).") from None
