"""Images in MATLAB's .mat files, whose arrays have the images along the last axis."""

import pathlib

import numpy as np
import scipy.io

from tf_ldiaf.data import arrays, hdf5
from tf_ldiaf.errors import DataError

_CHANNELS = (1, 3)
_MANY = 4  # images, for a pixel of their larger side
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
        return {name: shape and _images_first(shape[::-1]) for name, shape in hdf5.shapes(path).items()}
    kinds = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    return {
        name: _images_first(shape) if kind in kinds else None for name, shape, kind in _asked(path, scipy.io.whosmat)
    }


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """One of the arrays, with the images first; errors as of `shapes`, and of one that may be read in two ways."""
    # MATLAB's first axis is HDF5's last.
    x = hdf5.read(path, name).T if is_hdf5(path) else _asked(path, scipy.io.loadmat, variable_names=[name])[name]
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "buif":
        raise DataError(f"`dataset` must have arrays of numbers. Received: {path}, whose {name} is not one.")
    is_last = _is_last(x.shape)
    if is_last is None:
        raise DataError(
            "`dataset` must say which axis of an array the images are along: [H, W, n], where n is more than H and W, "
            f"or H and W are equal; or [n, H, W]. Received: {path}, whose {name} is {list(x.shape)}."
        )
    return np.moveaxis(x, -1, 0) if is_last else x


def _images_first(shape):
    """The shape with the axis of the images first."""
    return (shape[-1], *shape[:-1]) if _is_last(shape) else tuple(shape)


def _is_last(shape):
    """Whether the axis of the images is the last one; None where it may be the first one, too."""
    if len(shape) == 4 and (shape[2] in _CHANNELS) != (shape[3] in _CHANNELS):
        return shape[2] in _CHANNELS
    if len(shape) == 3 and len(set(shape)) == 2:
        return shape[0] == shape[1] if shape[0] != shape[2] else None
    if len(shape) == 3 and shape[2] == max(shape):
        return True
    if len(shape) in (3, 4):  # images are no strips
        return False if shape[0] >= _MANY * max(shape[1:]) else None
    if len(shape) == 2 and _is_picture(shape[0]):  # a row of numbers may end with a label
        if _is_picture(shape[1]):
            return None if shape[0] != shape[1] else False
        return not _is_picture(shape[1] - 1)
    return False


def _is_picture(num):
    """Whether so many numbers may be a picture's."""
    return num >= _FEWEST_PIXELS and arrays.side_of_square(num) > 0


def _asked(path, function, **arguments):
    arrays.check_size(path.stat().st_size, path)
    try:
        return function(path, **arguments)
    except Exception as error:  # SciPy's readers have many
        raise DataError(f"`dataset` must be a readable .mat file. Received: {path} ({error}).") from None
