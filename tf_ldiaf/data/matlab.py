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
    found = _raw_shapes(path)
    return {name: shape and _images_first(shape, found.values()) for name, shape in found.items()}


def _images_first(shape, of_others):
    return (shape[-1], *shape[:-1]) if _ways(shape, of_others)[0] else tuple(shape)


def _raw_shapes(path):
    """The shape of each array as MATLAB says it; None of what is no array of numbers."""
    if is_hdf5(path):
        return {name: shape and shape[::-1] for name, shape in hdf5.shapes(path).items()}
    kinds = {"double", "single", "logical"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    return {name: shape if kind in kinds else None for name, shape, kind in _asked(path, scipy.io.whosmat)}


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """One of the arrays, with the images first; errors as of `shapes`, and of one that may be read in two ways."""
    # MATLAB's first axis is HDF5's last.
    x = hdf5.read(path, name).T if is_hdf5(path) else _asked(path, scipy.io.loadmat, variable_names=[name])[name]
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "buif":
        raise DataError(f"`dataset` must have arrays of numbers. Received: {path}, whose {name} is not one.")
    ways = _ways(x.shape, _raw_shapes(path).values())
    if len(ways) > 1:
        raise DataError(
            "`dataset` must say which axis of an array the images are along, as [H, W, 1, n] or [n, H, W, 1] does. "
            f"Received: {path}, whose {name} is {list(x.shape)}."
        )
    return np.moveaxis(x, -1, 0) if ways == [True] else x


def _ways(shape, of_others=()):
    """Whether the images may be along the last axis: [True], [False], or both.

    Args:
        shape: of an array.
        of_others: shapes of all in its file, whose images have the same size; None of what is no array.
    """
    ways = _ways_alone(shape)
    if len(ways) > 1:
        known = {_picture(other, *_ways_alone(other)) for other in of_others if other and len(_ways_alone(other)) == 1}
        ways = [is_last for is_last in ways if _picture(shape, is_last) in known] or ways
    return ways


def _ways_alone(shape):
    """The same, as far as the shape alone says it."""
    if len(shape) == 2:  # a row of numbers may end with a label
        if _is_picture(shape[0]) and _is_picture(shape[1]) and shape[0] != shape[1]:
            return [False, True]
        return [_is_picture(shape[0]) and not _is_picture(shape[1]) and not _is_picture(shape[1] - 1)]
    if len(shape) == 4:
        is_last, is_first = shape[2] in _CHANNELS, shape[3] in _CHANNELS
        return [is_last] if is_last != is_first else [False, True]
    if len(shape) != 3:
        return [False]
    if shape[0] == shape[1] != shape[2]:
        return [True]
    if shape[1] == shape[2] != shape[0]:
        return [False]
    if shape[2] == max(shape) > shape[0]:
        return [True]
    return [False] if shape[0] >= _MANY * max(shape[1:]) else [False, True]  # images are no strips


def _picture(shape, is_last):
    return shape[:-1] if is_last else shape[1:]


def _is_picture(num):
    """Whether so many numbers may be a picture's."""
    return num >= _FEWEST_PIXELS and arrays.side_of_square(num) > 0


def _asked(path, function, **arguments):
    arrays.check_size(path.stat().st_size, path)
    try:
        return function(path, **arguments)
    except Exception as error:  # SciPy's readers have many
        raise DataError(f"`dataset` must be a readable .mat file. Received: {path} ({error}).") from None
